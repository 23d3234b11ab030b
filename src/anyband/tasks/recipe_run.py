"""How and where a pre-training run is done: the part of a recipe that changes neither weights nor draws."""

from dataclasses import dataclass
from typing import Literal

from anyband.tasks.recipe_checks import need_at_least

__all__ = ["KnnRecipe", "RunRecipe"]


@dataclass(frozen=True, kw_only=True)
class KnnRecipe:
    """A kNN score now and then, on labelled images of one sensor."""

    labelled: str
    """Folder of class folders, or a table of path and label."""
    sensor: str
    """Sensor of the images."""
    every_steps: int
    """Steps between two scores."""
    pool: Literal["cls", "mean"] = "cls"
    """What stands for an image: its CLS token, or the mean of its patches."""

    def __post_init__(self) -> None:
        need_at_least("run.knn.every_steps", self.every_steps, 1)


@dataclass(frozen=True, kw_only=True)
class RunRecipe:
    """How and where the run is done, and what it writes. These may change when a run is resumed."""

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    """Kind of device."""
    devices: int | Literal["auto"] = "auto"
    """Processes on each machine, one a device; on CPUs auto means 1."""
    num_nodes: int = 1
    """Machines."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """How processes share the work; auto: ddp for more than one. fsdp: each holds a part of weights and optimiser, for
    networks that one device can't hold."""
    compile: bool = False
    """Whether the block stacks are compiled; takes a while, then saves some percent."""
    recompute: bool = False
    """Whether blocks are computed again for the gradient instead of kept: less memory, a third more arithmetic."""
    workers: int = 2
    """Threads that read ahead."""
    log_every_steps: int = 10
    """Steps between two rows of metrics.csv."""
    checkpoint_every_steps: int = 500
    """Steps between two checkpoints; a kill loses at most so many."""
    panel_every_steps: int = 1000
    """Steps between two reconstruction panels; 0: none."""
    val_batches: int = 8
    """Batches of the validation split scored at each checkpoint; 0: none."""
    knn: KnnRecipe | None = None
    """A kNN score now and then; null: none."""
    endpoint: str | None = None
    """Address of the S3-compatible server that a store at `s3://` is on; null: what AWS_ENDPOINT_URL says, or Amazon's.
    One at `gs://` is where TENSORSTORE_GCS_HTTP_URL says, or at Google's."""

    def __post_init__(self) -> None:
        for name in ("num_nodes", "workers", "log_every_steps", "checkpoint_every_steps"):
            need_at_least(f"run.{name}", getattr(self, name), 1)
        for name in ("panel_every_steps", "val_batches"):
            need_at_least(f"run.{name}", getattr(self, name), 0)
        if self.devices != "auto":
            need_at_least("run.devices", self.devices, 1)
