"""The small pieces of training: schedule, optimiser, seeded calls, and steps that accumulate."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from anyband.data.store import ChipStore
from anyband.errors import CheckpointError, RecipeError
from anyband.models.autoencoder import Autoencoder
from anyband.models.checkpoint import read_weights
from anyband.models.inputs import ImageBatch, SetBatch, SetNoise
from anyband.pretraining.batches import BatchPreparer, load_batches
from anyband.pretraining.loop import pretrain
from anyband.pretraining.plan import plan_run, saved_steps
from anyband.training.steps import (
    Schedule,
    load_optimizer_tensors,
    make_optimizer,
    optimizer_tensors,
    seeded,
    set_learning_rate,
)


def _schedule(**values) -> Schedule:
    return Schedule.of_batch(**{"base_lr": 1e-3, "batch_size": 512, "warmup_share": 0.1, "total_steps": 100} | values)


def test_the_rate_grows_with_the_global_batch():
    assert _schedule().peak == pytest.approx(2e-3)
    assert _schedule(batch_size=256).peak == pytest.approx(1e-3)


@settings(max_examples=50)
@given(share=st.floats(0.0, 1.0), total=st.integers(1, 500))
def test_the_rate_rises_to_the_peak_and_falls_to_zero(share, total):
    schedule = _schedule(warmup_share=share, total_steps=total)
    rates = [schedule.rate(step) for step in range(total)]
    top = rates.index(max(rates))
    assert all(0.0 <= rate <= schedule.peak for rate in rates)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_the_rate_equals_a_half_cosine_after_the_rise():
    schedule = _schedule()
    assert schedule.rate(4) == pytest.approx(2e-3 * 4.5 / 10)
    assert schedule.rate(54) == pytest.approx(2e-3 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * 44.5 / 90)).item()))


def test_biases_and_norms_do_not_decay(small_recipe):
    model = _small_network(small_recipe)
    decayed, plain = make_optimizer(model, weight_decay=0.05, betas=(0.9, 0.95)).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert decayed["weight_decay"] == 0.05
    assert plain["weight_decay"] == 0.0
    assert {names[id(p)] for p in decayed["params"]}.isdisjoint({n for n in names.values() if n.endswith("bias")})
    assert {"encoder.projection.bias", "encoder.norm.weight"} <= {names[id(p)] for p in plain["params"]}
    assert {"encoder.projection.weight", "encoder.cls_token"} <= {names[id(p)] for p in decayed["params"]}
    assert len(decayed["params"]) + len(plain["params"]) == sum(p.requires_grad for p in model.parameters())


def test_optimizer_state_comes_back_to_the_bit():
    model, twin = (_linear(seed) for seed in (0, 0))
    first = _trained(model, make_optimizer(model, weight_decay=0.1, betas=(0.9, 0.95)), steps=3)
    second = make_optimizer(twin, weight_decay=0.1, betas=(0.9, 0.95))
    twin.load_state_dict(model.state_dict())
    load_optimizer_tensors(second, twin, optimizer_tensors(first, model))
    _trained(model, first, steps=2)
    _trained(twin, second, steps=2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_optimizer_state_of_another_model_is_refused():
    model = _linear(0)
    tensors = optimizer_tensors(
        _trained(model, make_optimizer(model, weight_decay=0.1, betas=(0.9, 0.95)), steps=1), model
    )
    other = nn.Linear(4, 2)
    with pytest.raises(CheckpointError, match="does not fit parameter 'weight'"):
        load_optimizer_tensors(make_optimizer(other, weight_decay=0.1, betas=(0.9, 0.95)), other, tensors)
    tensors |= {f"{key}.extra": torch.zeros(1) for key in ("exp_avg", "exp_avg_sq", "step")}
    with pytest.raises(CheckpointError, match=r"has 'exp_avg\.extra', which the model lacks"):
        load_optimizer_tensors(make_optimizer(model, weight_decay=0.1, betas=(0.9, 0.95)), model, tensors)


def test_seeded_draws_depend_on_the_step_and_leave_the_generator_as_it_was():
    def draw(step: int) -> torch.Tensor:
        with seeded(1, step=step, purpose="test", device=torch.device("cpu")):
            return torch.rand(3)

    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    first, again, other = draw(1), draw(1), draw(2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_parts_give_the_gradient_of_the_joint_batch(parts, pair_store, changed, tmp_path):
    """With holes in some images parts do not weigh the same; a plain mean over parts would be wrong."""
    first_moments = []
    for accumulate in (1, parts):
        recipe = changed(model={"drop_path": 0.0}, optim={"steps": 1, "accumulate": accumulate})
        out = tmp_path / str(accumulate)
        pretrain(recipe, data=pair_store, out=out, shown=False)
        first_moments.append(read_weights(saved_steps(out)[-1][0] / "optimizer.safetensors")[0])
    joint, accumulated = first_moments
    for name in (name for name in joint if name.startswith("exp_avg.")):
        torch.testing.assert_close(accumulated[name], joint[name], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("masking", ["anchor", "released"])
def test_accumulated_parts_of_sets_give_the_gradient_of_the_joint_batch(masking, set_store, changed_sets, tmp_path):
    first_moments = []
    for accumulate in (1, 4):
        model = {"drop_path": 0.0, "masking": masking, "sequence": "joint" if masking == "released" else "apart"}
        recipe = changed_sets(model=model, optim={"steps": 1, "accumulate": accumulate})
        out = tmp_path / str(accumulate)
        pretrain(recipe, data=set_store, out=out, shown=False)
        first_moments.append(read_weights(saved_steps(out)[-1][0] / "optimizer.safetensors")[0])
    joint, accumulated = first_moments
    for name in (name for name in joint if name.startswith("exp_avg.")):
        torch.testing.assert_close(accumulated[name], joint[name], rtol=1e-4, atol=1e-6)


def _arriving(recipe, store, tmp_path, monkeypatch):
    """Do a step in mixed precision, and tell what reaches the network."""
    seen = []
    original = Autoencoder.forward

    def spied(self, batch, noise):
        seen.append((batch, noise))
        return original(self, batch, noise)

    monkeypatch.setattr(Autoencoder, "forward", spied)
    optim = recipe.optim.changed(steps=1, precision="bf16-mixed")
    run = recipe.run.changed(val_batches=0)
    recipe = recipe.changed(optim=optim, run=run)
    pretrain(recipe, data=store, out=tmp_path / "run", shown=False)
    # What it costs was measured on fewer samples before.
    return seen[-1]


def test_sets_reach_the_network_as_they_were_made_also_in_mixed_precision(set_store, set_recipe, tmp_path, monkeypatch):
    """Rounded to bf16, a year is off by up to four and corners of a place by kilometres."""
    batch, noise = _arriving(set_recipe, set_store, tmp_path, monkeypatch)
    plan = plan_run(set_recipe, ChipStore.open(set_store))
    draw = plan.samples.sampler(batch_size=8, seed=set_recipe.seed).batch(0)
    preparer = BatchPreparer(set_recipe, plan.inputs, device=torch.device("cpu"))
    expected, expected_noise = preparer.finish(preparer.draw(plan.samples.read(draw), step=0))
    for name, tensor in vars(batch.metadata).items():
        torch.testing.assert_close(tensor, getattr(expected.metadata, name), rtol=0, atol=0, equal_nan=True)
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(batch.groups, expected.groups, strict=True))
    assert torch.equal(noise.masking, expected_noise.masking)


def test_a_range_absent_from_a_batch_has_a_zero_gradient_and_is_still_stepped(changed):
    """Momentum and decay act on it; a parameter without gradient would be passed over."""
    model = _small_network(changed(model={"drop_path": 0.0}))
    optimizer = make_optimizer(model, weight_decay=0.05, betas=(0.9, 0.95))
    set_learning_rate(optimizer, 1e-3)
    pair, noise = _pair(batch=3)
    model(pair, noise).loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    weight = model.encoder.projection.weight
    before = weight.detach().clone()
    model(SetBatch(groups=tuple(_without_last_range(image) for image in pair.groups)), noise).loss.backward()
    assert weight.grad is not None
    assert not weight.grad[-1].any()
    assert weight.grad[:-1].any()
    moment = optimizer.state[weight]["exp_avg"][-1].clone()
    optimizer.step()
    assert not torch.equal(weight[-1], before[-1])
    torch.testing.assert_close(optimizer.state[weight]["exp_avg"][-1], 0.9 * moment)


def test_a_batch_that_processes_can_not_share_is_refused(small_recipe, pair_store):
    plan = plan_run(small_recipe, ChipStore.open(pair_store))
    preparer = BatchPreparer(small_recipe, plan.inputs, device=torch.device("cpu"))
    with pytest.raises(RecipeError, match="batch_size 8 can't be cut into 3 processes × 1"):
        load_batches(plan.samples, preparer, small_recipe, steps=range(1), num_processes=3)


def _small_network(recipe) -> Autoencoder:
    from anyband.pretraining.plan import network_config

    return Autoencoder(network_config(recipe, num_ranges=3), seed=1)


def _pair(batch: int) -> tuple[SetBatch, SetNoise]:
    draw = torch.Generator().manual_seed(0)
    images = []
    for bands in (3, 2):
        pixels = torch.randn(batch, bands, 16, 16, generator=draw)
        valid = torch.ones(batch, bands, 16, 16, dtype=torch.bool)
        valid[: batch // 3, :, : 4 * bands, :8] = False
        mixing = torch.rand(bands, 3, generator=draw)
        images.append(ImageBatch(pixels=pixels.masked_fill(~valid, 0.0), valid=valid, mixing=mixing))
    noise = torch.rand(batch, 2, 16, generator=draw)
    return SetBatch(groups=tuple(images)), SetNoise(mixup=noise[:, 0], masking=noise[:, 1:].expand(-1, 2, -1))


def _without_last_range(image: ImageBatch) -> ImageBatch:
    known = torch.ones(image.mixing.shape[1])
    known[-1] = 0.0
    return ImageBatch(pixels=image.pixels, valid=image.valid, mixing=image.mixing * known)


def _linear(seed: int) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(3, 2)


def _trained(model: nn.Module, optimizer: torch.optim.Optimizer, *, steps: int) -> torch.optim.Optimizer:
    set_learning_rate(optimizer, 0.01)
    for step in range(steps):
        inputs = torch.arange(6.0).reshape(2, 3) + step
        model(inputs).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer
