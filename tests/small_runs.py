"""Small chip stores of two sensors, and recipes of a network small enough for tests."""

import dataclasses
import datetime as dt
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from anyband.data import store_writer
from anyband.data.resample import AugmentOptions
from anyband.data.store import ArraySpec
from anyband.data.store_writer import Chip, ChipRecord, write_store
from anyband.models.encodings import EncodingConfig
from anyband.pretraining.recipe import DataRecipe, ModelRecipe, OptimRecipe, PretrainRecipe, RunRecipe, SetRecipe
from anyband.sensors.catalogue import get_sensor
from anyband.sensors.sensor import Encoding

_PLACES = 24
_BANDS = ("B02", "B03", "B04")


@pytest.fixture(scope="session")
def pair_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 places, 4 of them for validation: Sentinel-2 (24 px, some with holes) and Sentinel-1 (12 px)."""
    path = tmp_path_factory.mktemp("data") / "store"
    sensors = {
        "sentinel2-l2a": get_sensor("sentinel2-l2a").select(_BANDS),
        "sentinel1-grd": get_sensor("sentinel1-grd").select(("VV", "VH")),
    }
    write_store(path, _chips(), sensors)
    return path


@pytest.fixture(scope="session")
def set_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same 24 places over time, with corners, resolution and dates.

    Places have 1 to 4 dates of Sentinel-2, some with holes; two of three have Sentinel-1; every fifth has no date.
    """
    path = tmp_path_factory.mktemp("data") / "set_store"
    sensors = {
        "sentinel2-l2a": get_sensor("sentinel2-l2a").select(_BANDS),
        "sentinel1-grd": get_sensor("sentinel1-grd").select(("VV", "VH")),
    }
    write_store(path, _set_chips(), sensors)
    return path


@pytest.fixture(scope="session")
def sharded_stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The chips of `pair_store` (pairs) and of `set_store` (sets) in shards of 4 chips."""
    folder = tmp_path_factory.mktemp("sharded")
    sensors = {
        "sentinel2-l2a": get_sensor("sentinel2-l2a").select(_BANDS),
        "sentinel1-grd": get_sensor("sentinel1-grd").select(("VV", "VH")),
    }
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(store_writer, "CHIPS_PER_SHARD", 4)
        write_store(folder / "pairs", _chips(), sensors)
        write_store(folder / "sets", _set_chips(), sensors)
    return {name: folder / name for name in ("pairs", "sets")}


_OPTICAL = ArraySpec(
    sensor="sentinel2-l2a",
    bands=_BANDS,
    height=24,
    width=24,
    dtype="uint16",
    encoding=dict.fromkeys(_BANDS, Encoding(scale=1e-4)),
    nodata=0.0,
)
_RADAR = ArraySpec(
    sensor="sentinel1-grd",
    bands=("VV", "VH"),
    height=12,
    width=12,
    dtype="int16",
    encoding=dict.fromkeys(("VV", "VH"), Encoding(scale=0.01)),
    nodata=-32768.0,
)


def _chips() -> Iterator[tuple[ArraySpec, ChipRecord, Chip]]:
    optical, radar = _OPTICAL, _RADAR
    for place in range(_PLACES):
        rng = np.random.default_rng(place)
        pixels = rng.integers(200, 4000, (3, 24, 24)).astype(np.uint16)
        valid = np.ones(pixels.shape, dtype=bool)
        if place % 4 == 0:
            valid[:, :10, :13] = False
        yield optical, _record(place, optical.sensor, valid), Chip(pixels=pixels, valid=valid)
        decibels = rng.integers(-2500, 0, (2, 12, 12)).astype(np.int16)
        whole = np.ones(decibels.shape, dtype=bool)
        yield radar, _record(place, radar.sensor, whole), Chip(pixels=decibels)


def _set_chips() -> Iterator[tuple[ArraySpec, ChipRecord, Chip]]:
    for place in range(_PLACES):
        rng = np.random.default_rng(1000 + place)
        ground = np.kron(rng.integers(200, 4000, (3, 6, 6)), np.ones((4, 4), dtype=np.int64))
        for date in range(1 + place % 4):
            pixels = (ground + rng.integers(0, 200, ground.shape)).astype(np.uint16)
            valid = np.ones(pixels.shape, dtype=bool)
            if (place + date) % 5 == 0:
                valid[:, :10, :13] = False
            day = None if place % 5 == 4 else dt.datetime(2021, 1 + 3 * date, 1 + place, tzinfo=dt.UTC)
            record = dataclasses.replace(_record(place, "sentinel2-l2a", valid), datetime=day, gsd_m=10.0)
            yield _OPTICAL, _placed(record, place), Chip(pixels=pixels, valid=valid)
        if place % 3:
            decibels = (ground[:2, ::2, ::2] // -2).astype(np.int16)
            record = dataclasses.replace(
                _record(place, "sentinel1-grd", np.ones(decibels.shape, dtype=bool)),
                datetime=dt.datetime(2021, 6, 1 + place, tzinfo=dt.UTC),
                gsd_m=20.0,
            )
            yield _RADAR, _placed(record, place), Chip(pixels=decibels)


def _placed(record: ChipRecord, place: int) -> ChipRecord:
    """Give a chip a square of 240 m, which begins at its upper left corner."""
    west, north, side = 10.0 + place / 10, 45.0, 240 / 111_320
    ring = [(west, north), (west + side, north), (west + side, north - side), (west, north - side), (west, north)]
    numbers = [number for corner in ring for number in corner]
    return dataclasses.replace(
        record,
        geometry=struct.pack("<BIII10d", 1, 3, 1, 5, *numbers),
        bounds=(west, north - side, west + side, north),
    )


def _record(place: int, sensor: str, valid: np.ndarray) -> ChipRecord:
    return ChipRecord(
        place=f"p{place:03d}",
        cell="r000c000",
        sensor=sensor,
        source_path=f"{sensor}_{place}.tif",
        valid_fraction=float(valid.mean()),
        split="train" if place < _PLACES - 4 else "val",
    )


@pytest.fixture(scope="session")
def small_recipe() -> PretrainRecipe:
    """A network of two blocks on 16 px images, 12 steps in float32 on one CPU."""
    return PretrainRecipe(
        name="small",
        seed=3,
        model=ModelRecipe(
            img_size=16,
            patch_size=4,
            embed_dim=16,
            depth=2,
            num_heads=2,
            drop_path=0.2,
            decoder_embed_dim=8,
            decoder_depth=1,
            decoder_num_heads=2,
        ),
        data=DataRecipe(augment=AugmentOptions()),
        optim=OptimRecipe(batch_size=8, steps=12, epochs=6, warmup_epochs=1.0, base_lr=0.05, precision="32-true"),
        run=RunRecipe(
            accelerator="cpu",
            devices=1,
            log_every_steps=1,
            checkpoint_every_steps=3,
            panel_every_steps=0,
            val_batches=1,
        ),
    )


@pytest.fixture(scope="session")
def set_recipe(small_recipe: PretrainRecipe) -> PretrainRecipe:
    """The small network on sets of 1 to 3 images, with all parts of `unified`."""
    model = small_recipe.model.changed(
        sequence="apart",
        hidden_image=0.3,
        encodings=EncodingConfig(place=True, resolution=True, date=True, source=True),
        levels=True,
    )
    sets = SetRecipe(size=(1, 3), metadata_dropout=0.2)
    return small_recipe.changed(model=model, data=small_recipe.data.changed(sets=sets))


Changed = Callable[..., PretrainRecipe]


@pytest.fixture(scope="session")
def changed(small_recipe: PretrainRecipe) -> Changed:
    """Make the small recipe with other values: `changed(optim={"steps": 4}, seed=5)`."""
    return lambda **parts: _changed(small_recipe, parts)


@pytest.fixture(scope="session")
def changed_sets(set_recipe: PretrainRecipe) -> Changed:
    """Make the small recipe of sets with other values: `changed_sets(model={"masking": "same"})`."""
    return lambda **parts: _changed(set_recipe, parts)


def _changed(recipe: PretrainRecipe, parts: dict[str, object]) -> PretrainRecipe:
    values = {
        name: getattr(recipe, name).changed(**value) if isinstance(value, dict) else value
        for name, value in parts.items()
    }
    return recipe.changed(**values)
