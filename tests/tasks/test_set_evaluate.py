"""Evaluation on labelled sets of images."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from anyband.cli import main
from anyband.data.labelled import LabelledImages
from anyband.data.places import corners_lonlat
from anyband.data.rasters.writing import write_geotiff
from anyband.data.tiles import Grid
from anyband.errors import GeometryError, InputError, ManifestError, RasterError
from anyband.models.inputs import ImageBatch
from anyband.sensors.catalogue import get_sensor
from anyband.tasks.evaluate import EvaluateOptions, ScoreOptions, band_means, evaluate_images, read_split_images
from anyband.tasks.features import SensorEncoder, SetImage, load_encoder
from anyband.tasks.knn import KnnOptions
from anyband.tasks.set_evaluate import evaluate_sets, set_band_means
from anyband.tasks.set_inputs import LabelledSetBatch, SetReader, set_batches

_S2, _S1 = ("B02", "B03", "B04"), ("VV", "VH")


@pytest.fixture(scope="module")
def encoder(golden: Path) -> SensorEncoder:
    return load_encoder(golden / "smarties" / "checkpoint.safetensors")


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


def _read(table: Path) -> LabelledImages:
    return read_split_images(table, multi_label=False, val_share=0.1, test_share=0.25, seed=0)


def _options(**changed: object) -> EvaluateOptions:
    return EvaluateOptions(score=ScoreOptions(knn=KnnOptions(k=3)), **changed)  # type: ignore[arg-type]


def _batches(encoder: SensorEncoder, images: LabelledImages, *, batch_size: int) -> list[LabelledSetBatch]:
    reader = SetReader(encoder, img_size=64, statistics=None, metadata=True)
    return list(set_batches(images, reader, batch_size=batch_size))


def test_batches_hold_sets_of_equally_many_images_each_set_once(encoder: SensorEncoder, table: Path) -> None:
    images = _read(table)
    batches = _batches(encoder, images, batch_size=8)
    assert sorted(number for batch in batches for number in batch.members) == list(range(24))
    for batch in batches:
        sizes = {len(images.members[number]) for number in batch.members}
        assert sizes == {batch.batch.num_slots}
        assert len(batch.members) <= 8 // batch.batch.num_slots


def test_a_set_gets_the_features_that_encode_set_gives_its_images(encoder: SensorEncoder, table: Path) -> None:
    images = _read(table)
    for batch in _batches(encoder, images, batch_size=8)[:4]:
        found = encoder.encode_sets(batch.batch).cls
        for number, vector in zip(batch.members, found, strict=True):
            given = [
                SetImage(
                    array=_pixels(number % 2, 10 * number + date, "o")
                    if date < number % 3 + 1
                    else _pixels(number % 2, number, "sentinel1-grd"),
                    sensor=entry.sensor,
                )
                for date, entry in enumerate(images.members[number])
            ]
            assert torch.allclose(encoder.encode_set(given).place, vector, atol=1e-4)


def test_corners_resolution_and_dates_are_told(encoder: SensorEncoder, table: Path) -> None:
    batch = _batches(encoder, _read(table), batch_size=1)[0]
    told = batch.batch.metadata
    assert told is not None
    (number,) = batch.members
    corners = corners_lonlat((10.0, 0.0, 4e5 + 1e4 * number, 0.0, -10.0, 5.7e6), 40, 40, "EPSG:32632")
    assert np.allclose(told.lonlat_deg[0], np.mean(corners, axis=0), atol=1e-4)
    assert told.gsd_m.tolist() == [[10.0, 20.0]]
    assert told.input_gsd_m.tolist() == [[6.25, 6.25]]
    assert told.day_of_year[0, 0] == 0
    assert torch.isnan(told.day_of_year[0, 1])


def test_sets_of_several_sizes_are_scored_in_the_order_of_the_table(encoder: SensorEncoder, table: Path) -> None:
    evaluation = evaluate_sets(encoder, _read(table), _options(baseline=True, untrained=True))
    assert [row.features for row in evaluation.rows] == ["encoder", "untrained encoder"]
    assert evaluation.rows[0].scores[0].value == 1.0
    assert evaluation.num_samples == {"train": 15, "val": 3, "test": 6}
    assert evaluation.sensors == ("sentinel2-l2a", "sentinel1-grd")
    assert evaluation.notes[0] == "24 sets of 2 to 4 images, each set one sample"
    assert any(note.startswith("band means are left out") for note in evaluation.notes)
    assert any("trained on pairs" in note for note in evaluation.notes)


def test_the_size_of_batches_changes_no_score(encoder: SensorEncoder, table: Path) -> None:
    scores = [evaluate_sets(encoder, _read(table), _options(batch_size=size, pool="mean")).rows for size in (1, 64)]
    assert scores[0] == scores[1]


def test_band_means_stand_side_by_side_where_sets_have_the_same_sensors(encoder: SensorEncoder, tmp_path: Path) -> None:
    images = _read(_table(tmp_path, dates=1))
    evaluation = evaluate_sets(encoder, images, _options(baseline=True))
    assert evaluation.rows[1].features == "band means"
    assert evaluation.rows[1].width == 2 * (3 + 2)
    batch = _batches(encoder, images, batch_size=2)[0]
    # Radar comes first by name, though the table has it last.
    radar, optical = batch.items[0][1].image, batch.items[0][0].image
    expected = torch.cat([band_means(one)[0] for one in (radar, optical)])
    assert torch.equal(set_band_means(batch)[0], expected)
    assert isinstance(radar, ImageBatch)


def test_statistics_are_counted_on_the_training_sets_by_sensor(encoder: SensorEncoder, table: Path) -> None:
    evaluation = evaluate_sets(encoder, _read(table), _options(statistics="data"))
    assert evaluation.settings["normalisation"] == "statistics given by the caller"
    assert evaluation.rows[0].scores[0].value == 1.0


def test_images_of_a_set_that_show_other_ground_are_refused(encoder: SensorEncoder, tmp_path: Path) -> None:
    table = _table(tmp_path, num_sets=12)
    _write(tmp_path / "r0.tif", _pixels(0, 0, "sentinel1-grd"), east_m=5e4)
    with pytest.raises(GeometryError, match=r"'o0_0\.tif' and 'r0\.tif' share 0% of the larger one: .* cut both to"):
        evaluate_sets(encoder, _read(table), _options())


def test_an_image_without_data_is_refused(encoder: SensorEncoder, tmp_path: Path) -> None:
    table = _table(tmp_path, num_sets=12)
    _write(tmp_path / "r0.tif", np.full((2, 20, 20), np.nan, np.float32), east_m=0.0)
    with pytest.raises(RasterError, match=r"'r0\.tif' has no pixel with data"):
        evaluate_sets(encoder, _read(table), _options())


def test_a_date_in_the_future_is_refused(tmp_path: Path) -> None:
    table = _table(tmp_path, num_sets=12)
    table.write_text(table.read_text().replace("2020-01-01", "2999-01-01"))
    with pytest.raises(ManifestError, match=r"row 1 of '.*': .*2999-01-01.* future"):
        _read(table)


def test_sets_are_no_images(encoder: SensorEncoder, table: Path) -> None:
    with pytest.raises(InputError, match="the labels are of sets of images"):
        evaluate_images(encoder, _read(table), get_sensor("sentinel2-l2a"), _options())


def _words(golden: Path, table: Path) -> list[str]:
    checkpoint = str(golden / "smarties" / "checkpoint.safetensors")
    return ["evaluate", "knn", "--k", "3", "--checkpoint", checkpoint, "--data", str(table)]


def test_the_verb_evaluates_sets(golden: Path, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*_words(golden, table), "--json", "--no-metadata", "--pool", "mean"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["settings"]["metadata"] is False
    assert result["sensors"] == ["sentinel2-l2a", "sentinel1-grd"]
    assert result["settings"]["pool"] == "mean"
    assert result["rows"][0]["scores"][0]["value"] >= 0.6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--bands", "B02"], "images of sets have bands of their own: name them in the table's column `bands`"),
        (["--encoding", "dn"], "images of sets have an encoding of their own"),
        (["--sensor", "sentinel9"], "there is no sensor 'sentinel9'"),
    ],
)
def test_options_of_images_are_refused_for_sets(
    golden: Path, table: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main([*_words(golden, table), *words]) == 2
    assert message in capsys.readouterr().err


def test_images_need_a_sensor(golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["path,label,split"]
    for number in range(4):
        _write(tmp_path / f"{number}.tif", _pixels(number % 2, number, "o"), east_m=0.0)
        rows.append(f"{number}.tif,{'ab'[number % 2]},{'train' if number < 2 else 'test'}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    assert main(_words(golden, tmp_path / "t.csv")) == 2
    assert "say with --sensor what the images were taken by" in capsys.readouterr().err
