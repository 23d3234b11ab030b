"""Features of a whole scene, or of a set of images of one place."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anyband.arrays import Array, Bool, Float, Num
from anyband.data.cutting import onto_chip, view_window
from anyband.data.manifest import ImageEntry, entry_sensor
from anyband.data.places import corners_lonlat
from anyband.data.statistics import count_statistics
from anyband.encode.encoder import SensorEncoder, check_memory, feature_maps, set_batch
from anyband.encode.input_spec import InputSpec
from anyband.encode.metadata import CheckedMetadata, ImageMetadata, Precision, checked_metadata, network_metadata
from anyband.encode.statistics import (
    SetStatistics,
    counted_statistics,
    read_set_statistics,
    read_statistics,
)
from anyband.errors import GeometryError, InputError
from anyband.models.inputs import SetMetadata
from anyband.progress import progress
from anyband.rasters.footprints import Box, box_of, place_image, view_of
from anyband.rasters.grid import Grid, Placement, Window, same_crs, windows_covering
from anyband.rasters.reader import RasterReader, RasterSource, open_raster
from anyband.scenes.outputs import (
    FeatureJob,
    Tiling,
    View,
    checked_outputs,
    place_notes,
    plan_tiling,
    scene_patch_grid,
    tiling_tags,
    write_features,
)
from anyband.sensors.sensor import BandStatistics, Sensor

__all__ = [
    "EmbedOptions",
    "EmbedReport",
    "embed_scene",
    "embed_set",
    "named_set_statistics",
    "named_statistics",
    "scene_pieces",
    "scene_statistics",
]

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
    spec = encoder.input_spec(sensor, encoding=source.encoding, statistics=options.statistics)
    config = encoder.config
    tiling = plan_tiling(patch_size=config.patch_size, img_size=config.img_size, tile=options.tile, halo=options.halo)
    with open_raster(source, sensor) as reader:
        scene = _Scene(encoder=encoder, reader=reader, spec=spec, tiling=tiling, precision=options.precision)
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
    notes = (*spec.notes, *place_notes(grid))
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
    spec: InputSpec
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
    batch = scene.spec.image_batch(dn, valid=valid)
    maps: Tensor = feature_maps(scene.encoder.encode_batch(batch, precision=scene.precision))
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
        "ANYBAND_SENSOR": scene.spec.sensor.name,
        "ANYBAND_BANDS": list(scene.spec.normalisation.bands),
        "ANYBAND_NORMALISATION": scene.spec.normalisation.to_dict(),
    }


Pixels = tuple[Num[Array, "_ _ _"], Bool[Array, "_ _ _"]]
"""Stored numbers (band, row, col), and which have data."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Image:
    """One open image of the set."""

    entry: ImageEntry
    """What the list says of it."""
    reader: RasterReader
    """Its pixels."""
    spec: InputSpec
    """How its bands are read."""
    placement: Placement
    """The anchor's grid in it."""
    facts: CheckedMetadata
    """When it was taken and its ground sampling distance; its corners are those of each window."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Set:
    """What every step of one embedding needs."""

    encoder: SensorEncoder
    """The network."""
    images: tuple[_Image, ...]
    """The anchor first."""
    tiling: Tiling
    """How the anchor's grid is cut."""
    precision: Precision
    """Of the network's arithmetic."""

    @property
    def anchor(self) -> Grid:
        """Grid of the first image."""
        return self.images[0].reader.grid


def embed_set(
    encoder: SensorEncoder,
    entries: Sequence[ImageEntry],
    out: Path,
    options: EmbedOptions | None = None,
    *,
    statistics: SetStatistics | None = None,
) -> EmbedReport:
    """Write the features of the ground that images of one place show, as a GeoTIFF on the first image's patch grid.

    The images of a window are one joint sequence, each with its place, ground resolution and date; images without
    data in the window are left out. Features of a patch are the mean over the images that show it: those with at least
    half of the patch's pixels valid. A patch that none shows is NaN. A set of one image gives the features of
    `embed_scene`, up to what its place and date add.

    Args:
        encoder: to use.
        entries: of the images, as `read_manifest` gives them. The first is the anchor, whose grid counts; the others
            have its CRS, at any resolution.
        out: of the GeoTIFF; `OUT_pca.png` is put beside it.
        options: tiles, halo, precision; `batch_size` counts images of views, and `statistics` is not for sets.
        statistics: by sensor; None: the checkpoint's, else the catalogue's.

    Raises:
        InputError: no images, several places, a date in the future, or more images than memory holds.
        RasterError: an image can't be read.
        GeometryError: images of different CRS, turned against each other, or that don't overlap the first.
        OutputError: an output can't be written. Each of the two appears whole or not at all.
    """
    options = options or EmbedOptions()
    _check_entries(entries, options)
    out, picture = checked_outputs(out, (path for one in entries for path in _files(one)))
    config = encoder.config
    tiling = plan_tiling(patch_size=config.patch_size, img_size=config.img_size, tile=options.tile, halo=options.halo)
    with ExitStack() as opened:
        images = tuple(_opened_images(encoder, entries, statistics or {}, opened))
        scene = _Set(encoder=encoder, images=images, tiling=tiling, precision=options.precision)
        grid = scene_patch_grid(scene.anchor, config.patch_size)
        num_views = max(1, options.batch_size // len(images))
        job = FeatureJob(
            grid=grid,
            tiling=tiling,
            width=config.embed_dim,
            encoded=partial(_encoded_set_embed, scene),
            batch_size=num_views,
            tags={"ANYBAND_IMAGES": _image_tags(images), **tiling_tags(tiling), **dict(options.tags)},
            shown=options.shown,
        )
        num_missing = write_features(job, out, picture)
    notes = (*_notes(encoder, images), *place_notes(grid))
    return EmbedReport(features=out, picture=picture, grid=grid, num_missing=num_missing, notes=notes)


def named_set_statistics(name: str | None, entries: Sequence[ImageEntry]) -> SetStatistics | None:
    """Get the statistics that a user names, for each sensor of a set: `scene` counts them over all its images.

    Args:
        name: `scene`, or the path of a chip store or a file; None: none are named.
        entries: of the images.
    """
    if name is None:
        return None
    if name == "scene":
        return counted_statistics(entries, lambda entry: scene_pieces(entry.source, entry.sensor))
    return read_set_statistics(Path(name), entries)


def _check_entries(entries: Sequence[ImageEntry], options: EmbedOptions) -> None:
    if not entries:
        raise InputError("a set needs at least one image; found none")
    if options.statistics is not None:
        raise InputError("the images of a set have statistics by sensor: give them as `statistics`, not as an option")
    places = list(dict.fromkeys(one.place for one in entries if one.place is not None))
    if len(places) > 1:
        raise InputError(
            f"the images are of {len(places)} places ({', '.join(places[:4])}{' …' * (len(places) > 4)}), and the "
            "features of one are made at a time; list the images of one place"
        )


def _files(entry: ImageEntry) -> tuple[Path, ...]:
    return (*entry.source.paths, *entry.source.valid_paths)


def _opened_images(
    encoder: SensorEncoder, entries: Sequence[ImageEntry], statistics: SetStatistics, opened: ExitStack
) -> Iterator[_Image]:
    anchor: Grid | None = None
    for entry in entries:
        sensor = entry_sensor(entry)
        spec = encoder.input_spec(sensor, statistics=statistics.get(sensor.name))
        reader = opened.enter_context(open_raster(entry.source, entry.sensor))
        anchor = anchor or reader.grid
        said = ImageMetadata(
            gsd_m=reader.grid.gsd_m if reader.grid.crs else None, datetime=entry.datetime or reader.datetime
        )
        yield _Image(
            entry=entry,
            reader=reader,
            spec=spec,
            placement=_placement(anchor, reader.grid, entry.name, entries[0].name),
            facts=checked_metadata(said, name=f"'{entry.name}'"),
        )


def _placement(anchor: Grid, grid: Grid, name: str, anchor_name: str) -> Placement:
    if not same_crs(anchor.crs, grid.crs):
        raise GeometryError(
            f"'{anchor_name}', the first image, has {anchor.crs or 'no CRS'}, '{name}' has {grid.crs or 'no CRS'}; "
            "images of a set must share a CRS: reproject one of them"
        )
    placement = place_image(anchor, grid, name)
    whole = Box(row=0.0, col=0.0, height=float(anchor.height), width=float(anchor.width))
    if whole.shared_with(box_of(placement)) is None:
        raise GeometryError(
            f"'{name}' lies at {_said(grid)} and '{anchor_name}', the first image, at {_said(anchor)}: they show no "
            "common ground; leave it out, or list it in a set of its own"
        )
    return placement


def _said(grid: Grid) -> str:
    left, bottom, right, top = grid.bounds
    return f"x {left:.10g} to {right:.10g}, y {bottom:.10g} to {top:.10g}"


def _encoded_set_embed(scene: _Set, views: Sequence[View]) -> list[tuple[View, Float[Array, "width row col"]]]:
    """Encode what views see, those together whose ground the same images show; views without any are left out."""
    read = [(view, _box(view, scene), _read_images(scene, view)) for view in views]
    alike: dict[tuple[int, ...], list[int]] = {}
    for position, (_, _, pixels) in enumerate(read):
        alike.setdefault(tuple(pixels), []).append(position)
    encoded = []
    for shown, members in alike.items():
        if shown:
            chosen = [read[position] for position in members]
            maps = _maps(scene, shown, [box for _, box, _ in chosen], [pixels for _, _, pixels in chosen])
            encoded += [(view, one) for (view, _, _), one in zip(chosen, maps, strict=True)]
    return encoded


def _box(view: View, scene: _Set) -> Box:
    """Find the ground that a view sees, as a square: beyond a narrow scene there is no data, which changes nothing."""
    size = scene.tiling.patch_size
    edge = float(size * max(view.seen.height, view.seen.width))
    return Box(row=float(size * view.seen.row), col=float(size * view.seen.col), height=edge, width=edge)


def _read_images(scene: _Set, view: View) -> dict[int, Pixels]:
    """Read what each image shows of a view, at its own resolution; images without data are left out."""
    box, found = _box(view, scene), {}
    for position, image in enumerate(scene.images):
        own = view_of(image.placement, box)
        if own is None:
            raise GeometryError(
                f"'{image.entry.name}' has too few pixels in a view of {box.height:g} pixels of the first image; "
                "list a coarser image first, or choose a larger `--tile`"
            )
        window = view_window(own)
        if window is None:
            continue
        raster = image.reader.read(window)
        dn, valid = onto_chip(raster.dn, raster.valid, own, window)
        if valid.any():
            found[position] = dn, valid
    return found


def _maps(
    scene: _Set, shown: Sequence[int], boxes: Sequence[Box], pixels: Sequence[Mapping[int, Pixels]]
) -> Float[Array, "view width row col"]:
    """Encode views of the same images; a patch has the mean over the images with data in it."""
    edge = int(boxes[0].height)
    groups = []
    for position in shown:
        dn, valid = (torch.from_numpy(np.stack([one[position][part] for one in pixels])) for part in (0, 1))
        groups.append(scene.images[position].spec.image_batch(dn, valid=valid, img_size=edge))
    num_tokens = (edge // scene.tiling.patch_size) ** 2
    check_memory(scene.encoder.encoder, num_sets=len(boxes), num_images=len(shown), num_tokens=num_tokens)
    batch = set_batch(groups, _metadata(scene, shown, boxes))
    output = scene.encoder.encode_sets(batch, precision=scene.precision)
    maps: Array = feature_maps(output).nanmean(dim=1).cpu().numpy()
    return maps


def _metadata(scene: _Set, shown: Sequence[int], boxes: Sequence[Box]) -> SetMetadata:
    corners = [_corners_deg(scene.anchor, box) for box in boxes]
    facts = [[replace(scene.images[position].facts, corners_deg=one) for position in shown] for one in corners]
    gsd_m = scene.anchor.gsd_m if scene.anchor.crs else np.nan
    return network_metadata(facts, np.full((len(boxes), len(shown)), gsd_m))


def _corners_deg(anchor: Grid, box: Box) -> Float[Array, "4 2"]:
    if anchor.crs is None:
        return np.full((4, 2), np.nan)
    a, b, _, d, e, _ = anchor.transform
    x, y = anchor.to_coordinates(box.row, box.col)
    return np.array(corners_lonlat((a, b, x, d, e, y), int(box.height), int(box.width), anchor.crs))


def _image_tags(images: Sequence[_Image]) -> list[dict[str, Any]]:
    return [
        {
            "path": image.entry.name,
            "sensor": image.spec.sensor.name,
            "datetime": None if np.isnat(image.facts.time) else f"{image.facts.time}Z",
            "normalisation": image.spec.normalisation.to_dict(),
        }
        for image in images
    ]


def _notes(encoder: SensorEncoder, images: Sequence[_Image]) -> tuple[str, ...]:
    """Say what a user should know: of each sensor once, and of the set."""
    first = images[0]
    grid = f"{len(images)} images on the grid of '{first.entry.name}'"
    of_sensors = dict.fromkeys(note for image in images for note in image.spec.notes)
    untimed = [f"'{image.entry.name}'" for image in images if np.isnat(image.facts.time)]
    unknown = (f"no date is known of {', '.join(untimed[:4])}{' …' * (len(untimed) > 4)}",) if untimed else ()
    return (grid, *of_sensors, *unknown, *(encoder.set_notes if len(images) > 1 else ()))
