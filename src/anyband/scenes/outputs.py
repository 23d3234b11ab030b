"""Tiles of a scene, and the files that its features go to."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from anyband.arrays import Array, Float
from anyband.errors import InputError, OutputError
from anyband.files import check_target, whole_file
from anyband.progress import Advance, progress
from anyband.rasters.formats import GdalSheet
from anyband.rasters.grid import IDENTITY, Grid, Window, patch_grid, windows_covering
from anyband.rasters.writer import GeoTiffWriter, geotiff_writer
from anyband.report.maps import PcaColours, fit_pca_colours, pca_picture, picture_png

__all__ = [
    "BLOCK_PATCHES",
    "FeatureJob",
    "PatchSample",
    "Tiling",
    "View",
    "checked_outputs",
    "feature_tiff",
    "place_notes",
    "plan_tiling",
    "scene_patch_grid",
    "tiling_tags",
    "views_of",
    "write_features",
    "write_pca_picture",
]

# chosen: the outermost patches of a view see the least around them; an eighth on each side doubles the work.
_HALO_SHARE = 8


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """Sizes of cores and halos, in patches."""

    core: int
    """Edge of the part of a view that is kept."""
    halo: int
    """Patches around the core that are seen and thrown away."""
    patch_size: int
    """Edge of a patch, pixels."""

    @property
    def view(self) -> int:
        """Edge of what the network sees at once."""
        return self.core + 2 * self.halo


@dataclass(frozen=True, kw_only=True)
class View:
    """One pass of the network: what it sees, and what is kept of it. Windows of the patch grid."""

    seen: Window
    """Core and halo; every view of a scene has the same size."""
    core: Window
    """The patches whose features are kept."""


def plan_tiling(*, patch_size: int, img_size: int, tile: int | None, halo: int | None) -> Tiling:
    """Choose cores and halos. By default a view is as large as the images that the network was trained on.

    Args:
        patch_size: edge of a patch, pixels.
        img_size: edge of the network's training images, pixels.
        tile: edge of a core, pixels; None: what the halo leaves of `img_size`.
        halo: around a core, pixels; None: an eighth of `img_size`, at least a patch.

    Raises:
        InputError: a size that is not a multiple of the patch size, or a negative one.
    """
    in_patches = img_size // patch_size
    for name, size, least in (("tile", tile, patch_size), ("halo", halo, 0)):
        if size is not None and (size % patch_size or size < least):
            raise InputError(
                f"{name} is {size} pixels; it must be a multiple of the patch size, {patch_size}, and at least {least}"
            )
    halo_patches = -(-in_patches // _HALO_SHARE) if halo is None else halo // patch_size
    core = max(1, in_patches - 2 * halo_patches) if tile is None else tile // patch_size
    return Tiling(core=core, halo=halo_patches, patch_size=patch_size)


def scene_patch_grid(grid: Grid, patch_size: int) -> Grid:
    """Make the grid of patches that covers a scene whole; the last ones may reach over its edge.

    A scene without georeference gets a grid without.

    Raises:
        GeometryError: the scene is smaller than one patch.
    """
    inner = patch_grid(grid, patch_size)
    nowhere = grid.crs is None and grid.transform == IDENTITY
    return Grid(
        height=-(-grid.height // patch_size),
        width=-(-grid.width // patch_size),
        transform=IDENTITY if nowhere else inner.transform,
        crs=inner.crs,
        gsd_m=inner.gsd_m,
    )


def views_of(block: Window, grid: Grid, tiling: Tiling) -> Iterator[View]:
    """Cut a block of the patch grid into cores, and place a view around each.

    Each patch of the block is in one core. A view that would reach over the edge of the scene is moved
    inside, so that all views have one size and see as much ground as there is.

    Args:
        block: of the patch grid.
        grid: the patch grid of the whole scene.
        tiling: sizes.
    """
    cores = windows_covering(block.height, block.width, tile_height=tiling.core, tile_width=tiling.core)
    height, width = min(tiling.view, grid.height), min(tiling.view, grid.width)
    for core in (inner.moved_by(block.row, block.col) for inner in cores):
        row = min(max(core.row - tiling.halo, 0), grid.height - height)
        col = min(max(core.col - tiling.halo, 0), grid.width - width)
        yield View(seen=Window(row=row, col=col, height=height, width=width), core=core)


BLOCK_PATCHES = 256
"""Edge of the blocks in which features are held and written: that of the GeoTIFF's own tiles."""

# chosen: enough for stable components, small enough to hold (60 MB at width 768).
_SAMPLE_PATCHES = 20_000
# chosen: a picture that fits a screen; larger scenes show every second, third … patch.
_PICTURE_EDGE = 1024
# chosen: small maps are enlarged by whole numbers up to about this many pixels.
_ENLARGED_EDGE = 512


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureJob:
    """Features of a scene to be made and written, window by window."""

    grid: Grid
    """Of the patches."""
    tiling: Tiling
    """How the scene is cut into views."""
    width: int
    """Number of features of a patch."""
    encoded: Callable[[Sequence[View]], list[tuple[View, Array]]]
    """Gives (view, its features (width, row, col)) for those of some views that have data."""
    batch_size: int
    """Views that are given to it at once."""
    tags: dict[str, object]
    """How the features are made, for the file."""
    shown: bool
    """Whether to show a progress bar."""


def checked_outputs(out: Path, inputs: Iterable[Path]) -> tuple[Path, Path]:
    """See that the GeoTIFF and the picture beside it can be written, before any work.

    Args:
        out: of the GeoTIFF.
        inputs: files that are read, which must not be overwritten.

    Returns:
        The GeoTIFF and the picture.

    Raises:
        OutputError: another kind of file, no folder to write to, or one of the inputs.
    """
    if out.suffix.lower() not in (".tif", ".tiff"):
        raise OutputError(f"'{out}' must end in .tif: features are written as a GeoTIFF")
    read = [path.resolve() for path in inputs]
    targets = out, out.with_name(f"{out.stem}_pca.png")
    for target in targets:
        check_target(target)
        if target.resolve() in read:
            raise OutputError(f"'{target}' is the scene itself, which would be lost; name another output")
    return targets


def write_features(job: FeatureJob, out: Path, picture: Path) -> int:
    """Write the features of a scene as a GeoTIFF, and the picture of them. Each appears whole or not at all.

    Args:
        job: what to write.
        out: of the GeoTIFF.
        picture: of the PNG.

    Returns:
        Number of patches without features, NaN in the file.

    Raises:
        InputError: no patch has any.
    """
    sample, num_missing, grid = PatchSample(job.grid), 0, job.grid
    blocks = list(windows_covering(grid.height, grid.width, tile_height=BLOCK_PATCHES, tile_width=BLOCK_PATCHES))
    num_views = sum(1 for block in blocks for _ in views_of(block, grid, job.tiling))
    with (
        feature_tiff(out, grid, width=job.width, tags=job.tags) as writer,
        progress(f"embed {out.name}", num_views, shown=job.shown) as advance,
    ):
        for block in blocks:
            features = _block_features(job, block, advance)
            num_missing += int(np.isnan(features[0]).sum())
            sample.add(features)
            writer.write(block, features)
        if num_missing == grid.height * grid.width:
            raise InputError(
                f"no patch of the scene has data in at least half of its pixels ({num_missing} patches); "
                "check its nodata value and its encoding"
            )
    write_pca_picture(picture, out, grid, sample.colours())
    return num_missing


def tiling_tags(tiling: Tiling) -> dict[str, object]:
    """Say in the file how the scene was cut."""
    return {
        "ANYBAND_PATCH_SIZE_PX": tiling.patch_size,
        "ANYBAND_TILE_PX": tiling.core * tiling.patch_size,
        "ANYBAND_HALO_PX": tiling.halo * tiling.patch_size,
    }


def place_notes(grid: Grid) -> tuple[str, ...]:
    """Say where a scene has no place on the ground."""
    if grid.crs is not None:
        return ()
    return ("the scene has no coordinate system, so the features have none: they are placed by pixel only",)


def _block_features(job: FeatureJob, block: Window, advance: Advance) -> Float[Array, "width row col"]:
    features = np.full((job.width, block.height, block.width), np.nan, dtype=np.float32)
    for views in _batched(views_of(block, job.grid, job.tiling), job.batch_size):
        for view, seen in job.encoded(views):
            kept, inner = view.core.within(block), view.core.within(view.seen)
            features[:, kept.rows, kept.cols] = seen[:, inner.rows, inner.cols]
        advance(len(views))
    return features


def _batched(views: Iterator[View], size: int) -> Iterator[list[View]]:
    while batch := list(islice(views, size)):
        yield batch


@contextmanager
def feature_tiff(path: Path, grid: Grid, *, width: int, tags: dict[str, object]) -> Iterator[GeoTiffWriter]:
    """Open the GeoTIFF of features, float32 with NaN as nodata; it appears when the block ends well.

    Args:
        path: to write.
        grid: of the patches.
        width: number of features, the bands.
        tags: how the features were made, kept in the file as JSON texts.
    """
    with geotiff_writer(
        path,
        grid=grid,
        dtype="float32",
        descriptions=[f"feature {index}" for index in range(width)],
        nodata=float("nan"),
        tags={key: value if isinstance(value, str) else json.dumps(value) for key, value in tags.items()},
    ) as writer:
        yield writer


class PatchSample:
    """Features of patches spread over a scene, in bounded memory."""

    def __init__(self, grid: Grid) -> None:
        """Choose how many patches stand for one.

        Args:
            grid: of the patches.
        """
        self._step = -(-grid.height * grid.width // _SAMPLE_PATCHES)
        self._parts: list[Array] = []

    def add(self, features: Float[Array, "width row col"]) -> None:
        """Take every so many of the patches with data, at least one where there is any."""
        rows = features.reshape(len(features), -1).T
        self._parts.append(rows[np.isfinite(rows[:, 0])][:: self._step].copy())

    def colours(self) -> PcaColours:
        """Fit the colours of principal components to the patches with data."""
        return fit_pca_colours(np.concatenate(self._parts))


def write_pca_picture(path: Path, features: Path, grid: Grid, colours: PcaColours) -> None:
    """Draw a feature GeoTIFF in the colours of its principal components; places without data are transparent.

    Args:
        path: of the PNG.
        features: the GeoTIFF.
        grid: of the patches.
        colours: fitted to its features.
    """
    step = -(-max(grid.height, grid.width) // _PICTURE_EDGE)
    picture = np.empty((3, -(-grid.height // step), -(-grid.width // step)), dtype=np.float32)
    edge = max(1, BLOCK_PATCHES // step)
    sheet = GdalSheet(features)
    try:
        for part in windows_covering(*picture.shape[1:], tile_height=edge, tile_width=edge):
            window = _patches_of(part, step, grid)
            stored, _ = sheet.read(range(len(sheet.names)), window)
            picture[:, part.rows, part.cols] = pca_picture(stored[:, ::step, ::step], colours)
    finally:
        sheet.close()
    larger = max(1, _ENLARGED_EDGE // max(picture.shape[1:]))
    with whole_file(path) as beside:
        beside.write_bytes(picture_png(picture.repeat(larger, axis=1).repeat(larger, axis=2)))


def _patches_of(part: Window, step: int, grid: Grid) -> Window:
    """Find the patches behind a part of the picture that shows every `step`-th of them."""
    row, col = part.row * step, part.col * step
    height, width = min(part.height * step, grid.height - row), min(part.width * step, grid.width - col)
    return Window(row=row, col=col, height=height, width=width)
