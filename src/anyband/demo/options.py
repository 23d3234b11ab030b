"""What the demo does: one record, checked when it is made."""

from dataclasses import dataclass
from pathlib import Path

from anyband.errors import InputError

__all__ = ["SIMULATED_PAIRS", "UNSEEN_SENSOR", "DemoOptions"]

# Source: SMARTIES (arXiv 2506.19585), section 4.1, pairs Sentinel-2 with Sentinel-1 and with sub-metre RGB.
SIMULATED_PAIRS = (("sentinel2-l2a", "sentinel1-grd"), ("maxar-rgb", "sentinel2-l2a"))
"""Pairs of sensors that the simulated archive trains on."""

UNSEEN_SENSOR = "landsat8-oli-tirs-l2"
"""Sensor of the simulated archive that training never sees; it has thermal bands."""


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """What the demo does. The defaults fit two cores and a few minutes."""

    images: Path | None = None
    """Manifest of the user's own images; None: simulated landscapes."""
    num_places: int = 480
    """Simulated places."""
    steps: int = 700
    """Training steps."""
    batch_size: int = 32
    """Pairs a step."""
    set_steps: int = 250
    """Training steps of the second network, on sets of images."""
    set_batch_size: int = 24
    """Sets a step."""
    chip_px: int | None = None
    """Side of a footprint in pixels of its finest image; None: as `prepare` chooses."""
    labelled: Path | None = None
    """Labelled images to score on (class folders or a table), for the user's own images."""
    labelled_sensor: str | None = None
    """Sensor of the labelled images."""
    seed: int = 0
    """Of everything."""
    workers: int = 2
    """Processes that render and prepare."""
    shown: bool = True
    """Whether to show progress."""

    def __post_init__(self) -> None:
        for name in ("num_places", "steps", "batch_size", "set_steps", "set_batch_size", "workers"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, found {getattr(self, name)}")
        if (self.labelled is None) != (self.labelled_sensor is None):
            raise InputError("labelled images need a sensor, and a sensor needs images: give both, or neither")
        if self.labelled is not None and self.images is None:
            raise InputError("labelled images go with your own images; the simulated archive has labels of its own")
