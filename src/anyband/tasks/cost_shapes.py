"""What the batches of a run hold, as far as arithmetic and reading depend on it."""

from typing import Any

import numpy as np

from anyband.data.store import ChipStore
from anyband.tasks.cost_flops import BatchFlops, BatchShape, batch_flops
from anyband.tasks.run_plan import RunPlan
from anyband.tasks.stems import NUM_STEM_BANDS

__all__ = ["RunShapes", "raw_bytes", "stored_bytes"]

# chosen: batches spread over a run tell its mean; drawing one may cost the order of a whole round.
_LOOKED_AT = 16


class RunShapes:
    """Tells what a draw of a run costs."""

    def __init__(self, plan: RunPlan, *, num_parts: int) -> None:
        """Look up the array of each chip, once.

        Args:
            plan: of the run.
            num_parts: pieces of a batch, over all processes.
        """
        self._plan = plan
        self._config = plan.config
        self._num_parts = num_parts
        column = plan.store.index.column("array").combine_chunks().dictionary_encode()
        self._codes = column.indices.to_numpy(zero_copy_only=False)
        self._names: list[str] = column.dictionary.to_pylist()

    def drawn(self) -> list[Any]:
        """Draw batches spread over the run, from the first on."""
        plan = self._plan
        sampler = plan.samples.sampler(batch_size=plan.recipe.optim.batch_size, seed=plan.recipe.seed)
        steps = np.unique(np.linspace(0, plan.total_steps - 1, _LOOKED_AT).astype(np.int64))
        return [sampler.batch(int(step)) for step in steps]

    def images(self, draw: Any) -> dict[str, int]:
        """Count the images of a batch that are of each array."""
        counts = np.bincount(self._codes[self._plan.samples.chips(draw)].ravel(), minlength=len(self._names))
        return {name: int(count) for name, count in zip(self._names, counts, strict=True) if count}

    def shape(self, draw: Any, *, hides_last: bool = False) -> BatchShape:
        """Tell the shape of a batch."""
        config = self._config
        chips = self._plan.samples.chips(draw)
        num_samples, num_slots = chips.shape
        if config.images == "pair":
            groups = tuple((self._bands(self._names[self._codes[chip]]), num_samples) for chip in chips[0])
            return BatchShape(num_samples=num_samples, num_slots=num_slots, groups=groups)
        return BatchShape(
            num_samples=num_samples,
            num_slots=num_slots,
            groups=tuple((self._bands(name), count) for name, count in self.images(draw).items()),
            apart=config.mixup == "mirrored" and config.sequence == "apart" and bool(draw.partnered),
            hides_last=hides_last,
        )

    def flops(self, draw: Any) -> BatchFlops:
        """Count the operations of a batch; of hidden images, what is to be expected."""
        share = self._plan.recipe.model.hidden_image if self._plan.samples.chips(draw).shape[1] > 1 else 0.0
        whole = BatchFlops().plus(self._flops(draw, hides_last=False), times=1.0 - share)
        return whole.plus(self._flops(draw, hides_last=True), times=share) if share else whole

    def _flops(self, draw: Any, *, hides_last: bool) -> BatchFlops:
        return batch_flops(
            self._config,
            self.shape(draw, hides_last=hides_last),
            num_parts=self._num_parts,
        )

    def _bands(self, array: str) -> int:
        if self._plan.recipe.model.stem == "triplet":
            return NUM_STEM_BANDS
        return len(self._plan.inputs[array].assignment.kept_index)


def stored_bytes(store: ChipStore, array: str) -> float | None:
    """Tell what a chip takes on the disk, with what says where it is valid; None: the store is not in a folder."""
    if isinstance(store.path, str):
        return None
    folders = [store.path / kind / array for kind in ("chips", "valid")]
    sizes = (file.stat().st_size for folder in folders if folder.is_dir() for file in folder.rglob("*"))
    return sum(sizes) / max(store.arrays[array].num_chips, 1)


def raw_bytes(store: ChipStore, array: str) -> int:
    """Tell what a chip takes in stored numbers: what travels to the device."""
    info = store.arrays[array]
    return len(info.bands) * info.height * info.width * np.dtype(info.dtype).itemsize
