"""The chip store gives back what was written, and refuses what it can't trust."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from anyband.data.store import ArraySpec, ChipStore
from anyband.data.store_writer import Chip, ChipRecord, IndexWriter, StoreWriter, write_store
from anyband.errors import OutputError, StoreError
from anyband.sensors.sensor import BandStatistics, Encoding, Sensor


def _expected_optical(place: int) -> np.ndarray:
    return np.random.default_rng(place).integers(1, 9000, (2, 8, 8)).astype(np.uint16)


def _files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_chips_come_back_as_written_in_any_order(make_store) -> None:
    store = make_store(6)
    chips, valid = store.read("testoptical_8x8", [4, 0, 4])
    np.testing.assert_array_equal(chips, np.stack([_expected_optical(place) for place in (4, 0, 4)]))
    assert chips.dtype == np.uint16
    assert valid is None


def test_valid_comes_back_where_chips_have_holes(make_store) -> None:
    store = make_store(6, holes=True)
    _, valid = store.read("testoptical_8x8", [1, 3])
    expected = np.ones((2, 2, 8, 8), dtype=bool)
    expected[1, :, :2, :3] = False
    np.testing.assert_array_equal(valid, expected)
    assert store.arrays["testoptical_8x8"].has_valid


def test_wholly_valid_chips_need_no_valid_array(make_store) -> None:
    store = make_store(6, holes=True)
    assert not (store.path / "valid" / "testradar_4x4").exists()
    assert store.read("testoptical_8x8", [1, 2])[1] is None


def test_no_rows_give_an_empty_batch(make_store) -> None:
    chips, valid = make_store(2).read("testoptical_8x8", [])
    assert chips.shape == (0, 2, 8, 8)
    assert valid is None


def test_many_shards_read_like_one(tmp_path, optical_sensor, monkeypatch) -> None:
    monkeypatch.setattr("anyband.data.store_writer.CHIPS_PER_SHARD", 4)
    pixels = np.random.default_rng(0).integers(0, 9000, (11, 2, 8, 8)).astype(np.uint16)
    store = _write(tmp_path / "store", optical_sensor, pixels)
    assert store.arrays["testoptical_8x8"].chips_per_shard == 4
    assert len([f for f in (store.path / "chips").rglob("*") if f.is_file()]) == 3 + 1
    np.testing.assert_array_equal(store.read("testoptical_8x8", range(11))[0], pixels)


def test_shard_of_zeros_is_written_too(tmp_path, optical_sensor) -> None:
    store = _write(tmp_path / "store", optical_sensor, np.zeros((3, 2, 8, 8), dtype=np.uint16))
    np.testing.assert_array_equal(store.read("testoptical_8x8", [2])[0], 0)


def test_large_chips_get_smaller_shards(tmp_path, optical_sensor, monkeypatch) -> None:
    monkeypatch.setattr("anyband.data.store_writer._MAX_SHARD_BYTES", 3 * 2 * 8 * 8 * 2)
    store = _write(tmp_path / "store", optical_sensor, np.ones((7, 2, 8, 8), dtype=np.uint16))
    assert store.arrays["testoptical_8x8"].chips_per_shard == 3


def test_a_shard_holds_many_chips_and_each_is_a_chunk(make_store) -> None:
    written = json.loads((make_store(3).path / "chips" / "testoptical_8x8" / "zarr.json").read_text())
    sharding = written["codecs"][0]
    inner = {codec["name"]: codec.get("configuration") for codec in sharding["configuration"]["codecs"]}
    assert (written["zarr_format"], written["shape"], written["data_type"]) == (3, [3, 2, 8, 8], "uint16")
    assert written["dimension_names"] == ["chip", "band", "row", "col"]
    assert written["chunk_grid"]["configuration"]["chunk_shape"] == [256, 2, 8, 8]
    assert sharding["name"] == "sharding_indexed"
    assert sharding["configuration"]["chunk_shape"] == [1, 2, 8, 8]
    assert (inner["blosc"]["cname"], inner["blosc"]["shuffle"]) == ("lz4", "bitshuffle")


def test_geopandas_reads_the_index(tmp_path) -> None:
    geopandas = pytest.importorskip("geopandas")
    shapely = pytest.importorskip("shapely")
    square = shapely.box(5.0, 50.0, 5.1, 50.1)
    records = [
        ChipRecord(
            place="p", cell="r000c000", sensor="s", source_path="a.tif", valid_fraction=1.0,
            crs="EPSG:32631", transform=(10.0, 0.0, 5e5, 0.0, -10.0, 5e6), gsd_m=10.0,
            geometry=shapely.to_wkb(square), bounds=(5.0, 50.0, 5.1, 50.1),
        ),
        ChipRecord(place="q", cell="r000c000", sensor="s", source_path="b.png", valid_fraction=1.0),
    ]  # fmt: skip
    _write_index(tmp_path / "index.parquet", records)
    frame = geopandas.read_parquet(tmp_path / "index.parquet")
    assert frame.crs.to_authority() == ("OGC", "CRS84")
    assert frame.geometry[0].equals(square)
    assert frame.geometry[1] is None
    assert frame["place"].tolist() == ["p", "q"]


def test_equal_chips_give_equal_bytes(make_store, tmp_path) -> None:
    first = _files(make_store(5, holes=True).path)
    shutil.rmtree(tmp_path / "store")
    assert _files(make_store(5, holes=True).path) == first


def test_fingerprint_changes_with_a_chip_but_not_with_statistics(tmp_path, optical_sensor) -> None:
    pixels = np.ones((3, 2, 8, 8), dtype=np.uint16)
    one = _write(tmp_path / "one", optical_sensor, pixels)
    before = one.fingerprint()
    one.save_statistics({"testoptical": {"B1": BandStatistics(p01=0.0, p99=1.0, mean=0.5, std=0.1)}})
    pixels[1, 0, 0, 0] = 7
    other = _write(tmp_path / "other", optical_sensor, pixels)
    assert one.fingerprint() == before != other.fingerprint()


def test_statistics_are_saved_in_the_store(make_store) -> None:
    store = make_store(2)
    saved = {"testoptical": {"B1": BandStatistics(p01=0.0, p99=0.5, mean=0.5, std=0.1)}}
    store.save_statistics(saved)
    assert ChipStore.open(store.path).statistics == saved


def test_sensor_of_an_array_has_the_stored_encoding_only(make_store) -> None:
    sensor = make_store(1).array_sensor("testradar_4x4")
    assert sensor.band("VV").encodings == (("stored", Encoding(scale=0.01)),)
    assert sensor.nodata == -32768.0


def test_statistics_of_the_store_are_asked_for_before_use(make_store) -> None:
    with pytest.raises(StoreError, match=r"has no statistics of sensor 'testoptical'.*anyband prepare --stats"):
        make_store(1).normalisation("testoptical_8x8", source="store")


def test_normalisation_uses_the_stored_scale(make_store) -> None:
    normalisation = make_store(1).normalisation("testradar_4x4", source="catalogue")
    assert normalisation.scale == (0.01,)
    assert normalisation.nodata == -32768.0


def test_unknown_array_offers_the_nearest(make_store) -> None:
    with pytest.raises(StoreError, match=r"array 'testoptical_8x9' is not in store .*did you mean 'testoptical_8x8'"):
        make_store(1).read("testoptical_8x9", [0])


def test_row_outside_the_array_is_refused(make_store) -> None:
    with pytest.raises(StoreError, match="has rows 0 to 1, asked for 0 to 2"):
        make_store(2).read("testoptical_8x8", [0, 2])


def test_missing_store_says_how_to_make_one(tmp_path) -> None:
    with pytest.raises(StoreError, match=r"there is no chip store at .*anyband prepare"):
        ChipStore.open(tmp_path / "nothing")


def test_unfinished_store_says_how_to_go_on(tmp_path) -> None:
    (tmp_path / "store.partial").mkdir()
    with pytest.raises(StoreError, match=r"is not finished; run the same `anyband prepare` again"):
        ChipStore.open(tmp_path / "store")


def test_newer_store_says_which_version_is_read(make_store) -> None:
    path = make_store(1).path
    header = json.loads((path / "store.json").read_text())
    (path / "store.json").write_text(json.dumps({**header, "version": 2}))
    with pytest.raises(StoreError, match=r"has version 2; this anyband reads version 1; update anyband"):
        ChipStore.open(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"version": "x"}', '{"version": 1}'])
def test_broken_header_is_said(make_store, text: str) -> None:
    path = make_store(1).path
    (path / "store.json").write_text(text)
    with pytest.raises(StoreError, match=r"store.json' is broken"):
        ChipStore.open(path)


def test_missing_shard_is_noticed_when_opening(make_store) -> None:
    path = make_store(1).path
    shutil.rmtree(path / "chips" / "testradar_4x4" / "c")
    with pytest.raises(StoreError, match=r"is incomplete: .*testradar_4x4.* is missing"):
        ChipStore.open(path)


def test_truncated_shard_is_said(make_store) -> None:
    store = make_store(3)
    shard = store.path / "chips" / "testoptical_8x8" / "c" / "0" / "0" / "0" / "0"
    shard.write_bytes(shard.read_bytes()[:50])
    with pytest.raises(StoreError, match="can't be read"):
        store.read("testoptical_8x8", [0])


def test_truncated_index_is_said(make_store) -> None:
    path = make_store(1).path
    (path / "index.parquet").write_bytes(b"PAR1")
    with pytest.raises(StoreError, match=r"index of the chip store can't be read"):
        ChipStore.open(path)


def test_existing_folder_is_left_alone(tmp_path, optical_sensor) -> None:
    (tmp_path / "store").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        write_store(tmp_path / "store", [], {})


def test_finished_shards_are_not_loaded_again(tmp_path, optical_sensor, monkeypatch) -> None:
    monkeypatch.setattr("anyband.data.store_writer.CHIPS_PER_SHARD", 2)
    pixels = np.random.default_rng(0).integers(0, 99, (5, 2, 8, 8)).astype(np.uint16)
    done = {}
    first = StoreWriter(tmp_path / "twice", on_shard=lambda array, shard, *rest: done.update({(array, shard): rest}))
    for chip in pixels[:4]:
        first.add(_spec(), _record(), Chip(pixels=chip))
    again = StoreWriter(tmp_path / "twice", finished=done)
    for _ in range(4):
        again.add(_spec(), _record(), _Unloadable())
    again.add(_spec(), _record(), Chip(pixels=pixels[4]))
    again.finish({"testoptical": optical_sensor})
    _write(tmp_path / "once", optical_sensor, pixels)
    assert _files(tmp_path / "twice") == _files(tmp_path / "once")


def test_full_disk_is_said(tmp_path, optical_sensor) -> None:
    program = f"""
import resource, signal
import numpy as np
from pathlib import Path
from anyband.data.store_writer import ChipRecord
from anyband.data.store import ArraySpec
from anyband.data.store_writer import Chip, StoreWriter
from anyband.errors import OutputError
from anyband.sensors.sensor import Encoding
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
spec = ArraySpec(
    sensor='s', bands=('b',), height=64, width=64, dtype='uint16', encoding={{'b': Encoding()}}, nodata=None
)
record = ChipRecord(place='p', cell='r', sensor='s', source_path='x', valid_fraction=1.0)
writer = StoreWriter(Path({str(tmp_path)!r}) / 'full')
try:
    for k in range(256):
        pixels = np.random.default_rng(k).integers(0, 60000, (1, 64, 64)).astype(np.uint16)
        writer.add(spec, record, Chip(pixels=pixels))
except OutputError as problem:
    print(problem)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "no room on the disk to write" in done.stdout
    assert "run the same command again" in done.stdout


def test_reading_a_store_needs_no_raster_library(make_store) -> None:
    program = (
        "import sys; from pathlib import Path; from anyband.data.store import ChipStore; "
        "import anyband.data.image_sets, anyband.data.loader; "
        f"ChipStore.open(Path({str(make_store(2).path)!r})).read('testoptical_8x8', [0]); "
        "print(sorted({'rasterio', 'geopandas', 'shapely', 'pyproj'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class _Unloadable:
    def load(self) -> tuple[np.ndarray, None]:
        raise AssertionError("a finished shard was loaded again")

    def release(self) -> None:
        pass


def _spec() -> ArraySpec:
    encoding = {"B1": Encoding(scale=1e-4), "B2": Encoding(scale=1e-4)}
    return ArraySpec(
        sensor="testoptical",
        bands=("B1", "B2"),
        height=8,
        width=8,
        dtype="uint16",
        encoding=encoding,
        nodata=0.0,
    )


def _record() -> ChipRecord:
    return ChipRecord(place="p", cell="r000c000", sensor="testoptical", source_path="x.tif", valid_fraction=1.0)


def _write(path: Path, sensor: Sensor, pixels: np.ndarray) -> ChipStore:
    chips = ((_spec(), _record(), Chip(pixels=chip)) for chip in pixels)
    write_store(path, chips, {sensor.name: sensor})
    return ChipStore.open(path)


def _write_index(path: Path, records: list[ChipRecord]) -> None:
    index = IndexWriter()
    for row, record in enumerate(records):
        index.add(record, ("a", row))
    index.write(path)


@pytest.mark.parametrize(("rows", "batches"), [(3, 8), (3, 2), (4, 1)])
def test_an_index_gathered_in_parts_holds_every_row_once(monkeypatch, tmp_path, rows: int, batches: int) -> None:
    from anyband.data import store_writer

    records = [
        ChipRecord(place=f"p{number}", cell="r000c000", sensor="s", source_path="a", valid_fraction=1.0)
        for number in range(11)
    ]
    _write_index(tmp_path / "once.parquet", records)
    monkeypatch.setattr(store_writer, "_ROWS_TOGETHER", rows)
    monkeypatch.setattr(store_writer, "_BATCHES_A_GROUP", batches)
    _write_index(tmp_path / "parts.parquet", records)
    once, parts = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("once", "parts"))
    assert parts.equals(once, check_metadata=True)
    assert parts["chip"].to_pylist() == list(range(11))
    assert parts["place"].to_pylist() == [record.place for record in records]
    groups = pq.ParquetFile(tmp_path / "parts.parquet").num_row_groups
    assert groups == -(-11 // (rows * batches))
    # In one group of rows the way that they came can't be told from the bytes.
    same = (tmp_path / "parts.parquet").read_bytes() == (tmp_path / "once.parquet").read_bytes()
    assert same == (groups == 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["once.parquet", "parts.parquet"]
