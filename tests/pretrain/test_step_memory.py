"""Memory of a step: the estimate against what torch keeps for the gradient, and the refusal."""

from functools import partial

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from anyband.errors import RecipeError
from anyband.models.autoencoder import Autoencoder
from anyband.models.inputs import ImageBatch, SetBatch, SetNoise
from anyband.pretrain import cost as step_memory
from anyband.pretrain.cost import check_step_memory, step_bytes
from anyband.pretrain.plan import network_config
from anyband.pretrain.recipe import load_recipe

_SETS = 4
_FLOAT32 = "optim.precision=32-true"
_OVERRIDES = ["model.depth=4", _FLOAT32]


def _kept_bytes(recipe, num_images: int, *, recomputed: bool = False) -> int:
    """Add up what the forward pass keeps for the gradient, beside the weights."""
    model = Autoencoder(network_config(recipe, num_ranges=6), seed=0)
    for block in (*model.encoder.blocks, *model.decoder.blocks) if recomputed else ():
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(*_sets(recipe.model.img_size, num_images))
    assert output.loss.requires_grad
    return sum(kept.values())


def _sets(size: int, num_images: int) -> tuple[SetBatch, SetNoise]:
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randn(_SETS * num_images, 3, size, size, generator=draw)
    batch = SetBatch(
        groups=(ImageBatch(pixels=pixels, mixing=torch.eye(6)[:3]),),
        rows=torch.arange(_SETS * num_images).reshape(_SETS, num_images),
        same_source=torch.ones(_SETS, num_images, dtype=torch.bool),
        first_slot=torch.zeros(_SETS, dtype=torch.long),
        partnered=False,
    )
    noise = torch.rand(_SETS, 2 * num_images + 1, (size // 16) ** 2, generator=draw)
    masking, tying = noise[:, 1 : 1 + num_images], noise[:, 1 + num_images :]
    return batch, SetNoise(masking=masking, tying=tying, mixup=noise[:, 0])


def _weights(config) -> int:
    return 16 * sum(parameter.numel() for parameter in Autoencoder(config, seed=None).parameters())


@pytest.mark.parametrize("num_images", [1, 3])
def test_the_estimate_is_a_bound_from_below_and_near(num_images):
    recipe = load_recipe("unified_tiny", _OVERRIDES)
    config = network_config(recipe, num_ranges=6)
    estimate = step_bytes(recipe, config, num_samples=_SETS, num_images=num_images, fused=True)
    found = _kept_bytes(recipe, num_images) + _weights(config)
    assert 0.75 * found < estimate <= found


def test_kept_memory_grows_with_samples_and_images_alike():
    recipe = load_recipe("unified_tiny", _OVERRIDES)
    config = network_config(recipe, num_ranges=6)
    sizes = {
        (samples, images): step_bytes(recipe, config, num_samples=samples, num_images=images, fused=True)
        for samples, images in ((1, 1), (6, 1), (1, 6), (2, 3))
    }
    assert sizes[6, 1] == sizes[1, 6] == sizes[2, 3]
    assert sizes[1, 1] < sizes[6, 1]


def test_plain_attention_keeps_the_scores_of_all_pairs_of_tokens():
    recipe = load_recipe("a2mae_tiny", _OVERRIDES)
    config = network_config(recipe, num_ranges=6)
    fused, plain = (step_bytes(recipe, config, num_samples=1, num_images=2, fused=fused) for fused in (True, False))
    # 9 of 36 tokens of each image are visible: 4 blocks of 3 heads see 18, 2 blocks of 4 heads see 72.
    assert plain - fused == 4 * (4 * 3 * 18**2 + 2 * 4 * 72**2)


def test_bf16_and_compiled_blocks_keep_less():
    recipe = load_recipe("unified_tiny", _OVERRIDES)
    config = network_config(recipe, num_ranges=6)

    def kept(**changes) -> int:
        changed = recipe.changed(**changes)
        return step_bytes(changed, config, num_samples=50, num_images=3, fused=True)

    in_bf16 = recipe.optim.changed(precision="bf16-mixed")
    assert kept(optim=in_bf16) < kept()
    assert kept(run=recipe.run.changed(compile=True)) < kept()


def test_recomputed_blocks_keep_their_input_only():
    """Of four blocks more, the estimate must grow as what torch keeps of them, beside their weights."""
    grown = []
    for depth in (4, 8):
        recipe = load_recipe("unified_tiny", [_FLOAT32, f"model.depth={depth}", "run.recompute=true"])
        config = network_config(recipe, num_ranges=6)
        estimate = step_bytes(recipe, config, num_samples=_SETS, num_images=3, fused=True)
        grown.append((estimate, _kept_bytes(recipe, 3, recomputed=True), config))
    (few, kept_few, shallow), (many, kept_many, deep) = grown
    of_weights = step_memory._bytes_of_weights(recipe, deep, 1) - step_memory._bytes_of_weights(recipe, shallow, 1)
    found = kept_many - kept_few
    assert 0.75 * found < many - few - of_weights <= found


def test_the_block_that_is_recomputed_needs_its_room():
    kept, recomputed = (
        load_recipe("unified_tiny", [_FLOAT32, "model.decoder_depth=1", "model.depth=1", f"run.recompute={value}"])
        for value in ("false", "true")
    )
    config = network_config(kept, num_ranges=6)
    of_weights = step_memory._bytes_of_weights(kept, config, 1)
    whole, least = (
        step_bytes(recipe, config, num_samples=_SETS, num_images=3, fused=True) - of_weights
        for recipe in (kept, recomputed)
    )
    assert 0.5 * whole < least < whole


def _bytes_of_shares(*words: str, num_processes: int) -> int:
    recipe = load_recipe("smarties_huge", list(words))
    config = network_config(recipe, num_ranges=17)
    return step_bytes(recipe, config, num_samples=1, num_images=2, fused=True, num_processes=num_processes)


def test_shares_of_weights_shrink_with_the_processes():
    whole, half, eighth = (_bytes_of_shares(num_processes=count) for count in (1, 2, 8))
    # 16 bytes of each weight are shared: what is saved from 1 to 2 is twice what is saved from 2 to 4.
    assert whole - half == pytest.approx((whole - eighth) * (1 / 2) / (7 / 8), rel=1e-6)
    config = network_config(load_recipe("smarties_huge"), num_ranges=17)
    assert whole - half == pytest.approx(_weights(config) / 2, rel=0.02)


def test_beside_shares_one_block_stands_whole_with_its_gradient():
    recipe = load_recipe("smarties_huge", ["optim.precision=32-true"])
    config = network_config(recipe, num_ranges=17)
    # Of so many processes each has next to nothing of its own.
    beside = step_memory._bytes_of_weights(recipe, config, 10**12)
    block = Autoencoder(config, seed=None).encoder.blocks[0]
    assert beside == pytest.approx(8 * sum(parameter.numel() for parameter in block.parameters()), rel=0.01)


def test_parts_that_are_accumulated_keep_their_gradient_whole():
    config = network_config(load_recipe("smarties_huge"), num_ranges=17)
    joint, in_parts = (_bytes_of_shares(f"optim.accumulate={parts}", num_processes=8) for parts in (1, 2))
    assert in_parts - joint == pytest.approx(_weights(config) / 4, rel=0.02)


def _check(monkeypatch, recipe, *, free_bytes: int, num_images: int = 6, num_processes: int = 1) -> None:
    monkeypatch.setattr(step_memory, "available_bytes", lambda _device: free_bytes)
    config = network_config(recipe, num_ranges=6)
    device = torch.device("cpu")
    check_step_memory(recipe, config, num_images=num_images, device=device, num_processes=num_processes)


def test_more_images_than_memory_holds_are_refused_with_what_they_need(monkeypatch):
    recipe = load_recipe("unified_base", ["optim.precision=32-true"])
    with pytest.raises(RecipeError) as told:
        _check(monkeypatch, recipe, free_bytes=24 * 10**9)
    text = str(told.value)
    assert "a step of 1024 sets of up to 6 images (1,176 tokens) needs at least 49" in text
    assert "GB on 'cpu', and 24.0 GB are free; lower data.sets.size, optim.batch_size, model.img_size" in text
    assert "or cut the batch into more parts with optim.accumulate (now 1)" in text


def test_a_batch_in_parts_fits_where_the_whole_does_not(monkeypatch):
    whole = ["optim.precision=32-true"]
    with pytest.raises(RecipeError, match=r"a step of 1024 sets"):
        _check(monkeypatch, load_recipe("unified_base", whole), free_bytes=24 * 10**9)
    _check(monkeypatch, load_recipe("unified_base", [*whole, "optim.accumulate=64"]), free_bytes=24 * 10**9)
    # Processes of one machine share its memory, so more of them need no less.
    with pytest.raises(RecipeError, match=r"a step of 128 sets"):
        _check(monkeypatch, load_recipe("unified_base", whole), free_bytes=24 * 10**9, num_processes=8)


def test_a_batch_of_pairs_is_refused_in_their_own_words(monkeypatch):
    with pytest.raises(RecipeError, match=r"a step of 2048 pairs of up to 2 images .* lower optim\.batch_size"):
        _check(monkeypatch, load_recipe("smarties_base"), free_bytes=24 * 10**9, num_images=2)


def test_nothing_is_refused_where_nobody_says_how_much_is_free(monkeypatch):
    recipe = load_recipe("unified_base")
    monkeypatch.setattr(step_memory, "available_bytes", lambda _device: None)
    config = network_config(recipe, num_ranges=6)
    told = check_step_memory(recipe, config, num_images=6, device=torch.device("cpu"), num_processes=1)
    assert told is None
