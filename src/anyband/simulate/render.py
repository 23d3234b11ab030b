"""One place through all sensors, as arrays: the land-cover map and every image of it."""

import datetime
from dataclasses import dataclass

import numpy as np

from anyband.sensors.sensor import Sensor
from anyband.sensors.spectrum import OpticalRange
from anyband.shapes import Array, Float, Num, UInt8
from anyband.simulate.atmosphere import clear_sky, draw_sky, swath
from anyband.simulate.covers import cover_names, load_covers
from anyband.simulate.fields import Frame
from anyband.simulate.instrument import observe
from anyband.simulate.landscape import Landscape, make_landscape
from anyband.simulate.options import SimulateOptions, frame_of, sensors_of
from anyband.simulate.places import Place, make_place
from anyband.simulate.products import encode, stored_nodata
from anyband.simulate.season import sun_position
from anyband.simulate.surface import Surface, make_surface

__all__ = ["Image", "RenderedPlace", "acquisition_days", "cover_map", "render_place"]

# chosen: lower suns are not used for mapping; also keeps polar winters out.
_LOWEST_SUN_DEG = 20.0
_OPTICAL_HOUR, _RADAR_HOUR = 10.5, 18.0  # local solar time; Source: Sentinel-2 and Sentinel-1 orbits


@dataclass(frozen=True, kw_only=True)
class Image:
    """One acquisition of one sensor at one place."""

    sensor: Sensor
    """With the pixel sizes that were used."""
    number: int
    """Which of the dates of the place, from 0."""
    datetime_utc: datetime.datetime
    """When, UTC."""
    stored: Num[Array, "band row col"]
    """Numbers as the sensor's products store them."""
    cloud_share: float
    """Share of the footprint under cloud; 0 for radar."""


@dataclass(frozen=True, kw_only=True)
class RenderedPlace:
    """A place with everything that is written of it."""

    place: Place
    """Where it is."""
    cover: UInt8[Array, "row col"]
    """Land-cover map at the label's pixel size."""
    fractions: Float[Array, " cover"]
    """Share of the map under each cover, in the order of their values."""
    images: tuple[Image, ...]
    """By date, then in the order of the sensors."""

    @property
    def label(self) -> str:
        """Majority class of the map."""
        return cover_names()[int(self.fractions.argmax())]


def render_place(options: SimulateOptions, index: int) -> RenderedPlace:
    """Render one place: a function of the options' seed and the index of the place."""
    frame = frame_of(options)
    place = make_place(options.seed, index)
    landscape = make_landscape(place, frame)
    cover = cover_map(landscape, gsd_m=options.label_gsd_m)
    counts = np.bincount(cover.ravel(), minlength=len(load_covers()) + 1)[1:]
    surfaces: dict[int, Surface] = {}
    images = []
    for date, base_day in enumerate(acquisition_days(place, options.num_dates)):
        for sensor in sensors_of(options):
            gap = place.generator(f"gap/{sensor.name}", sample=date).integers(
                -options.max_gap_days, options.max_gap_days + 1
            )
            day = base_day + int(gap)
            if day not in surfaces:
                surfaces[day] = make_surface(landscape, float(day))
            images.append(_acquire(options, surfaces[day], sensor, date))
    return RenderedPlace(place=place, cover=cover, fractions=counts / counts.sum(), images=tuple(images))


def acquisition_days(place: Place, num_dates: int) -> tuple[int, ...]:
    """Draw the days of the year on which a place is looked at, spread over those with enough sun."""
    usable = [day for day in range(1, 366) if _sunny(place, day)]
    rng = place.generator("dates")
    parts = np.array_split(np.array(usable), num_dates)
    return tuple(int(rng.choice(part)) if len(part) else usable[-1] for part in parts)


def cover_map(landscape: Landscape, *, gsd_m: float) -> UInt8[Array, "row col"]:
    """Reduce the true covers to coarser pixels, each with the cover that has most of it."""
    frame: Frame = landscape.frame
    size = round(frame.footprint_m / gsd_m)
    centre = ((np.arange(frame.num_pixels) + 0.5) * size / frame.num_pixels).astype(np.intp)
    pixel = centre[:, None] * size + centre[None, :]
    num_values = len(load_covers()) + 1
    at = (pixel * num_values + landscape.cover).ravel()
    counts = np.bincount(at, minlength=size * size * num_values).reshape(size, size, num_values)
    return np.asarray(counts.argmax(axis=-1), dtype=np.uint8)


def _acquire(options: SimulateOptions, surface: Surface, sensor: Sensor, date: int) -> Image:
    place, frame = surface.landscape.place, surface.landscape.frame
    optical = any(isinstance(band.spectrum, OpticalRange) for band in sensor.bands)
    sky = clear_sky(frame)
    if optical:
        rng = place.generator(f"sky/{sensor.name}", sample=date)
        sky = draw_sky(rng, frame, surface.sun, cloudy=bool(rng.random() < options.cloud_share))
    values = observe(surface, sensor, sky, place.generator(f"noise/{sensor.name}", sample=date))
    rng = place.generator(f"edge/{sensor.name}", sample=date)
    valid = np.ones(values.shape[1:], dtype=bool)
    edged = stored_nodata(sensor, encoding=sensor.default_encoding) is not None
    if rng.random() < options.edge_share and edged:
        valid = swath(rng, values.shape[-1])
    return Image(
        sensor=sensor,
        number=date,
        datetime_utc=_moment(options, place, surface.day, _OPTICAL_HOUR if optical else _RADAR_HOUR),
        stored=encode(values, sensor, valid),
        cloud_share=sky.cloud_share,
    )


def _sunny(place: Place, day: int) -> bool:
    return sun_position(place.latitude_deg, float(day)).elevation_deg >= _LOWEST_SUN_DEG


def _moment(options: SimulateOptions, place: Place, day: float, solar_hour: float) -> datetime.datetime:
    start = datetime.datetime(options.year, 1, 1, tzinfo=datetime.UTC)
    moment = start + datetime.timedelta(days=day - 1, hours=solar_hour - place.longitude_deg / 15)
    return moment.replace(microsecond=0)
