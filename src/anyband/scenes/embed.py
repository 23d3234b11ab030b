"""Features of a whole scene, or of a set of images of one place."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from anyband.arrays import Array, Bool, Float, Num
from anyband.data.cutting import read_view
from anyband.data.harmonise import count_statistics
from anyband.data.manifest import ImageEntry, entry_sensor
from anyband.encode.encoder import SensorEncoder, check_memory, feature_maps
from anyband.encode.input_spec import chosen_statistics, read_statistics
from anyband.encode.metadata import ImageMetadata, Precision, checked_metadata, same_features, set_metadata
from anyband.errors import GeometryError, InputError, counted
from anyband.models.inputs import SetBatch, SetMetadata
from anyband.progress import Advance, progress
from anyband.rasters.footprints import Box, box_of, place_image, view_of, whole_box
from anyband.rasters.grid import Grid, Placement, Window, same_crs, windows_covering
from anyband.rasters.reader import RasterSource, file_sensor, open_raster
from anyband.report.figures import fit_pca_colours
from anyband.scenes.outputs import (
    BLOCK_PATCHES,
    SceneImage,
    checked_outputs,
    corners_of,
    doubts_of,
    plan_tiling,
    said_of,
    scene_patch_grid,
    views_of,
    write_pca_picture,
    write_scene,
)
from anyband.sensors.sensor import BandStatistics, Sensor
from anyband.sensors.values import sampled

__all__ = ["EmbedReport", "embed_scene", "embed_set", "named_set_statistics", "scene_statistics"]

# chosen: windows in which the statistics of a scene are counted.
_STATISTICS_PIXELS = 1024
# chosen: enough for stable components, small enough to hold (60 MB at width 768).
_SAMPLE_PATCHES = 20_000
# chosen: views of which some numbers are looked at for values that cannot be; of the first ones more.
_SEEN_VIEWS, _DENSE_VIEWS = 1_000, 8
_NOWHERE = "the scene has no coordinate system, so the features have none: they are placed by pixel only"

Pixels = tuple[Num[Array, "_ _ _"], Bool[Array, "_ _ _"]]
"""Digital numbers (band, row, col), and which have data."""
SetStatistics = Mapping[str, Mapping[str, BandStatistics]]
"""Statistics in physical units by sensor and band."""


@dataclass(frozen=True, kw_only=True)
class EmbedReport:
    """What was written."""

    features: Path
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
    *,
    tile: int | None = None,
    halo: int | None = None,
    precision: Precision = "float32",
    batch_size: int = 16,
    statistics: Mapping[str, BandStatistics] | str | Path | None = None,
    tags: Mapping[str, object] | None = None,
    shown: bool = False,
) -> EmbedReport:
    """Write the patch features of a scene as a GeoTIFF on the patch grid, and `OUT_pca.png` beside it.

    The grid starts at the scene's upper left corner and covers all of it; where the patch size does not
    divide the scene, the last patches reach over the edge, and what lies outside counts as missing. A patch
    with under half of its pixels valid is NaN, the file's nodata.

    Args:
        tile: edge in pixels of the part of a view that is kept; None: what the halo leaves of the network's size.
        halo: pixels around it that are seen and thrown away; None: an eighth of the network's own size.
        precision: of the arithmetic; the features are float32 in both.
        batch_size: views that go through the network at once.
        statistics: by band in physical units; `scene` counts them from this scene, another text is a chip store or a
            file; None: the checkpoint's, else the catalogue's.
        tags: more of them for the file, for example the checkpoint's hash.

    Raises:
        RasterError: the scene can't be read, or has no data at all.
        GeometryError: the scene is smaller than a patch.
        OutputError: an output can't be written. Each of the two appears whole or not at all.
    """
    outputs = checked_outputs(out, [source], picture="pca", counts={"batch_size": batch_size})
    sensor = file_sensor(source, sensor)
    tiling, name = plan_tiling(encoder.config, tile=tile, halo=halo), str(source.paths[0])
    pieces = _pieces(source, sensor, shown=shown)
    chosen = chosen_statistics(statistics, sensor, pieces, encoding=source.encoding)
    spec = encoder.input_spec(sensor, encoding=source.encoding, statistics=chosen)
    found = {
        "ANYBAND_SENSOR": spec.sensor.name,
        "ANYBAND_BANDS": list(spec.normalisation.bands),
        "ANYBAND_NORMALISATION": spec.normalisation.to_dict(),
    }
    with open_raster(source, sensor) as reader:
        placement = place_image(reader.grid, reader.grid, name)
        # Of an image by itself the network is told nothing.
        image = SceneImage(name=name, reader=reader, spec=spec, placement=placement, time=np.datetime64("NaT", "us"))
        more = {**found, **(tags or {})}
        return _write(encoder, [image], outputs, tiling, more, spec.notes, batch_size, precision, shown, False)


def embed_set(
    encoder: SensorEncoder,
    entries: Sequence[ImageEntry],
    out: Path,
    *,
    tile: int | None = None,
    halo: int | None = None,
    precision: Precision = "float32",
    batch_size: int = 16,
    statistics: SetStatistics | str | Path | None = None,
    tags: Mapping[str, object] | None = None,
    shown: bool = False,
) -> EmbedReport:
    """Write the features of the ground that images of one place show, as a GeoTIFF on the first image's patch grid.

    The images of a window are one joint sequence, each with its place, ground resolution and date; images without
    data in the window are left out. Features of a patch are the mean over the images that show it: those with at least
    half of the patch's pixels valid. A patch that none shows is NaN. A set of one image gives the features of
    `embed_scene`, up to what its place and date add. Arguments are those of `embed_scene`, but:

    Args:
        entries: as `read_manifest` gives them. The first is the anchor, whose grid counts; others have its CRS, at
            any resolution.
        batch_size: images of views that go through the network at once.
        statistics: by sensor; `scene` counts them from its images, another text is a chip store or a file; None: the
            checkpoint's, else the catalogue's.

    Raises:
        InputError: no images, several places, a date in the future, or more images than memory holds.
        RasterError: an image can't be read.
        GeometryError: images of different CRS, turned against each other, or that don't overlap the first.
        OutputError: an output can't be written. Each of the two appears whole or not at all.
    """
    if not entries:
        raise InputError("a set needs at least one image; found none")
    places = list(dict.fromkeys(one.place for one in entries if one.place is not None))
    if len(places) > 1:
        raise InputError(
            f"the images are of {counted(len(places), 'place')} ({', '.join(places[:4])}{' …' * (len(places) > 4)}), "
            "and the features of one are made at a time; list the images of one place"
        )
    sources = [one.source for one in entries]
    outputs = checked_outputs(out, sources, picture="pca", counts={"batch_size": batch_size})
    tiling = plan_tiling(encoder.config, tile=tile, halo=halo)
    of_set = named_set_statistics(str(statistics), entries) if isinstance(statistics, str | Path) else statistics
    with ExitStack() as opened:
        images = list(_opened(encoder, entries, of_set or {}, opened))
        more = {"ANYBAND_IMAGES": [_image_tags(image) for image in images], **(tags or {})}
        notes, num_views = _set_notes(encoder, images), max(1, batch_size // len(images))
        return _write(encoder, images, outputs, tiling, more, notes, num_views, precision, shown, True)


def scene_statistics(source: RasterSource, sensor: Sensor, *, shown: bool = False) -> dict[str, BandStatistics]:
    """Count the statistics of one scene, in one pass and constant memory. `InputError` where a band has no valid value,
    or only one."""
    sensor = file_sensor(source, sensor)
    return count_statistics(_pieces(source, sensor, shown=shown), sensor, encoding=source.encoding)


def named_set_statistics(name: str, entries: Sequence[ImageEntry]) -> SetStatistics:
    """Get the statistics that a user names (a path, or `scene`, which counts all images), for each sensor of a set.
    `InputError`: images of one sensor differ in bands or encoding, so that they can't be counted together; or a band
    has no valid value, or only one."""
    found: dict[str, dict[str, BandStatistics]] = defaultdict(dict)
    alike: dict[Sensor, list[ImageEntry]] = defaultdict(list)
    for entry in entries:
        alike[entry_sensor(entry)].append(entry)
    for sensor, same in alike.items():
        if name != "scene":
            found[sensor.name].update(read_statistics(Path(name), sensor))
            continue
        alike_named = [one for one in entries if one.sensor.name == sensor.name]
        other = next((one for one in alike_named if entry_sensor(one) != sensor), None)
        if other is not None:
            raise InputError(
                f"'{same[0].name}' and '{other.name}' of sensor '{sensor.name}' differ in bands or encoding, so their "
                "statistics can't be counted together; name a chip store or a file with `--statistics`"
            )
        pieces = chain.from_iterable(_pieces(one.source, one.sensor) for one in same)
        found[sensor.name] = count_statistics(pieces, sensor)
    return found


def _pieces(source: RasterSource, sensor: Sensor, *, shown: bool = False) -> Iterator[Pixels]:
    edge = _STATISTICS_PIXELS
    with open_raster(source, sensor) as reader:
        windows = list(windows_covering(reader.grid.height, reader.grid.width, tile_height=edge, tile_width=edge))
        with progress("statistics of the scene", len(windows), shown=shown) as advance:
            for window in windows:
                raster = reader.read(window)
                yield raster.dn, raster.valid
                advance(1)


def _write(
    encoder: SensorEncoder,
    images: Sequence[SceneImage],
    outputs: tuple[Path, Path],
    tiling: tuple[int, int],
    tags: Mapping[str, object],
    notes: Sequence[str],
    batch_size: int,
    precision: Precision,
    shown: bool,
    is_set: bool,
) -> EmbedReport:
    """Write the features of all views, block by block and some views at once, and the picture of them. The first
    image is the anchor; of a set the network is told where, how finely and when images were taken."""
    (out, picture), (core, halo), patch, width = outputs, tiling, encoder.config.patch_size, encoder.config.embed_dim
    grid = scene_patch_grid(images[0].reader.grid, patch)
    blocks = list(windows_covering(grid.height, grid.width, tile_height=BLOCK_PATCHES, tile_width=BLOCK_PATCHES))
    views = {block: views_of(block, grid, core=core, halo=halo) for block in blocks}
    sizes = {"PATCH_SIZE": patch, "TILE": core * patch, "HALO": halo * patch}
    sample, num_missing, step = [], 0, -(-grid.height * grid.width // _SAMPLE_PATCHES)

    def pieces(advance: Advance) -> Iterator[tuple[Window, Array]]:
        nonlocal num_missing
        for block in blocks:
            features = np.full((width, block.height, block.width), np.nan, dtype=np.float32)
            for first in range(0, len(views[block]), batch_size):
                some = views[block][first : first + batch_size]
                for position, seen in _features(encoder, images, [view for view, _ in some], precision, is_set).items():
                    view, core = some[position]
                    kept, inner = (
                        replace(core, row=core.row - one.row, col=core.col - one.col) for one in (block, view)
                    )
                    features[:, *kept.slices] = seen[:, *inner.slices]
                advance(len(some))
            rows = features.reshape(width, -1).T
            num_missing += int(np.isnan(rows[:, 0]).sum())
            sample.append(rows[np.isfinite(rows[:, 0])][::step].copy())
            yield block, features
        if num_missing == grid.height * grid.width:
            raise InputError(
                f"no patch of the scene has data in at least half of its pixels ({counted(num_missing, 'patch')}); "
                f"check its nodata value and its encoding{''.join(f'; {one}' for one in doubts_of(images))}"
            )

    write_scene(
        out,
        pieces,
        grid=grid,
        dtype="float32",
        descriptions=[f"feature {index}" for index in range(width)],
        nodata=float("nan"),
        tags={f"ANYBAND_{name}_PX": size for name, size in sizes.items()} | dict(tags),
        title=f"embed {out.name}",
        num_views=sum(map(len, views.values())),
        shown=shown,
    )
    write_pca_picture(picture, out, grid, fit_pca_colours(patches := np.concatenate(sample)))
    said = (*doubts_of(images), *same_features(torch.from_numpy(patches), what="patches"))
    notes = (*said, *notes, *said_of(images), *([] if grid.crs else [_NOWHERE]))
    return EmbedReport(features=out, picture=picture, grid=grid, num_missing=num_missing, notes=notes)


def _features(
    encoder: SensorEncoder, images: Sequence[SceneImage], views: Sequence[Window], precision: Precision, is_set: bool
) -> dict[int, Float[Array, "width row col"]]:
    """Read views, each image at its own resolution, and encode those together whose ground the same images show; those
    without any data are left out. A patch has the mean over the images with data in it."""
    size, boxes = float(encoder.config.patch_size), []
    for view in views:
        # Views of sets are squares: beyond a narrow scene there is no data.
        height, width = (max(view.height, view.width),) * 2 if is_set else (view.height, view.width)
        boxes.append(Box(row=size * view.row, col=size * view.col, height=size * height, width=size * width))
    alike: dict[tuple[int, ...], dict[int, list[Pixels]]] = defaultdict(dict)
    for position, box in enumerate(boxes):
        found: dict[int, Pixels] = {}
        for number, image in enumerate(images):
            own = view_of(image.placement, box)
            if own is None:
                raise GeometryError(
                    f"'{image.name}' has too few pixels in a view of {box.height:g} pixels of the first image; "
                    "list a coarser image first, or choose a larger `--tile`"
                )
            chip = read_view(image.reader, own)
            if chip is not None and len(image.seen) < _SEEN_VIEWS:
                step = 1 if len(image.seen) < _DENSE_VIEWS else _DENSE_VIEWS
                image.seen.append((sampled(chip[0])[:, ::step], sampled(chip[1])[:, ::step]))
            if chip is not None and chip[1].any():
                found[number] = chip
        if found:
            alike[tuple(found)][position] = list(found.values())
    encoded: dict[int, Array] = {}
    for numbers, members in alike.items():
        shown, groups = [images[number] for number in numbers], []
        for slot, image in enumerate(shown):
            dn, valid = (
                torch.from_numpy(np.stack([pixels[slot][one] for pixels in members.values()])) for one in (0, 1)
            )
            groups.append(image.spec.image_batch(dn, valid, img_size=int(boxes[0].height) if is_set else None))
        metadata = None
        if is_set:
            num_tokens = groups[0].pixels[0, 0].numel() // encoder.config.patch_size**2
            check_memory(encoder.encoder, num_sets=len(members), num_images=len(shown), num_tokens=num_tokens)
            metadata = _metadata(images[0].reader.grid, shown, [boxes[position] for position in members])
        output = encoder.encode_batch(SetBatch(groups=tuple(groups), metadata=metadata), precision=precision)
        encoded |= zip(members, feature_maps(output).nanmean(dim=1).cpu().numpy(), strict=True)
    return encoded


def _metadata(anchor: Grid, images: Sequence[SceneImage], boxes: Sequence[Box]) -> SetMetadata:
    shape = (len(boxes), len(images))
    corners = [
        corners_of(anchor, row=box.row, col=box.col, height=int(box.height), width=int(box.width)) for box in boxes
    ]
    return set_metadata(
        np.repeat(np.stack(corners)[:, None], len(images), axis=1),
        np.broadcast_to([_known_gsd_m(image.reader.grid) for image in images], shape),
        np.broadcast_to(np.array([image.time for image in images]), shape),
        np.full(shape, _known_gsd_m(anchor)),
    )


def _opened(
    encoder: SensorEncoder, entries: Sequence[ImageEntry], statistics: SetStatistics, opened: ExitStack
) -> Iterator[SceneImage]:
    anchor: Grid | None = None
    for entry in entries:
        sensor = entry_sensor(entry)
        spec = encoder.input_spec(sensor, statistics=statistics.get(sensor.name))
        reader = opened.enter_context(open_raster(entry.source, entry.sensor, entry.encoding))
        if len(entries) > 1:
            reader.check_laid(entry.name)
        grid, anchor = reader.grid, anchor or reader.grid
        placement = _placement(anchor, grid, entry.name, entries[0].name)
        known = ImageMetadata(gsd_m=grid.gsd_m if grid.crs else None, datetime=entry.datetime or reader.datetime)
        time = cast(np.datetime64, checked_metadata(known, name=f"'{entry.name}'").datetime)
        yield SceneImage(name=entry.name, reader=reader, spec=spec, placement=placement, time=time)


def _placement(anchor: Grid, grid: Grid, name: str, anchor_name: str) -> Placement:
    if not same_crs(anchor.crs, grid.crs):
        raise GeometryError(
            f"'{anchor_name}', the first image, has {anchor.crs or 'no CRS'}, '{name}' has {grid.crs or 'no CRS'}; "
            "images of a set must share a CRS: reproject one of them"
        )
    placement = place_image(anchor, grid, name)
    if whole_box(anchor).shared_with(box_of(placement)) is None:
        raise GeometryError(
            f"'{name}' lies at {_extent(grid)} and '{anchor_name}', the first image, at {_extent(anchor)}: they show "
            "no common ground; leave it out, or list it in a set of its own"
        )
    return placement


def _extent(grid: Grid) -> str:
    left, bottom, right, top = grid.bounds
    return f"x {left:.10g} to {right:.10g}, y {bottom:.10g} to {top:.10g}"


def _known_gsd_m(grid: Grid) -> float:
    return grid.gsd_m if grid.crs else float("nan")


def _image_tags(image: SceneImage) -> dict[str, Any]:
    return {
        "path": image.name,
        "sensor": image.spec.sensor.name,
        "datetime": None if np.isnat(image.time) else f"{image.time}Z",
        "normalisation": image.spec.normalisation.to_dict(),
    }


def _set_notes(encoder: SensorEncoder, images: Sequence[SceneImage]) -> tuple[str, ...]:
    """Say what a user should know: of each sensor once, and of the set."""
    grid = f"{counted(len(images), 'image')} on the grid of '{images[0].name}'"
    of_sensors = dict.fromkeys(note for image in images for note in image.spec.notes)
    untimed = [f"'{image.name}'" for image in images if np.isnat(image.time)]
    unknown = (f"no date is known of {', '.join(untimed[:4])}{' …' * (len(untimed) > 4)}",) if untimed else ()
    return (grid, *of_sensors, *unknown, *(encoder.set_notes if len(images) > 1 else ()))
