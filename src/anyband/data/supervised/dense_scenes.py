"""Images with maps of labels, opened once: their grids, sensors and times, and where their labels come from."""

import datetime as dt
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from anyband.data.chip_index import Split
from anyband.data.manifest import ImageEntry, entry_sensor
from anyband.data.rasters.reader import open_raster
from anyband.data.supervised.dense_tables import DenseItem
from anyband.data.supervised.label_rasters import Labels
from anyband.data.supervised.polygons import read_polygons
from anyband.data.supervised.records import DataSpec, SampleImage
from anyband.data.supervised.tiling import check_same_ground
from anyband.data.tiles import Grid, Window
from anyband.errors import ManifestError
from anyband.progress import progress
from anyband.sensors.sensor import Sensor

__all__ = ["SHOWN_FROM", "Scene", "open_scenes", "read_image"]

SHOWN_FROM = 20
"""A bar is shown for so many images. chosen: opening one takes a tenth of a second where it has many variables."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """Images of one piece of ground, and its labels."""

    name: str
    """Path below the folder that all share; no two scenes have one."""
    images: tuple[ImageEntry, ...]
    """One for each slot."""
    sensors: tuple[Sensor, ...]
    """Of the images, as stored."""
    grids: tuple[Grid, ...]
    """Of the images."""
    times: tuple[dt.datetime | None, ...]
    """When they were taken; None: not known."""
    labels: Labels
    """On the first image."""
    split: Split | None
    """Declared part."""
    place: str | None
    """Declared place."""

    @property
    def files(self) -> list[Path]:
        """All files of the images."""
        return [path for entry in self.images for path in (*entry.source.paths, *entry.source.valid_paths)]


def open_scenes(items: Sequence[DenseItem], spec: DataSpec) -> tuple[list[Scene], dict[int, str]]:
    """Open all images for what their headers say, and read the polygons.

    Args:
        items: of a table or folder.
        spec: says what labels mean.

    Returns:
        The scenes, and the name of each value where polygons have names as labels.

    Raises:
        AnybandError: an image can't be opened, or images of one sample show different ground.
    """
    files = [item.label.path for item in items if item.label.is_polygons]
    polygons, classes = read_polygons(
        files, column=spec.label_column, classes=spec.classes, outside=spec.options.get("outside")
    )
    scenes = []
    with progress("open images", len(items), shown=len(items) > SHOWN_FROM) as advance:
        for item, name in zip(items, _names(items), strict=True):
            labels = polygons[item.label.path] if item.label.is_polygons else item.label.raster()
            scenes.append(_scene(item, name, labels))
            advance(1)
    return scenes, classes


def _scene(item: DenseItem, name: str, labels: Labels) -> Scene:
    grids, times = [], []
    for entry in item.images:
        with open_raster(entry.source, entry.sensor) as reader:
            grids.append(reader.grid)
            times.append(entry.datetime or reader.datetime)
    for grid, entry in zip(grids[1:], item.images[1:], strict=True):
        check_same_ground(grids[0], grid, names=(item.images[0].name, entry.name))
    return Scene(
        name=name,
        images=item.images,
        sensors=tuple(entry_sensor(entry) for entry in item.images),
        grids=tuple(grids),
        times=tuple(times),
        labels=labels,
        split=item.split,
        place=item.place,
    )


def read_image(scene: Scene, slot: int, window: Window) -> SampleImage:
    """Read a window of an image of a scene."""
    entry = scene.images[slot]
    with open_raster(entry.source, entry.sensor) as reader:
        raster = reader.read(window)
    return SampleImage(
        dn=raster.dn, valid=raster.valid, sensor=scene.sensors[slot], grid=raster.grid, datetime=scene.times[slot]
    )


def _names(items: Sequence[DenseItem]) -> list[str]:
    """Name each sample by its first image, or by all where that is not enough: the same on every machine."""
    paths = [os.path.abspath(entry.source.paths[0]) for item in items for entry in item.images]  # noqa: PTH100
    common = Path(os.path.commonpath([str(Path(path).parent) for path in paths]))
    every = [[_image_name(entry, common) for entry in item.images] for item in items]
    firsts = Counter(names[0] for names in every)
    found = [names[0] if firsts[names[0]] == 1 else " + ".join(names) for names in every]
    twice = next((name for name, count in Counter(found).items() if count > 1), None)
    if twice is not None:
        raise ManifestError(f"'{twice}' stands {found.count(twice)} times with labels; keep one of them")
    return found


def _image_name(entry: ImageEntry, common: Path) -> str:
    path = Path(os.path.abspath(entry.source.paths[0])).relative_to(common).as_posix()  # noqa: PTH100
    source = entry.source
    if source.time is not None:
        return f"{path} @{source.time:%Y-%m-%d}"
    return path if source.time_index is None else f"{path} @{source.time_index}"
