"""Write a simulated archive: GeoTIFFs, manifest, land-cover maps and labels."""

import csv
import dataclasses
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from anyband.data.rasters.writing import GeoTiffLayout, geotiff_writer
from anyband.data.tiles import Grid
from anyband.errors import WorkerError
from anyband.progress import progress
from anyband.shapes import Array, Num
from anyband.simulate.covers import cover_names, load_covers
from anyband.simulate.options import SimulateOptions, frame_of, sensors_of
from anyband.simulate.products import stored_nodata
from anyband.simulate.render import Image, RenderedPlace, render_place
from anyband.whole_files import whole_directory

__all__ = ["simulate"]

_MANIFEST_COLUMNS = ("path", "sensor", "place", "datetime", "encoding")
_PLACE_COLUMNS = ("place", "map", "label", "theme", "latitude_deg", "longitude_deg")
_LABEL_COLUMNS = ("path", "label", "place")

Row = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Written:
    """What was written of one place."""

    images: tuple[tuple[str, Row], ...]
    """(sensor, row of the manifest) for each image."""
    label: str
    """Majority class."""
    row: Row
    """Row of the table of places."""


def simulate(out: Path, options: SimulateOptions) -> Path:
    """Render an archive into a new folder. Equal options give equal files, whatever the number of workers.

    The folder holds `manifest.csv` (a row for each image), `images/PLACE/SENSOR_NUMBER_DATE.tif`,
    `landcover/PLACE.tif`, `classes.csv`, `labels.csv` (a row for each place: majority class of its map and
    the share of every class), `labels_SENSOR.csv` (path and label of each image, to evaluate on) and
    `simulation.json` (the options). It appears whole or not at all.

    Args:
        out: folder to make; must not exist.
        options: what to simulate.

    Returns:
        Path of the manifest.

    Raises:
        CatalogueError: a sensor is unknown, or has a band that the simulator does not know.
        GeometryError: the footprint does not fit the pixel sizes.
        OutputError: the folder exists, or can't be written.
        WorkerError: a worker was killed.
    """
    frame_of(options)
    sensors_of(options)
    with whole_directory(out) as folder:
        try:
            written = _written_places(folder, options)
        except BrokenProcessPool as problem:
            raise WorkerError(
                "a worker process was killed, perhaps for want of memory; run the command again with fewer --workers"
            ) from problem
        _write_tables(folder, options, written)
    return out / "manifest.csv"


def _written_places(folder: Path, options: SimulateOptions) -> list[_Written]:
    written: list[_Written] = []
    with progress("simulating places", options.num_places, shown=options.shown) as advance:
        for place in _all_places(folder, options):
            written.append(place)
            advance(1)
    return written


def _write_tables(folder: Path, options: SimulateOptions, written: Sequence[_Written]) -> None:
    images = [row for place in written for _, row in place.images]
    _write_table(folder / "manifest.csv", _MANIFEST_COLUMNS, images)
    _write_table(folder / "labels.csv", (*_PLACE_COLUMNS, *cover_names()), [place.row for place in written])
    for sensor in sensors_of(options):
        labels = [
            (row[0], place.label, row[2])
            for place in written
            for sensor_name, row in place.images
            if sensor_name == sensor.name
        ]
        _write_table(folder / f"labels_{sensor.name}.csv", _LABEL_COLUMNS, labels)
    classes = [(str(cover.value), cover.name, cover.colour) for cover in load_covers()]
    _write_table(folder / "classes.csv", ("value", "name", "colour"), classes)
    settings = dataclasses.asdict(options)
    kept = {name: value for name, value in settings.items() if name not in ("workers", "shown")}
    (folder / "simulation.json").write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def _all_places(folder: Path, options: SimulateOptions) -> Iterator[_Written]:
    one = partial(_render_and_write, folder, options)
    if options.workers == 1:
        yield from map(one, range(options.num_places))
        return
    # `spawn`: the calling process may hold threads (torch, tensorstore), and a fork of those can hang.
    with ProcessPoolExecutor(min(options.workers, options.num_places), mp_context=get_context("spawn")) as pool:
        yield from pool.map(one, range(options.num_places), chunksize=2)


def _render_and_write(folder: Path, options: SimulateOptions, index: int) -> _Written:
    from threadpoolctl import threadpool_limits

    # One thread: the workers are the parallelism, and sums come out in the same order everywhere.
    with threadpool_limits(limits=1):
        rendered = render_place(options, index)
    asked = dict(zip((sensor.name for sensor in sensors_of(options)), options.sensors, strict=True))
    images = tuple(
        (image.sensor.name, _write_image(folder, options, rendered, image, asked[image.sensor.name]))
        for image in rendered.images
    )
    return _Written(images=images, label=rendered.label, row=_write_map(folder, options, rendered))


def _write_image(
    folder: Path, options: SimulateOptions, rendered: RenderedPlace, image: Image, sensor_name: str
) -> Row:
    path = Path("images", rendered.place.name, f"{image.sensor.name}_{image.number}_{image.datetime_utc:%Y%m%d}.tif")
    layout = GeoTiffLayout(
        grid=_grid(rendered, options.footprint_m, image.stored.shape[-1]),
        dtype=str(image.stored.dtype),
        descriptions=image.sensor.band_names,
        nodata=stored_nodata(image.sensor, encoding=image.sensor.default_encoding),
    )
    _write_geotiff(folder / path, layout, image.stored)
    moment = image.datetime_utc.strftime("%Y-%m-%dT%H:%M:%SZ")
    # A sensor of the user's own is named by its file, from wherever the manifest is read.
    named = str(Path(sensor_name).resolve()) if sensor_name.endswith((".yaml", ".yml")) else image.sensor.name
    return path.as_posix(), named, rendered.place.name, moment, image.sensor.default_encoding


def _write_map(folder: Path, options: SimulateOptions, rendered: RenderedPlace) -> Row:
    path = Path("landcover", f"{rendered.place.name}.tif")
    layout = GeoTiffLayout(
        grid=_grid(rendered, options.footprint_m, rendered.cover.shape[-1]),
        dtype="uint8",
        descriptions=("land cover",),
        nodata=0.0,
        colours=tuple((cover.value, _red_green_blue(cover.colour)) for cover in load_covers()),
    )
    _write_geotiff(folder / path, layout, rendered.cover[None])
    place = rendered.place
    position = (f"{place.latitude_deg:.4f}", f"{place.longitude_deg:.4f}")
    shares = tuple(f"{share:.4f}" for share in rendered.fractions)
    return (place.name, path.as_posix(), rendered.label, place.theme.name, *position, *shares)


def _write_geotiff(path: Path, layout: GeoTiffLayout, pixels: Num[Array, "band row col"]) -> None:
    with geotiff_writer(path, layout) as writer:
        writer.write(layout.grid.whole, pixels)


def _red_green_blue(colour: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue


def _grid(rendered: RenderedPlace, footprint_m: float, size: int) -> Grid:
    gsd_m = footprint_m / size
    place = rendered.place
    return Grid(
        height=size,
        width=size,
        transform=(gsd_m, 0.0, place.easting_m, 0.0, -gsd_m, place.northing_m),
        crs=f"EPSG:{place.epsg}",
        gsd_m=gsd_m,
    )


def _write_table(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
