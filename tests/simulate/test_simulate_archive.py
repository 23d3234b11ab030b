"""Whole archives on disk."""

import csv
import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
import rasterio

from anyband.data.manifest import read_manifest
from anyband.errors import GeometryError, InputError, OutputError
from anyband.labelled.samples import DataSpec
from anyband.labelled.tables import list_samples
from anyband.sensors.catalogue import get_sensor
from anyband.simulate.archive import draw_preview, simulate
from anyband.simulate.plan import SimulateOptions, cover_names, sensors_of

OPTIONS = SimulateOptions(num_places=3, footprint_m=240.0, seed=11, edge_share=0.5, cloud_share=0.5, shown=False)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small archive of three places."""
    return simulate(tmp_path_factory.mktemp("simulated") / "archive", OPTIONS).parent


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_equal_options_give_equal_bytes_whatever_the_workers(archive: Path, tmp_path: Path) -> None:
    again = simulate(tmp_path / "again", dataclasses.replace(OPTIONS, workers=2)).parent
    assert _digests(again) == _digests(archive)


def test_more_places_leave_the_first_ones_as_they_are(archive: Path, tmp_path: Path) -> None:
    fewer = simulate(tmp_path / "fewer", dataclasses.replace(OPTIONS, num_places=1)).parent
    whole = _digests(archive)
    tifs = {name: digest for name, digest in _digests(fewer).items() if name.endswith(".tif")}
    assert tifs
    assert all(whole[name] == digest for name, digest in tifs.items())


def test_the_manifest_can_be_read(archive: Path) -> None:
    entries = read_manifest(archive / "manifest.csv")
    assert len(entries) == OPTIONS.num_places * len(OPTIONS.sensors)
    assert {entry.place for entry in entries} == {"place_00000", "place_00001", "place_00002"}


def test_all_images_of_a_place_have_one_footprint_in_utm(archive: Path) -> None:
    for place in sorted((archive / "images").iterdir()):
        footprints = set()
        for path in [*place.glob("*.tif"), archive / "landcover" / f"{place.name}.tif"]:
            with rasterio.open(path) as dataset:
                footprints.add((dataset.crs.to_epsg(), *dataset.bounds))
        assert len(footprints) == 1
        epsg, left, bottom, right, top = footprints.pop()
        assert 32601 <= epsg <= 32760
        assert (right - left, top - bottom) == (240.0, 240.0)


def test_images_have_the_pixel_sizes_and_band_names_of_their_sensors(archive: Path) -> None:
    sizes_m = {}
    for row in _rows(archive / "manifest.csv"):
        with rasterio.open(archive / row["path"]) as dataset:
            assert dataset.descriptions == get_sensor(row["sensor"]).band_names
            sizes_m[row["sensor"]] = dataset.res[0]
    expected = {"sentinel2-l2a": 10, "sentinel1-grd": 10, "maxar-rgb": 2.5, "landsat8-oli-tirs-l2": 30}
    assert sizes_m == expected


def test_labels_are_those_of_the_map(archive: Path) -> None:
    for row in _rows(archive / "labels.csv"):
        with rasterio.open(archive / row["map"]) as dataset:
            counts = np.bincount(dataset.read(1).ravel(), minlength=len(cover_names()) + 1)[1:]
        assert row["label"] == cover_names()[int(counts.argmax())]
        fractions = [float(row[name]) for name in cover_names()]
        np.testing.assert_allclose(fractions, counts / counts.sum(), atol=1e-4)


def test_each_sensor_has_a_table_of_labels_to_evaluate_on(archive: Path) -> None:
    of_place = {row["place"]: row["label"] for row in _rows(archive / "labels.csv")}
    for sensor in OPTIONS.sensors:
        samples = list_samples(DataSpec(source=str(archive / f"labels_{sensor}.csv"), sensors=(sensor,)))
        paths = [path for one in samples for path in one.images[0].source.paths]
        assert [one.label for one in samples] == [(of_place[path.parent.name],) for path in paths]
        assert all(sensor in path.name for path in paths)


def test_the_map_has_a_colour_for_each_class(archive: Path) -> None:
    classes = _rows(archive / "classes.csv")
    with rasterio.open(archive / "landcover" / "place_00000.tif") as dataset:
        colours = dataset.colormap(1)
    written = [f"#{''.join(f'{part:02x}' for part in colours[int(row['value'])][:3])}" for row in classes]
    assert written == [row["colour"] for row in classes]


def test_sensors_of_one_date_are_some_days_apart_at_most(archive: Path) -> None:
    times = {}
    for entry in read_manifest(archive / "manifest.csv"):
        assert entry.datetime is not None
        times.setdefault(entry.place, []).append(entry.datetime)
    assert all((max(seen) - min(seen)).days <= 2 * OPTIONS.max_gap_days for seen in times.values())


def test_several_dates_give_several_images(tmp_path: Path) -> None:
    options = dataclasses.replace(OPTIONS, num_places=1, num_dates=3, sensors=("sentinel2-l2a",))
    rows = _rows(simulate(tmp_path / "dates", options))
    assert len({row["path"] for row in rows}) == 3
    assert len({row["datetime"][:10] for row in rows}) >= 2


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept.txt").write_text("kept")
    with pytest.raises(OutputError, match="exists already; remove it or name another output"):
        simulate(tmp_path / "full", OPTIONS)
    assert (tmp_path / "full" / "kept.txt").read_text() == "kept"


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OutputError("no room on the disk")

    monkeypatch.setattr("anyband.simulate.archive._write_map", full)
    with pytest.raises(OutputError, match="no room"):
        simulate(tmp_path / "out", OPTIONS)
    assert list(tmp_path.iterdir()) == []


def test_a_pixel_finer_than_the_truth_is_refused() -> None:
    options = dataclasses.replace(OPTIONS, gsd_m=())
    with pytest.raises(GeometryError, match=r"'maxar-rgb' has pixels of 0.31 m, finer .* use --gsd maxar-rgb=2.5"):
        sensors_of(options)


def test_a_footprint_that_does_not_fit_the_pixels_is_refused() -> None:
    options = dataclasses.replace(OPTIONS, footprint_m=250.0, sensors=("landsat8-oli-tirs-l2",))
    with pytest.raises(GeometryError, match=r"250 m is no multiple of the pixel size 30 m .* use --footprint 240"):
        sensors_of(options)


def test_a_pixel_size_for_an_absent_sensor_is_refused() -> None:
    options = dataclasses.replace(OPTIONS, gsd_m=(("naip", 5.0),))
    with pytest.raises(InputError, match="a pixel size is given for 'naip', which is not simulated"):
        sensors_of(options)


def test_coarser_pixels_keep_bands_that_are_coarser_still() -> None:
    options = dataclasses.replace(OPTIONS, sensors=("sentinel2-l2a",), gsd_m=(("sentinel2-l2a", 30.0),))
    sizes = {band.name: band.gsd_m for band in sensors_of(options)[0].bands}
    assert (sizes["B02"], sizes["B05"], sizes["B01"]) == (30.0, 30.0, 60.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_places": 0}, "num_places must be at least 1, found 0"),
        ({"cloud_share": 1.5}, "cloud_share must be from 0 to 1, found 1.5"),
        ({"sensors": ()}, "no sensors are named"),
    ],
)
def test_options_are_checked(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        dataclasses.replace(OPTIONS, **change)


def test_the_preview_is_a_picture(tmp_path: Path) -> None:
    draw_preview(tmp_path / "preview.png", OPTIONS, indices=(0,))
    assert (tmp_path / "preview.png").read_bytes().startswith(b"\x89PNG")
