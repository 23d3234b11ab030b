"""What is prepared, and how."""

import math
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from typing import Any

from anyband.errors import InputError

__all__ = ["PrepareOptions", "PrepareRun"]

_MIN_CHIP_PX = 16


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """What decides the content of a store, besides the images."""

    chip_px: int | None = None
    """Side of a footprint in pixels of its finest image; None: whole images if they are small."""
    chip_m: float | None = None
    """Or in metres."""
    min_valid: float = 0.5
    """Least share of data of a chip; chosen: half, as for a token to be seen."""
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of the places for train, val and test."""
    seed: int = 0
    """Of the draw of splits."""
    statistics: bool = False
    """Whether to compute statistics of the train split too."""

    def __post_init__(self) -> None:
        if self.chip_px is not None and self.chip_m is not None:
            raise InputError("chip_px and chip_m both say how large a chip is; give one of them")
        if self.chip_px is not None and self.chip_px < _MIN_CHIP_PX:
            raise InputError(f"chips of {self.chip_px} pixels are smaller than a patch ({_MIN_CHIP_PX} pixels)")
        if self.chip_m is not None and not 0 < self.chip_m < math.inf:
            raise InputError(f"chip_m must be over 0 metres and finite, found {self.chip_m:g}")
        if not 0 <= self.min_valid <= 1:
            raise InputError(f"min_valid is a share from 0 to 1, found {self.min_valid:g}")
        # Written so that a share that is no number fails too.
        if not (min(self.fractions) >= 0 and abs(sum(self.fractions) - 1) <= 1e-6):
            raise InputError(f"the shares of train, val and test must sum to 1, found {self.fractions}")

    def to_dict(self) -> dict[str, Any]:
        """Make plain JSON."""
        return {**asdict(self), "fractions": list(self.fractions)}


@dataclass(frozen=True, kw_only=True)
class PrepareRun:
    """How to prepare; nothing here changes the content of a store."""

    workers: int = 1
    """Processes that read and cut images; 1: this one."""
    executor: Executor | None = None
    """Pool to use instead of processes of our own, for example of a cluster."""
    overwrite: bool = False
    """Whether an existing store of other inputs is replaced."""
    strict: bool = False
    """Whether an image that can't be used is an error instead of skipped."""
    shown: bool = False
    """Whether to show progress."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise InputError(f"workers must be at least 1, found {self.workers}")
