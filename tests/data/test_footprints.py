"""What the index knows of an image reaches the batch: corners, ground resolution, time."""

import datetime as dt
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely

from anyband.data.image_sets import check_corners, chip_metadata, find_footprints
from anyband.data.places import footprint
from anyband.data.store import ArraySpec, ChipStore
from anyband.data.store_writer import ChipRecord, IndexWriter
from anyband.errors import StoreError

_SQUARE = [(10.0, 50.0), (10.2, 50.0), (10.2, 49.9), (10.0, 49.9)]


def _wkb(corners: list[tuple[float, float]], *, byte_order: int = 1) -> bytes:
    return shapely.to_wkb(shapely.Polygon(corners), byte_order=byte_order)


def _record(place: str = "a", cell: str = "r000c000", **metadata) -> ChipRecord:
    return ChipRecord(place=place, cell=cell, sensor="s", source_path="x.tif", valid_fraction=1.0, **metadata)


def _store(*records: ChipRecord) -> ChipStore:
    """Make a store that has an index and no pixels."""
    store = ChipStore.__new__(ChipStore)
    store.path = Path("somewhere")
    with tempfile.TemporaryDirectory() as folder:
        index = IndexWriter()
        for row, record in enumerate(records):
            index.add(record, ("s_4x6", row))
        index.write(Path(folder) / "index.parquet")
        store.index = pq.read_table(Path(folder) / "index.parquet")
    shape = {"height": 4, "width": 6, "bands": ("B",), "dtype": "uint8", "encoding": {}, "nodata": None}
    counts = {"num_chips": len(records), "chips_per_shard": 1, "has_valid": False, "digest": ""}
    store.arrays = {"s_4x6": ArraySpec(sensor="s", name="s_4x6", **shape, **counts)}  # type: ignore[arg-type]
    return store


@pytest.mark.parametrize("byte_order", [0, 1])
def test_corners_come_in_the_order_of_the_array(byte_order: int) -> None:
    found = chip_metadata(_store(_record(geometry=_wkb(_SQUARE, byte_order=byte_order))), np.array([[0]]))
    np.testing.assert_array_equal(found["corners_deg"][0, 0], _SQUARE)


@pytest.mark.parametrize(("down", "across"), [(-10.0, 10.0), (10.0, 10.0), (-10.0, -10.0)])
def test_corners_are_where_the_transform_of_the_chip_puts_them(down: float, across: float) -> None:
    """Rows may run to the north or columns to the west: the first corner is the array's first pixel all the same."""
    from pyproj import Transformer

    transform = (across, 0.0, 500_000.0, 0.0, down, 5_500_000.0)
    wkb = footprint(transform, height=4, width=6, crs="EPSG:32632")[0]
    found = chip_metadata(_store(_record(geometry=wkb)), np.array([[0]]))
    to_lonlat = Transformer.from_crs("EPSG:32632", "OGC:CRS84", always_xy=True)
    ends = [(0, 0), (6, 0), (6, 4), (0, 4)]
    expected = [to_lonlat.transform(500_000.0 + across * x, 5_500_000.0 + down * y) for x, y in ends]
    np.testing.assert_allclose(found["corners_deg"][0, 0], expected, atol=1e-12)


def test_metadata_stand_in_the_order_asked_for_and_unknown_ones_are_no_numbers() -> None:
    taken = dt.datetime(2021, 5, 6, 7, 8, 9, 10, tzinfo=dt.UTC)
    found = chip_metadata(_store(_record(), _record(gsd_m=2.5, datetime=taken)), np.array([[1, 0], [1, 1]]))
    np.testing.assert_array_equal(found["gsd_m"], [[2.5, np.nan], [2.5, 2.5]])
    known = np.datetime64("2021-05-06T07:08:09.000010")
    np.testing.assert_array_equal(found["time"], [[known, np.datetime64("NaT", "us")], [known, known]])
    assert np.isnan(found["corners_deg"]).all()
    np.testing.assert_array_equal(found["shape_px"], np.full((2, 2, 2), [4, 6]))


def test_times_before_1970_are_known() -> None:
    found = chip_metadata(_store(_record(datetime=dt.datetime(1969, 12, 31, tzinfo=dt.UTC))), np.array([[0]]))
    assert found["time"][0, 0] == np.datetime64("1969-12-31")


@pytest.mark.parametrize(
    ("corners", "where"),
    [
        ([(200.0, 50.0), (200.2, 50.0), (200.2, 49.9), (200.0, 49.9)], "longitude 200.2°, latitude 50°"),
        ([(10.0, 95.0), (10.2, 95.0), (10.2, 49.9), (10.0, 49.9)], "longitude 10°, latitude 95°"),
    ],
)
def test_corners_off_the_globe_are_refused(corners, where: str) -> None:
    message = f"chip 0 of store 'somewhere' has a corner at {where}; longitudes are -180 to 180 and latitudes -90 to 90"
    with pytest.raises(StoreError, match=message):
        chip_metadata(_store(_record(geometry=_wkb(corners))), np.array([[0]]))


def test_a_chip_off_the_globe_is_found_before_a_run_if_it_is_one_of_its_chips() -> None:
    corners = [(200.0, 50.0), (200.2, 50.0), (200.2, 49.9), (200.0, 49.9)]
    bad = _record(geometry=_wkb(corners), bounds=(200.0, 49.9, 200.2, 50.0))
    store = _store(_record(geometry=_wkb(_SQUARE), bounds=(10.0, 49.9, 10.2, 50.0)), bad)
    check_corners(store, np.array([0]))
    with pytest.raises(StoreError, match=r"chip 1 of store 'somewhere' has a corner at longitude 200\.2°"):
        check_corners(store, np.array([0, 1]))


@pytest.mark.parametrize("wkb", [b"", b"\x01", _wkb([*_SQUARE[:3], (9.0, 50.0), (9.5, 51.0)])])
def test_a_geometry_that_is_no_quadrilateral_is_refused(wkb: bytes) -> None:
    with pytest.raises(StoreError, match="geometry of chip 0 of store 'somewhere' is no polygon of four corners"):
        chip_metadata(_store(_record(geometry=wkb)), np.array([[0]]))


def test_footprints_stand_by_place_and_cell_and_their_images_by_time_then_row() -> None:
    def day(number: int) -> dt.datetime:
        return dt.datetime(2020, 1, number, tzinfo=dt.UTC)

    store = _store(
        _record("b"),
        _record("a", "r001c000", datetime=day(3)),
        _record("a"),
        _record("a", datetime=day(2)),
        _record("b", datetime=day(1)),
        _record("a", datetime=day(1)),
        _record("a", datetime=day(2)),
    )
    chips, bounds, _ = find_footprints(store, split="train")
    assert chips.tolist() == [5, 3, 6, 2, 1, 4, 0]
    assert bounds.tolist() == [0, 4, 5, 7]


def test_an_index_of_several_pieces_is_grouped_as_one() -> None:
    store = _store(_record("b"), _record("a"), _record("b"))
    store.index = pa.concat_tables([store.index.slice(0, 1), store.index.slice(1, 2)])
    assert find_footprints(store, split=None)[0].tolist() == [1, 0, 2]


def test_no_image_is_no_footprint() -> None:
    assert [len(one) for one in find_footprints(_store(_record()), split="test")] == [0, 1, 0]
