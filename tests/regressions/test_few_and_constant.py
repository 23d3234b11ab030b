"""Evaluations of few images, of classes that the test lacks, and of bands without any contrast."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from small_networks import small_checkpoint

from anyband.errors import InputError
from anyband.evaluate.recipe import FitRecipe, HeadRecipe, InputRecipe, KnnRecipe, TransferRecipe
from anyband.evaluate.results import ResultRow, result_rows
from anyband.evaluate.run import evaluate
from anyband.labelled.samples import DataSpec
from anyband.models.checkpoint import save_checkpoint

_SIZE = 32
_FIT = FitRecipe(encoder="frozen", epochs=1, batch_size=4, warmup_epochs=0.0)


@pytest.fixture
def recipe(tmp_path: Path) -> TransferRecipe:
    """An evaluation of `t.csv`; its encoder is small."""
    save_checkpoint(tmp_path / "model.safetensors", small_checkpoint(depth=4))
    data = DataSpec(source=str(tmp_path / "t.csv"), sensors=("maxar-rgb",), kind="class_map")
    return TransferRecipe(
        name="t", checkpoint=str(tmp_path / "model.safetensors"), data=data, fit=_FIT, head=HeadRecipe(channels=8)
    )


def _tiff(path: Path, pixels: np.ndarray, number: int) -> None:
    place = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 5e5 + 1000 * number, 0, -10, 5.5e6)}
    size = {"count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2]}
    with rasterio.open(path, "w", dtype=pixels.dtype, **size, **place) as file:
        file.write(pixels)


def _images(folder: Path, splits: tuple[str, ...], *, constant_band: bool = False, absent: bool = False) -> None:
    """Write images whose right half is brighter, their labels, and a table; `absent`: the test lacks a class."""
    rows = ["image,label,split"]
    for number, split in enumerate(splits):
        labels = np.zeros((1, _SIZE, _SIZE), np.uint8)
        labels[:, :, _SIZE // 2 :] = 1
        if absent and split != "test":
            labels[:, : _SIZE // 4] = 2
        pixels = np.random.default_rng(number).integers(1, 60, (3, _SIZE, _SIZE)).astype(np.uint8) + 60 * labels
        if constant_band:
            pixels[1] = 100
        _tiff(folder / f"i{number}.tif", pixels.astype(np.uint8), number)
        _tiff(folder / f"l{number}.tif", labels, number)
        rows.append(f"i{number}.tif,l{number}.tif,{split}")
    (folder / "t.csv").write_text("\n".join(rows) + "\n")


def _row(recipe: TransferRecipe, protocol: str = "segment") -> ResultRow:
    return result_rows(*evaluate(recipe, protocol))[0]


@pytest.mark.parametrize("num_training", [1, 5])
def test_a_batch_of_one_image_is_learned_from(recipe: TransferRecipe, tmp_path: Path, num_training: int) -> None:
    _images(tmp_path, ("train",) * num_training + ("val", "test"))
    row = _row(recipe.changed(head=HeadRecipe(kind="upernet", channels=8)))
    assert row.num_samples["train"] == num_training
    assert all(np.isfinite(loss) for loss in row.curves["training loss"])


def test_a_class_that_the_test_lacks_is_no_zero_in_the_mean(recipe: TransferRecipe, tmp_path: Path) -> None:
    _images(tmp_path, ("train",) * 4 + ("val", "test"), absent=True)
    row = _row(recipe.changed(head=HeadRecipe(kind="linear")))
    assert row.predictions is not None
    confusion = row.predictions.arrays["confusion"].sum(axis=0)
    with np.errstate(invalid="ignore"):
        shares = np.diagonal(confusion) / (confusion.sum(axis=0) + confusion.sum(axis=1) - np.diagonal(confusion))
    assert confusion[2].sum() == 0
    assert row.score("miou").value == pytest.approx(np.nanmean(shares))
    assert any("the test has no class '2'" in note for note in row.notes)


@pytest.mark.parametrize("protocol", ["segment", "knn"])
def test_a_band_without_contrast_is_named_where_it_can_not_be_normalised(
    recipe: TransferRecipe, tmp_path: Path, protocol: str
) -> None:
    _images(tmp_path, ("train",) * 4 + ("val", "test"), constant_band=True)
    if protocol == "knn":
        table = (tmp_path / "t.csv").read_text().splitlines()
        rows = [
            f"{line.split(',')[0]},{'ab'[number % 2]},{line.split(',')[2]}" for number, line in enumerate(table[1:])
        ]
        (tmp_path / "t.csv").write_text("\n".join(["path,label,split", *rows]))
        recipe = recipe.changed(data=replace(recipe.data, kind="class"), knn=KnnRecipe(k=1))
    with pytest.raises(InputError, match=r"band 'G' has the value 100 from its 1st to its 99th percentile"):
        _row(recipe.changed(input=InputRecipe(statistics="data")), protocol)
    assert np.isfinite(_row(recipe.changed(head=HeadRecipe(kind="linear")), protocol).scores[0].value)
