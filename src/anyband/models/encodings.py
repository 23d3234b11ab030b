"""Where a token stands: 2-D sine and cosine positions, computed for the grid of the image at hand."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from anyband.errors import InputError, nearest_name
from anyband.shapes import Float

__all__ = [
    "EncodingConfig",
    "GeographicKind",
    "PositionKind",
    "Positions",
    "gsd_positions",
    "sincos_positions",
]

PositionKind = Literal["fixed", "trained"]
GeographicKind = Literal["none", "a2mae"]


@dataclass(frozen=True, kw_only=True)
class EncodingConfig:
    """What tokens carry beside their position in the grid. All off: SMARTIES."""

    geographic: GeographicKind = "none"
    """a2mae: the anchor's corners and positions scaled by ground resolution, instead of the grid's positions."""
    place: bool = False
    """Longitude and latitude of each image, as spherical harmonics."""
    resolution: bool = False
    """Ground sampling distance of each image."""
    date: bool = False
    """Day of the year as a circle and year as a line, of each image."""
    source: bool = False
    """What each image's sensor sees of the trained ranges."""

    def __post_init__(self) -> None:
        kinds = get_args(GeographicKind)
        if self.geographic not in kinds:
            near = nearest_name(str(self.geographic), kinds)
            raise InputError(f"'{self.geographic}' is no geographic encoding ({', '.join(kinds)}){near}")

    @property
    def any(self) -> bool:
        """Whether tokens carry anything beside the grid's positions."""
        return self != EncodingConfig()


# Source: Vaswani et al., "Attention is all you need" (arXiv 1706.03762), section 3.5.
_BASE = 10_000.0


def sincos_positions(rows: int, cols: int, width: int) -> Float[Tensor, "token width"]:
    """Compute the positions of a grid, row by row: half of a vector from the column, half from the row.

    Each half is the sines of index · 10000^(−i / (width / 4)), then the cosines.

    Args:
        rows: patches down.
        cols: patches across.
        width: of a token, a multiple of 4.

    Returns:
        float32 (rows · cols, width).

    Source:
        Masked autoencoders (arXiv 2111.06377), whose fixed positions count columns first.
    """
    return gsd_positions(rows, cols, width, torch.ones(()))


def gsd_positions(
    rows: int, cols: int, width: int, gsd_m: Float[Tensor, "*image"]
) -> Float[Tensor, "*image token width"]:
    """Compute the positions of grids in metres over 1 m: as `sincos_positions`, each index times the ground resolution.

    Equal distances on the ground then turn by equal angles, whatever the resolution.

    Args:
        rows: patches down.
        cols: patches across.
        width: of a token, a multiple of 4.
        gsd_m: ground sampling distance of the network's input pixels, metres; finite.

    Returns:
        float32 (…, rows · cols, width).

    Source:
        A²-MAE (arXiv 2406.08079). That the resolution is that of the input pixels is our reading of its intent.
    """
    exponent = -torch.arange(width // 4, dtype=torch.float64, device=gsd_m.device) / (width / 4)
    frequency = _BASE**exponent

    def half(count: int) -> Tensor:
        index = torch.arange(count, dtype=torch.float64, device=gsd_m.device)
        angle = (gsd_m.double()[..., None] * index)[..., None] * frequency
        return torch.cat([angle.sin(), angle.cos()], dim=-1).float()

    # A half depends on its own axis only, so that sines are taken of rows + cols indices, not of all tokens.
    across = half(cols).unsqueeze(-3).expand(*gsd_m.shape, rows, -1, -1)
    down = half(rows).unsqueeze(-2).expand(*gsd_m.shape, -1, cols, -1)
    return torch.cat([across, down], dim=-1).flatten(-3, -2)


class Positions(nn.Module):
    """Positions of the tokens of a grid. CLS has none in the fixed kind: its row is 0.

    Fixed: computed for whatever grid comes. Trained: a parameter for the network's own grid, bicubically
    resampled for others.

    Args:
        grid: patches down and across at the network's own image size.
        width: of a token, a multiple of 4.
        kind: fixed or trained.
    """

    table: Tensor

    def __init__(self, *, grid: tuple[int, int], width: int, kind: PositionKind) -> None:
        super().__init__()
        self.grid = grid
        self.width = width
        self.kind = kind
        table = functional.pad(sincos_positions(*grid, width), (0, 0, 1, 0)).unsqueeze(0)
        if kind == "trained":
            self.table = nn.Parameter(table)
        else:
            self.register_buffer("table", table)

    def forward(self, grid: tuple[int, int]) -> Float[Tensor, "1 cls_and_token width"]:
        """Give the positions for a grid, CLS first.

        Args:
            grid: patches down and across.

        Returns:
            (1, 1 + rows · cols, width).
        """
        if grid == self.grid:
            return self.table
        if self.kind == "fixed":
            table = functional.pad(sincos_positions(*grid, self.width), (0, 0, 1, 0))
            return table.to(self.table).unsqueeze(0)
        return torch.cat([self.table[:, :1], _resampled(self.table[:, 1:], self.grid, grid)], dim=1)


def _resampled(table: Tensor, grid: tuple[int, int], wanted: tuple[int, int]) -> Tensor:
    image = rearrange(table, "1 (h w) d -> 1 d h w", h=grid[0], w=grid[1])
    resized = functional.interpolate(image, size=wanted, mode="bicubic", align_corners=False)
    return rearrange(resized, "1 d h w -> 1 (h w) d")
