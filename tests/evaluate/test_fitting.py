"""The loop that fits networks: schedules, layer decay, the best epoch, reruns, and what goes wrong."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from anyband.errors import InputError, RecipeError, TrainingError
from anyband.evaluate.fitting import fit, fit_schedule, predicting
from anyband.evaluate.metrics import chosen_epoch
from anyband.evaluate.recipe import AugmentRecipe, FitRecipe, LoraRecipe
from anyband.evaluate.samples import TaskBatch
from anyband.models.inputs import ImageBatch
from anyband.models.vit import Encoder, EncoderConfig
from anyband.training.steps import make_optimizer

_RECIPE = FitRecipe(epochs=4, batch_size=8, base_lr=0.05, lr_samples=None, warmup_epochs=0.0, weight_decay=0.0)


def _rows(epoch: int) -> Iterator[TaskBatch]:
    """Rows of a small regression, each an image of one pixel with three bands."""
    inputs = torch.from_numpy(np.random.default_rng(0).normal(size=(32, 3))).float()
    order = np.random.default_rng(epoch).permutation(32)
    for start in range(0, 32, 8):
        rows = order[start : start + 8]
        chosen = inputs[torch.from_numpy(rows)]
        images = (ImageBatch(pixels=chosen[:, :, None, None], mixing=torch.eye(3)),)
        yield TaskBatch(images=images, sensors=("any",), samples=rows, targets=chosen @ torch.tensor([1.0, -2.0, 0.5]))


def _outputs(model: nn.Module, batch: TaskBatch) -> Tensor:
    return model(batch.images[0].pixels[:, :, 0, 0])[:, 0]


def _squared(model: nn.Module, batch: TaskBatch) -> Tensor:
    return (_outputs(model, batch) - batch.targets).square().mean()


def _line() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 1))
    nn.init.zeros_(model[0].weight)
    nn.init.zeros_(model[0].bias)
    return model


def _fitted(
    model: nn.Module,
    recipe: FitRecipe = _RECIPE,
    *,
    validate: Callable[[nn.Module], float] = lambda model: 0.0,
    loss: Callable[[nn.Module, TaskBatch, int], Tensor] = lambda model, batch, step: _squared(model, batch),
    steps_per_epoch: int = 4,
    seed: int = 0,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return fit(
        model,
        recipe,
        batches=_rows,
        steps_per_epoch=steps_per_epoch,
        loss=lambda batch, step: loss(model, batch, step),
        validate=lambda: validate(model),
        names=[f"field {index}" for index in range(32)],
        seed=seed,
    )


def test_a_line_is_found() -> None:
    recipe = _RECIPE.changed(epochs=60)
    model = _line()
    _fitted(model, recipe, validate=_negative_error)
    np.testing.assert_allclose(model[0].weight.detach().numpy()[0], [1.0, -2.0, 0.5], atol=1e-2)


def _negative_error(model: nn.Module) -> float:
    with torch.no_grad():
        return -float(torch.stack([_squared(model, batch) for batch in _rows(0)]).mean())


def test_the_weights_of_the_best_epoch_are_put_back() -> None:
    seen: list[Tensor] = []
    scores = iter([0.1, 0.9, 0.3, 0.9])

    def validate(model: nn.Module) -> float:
        seen.append(model[0].weight.detach().clone())
        return next(scores)

    model = _line()
    _, validation = _fitted(model, validate=validate)
    assert chosen_epoch(validation, "class")["epoch"] == 2
    assert max(validation) == 0.9
    assert torch.equal(model[0].weight, seen[1])
    assert not torch.equal(model[0].weight, seen[3])


def test_buffers_of_the_best_epoch_are_put_back() -> None:
    means: list[Tensor] = []
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))

    def validate(model: nn.Module) -> float:
        means.append(model[0].running_mean.clone())
        return -float(len(means))

    _fitted(model, validate=validate)
    assert torch.equal(model[0].running_mean, means[0])


def test_training_stops_when_validation_no_longer_improves() -> None:
    scores = iter([0.1, 0.5, 0.4, 0.5, 0.9])
    recipe = _RECIPE.changed(epochs=10, patience=2)
    _, validation = _fitted(_line(), recipe, validate=lambda _: next(scores))
    assert validation == (0.1, 0.5, 0.4, 0.5)
    assert chosen_epoch(validation, "class")["epoch"] == 2


def test_the_curves_have_an_entry_an_epoch() -> None:
    losses, validation = _fitted(_line())
    assert len(losses) == len(validation) == 4
    assert losses[-1] < losses[0]


def test_the_loss_of_an_epoch_is_the_mean_over_its_samples() -> None:
    recipe = _RECIPE.changed(epochs=1, base_lr=1e-30)
    losses, _ = _fitted(_line(), recipe)
    everything = [_squared(_line(), batch) for batch in _rows(0)]
    assert losses[0] == pytest.approx(float(torch.stack(everything).detach().mean()), rel=1e-6)


def test_a_rerun_gives_equal_weights_with_dropout() -> None:
    def fitted(seed: int) -> Tensor:
        torch.manual_seed(99)
        model = nn.Sequential(nn.Dropout(0.5), _line()[0])
        _fitted(model, seed=seed)
        return model[1].weight.detach()

    assert torch.equal(fitted(1), fitted(1))
    assert not torch.equal(fitted(1), fitted(2))


def test_the_callers_random_state_stays() -> None:
    model = nn.Sequential(nn.Dropout(0.5), _line()[0])
    torch.manual_seed(7)
    before = torch.get_rng_state()
    _fitted(model, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_needs_no_gradient_stays_as_it_is() -> None:
    model = nn.Sequential(nn.Linear(3, 3), _line()[0])
    frozen = model[0].requires_grad_(requires_grad=False).weight.clone()
    _fitted(model)
    assert torch.equal(model[0].weight, frozen)


def test_the_network_is_left_in_evaluation_mode_without_gradients() -> None:
    model = _line()
    _fitted(model)
    assert not model.training
    assert model[0].weight.grad is None


def test_an_endless_loss_names_epoch_and_samples() -> None:
    def loss(model: nn.Module, batch: TaskBatch, step: int) -> Tensor:
        return _squared(model, batch) * (math.nan if step == 5 else 1.0)

    with pytest.raises(TrainingError, match=r"not finite in epoch 2 of 4 \(step 5\), with the samples 'field \d+'"):
        _fitted(_line(), loss=loss)


def test_a_validation_score_that_is_no_number_is_an_error() -> None:
    with pytest.raises(TrainingError, match="the validation score of epoch 1 is not a number"):
        _fitted(_line(), validate=lambda _: math.nan)


def test_nothing_to_train_is_an_error() -> None:
    model = _line().requires_grad_(requires_grad=False)
    with pytest.raises(InputError, match="nothing of the network is trained"):
        _fitted(model)


def test_half_precision_on_a_cpu_is_refused() -> None:
    with pytest.raises(RecipeError, match="16-mixed needs a GPU; on a CPU use bf16-mixed"):
        _fitted(_line(), _RECIPE.changed(precision="16-mixed"))


def test_no_training_samples_are_an_error() -> None:
    with pytest.raises(InputError, match="no training sample"):
        _fitted(_line(), steps_per_epoch=0)


def test_a_gradient_is_clipped() -> None:
    recipe = _RECIPE.changed(epochs=1, clip_grad_norm=1e-3)
    model, norms, clipped = _line(), [], []
    model[0].weight.register_post_accumulate_grad_hook(lambda one: norms.append(float(one.grad.norm())))
    hook = register_optimizer_step_pre_hook(
        lambda optimizer, *_: clipped.append(float(torch.stack([one.grad.norm() for one in model.parameters()]).norm()))
    )
    try:
        _fitted(model, recipe, loss=lambda model, batch, step: _squared(model, batch) * 100)
    finally:
        hook.remove()
    assert min(norms) > 1
    assert max(clipped) <= 1e-3 * (1 + 1e-4)


def test_predictions_are_made_in_the_precision_of_training() -> None:
    model = _line().train()
    with predicting(model, _RECIPE.changed(precision="bf16-mixed")):
        half = model(torch.ones(2, 3))
        assert not model.training
    assert half.dtype == torch.bfloat16
    assert model.training


def test_training_in_bfloat16_keeps_weights_in_float32() -> None:
    recipe = _RECIPE.changed(precision="bf16-mixed")
    seen: list[torch.dtype] = []

    def loss(model: nn.Module, batch: TaskBatch, step: int) -> Tensor:
        seen.append(_outputs(model, batch).dtype)
        return _squared(model, batch)

    model = _line()
    losses, _ = _fitted(model, recipe, loss=loss)
    assert set(seen) == {torch.bfloat16}
    assert model[0].weight.dtype == torch.float32
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("schedule", ["cosine", "steps", "constant"])
def test_the_rate_rises_linearly_and_stays_over_0(schedule: str) -> None:
    recipe = _RECIPE.changed(epochs=10, warmup_epochs=2.5, schedule=schedule)
    rates = [fit_schedule(recipe, steps_per_epoch=4).rate(step) for step in range(40)]
    np.testing.assert_allclose(rates[:10], 0.05 * (np.arange(10) + 0.5) / 10)
    assert min(rates) > 0
    assert max(rates) <= 0.05 * (1 + 1e-12)


def test_the_rate_falls_to_a_tenth_at_each_drop() -> None:
    recipe = _RECIPE.changed(epochs=10, schedule="steps", drops=(0.6, 0.9))
    schedule = fit_schedule(recipe, steps_per_epoch=3)
    epochs = [schedule.rate(3 * epoch) for epoch in range(10)]
    np.testing.assert_allclose(epochs, [0.05] * 6 + [0.005] * 3 + [0.0005])


def test_the_rate_falls_as_half_a_cosine() -> None:
    recipe = _RECIPE.changed(epochs=10)
    schedule = fit_schedule(recipe, steps_per_epoch=2)
    rates = [schedule.rate(step) for step in range(20)]
    np.testing.assert_allclose(rates, 0.025 * (1 + np.cos(np.pi * (np.arange(20) + 0.5) / 20)))


def test_a_rise_over_all_epochs_is_allowed() -> None:
    recipe = _RECIPE.changed(warmup_epochs=4.0)
    schedule = fit_schedule(recipe, steps_per_epoch=2)
    assert [schedule.rate(step) for step in range(8)] == pytest.approx([0.05 * (step + 0.5) / 8 for step in range(8)])


def test_the_rate_grows_with_the_batch_unless_it_is_absolute() -> None:
    by_batch, as_it_stands = (
        fit_schedule(FitRecipe(base_lr=1e-3, batch_size=64, lr_samples=samples), steps_per_epoch=1).peak
        for samples in (256, None)
    )
    assert by_batch == pytest.approx(2.5e-4)
    assert as_it_stands == 1e-3


def _encoder(depth: int = 3) -> Encoder:
    config = EncoderConfig(
        img_size=16, patch_size=8, embed_dim=16, depth=depth, num_heads=2, num_ranges=2, positions="trained"
    )
    return Encoder(config, seed=0)


def test_each_layer_has_the_rate_of_the_next_times_the_decay() -> None:
    model = nn.ModuleDict({"encoder": _encoder(), "head": nn.Linear(16, 2)})
    scales = _by_name(model, "lr_scale", layer_decay=0.5)
    assert scales["head.weight"] == scales["encoder.norm.weight"] == 1.0
    assert [scales[f"encoder.blocks.{block}.mlp.fc1.weight"] for block in range(3)] == [0.125, 0.25, 0.5]
    assert scales["encoder.projection.weight"] == scales["encoder.pos_embed"] == 0.0625


def _by_name(model: nn.Module, key: str, *, layer_decay: float = 1.0) -> dict[str, float]:
    names = {one: name for name, one in model.named_parameters()}
    groups = make_optimizer(model, weight_decay=0.05, betas=(0.9, 0.95), layer_decay=layer_decay).param_groups
    return {names[one]: group[key] for group in groups for one in group["params"]}


def test_blocks_have_the_rates_that_timm_gives_them() -> None:
    from timm.models.vision_transformer import VisionTransformer
    from timm.optim import param_groups_layer_decay

    vit = VisionTransformer(img_size=16, patch_size=8, embed_dim=16, depth=3, num_heads=2, num_classes=2)
    names = {one: name for name, one in vit.named_parameters()}
    timms = {
        names[one]: group["lr_scale"]
        for group in param_groups_layer_decay(vit, layer_decay=0.7)
        for one in group["params"]
    }
    ours = _by_name(nn.ModuleDict({"encoder": _encoder(), "head": nn.Linear(16, 2)}), "lr_scale", layer_decay=0.7)
    blocks = [name for name in timms if name.startswith("blocks.")]
    assert blocks
    assert {name: ours[f"encoder.{name}"] for name in blocks} == pytest.approx({name: timms[name] for name in blocks})
    assert ours["encoder.cls_token"] == pytest.approx(timms["cls_token"])
    assert ours["head.weight"] == pytest.approx(timms["head.weight"])


def test_biases_and_norms_have_no_decay() -> None:
    model = nn.ModuleDict({"encoder": _encoder(), "head": nn.Linear(16, 2)})
    decay = _by_name(model, "weight_decay")
    assert set(decay) == set(dict(model.named_parameters()))
    spared = {name for name, value in decay.items() if not value}
    assert {"encoder.projection.bias", "encoder.norm.weight", "head.bias"} <= spared
    assert decay["encoder.projection.weight"] == decay["head.weight"] == 0.05


def test_the_rate_of_a_group_follows_the_schedule_and_its_scale() -> None:
    recipe = _RECIPE.changed(epochs=1, schedule="constant", layer_decay=0.5)
    model = nn.ModuleDict({"encoder": _encoder(depth=1), "line": _line()[0]})
    rates: list[list[float]] = []
    hook = register_optimizer_step_pre_hook(lambda one, *_: rates.append([group["lr"] for group in one.param_groups]))

    def loss(model: nn.Module, batch: TaskBatch, step: int) -> Tensor:
        return _squared(model["line"], batch)

    try:
        _fitted(model, recipe, loss=loss)
    finally:
        hook.remove()
    assert [sorted(set(one)) for one in rates] == [pytest.approx([0.0125, 0.025, 0.05])] * 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FitRecipe(patience=0), r"patience must be at least 1, found 0"),
        (lambda: FitRecipe(lr_samples=0), r"lr_samples must be at least 1, found 0"),
        (lambda: FitRecipe(clip_grad_norm=0.0), r"clip_grad_norm must be over 0, found 0"),
        (lambda: FitRecipe(layer_decay=1.5), r"layer_decay must be over 0 and at most 1, found 1\.5"),
        (lambda: LoraRecipe(rank=0), r"rank must be at least 1, found 0"),
        (lambda: LoraRecipe(dropout=1.0), r"dropout must be from 0 to under 1, found 1"),
        (lambda: AugmentRecipe(mixup=-1.0), r"mixup must be at least 0, found -1"),
        (lambda: AugmentRecipe(crop_area=(0.5, 0.2)), r"fit\.augment\.crop_area must be two rising shares"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make()
