"""Looking at a network while it trains, without changing it: validation loss, panels, a kNN score."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from anyband.data.augment import AugmentOptions
from anyband.models.autoencoder import Autoencoder
from anyband.shapes import Float
from anyband.tasks.array_inputs import assignment_rules
from anyband.tasks.logs import MetricsLog
from anyband.tasks.run_plan import RunPlan
from anyband.tasks.runs import RunFolder
from anyband.tasks.samples import Draw, Preparer
from anyband.tasks.steps import Stepper, sum_over_processes
from anyband.whole_files import whole_file

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from anyband.tasks.knn_watch import KnnWatch

__all__ = ["Watch", "check_knn"]

_WHOLE = AugmentOptions(enabled=False)
# chosen: samples of a panel; enough to judge by, small enough to look at.
_PANEL_SAMPLES = 4


class Watch:
    """What is looked at between steps. Draws depend on the seed only, so every look sees the same masks."""

    def __init__(
        self, plan: RunPlan, folder: RunFolder, fabric: "Fabric", stepper: Stepper, preparer: Preparer[Any, Any]
    ) -> None:
        """Choose the batches to look at; nothing is read yet."""
        self._plan = plan
        self._folder = folder
        self._fabric = fabric
        self._stepper = stepper
        self._preparer = preparer
        self._val_batches = _val_batches(plan, num_processes=fabric.world_size)
        self._knn = _knn_watch(plan) if fabric.is_global_zero else None

    def is_due(self, done: int) -> bool:
        """Tell whether `look` has something to do after so many steps."""
        return self._panel_is_due(done) or self._knn_is_due(done)

    def validate(self) -> dict[str, float]:
        """Compute the loss on validation samples, the same ones and masks each time; processes share them."""
        if not self._val_batches:
            return {}
        total = torch.zeros((), dtype=torch.float64, device=self._fabric.device)
        with self._looking(self._stepper.model):
            for first in range(0, len(self._val_batches), self._fabric.world_size):
                total += self._val_loss(first + self._fabric.global_rank)
        total = sum_over_processes(self._fabric, total)
        return {"val_loss": float(total) / len(self._val_batches)}

    def _val_loss(self, index: int) -> Float[Tensor, ""]:
        """Compute the loss of a batch of validation; 0 behind the last one.

        Weights in shares are whole only while all processes compute, so one without a batch goes over the last again.
        """
        assert self._plan.val_samples is not None
        last = len(self._val_batches) - 1
        chosen = min(index, last)
        raw = self._plan.val_samples.read(self._val_batches[chosen])
        loss = self._stepper.loss(self._preparer.prepare(raw, step=chosen, augment=_WHOLE)).double()
        return loss if index <= last else torch.zeros_like(loss)

    def look(self, done: int, log: MetricsLog | None) -> dict[str, float]:
        """Draw and score what is due. The first process does; the others lend it their shares of the weights."""
        if not self.is_due(done):
            return {}
        model = self._stepper.whole_model()
        if model is None:
            return {}
        if self._panel_is_due(done):
            self._draw_panels(model, done, log)
        if self._knn is None or not self._knn_is_due(done):
            return {}
        checkpoint = self._plan.checkpoint(model.state_dict(), step=done)
        rules, device = assignment_rules(self._plan.recipe), str(self._fabric.device)
        return {"knn_score": self._knn.score(checkpoint, rules=rules, device=device)}

    def _panel_is_due(self, done: int) -> bool:
        every = self._plan.recipe.run.panel_every_steps
        return bool(every) and (done % every == 0 or done == self._plan.total_steps)

    def _knn_is_due(self, done: int) -> bool:
        knn = self._plan.recipe.run.knn
        return knn is not None and (done % knn.every_steps == 0 or done == self._plan.total_steps)

    def _draw_panels(self, model: Autoencoder, done: int, log: MetricsLog | None) -> None:
        """Draw panels, always of the same samples."""
        samples = self._plan.val_samples or self._plan.samples
        title = f"{self._plan.recipe.name}, step {done}"
        for name, draw in samples.shown(_PANEL_SAMPLES).items():
            raw = samples.read(draw)
            example = self._preparer.prepare(raw, step=0, augment=_WHOLE)
            for end, view in samples.views(example, self._plan.recipe).items():
                with self._looking(model):
                    png = samples.panel(model, raw, view, self._plan.inputs, title=title)
                self._keep(png, name + end, done, log)

    def _keep(self, png: bytes, name: str, done: int, log: MetricsLog | None) -> None:
        with whole_file(self._folder.panels_path / f"step_{done:08d}_{name}.png") as beside:
            beside.write_bytes(png)
        if log is not None:
            log.add_picture(f"reconstruction/{name}", png, done)

    @contextlib.contextmanager
    def _looking(self, model: Autoencoder) -> Iterator[None]:
        """Without gradients, without drop path, in the precision of training."""
        model.eval()
        try:
            with torch.no_grad(), self._fabric.autocast():
                yield
        finally:
            model.train()


def check_knn(plan: RunPlan, model: Autoencoder) -> None:
    """See that the labelled images of the recipe are there and can be read, before the run is begun.

    Raises:
        AnybandError: they can't; see `KnnWatch`.
    """
    watch = _knn_watch(plan)
    if watch is not None:
        watch.check(plan.checkpoint(model.state_dict(), step=0), rules=assignment_rules(plan.recipe))


def _knn_watch(plan: RunPlan) -> "KnnWatch | None":
    if plan.recipe.run.knn is None:
        return None
    # Reading labelled images needs rasterio; a run without them does not.
    from anyband.tasks.knn_watch import KnnWatch

    return KnnWatch(plan.recipe.run.knn, seed=plan.recipe.seed)


def _val_batches(plan: RunPlan, *, num_processes: int) -> list[Draw]:
    """Choose the batches of validation, as large as a part of a training batch where the samples suffice."""
    samples = plan.val_samples
    if samples is None:
        return []
    optim = plan.recipe.optim
    part = max(1, optim.batch_size // (optim.accumulate * num_processes))
    sampler = samples.sampler(batch_size=min(part, samples.largest_kind), seed=plan.recipe.seed)
    count = min(plan.recipe.run.val_batches, sampler.steps_per_epoch)
    return [sampler.batch(index) for index in range(count)]
