"""Features of the chips of a store."""

import datetime as dt
from pathlib import Path

import numpy as np
import pytest
import torch

from anyband.data.chip_index import ChipRecord
from anyband.data.store import ArraySpec, ChipStore
from anyband.data.store_writer import Chip, StoreHeader, write_store
from anyband.encode.encoder import EncodeOptions, SensorEncoder, SetImage, load_encoder
from anyband.encode.store import ChipOptions, cell_sets, common_cells, made_features, set_features, store_features
from anyband.errors import InputError, StoreError
from anyband.evaluate.baselines import band_means
from anyband.models.a2mae import SetAutoencoder
from anyband.models.autoencoder import AutoencoderConfig
from anyband.models.checkpoint import Checkpoint, state_of
from anyband.models.encodings import EncodingConfig
from anyband.models.vit import DecoderConfig, EncoderConfig
from anyband.sensors.catalogue import get_sensor
from anyband.sensors.ranges import load_ranges
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
        valid_fraction=1.0 if place else 0.9,
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
    write_store(path, iter(chips), StoreHeader(sensors={"sentinel2-l2a": _OPTICAL, "sentinel1-grd": _RADAR}))
    return ChipStore.open(path)


def _array(store: ChipStore, sensor: str) -> str:
    return next(name for name, info in store.arrays.items() if info.sensor == sensor)


def test_chips_get_the_features_that_encode_gives_their_images(encoder: SensorEncoder, store: ChipStore) -> None:
    array = _array(store, "sentinel2-l2a")
    rows = np.array([5, 0, 2])
    found = store_features(encoder, store, array, rows, ChipOptions(img_size=32, batch_size=2))
    chips, valid = store.read(array, rows)
    expected = encoder.encode(chips, sensor=_OPTICAL, valid=valid, options=EncodeOptions(img_size=32))
    assert np.allclose(found, expected.cls.numpy(), atol=1e-5)


def test_stored_decibels_are_read_with_the_encoding_of_the_store(encoder: SensorEncoder, store: ChipStore) -> None:
    array = _array(store, "sentinel1-grd")
    found = store_features(encoder, store, array, np.arange(3), ChipOptions(img_size=32))
    chips, _ = store.read(array, [0, 1, 2])
    decibels = chips.astype(np.float32) * 0.01
    expected = encoder.encode(decibels, sensor="sentinel1-grd", encoding="db", options=EncodeOptions(img_size=32))
    assert np.allclose(found, expected.cls.numpy(), atol=1e-4)


def test_given_statistics_change_the_features(encoder: SensorEncoder, store: ChipStore) -> None:
    array = _array(store, "sentinel1-grd")
    own = {name: BandStatistics(p01=-30.0, p99=0.0, mean=0.4, std=0.1) for name in _RADAR.band_names}
    plain = store_features(encoder, store, array, np.arange(3))
    other = store_features(encoder, store, array, np.arange(3), ChipOptions(statistics=own))
    assert not np.allclose(plain, other, atol=1e-3)


def test_the_mean_of_patches_is_another_vector_than_cls(encoder: SensorEncoder, store: ChipStore) -> None:
    array = _array(store, "sentinel1-grd")
    mean = store_features(encoder, store, array, np.arange(3), ChipOptions(pool="mean", img_size=32))
    chips, _ = store.read(array, [0, 1, 2])
    maps = encoder.encode(
        chips.astype(np.float32) * 0.01,
        sensor="sentinel1-grd",
        encoding="db",
        options=EncodeOptions(img_size=32),
    ).map
    assert np.allclose(mean, maps.mean(dim=(2, 3)).numpy(), atol=1e-4)


def test_several_kinds_of_features_are_made_in_one_pass(encoder: SensorEncoder, store: ChipStore) -> None:
    array = _array(store, "sentinel2-l2a")
    twin = encoder.untrained(seed=0)
    makers = {"band means": band_means, "untrained": lambda batch: twin.encode_batch(batch).cls}
    made = made_features(makers, encoder, store, array, np.arange(8), ChipOptions(batch_size=3))
    assert {name: values.shape for name, values in made.items()} == {
        "band means": (8, 24),
        "untrained": (8, 64),
    }
    assert all(torch.isfinite(torch.from_numpy(values)).all() for values in made.values())


def test_cells_that_all_arrays_show_are_found_with_their_earliest_chips(store: ChipStore) -> None:
    arrays = [_array(store, "sentinel2-l2a"), _array(store, "sentinel1-grd")]
    cells = common_cells(store, arrays)
    assert cells.places == ("p0", "p1", "p2")
    assert cells.splits == ("train", "train", "test")
    assert cells.rows[arrays[0]].tolist() == [1, 3, 5]
    assert cells.rows[arrays[1]].tolist() == [0, 1, 2]


def test_cells_of_one_split_are_found(store: ChipStore) -> None:
    assert common_cells(store, [_array(store, "sentinel2-l2a")], split="val").places == ("p3",)


def test_arrays_without_a_common_cell_are_refused(store: ChipStore) -> None:
    arrays = [_array(store, "sentinel2-l2a"), _array(store, "sentinel1-grd")]
    with pytest.raises(StoreError, match=r"has no cell that all of .* show"):
        common_cells(store, arrays, split="val")
    with pytest.raises(StoreError, match="array 'other' is not in store"):
        common_cells(store, ["other"])


def test_sets_of_cells_hold_all_images_of_the_arrays_by_time(store: ChipStore) -> None:
    optical, radar = _array(store, "sentinel2-l2a"), _array(store, "sentinel1-grd")
    sets = cell_sets(store, [radar, optical])
    names = [store.index.column("array").take(rows).to_pylist() for rows in sets.chips]
    times = [store.index.column("datetime").take(rows[-2:]).to_pylist() for rows in sets.chips]
    assert sets.places == ("p0", "p1", "p2", "p3")
    assert sets.splits == ("train", "train", "test", "val")
    assert names == [[radar, optical, optical]] * 3 + [[optical, optical]]
    assert all(first < last for first, last in times)


def test_sets_get_the_features_that_encode_set_gives_their_images(encoder: SensorEncoder, store: ChipStore) -> None:
    optical, radar = _array(store, "sentinel2-l2a"), _array(store, "sentinel1-grd")
    sets = cell_sets(store, [optical, radar])
    found = set_features(encoder, store, sets.chips, ChipOptions(img_size=32, batch_size=6))
    for number in (0, 1, 3):
        rows = store.array_rows[sets.chips[number]]
        dn, valid = store.read(optical, rows[:2])
        seen = np.ones(dn.shape, bool) if valid is None else valid
        images = [SetImage(array=one, sensor=_OPTICAL, valid=known) for one, known in zip(dn, seen, strict=True)]
        if number < 3:
            decibels = store.read(radar, rows[2:])[0][0].astype(np.float32) * 0.01
            images.append(SetImage(array=decibels, sensor="sentinel1-grd", encoding="db"))
        expected = encoder.encode_set(images, options=EncodeOptions(img_size=32)).place
        assert np.allclose(found[number], expected.numpy(), atol=1e-4)


def test_the_mean_of_a_set_is_that_of_its_images(encoder: SensorEncoder, store: ChipStore) -> None:
    sets = cell_sets(store, [_array(store, "sentinel2-l2a")], split="val")
    found = set_features(encoder, store, sets.chips, ChipOptions(img_size=32, pool="mean"))
    dn, _ = store.read(_array(store, "sentinel2-l2a"), store.array_rows[sets.chips[0]])
    images = encoder.encode_set(
        [SetImage(array=one, sensor=_OPTICAL) for one in dn], options=EncodeOptions(img_size=32)
    ).images
    assert np.allclose(found[0], torch.stack([one.cls for one in images]).mean(dim=0).numpy(), atol=1e-5)


def test_arrays_that_show_no_cell_of_a_split_are_refused(store: ChipStore) -> None:
    with pytest.raises(StoreError, match=r"has no cell that any of .* shows"):
        cell_sets(store, [_array(store, "sentinel1-grd")], split="val")


def test_statistics_of_one_sensor_are_refused_for_sets(encoder: SensorEncoder, store: ChipStore) -> None:
    with pytest.raises(InputError, match="statistics by band are for chips of one array"):
        set_features(encoder, store, (np.array([0]),), ChipOptions(statistics={}))


def _told_of_dates() -> SensorEncoder:
    """A network of sets that encodes dates and ground resolution."""
    ranges = load_ranges("smarties_v1")
    encoder = EncoderConfig(
        img_size=32,
        patch_size=16,
        embed_dim=32,
        depth=1,
        num_heads=2,
        num_ranges=len(ranges.ranges),
        encodings=EncodingConfig(date=True, resolution=True, place=True),
    )
    config = AutoencoderConfig(encoder=encoder, decoder=DecoderConfig(), images="set")
    return SensorEncoder(
        Checkpoint(config=config, state=state_of(SetAutoencoder(config, seed=0)), ranges=ranges)
    ).eval()


def test_what_the_index_knows_of_chips_is_told_unless_that_is_switched_off(store: ChipStore) -> None:
    encoder = _told_of_dates()
    sets = cell_sets(store, [_array(store, "sentinel2-l2a")], split="val")
    told, untold = (
        set_features(encoder, store, sets.chips, ChipOptions(metadata=metadata))[0] for metadata in (True, False)
    )
    dn, _ = store.read(_array(store, "sentinel2-l2a"), store.array_rows[sets.chips[0]])
    for dates, found in ((("2020-02-01", "2020-07-01"), told), ((None, None), untold)):
        images = [SetImage(array=one, sensor=_OPTICAL, datetime=date) for one, date in zip(dn, dates, strict=True)]
        assert np.allclose(found, encoder.encode_set(images).place.numpy(), atol=1e-5)
    assert not np.allclose(told, untold, atol=1e-4)
