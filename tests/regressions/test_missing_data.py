"""Data that was lost or damaged was once read as valid: lost validity, resumed work, flipped bits of the index."""

import contextlib
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio

from anyband.data.manifest import ImageEntry, parse_entry
from anyband.data.prepare import PrepareOptions, prepare
from anyband.data.store import ChipStore
from anyband.errors import OutputError, StoreError

_OPTIONS = PrepareOptions(fractions=(1.0, 0.0, 0.0), chip_px=32)


@pytest.fixture
def entries(tmp_path: Path) -> list[ImageEntry]:
    """Two images, of which the second lacks its first rows."""
    pixels = np.random.default_rng(0).integers(1, 200, (2, 3, 64, 64)).astype(np.uint8)
    pixels[1, :, :8] = 0
    how = {"driver": "GTiff", "count": 3, "height": 64, "width": 64, "dtype": "uint8", "crs": "EPSG:32631", "nodata": 0}
    for number in range(2):
        transform = rasterio.Affine(10.0, 0.0, 500_000.0 + 5_000.0 * number, 0.0, -10.0, 5_000_000.0)
        with rasterio.open(tmp_path / f"{number}.tif", "w", transform=transform, **how) as file:
            file.write(pixels[number])
    return [parse_entry({"path": f"{number}.tif", "sensor": "maxar-rgb"}, folder=tmp_path) for number in range(2)]


@pytest.mark.parametrize("lost", ["c", "c/0/0/0/0"])
def test_validity_that_vanished_is_not_all_valid(tmp_path, entries, lost: str) -> None:
    prepare(entries, tmp_path / "store", _OPTIONS)
    gone = tmp_path / "store" / "valid" / "maxar-rgb_32x32" / lost
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    with pytest.raises(StoreError, match=r"is incomplete: '.*valid.*' is missing; prepare it again"):
        ChipStore.open(tmp_path / "store")


def test_validity_that_the_header_does_not_know_of_is_missed(tmp_path, entries) -> None:
    prepare(entries, tmp_path / "store", _OPTIONS)
    header = tmp_path / "store" / "store.json"
    header.write_text(header.read_text().replace('"has_valid": true', '"has_valid": false'))
    with pytest.raises(StoreError, match="of array 'maxar-rgb_32x32' validity is missing"):
        ChipStore.open(tmp_path / "store")


def test_an_index_of_the_right_length_that_lacks_a_chip_is_refused(tmp_path, entries) -> None:
    prepare(entries, tmp_path / "store", _OPTIONS)
    file = tmp_path / "store" / "index.parquet"
    table = pq.read_table(file)
    rows = table["array_row"].to_numpy().copy()
    rows[1] = rows[0]
    pq.write_table(table.set_column(table.column_names.index("array_row"), "array_row", [rows]), file)
    with pytest.raises(StoreError, match=r"its index lacks chips of array 'maxar-rgb_32x32'"):
        ChipStore.open(tmp_path / "store")


def test_a_flipped_bit_of_the_index_is_noticed(tmp_path, entries) -> None:
    prepare(entries, tmp_path / "store", _OPTIONS)
    file = tmp_path / "store" / "index.parquet"
    whole, table = file.read_bytes(), pq.read_table(file)
    length_of_footer = int.from_bytes(whole[-8:-4], "little")
    noticed = 0
    for offset in range(4, len(whole) - 8 - length_of_footer, 19):
        content = bytearray(whole)
        content[offset] ^= 1 << offset % 8
        file.write_bytes(content)
        try:
            assert ChipStore.open(tmp_path / "store").index.equals(table)
        except StoreError:
            noticed += 1
    assert noticed > 60


def _leave_unfinished(entries: list[ImageEntry], out: Path) -> Path:
    """Stop when all shards are written, before the index is."""
    with pytest.MonkeyPatch.context() as patched, pytest.raises(OutputError, match="stopped"):
        patched.setattr("anyband.data.prepare._Run.report", _stopped)
        prepare(entries, out, _OPTIONS)
    return out.with_name(f"{out.name}.partial")


def _stopped(*_given: object) -> None:
    raise OutputError("stopped")


@pytest.mark.parametrize("harm", ["chips flipped", "chips cut", "chips gone", "valid gone", "valid of zeros"])
def test_a_resumed_run_does_not_publish_damaged_shards(tmp_path, entries, harm: str) -> None:
    folder = _leave_unfinished(entries, tmp_path / "store")
    kind, how = harm.split(" ", 1)
    shard = folder / "store" / kind / "maxar-rgb_32x32" / "c/0/0/0/0"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    changed = {"flipped": bytes(content), "cut": bytes(content[:-100]), "of zeros": bytes(len(content))}
    shard.write_bytes(changed[how]) if how in changed else shard.unlink()
    with pytest.raises(
        OutputError, match=r"which an earlier run wrote, is damaged .*store\.partial' and prepare again"
    ):
        prepare(entries, tmp_path / "store", _OPTIONS)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE surveys SET transform = '[10.0, 0.0, 600000.0, 0.0, -10.0, 5000000.0]' WHERE image = 0",
        "UPDATE surveys SET crs = 'EPSG:32632'",
        "UPDATE surveys SET problem = 'not so' WHERE image = 1",
        "UPDATE cuts SET chips = replace(chips, '0.75', '0.85')",
        "UPDATE cuts SET problem = 'not so'",
    ],
)
def test_a_resumed_run_does_again_what_its_ledger_has_damaged(tmp_path, entries, change: str) -> None:
    prepare(entries, tmp_path / "whole", _OPTIONS)
    folder = _leave_unfinished(entries, tmp_path / "store")
    with contextlib.closing(sqlite3.connect(folder / "ledger.sqlite")) as database, database:
        assert database.execute(change).rowcount > 0
    prepare(entries, tmp_path / "store", _OPTIONS)
    for file in (tmp_path / "whole").rglob("*"):
        assert (
            file.is_dir()
            or file.read_bytes() == (tmp_path / "store" / file.relative_to(tmp_path / "whole")).read_bytes()
        )


def test_a_run_stopped_before_its_index_gives_the_same_bytes(tmp_path, entries) -> None:
    prepare(entries, tmp_path / "whole", _OPTIONS)
    with pytest.MonkeyPatch.context() as patched, pytest.raises(OutputError, match="stopped"):
        patched.setattr("anyband.data.store_writer.IndexWriter.write", _stopped)
        prepare(entries, tmp_path / "store", _OPTIONS)
    prepare(entries, tmp_path / "store", _OPTIONS)
    for file in (tmp_path / "whole").rglob("*"):
        other = tmp_path / "store" / file.relative_to(tmp_path / "whole")
        assert file.is_dir() or file.read_bytes() == other.read_bytes()
