"""A chip whose bytes changed on the disk must be refused: Blosc alone gave other numbers without a word."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from anyband.data.store import ArraySpec, ChipStore
from anyband.data.store_writer import Chip, ChipRecord, write_store
from anyband.errors import StoreError
from anyband.sensors.catalogue import get_sensor


def _chips() -> Iterator[tuple[ArraySpec, ChipRecord, Chip]]:
    sensor = get_sensor("maxar-rgb")
    encoding = {band.name: band.encoding("dn") for band in sensor.bands}
    spec = ArraySpec(
        sensor=sensor.name, bands=sensor.band_names, height=16, width=16, dtype="uint8", encoding=encoding, nodata=None
    )
    record = ChipRecord(place="p", cell="r000c000", sensor=sensor.name, source_path="a.tif", valid_fraction=1.0)
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 255, (3, 16, 16)).astype(np.uint8)
        yield spec, dataclasses.replace(record, place=f"p{number}"), Chip(pixels=pixels)


@pytest.mark.parametrize("offset", [40, 300, 700])
def test_a_flipped_byte_is_noticed(tmp_path: Path, offset: int) -> None:
    write_store(tmp_path / "store", _chips(), {"maxar-rgb": get_sensor("maxar-rgb")})
    shard = next((tmp_path / "store" / "chips").rglob("c/0/0/0/0"))
    stored = bytearray(shard.read_bytes())
    stored[offset] ^= 0xFF
    shard.write_bytes(stored)
    store = ChipStore.open(tmp_path / "store")
    with pytest.raises(StoreError, match=r"can't be read: .*prepare it again"):
        store.read("maxar-rgb_16x16", [0])
