"""One row may mean several times of a file: a row a date was the only way, and messages said `time_index`."""

import datetime as dt
from pathlib import Path

import h5netcdf
import numpy as np
import pytest

from anyband.data.manifest import open_manifest, parse_entry, read_manifest
from anyband.data.prepare import prepare
from anyband.data.store import ChipStore
from anyband.errors import ManifestError

DAYS = (0, 5, 31, 36)
DATES = tuple(dt.date(2020, 7, 1) + dt.timedelta(days=day) for day in DAYS)


def _cube(path: Path, *, names=("VV", "VH"), units: str | None = "days since 2020-07-01") -> None:
    with h5netcdf.File(path, "w") as file:
        file.dimensions = {"time": len(DAYS), "y": 32, "x": 32}
        file.create_variable("y", ("y",), data=5_500_000.0 - 10 * np.arange(32))
        file.create_variable("x", ("x",), data=500_000.0 + 10 * np.arange(32))
        time = file.create_variable("time", ("time",), data=np.asarray(DAYS))
        if units:
            time.attrs["units"] = units
        grid = file.create_variable("crs", (), data=np.int32(0))
        grid.attrs["crs_wkt"] = "EPSG:32632"
        for name in names:
            pixels = np.arange(1, len(DAYS) + 1, dtype="float32")[:, None, None] * np.full((1, 32, 32), -2.0, "float32")
            file.create_variable(name, ("time", "y", "x"), data=pixels).attrs["grid_mapping"] = "crs"


def _dates(path: Path, time: str, *, more: str = "") -> list[dt.date | int | None]:
    """Name the times that a row means: a number where no date is known."""
    (path.parent / "m.yaml").write_text(f"- {{path: {path.name}, sensor: sentinel1-grd, time: {time}{more}}}\n")
    sources = [entry.source for entry in read_manifest(path.parent / "m.yaml")]
    return [DATES[one.time_index] if one.time_index is not None else one.time and one.time.date() for one in sources]


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("all", [0, 1, 2, 3]),
        ("ALL", [0, 1, 2, 3]),
        ("2020-07-01/2020-08-01", [0, 1, 2]),
        ("2020-07-02/..", [1, 2, 3]),
        ("../2020-07-06", [0, 1]),
        ("1/2", [1, 2]),
        ("-2/-1", [2, 3]),
        ("[0, 3]", [0, 3]),
        ("0;2020-08-06", [0, 3]),
        ("[0, 2020-08-01/..]", [0, 2, 3]),
        ("2", [2]),
    ],
)
def test_times_of_a_row(tmp_path: Path, time: str, expected: list[int]) -> None:
    _cube(tmp_path / "a.nc")
    assert _dates(tmp_path / "a.nc", time) == [DATES[index] for index in expected]


def test_all_times_become_images_of_their_dates(tmp_path: Path) -> None:
    _cube(tmp_path / "a.nc")
    (tmp_path / "m.csv").write_text("path,sensor,encoding,time\na.nc,sentinel1-grd,db,all\n")
    report = prepare(open_manifest(tmp_path / "m.csv"), tmp_path / "out")
    store = ChipStore.open(tmp_path / "out")
    assert [time.date() for time in store.index["datetime"].to_pylist()] == list(DATES)
    assert store.read("sentinel1-grd_32x32", [0, 1, 2, 3])[0][:, 0, 0, 0].tolist() == [-200, -400, -600, -800]
    assert dict(report.pairs) == {"sentinel1-grd + sentinel1-grd": 6}


def test_all_of_several_files_goes_by_date(tmp_path: Path) -> None:
    _cube(tmp_path / "a.nc", names=("VV",))
    _cube(tmp_path / "b.nc", names=("VH",))
    (tmp_path / "m.csv").write_text("path,sensor,time\na.nc;b.nc,sentinel1-grd,1/2\n")
    assert [entry.source.time and entry.source.time.date() for entry in read_manifest(tmp_path / "m.csv")] == [
        DATES[1],
        DATES[2],
    ]


def test_times_without_dates_go_by_number(tmp_path: Path) -> None:
    _cube(tmp_path / "a.nc", units=None)
    (tmp_path / "m.csv").write_text("path,sensor,time\na.nc,sentinel1-grd,all\n")
    assert [entry.source.time_index for entry in read_manifest(tmp_path / "m.csv")] == [0, 1, 2, 3]


def test_a_file_without_times_or_that_is_missing_is_one_image(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path,sensor,time\na.tif,sentinel1-grd,all\nb.nc,sentinel1-grd,all\n")
    assert [entry.source.time_index for entry in read_manifest(tmp_path / "m.csv")] == [None, None]


@pytest.mark.parametrize(
    ("time", "message"),
    [
        ("2021-01-01/..", "time '2021-01-01/..': '.*a.nc' has none there; it has 4, 2020-07-01 to 2020-08-06"),
        ("4/9", "has none there; it has 4"),
        ("all, datetime: 2020-07-01", "`datetime` is of one image, and time 'all' asks for several; leave it out"),
        ("x/y", "time 'x' is not ISO 8601"),
        ("2, time_index: 2", "`time` and `time_index` both say which time"),
    ],
)
def test_wrong_times_are_refused(tmp_path: Path, time: str, message: str) -> None:
    _cube(tmp_path / "a.nc")
    with pytest.raises(ManifestError, match=message):
        _dates(tmp_path / "a.nc", time)


def test_the_number_may_stand_in_a_column_time_index(tmp_path: Path) -> None:
    row = {"path": "a.nc", "sensor": "sentinel1-grd"}
    assert parse_entry(row | {"time_index": "3"}, folder=tmp_path).source.time_index == 3
    with pytest.raises(ManifestError, match="asks for several images of a file; name one"):
        parse_entry(row | {"time": "all"}, folder=tmp_path)
