"""Checkpoints: exact round trips, published files, strictness, growth."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_networks import encoder_only

from anyband.errors import CheckpointError, OutputError
from anyband.evaluate.fitting import extend_checkpoint, withhold_range
from anyband.models.autoencoder import Autoencoder, AutoencoderConfig
from anyband.models.checkpoint import (
    Checkpoint,
    build_encoder,
    build_model,
    checkpoint_hash,
    expected_shapes,
    load_checkpoint,
    save_checkpoint,
    state_of,
)
from anyband.models.encodings import sincos_positions
from anyband.models.inputs import ImageBatch
from anyband.models.vit import SIZES, DecoderConfig, EncoderConfig
from anyband.sensors.ranges import RangeTable, TrainedRange
from anyband.sensors.sensor import OpticalRange


def _range(index: int) -> TrainedRange:
    return TrainedRange(name=f"r{index}", spectrum=OpticalRange(low_nm=400.0 + 50 * index, high_nm=440.0 + 50 * index))


TABLE = RangeTable(name="five", ranges=tuple(_range(index) for index in range(5)))


@pytest.fixture
def checkpoint(tiny_config: AutoencoderConfig) -> Checkpoint:
    config = replace(tiny_config, mask_ratio=0.6, mixup="released", target_variance="repeated")
    return Checkpoint(
        config=config,
        state=state_of(Autoencoder(config, seed=5)),
        ranges=TABLE,
        normalisations={"x": {"p01": [0.1], "source": "Fläche"}},
        sensors={"x": {"bands": ["B1"]}},
        recipe={"name": "tiny", "lr": 1.5e-4},
        step=1234,
    )


@pytest.fixture
def golden_checkpoint(golden: Path) -> Path:
    return golden / "smarties" / "checkpoint.safetensors"


def _rewritten(path: Path, out: Path, change: Callable[[dict[str, Any], dict[str, str]], None]) -> Path:
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata() or {})
    tensors = load_file(path)
    change(tensors, metadata)
    save_file(tensors, out, metadata=metadata or None)
    return out


def test_what_was_saved_is_loaded_exactly(checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c.safetensors", checkpoint)
    loaded = load_checkpoint(tmp_path / "c.safetensors")
    assert loaded.state.keys() == checkpoint.state.keys()
    assert all(torch.equal(loaded.state[name], checkpoint.state[name]) for name in loaded.state)
    assert replace(loaded, state={}) == replace(checkpoint, state={})


def test_a_checkpoint_without_recipe_and_step_has_none(checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c.safetensors", replace(checkpoint, recipe=None, step=None))
    loaded = load_checkpoint(tmp_path / "c.safetensors")
    assert loaded.recipe is None
    assert loaded.step is None


def test_a_loaded_network_gives_the_same_features(
    checkpoint: Checkpoint, make_image: Callable[..., ImageBatch]
) -> None:
    image = make_image(1, bands=3)
    model = Autoencoder(checkpoint.config, seed=5)
    assert torch.equal(build_model(checkpoint).encoder(image).cls, model.encoder(image).cls)
    assert torch.equal(build_encoder(checkpoint)(image).cls, model.encoder(image).cls)


def test_the_recorded_checkpoint_has_the_published_ranges(golden_checkpoint: Path) -> None:
    loaded = load_checkpoint(golden_checkpoint)
    assert loaded.ranges.name == "smarties_v1"
    assert loaded.config.encoder == EncoderConfig(
        img_size=64, patch_size=16, embed_dim=64, depth=2, num_heads=4, num_ranges=17
    )
    assert loaded.config.decoder == DecoderConfig(decoder_embed_dim=32, decoder_depth=2, decoder_num_heads=4)


@pytest.mark.parametrize("decoder", [True, False], ids=["with decoder", "encoder only"])
def test_a_published_file_without_header_is_told_by_its_shapes(tmp_path: Path, decoder: bool) -> None:
    config = AutoencoderConfig(encoder=EncoderConfig(img_size=32, num_ranges=17, **SIZES["base"]))
    shapes = expected_shapes(config, decoder=decoder)
    state = {name: torch.zeros(1).expand(shape).clone() for name, shape in shapes.items()}
    for name in ("pos_embed", "decoder_pos_embed"):
        if name in state:
            state[name][0, 1:] = sincos_positions(2, 2, state[name].shape[2])
    save_file(state, tmp_path / "published.safetensors")
    loaded = load_checkpoint(tmp_path / "published.safetensors")
    assert loaded.config == config
    assert loaded.config.encoder.depth == 12
    assert loaded.has_decoder is decoder


def test_an_encoder_alone_is_saved_and_loaded(checkpoint: Checkpoint, tmp_path: Path) -> None:
    alone = encoder_only(checkpoint)
    save_checkpoint(tmp_path / "e.safetensors", alone)
    loaded = load_checkpoint(tmp_path / "e.safetensors")
    assert not loaded.has_decoder
    assert loaded.config.encoder == checkpoint.config.encoder
    assert torch.equal(build_encoder(loaded).norm.weight, build_encoder(checkpoint).norm.weight)
    with pytest.raises(CheckpointError, match="has an encoder only"):
        build_model(loaded)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state, _: state.pop("norm.bias"), r"1 missing \(norm.bias\)"),
        (lambda state, _: state.update({"fc_norm.weight": torch.zeros(2)}), r"1 unexpected \(fc_norm.weight\)"),
        (lambda state, _: state.update({"norm.bias": torch.zeros(3)}), r"norm.bias \(3,\) and not \(64,\)"),
        (lambda state, _: state["norm.bias"].fill_(torch.nan), "no finite numbers, first 'norm.bias'"),
        (
            lambda state, _: state.update({"norm.bias": torch.zeros(64).long()}),
            "no finite numbers, first 'norm.bias'",
        ),
        (lambda _, header: header.update(depth="3"), r"12 missing \(blocks.2"),
        (lambda _, header: header.pop("num_heads"), "has no 'num_heads'"),
        (lambda _, header: header.update(num_heads="5"), "multiple of 4 and of num_heads"),
        (
            lambda _, header: header.update(num_heads="four"),
            "'num_heads' in the header of the checkpoint is 'four'",
        ),
        (lambda _, header: header.update(embed_dim="99999999999"), "no number from 1 to 65536"),
        (
            lambda _, header: header.update(mlp_ratio="wide"),
            "'mlp_ratio' in the header of the checkpoint is 'wide'",
        ),
        (lambda _, header: header.update(anyband_version="2"), "format version '2'.*reads up to 1"),
        (lambda _, header: header.update(ranges="{"), "'ranges' in the header of the checkpoint is not JSON"),
        (
            lambda _, header: header.update(pretraining='{"mask_ration": 0.5}'),
            "describes no network.*mask_ration",
        ),
        (
            lambda _, header: header.update(recipe="[1]"),
            "'recipe' in the header of the checkpoint is not a JSON object",
        ),
        (lambda _, header: header.clear(), "64 is not the width of a published size"),
        (lambda _, header: header.pop("decoder_depth"), "has no 'decoder_depth'"),
    ],
)
def test_a_checkpoint_that_fits_no_network_is_refused(
    golden_checkpoint: Path, tmp_path: Path, change: Callable[[Any, Any], None], message: str
) -> None:
    broken = _rewritten(golden_checkpoint, tmp_path / "broken.safetensors", change)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(broken)


def test_a_header_that_asks_for_more_than_any_tensor_is_refused(golden_checkpoint: Path, tmp_path: Path) -> None:
    def widen(_: dict[str, Any], header: dict[str, str]) -> None:
        header["mlp_ratio"] = "1e300"

    with pytest.raises(CheckpointError, match=r"mlp_ratio 1e\+300 .* is too large for any tensor"):
        load_checkpoint(_rewritten(golden_checkpoint, tmp_path / "wide.safetensors", widen))


def test_errors_name_the_first_of_the_missing_weights_in_the_order_of_the_network(
    golden_checkpoint: Path, tmp_path: Path
) -> None:
    def deepen(_: dict[str, Any], header: dict[str, str]) -> None:
        header["depth"] = "65000"

    found = r"missing \(blocks\.2\.norm1\.weight, blocks\.2\.norm1\.bias, blocks\.2\.norm2\.weight, …\)"
    with pytest.raises(CheckpointError, match=found):
        load_checkpoint(_rewritten(golden_checkpoint, tmp_path / "deep.safetensors", deepen))


def test_a_file_of_other_tensors_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="not a checkpoint of anyband or SMARTIES v1"):
        load_checkpoint(tmp_path / "other.safetensors")


def test_positions_that_are_not_computed_are_taken_as_trained(golden_checkpoint: Path, tmp_path: Path) -> None:
    def shift(state: dict[str, Any], _: dict[str, str]) -> None:
        state["pos_embed"] += 0.1

    moved = _rewritten(golden_checkpoint, tmp_path / "moved.safetensors", shift)
    loaded = load_checkpoint(moved)
    assert loaded.config.encoder.positions == "trained"
    encoder = build_encoder(loaded)
    assert torch.equal(encoder.pos_embed, loaded.state["pos_embed"])


def test_positions_declared_fixed_must_be_the_computed_ones(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.state["pos_embed"] += 0.1
    with pytest.raises(CheckpointError, match=r"'pos_embed'.*is not the computed sine and cosine positions"):
        save_checkpoint(tmp_path / "c.safetensors", checkpoint)


def test_fixed_positions_can_be_trained_from_where_they_are(checkpoint: Checkpoint) -> None:
    encoder = build_encoder(checkpoint, positions="trained", drop_path=0.1)
    assert "pos_embed" in dict(encoder.named_parameters())
    assert torch.equal(encoder.pos_embed, checkpoint.state["pos_embed"])
    assert encoder.config.drop_path == 0.1


def test_half_precision_weights_are_loaded_as_float32(golden_checkpoint: Path, tmp_path: Path) -> None:
    def halve(state: dict[str, Any], _: dict[str, str]) -> None:
        for name in state:
            state[name] = state[name] if name.endswith("pos_embed") else state[name].half()

    loaded = load_checkpoint(_rewritten(golden_checkpoint, tmp_path / "half.safetensors", halve))
    assert {value.dtype for value in loaded.state.values()} == {torch.float32}


def test_a_new_range_starts_as_the_mixture_that_interpolation_gives(
    checkpoint: Checkpoint, make_image: Callable[..., ImageBatch]
) -> None:
    mixing = torch.tensor([[0.25, 0.75, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0]])
    table = replace(TABLE, ranges=(*TABLE.ranges, _range(5), _range(6)))
    grown = extend_checkpoint(checkpoint, table, mixing)
    assert grown.config.encoder.num_ranges == 7
    image = make_image(1, bands=2)
    before = build_encoder(checkpoint)(replace(image, mixing=mixing))
    after = build_encoder(grown)(replace(image, mixing=torch.eye(7)[5:]))
    assert torch.allclose(before.cls, after.cls, atol=1e-5)
    tokens = torch.randn(1, 2, 8, generator=torch.Generator().manual_seed(1))
    old, new = build_model(checkpoint).reconstruction, build_model(grown).reconstruction
    assert torch.allclose(old(tokens, mixing), new(tokens, torch.eye(7)[5:]), atol=1e-5)


def test_a_grown_checkpoint_is_saved_and_loaded(checkpoint: Checkpoint, tmp_path: Path) -> None:
    table = replace(TABLE, ranges=(*TABLE.ranges, _range(5)))
    grown = extend_checkpoint(encoder_only(checkpoint), table, torch.full((1, 5), 0.2))
    save_checkpoint(tmp_path / "grown.safetensors", grown)
    assert load_checkpoint(tmp_path / "grown.safetensors").ranges == table


def test_without_a_range_bands_of_the_others_are_encoded_as_before(
    checkpoint: Checkpoint, make_image: Callable[..., ImageBatch]
) -> None:
    left = withhold_range(checkpoint, "r1")
    assert left.ranges.range_names == ("r0", "r2", "r3", "r4")
    image = make_image(1, bands=2)
    before = build_encoder(checkpoint)(replace(image, mixing=torch.eye(5)[[0, 3]]))
    after = build_encoder(left)(replace(image, mixing=torch.eye(4)[[0, 2]]))
    assert torch.equal(before.cls, after.cls)


def test_a_withheld_range_given_back_by_interpolation_is_a_mixture_of_the_others(checkpoint: Checkpoint) -> None:
    left = withhold_range(checkpoint, "r1")
    grown = extend_checkpoint(left, replace(TABLE, ranges=(*left.ranges.ranges, _range(1))), torch.full((1, 4), 0.25))
    weights = build_encoder(grown).projection.weight
    assert torch.allclose(weights[4], weights[:4].mean(dim=0), atol=1e-6)


def test_an_unknown_range_can_not_be_withheld(checkpoint: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match=r"range 'r9' can't be withheld from r0, r1, r2, r3, r4; did you mean"):
        withhold_range(checkpoint, "r9")


def test_ranges_are_only_added_at_the_end(checkpoint: Checkpoint) -> None:
    table = replace(TABLE, ranges=(_range(5), *TABLE.ranges))
    with pytest.raises(CheckpointError, match="ranges are added at the end: the checkpoint has 5, the table 6"):
        extend_checkpoint(checkpoint, table, torch.full((1, 5), 0.2))


def test_weights_of_another_configuration_are_not_saved(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    path.write_bytes(b"before")
    wrong = replace(checkpoint, config=replace(checkpoint.config, encoder=replace(checkpoint.config.encoder, depth=1)))
    with pytest.raises(CheckpointError, match=r"12 unexpected \(blocks.1"):
        save_checkpoint(path, wrong)
    assert path.read_bytes() == b"before"


def test_an_unwritable_folder_is_an_output_error(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot write"):
        save_checkpoint(tmp_path / "file" / "c.safetensors", checkpoint)


def test_the_hash_tells_files_apart(checkpoint: Checkpoint, tmp_path: Path) -> None:
    for name, step in (("a", 1), ("b", 1), ("c", 2)):
        save_checkpoint(tmp_path / name, replace(checkpoint, step=step))
    first, second, third = (checkpoint_hash(tmp_path / name) for name in "abc")
    assert first == second
    assert first != third
    assert len(first) == 64
