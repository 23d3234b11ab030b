"""What embedding and reconstructing share: open images of a place, tiles, and the files that come out."""

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from anyband.arrays import Array, Bool, Float, Num
from anyband.data.harmonise import composite, decode, picture
from anyband.data.manifest import ImageEntry
from anyband.data.places import corners_on_globe
from anyband.encode.input_spec import InputSpec
from anyband.errors import GeometryError, InputError, OutputError
from anyband.files import check_target, whole_file
from anyband.models.vit import EncoderConfig
from anyband.progress import Advance, progress
from anyband.rasters.footprints import place_image
from anyband.rasters.formats import GdalSheet
from anyband.rasters.grid import IDENTITY, Grid, Placement, Window, resample_nearest, source_window, windows_covering
from anyband.rasters.reader import RasterReader, RasterSource, open_raster, said_once
from anyband.rasters.writer import geotiff_writer
from anyband.report.figures import PcaColours, pca_picture, picture_png, pictures_png
from anyband.sensors.sensor import Sensor
from anyband.sensors.values import in_first_words

__all__ = [
    "BLOCK_PATCHES",
    "SceneImage",
    "as_utc",
    "checked_outputs",
    "corners_of",
    "doubts_of",
    "plan_tiling",
    "said_of",
    "scene_patch_grid",
    "views_of",
    "write_pca_picture",
    "write_reconstruction_picture",
    "write_scene",
]

# chosen: the outermost patches of a view see the least around them; an eighth on each side doubles the work.
_HALO_SHARE = 8
_MESSAGES = {"pca": ("features", "the scene itself"), "picture": ("images", "one of the images that are read")}


@dataclass(frozen=True, kw_only=True, eq=False)
class SceneImage:
    """An open image of a place."""

    name: str
    reader: RasterReader
    spec: InputSpec
    placement: Placement
    """The grid of the place in it."""
    time: np.datetime64
    """UTC; NaT where unknown."""
    seen: list[tuple[Num[Array, "band _"], Bool[Array, "band _"]]] = field(default_factory=list)
    """Some of the numbers that were read, and which have data."""

    @property
    def title(self) -> str:
        """Sensor and day, for people."""
        day = "time unknown" if np.isnat(self.time) else str(self.time.astype("datetime64[D]"))
        return f"{self.spec.sensor.name} {day}"


def said_of(
    images: Iterable[SceneImage], seen: ImageEntry | None = None, reader: RasterReader | None = None
) -> tuple[str, ...]:
    """Join what is said of the files of a target that is seen, and of images."""
    target = [] if seen is None or reader is None else [(seen.name, reader.notes)]
    return said_once([*target, *((image.name, image.reader.notes) for image in images)])


def doubts_of(images: Iterable[SceneImage]) -> tuple[str, ...]:
    """Say which values of what was seen of images cannot be what is declared."""
    found: list[tuple[str, dict[str, str]]] = []
    for image in images:
        if image.seen:
            dn, valid = (np.concatenate(some, axis=-1)[None, :, None] for some in zip(*image.seen, strict=True))
            found += image.spec.doubts([image.name], torch.from_numpy(dn), torch.from_numpy(valid))
    return said_once(in_first_words(found))


def as_utc(time: dt.datetime | None) -> np.datetime64:
    """Bring a time with a zone to NumPy, in microseconds; NaT where there is none."""
    if time is None:
        return np.datetime64("NaT", "us")
    return np.datetime64(time.astimezone(dt.UTC).replace(tzinfo=None), "us")


def corners_of(grid: Grid, *, row: float, col: float, height: int, width: int) -> Float[Array, "4 2"]:
    """Find (longitude, latitude) of a rectangle's upper left, upper right, lower right, lower left corner; in pixels of
    the grid. NaN without a place."""
    if grid.crs is None:
        return np.full((4, 2), np.nan)
    a, b, _, d, e, _ = grid.transform
    x, y = grid.to_coordinates(row, col)
    return corners_on_globe((a, b, x, d, e, y), height, width, grid.crs)


def plan_tiling(config: EncoderConfig, *, tile: int | None, halo: int | None) -> tuple[int, int]:
    """Choose the edge of cores, which are kept of views, and the halo around them, in patches; arguments are in
    pixels. By default a view is as large as the network's training images, and the halo an eighth of it, at least a
    patch. `InputError` where a size is no multiple of the patch size, or negative."""
    patch_size, in_patches = config.patch_size, config.img_size // config.patch_size
    for name, size, least in (("tile", tile, patch_size), ("halo", halo, 0)):
        if size is not None and (size % patch_size or size < least):
            raise InputError(
                f"{name} is {size} pixels; it must be a multiple of the patch size, {patch_size}, and at least {least}"
            )
    halo_patches = -(-in_patches // _HALO_SHARE) if halo is None else halo // patch_size
    core = max(1, in_patches - 2 * halo_patches) if tile is None else tile // patch_size
    return core, halo_patches


def scene_patch_grid(grid: Grid, patch_size: int) -> Grid:
    """Make the grid of patches that covers a scene whole; the last ones may reach over its edge. Without georeference
    the grid has none. `GeometryError` where the scene is smaller than one patch."""
    if min(grid.height, grid.width) < patch_size:
        raise GeometryError(
            f"an image of {grid.height} × {grid.width} pixels is smaller than one patch of "
            f"{patch_size} × {patch_size}; use a larger image or a smaller patch"
        )
    a, b, c, d, e, f = grid.transform
    size = float(patch_size)
    nowhere = grid.crs is None and grid.transform == IDENTITY
    return Grid(
        height=-(-grid.height // patch_size),
        width=-(-grid.width // patch_size),
        transform=IDENTITY if nowhere else (a * size, b * size, c, d * size, e * size, f),
        crs=grid.crs,
        gsd_m=grid.gsd_m * size,
    )


def views_of(block: Window, grid: Grid, *, core: int, halo: int) -> list[tuple[Window, Window]]:
    """Cut a block of the patch grid into cores, whose features are kept, and give (view, core): with the halo, all in
    patches. Each patch of the block is in one core. A view that would reach over the edge of the scene is moved inside,
    so that all views have one size and see as much ground as there is."""
    height, width = (min(core + 2 * halo, side) for side in (grid.height, grid.width))
    found = []
    for inner in windows_covering(block.height, block.width, tile_height=core, tile_width=core):
        kept = replace(inner, row=inner.row + block.row, col=inner.col + block.col)
        row = min(max(kept.row - halo, 0), grid.height - height)
        col = min(max(kept.col - halo, 0), grid.width - width)
        found.append((Window(row=row, col=col, height=height, width=width), kept))
    return found


def checked_outputs(
    out: Path, sources: Iterable[RasterSource], *, picture: Literal["pca", "picture"], counts: Mapping[str, int | None]
) -> tuple[Path, Path]:
    """See before any work that counts are over 0, and that the GeoTIFF and the picture beside it can be written.
    `OutputError` for another kind of file, no folder to write to, or one of the inputs."""
    for name, count in counts.items():
        if count is not None and count < 1:
            raise InputError(f"{name} must be at least 1, found {count}")
    written, is_input = _MESSAGES[picture]
    if out.suffix.lower() not in (".tif", ".tiff"):
        raise OutputError(f"'{out}' must end in .tif: {written} are written as a GeoTIFF")
    read = {path.resolve() for source in sources for path in (*source.paths, *source.valid_paths)}
    targets = out, out.with_name(f"{out.stem}_{picture}.png")
    for target in targets:
        check_target(target)
        if target.resolve() in read:
            raise OutputError(f"'{target}' is {is_input}, which would be lost; name another output")
    return targets


def write_scene(
    out: Path,
    pieces: Callable[[Advance], Iterable[tuple[Window, Array]]],
    *,
    grid: Grid,
    dtype: str,
    descriptions: Sequence[str],
    nodata: float | None,
    tags: Mapping[str, object],
    title: str,
    num_views: int,
    shown: bool,
) -> None:
    """Write a GeoTIFF of what a network makes of views: window by window, as soon as all views of one are done."""
    opened = geotiff_writer(out, grid=grid, dtype=dtype, descriptions=descriptions, nodata=nodata, tags=tags)
    with opened as write, progress(title, num_views, shown=shown) as advance:
        for window, pixels in pieces(advance):
            write(window, pixels)


BLOCK_PATCHES = 256
"""Edge of the blocks in which features are held and written: that of the GeoTIFF's own tiles."""

# chosen: a picture that fits a screen; larger scenes show every second, third … patch.
_PICTURE_EDGE = 1024
# chosen: small maps are enlarged by whole numbers up to about this many pixels.
_ENLARGED_EDGE = 512


def write_pca_picture(path: Path, features: Path, grid: Grid, colours: PcaColours) -> None:
    """Draw a feature GeoTIFF in the colours of its principal components; places without data are transparent."""
    step = -(-max(grid.height, grid.width) // _PICTURE_EDGE)
    colour = np.empty((3, -(-grid.height // step), -(-grid.width // step)), dtype=np.float32)
    edge = max(1, BLOCK_PATCHES // step)
    with closing(GdalSheet(features)) as sheet:
        for part in windows_covering(*colour.shape[1:], tile_height=edge, tile_width=edge):
            row, col = part.row * step, part.col * step
            height, width = min(part.height * step, grid.height - row), min(part.width * step, grid.width - col)
            window = Window(row=row, col=col, height=height, width=width)
            stored, _ = sheet.read(range(len(sheet.names)), window)
            colour[:, *part.slices] = pca_picture(stored[:, ::step, ::step], colours)
    larger = max(1, _ENLARGED_EDGE // max(colour.shape[1:]))
    with whole_file(path) as beside:
        beside.write_bytes(picture_png(colour.repeat(larger, axis=1).repeat(larger, axis=2)))


# chosen: enough to see a field, few enough that six images make a small file; larger targets show every second, …
_LATTICE_EDGE = 384
# chosen: pixels of a source that are read at once for it.
_READ_EDGE = 2048


def write_reconstruction_picture(
    path: Path, filled: Path, grid: Grid, sensor: Sensor, images: Sequence[SceneImage], reader: RasterReader | None
) -> None:
    """Draw the images that were looked at on the target's grid, each stretched by itself, and the target as it was, and
    filled, stretched alike."""
    same = place_image(grid, grid, str(filled))
    drawn = []
    for image in images:
        physical, valid = _lattice(image.reader, image.placement, grid, image.spec.sensor)
        drawn.append(_drawn(physical, image.spec.sensor, valid, image.title))
    with open_raster(RasterSource(paths=(filled,)), sensor) as written:
        physical, valid = _lattice(written, same, grid, sensor)
    if reader is not None:
        before, seen = _lattice(reader, same, grid, sensor)
        drawn.append(_drawn(before, sensor, seen, f"{sensor.name}, as given", like=physical))
    how = "filled" if reader is not None else "reconstructed"
    drawn.append(_drawn(physical, sensor, valid, f"{sensor.name}, {how}", like=physical))
    with whole_file(path) as beside:
        beside.write_bytes(pictures_png([one for one, _ in drawn], [title for _, title in drawn]))


def _drawn(
    physical: Array, sensor: Sensor, valid: Array, title: str, *, like: Array | None = None
) -> tuple[Float[Array, "3 row col"], str]:
    colours = picture(physical, sensor, valid=valid, like=like, missing_grey=float("nan"))
    return np.moveaxis(colours, -1, 0).astype(np.float32), f"{title}\n{composite(sensor)[1]}"


def _lattice(
    reader: RasterReader, placement: Placement, grid: Grid, sensor: Sensor
) -> tuple[Float[Array, "band row col"], Bool[Array, "band row col"]]:
    """Read an image at every so many pixels of a grid, as physical values, the nearest pixel at each."""
    step = -(-max(grid.height, grid.width) // _LATTICE_EDGE)
    shape = (len(sensor.bands), -(-grid.height // step), -(-grid.width // step))
    physical, valid = np.full(shape, np.nan, dtype=np.float32), np.zeros(shape, dtype=bool)
    # The pixels of the image behind a tile fit in memory.
    scale = max(1.0, placement.rows.scale, placement.cols.scale)
    edge = max(1, int(_READ_EDGE / scale) // step) * step
    for tile in windows_covering(grid.height, grid.width, tile_height=edge, tile_width=edge):
        needed = source_window(placement, tile)
        if needed is None:
            continue
        raster = reader.read(needed)
        for band, values in enumerate(decode(raster.dn, sensor)):
            shown, inside = resample_nearest(values, placement=placement, part=needed, window=tile)
            known, _ = resample_nearest(raster.valid[band], placement=placement, part=needed, window=tile)
            part = shown[::step, ::step]
            row, col = tile.row // step, tile.col // step
            at = (band, slice(row, row + part.shape[0]), slice(col, col + part.shape[1]))
            physical[at], valid[at] = part, (inside & known)[::step, ::step]
    return physical, valid
