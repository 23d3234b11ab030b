"""The demo's whole scene: its picture, and the map of its features."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from anyband.data.harmonise import normalisation_for, to_physical
from anyband.data.manifest import ImageEntry
from anyband.data.pictures import composite, picture
from anyband.data.rasters.reader import open_raster
from anyband.report.maps import pictures_png
from anyband.scenes.embed import EmbedOptions, EmbedReport, embed_scene, scene_statistics
from anyband.sensors.sensor import Sensor
from anyband.shapes import Array, Float
from anyband.tasks.features import SensorEncoder
from anyband.tasks.precision import quicker_precision

__all__ = ["SceneMaps", "map_scene"]

# chosen: pixels of the longer side of a picture in the page.
_PICTURE_SIDE = 600


@dataclass(frozen=True, kw_only=True)
class SceneMaps:
    """A scene and its features."""

    name: str
    """Of the image, as the manifest has it."""
    report: EmbedReport
    """Where the features are."""
    picture: bytes
    """The scene in colour and its features beside it, PNG."""
    colours: str
    """What the colour picture shows."""


def map_scene(encoder: SensorEncoder, entry: ImageEntry, out: Path, *, shown: bool) -> SceneMaps:
    """Embed a scene whole, normalised with its own statistics, and draw it.

    Args:
        encoder: to use.
        entry: the scene, as a manifest declares it.
        out: GeoTIFF to write.
        shown: whether to show progress.
    """
    sensor, source = _declared(entry), replace(entry.source, encoding=None)
    statistics = scene_statistics(source, sensor, shown=shown)
    options = EmbedOptions(precision=quicker_precision(torch.device("cpu")), statistics=statistics, shown=shown)
    report = embed_scene(encoder, source, sensor, out, options)
    with open_raster(source, sensor) as reader:
        raster = reader.read()
    physical = to_physical(torch.from_numpy(raster.dn), normalisation_for(sensor, statistics=statistics))
    step = max(1, -(-max(raster.dn.shape[1:]) // _PICTURE_SIDE))
    colours = picture(physical.numpy()[:, ::step, ::step], sensor, valid=raster.valid[:, ::step, ::step])
    title = composite(sensor).title
    titles = [f"{sensor.name}, {title}", "its features: first three principal components"]
    parts = [np.moveaxis(colours, -1, 0).astype(np.float32), _read_picture(report.picture)]
    return SceneMaps(name=entry.name, report=report, picture=pictures_png(parts, titles, num_columns=2), colours=title)


def _declared(entry: ImageEntry) -> Sensor:
    """Make the sensor whose default encoding is the one that the manifest declares for this image."""
    encodings = dict(entry.encoding)
    bands = tuple(replace(band, encodings=(("declared", encodings[band.name]),)) for band in entry.sensor.bands)
    return replace(entry.sensor, bands=bands, default_encoding="declared")


def _read_picture(path: Path) -> Float[Array, "3 row col"]:
    from PIL import Image

    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGBA"), dtype=np.float32) / 255
    colours = np.moveaxis(pixels[..., :3], -1, 0)
    return np.where(pixels[None, ..., 3] > 0, colours, np.float32(np.nan))
