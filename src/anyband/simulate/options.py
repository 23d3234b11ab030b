"""What to simulate: the record of options, checked at the door."""

import math
from dataclasses import dataclass, replace

from anyband.errors import GeometryError, InputError, nearest_name
from anyband.sensors.catalogue import resolve_sensor
from anyband.sensors.sensor import Sensor
from anyband.simulate.fields import Frame

__all__ = ["DEFAULT_SENSORS", "SimulateOptions", "frame_of", "sensors_of"]

DEFAULT_SENSORS = ("sentinel2-l2a", "sentinel1-grd", "maxar-rgb", "landsat8-oli-tirs-l2")
"""Optical, radar, very high resolution and thermal: one of each kind."""


@dataclass(frozen=True, kw_only=True)
class SimulateOptions:
    """What to simulate. What is written is a function of this record, `workers` and `shown` excepted."""

    num_places: int = 100
    """Number of places, at least 1."""
    sensors: tuple[str, ...] = DEFAULT_SENSORS
    """Sensors of the catalogue, or YAML files of one sensor each."""
    footprint_m: float = 960.0
    """Side of a place, metres; a multiple of every pixel size."""
    seed: int = 0
    """Of all draws."""
    num_dates: int = 1
    """Acquisitions of each sensor at each place, spread over the months with enough sun."""
    max_gap_days: int = 3
    """Most days by which the sensors are apart on one date."""
    year: int = 2023
    """Year of the acquisitions."""
    cloud_share: float = 0.1
    """Share of optical acquisitions with clouds, 0 to 1."""
    edge_share: float = 0.05
    """Share of acquisitions that the edge of the swath cuts, 0 to 1; none where a sensor has no nodata."""
    gsd_m: tuple[tuple[str, float], ...] = (("maxar-rgb", 2.5),)
    """(sensor, metres): pixel size to use instead of the catalogue's. Bands that are coarser stay so."""
    detail_m: float = 2.5
    """Pixel size of the truth, metres; no sensor may be finer."""
    label_gsd_m: float = 10.0
    """Pixel size of the land-cover map, metres."""
    workers: int = 1
    """Processes that render at the same time."""
    shown: bool = True
    """Whether to show progress."""

    def __post_init__(self) -> None:
        for name, least in (("num_places", 1), ("num_dates", 1), ("workers", 1), ("max_gap_days", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, found {getattr(self, name)}")
        for name in ("footprint_m", "detail_m", "label_gsd_m"):
            _check_length(name, getattr(self, name))
        for sensor, gsd_m in self.gsd_m:
            _check_length(f"the pixel size of '{sensor}'", gsd_m)
        for name in ("cloud_share", "edge_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must be from 0 to 1, found {getattr(self, name):g}")
        if not self.sensors:
            raise InputError("no sensors are named; `anyband sensors` lists the catalogue")


def _check_length(name: str, metres: float) -> None:
    if not 0 < metres < math.inf:
        raise InputError(f"{name} must be over 0 metres and finite, found {metres:g}")


def frame_of(options: SimulateOptions) -> Frame:
    """Make the frame of the truth.

    Raises:
        GeometryError: the footprint is no multiple of the detail.
    """
    _check_multiple(options.footprint_m, options.detail_m, "the truth (detail_m)")
    _check_multiple(options.footprint_m, options.label_gsd_m, "the land-cover map (label_gsd_m)")
    return Frame(footprint_m=options.footprint_m, detail_m=options.detail_m)


def sensors_of(options: SimulateOptions) -> tuple[Sensor, ...]:
    """Look up the sensors, with the pixel sizes that the options give them.

    Raises:
        CatalogueError: a sensor is unknown.
        InputError: a pixel size is given for a sensor that is not asked for, or a sensor is named twice.
        GeometryError: the footprint is no multiple of a pixel size, or a pixel is finer than the truth.
    """
    sensors = tuple(resolve_sensor(name) for name in options.sensors)
    names = [sensor.name for sensor in sensors]
    if len(set(names)) < len(names):
        raise InputError(f"a sensor is named twice: {', '.join(names)}")
    sizes: dict[str, float] = {}
    for name, gsd_m in options.gsd_m:
        # A sensor of the user's own goes by its name here, as messages write it, or by its file.
        meant = name if name in names else resolve_sensor(name).name
        if meant in names:
            sizes[meant] = gsd_m
        elif (name, gsd_m) not in SimulateOptions.gsd_m:
            asked = f"{', '.join(names)}{nearest_name(name, names)}"
            raise InputError(f"a pixel size is given for '{name}', which is not simulated ({asked})")
    resized = tuple(_resized(sensor, sizes.get(sensor.name)) for sensor in sensors)
    for sensor in resized:
        for band in sensor.bands:
            _check_pixel(options, sensor, band.gsd_m)
    return resized


def _resized(sensor: Sensor, gsd_m: float | None) -> Sensor:
    if gsd_m is None:
        return sensor
    finest = sensor.gsd_m
    bands = tuple(
        replace(band, gsd_m=gsd_m if band.gsd_m == finest else max(band.gsd_m, gsd_m)) for band in sensor.bands
    )
    return replace(sensor, bands=bands)


def _check_pixel(options: SimulateOptions, sensor: Sensor, gsd_m: float) -> None:
    if gsd_m < options.detail_m:
        raise GeometryError(
            f"sensor '{sensor.name}' has pixels of {gsd_m:g} m, finer than the truth, which is drawn at "
            f"{options.detail_m:g} m; use --gsd {sensor.name}={options.detail_m:g}, or a finer --detail"
        )
    _check_multiple(options.footprint_m, gsd_m, f"sensor '{sensor.name}'")


def _check_multiple(footprint_m: float, gsd_m: float, of: str) -> None:
    if gsd_m <= 0 or footprint_m < gsd_m or abs(footprint_m / gsd_m - round(footprint_m / gsd_m)) > 1e-6:
        nearest_m = max(round(footprint_m / gsd_m), 1) * gsd_m if gsd_m > 0 else footprint_m
        raise GeometryError(
            f"a footprint of {footprint_m:g} m is no multiple of the pixel size {gsd_m:g} m of {of}; "
            f"use --footprint {nearest_m:g}, or another pixel size"
        )
