"""How a scene is cut for a network: cores of patches, each seen with a halo around it. Pure geometry."""

from collections.abc import Iterator
from dataclasses import dataclass

from anyband.data.tiles import IDENTITY, Grid, Window, patch_grid, windows_covering
from anyband.errors import InputError

__all__ = ["Tiling", "View", "plan_tiling", "scene_patch_grid", "views_of"]

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
