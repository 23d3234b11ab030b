"""Evaluation of sets of images that lie in files: each set is one sample."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_networks import INFORMED, small_checkpoint

from anyband.data.places import corners_lonlat
from anyband.encode.encoder import SensorEncoder, SetImage
from anyband.errors import GeometryError, InputError, ManifestError
from anyband.evaluate.features import FusedEncoder, band_means, extract_features, labelled_features
from anyband.evaluate.inputs import TaskReader
from anyband.evaluate.probes import knn_scores
from anyband.evaluate.recipe import CompareRecipe, InputRecipe, KnnRecipe, TransferRecipe
from anyband.evaluate.results import ResultRow, result_rows
from anyband.evaluate.run import evaluate
from anyband.labelled import open_task_data
from anyband.labelled.samples import DataSpec, SplitSpec, TaskData
from anyband.models.checkpoint import load_checkpoint, save_checkpoint
from anyband.rasters.grid import Grid
from anyband.rasters.writer import write_geotiff

_S2, _S1 = ("B02", "B03", "B04"), ("VV", "VH")


@pytest.fixture(scope="module")
def checkpoint(golden: Path) -> Path:
    return golden / "smarties" / "checkpoint.safetensors"


@pytest.fixture(scope="module")
def informed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of sets that takes place, resolution and date."""
    path = tmp_path_factory.mktemp("informed") / "model.safetensors"
    save_checkpoint(path, small_checkpoint(patch_size=16, decoder_embed_dim=8, encodings=INFORMED, images="set"))
    return path


def _pixels(kind: int, number: int, sensor: str) -> np.ndarray:
    draw = np.random.default_rng(1000 * kind + number)
    if sensor == "sentinel1-grd":
        return draw.normal(-12, 3, (2, 20, 20)).astype(np.float32)
    return (800 + 2500 * kind + draw.normal(0, 200, (3, 40, 40))).clip(1).astype(np.uint16)


def _write(path: Path, pixels: np.ndarray, *, east_m: float) -> None:
    gsd_m, names = (10.0, _S2) if pixels.dtype == np.uint16 else (20.0, _S1)
    grid = Grid(
        height=pixels.shape[1],
        width=pixels.shape[2],
        transform=(gsd_m, 0.0, 4e5 + east_m, 0.0, -gsd_m, 5.7e6),
        crs="EPSG:32632",
        gsd_m=gsd_m,
    )
    write_geotiff(path, pixels, grid=grid, descriptions=names)


def _table(folder: Path, *, num_sets: int = 24, dates: int = 3) -> Path:
    """Two classes; one to `dates` optical images a set, and one radar image."""
    rows = ["path,set,label,sensor,datetime,bands"]
    for number in range(num_sets):
        kind = number % 2
        for date in range(1 + number % dates):
            _write(folder / f"o{number}_{date}.tif", _pixels(kind, 10 * number + date, "o"), east_m=1e4 * number)
            rows.append(
                f"o{number}_{date}.tif,s{number},{'ab'[kind]},sentinel2-l2a,2020-0{date + 1}-01,{';'.join(_S2)}"
            )
        _write(folder / f"r{number}.tif", _pixels(kind, number, "sentinel1-grd"), east_m=1e4 * number)
        rows.append(f"r{number}.tif,s{number},{'ab'[kind]},sentinel1-grd,,VV;VH")
    (folder / "t.csv").write_text("\n".join(rows) + "\n")
    return folder / "t.csv"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _table(tmp_path_factory.mktemp("sets"))


def _recipe(table: Path, checkpoint: Path, **changes: Any) -> TransferRecipe:
    recipe = TransferRecipe(
        name="test",
        data=DataSpec(source=str(table), split=SplitSpec(val=0.1, test=0.25)),
        checkpoint=str(checkpoint),
        fusion="joint",
        knn=KnnRecipe(k=3),
    )
    return recipe.changed(**changes)


def _rows(recipe: TransferRecipe) -> list[ResultRow]:
    return result_rows(*evaluate(recipe, "knn"))


def _opened(recipe: TransferRecipe, checkpoint: Path) -> tuple[SensorEncoder, TaskData, TaskReader]:
    encoder, data = SensorEncoder(load_checkpoint(checkpoint)).eval(), open_task_data(recipe.data, seed=recipe.seed)
    return encoder, data, TaskReader(encoder, data, recipe)


def test_batches_hold_sets_of_equally_many_images_each_set_once(checkpoint: Path, table: Path) -> None:
    _, data, reader = _opened(_recipe(table, checkpoint, input=InputRecipe(batch_size=3)), checkpoint)
    batches = list(reader.batches(range(len(data))))
    assert sorted(number for batch in batches for number in batch.samples.tolist()) == list(range(24))
    for batch in batches:
        assert {len(data.sensors[number]) for number in batch.samples} == {len(batch.images)}
        assert len(batch.samples) <= 3


def test_a_set_gets_the_features_that_encode_set_gives_its_images(checkpoint: Path, table: Path) -> None:
    encoder, data, reader = _opened(_recipe(table, checkpoint), checkpoint)
    fused = FusedEncoder(encoder, fusion="joint", pool="cls", seed=0, metadata=True)
    found = extract_features({"encoder": fused}, reader, range(9), cache=None)["encoder"][0].numpy()
    for number in range(9):
        arrays = [_pixels(number % 2, 10 * number + date, "o") for date in range(1 + number % 3)]
        arrays.append(_pixels(number % 2, number, "sentinel1-grd"))
        given = [SetImage(array=a, sensor=s) for a, s in zip(arrays, data.sensors[number], strict=True)]
        with torch.no_grad():
            place = encoder.encode_set(given).place
        assert np.allclose(place.numpy(), found[number], atol=1e-4)


def test_corners_resolution_and_dates_are_told_to_a_network_that_takes_them(informed: Path, table: Path) -> None:
    _, _, reader = _opened(_recipe(table, informed), informed)
    (batch,) = reader.batches([3])
    told = batch.metadata
    assert told is not None
    corners = corners_lonlat((10.0, 0.0, 4e5 + 3e4, 0.0, -10.0, 5.7e6), 40, 40, "EPSG:32632")
    assert np.allclose(told.lonlat_deg[0], np.mean(corners, axis=0), atol=1e-4)
    assert told.gsd_m.tolist() == [[10.0, 20.0]]
    assert told.input_gsd_m.tolist() == [[12.5, 12.5]]
    assert told.day_of_year[0, 0] == 0
    assert torch.isnan(told.day_of_year[0, 1])


def test_what_is_told_changes_features_and_is_written_down(informed: Path, table: Path) -> None:
    arrays, settings = [], []
    for metadata in (True, False):
        recipe = _recipe(table, informed, input=InputRecipe(metadata=metadata))
        context, _ = evaluate(recipe, "knn")
        fused = context.fused(context.encoders["encoder"])
        arrays.append(extract_features({"e": fused}, context.reader, range(4), cache=None)["e"][0].numpy())
        settings.append(_rows(recipe)[0].settings)
    assert not np.allclose(*arrays, atol=1e-4)
    assert [one["input"]["metadata"] for one in settings] == [True, False]


def test_sets_of_several_sizes_are_scored_in_the_order_of_the_table(checkpoint: Path, table: Path) -> None:
    rows = _rows(_recipe(table, checkpoint, compare=CompareRecipe(baseline=True, untrained=True)))
    assert [row.features for row in rows] == ["encoder", "untrained encoder"]
    assert rows[0].scores[0].value == 1.0
    assert rows[0].num_samples == {"train": 15, "val": 3, "test": 6}
    assert list(rows[0].settings["reader"]["statistics"]) == ["sentinel2-l2a", "sentinel1-grd"]
    assert any("band means" in note for note in rows[0].notes)
    assert any("trained on pairs" in note for note in rows[0].notes)
    assert rows[0].predictions is not None
    names = rows[0].predictions.samples
    assert list(names) == sorted(names, key=lambda name: int(name[1:]))
    assert rows[0].predictions.arrays["labels"].tolist() == [int(name[1:]) % 2 for name in names]


def test_the_size_of_batches_changes_no_score(checkpoint: Path, table: Path) -> None:
    found = [_rows(_recipe(table, checkpoint, input=InputRecipe(batch_size=size, pool="mean")))[0] for size in (1, 64)]
    assert found[0].scores == found[1].scores
    assert found[0].id == found[1].id


def test_band_means_stand_side_by_side_where_sets_have_the_same_sensors(checkpoint: Path, tmp_path: Path) -> None:
    recipe = _recipe(_table(tmp_path, dates=1), checkpoint, compare=CompareRecipe(baseline=True))
    context, results = evaluate(recipe, "knn")
    assert results[1].features == "band means + nearest neighbours"
    assert results[1].width == 2 * (3 + 2)
    batches = [next(iter(context.reader.batches([number]))) for number in range(24)]
    beside = [torch.cat([band_means(image)[0] for image in batch.images]).numpy() for batch in batches]
    train, test = (labelled_features(context.data, np.stack(beside), split) for split in ("train", "test"))
    scores = knn_scores(train, test, k=3)
    assert np.allclose(results[1].predictions.arrays["scores"], scores, atol=1e-5)
    assert not any("band means" in note for note in results[0].notes)


def test_statistics_are_counted_on_the_training_sets_by_sensor(checkpoint: Path, table: Path) -> None:
    (row,) = _rows(_recipe(table, checkpoint, input=InputRecipe(statistics="data")))
    counted = "statistics counted on the training images"
    assert row.settings["reader"]["statistics"] == dict.fromkeys(("sentinel2-l2a", "sentinel1-grd"), counted)
    assert row.scores[0].value == 1.0


def test_images_of_a_set_that_show_other_ground_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    table = _table(tmp_path, num_sets=16)
    _write(tmp_path / "r0.tif", _pixels(0, 0, "sentinel1-grd"), east_m=5e4)
    with pytest.raises(GeometryError, match=r"'s0'.*share 0% of the larger one: .* cut both to"):
        evaluate(_recipe(table, checkpoint), "knn")


def test_an_image_without_data_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    table = _table(tmp_path, num_sets=16)
    _write(tmp_path / "r0.tif", np.full((2, 20, 20), np.nan, np.float32), east_m=0.0)
    with pytest.raises(InputError, match=r"'s0': image 2 \(sentinel1-grd\) has no pixel with data"):
        evaluate(_recipe(table, checkpoint), "knn")


def test_a_date_in_the_future_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    table = _table(tmp_path, num_sets=16)
    table.write_text(table.read_text().replace("2020-01-01", "2999-01-01"))
    with pytest.raises(ManifestError, match=r"row 1 of '.*': .*2999-01-01.* future"):
        evaluate(_recipe(table, checkpoint), "knn")


def test_sets_are_no_single_images(checkpoint: Path, table: Path) -> None:
    with pytest.raises(InputError, match=r"samples of 't\.csv' have 4 images; say with fusion"):
        evaluate(_recipe(table, checkpoint, fusion="single"), "knn")
