"""Axes of netCDF files are told by what they are called, never by position; bands, times and coordinates follow."""

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5netcdf
import h5py
import numpy as np
import pytest
from rasterio.crs import CRS
from small_sensors import optical_sensor

from anyband.errors import RasterError
from anyband.rasters.grid import Window
from anyband.rasters.reader import RasterSource, open_raster

_HEIGHT, _WIDTH = 4, 6
_TRANSFORM = (10.0, 0.0, 500000.0, 0.0, -10.0, 5500000.0)
_SIZES = {"y": _HEIGHT, "x": _WIDTH, "time": 2, "band": 3}
_DEFAULT = {
    "y": {"standard_name": "projection_y_coordinate"},
    "x": {"standard_name": "projection_x_coordinate"},
    "time": {"units": "days since 1970-01-01"},
}


def _values(axes: Sequence[str]) -> np.ndarray:
    """Make numbers that say where they are: 1000 · time + 100 · band + 10 · row + column."""
    steps = {"y": 10, "x": 1, "time": 1000, "band": 100}
    parts = np.meshgrid(*(steps[axis] * np.arange(_SIZES[axis]) for axis in axes), indexing="ij")
    return np.sum(parts, axis=0).astype(np.uint16)


def _write(
    path: Path,
    axes: Sequence[str],
    *,
    called: dict[str, str] | None = None,
    attributes: dict[str, dict[str, str]] | None = None,
    variables: Sequence[str] = ("B02",),
    values: dict[str, Any] | None = None,
    mapping: dict[str, Any] | None = None,
) -> Path:
    """Write variables over `axes` (y, x, time, band); `called` are the names of their dimensions in the file."""
    names = {axis: (called or {}).get(axis, axis) for axis in axes}
    numbers: dict[str, Any] = {
        "y": 5499995.0 - 10 * np.arange(_HEIGHT),
        "x": 500005.0 + 10 * np.arange(_WIDTH),
        "time": [18444.0, 18454.0],
        **(values or {}),
    }
    with h5netcdf.File(path, "w") as file:
        file.dimensions = {names[axis]: _SIZES[axis] for axis in axes}
        for axis in axes:
            if numbers.get(axis) is None:
                continue
            found = np.asarray(numbers[axis])
            dtype = h5py.string_dtype() if found.dtype.kind in "UO" else found.dtype
            one = file.create_variable(names[axis], (names[axis],), dtype)
            one[...] = found.astype(object) if found.dtype.kind in "UO" else found
            for key, value in (_DEFAULT if attributes is None else attributes).get(axis, {}).items():
                one.attrs[key] = value
        crs = file.create_variable("spatial_ref", (), np.int32, data=0)
        for key, value in ({"crs_wkt": CRS.from_epsg(32632).to_wkt()} if mapping is None else mapping).items():
            crs.attrs[key] = value
        for name in variables:
            one = file.create_variable(name, tuple(names[axis] for axis in axes), np.uint16, data=_values(axes))
            one.attrs["grid_mapping"] = "spatial_ref"
    return path


@pytest.mark.parametrize("axes", [("time", "y", "x"), ("time", "x", "y"), ("y", "x", "time"), ("x", "time", "y")])
def test_an_image_is_read_the_same_whatever_the_order_of_its_axes(tmp_path: Path, axes: tuple[str, ...]) -> None:
    path = _write(tmp_path / "a.nc", axes)
    with open_raster(RasterSource(paths=(path,), time_index=1), optical_sensor("B02")) as reader:
        assert reader.grid.transform == _TRANSFORM
        assert reader.grid.crs == "EPSG:32632"
        assert reader.datetime == dt.datetime(2020, 7, 11, tzinfo=dt.UTC)
        np.testing.assert_array_equal(reader.read().dn[0], 1000 + _values(("y", "x")))
        window = Window(row=1, col=2, height=2, width=3)
        np.testing.assert_array_equal(reader.read(window).dn[0], 1000 + _values(("y", "x"))[1:3, 2:5])


@pytest.mark.parametrize(
    ("called", "attributes"),
    [
        ({"y": "first", "x": "second"}, {"y": {"axis": "Y"}, "x": {"axis": "X"}}),
        ({"y": "first", "x": "second"}, {"y": {"standard_name": "projection_y_coordinate"}, "x": {"axis": "x"}}),
        ({"y": "northing", "x": "easting"}, {}),
        ({"y": "YDim:grid", "x": "XDim:grid"}, {}),
        ({"y": "y_10m", "x": "x_10m"}, {}),
        ({"y": "x", "x": "y"}, _DEFAULT),
    ],
)
def test_axes_are_told_by_attributes_before_names(
    tmp_path: Path, called: dict[str, str], attributes: dict[str, dict[str, str]]
) -> None:
    path = _write(tmp_path / "a.nc", ("x", "y"), called=called, attributes=attributes)
    with open_raster(RasterSource(paths=(path,)), optical_sensor("B02")) as reader:
        assert reader.grid.transform == _TRANSFORM
        np.testing.assert_array_equal(reader.read().dn[0], _values(("y", "x")))


def test_axes_in_degrees_are_told_by_their_units(tmp_path: Path) -> None:
    path = _write(
        tmp_path / "a.nc",
        ("x", "y"),
        called={"y": "first", "x": "second"},
        attributes={"y": {"units": "degrees_north"}, "x": {"units": "degree_E"}},
        values={"y": 40.25 - 0.5 * np.arange(_HEIGHT), "x": 8.25 + 0.5 * np.arange(_WIDTH)},
        mapping={},
    )
    with open_raster(RasterSource(paths=(path,)), optical_sensor("B02")) as reader:
        assert reader.grid.transform == (0.5, 0.0, 8.0, 0.0, -0.5, 40.5)
        assert reader.grid.crs == "EPSG:4326"
        assert any("WGS 84 (EPSG:4326) was taken" in note for note in reader.notes)
        np.testing.assert_array_equal(reader.read().dn[0], _values(("y", "x")))


def test_longitudes_from_180_to_360_are_west(tmp_path: Path) -> None:
    path = _write(
        tmp_path / "a.nc",
        ("y", "x"),
        called={"y": "lat", "x": "lon"},
        attributes={"y": {"units": "degrees_north"}, "x": {"units": "degrees_east"}},
        values={"y": 40.25 - 0.5 * np.arange(_HEIGHT), "x": 250.25 + 0.5 * np.arange(_WIDTH)},
        mapping={"crs_wkt": CRS.from_epsg(4326).to_wkt()},
    )
    with open_raster(RasterSource(paths=(path,)), optical_sensor("B02")) as reader:
        assert reader.grid.transform == (0.5, 0.0, -110.0, 0.0, -0.5, 40.5)


def test_rows_that_go_north_and_columns_that_go_west_are_told_by_the_transform(tmp_path: Path) -> None:
    values = {"y": 5499965.0 + 10 * np.arange(_HEIGHT), "x": 500055.0 - 10 * np.arange(_WIDTH)}
    path = _write(tmp_path / "a.nc", ("y", "x"), values=values)
    with open_raster(RasterSource(paths=(path,)), optical_sensor("B02")) as reader:
        assert reader.grid.transform == (-10.0, 0.0, 500060.0, 0.0, 10.0, 5499960.0)
        np.testing.assert_array_equal(reader.read().dn[0], _values(("y", "x")))


@pytest.mark.parametrize("axes", [("band", "y", "x"), ("y", "x", "band"), ("x", "band", "y")])
def test_a_band_dimension_gives_bands_in_their_order(tmp_path: Path, axes: tuple[str, ...]) -> None:
    path = _write(tmp_path / "a.nc", axes, variables=("reflectance",))
    with open_raster(RasterSource(paths=(path,)), optical_sensor("B02", "B03", "B04")) as reader:
        expected = np.stack([100 * band + _values(("y", "x")) for band in range(3)])
        np.testing.assert_array_equal(reader.read().dn, expected)


@pytest.mark.parametrize(
    ("name", "labels"),
    [("band", ["B04", "B02", "B03"]), ("polarization", ["B04", "B02", "B03"]), ("channel", ["B04", "B02", "B03"])],
)
def test_texts_along_a_dimension_name_the_bands(tmp_path: Path, name: str, labels: list[str]) -> None:
    axes = ("time", "y", "x", "band")
    path = _write(tmp_path / "a.nc", axes, called={"band": name}, variables=("sr",), values={"band": labels})
    source = RasterSource(paths=(path,), time_index=1, bands=(("B02", ""), ("B04", "B04")))
    with open_raster(source, optical_sensor("B02", "B03", "B04")) as reader:
        plain = 1000 + _values(("y", "x"))
        np.testing.assert_array_equal(reader.read().dn, np.stack([plain + 100, plain]))


def test_wavelengths_name_the_bands_in_nanometres(tmp_path: Path) -> None:
    attributes = {**_DEFAULT, "band": {"units": "um"}}
    path = _write(
        tmp_path / "a.nc",
        ("band", "y", "x"),
        called={"band": "number"},
        attributes=attributes,
        values={"band": [0.49, 0.56, 0.665]},
        variables=("radiance",),
    )
    source = RasterSource(paths=(path,), bands=(("B04", "665"), ("B02", "490")))
    with open_raster(source, optical_sensor("B02", "B04")) as reader:
        assert reader.read().dn[:, 0, 0].tolist() == [200, 0]


def test_a_band_dimension_is_no_time(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.nc", ("band", "y", "x"), variables=("reflectance",))
    source = RasterSource(paths=(path,), bands=(("B04", "1"),), time_index=2)
    with pytest.raises(RasterError, match="which has no time axis"), open_raster(source, optical_sensor("B04")):
        pass


@pytest.mark.parametrize("axes", [("band", "y", "x"), ("y", "x", "band")])
def test_a_dimension_that_can_not_be_told_is_refused_by_name(tmp_path: Path, axes: tuple[str, ...]) -> None:
    path = _write(tmp_path / "a.nc", axes, called={"band": "ensemble"})
    message = r"can't be told apart: of 'B02' \(.*ensemble 3.*\): 'ensemble'; allowed are rows \(y, lat\), columns"
    with pytest.raises(RasterError, match=message), open_raster(RasterSource(paths=(path,)), optical_sensor("B02")):
        pass


def test_axes_of_an_unnamed_cube_are_not_guessed(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["B02"] = np.zeros((3, 4, 5), np.uint16)
    with (
        pytest.raises(RasterError, match="can't be told apart"),
        open_raster(RasterSource(paths=(path,)), optical_sensor("B02")),
    ):
        pass


@pytest.mark.parametrize("has_counts", [False, True])
def test_latitudes_of_each_pixel_are_named_and_are_no_bands(tmp_path: Path, has_counts: bool) -> None:
    path = tmp_path / "a.nc"
    with h5netcdf.File(path, "w") as file:
        file.dimensions = {"y": _HEIGHT, "x": _WIDTH}
        for name, size in file.dimensions.items() if has_counts else ():
            file.create_variable(name, (name,), int, data=np.arange(size.size))
        for name, units in (("lat", "degrees_north"), ("lon", "degrees_east")):
            file.create_variable(name, ("y", "x"), float, data=_values(("y", "x")) / 10.0).attrs["units"] = units
        one = file.create_variable("radiance", ("y", "x"), np.uint16, data=_values(("y", "x")))
        one.attrs["coordinates"] = "lat lon"
    with open_raster(RasterSource(paths=(path,)), optical_sensor("B02")) as reader:
        assert reader.grid.crs is None
        assert reader.geolocation == "latitudes and longitudes of each pixel ('lat', 'lon')"
        assert any("'lat', 'lon'" in note and "gdalwarp" in note for note in reader.notes)
        np.testing.assert_array_equal(reader.read().dn[0], _values(("y", "x")))


@pytest.mark.parametrize("values", [{"y": None, "x": None}, {"y": np.arange(4.0), "x": np.arange(6.0)}])
def test_a_coordinate_system_without_coordinates_places_nothing(tmp_path: Path, values: dict[str, Any]) -> None:
    path = _write(tmp_path / "a.nc", ("y", "x"), values=values)
    with open_raster(RasterSource(paths=(path,)), optical_sensor("B02")) as reader:
        assert reader.grid.crs is None
        assert reader.grid.transform == (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
        assert any("EPSG:32632) and no geotransform" in note for note in reader.notes)


def test_a_geotransform_in_the_grid_mapping_stands_for_coordinates(tmp_path: Path) -> None:
    mapping = {"crs_wkt": CRS.from_epsg(32632).to_wkt(), "GeoTransform": "500000 10 0 5500000 0 -10"}
    path = _write(tmp_path / "a.nc", ("y", "x"), values={"y": None, "x": None}, mapping=mapping)
    with open_raster(RasterSource(paths=(path,)), optical_sensor("B02")) as reader:
        assert reader.grid.transform == _TRANSFORM
        assert reader.grid.crs == "EPSG:32632"


_CONIC = {
    "grid_mapping_name": "albers_conical_equal_area",
    "standard_parallel": np.array([29.5, 45.5]),
    "longitude_of_central_meridian": -96.0,
    "latitude_of_projection_origin": 23.0,
    "false_easting": 0.0,
    "false_northing": 0.0,
    "semi_major_axis": 6378137.0,
    "inverse_flattening": 298.257222101,
}


def test_a_coordinate_system_of_cf_parameters_and_kilometres_is_read(tmp_path: Path) -> None:
    attributes = {axis: {**_DEFAULT[axis], "units": "km"} for axis in "yx"}
    values = {"y": 1500.0 - np.arange(_HEIGHT), "x": 100.0 + np.arange(_WIDTH)}
    path = _write(tmp_path / "a.nc", ("y", "x"), attributes=attributes, values=values, mapping=_CONIC)
    with open_raster(RasterSource(paths=(path,)), optical_sensor("B02")) as reader:
        assert reader.grid.transform == (1000.0, 0.0, 99500.0, 0.0, -1000.0, 1500500.0)
        assert reader.grid.crs is not None
        assert CRS.from_string(reader.grid.crs).to_dict()["proj"] == "aea"


def test_degrees_along_axes_of_a_projected_system_place_nothing(tmp_path: Path) -> None:
    attributes = {"y": {"units": "degrees_north"}, "x": {"units": "degrees_east"}}
    path = _write(tmp_path / "a.nc", ("y", "x"), attributes=attributes)
    with open_raster(RasterSource(paths=(path,)), optical_sensor("B02")) as reader:
        assert reader.grid.crs is None
        assert any("coordinates are in 'degrees_north'" in note for note in reader.notes)


@pytest.mark.parametrize(
    ("units", "calendar", "value", "expected", "said"),
    [
        ("days since 1970-1-1", "", 18444.0, "2020-07-01", ""),
        ("Days since 1970-01-01 00:00:00", "Gregorian", 18444.0, "2020-07-01", ""),
        ("nanoseconds since 1970-01-01", "proleptic_gregorian", 18444 * 86400 * 10**9, "2020-07-01", ""),
        ("days since 1970-01-01", "noleap", 50 * 365 + 181.0, "2020-07-01", "its calendar is 'noleap'"),
        ("days since 1970-01-01", "360_day", 50 * 360 + 180.0, "2020-07-01", "its calendar is '360_day'"),
        ("days since 1970-01-01", "julian", 18444.0, "2020-07-01", "its calendar is 'julian'"),
        ("days since 2020-01-01", "360_day", 59.0, None, "2020-02-30 in calendar '360_day'"),
        ("days since 2021-01-01", "all_leap", 59.0, None, "2021-02-29 in calendar 'all_leap'"),
        ("fortnights since 2020-01-01", "", 3.0, None, "(units 'fortnights since 2020-01-01') can't be read"),
        ("months since 2020-01-01", "", 3.0, None, "can't be read"),
        ("days since the beginning", "", 3.0, None, "can't be read"),
        ("days since 2020-01-01", "", np.nan, None, "its time has no value"),
    ],
)
def test_times_are_read_by_unit_and_calendar_or_said_not_to_be(
    tmp_path: Path, units: str, calendar: str, value: float, expected: str | None, said: str
) -> None:
    attributes = {**_DEFAULT, "time": {"units": units} | ({"calendar": calendar} if calendar else {})}
    path = _write(tmp_path / "a.nc", ("time", "y", "x"), attributes=attributes, values={"time": [value, value]})
    with open_raster(RasterSource(paths=(path,), time_index=0), optical_sensor("B02")) as reader:
        assert (reader.datetime and f"{reader.datetime:%Y-%m-%d}") == expected
        assert [said in note for note in reader.notes] == ([True] if said else [])
        if expected is None:
            assert "declare `datetime`" in reader.notes[0]


@pytest.mark.parametrize("name", ["timestamp", "acquisition_time", "moment"])
def test_times_may_be_texts(tmp_path: Path, name: str) -> None:
    values = {"time": ["2020-07-01", "2020-07-11T10:20:30Z"]}
    path = _write(tmp_path / "a.nc", ("y", "time", "x"), called={"time": name}, values=values, attributes={})
    source = RasterSource(paths=(path,), time=dt.datetime(2020, 7, 11, tzinfo=dt.UTC))
    with open_raster(source, optical_sensor("B02")) as reader:
        assert reader.datetime == dt.datetime(2020, 7, 11, 10, 20, 30, tzinfo=dt.UTC)
        np.testing.assert_array_equal(reader.read().dn[0], 1000 + _values(("y", "x")))


def test_times_of_rows_are_no_axis(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.nc", ("y", "x"), called={"y": "rows", "x": "columns"}, values={"y": None, "x": None})
    with h5netcdf.File(path, "a") as file:
        one = file.create_variable("time_stamp", ("rows",), float, data=np.arange(_HEIGHT))
        one.attrs["units"] = "microseconds since 2000-01-01"
    with open_raster(RasterSource(paths=(path,)), optical_sensor("B02")) as reader:
        np.testing.assert_array_equal(reader.read().dn[0], _values(("y", "x")))


def test_the_only_time_of_a_file_needs_no_axis(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.nc", ("y", "x"))
    with h5netcdf.File(path, "a") as file:
        one = file.create_variable("time", (), float, data=18444.0)
        one.attrs["units"] = "days since 1970-01-01"
    with open_raster(RasterSource(paths=(path,)), optical_sensor("B02")) as reader:
        assert reader.datetime == dt.datetime(2020, 7, 1, tzinfo=dt.UTC)


def test_the_start_of_the_coverage_is_the_date_and_said(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.nc", ("y", "x"))
    with h5netcdf.File(path, "a") as file:
        file.attrs["time_coverage_start"] = "2020-07-01T10:20:30Z"
    with open_raster(RasterSource(paths=(path,)), optical_sensor("B02")) as reader:
        assert reader.datetime == dt.datetime(2020, 7, 1, 10, 20, 30, tzinfo=dt.UTC)
        assert reader.notes == ("its date was taken from `time_coverage_start`: 2020-07-01",)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"valid_range": np.array([2, 12], np.uint16)}, (2, 12)),
        ({"valid_min": np.uint16(2)}, (2, 65535)),
        ({"valid_max": np.uint16(12)}, (0, 12)),
        ({"valid_range": np.array([0.2, 1.2]), "scale_factor": 0.1}, (2, 12)),
    ],
)
def test_pixels_outside_the_valid_range_are_missing(
    tmp_path: Path, attributes: dict[str, Any], expected: tuple[int, int]
) -> None:
    path = _write(tmp_path / "a.nc", ("x", "y"))
    with h5netcdf.File(path, "a") as file:
        for key, value in attributes.items():
            file.variables["B02"].attrs[key] = value
    dn = _values(("y", "x"))
    with open_raster(RasterSource(paths=(path,)), optical_sensor("B02")) as reader:
        np.testing.assert_array_equal(reader.read().valid[0], (dn >= expected[0]) & (dn <= expected[1]))


def test_fill_and_missing_values_are_both_missing(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.nc", ("y", "x"))
    with h5netcdf.File(path, "a") as file:
        file.variables["B02"].attrs["_FillValue"] = np.uint16(10)
        file.variables["B02"].attrs["missing_value"] = np.array([3, 21], np.uint16)
    with open_raster(RasterSource(paths=(path,)), optical_sensor("B02")) as reader:
        np.testing.assert_array_equal(reader.read().valid[0], ~np.isin(_values(("y", "x")), (3, 10, 21)))


def test_a_scale_that_contradicts_the_encoding_is_said_and_not_applied(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.nc", ("x", "y"))
    with h5netcdf.File(path, "a") as file:
        file.variables["B02"].attrs["scale_factor"] = np.float32(1e-4)
        file.variables["B02"].attrs["add_offset"] = -0.1
    with open_raster(RasterSource(paths=(path,)), optical_sensor("B02")) as reader:
        (note,) = reader.notes
        assert "by its scale_factor and add_offset physical values of B02 are DN · 0.0001 − 0.1" in note
        assert "contradicts encoding 'dn' (DN)" in note
        np.testing.assert_array_equal(reader.read().dn[0], _values(("y", "x")))


@pytest.mark.parametrize("encoding", ["physical", "tags"])
def test_the_scale_of_a_variable_is_applied_where_that_is_declared(tmp_path: Path, encoding: str) -> None:
    path = _write(tmp_path / "a.nc", ("x", "y"), variables=("B02", "B03"))
    with h5netcdf.File(path, "a") as file:
        for name, scale in (("B02", 0.001), ("B03", 0.002)):
            file.variables[name].attrs["scale_factor"] = scale
            file.variables[name].attrs["add_offset"] = 0.5
    with open_raster(RasterSource(paths=(path,), encoding=encoding), optical_sensor("B02", "B03")) as reader:
        for band, dn, scale in zip(reader.sensor.bands, reader.read().dn, (0.001, 0.002), strict=True):
            np.testing.assert_allclose(band.encoding(encoding).decode(dn), _values(("y", "x")) * scale + 0.5)


def test_a_scale_of_one_says_nothing(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.nc", ("x", "y"))
    with h5netcdf.File(path, "a") as file:
        file.variables["B02"].attrs["scale_factor"] = 1.0
    with open_raster(RasterSource(paths=(path,)), optical_sensor("B02")) as reader:
        assert reader.notes == ()


# Parts that were never written, and other ways to say where


@pytest.mark.parametrize(
    ("chunks", "axes"),
    [((2, 3), ("y", "x")), ((3, 2), ("x", "y")), ((1, 2, 3), ("band", "y", "x")), (None, ("y", "x"))],
)
def test_parts_that_were_never_written_are_missing_and_said(
    tmp_path: Path, chunks: tuple[int, ...] | None, axes: tuple[str, ...]
) -> None:
    path = _write(tmp_path / "a.nc", axes, variables=())
    written = np.zeros([_SIZES[axis] for axis in axes], dtype=bool)
    with h5netcdf.File(path, "a") as file:
        one = file.create_variable("B02", axes, np.uint16, chunks=chunks)
        one.attrs["grid_mapping"] = "spatial_ref"
        if chunks is not None:
            first = tuple(slice(0, chunk) for chunk in chunks)
            written[first] = True
            one[first] = 7
    names = ("B02", "B03", "B04") if "band" in axes else ("B02",)
    with open_raster(RasterSource(paths=(path,)), optical_sensor(*names)) as reader:
        found = reader.read(Window(row=1, col=1, height=2, width=4))
        assert "parts of B02 were never written: their pixels are missing" in reader.notes
    rows_first = written.transpose([axes.index(axis) for axis in ("band", "y", "x") if axis in axes])
    np.testing.assert_array_equal(found.valid, rows_first.reshape(-1, _HEIGHT, _WIDTH)[:, 1:3, 1:5])


def test_a_whole_variable_in_chunks_says_nothing(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.nc", ("y", "x"), variables=())
    with h5netcdf.File(path, "a") as file:
        one = file.create_variable("B02", ("y", "x"), np.uint16, chunks=(3, 4), data=1 + _values(("y", "x")))
        one.attrs["grid_mapping"] = "spatial_ref"
    with open_raster(RasterSource(paths=(path,)), optical_sensor("B02")) as reader:
        assert reader.read().valid.all()
        assert reader.notes == ()


@pytest.mark.parametrize(("first", "west"), [(359.0, -1.25), (179.0, 178.75)])
def test_longitudes_may_begin_anew_on_their_way(tmp_path: Path, first: float, west: float) -> None:
    x = first + 0.5 * np.arange(_WIDTH)
    path = _write(
        tmp_path / "a.nc",
        ("y", "x"),
        called={"y": "lat", "x": "lon"},
        attributes={"y": {"units": "degrees_north"}, "x": {"units": "degrees_east"}},
        values={"y": 40.25 - 0.5 * np.arange(_HEIGHT), "x": x % 360 if first > 180 else (x + 180) % 360 - 180},
        mapping={"crs_wkt": CRS.from_epsg(4326).to_wkt()},
    )
    with open_raster(RasterSource(paths=(path,)), optical_sensor("B02")) as reader:
        assert reader.grid.transform == (0.5, 0.0, west, 0.0, -0.5, 40.5)


def test_variables_of_a_group_are_not_read_and_the_message_says_how_to_make_them_a_file(tmp_path: Path) -> None:
    with h5netcdf.File(tmp_path / "a.nc", "w") as file:
        group = file.create_group("PRODUCT")
        group.dimensions = {"y": 2, "x": 3}
        group.create_variable("B02", ("y", "x"), np.uint16, data=np.ones((2, 3), dtype=np.uint16))
    with (
        pytest.raises(
            RasterError, match=r"it has group PRODUCT; groups are not read: .*`ncks -G : -g PRODUCT OLD NEW`"
        ),
        open_raster(RasterSource(paths=(tmp_path / "a.nc",)), optical_sensor("B02")),
    ):
        pass


def test_numbers_of_half_precision_are_read_without_a_warning(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.nc", ("y", "x"), variables=())
    with h5netcdf.File(path, "a") as file:
        one = file.create_variable("B02", ("y", "x"), np.float16, data=_values(("y", "x")).astype(np.float16))
        one.attrs["grid_mapping"] = "spatial_ref"
    with open_raster(RasterSource(paths=(path,)), optical_sensor("B02")) as reader:
        assert reader.read().valid.all()
