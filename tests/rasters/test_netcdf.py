"""netCDF and HDF5: variables, times, coordinates."""

import datetime as dt
import sys
from pathlib import Path

import h5netcdf
import h5py
import numpy as np
import pytest
from rasterio.crs import CRS
from small_sensors import optical_sensor

from anyband.errors import RasterError
from anyband.rasters.grid import Window
from anyband.rasters.reader import RasterSource, open_raster

_B02 = optical_sensor("B02")
_DAYS = (3, 10, 24)


def _cube(num_times: int = 3, size: int = 6) -> np.ndarray:
    return np.arange(num_times * size * size, dtype=np.uint16).reshape(num_times, size, size)


def _write(
    path: Path,
    cubes: dict[str, np.ndarray],
    *,
    step_m: float = 10.0,
    time: str = "days since 2021-01-01",
    ys: np.ndarray | None = None,
) -> Path:
    first = next(iter(cubes.values()))
    num_times, height, width = first.shape
    with h5netcdf.File(path, "w") as file:
        file.dimensions = {"t": num_times, "y": height, "x": width}
        axis = file.create_variable("t", ("t",), np.int32, data=np.array(_DAYS[:num_times], np.int32))
        axis.attrs["units"] = time
        rows = 5000.0 - step_m / 2 - step_m * np.arange(height) if ys is None else ys
        file.create_variable("y", ("y",), np.float64, data=rows)
        file.create_variable("x", ("x",), np.float64, data=400000.0 + step_m / 2 + step_m * np.arange(width))
        crs = file.create_variable("crs", (), np.int32, data=0)
        crs.attrs["crs_wkt"] = CRS.from_epsg(32631).to_wkt()
        for name, cube in cubes.items():
            variable = file.create_variable(name, ("t", "y", "x"), cube.dtype, data=cube)
            variable.attrs["grid_mapping"] = "crs"
    return path


def test_a_time_is_chosen_by_index_and_placed(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.nc", {"B02": _cube()})
    with open_raster(RasterSource(paths=(path,), time_index=1), _B02) as reader:
        assert reader.datetime == dt.datetime(2021, 1, 11, tzinfo=dt.UTC)
        raster = reader.read()
    np.testing.assert_array_equal(raster.dn[0], _cube()[1])
    assert raster.grid.transform == (10.0, 0.0, 400000.0, 0.0, -10.0, 5000.0)
    assert raster.grid.crs == "EPSG:32631"


def test_a_time_is_chosen_by_day(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.nc", {"B02": _cube()})
    source = RasterSource(paths=(path,), time=dt.datetime(2021, 1, 25, 9, 30, tzinfo=dt.UTC))
    with open_raster(source, _B02) as reader:
        np.testing.assert_array_equal(reader.read().dn[0], _cube()[2])


def test_the_last_time_is_minus_one(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.nc", {"B02": _cube()})
    with open_raster(RasterSource(paths=(path,), time_index=-1), _B02) as reader:
        np.testing.assert_array_equal(reader.read().dn[0], _cube()[2])


def test_the_only_time_needs_no_choice(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.nc", {"B02": _cube(1)})
    with open_raster(RasterSource(paths=(path,)), _B02) as reader:
        np.testing.assert_array_equal(reader.read().dn, _cube(1))


@pytest.mark.parametrize(
    ("units", "expected"),
    [
        ("days since 2020-02-26", dt.datetime(2020, 2, 29, tzinfo=dt.UTC)),
        ("hours since 2020-02-28T23:30:00", dt.datetime(2020, 2, 29, 2, 30, tzinfo=dt.UTC)),
        ("seconds since 2020-02-28 23:59:58", dt.datetime(2020, 2, 29, 0, 0, 1, tzinfo=dt.UTC)),
        ("minutes since 2020-02-29 01:00:00+01:00", dt.datetime(2020, 2, 29, 0, 3, tzinfo=dt.UTC)),
    ],
)
def test_times_are_counted_from_the_start_of_the_axis(tmp_path: Path, units: str, expected: dt.datetime) -> None:
    path = _write(tmp_path / "a.nc", {"B02": _cube()}, time=units)
    with open_raster(RasterSource(paths=(path,), time_index=0), _B02) as reader:
        assert reader.datetime == expected


def test_several_times_without_a_choice_are_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.nc", {"B02": _cube()})
    message = r"holds 3 times \(2021-01-04 … 2021-01-25\); say which one: `time`, 0 … 2 or a date"
    with pytest.raises(RasterError, match=message), open_raster(RasterSource(paths=(path,)), _B02):
        pass


def test_a_time_index_outside_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.nc", {"B02": _cube()})
    source = RasterSource(paths=(path,), time_index=3)
    with (
        pytest.raises(RasterError, match=r"time 3 is not in .*3 times \(0 … 2\)"),
        open_raster(source, _B02),
    ):
        pass


def test_a_day_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.nc", {"B02": _cube()})
    source = RasterSource(paths=(path,), time=dt.datetime(2021, 1, 12, tzinfo=dt.UTC))
    with pytest.raises(RasterError, match=r"has no image of 2021-01-12"), open_raster(source, _B02):
        pass


def test_two_files_of_one_image_are_joined(tmp_path: Path) -> None:
    fine = _write(tmp_path / "fine.nc", {"B02": _cube()})
    coarse = _write(tmp_path / "coarse.nc", {"B8A": np.full((3, 3, 3), 7, np.uint16)}, step_m=20.0)
    with open_raster(RasterSource(paths=(fine, coarse), time_index=0), optical_sensor("B02", "B8A")) as reader:
        raster = reader.read()
    assert raster.grid.gsd_m == 10.0
    assert (raster.dn[1] == 7).all()


def test_files_that_differ_in_time_are_refused(tmp_path: Path) -> None:
    fine = _write(tmp_path / "fine.nc", {"B02": _cube()})
    coarse = _write(tmp_path / "coarse.nc", {"B8A": _cube()}, time="days since 2021-01-02")
    source = RasterSource(paths=(fine, coarse), time_index=0)
    message = r"differ in time: '.*fine.nc' gives 2021-01-04, '.*coarse.nc' gives 2021-01-05; name a date"
    with pytest.raises(RasterError, match=message), open_raster(source, optical_sensor("B02", "B8A")):
        pass


def test_unsigned_numbers_in_signed_storage_are_read_as_meant(tmp_path: Path) -> None:
    path = tmp_path / "a.nc"
    with h5netcdf.File(path, "w") as file:
        file.dimensions = {"y": 1, "x": 3}
        variable = file.create_variable("B02", ("y", "x"), np.int16, data=np.array([[-1, -2, 5]], np.int16))
        variable.attrs["_Unsigned"] = "true"
        variable.attrs["_FillValue"] = np.int16(-1)
    with open_raster(RasterSource(paths=(path,)), _B02) as reader:
        raster = reader.read()
    assert raster.dn.dtype == np.uint16
    assert raster.dn.tolist() == [[[65535, 65534, 5]]]
    assert raster.valid.tolist() == [[[False, True, True]]]


def test_scale_factors_of_the_file_are_not_applied(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.nc", {"B02": _cube(1)})
    with h5py.File(path, "a") as file:
        file["B02"].attrs["scale_factor"] = 1e-4
    with open_raster(RasterSource(paths=(path,)), _B02) as reader:
        np.testing.assert_array_equal(reader.read().dn, _cube(1))


def test_an_hdf5_file_without_axes_has_no_place(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["B02"] = np.arange(12, dtype=np.float32).reshape(3, 4)
    with open_raster(RasterSource(paths=(path,)), _B02) as reader:
        assert reader.grid.crs is None
        window = Window(row=1, col=2, height=2, width=2)
        assert reader.read(window).dn.tolist() == [[[6.0, 7.0], [10.0, 11.0]]]


def test_uneven_coordinates_are_refused(tmp_path: Path) -> None:
    ys = np.array([50.0, 40, 30, 20, 10, -5])
    path = _write(tmp_path / "a.nc", {"B02": _cube(1)}, ys=ys)
    with (
        pytest.raises(RasterError, match=r"y coordinates of .* are not evenly spaced"),
        open_raster(RasterSource(paths=(path,)), _B02),
    ):
        pass


def test_a_file_without_images_says_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "a.nc"
    with h5netcdf.File(path, "w") as file:
        file.dimensions = {"t": 3}
        file.create_variable("wind", ("t",), np.float32)
    message = r"no image variables .*; it has wind"
    with pytest.raises(RasterError, match=message), open_raster(RasterSource(paths=(path,)), _B02):
        pass


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", r"is empty \(0 bytes\)"), (b"CDF\x01 something", "cannot open .* as netCDF")],
)
def test_a_broken_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.nc"
    path.write_bytes(content)
    with pytest.raises(RasterError, match=message), open_raster(RasterSource(paths=(path,)), _B02):
        pass


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.nc", {"B02": _cube(3, 200)})
    path.write_bytes(path.read_bytes()[:60_000])
    source = RasterSource(paths=(path,), time_index=0)
    with pytest.raises(RasterError, match=r"a.nc' as netCDF or HDF5"), open_raster(source, _B02) as reader:
        reader.read()


def test_an_image_without_pixels_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["B02"] = np.zeros((0, 4), dtype=np.float32)
    source = RasterSource(paths=(path,))
    with pytest.raises(RasterError, match=r"no pixels: its variables are 0 × 4"), open_raster(source, _B02):
        pass


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    source = RasterSource(paths=(tmp_path / "none.nc",))
    with pytest.raises(RasterError, match=r"none.nc' does not exist"), open_raster(source, _B02):
        pass


def test_several_time_axes_are_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.nc", {"B02": _cube()})
    with h5netcdf.File(path, "a") as file:
        file.dimensions["time_night"] = 2
        variable = file.create_variable("B03", ("time_night", "y", "x"), np.uint16, data=_cube(2))
        variable.attrs["grid_mapping"] = "crs"
    message = r"the variables of '.*a\.nc' have several time axes \(t, time_night\)"
    with pytest.raises(RasterError, match=message), open_raster(RasterSource(paths=(path,)), _B02):
        pass


def test_one_pixel_with_a_crs_has_no_place(tmp_path: Path) -> None:
    """Its coordinates say where its centre lies, and nothing of how large it is."""
    path = _write(tmp_path / "a.nc", {"B02": _cube(1, size=1)})
    with open_raster(RasterSource(paths=(path,)), _B02) as reader:
        assert reader.read().dn.shape == (1, 1, 1)
        assert reader.grid.crs is None


def test_a_coordinate_system_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.nc", {"B02": _cube(1)})
    with h5netcdf.File(path, "a") as file:
        del file["crs"].attrs["crs_wkt"]
        file["crs"].attrs["grid_mapping_name"] = "no_such_projection"
    with open_raster(RasterSource(paths=(path,)), _B02) as reader:
        assert reader.grid.crs is None
        said = " ".join(reader.notes)
    assert "its coordinate system ('no_such_projection') can't be read; give it a `crs_wkt`" in said


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("2021-05-06T10:00:00Z", "its date was taken from `time_coverage_start`: 2021-05-06"),
        ("in May", "its `time_coverage_start` 'in May' can't be read: no date is taken from it; declare `datetime`"),
    ],
)
def test_the_start_of_an_image_without_a_time_axis_is_said(tmp_path: Path, written: str, said: str) -> None:
    path = tmp_path / "a.nc"
    with h5netcdf.File(path, "w") as file:
        file.dimensions = {"y": 6, "x": 6}
        file.create_variable("B02", ("y", "x"), np.uint16, data=_cube(1)[0])
        file.attrs["time_coverage_start"] = written
    with open_raster(RasterSource(paths=(path,)), _B02) as reader:
        assert said in " ".join(reader.notes)


def test_without_its_library_netcdf_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _write(tmp_path / "a.nc", {"B02": _cube(1)})
    monkeypatch.setitem(sys.modules, "cftime", None)
    message = r"needs h5netcdf and cftime: pip install 'anyband\[netcdf\]'"
    with pytest.raises(RasterError, match=message), open_raster(RasterSource(paths=(path,)), _B02):
        pass
