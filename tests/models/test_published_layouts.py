"""Weights as others publish them: wrapped, without a decoder, with a head, in shards, in half precision, with averages
stored again. Files are made from plain tensors."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from anyband import load_encoder
from anyband.errors import CheckpointError
from anyband.models.checkpoint import build_model, checkpoint_hash, load_checkpoint

Weights = dict[str, Tensor]
_LAYER = "spectrum_projection.spectrum_embeds.{}.proj.{}"
_KINDS = ("weight", "bias")
# Layers that average: own distances of published centres in nm, of thermal_infrared_1 (10,600 to 11,190) from layers 14
# (2,002 to 2,376) and 15 (5.5e7 to 5.6e7), of blue_2 (452 to 512) from 0 (422 to 463) and 1 (427 to 558).
_AWAY_NM = {17: ((14, 10_895 - 2_189), (15, 5.55e7 - 10_895)), 18: ((0, 482 - 442.5), (1, 492.5 - 482))}
_SHARES = {
    layer: tuple((one, away_nm / sum(other for _, other in parts)) for one, away_nm in parts)
    for layer, parts in _AWAY_NM.items()
}


@pytest.fixture(scope="module")
def published(golden: Path) -> tuple[Weights, dict[str, str]]:
    path = golden / "smarties" / "checkpoint.safetensors"
    with safe_open(path, "pt") as file:
        return load_file(path), file.metadata()


@pytest.fixture(scope="module")
def expected(published: tuple[Weights, dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Weights:
    path = tmp_path_factory.mktemp("published") / "smarties-v1-tiny.safetensors"
    save_file(published[0], path, metadata=published[1])
    return load_checkpoint(path).state


def _without_decoder(weights: Mapping[str, Tensor]) -> Weights:
    return {name: one for name, one in weights.items() if not name.startswith(("decoder_", "mask_token"))}


def _averages(weights: Mapping[str, Tensor]) -> Weights:
    """Make the averages that layers 17 and 18 are, as plain layers."""
    return {
        _LAYER.format(layer, kind): sum(
            (share * weights[_LAYER.format(one, kind)] for one, share in parts), torch.zeros(1)
        )
        for layer, parts in _SHARES.items()
        for kind in _KINDS
    }


def _equal(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[name], one) for name, one in wanted.items())


@pytest.mark.parametrize(
    "prefix", ["model.", "vit.", "encoder.", "module.", "_orig_mod.", "module._orig_mod.model.vit."]
)
def test_words_of_wrappers_are_taken_off_and_said(published, expected, tmp_path: Path, prefix: str) -> None:
    weights, header = published
    path = tmp_path / "model.safetensors"
    save_file({prefix + name: one for name, one in weights.items()}, path, metadata=header)
    loaded = load_checkpoint(path)
    assert _equal(loaded.state, expected)
    assert loaded.notes == (f"'{prefix}' before the names of weights is of a wrapper, and was taken off",)


def test_blocks_that_were_compiled_one_by_one_load(published, expected, tmp_path: Path) -> None:
    weights, header = published
    path = tmp_path / "model.safetensors"
    inner = {name.replace("blocks.1.", "blocks.1._orig_mod."): one for name, one in weights.items()}
    save_file(inner, path, metadata=header)
    assert _equal(load_checkpoint(path).state, expected)


def test_two_networks_in_one_file_are_refused(published, tmp_path: Path) -> None:
    weights, header = published
    path = tmp_path / "model.safetensors"
    save_file({**weights, **{f"model.{name}": one.clone() for name, one in weights.items()}}, path, metadata=header)
    with pytest.raises(CheckpointError, match="has two weights of the name"):
        load_checkpoint(path)


@pytest.mark.parametrize("says_decoder", [True, False])
def test_without_a_decoder_all_but_reconstruction_works(
    published, expected, tmp_path: Path, says_decoder: bool
) -> None:
    weights, header = published
    header = {key: text for key, text in header.items() if says_decoder or not key.startswith("decoder_")}
    path = tmp_path / "model.safetensors"
    save_file(_without_decoder(weights), path, metadata=header)
    loaded = load_checkpoint(path)
    assert _equal(loaded.state, _without_decoder(expected))
    assert load_encoder(path).config == load_checkpoint(path).config.encoder
    with pytest.raises(CheckpointError, match="has an encoder only; reconstruction needs one with its decoder"):
        build_model(loaded)


def test_a_part_of_a_decoder_is_refused(published, tmp_path: Path) -> None:
    weights, header = published
    path = tmp_path / "model.safetensors"
    part = {name: one for name, one in weights.items() if not name.startswith("decoder_blocks.1.")}
    save_file(part, path, metadata=header)
    with pytest.raises(CheckpointError, match=r"12 missing \(decoder_blocks\.1\."):
        load_checkpoint(path)


def test_averages_that_are_stored_again_as_modules_are_left_out(published, expected, tmp_path: Path) -> None:
    """As a network stores them whose averaging layers hold the layers that they average."""
    weights, header = published
    copies = {
        f"spectrum_projection.spectrum_embeds.{layer}.spectrum_projections.{place}.proj.{kind}": weights[
            _LAYER.format(one, kind)
        ].clone()
        for layer, parts in _SHARES.items()
        for place, (one, _) in enumerate(parts)
        for kind in _KINDS
    }
    path = tmp_path / "model.safetensors"
    save_file({f"vit.{name}": one for name, one in {**weights, **copies}.items()}, path, metadata=header)
    loaded = load_checkpoint(path)
    assert _equal(loaded.state, expected)
    assert loaded.notes[-1] == "thermal_infrared_1, blue_2 average trained ranges and are stored again: left out"


def test_a_shared_layer_that_stands_only_in_an_average_is_found_there(published, expected, tmp_path: Path) -> None:
    """Of tensors that share memory some writers keep one name."""
    weights, header = published
    kept = dict(weights)
    for kind in _KINDS:
        kept[f"spectrum_projection.spectrum_embeds.18.spectrum_projections.0.proj.{kind}"] = kept.pop(
            _LAYER.format(0, kind)
        )
    path = tmp_path / "model.safetensors"
    save_file(kept, path, metadata=header)
    assert _equal(load_checkpoint(path).state, expected)


def test_a_copy_with_other_numbers_is_refused(published, tmp_path: Path) -> None:
    weights, header = published
    key = "spectrum_projection.spectrum_embeds.18.spectrum_projections.1.proj.weight"
    path = tmp_path / "model.safetensors"
    save_file({**weights, key: weights[_LAYER.format(1, "weight")] + 1}, path, metadata=header)
    with pytest.raises(CheckpointError, match=r"a second time as .*, with other numbers"):
        load_checkpoint(path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_averages_that_are_stored_as_layers_are_left_out(published, tmp_path: Path, dtype: torch.dtype) -> None:
    weights, header = published
    path = tmp_path / "model.safetensors"
    stored = {**_without_decoder(weights), **_averages(weights)}
    save_file({name: one.to(dtype) for name, one in stored.items()}, path, metadata=header)
    loaded = load_checkpoint(path)
    assert len(loaded.ranges.ranges) == loaded.config.encoder.num_ranges == 17
    assert loaded.notes == ("thermal_infrared_1, blue_2 average trained ranges and are stored again: left out",)


@pytest.mark.parametrize("count", [1, 2])
def test_further_layers_with_numbers_of_their_own_are_ranges(published, tmp_path: Path, count: int) -> None:
    weights, header = published
    own = {
        _LAYER.format(17 + index, kind): torch.randn_like(weights[_LAYER.format(0, kind)])
        for index in range(count)
        for kind in _KINDS
    }
    path = tmp_path / "model.safetensors"
    save_file({**_without_decoder(weights), **own}, path, metadata=header)
    loaded = load_checkpoint(path)
    assert loaded.ranges.range_names[17:] == ("thermal_infrared_1", "blue_2")[:count]
    assert torch.equal(loaded.state[_LAYER.format(17, "weight")], own[_LAYER.format(17, "weight")])
    assert "have weights of their own" in loaded.notes[0]
    spec = load_encoder(path).input_spec("sentinel2-l2a")
    assert set(spec.support.values()) == {1.0}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_loads_with_positions_as_computed(
    published, expected, tmp_path: Path, dtype: torch.dtype
) -> None:
    weights, header = published
    path = tmp_path / "model.safetensors"
    save_file({name: one.to(dtype) for name, one in weights.items()}, path, metadata=header)
    loaded = load_checkpoint(path)
    assert loaded.config.encoder.positions == "fixed"
    assert {one.dtype for one in loaded.state.values()} == {torch.float32}
    torch.testing.assert_close(loaded.state["pos_embed"], expected["pos_embed"], rtol=0, atol=1e-6)
    assert torch.equal(loaded.state["norm.weight"], weights["norm.weight"].to(dtype).float())


def test_positions_of_another_image_size_are_computed_for_that_of_the_header(published, tmp_path: Path) -> None:
    weights, header = published
    path = tmp_path / "model.safetensors"
    save_file(weights, path, metadata={**header, "img_size": "96"})
    loaded = load_checkpoint(path)
    assert loaded.config.encoder.img_size == 96
    assert loaded.state["pos_embed"].shape[1] == loaded.state["decoder_pos_embed"].shape[1] == 1 + 36
    assert "and was computed for the 96 of the header" in loaded.notes[0]


def test_positions_that_are_not_stored_are_computed(published, expected, tmp_path: Path) -> None:
    weights, header = published
    path = tmp_path / "model.safetensors"
    save_file({name: one for name, one in weights.items() if "pos_embed" not in name}, path, metadata=header)
    loaded = load_checkpoint(path)
    for name in ("pos_embed", "decoder_pos_embed"):
        torch.testing.assert_close(loaded.state[name], expected[name], rtol=0, atol=1e-6)
    assert "'pos_embed' is not stored, and was computed" in loaded.notes[0]


@pytest.mark.parametrize("names", [("head.weight", "head.bias"), ("head.0.running_mean", "head.1.weight")])
def test_a_head_is_kept_apart(published, expected, tmp_path: Path, names: tuple[str, str]) -> None:
    weights, header = published
    head = {name: torch.randn(10, 64) for name in names}
    path = tmp_path / "smarties-v1-tiny-eurosat-linprobe.safetensors"
    save_file({**_without_decoder(weights), **head}, path, metadata=header)
    loaded = load_checkpoint(path)
    assert _equal(loaded.state, _without_decoder(expected))
    assert _equal(loaded.head, {name.removeprefix("head."): one for name, one in head.items()})


def _sharded(folder: Path, weights: Weights, header: dict[str, str]) -> Path:
    names = sorted(weights)
    files = {}
    for number in range(3):
        file = f"model-{number + 1:05d}-of-00003.safetensors"
        save_file({name: weights[name] for name in names[number::3]}, folder / file, metadata=header)
        files |= dict.fromkeys(names[number::3], file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": files}))
    return index


def test_shards_with_an_index_are_one_checkpoint(published, expected, tmp_path: Path) -> None:
    index = _sharded(tmp_path, *published)
    assert _equal(load_checkpoint(index).state, expected)
    assert _equal(load_checkpoint(tmp_path).state, expected)
    assert len(checkpoint_hash(index)) == 64


def test_a_missing_shard_is_named(published, tmp_path: Path) -> None:
    index = _sharded(tmp_path, *published)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"names 3 files of weights, of which 1 are not beside it \(model-00002"):
        load_checkpoint(index)


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 3}', '{"weight_map": {}}'])
def test_what_is_no_index_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"no index of weights in several files|names 0 files"):
        load_checkpoint(tmp_path / "model.safetensors.index.json")


def test_what_was_taken_is_said_where_images_are_encoded(published, tmp_path: Path) -> None:
    weights, header = published
    path = tmp_path / "model.safetensors"
    save_file({f"vit.{name}": one for name, one in _without_decoder(weights).items()}, path, metadata=header)
    image = torch.randint(0, 3000, (12, 32, 32))
    notes = load_encoder(path).encode(image, sensor="sentinel2-l2a").notes
    assert "'vit.' before the names of weights is of a wrapper, and was taken off" in notes
