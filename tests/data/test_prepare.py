"""Preparing: registered chips, the right numbers, nothing half-written, the same bytes after a kill."""

import contextlib
import datetime as dt
import errno
import json
import random
import signal
import sqlite3
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely

from anyband.data.ledger import open_ledger
from anyband.data.manifest import ImageEntry, parse_entry
from anyband.data.prepare import PrepareOptions, PrepareReport, prepare
from anyband.data.store import ChipStore, partial_path
from anyband.errors import AnybandError, GeometryError, InputError, ManifestError, OutputError, RasterError

_EAST_M, _NORTH_M = 500_000.0, 5_000_000.0
_ALL_TRAIN = (1.0, 0.0, 0.0)

Writer = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    """Write a GeoTIFF into the test's folder."""

    def write_tiff(
        name: str,
        pixels: np.ndarray,
        *,
        gsd_m: float = 10.0,
        east_m: float = 0.0,
        south_m: float = 0.0,
        crs: str | None = "EPSG:32631",
        nodata: float | None = None,
    ) -> Path:
        path = tmp_path / "images" / name
        path.parent.mkdir(exist_ok=True)
        transform = rasterio.Affine(gsd_m, 0.0, _EAST_M + east_m, 0.0, -gsd_m, _NORTH_M - south_m)
        shape = {"count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2]}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            with rasterio.open(
                path,
                "w",
                driver="GTiff",
                dtype=pixels.dtype,
                crs=crs,
                transform=transform if crs else None,
                nodata=nodata,
                **shape,
            ) as file:
                file.write(pixels)
        return path

    return write_tiff


def _entry(path: Path, sensor: str, **columns: Any) -> ImageEntry:
    return parse_entry({"path": path.name, "sensor": sensor, **columns}, folder=path.parent)


def _noise(seed: int, bands: int, side: int, dtype: str = "uint16") -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 200, (bands, side, side)).astype(dtype)


def _ramp(side: int, gsd_m: float, east_m: float, south_m: float) -> np.ndarray:
    """Band 0 is the metres to the east of the corner of the first image, band 1 those to the south."""
    east = east_m + gsd_m * (np.arange(side) + 0.5)
    south = south_m + gsd_m * (np.arange(side) + 0.5)
    return np.stack(np.broadcast_arrays(east[None, :], south[:, None])).astype(np.float32)


def _files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def _prepare(entries: list[ImageEntry], out: Path, run: dict[str, Any] | None = None, **options: Any) -> PrepareReport:
    return prepare(entries, out, PrepareOptions(**{"fractions": _ALL_TRAIN, **options}), **(run or {}))


def test_pair_is_cut_to_one_footprint_each_at_its_own_resolution(write, tmp_path) -> None:
    fine, coarse = _noise(0, 2, 96), _noise(1, 2, 48)
    entries = [
        _entry(write("fine.tif", fine), "sentinel2-l2a", bands="B04;B08"),
        _entry(write("coarse.tif", coarse, gsd_m=20.0, east_m=320.0), "sentinel2-l2a", bands="B11;B12"),
    ]
    report = _prepare(entries, tmp_path / "store")
    store = ChipStore.open(tmp_path / "store")
    assert report.pairs == {"sentinel2-l2a + sentinel2-l2a": 1}
    np.testing.assert_array_equal(store.read("sentinel2-l2a_96x64", [0])[0][0], fine[:, :, 32:])
    np.testing.assert_array_equal(store.read("sentinel2-l2a_48x32", [0])[0][0], coarse[:, :, :32])


@pytest.mark.parametrize(("gsd_m", "east_m", "south_m"), [(20.0, 0.0, 0.0), (30.0, 15.0, -15.0), (17.3, 3.1, 7.7)])
@pytest.mark.parametrize("options", [{}, {"chip_px": 32}])
def test_chips_of_a_footprint_show_the_same_ground(write, tmp_path, gsd_m, east_m, south_m, options) -> None:
    side = int(1000 / gsd_m)
    fine = write("fine.tif", _ramp(100, 10.0, 0.0, 0.0))
    coarse = write("coarse.tif", _ramp(side, gsd_m, east_m, south_m), gsd_m=gsd_m, east_m=east_m, south_m=south_m)
    entries = [
        _entry(fine, "sentinel2-l2a", bands="B04;B08", scale=1),
        _entry(coarse, "sentinel2-l2a", bands="B11;B12", scale=1),
    ]
    _prepare(entries, tmp_path / "store", **options)
    store = ChipStore.open(tmp_path / "store")
    for row in store.index.to_pylist():
        (chip,), valid = store.read(row["array"], [row["array_row"]])
        a, _, x, _, e, y = row["transform"]
        seen = np.ones(chip.shape, dtype=bool) if valid is None else valid[0]
        # Beside the rim, where interpolation has no neighbour, a ramp is interpolated without error.
        seen[:, [0, -1]] = seen[:, :, [0, -1]] = False
        east = np.broadcast_to(x - _EAST_M + a * (np.arange(chip.shape[2]) + 0.5), chip.shape[1:])
        south = np.broadcast_to((_NORTH_M - y - e * (np.arange(chip.shape[1]) + 0.5))[:, None], chip.shape[1:])
        assert np.abs(chip[0] - east)[seen[0]].max() <= 0.26 * a
        assert np.abs(chip[1] - south)[seen[1]].max() <= 0.26 * a


def test_index_says_where_and_when_a_chip_is(write, tmp_path) -> None:
    entry = _entry(write("a.tif", _noise(0, 3, 64, "uint8")), "maxar-rgb", place="town", datetime="2020-07-01T10:00Z")
    _prepare([entry], tmp_path / "store", chip_px=32)
    rows = ChipStore.open(tmp_path / "store").index.to_pylist()
    last = rows[3]
    assert [row["cell"] for row in rows] == ["r000c000", "r000c001", "r001c000", "r001c001"]
    assert last["transform"] == [10.0, 0.0, _EAST_M + 320.0, 0.0, -10.0, _NORTH_M - 320.0]
    assert (last["place"], last["sensor"], last["crs"], last["gsd_m"]) == (
        "town",
        "maxar-rgb",
        "EPSG:32631",
        10.0,
    )
    assert last["datetime"] == dt.datetime(2020, 7, 1, 10, tzinfo=dt.UTC)
    assert last["source_path"] == "a.tif"
    footprint = shapely.from_wkb(last["geometry"])
    np.testing.assert_allclose(footprint.centroid.coords[0], [3.00610, 45.14920], atol=1e-4)


def test_geopandas_reads_the_index_of_a_store(write, tmp_path) -> None:
    geopandas = pytest.importorskip("geopandas")
    _prepare([_entry(write("a.tif", _noise(0, 3, 64, "uint8")), "maxar-rgb")], tmp_path / "store", chip_px=32)
    frame = geopandas.read_parquet(tmp_path / "store" / "index.parquet")
    ground = frame.to_crs("EPSG:32631").area
    np.testing.assert_allclose(ground, 320.0**2, rtol=1e-4)


def test_integers_stay_as_they_are(write, tmp_path) -> None:
    pixels = _noise(0, 3, 32, "int16")
    _prepare([_entry(write("a.tif", pixels), "maxar-rgb")], tmp_path / "store")
    chips, valid = ChipStore.open(tmp_path / "store").read("maxar-rgb_32x32", [0])
    assert chips.dtype == np.int16
    assert valid is None
    np.testing.assert_array_equal(chips[0], pixels)


@pytest.mark.parametrize("encoding", ["db", "linear"])
def test_radar_floats_are_kept_as_hundredths_of_a_decibel(write, tmp_path, encoding: str) -> None:
    decibel = np.random.default_rng(0).uniform(-40.0, 5.0, (2, 32, 32))
    stored = decibel if encoding == "db" else 10 ** (decibel / 10)
    entry = _entry(write("a.tif", stored.astype(np.float32)), "sentinel1-grd", encoding=encoding)
    _prepare([entry], tmp_path / "store")
    store = ChipStore.open(tmp_path / "store")
    chips, _ = store.read("sentinel1-grd_32x32", [0])
    assert chips.dtype == np.int16
    assert store.arrays["sentinel1-grd_32x32"].encoding["VV"].scale == 0.01
    np.testing.assert_allclose(chips[0] * 0.01, decibel, atol=0.0051)


def test_no_echo_is_no_data(write, tmp_path) -> None:
    power = np.ones((2, 32, 32), dtype=np.float32)
    power[0, :4] = 0.0
    _prepare([_entry(write("a.tif", power), "sentinel1-grd", encoding="linear")], tmp_path / "store")
    chips, valid = ChipStore.open(tmp_path / "store").read("sentinel1-grd_32x32", [0])
    assert valid is not None
    assert not valid[0, 0, :4].any()
    assert valid[0, 1].all()
    assert (chips[0, 0, :4] == -32768).all()


def test_other_floats_are_kept_as_float32_and_nan_is_no_data(write, tmp_path) -> None:
    pixels = np.random.default_rng(0).normal(300.0, 5.0, (3, 32, 32))
    pixels[1, 5, 6] = np.nan
    _prepare([_entry(write("a.tif", pixels), "maxar-rgb")], tmp_path / "store")
    chips, valid = ChipStore.open(tmp_path / "store").read("maxar-rgb_32x32", [0])
    assert chips.dtype == np.float32
    assert np.argwhere(~valid[0]).tolist() == [[1, 5, 6]]
    np.testing.assert_allclose(chips[0], np.nan_to_num(pixels, nan=0.0), rtol=1e-6)


def test_nodata_and_masks_reach_the_store(write, tmp_path) -> None:
    pixels = _noise(0, 3, 32, "uint8")
    pixels[:, 0, :10] = 255
    mask = np.ones((1, 32, 32), dtype=np.uint8)
    mask[0, 5, 5] = 0
    write("mask.tif", mask)
    entry = _entry(write("a.tif", pixels, nodata=255), "maxar-rgb", valid="mask.tif")
    _prepare([entry], tmp_path / "store")
    chips, valid = ChipStore.open(tmp_path / "store").read("maxar-rgb_32x32", [0])
    assert not valid[0, :, 0, :10].any()
    assert not valid[0, :, 5, 5].any()
    assert valid[0].sum() == 3 * (32 * 32 - 11)
    assert chips[0, 0, 5, 5] == 255


def test_chips_with_too_little_data_are_left_out(write, tmp_path) -> None:
    pixels = _noise(0, 3, 64, "uint8")
    pixels[:, :, 48:] = 0
    entry = _entry(write("a.tif", pixels, nodata=0), "maxar-rgb")
    report = _prepare([entry], tmp_path / "store", chip_px=32, min_valid=0.75)
    assert report.chips == {"maxar-rgb": 2}
    assert {row["cell"] for row in ChipStore.open(tmp_path / "store").index.to_pylist()} == {
        "r000c000",
        "r001c000",
    }


def test_images_without_crs_are_paired_by_their_place(write, tmp_path) -> None:
    entries = [
        _entry(write("a.tif", _noise(0, 12, 120), crs=None), "sentinel2-l2a", place="patch 7"),
        _entry(write("b.tif", _noise(1, 2, 60, "int16"), crs=None), "sentinel1-grd", place="patch 7", scale=0.01),
    ]
    report = _prepare(entries, tmp_path / "store")
    rows = ChipStore.open(tmp_path / "store").index.to_pylist()
    assert report.pairs == {"sentinel2-l2a + sentinel1-grd": 1}
    assert [row["crs"] for row in rows] == [row["geometry"] for row in rows] == [None, None]


def test_splits_are_those_of_the_places(write, tmp_path) -> None:
    entries = [
        _entry(write(f"{place}{date}.tif", _noise(0, 3, 32, "uint8"), east_m=1e4 * place), "maxar-rgb")
        for place in range(12)
        for date in range(2)
    ]
    _prepare(entries, tmp_path / "store", fractions=(0.5, 0.25, 0.25), chip_px=16)
    rows = ChipStore.open(tmp_path / "store").index.to_pylist()
    by_place: dict[str, set[str]] = {}
    for row in rows:
        by_place.setdefault(row["place"], set()).add(row["split"])
    assert len(by_place) == 12
    assert {len(splits) for splits in by_place.values()} == {1}
    assert len({row["split"] for row in rows}) > 1


def test_arrays_are_told_apart_by_what_their_numbers_mean(write, tmp_path) -> None:
    entries = [
        _entry(write("a.tif", _noise(0, 12, 32)), "sentinel2-l2a", encoding="dn"),
        _entry(write("b.tif", _noise(1, 12, 32)), "sentinel2-l2a", encoding="baseline_04.00"),
    ]
    _prepare(entries, tmp_path / "store")
    arrays = ChipStore.open(tmp_path / "store").arrays
    assert {name: info.encoding["B02"].offset for name, info in arrays.items()} == {
        "sentinel2-l2a_32x32": 0.0,
        "sentinel2-l2a_32x32_2": -0.1,
    }


def test_statistics_are_those_of_the_train_split(write, tmp_path) -> None:
    rng = np.random.default_rng(0)
    train, test = (rng.normal(mean, 20.0, (3, 128, 128)).clip(1, 254).astype(np.uint8) for mean in (80, 200))
    entries = [
        _entry(write("a.tif", train), "maxar-rgb", place="a", split="train"),
        _entry(write("b.tif", test), "maxar-rgb", place="b", split="test"),
    ]
    _prepare(entries, tmp_path / "store", statistics=True)
    found = ChipStore.open(tmp_path / "store").statistics["maxar-rgb"]["G"]
    low, high = np.percentile(train[1], [1, 99])
    scaled = (np.clip(train[1], low, high) - low) / (high - low)
    np.testing.assert_allclose([found.p01, found.p99], [low, high], atol=1.0)
    np.testing.assert_allclose([found.mean, found.std], [scaled.mean(), scaled.std()], atol=0.01)


def test_default_encoding_is_reported(write, tmp_path) -> None:
    report = _prepare([_entry(write("a.tif", _noise(0, 12, 32)), "sentinel2-l2a")], tmp_path / "store")
    assert "sentinel2-l2a: encoding 'dn', the default, was taken for 1 image; none was declared" in report.notes


def test_interpolated_chips_are_reported(write, tmp_path) -> None:
    entries = [
        _entry(write("a.tif", _noise(0, 3, 64, "uint8")), "maxar-rgb"),
        _entry(write("b.tif", _noise(1, 2, 64, "int16"), east_m=5.0), "sentinel1-grd", scale=0.01),
    ]
    report = _prepare(entries, tmp_path / "store", chip_px=32)
    assert any(note.startswith("sentinel1-grd: 4 of 4 chips were interpolated") for note in report.notes)


def test_images_that_cannot_be_used_are_skipped_and_the_reasons_kept(write, tmp_path) -> None:
    good = _entry(write("good.tif", _noise(0, 3, 32, "uint8")), "maxar-rgb")
    empty = write("zero.tif", _noise(0, 3, 32, "uint8"))
    empty.write_bytes(b"")
    truncated = write("cut.tif", _noise(0, 3, 256, "uint8"))
    truncated.write_bytes(truncated.read_bytes()[:20_000])
    entries = [
        good,
        _entry(empty, "maxar-rgb"),
        _entry(truncated, "maxar-rgb"),
        _entry(write("small.tif", _noise(0, 3, 15, "uint8")), "maxar-rgb"),
        _entry(write("nothing.tif", np.zeros((3, 32, 32), np.uint8), nodata=0), "maxar-rgb"),
        _entry(write("nan.tif", np.full((3, 32, 32), np.nan, np.float32)), "maxar-rgb"),
        _entry(write("bands.tif", _noise(0, 5, 32, "uint8")), "maxar-rgb"),
        _entry(tmp_path / "images" / "missing.tif", "maxar-rgb"),
        good,
    ]
    for number, entry in enumerate(entries[1:-1]):
        entries[number + 1] = parse_entry(
            {"path": entry.name, "sensor": "maxar-rgb", "place": f"p{number}"}, folder=tmp_path / "images"
        )
    report = _prepare(entries, tmp_path / "store")
    reasons = dict(report.skipped)
    assert report.chips == {"maxar-rgb": 1}
    assert "is empty (0 bytes)" in reasons["zero.tif"]
    assert "truncated or damaged" in reasons["cut.tif"]
    assert "has 15 × 15 pixels, smaller than a patch (16 × 16)" in reasons["small.tif"]
    assert "has no data: every pixel is nodata, NaN or masked" in reasons["nothing.tif"]
    assert "has no data: every pixel is nodata, NaN or masked" in reasons["nan.tif"]
    assert "has 5 bands, sensor 'maxar-rgb' has 3" in reasons["bands.tif"]
    assert "does not exist" in reasons["missing.tif"]
    assert "stands in the list twice" in reasons["good.tif"]
    saved = json.loads((tmp_path / "store" / "store.json").read_text())["report"]["skipped"]
    assert {one["name"] for one in saved} == set(reasons)


def test_strict_makes_an_error_of_what_would_be_skipped(write, tmp_path) -> None:
    entries = [
        _entry(write("good.tif", _noise(0, 3, 32, "uint8")), "maxar-rgb"),
        _entry(write("small.tif", _noise(0, 3, 15, "uint8")), "maxar-rgb", place="p"),
    ]
    with pytest.raises(RasterError, match=r"smaller than a patch .*with --strict"):
        _prepare(entries, tmp_path / "store", {"strict": True})


@pytest.mark.parametrize("sides", [(15, 32), (32, 5_000)])
def test_strict_says_first_what_surveys_and_places_say_then_what_cutting_says(write, tmp_path, sides) -> None:
    truncated = write("cut.tif", _noise(0, 3, 256, "uint8"))
    truncated.write_bytes(truncated.read_bytes()[:20_000])
    side, east_m = sides
    entries = [
        _entry(truncated, "maxar-rgb", place="p"),
        _entry(write("a.tif", _noise(0, 3, 32, "uint8")), "maxar-rgb", place="q"),
        _entry(write("b.tif", _noise(0, 3, side, "uint8"), east_m=float(east_m)), "maxar-rgb", place="q"),
    ]
    message = "smaller than a patch" if side < 16 else "place 'q': 'a.tif' does not overlap"
    with pytest.raises(AnybandError, match=message):
        _prepare(entries, tmp_path / "out" / "store", {"strict": True})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_declared_places_stand_in_the_order_of_the_first_images_that_are_used(write, tmp_path, workers: int) -> None:
    places = {"small": "p", "a": "q", "b": "r", "c": "p", "d": "s", "e": "q"}
    entries = [
        _entry(write(f"{name}.tif", _noise(0, 3, 15 if name == "small" else 32, "uint8")), "maxar-rgb", place=place)
        for name, place in places.items()
    ]
    report = _prepare(entries, tmp_path / "store", {"workers": workers})
    assert [name for name, _ in report.skipped] == ["small.tif"]
    index = ChipStore.open(tmp_path / "store").index
    assert index.column("source_path").to_pylist() == ["a.tif", "e.tif", "b.tif", "c.tif", "d.tif"]


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((3, 32, 32), np.uint8), r"none of the 1 image can be used: 'a.tif' has no data"),
        (np.ones((3, 8, 32), np.uint8), r"image can be used: 'a.tif' has 8 × 32 pixels, smaller"),
        (np.ones((2, 32, 32), np.uint8), r"image can be used: .*has 2 bands, sensor 'maxar-rgb' has 3"),
        (np.ones((3, 32, 32), np.complex64), r"band 'R' of '.*a.tif' has complex numbers \(complex64\)"),
    ],
)  # fmt: skip
def test_no_usable_image_is_an_error_and_leaves_nothing(write, tmp_path, pixels, message) -> None:
    with pytest.raises(RasterError, match=message):
        _prepare([_entry(write("a.tif", pixels, nodata=0), "maxar-rgb")], tmp_path / "out" / "store")
    assert not (tmp_path / "out").exists()


def test_declared_pair_that_does_not_overlap_is_an_error_and_leaves_nothing(write, tmp_path) -> None:
    entries = [
        _entry(write("a.tif", _noise(0, 3, 32, "uint8")), "maxar-rgb", place="p"),
        _entry(write("b.tif", _noise(0, 3, 32, "uint8"), east_m=5_000.0), "maxar-rgb", place="p"),
    ]
    with pytest.raises(GeometryError, match=r"place 'p': 'a.tif' does not overlap any other image"):
        _prepare(entries, tmp_path / "out" / "store")
    assert not (tmp_path / "out").exists()


def test_no_images_are_an_error() -> None:
    with pytest.raises(ManifestError, match="there are no images to prepare"):
        prepare([], Path("nowhere"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chip_px": 15}, r"chips of 15 pixels are smaller than a patch \(16 pixels\)"),
        ({"chip_px": 32, "chip_m": 100.0}, "give one of them"),
        ({"chip_m": 0.0}, "chip_m must be over 0 metres"),
        ({"min_valid": 1.5}, "min_valid is a share from 0 to 1"),
        ({"fractions": (0.5, 0.2, 0.2)}, "must sum to 1"),
    ],
)
def test_wrong_options_are_refused(options, message) -> None:
    with pytest.raises(InputError, match=message):
        PrepareOptions(**options)


def test_finished_store_of_the_same_images_is_left_alone(write, tmp_path) -> None:
    entries = [_entry(write("a.tif", _noise(0, 3, 32, "uint8")), "maxar-rgb")]
    first = _prepare(entries, tmp_path / "store")
    before = (tmp_path / "store" / "store.json").stat().st_mtime_ns
    again = _prepare(entries, tmp_path / "store")
    assert again.was_complete
    assert again.chips == first.chips
    assert (tmp_path / "store" / "store.json").stat().st_mtime_ns == before


def test_store_of_other_images_is_replaced_only_when_asked(write, tmp_path) -> None:
    one = _entry(write("a.tif", _noise(0, 3, 32, "uint8")), "maxar-rgb")
    other = _entry(write("b.tif", _noise(1, 3, 32, "uint8")), "maxar-rgb")
    _prepare([one], tmp_path / "store")
    before = _files(tmp_path / "store")
    with pytest.raises(OutputError, match=r"is a chip store of other images or options; replace it with --overwrite"):
        _prepare([other], tmp_path / "store")
    assert _files(tmp_path / "store") == before
    _prepare([other], tmp_path / "store", {"overwrite": True})
    assert ChipStore.open(tmp_path / "store").index.column("source_path").to_pylist() == ["b.tif"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "store"]


def test_folder_that_is_no_store_is_never_replaced(write, tmp_path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "thesis.txt").write_text("all of it")
    entries = [_entry(write("a.tif", _noise(0, 3, 32, "uint8")), "maxar-rgb")]
    with pytest.raises(OutputError, match=r"exists and is no whole chip store"):
        _prepare(entries, tmp_path / "store", {"overwrite": True})
    assert (tmp_path / "store" / "thesis.txt").read_text() == "all of it"


def test_output_below_a_file_is_said(write, tmp_path) -> None:
    (tmp_path / "file").touch()
    entries = [_entry(write("a.tif", _noise(0, 3, 32, "uint8")), "maxar-rgb")]
    with pytest.raises(OutputError, match=r"cannot write|not writable"):
        _prepare(entries, tmp_path / "file" / "store")


def test_full_disk_is_said_and_the_work_so_far_is_kept(write, tmp_path, monkeypatch) -> None:
    entries = [_entry(write("a.tif", _noise(0, 3, 256, "uint8")), "maxar-rgb")]
    _prepare(entries, tmp_path / "whole", chip_px=256)

    replace = Path.replace

    def full(beside: Path, path: Path) -> Path:
        if path.suffix != ".partial" and path.name != "anyband":  # All but the mark of the folder.
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(beside, path)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", full)
        with pytest.raises(OutputError, match=r"No space left.*what is finished is kept"):
            _prepare(entries, tmp_path / "store", chip_px=256)
    assert partial_path(tmp_path / "store").is_dir()
    assert not (tmp_path / "store").exists()
    _prepare(entries, tmp_path / "store", chip_px=256)
    assert _files(tmp_path / "store") == _files(tmp_path / "whole")
    assert not partial_path(tmp_path / "store").exists()


def test_two_runs_do_not_write_one_store(write, tmp_path) -> None:
    entries = [_entry(write("a.tif", _noise(0, 3, 32, "uint8")), "maxar-rgb")]
    with open_ledger(tmp_path / "store"), pytest.raises(OutputError, match="another run is writing to"):
        _prepare(entries, tmp_path / "store")


def test_workers_change_no_byte(write, tmp_path) -> None:
    entries = [_entry(write(f"{n}.tif", _noise(n, 3, 48, "uint8"), east_m=300.0 * n), "maxar-rgb") for n in range(6)]
    _prepare(entries, tmp_path / "one", chip_px=16)
    _prepare(entries, tmp_path / "two", {"workers": 2}, chip_px=16)
    assert _files(tmp_path / "one") == _files(tmp_path / "two")


def test_batches_of_small_images_change_no_byte(write, tmp_path, monkeypatch) -> None:
    from anyband.data import prepare as prepare_steps

    entries = [_entry(write(f"{n}.tif", _noise(n, 3, 48, "uint8"), east_m=300.0 * n), "maxar-rgb") for n in range(9)]
    _prepare(entries, tmp_path / "one", chip_px=16)
    monkeypatch.setattr(prepare_steps, "_BATCHES_PER_WORKER", 1)
    _prepare(entries, tmp_path / "two", {"workers": 2}, chip_px=16)
    assert _files(tmp_path / "one") == _files(tmp_path / "two")


def _pieces_done(ledger: Path) -> int:
    try:
        with contextlib.closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as database:
            counts = database.execute("SELECT (SELECT count(*) FROM surveys) + (SELECT count(*) FROM cuts)")
            return int(counts.fetchone()[0])
    except sqlite3.Error:
        return 0


@pytest.mark.parametrize("places", [False, True])
def test_a_run_killed_at_any_moment_and_started_again_gives_the_same_bytes(write, tmp_path, places: bool) -> None:
    rows = []
    for n in range(24):
        pixels = _noise(n, 3, 64, "uint8")
        pixels[:, : n % 5] = 0
        path = write(f"{n}.tif", pixels, east_m=2_000.0 * (n // 2), nodata=0)
        place = {"place": f"place {n // 2}"} if places else {}
        rows.append({"path": str(path), "sensor": "maxar-rgb", "datetime": f"{1990 + n}-01-01", **place})
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    program = (
        "import json, sys, time; from pathlib import Path\n"
        "import anyband.data.store_writer as writer; writer.CHIPS_PER_SHARD = 16\n"
        "from anyband.data.ledger import Ledger\n"
        "note = Ledger._note\n"
        "Ledger._note = lambda self, *words: (note(self, *words), time.sleep(float(sys.argv[2])))\n"
        "from anyband.data.manifest import parse_entry\n"
        "from anyband.data.prepare import PrepareOptions, prepare\n"
        f"rows = json.loads(Path({str(tmp_path / 'rows.json')!r}).read_text())\n"
        "entries = [parse_entry(row, folder=Path()) for row in rows]\n"
        "prepare(entries, Path(sys.argv[1]), PrepareOptions(chip_px=32))\n"
    )

    def start(out: Path, pause_s: float) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", program, str(out), str(pause_s)])

    assert start(tmp_path / "whole", 0.0).wait() == 0
    killed = tmp_path / "killed"
    ledger = partial_path(killed) / "ledger.sqlite"
    for goal in (10, 40):
        process = start(killed, 0.01)
        while process.poll() is None and _pieces_done(ledger) < goal:
            time.sleep(0.002)
        time.sleep(random.Random(goal).uniform(0.0, 0.03))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not killed.exists()
    assert start(killed, 0.0).wait() == 0
    assert _files(killed) == _files(tmp_path / "whole")
    assert not partial_path(killed).exists()


def test_unfinished_store_of_other_images_is_not_taken_up(write, tmp_path) -> None:
    entries = [_entry(write(f"{n}.tif", _noise(n, 3, 32, "uint8"), east_m=1e4 * n), "maxar-rgb") for n in range(2)]
    with open_ledger(tmp_path / "store") as ledger:
        (ledger.path.parent / "store" / "chips").mkdir(parents=True)
        ledger.begin("others")
        ledger.keep_survey(0, "of another run")
    report = _prepare(entries, tmp_path / "store")
    assert report.skipped == ()


@pytest.mark.parametrize("side", [32, 256])
def test_chips_of_an_earlier_run_that_are_damaged_are_said(write, tmp_path, monkeypatch, side: int) -> None:
    entries = [_entry(write(f"{n}.tif", _noise(n, 3, side, "uint8"), east_m=1e4 * n), "maxar-rgb") for n in range(2)]
    with monkeypatch.context() as patched:
        patched.setattr("anyband.data.prepare.StoreWriter.finish_arrays", _stopped)
        with pytest.raises(OutputError, match="stopped"):
            _prepare(entries, tmp_path / "store")
    partial = partial_path(tmp_path / "store")
    for file in (partial / "spool").iterdir():
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    with contextlib.closing(sqlite3.connect(partial / "ledger.sqlite")) as database, database:
        database.execute("UPDATE cuts SET content = zeroblob(length(content))")
    with pytest.raises(OutputError, match="which an earlier run wrote, is damaged; remove its folder"):
        _prepare(entries, tmp_path / "store")


def _stopped(_writer: object) -> None:
    raise OutputError("stopped")


def test_two_sensors_of_one_name_are_refused(write, tmp_path) -> None:
    image = write("a.tif", _noise(0, 1, 32, "uint8"))
    for file, high_nm in (("one.yaml", 700), ("other.yaml", 800)):
        (image.parent / file).write_text(
            "mission: M\nsource: s\nsensors:\n  mine:\n    title: T\n    nodata: null\n    unit: count\n"
            "    default_encoding: dn\n    encodings: {dn: {scale: 1.0, source: x}}\n"
            f"    bands: [{{name: P, low_nm: 450, high_nm: {high_nm}, gsd_m: 1}}]\n"
        )
    entries = [_entry(image, "one.yaml"), _entry(image, "other.yaml")]
    with pytest.raises(ManifestError, match=r"two different sensors are named 'mine'"):
        _prepare(entries, tmp_path / "store")


def test_what_a_run_killed_at_its_very_end_left_is_removed(write, tmp_path) -> None:
    entries = [_entry(write("a.tif", _noise(0, 3, 32, "uint8")), "maxar-rgb")]
    _prepare(entries, tmp_path / "store")
    with open_ledger(tmp_path / "store") as ledger:
        ledger.begin(json.loads((tmp_path / "store" / "store.json").read_text())["inputs"])
    assert _prepare(entries, tmp_path / "store").was_complete
    assert not partial_path(tmp_path / "store").exists()


def test_a_damaged_image_gives_our_error_or_none_and_leaves_nothing_half_done(write, tmp_path) -> None:
    path = write("a.tif", _noise(0, 3, 32, "uint8"))
    rng = np.random.default_rng(0)
    whole = path.read_bytes()
    for trial in range(25):
        damaged = bytearray(whole)
        for _ in range(8):
            damaged[int(rng.integers(len(damaged)))] = int(rng.integers(256))
        path.write_bytes(bytes(damaged))
        out = tmp_path / f"store{trial}"
        with contextlib.suppress(AnybandError):
            _prepare([_entry(path, "maxar-rgb")], out)
        assert not partial_path(out).exists()
