"""Features of a whole scene, window by window, in memory that does not grow with the scene."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from anyband.data.rasters.reader import RasterReader, open_raster
from anyband.data.rasters.records import RasterSource
from anyband.data.tiles import Grid, Window, windows_covering
from anyband.errors import InputError
from anyband.progress import progress
from anyband.scenes.outputs import FeatureJob, checked_outputs, place_notes, tiling_tags, write_features
from anyband.scenes.windows import Tiling, View, plan_tiling, scene_patch_grid
from anyband.sensors.sensor import BandStatistics, Sensor
from anyband.shapes import Array, Bool, Float, Num
from anyband.tasks.features import Precision, SensorEncoder, feature_map
from anyband.tasks.readings import BandReading, standardised_batch
from anyband.tasks.statistics import count_statistics, read_statistics

__all__ = ["EmbedOptions", "EmbedReport", "embed_scene", "named_statistics", "scene_pieces", "scene_statistics"]

# chosen: windows in which the statistics of a scene are counted.
_STATISTICS_PIXELS = 1024


@dataclass(frozen=True, kw_only=True)
class EmbedOptions:
    """How a scene is embedded."""

    tile: int | None = None
    """Edge in pixels of the part of a view that is kept; None: what the halo leaves of the network's size."""
    halo: int | None = None
    """Pixels around it that are seen and thrown away; None: an eighth of the network's own size."""
    precision: Precision = "float32"
    """float32 or bf16 arithmetic; the features are float32 in both."""
    batch_size: int = 16
    """Views that go through the network at once."""
    statistics: Mapping[str, BandStatistics] | None = None
    """Normalisation by band in physical units; None: the checkpoint's, else the catalogue's."""
    tags: tuple[tuple[str, str], ...] = ()
    """More (key, value) pairs for the file, for example the checkpoint's hash."""
    shown: bool = False
    """Show a progress bar."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"batch_size must be at least 1, found {self.batch_size}")


@dataclass(frozen=True, kw_only=True)
class EmbedReport:
    """What was written."""

    features: Path
    """GeoTIFF of features."""
    picture: Path
    """Picture of their principal components."""
    grid: Grid
    """Of the patches."""
    num_missing: int
    """Patches without features, because under half of their pixels have data."""
    notes: tuple[str, ...]
    """What a user should know: encoding, statistics, interpolated bands, missing CRS."""


def embed_scene(
    encoder: SensorEncoder,
    source: RasterSource,
    sensor: Sensor,
    out: Path,
    options: EmbedOptions | None = None,
) -> EmbedReport:
    """Write the patch features of a scene as a GeoTIFF on the patch grid, and `OUT_pca.png` beside it.

    The grid starts at the scene's upper left corner and covers all of it; where the patch size does not
    divide the scene, the last patches reach over the edge, and what lies outside counts as missing. A patch
    with under half of its pixels valid is NaN, the file's nodata.

    Args:
        encoder: to use.
        source: the scene.
        sensor: with the bands to use.
        out: of the GeoTIFF.
        options: tiles, halo, precision, statistics.

    Raises:
        RasterError: the scene can't be read, or has no data at all.
        GeometryError: the scene is smaller than a patch.
        OutputError: an output can't be written. Each of the two appears whole or not at all.
    """
    options = options or EmbedOptions()
    out, picture = checked_outputs(out, (*source.paths, *source.valid_paths))
    reading = encoder.reading(sensor, encoding=source.encoding, statistics=options.statistics)
    config = encoder.config
    tiling = plan_tiling(patch_size=config.patch_size, img_size=config.img_size, tile=options.tile, halo=options.halo)
    with open_raster(source, sensor) as reader:
        scene = _Scene(encoder=encoder, reader=reader, reading=reading, tiling=tiling, precision=options.precision)
        grid = scene_patch_grid(reader.grid, config.patch_size)
        job = FeatureJob(
            grid=grid,
            tiling=tiling,
            width=config.embed_dim,
            encoded=partial(_encoded, scene),
            batch_size=options.batch_size,
            tags={**_tags(scene), **tiling_tags(tiling), **dict(options.tags)},
            shown=options.shown,
        )
        num_missing = write_features(job, out, picture)
    notes = (*reading.notes, *place_notes(grid))
    return EmbedReport(features=out, picture=picture, grid=grid, num_missing=num_missing, notes=notes)


def scene_statistics(source: RasterSource, sensor: Sensor, *, shown: bool = False) -> dict[str, BandStatistics]:
    """Count the normalisation statistics of one scene, in one pass and constant memory.

    Args:
        source: the scene.
        sensor: with the bands to count.
        shown: show a progress bar.

    Raises:
        InputError: a band has no valid value, or only one.
    """
    return count_statistics(scene_pieces(source, sensor, shown=shown), sensor, encoding=source.encoding)


def scene_pieces(
    source: RasterSource, sensor: Sensor, *, shown: bool = False
) -> Iterator[tuple[Num[Array, "band row col"], Bool[Array, "band row col"]]]:
    """Read a scene piece by piece: stored numbers, and which have data.

    Args:
        source: the scene.
        sensor: with the bands to read.
        shown: show a progress bar.
    """
    edge = _STATISTICS_PIXELS
    with open_raster(source, sensor) as reader:
        size = (reader.grid.height, reader.grid.width)
        windows = list(windows_covering(*size, tile_height=edge, tile_width=edge))
        with progress("statistics of the scene", len(windows), shown=shown) as advance:
            for window in windows:
                raster = reader.read(window)
                yield raster.dn, raster.valid
                advance(1)


def named_statistics(
    name: str | None, source: RasterSource, sensor: Sensor, *, shown: bool = False
) -> dict[str, BandStatistics] | None:
    """Get the statistics that a user names: `scene` counts them, else a chip store or a file holds them.

    Args:
        name: `scene`, or a path; None: none are named.
        source: the scene.
        sensor: with the bands that are needed.
        shown: show a progress bar while counting.
    """
    if name is None:
        return None
    if name == "scene":
        return scene_statistics(source, sensor, shown=shown)
    return read_statistics(Path(name), sensor)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Scene:
    """What every step of one embedding needs."""

    encoder: SensorEncoder
    """The network."""
    reader: RasterReader
    """The open scene."""
    reading: BandReading
    """How its bands are read."""
    tiling: Tiling
    """How it is cut."""
    precision: Precision
    """Of the network's arithmetic."""


def _encoded(scene: _Scene, views: Sequence[View]) -> list[tuple[View, Float[Array, "width row col"]]]:
    """Encode what views see; views without any data are left out."""
    read = [(view, *_pixels(scene, view.seen)) for view in views]
    with_data = [(view, dn, valid) for view, dn, valid in read if valid.any()]
    if not with_data:
        return []
    dn = torch.from_numpy(np.stack([one for _, one, _ in with_data]))
    valid = torch.from_numpy(np.stack([one for _, _, one in with_data]))
    batch = standardised_batch(dn, scene.reading, valid=valid)
    maps: Tensor = feature_map(scene.encoder.encode_batch(batch, precision=scene.precision))
    return [(view, one) for (view, _, _), one in zip(with_data, maps.cpu().numpy(), strict=True)]


def _pixels(scene: _Scene, patches: Window) -> tuple[Num[Array, "band row col"], Bool[Array, "band row col"]]:
    """Read the pixels behind some patches; those outside the scene are not valid."""
    size = scene.tiling.patch_size
    row, col = patches.row * size, patches.col * size
    height, width = patches.height * size, patches.width * size
    inside = Window(
        row=row,
        col=col,
        height=min(height, scene.reader.grid.height - row),
        width=min(width, scene.reader.grid.width - col),
    )
    raster = scene.reader.read(inside)
    missing = ((0, 0), (0, height - inside.height), (0, width - inside.width))
    return np.pad(raster.dn, missing), np.pad(raster.valid, missing)


def _tags(scene: _Scene) -> dict[str, object]:
    return {
        "ANYBAND_SENSOR": scene.reading.asked.name,
        "ANYBAND_BANDS": list(scene.reading.normalisation.bands),
        "ANYBAND_NORMALISATION": scene.reading.normalisation.to_dict(),
    }
