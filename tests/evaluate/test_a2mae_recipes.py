"""The downstream recipes of A²-MAE, with and without geographic encoding, on small labelled images that have places."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from contexts import context_of
from small_networks import small_checkpoint
from torch import Tensor

from anyband.cli import main
from anyband.encode.encoder import SensorEncoder
from anyband.evaluate.features import SiameseEncoder
from anyband.evaluate.recipe import TransferRecipe, load_transfer_recipe
from anyband.evaluate.results import read_results
from anyband.evaluate.run import dry_run, evaluate
from anyband.labelled import open_task_data
from anyband.models.checkpoint import load_checkpoint, save_checkpoint
from anyband.models.encodings import EncodingConfig

_NAMES = ("classify", "segment", "change")
_BANDS = ("B02", "B03", "B04")
# Equal numbers of a grid are 9° and 117° east of Greenwich.
_HERE, _THERE = "EPSG:32632", "EPSG:32650"
_QUICK = ("fit.epochs=2", "fit.warmup_epochs=0", "fit.batch_size=8", "head.channels=8")
_BLOCKS = (0, 1, 2, 3)


def _write(path: Path, pixels: np.ndarray, crs: str, place: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    transform = rasterio.Affine(10, 0, 500_000 + 5_000 * place, 0, -10, 5_000_000)
    shape = {"count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2], "dtype": pixels.dtype}
    with rasterio.open(path, "w", driver="GTiff", crs=crs, transform=transform, **shape) as file:
        file.write(pixels)


def _scene(rng: np.random.Generator, bright: np.ndarray) -> np.ndarray:
    return (600 + 1500 * bright + rng.normal(0, 100, (3, *bright.shape))).astype(np.uint16)


def _render(folder: Path, crs: str) -> None:
    """Write class folders, and tables of maps and of changes, the same but for the coordinate system."""
    tables = {"segment": ["image,label,split"], "change": ["before,after,label,split,before_datetime,after_datetime"]}
    for place, split in enumerate(["train"] * 8 + ["val"] * 2 + ["test"] * 2):
        rng = np.random.default_rng(place)
        name = ("dark", "bright")[place % 2]
        _write(
            folder / "classify" / split / name / f"{place}.tif", _scene(rng, np.full((32, 32), place % 2)), crs, place
        )
        known = np.kron(rng.integers(0, 2, (2, 2)), np.ones((16, 16), dtype=np.int64))
        for date, bright in (("before", np.zeros_like(known)), ("after", known)):
            _write(folder / f"{date}_{place}.tif", _scene(rng, bright), crs, place)
        _write(folder / f"label_{place}.tif", known[None].astype(np.uint8), crs, place)
        tables["segment"].append(f"after_{place}.tif,label_{place}.tif,{split}")
        tables["change"].append(f"before_{place}.tif,after_{place}.tif,label_{place}.tif,{split},2020-05-01,2021-05-03")
    for name, rows in tables.items():
        (folder / f"{name}.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of A²-MAE, 96 wide so that codes of corners hold 3 bits, and the data `here` and `there`."""
    root = tmp_path_factory.mktemp("a2mae")
    network = small_checkpoint(embed_dim=96, depth=4, images="set", encodings=EncodingConfig(geographic="a2mae"))
    save_checkpoint(root / "tiny.safetensors", network)
    for name, crs in (("here", _HERE), ("there", _THERE)):
        _render(root / name, crs)
    return root


def _data(folder: Path, name: str, where: str) -> str:
    return str(folder / where / (name if name == "classify" else f"{name}.csv"))


@pytest.fixture
def recipe_of(folder: Path) -> Callable[..., TransferRecipe]:
    def made(name: str, *words: str, where: str = "here") -> TransferRecipe:
        data = [
            f"data.source={_data(folder, name, where)}",
            "data.sensors=[sentinel2-l2a]",
            f"data.bands=[{[*_BANDS]}]",
        ]
        checkpoint = f"checkpoint={folder / 'tiny.safetensors'}"
        return load_transfer_recipe(f"paper/a2mae_{name}", [*data, checkpoint, *_QUICK, *words])

    return made


def _features(folder: Path, recipe: TransferRecipe) -> Tensor:
    """Encode the training samples as the protocol does, before anything is trained."""
    assert recipe.protocol is not None
    encoder = SensorEncoder(load_checkpoint(folder / "tiny.safetensors")).eval()
    context = context_of(encoder, open_task_data(recipe.data, seed=0), recipe.protocol, recipe)
    fused = context.fused(encoder)
    batch = next(context.reader.batches(context.data.split("train")))
    with torch.no_grad():
        if recipe.protocol == "finetune":
            return fused(batch)
        siamese = SiameseEncoder(fused, difference="absolute")
        return torch.cat((fused if recipe.protocol == "segment" else siamese).levels(batch, _BLOCKS))


@pytest.mark.parametrize("name", _NAMES)
def test_a_recipe_runs_with_and_without_geographic_encoding(
    folder: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_transfer_recipe(f"paper/a2mae_{name}")
    words = ["evaluate", str(recipe.protocol), f"paper/a2mae_{name}", *_QUICK, "--no-cache", "--json"]
    words += ["--checkpoint", str(folder / "tiny.safetensors"), "--results", str(tmp_path / "results.parquet")]
    words += ["--sensor", "sentinel2-l2a", "--bands", ",".join(_BANDS)]
    if name == "change":
        words[-3:] = ["sentinel2-l2a,sentinel2-l2a", "--bands", ";".join([",".join(_BANDS)] * 2)]
    for flags in ([], ["--no-metadata"]):
        assert main([*words, "--data", _data(folder, name, "here"), *flags]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["results"][0]["num_samples"] for one in told] == [{"train": 8, "val": 2, "test": 2}] * 2
    rows = read_results(tmp_path / "results.parquet")
    assert [row.settings["input"]["metadata"] for row in rows] == [True, False]
    assert all(0 <= row.scores[0].value <= 1 for row in rows)


@pytest.mark.parametrize("name", _NAMES)
def test_a_dry_run_passes(name: str, recipe_of: Callable[..., TransferRecipe]) -> None:
    recipe = recipe_of(name)
    assert recipe.protocol is not None
    assert (found := dry_run(recipe, recipe.protocol))["ok"], found


@pytest.mark.parametrize("name", _NAMES)
def test_features_depend_on_the_place_only_with_geographic_encoding(
    folder: Path, name: str, recipe_of: Callable[..., TransferRecipe]
) -> None:
    (here, there), (silent, elsewhere) = (
        [_features(folder, recipe_of(name, flag, where=where)) for where in ("here", "there")]
        for flag in ("input.metadata=true", "input.metadata=false")
    )
    assert not torch.allclose(here, silent, atol=1e-3)
    assert not torch.allclose(here, there, atol=1e-3)
    assert torch.equal(silent, elsewhere)


@pytest.mark.parametrize("name", _NAMES)
def test_without_geographic_encoding_a_moved_place_gives_the_same_result(
    name: str, recipe_of: Callable[..., TransferRecipe]
) -> None:
    recipes = [recipe_of(name, "input.metadata=false", where=where) for where in ("here", "there")]
    found = [evaluate(recipe, recipe.protocol)[1][0] for recipe in recipes]  # type: ignore[arg-type]
    assert found[0].curves == found[1].curves
    for key, values in found[0].predictions.arrays.items():
        assert np.array_equal(values, found[1].predictions.arrays[key])


def _moved(recipe: TransferRecipe, start: Mapping[str, Tensor]) -> list[float]:
    """Give how far a norm of each block goes in one step of AdamW, which is its rate."""
    found = evaluate(recipe, recipe.protocol)[1][0].checkpoint  # type: ignore[arg-type]
    assert found is not None
    return [float((found.state[key] - start[key]).abs().max()) for key in (f"blocks.{k}.norm2.weight" for k in _BLOCKS)]


@pytest.mark.parametrize("name", _NAMES)
def test_layer_decay_holds_in_training(folder: Path, name: str, recipe_of: Callable[..., TransferRecipe]) -> None:
    start = load_checkpoint(folder / "tiny.safetensors").state
    recipe = recipe_of(name)
    moved, alike = (
        _moved(recipe.changed(fit=recipe.fit.changed(epochs=1, **one)), start) for one in ({}, {"layer_decay": 1.0})
    )
    assert moved == pytest.approx([moved[-1] * 0.75 ** (3 - k) for k in _BLOCKS], rel=0.02)
    assert alike == pytest.approx([moved[-1] / 0.75] * 4, rel=0.02)


@pytest.mark.parametrize("name", _NAMES)
def test_drop_path_holds_in_training(name: str, recipe_of: Callable[..., TransferRecipe]) -> None:
    recipes = [recipe_of(name, *words) for words in ((), ("fit.drop_path=0",))]
    found = [evaluate(recipe, recipe.protocol)[1][0] for recipe in recipes]  # type: ignore[arg-type]
    assert found[0].curves["training loss"] != found[1].curves["training loss"]
    assert found[0].checkpoint is not None
    assert found[0].checkpoint.config.encoder.drop_path == 0.1
