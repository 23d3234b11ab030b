"""A chip store of simulated pairs, laid out as BigEarthNet's: Sentinel-2 L2A (12 bands) and Sentinel-1 (2), 120 × 120.

Landscapes of 9.6 km are rendered through both sensors and cut into 64 chips, each of which stands in four orientations,
so that a large store is made in a minute. Needs no geographic library.
"""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from anyband.data.store import ArraySpec, ChipStore
from anyband.data.store_writer import Chip, ChipRecord, write_store
from anyband.sensors.catalogue import get_sensor
from anyband.sensors.sensor import Encoding
from anyband.simulate.archive import render_place
from anyband.simulate.plan import SimulateOptions

__all__ = ["SENSORS", "SIDE", "array_spec", "build_pair_store"]

SENSORS = ("sentinel2-l2a", "sentinel1-grd")
SIDE = 120
"""Pixels of a chip, 10 m each."""
_CHIPS_ACROSS = 8
_ORIENTATIONS = 4
# As `anyband prepare` keeps radar.
_DECIBEL = Encoding(scale=0.01)
_DECIBEL_NODATA = -32768.0


def build_pair_store(path: Path, *, num_pairs: int, workers: int, seed: int = 0) -> ChipStore:
    """Make a store of at least one pair; the same for equal numbers and seeds.

    Args:
        path: of the store; must not exist.
        num_pairs: how many.
        workers: processes that render.
        seed: of the landscapes.
    """
    per_landscape = _CHIPS_ACROSS**2 * _ORIENTATIONS
    num_landscapes = -(-num_pairs // per_landscape)
    header = {name: get_sensor(name) for name in SENSORS}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        rendered = pool.map(_landscape, [seed] * num_landscapes, range(num_landscapes))
        write_store(path, _chips(rendered, num_pairs), header)
    return ChipStore.open(path)


def _landscape(seed: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Render a landscape: digital numbers of both sensors."""
    options = SimulateOptions(
        seed=seed,
        sensors=SENSORS,
        footprint_m=10.0 * SIDE * _CHIPS_ACROSS,
        detail_m=10.0,
        edge_share=0.0,
        gsd_m=(),
        shown=False,
    )
    optical, radar = (image.dn for image in render_place(options, index).images)
    return optical, np.rint(radar / _DECIBEL.scale).astype(np.int16)


def _chips(
    rendered: Iterator[tuple[np.ndarray, np.ndarray]], num_pairs: int
) -> Iterator[tuple[ArraySpec, ChipRecord, Chip]]:
    specs = (
        array_spec("sentinel2-l2a", "uint16", None, 0.0),
        array_spec("sentinel1-grd", "int16", _DECIBEL, _DECIBEL_NODATA),
    )
    number = 0
    for images in rendered:
        for turn in range(_ORIENTATIONS):
            for row in range(_CHIPS_ACROSS):
                for col in range(_CHIPS_ACROSS):
                    if number == num_pairs:
                        return
                    for spec, image in zip(specs, images, strict=True):
                        part = image[:, row * SIDE : (row + 1) * SIDE, col * SIDE : (col + 1) * SIDE]
                        pixels = np.ascontiguousarray(np.rot90(part, turn, axes=(1, 2)))
                        yield spec, _record(spec.sensor, number), Chip(pixels=pixels)
                    number += 1


def _record(sensor: str, number: int) -> ChipRecord:
    return ChipRecord(
        place=f"pair {number:07d}",
        cell="r000c000",
        sensor=sensor,
        source_path=f"pair {number:07d}",
        valid_fraction=1.0,
    )


def array_spec(name: str, dtype: str, encoding: Encoding | None, nodata: float) -> ArraySpec:
    """Make the array of a sensor's chips; without an encoding the sensor's default."""
    sensor = get_sensor(name)
    encodings = {band.name: encoding or band.encoding(sensor.default_encoding) for band in sensor.bands}
    return ArraySpec(
        sensor=name, bands=sensor.band_names, height=SIDE, width=SIDE, dtype=dtype, encoding=encodings, nodata=nodata
    )
