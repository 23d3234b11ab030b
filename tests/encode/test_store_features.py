"""Features of the chips of a store."""

import datetime as dt
from pathlib import Path

import numpy as np
import pytest
import torch

from anyband.data.image_sets import common_footprints
from anyband.data.store import ArraySpec, ChipStore
from anyband.data.store_writer import Chip, ChipRecord, write_store
from anyband.encode.encoder import (
    EncodeOptions,
    Pool,
    SensorEncoder,
    load_encoder,
    pooled,
    store_features,
)
from anyband.errors import StoreError
from anyband.evaluate.features import band_means
from anyband.sensors.catalogue import get_sensor
from anyband.sensors.sensor import BandStatistics, Encoding

_OPTICAL, _RADAR = get_sensor("sentinel2-l2a"), get_sensor("sentinel1-grd")
_SPLITS = ("train", "train", "test", "val")


@pytest.fixture(scope="module")
def encoder(golden: Path) -> SensorEncoder:
    return load_encoder(golden / "smarties" / "checkpoint.safetensors")


def _spec(sensor: str, bands: tuple[str, ...], size: int, dtype: str, encoding: Encoding, nodata: float) -> ArraySpec:
    return ArraySpec(
        sensor=sensor,
        bands=bands,
        height=size,
        width=size,
        dtype=dtype,
        encoding=dict.fromkeys(bands, encoding),
        nodata=nodata,
    )


def _record(place: int, sensor: str, month: int | None) -> ChipRecord:
    return ChipRecord(
        place=f"p{place}",
        cell="r000c000",
        sensor=sensor,
        source_path=f"{sensor}.tif",
        valid_fraction=0.9 if place == 0 and sensor == "sentinel2-l2a" else 1.0,
        split=_SPLITS[place],  # type: ignore[arg-type]
        datetime=None if month is None else dt.datetime(2020, month, 1, tzinfo=dt.UTC),
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ChipStore:
    """Four places with two optical chips each, the later first; radar at three of them."""
    draw = np.random.default_rng(0)
    optical = _spec("sentinel2-l2a", _OPTICAL.band_names, 32, "uint16", Encoding(scale=1e-4), 0.0)
    radar = _spec("sentinel1-grd", _RADAR.band_names, 32, "int16", Encoding(scale=0.01), -32768.0)
    chips = []
    for place in range(4):
        for month in (7, 2):
            pixels = draw.integers(300, 4000, (12, 32, 32)).astype(np.uint16)
            valid = np.ones(pixels.shape, bool)
            valid[:, : 16 * (place == 0), :16] = False
            chips.append((optical, _record(place, "sentinel2-l2a", month), Chip(pixels=pixels, valid=valid)))
        if place < 3:
            pixels = draw.integers(-2500, -300, (2, 32, 32)).astype(np.int16)
            chips.append((radar, _record(place, "sentinel1-grd", None), Chip(pixels=pixels)))
    path = tmp_path_factory.mktemp("stores") / "store"
    write_store(path, iter(chips), {"sentinel2-l2a": _OPTICAL, "sentinel1-grd": _RADAR})
    return ChipStore.open(path)


def _array(store: ChipStore, sensor: str) -> str:
    return next(name for name, info in store.arrays.items() if info.sensor == sensor)


def _features(
    encoder: SensorEncoder,
    store: ChipStore,
    array: str,
    rows: np.ndarray,
    *,
    pool: Pool = "cls",
    statistics: dict[str, BandStatistics] | None = None,
) -> np.ndarray:
    makers = {"encoder": lambda batch: pooled(encoder.encode_batch(batch), pool)}
    made = store_features(makers, encoder, store, array, rows, img_size=32, batch_size=2, statistics=statistics)
    return made["encoder"]


def test_chips_get_the_features_that_encode_gives_their_images(encoder: SensorEncoder, store: ChipStore) -> None:
    array = _array(store, "sentinel2-l2a")
    rows = np.array([5, 0, 2])
    chips, valid = store.read(array, rows)
    expected = encoder.encode(chips, sensor=_OPTICAL, valid=valid, options=EncodeOptions(img_size=32))
    assert np.allclose(_features(encoder, store, array, rows), expected.cls.numpy(), atol=1e-5)


def test_stored_decibels_are_read_with_the_encoding_of_the_store(encoder: SensorEncoder, store: ChipStore) -> None:
    array = _array(store, "sentinel1-grd")
    chips, _ = store.read(array, [0, 1, 2])
    decibels = chips.astype(np.float32) * 0.01
    expected = encoder.encode(decibels, sensor="sentinel1-grd", encoding="db", options=EncodeOptions(img_size=32))
    assert np.allclose(_features(encoder, store, array, np.arange(3)), expected.cls.numpy(), atol=1e-4)
    mean = _features(encoder, store, array, np.arange(3), pool="mean")
    assert np.allclose(mean, expected.map.mean(dim=(2, 3)).numpy(), atol=1e-4)


def test_given_statistics_change_the_features(encoder: SensorEncoder, store: ChipStore) -> None:
    array = _array(store, "sentinel1-grd")
    own = {name: BandStatistics(p01=-30.0, p99=0.0, mean=0.4, std=0.1) for name in _RADAR.band_names}
    plain = _features(encoder, store, array, np.arange(3))
    other = _features(encoder, store, array, np.arange(3), statistics=own)
    assert not np.allclose(plain, other, atol=1e-3)


def test_several_kinds_of_features_are_made_in_one_pass(encoder: SensorEncoder, store: ChipStore) -> None:
    array = _array(store, "sentinel2-l2a")
    twin = encoder.untrained(seed=0)
    makers = {"band means": band_means, "untrained": lambda batch: twin.encode_batch(batch).cls}
    made = store_features(makers, encoder, store, array, np.arange(8), batch_size=3)
    assert {name: values.shape for name, values in made.items()} == {
        "band means": (8, 24),
        "untrained": (8, 64),
    }
    assert all(torch.isfinite(torch.from_numpy(values)).all() for values in made.values())


def test_footprints_that_all_arrays_show_are_found_with_their_earliest_chips(store: ChipStore) -> None:
    arrays = [_array(store, "sentinel2-l2a"), _array(store, "sentinel1-grd")]
    footprints, rows = common_footprints(store, arrays)
    assert footprints == [("p0", "train"), ("p1", "train"), ("p2", "test")]
    assert rows[arrays[0]].tolist() == [1, 3, 5]
    assert rows[arrays[1]].tolist() == [0, 1, 2]


def test_an_array_that_is_not_there_is_refused(store: ChipStore) -> None:
    with pytest.raises(StoreError, match="array 'other' is not in store"):
        common_footprints(store, ["other"])


def test_arrays_without_a_common_footprint_are_refused(tmp_path: Path) -> None:
    optical = _spec("sentinel2-l2a", _OPTICAL.band_names, 32, "uint16", Encoding(scale=1e-4), 0.0)
    radar = _spec("sentinel1-grd", _RADAR.band_names, 32, "int16", Encoding(scale=0.01), -32768.0)
    chips = [
        (optical, _record(1, "sentinel2-l2a", 7), Chip(pixels=np.ones((12, 32, 32), np.uint16))),
        (radar, _record(3, "sentinel1-grd", None), Chip(pixels=np.ones((2, 32, 32), np.int16))),
    ]
    sensors = {"sentinel2-l2a": _OPTICAL, "sentinel1-grd": _RADAR}
    write_store(tmp_path / "apart", iter(chips), sensors)
    apart = ChipStore.open(tmp_path / "apart")
    with pytest.raises(StoreError, match=r"has no footprint that all of .* show"):
        common_footprints(apart, list(apart.arrays))
