"""The tables of real maps of labels open, and say of the ground what the files say."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import h5netcdf
import numpy as np
import pytest
import rasterio
import yaml

from anyband.labelled import open_task_data
from anyband.labelled.samples import BlockSpec, DataSpec, SplitSpec, TaskData

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    """The builder of the tables."""
    spec = importlib.util.spec_from_file_location("dense_tables", Path(__file__).parent / "dense_tables.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def written(tables: ModuleType, real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tables, with three dates."""
    folder = tmp_path_factory.mktemp("tables")
    tables.write_tables(real_data, folder, most_dates=3)
    return folder


def _opened(folder: Path, name: str, *, whole: bool = False) -> TaskData:
    described = yaml.safe_load((folder / "data.yaml").read_text())[name]
    split = described["split"]
    blocks = BlockSpec(size_px=split["blocks"]["size_px"]) if whole else BlockSpec(**split["blocks"])
    spec = DataSpec(
        source=described["source"],
        kind=described["kind"],
        classes=described["classes"],
        ignore=tuple(described.get("ignore", ())),
        split=SplitSpec(val=split["val"], test=split["test"], blocks=blocks),
    )
    return open_task_data(spec, seed=0)


_NAMES = [f"worldcereal_{kind}" for kind in ("s2", "s1", "both", "landsat8")]
_NAMES += [f"sen1floods11_{kind}" for kind in ("s2", "s1", "both")] + ["taizhou_change"]


@pytest.mark.parametrize("name", _NAMES)
def test_each_table_has_every_class_in_every_part(written: Path, name: str) -> None:
    data = _opened(written, name)
    for part in ("train", "val", "test"):
        maps = [data.read(int(index)).class_map for index in data.split(part)]
        assert set(np.unique(maps)) == {-1, *range(len(data.classes))}


def test_tables_of_one_place_have_one_division(written: Path) -> None:
    parts = []
    for name in ("worldcereal_s1", "worldcereal_landsat8"):
        data = _opened(written, name)
        labelled = np.zeros((3, 64, 64), dtype=bool)
        for index in range(len(data)):
            labelled[("train", "val", "test").index(data.splits[index])] |= data.read(index).class_map >= 0
        parts.append(labelled)
    np.testing.assert_array_equal(parts[0], parts[1])


def test_change_counts_are_those_of_the_published_pictures(written: Path) -> None:
    data = _opened(written, "taizhou_change", whole=True)
    counts = sum(np.bincount(data.read(index).class_map.ravel() + 1, minlength=3)[1:] for index in range(3))
    assert counts.tolist() == [17163, 4227]


def test_water_counts_are_those_of_the_published_raster(written: Path, real_data: Path) -> None:
    data = _opened(written, "sen1floods11_s1", whole=True)
    counts = sum(np.bincount(data.read(index).class_map.ravel() + 1, minlength=3)[1:] for index in range(3))
    assert counts.tolist() == [192010, 70035]


def test_radar_alone_is_written_finer_and_not_changed(written: Path, real_data: Path) -> None:
    data = _opened(written, "worldcereal_s1")
    path = next(written.glob("worldcereal_s1/*.tif"))
    with rasterio.open(path) as file:
        fine = file.read()
    (source,) = real_data.glob("worldcereal_s1_s2_l8_timeseries/00002806639B424A/S1_GRD-*.nc")
    with h5netcdf.File(source, "r") as file:
        stored = np.stack([file.variables[band][...] for band in ("VV", "VH")], axis=1)
    coarse = fine[:, ::2, ::2]
    assert (stored == coarse).all(axis=(1, 2, 3)).any()
    np.testing.assert_array_equal(fine, coarse.repeat(2, axis=1).repeat(2, axis=2))
    assert data.read(0).images[0].sensor.name == "sentinel1-grd"


def test_pairs_are_a_few_days_apart(written: Path) -> None:
    data = _opened(written, "worldcereal_both")
    for index in range(len(data)):
        first, second = (image.datetime for image in data.read(index).images)
        assert abs((first - second).days) <= 6


def test_dates_of_change_and_their_place_are_those_of_the_headers(written: Path) -> None:
    sample = _opened(written, "taizhou_change").read(0)
    assert [f"{image.datetime:%Y-%m-%d}" for image in sample.images] == ["2000-03-17", "2003-02-06"]
    assert {image.grid.crs for image in sample.images} == {"EPSG:32651"}
    assert {image.sensor.name for image in sample.images} == {"landsat7-dn8"}
