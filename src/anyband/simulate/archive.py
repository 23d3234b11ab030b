"""A rendered archive of images."""

import csv
import datetime
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from anyband.arrays import Array, Float, Num, UInt8
from anyband.data.store import Split
from anyband.errors import WorkerError
from anyband.files import whole_directory, whole_file
from anyband.progress import progress, worker_pool
from anyband.rasters.grid import Grid
from anyband.sensors.sensor import Band, OpticalRange, RadarBeam, Sensor
from anyband.simulate.instruments import clear_sky, draw_sky, encode, observe, stored_nodata, swath
from anyband.simulate.landscape import Landscape, make_landscape
from anyband.simulate.plan import (
    Cover,
    Place,
    SimulateOptions,
    cover_names,
    frame_of,
    load_covers,
    make_place,
    sensors_of,
)
from anyband.simulate.surface import Surface, make_surface, sun_position

__all__ = ["Image", "RenderedPlace", "acquisition_days", "cover_map", "draw_preview", "render_place", "simulate"]

# chosen: lower suns are not used for mapping; also keeps polar winters out.
_LOWEST_SUN_DEG = 20.0
_OPTICAL_HOUR, _RADAR_HOUR = 10.5, 18.0  # local solar time; Source: Sentinel-2 and Sentinel-1 orbits

# chosen: three of five places train; a class of three places is in each split.
_TURNS: tuple[Split, ...] = ("train", "test", "val", "train", "train")


@dataclass(frozen=True, kw_only=True)
class Image:
    """One acquisition of one sensor at one place."""

    sensor: Sensor
    number: int
    """Which of the dates of the place, from 0."""
    datetime_utc: datetime.datetime
    dn: Num[Array, "band row col"]


@dataclass(frozen=True, kw_only=True)
class RenderedPlace:
    """A place with everything that is written of it."""

    place: Place
    cover: UInt8[Array, "row col"]
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
            rng = place.generator(f"gap/{sensor.name}", sample=date)
            day = base_day + int(rng.integers(-options.max_gap_days, options.max_gap_days + 1))
            if day not in surfaces:
                surfaces[day] = make_surface(landscape, float(day))
            images.append(_acquire(options, surfaces[day], sensor, date))
    return RenderedPlace(place=place, cover=cover, fractions=counts / counts.sum(), images=tuple(images))


def acquisition_days(place: Place, num_dates: int) -> tuple[int, ...]:
    """Draw the days of the year on which a place is looked at, spread over those with enough sun."""
    latitude_deg = place.latitude_deg
    usable = [day for day in range(1, 366) if sun_position(latitude_deg, float(day))[0] >= _LOWEST_SUN_DEG]
    rng = place.generator("dates")
    parts = np.array_split(np.array(usable), num_dates)
    return tuple(int(rng.choice(part)) if len(part) else usable[-1] for part in parts)


def cover_map(landscape: Landscape, *, gsd_m: float) -> UInt8[Array, "row col"]:
    """Reduce the true covers to coarser pixels, each with the cover that has most of it."""
    frame = landscape.frame
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
        dn=encode(values, sensor, valid),
    )


def _moment(options: SimulateOptions, place: Place, day: float, solar_hour: float) -> datetime.datetime:
    start = datetime.datetime(options.year, 1, 1, tzinfo=datetime.UTC)
    moment = start + datetime.timedelta(days=day - 1, hours=solar_hour - place.longitude_deg / 15)
    return moment.replace(microsecond=0)


_RED_NM, _GREEN_NM, _BLUE_NM, _INFRARED_NM = 660.0, 560.0, 480.0, 850.0
_DOTS_PER_INCH = 110
_PANEL_INCHES = 2.6


def draw_preview(path: Path, options: SimulateOptions, *, indices: tuple[int, ...]) -> None:
    """Draw some of the places of a run into a PNG, a row each; rendered anew, they come out the same."""
    from matplotlib.figure import Figure

    rows = [_panels(render_place(options, index)) for index in indices]
    columns = max(len(row) for row in rows)
    figure = Figure(figsize=(_PANEL_INCHES * columns, (_PANEL_INCHES + 0.3) * len(rows)), layout="compressed")
    axes = np.atleast_2d(figure.subplots(len(rows), columns, squeeze=False))
    for row, panels in zip(axes, rows, strict=True):
        for axis, (title, picture) in zip(row, panels, strict=False):
            axis.imshow(picture, interpolation="nearest", cmap="inferno")
            axis.set_title(title, fontsize=7)
        for axis in row:
            axis.set_axis_off()
    with whole_file(path) as beside:
        figure.savefig(beside, dpi=_DOTS_PER_INCH)


def _panels(rendered: RenderedPlace) -> list[tuple[str, Array]]:
    place = rendered.place
    colour_nm = ((_RED_NM, _GREEN_NM, _BLUE_NM), (_INFRARED_NM, _RED_NM, _GREEN_NM))
    panels = [_colour_panel(rendered, wavelengths_nm) for wavelengths_nm in colour_nm]
    radar = [image for image in rendered.images if isinstance(image.sensor.bands[0].spectrum, RadarBeam)]
    panels += [_radar_panel(image) for image in radar[:1]]
    panels += _thermal_panels(rendered)[:1]
    colours = np.array([(0, 0, 0), *map(_red_green_blue, load_covers())], np.uint8)
    panels.append((f"{place.theme}, {place.latitude_deg:.0f}°", colours[rendered.cover]))
    return panels


def _colour_panel(rendered: RenderedPlace, wavelengths_nm: tuple[float, ...]) -> tuple[str, Array]:
    fitting = [
        image for image in rendered.images if all(_band_at(image.sensor, nm) is not None for nm in wavelengths_nm)
    ]
    if not fitting:
        return "", np.zeros((1, 1, 3))
    image = min(fitting, key=lambda candidate: candidate.sensor.gsd_m)
    names = [band.name for nm in wavelengths_nm if (band := _band_at(image.sensor, nm))]
    planes = np.stack([image.dn[image.sensor.band_index(name)].astype(float) for name in names], axis=-1)
    # True colours need one stretch for all three; false ones show more with a stretch each.
    picture = _stretched(planes, together=wavelengths_nm[0] == _RED_NM)
    return f"{image.sensor.name} {image.datetime_utc:%d %b} {' '.join(names)}", picture


def _radar_panel(image: Image) -> tuple[str, Array]:
    first, last = image.dn[0].astype(float), image.dn[-1].astype(float)
    planes = np.stack([first, last, first - last], axis=-1)
    return f"{image.sensor.name} {image.datetime_utc:%d %b}", _stretched(planes, together=False)


def _thermal_panels(rendered: RenderedPlace) -> list[tuple[str, Array]]:
    panels = []
    for image in rendered.images:
        for band, plane in zip(image.sensor.bands, image.dn, strict=True):
            if band.unit == "kelvin":
                encoding = band.encoding(image.sensor.default_encoding)
                kelvin = np.where(plane == image.sensor.nodata, np.nan, plane * encoding.scale + encoding.offset)
                title = f"{band.name}: {np.nanmin(kelvin):.0f} to {np.nanmax(kelvin):.0f} K"
                panels.append((title, kelvin))
    return panels


def _band_at(sensor: Sensor, wavelength_nm: float) -> Band | None:
    """Find the band that covers a wavelength, the one with the nearest centre of several."""
    covering = [
        band
        for band in sensor.bands
        if isinstance(band.spectrum, OpticalRange) and band.spectrum.low_nm <= wavelength_nm <= band.spectrum.high_nm
    ]
    return min(covering, key=lambda band: abs(band.spectrum.center_nm - wavelength_nm), default=None)


def _stretched(planes: Float[Array, "row col plane"], *, together: bool) -> Float[Array, "row col plane"]:
    low, high = np.nanpercentile(planes, (1, 99), axis=None if together else (0, 1))
    return np.asarray(np.nan_to_num(np.clip((planes - low) / np.maximum(high - low, 1e-9), 0, 1)))


_Row = tuple[str, ...]
_Written = tuple[list[tuple[str, _Row]], str, _Row]
"""What was written of one place: (sensor, row of the manifest) for each image, the majority class, the label row."""


def simulate(out: Path, options: SimulateOptions) -> Path:
    """Render an archive into a new folder. Equal options give equal files, whatever the number of workers.

    It holds `manifest.csv` (a row for each image), `images/PLACE/SENSOR_NUMBER_DATE.tif`, `landcover/PLACE.tif`,
    `classes.csv`, `labels.csv` (of each place the majority class and all shares), `labels_SENSOR.csv` (the manifest's
    rows of one sensor, with label and split) and `simulation.json` (the options). It appears whole or not at all; the
    manifest's path is returned.
    """
    frame_of(options)
    sensors_of(options)
    written: list[_Written] = []
    with whole_directory(out) as folder:
        try:
            with progress("simulating places", options.num_places, shown=options.shown) as advance:
                for place in _all_places(folder, options):
                    written.append(place)
                    advance(1)
        except BrokenProcessPool as problem:
            raise WorkerError(
                "a worker process was killed, perhaps for want of memory; run the command again with fewer --workers"
            ) from problem
        _write_tables(folder, options, written)
    return out / "manifest.csv"


def _write_tables(folder: Path, options: SimulateOptions, written: Sequence[_Written]) -> None:
    images = [(sensor, row, label) for rows, label, _ in written for sensor, row in rows]
    of_image = ("path", "sensor", "place", "datetime", "encoding")
    _write_table(folder / "manifest.csv", of_image, [row for _, row, _ in images])
    of_place = ("place", "map", "label", "theme", "latitude_deg", "longitude_deg", *cover_names())
    _write_table(folder / "labels.csv", of_place, [row for _, _, row in written])
    splits = _splits({row[0]: label for _, label, row in written})
    for sensor in sensors_of(options):
        labels = [(*row, label, splits[row[2]]) for name, row, label in images if name == sensor.name]
        _write_table(folder / f"labels_{sensor.name}.csv", (*of_image, "label", "split"), labels)
    classes = [(str(cover.value), cover.name, cover.colour) for cover in load_covers()]
    _write_table(folder / "classes.csv", ("value", "name", "colour"), classes)
    kept = {name: value for name, value in asdict(options).items() if name not in ("workers", "shown")}
    (folder / "simulation.json").write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def _splits(labels: Mapping[str, str]) -> dict[str, Split]:
    """Deal the places of each label out to the splits in turn, training first, so that it has every class."""
    counts: Counter[str] = Counter()
    found: dict[str, Split] = {}
    for place, label in labels.items():
        found[place] = _TURNS[counts[label] % len(_TURNS)]
        counts[label] += 1
    return found


def _all_places(folder: Path, options: SimulateOptions) -> Iterator[_Written]:
    one = partial(_render_and_write, folder, options)
    with worker_pool(min(options.workers, options.num_places)) as pool:
        every = range(options.num_places)
        yield from map(one, every) if pool is None else pool.map(one, every, chunksize=2)


def _render_and_write(folder: Path, options: SimulateOptions, index: int) -> _Written:
    from threadpoolctl import threadpool_limits

    # One thread: the workers are the parallelism, and sums come out in the same order everywhere.
    with threadpool_limits(limits=1):
        rendered = render_place(options, index)
    named = dict(zip((sensor.name for sensor in sensors_of(options)), options.sensors, strict=True))
    images = [
        (image.sensor.name, _write_image(folder, options, rendered, image, named[image.sensor.name]))
        for image in rendered.images
    ]
    return images, rendered.label, _write_map(folder, options, rendered)


def _write_image(
    folder: Path, options: SimulateOptions, rendered: RenderedPlace, image: Image, sensor_name: str
) -> _Row:
    from anyband.rasters.writer import write_geotiff  # Rendering in memory needs no GDAL.

    path = Path("images", rendered.place.name, f"{image.sensor.name}_{image.number}_{image.datetime_utc:%Y%m%d}.tif")
    write_geotiff(
        folder / path,
        image.dn,
        grid=_grid(rendered, options.footprint_m, image.dn.shape[-1]),
        descriptions=image.sensor.band_names,
        nodata=stored_nodata(image.sensor, encoding=image.sensor.default_encoding),
    )
    moment = image.datetime_utc.strftime("%Y-%m-%dT%H:%M:%SZ")
    # A sensor of the user's own is named by its file, from wherever the manifest is read.
    named = str(Path(sensor_name).resolve()) if sensor_name.endswith((".yaml", ".yml")) else image.sensor.name
    return path.as_posix(), named, rendered.place.name, moment, image.sensor.default_encoding


def _write_map(folder: Path, options: SimulateOptions, rendered: RenderedPlace) -> _Row:
    from anyband.rasters.writer import write_geotiff

    path = Path("landcover", f"{rendered.place.name}.tif")
    write_geotiff(
        folder / path,
        rendered.cover[None],
        grid=_grid(rendered, options.footprint_m, rendered.cover.shape[-1]),
        descriptions=("land cover",),
        nodata=0.0,
        colours={cover.value: _red_green_blue(cover) for cover in load_covers()},
    )
    place = rendered.place
    position = (f"{place.latitude_deg:.4f}", f"{place.longitude_deg:.4f}")
    shares = tuple(f"{share:.4f}" for share in rendered.fractions)
    return (place.name, path.as_posix(), rendered.label, place.theme, *position, *shares)


def _red_green_blue(cover: Cover) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(cover.colour.removeprefix("#"))
    return red, green, blue


def _grid(rendered: RenderedPlace, footprint_m: float, size: int) -> Grid:
    gsd_m, (x, y) = footprint_m / size, rendered.place.corner_m
    transform = (gsd_m, 0.0, x, 0.0, -gsd_m, y)
    return Grid(height=size, width=size, transform=transform, crs=f"EPSG:{rendered.place.epsg}", gsd_m=gsd_m)


def _write_table(path: Path, columns: Sequence[str], rows: Sequence[_Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
