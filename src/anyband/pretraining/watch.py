"""What is watched while a network trains: reconstructions, validation loss, kNN."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from anyband.arrays import Float
from anyband.data.loader import SetDraw
from anyband.data.resample import AugmentOptions
from anyband.encode.encoder import SensorEncoder
from anyband.encode.input_spec import checkpoint_sensors
from anyband.evaluate.features import FusedEncoder, check_splits, extract_features
from anyband.evaluate.inputs import TaskReader
from anyband.evaluate.metrics import LabelledFeatures, metric_value
from anyband.evaluate.probes import NUM_NEIGHBOURS, knn_scores
from anyband.evaluate.recipe import Fusion, TransferRecipe
from anyband.files import whole_file
from anyband.labelled.images import open_images
from anyband.labelled.samples import DataSpec, SplitSpec, TaskData
from anyband.labelled.tables import list_samples
from anyband.models.autoencoder import Autoencoder
from anyband.models.checkpoint import Checkpoint
from anyband.pretraining.batches import BatchPreparer, assignment_rules
from anyband.pretraining.plan import RunPlan
from anyband.pretraining.recipe import KnnRecipe
from anyband.pretraining.reconstructions import draw_reconstructions, panel_views
from anyband.pretraining.runs import MetricsLog, RunFolder, Stepper, sum_over_processes
from anyband.sensors.assignment import AssignmentRules

if TYPE_CHECKING:
    pass
    from lightning_fabric import Fabric

__all__ = ["KnnWatch", "Watch", "check_knn"]

# chosen: the shares of `anyband evaluate`, where no split is declared. Test images are never looked at.
_SHARES = SplitSpec(val=0.1, test=0.2)


class KnnWatch:
    """Scores a network on one labelled set again and again.

    Images that are samples together are one sequence, told nothing but their pixels.
    """

    def __init__(self, knn: KnnRecipe, *, seed: int) -> None:
        self._knn = knn
        self._seed = seed
        self._opened: TaskData | None = None

    def check(self, checkpoint: Checkpoint, *, rules: AssignmentRules) -> None:
        """See that the images are there and the network reads their sensors, before training; else `AnybandError`."""
        data, reader, _ = self._parts(checkpoint, rules)
        for sensor in dict.fromkeys(sensor for slots in data.sensors for sensor in slots):
            reader.input_spec(sensor)

    def score(self, checkpoint: Checkpoint, *, rules: AssignmentRules, device: str) -> float:
        """Let training images vote on validation images: accuracy, or micro mean average precision for many labels."""
        data, reader, fused = self._parts(checkpoint, rules)
        samples = np.concatenate([data.split("train"), data.split("val")])
        (found,) = extract_features({"encoder": fused.to(device)}, reader, samples, cache=None)["encoder"]
        features = found.numpy()
        assert data.targets is not None
        num_train = data.num_samples["train"]
        train, val = (
            LabelledFeatures(features=features[part], labels=data.targets[samples[part]], classes=data.classes)
            for part in (slice(0, num_train), slice(num_train, None))
        )
        votes = knn_scores(train, val, k=min(NUM_NEIGHBOURS, num_train), device=device)
        return metric_value("map_micro" if val.labels.ndim == 2 else "accuracy", val.labels, votes)

    def _parts(self, checkpoint: Checkpoint, rules: AssignmentRules) -> tuple[TaskData, TaskReader, FusedEncoder]:
        data = self._data(checkpoint)
        encoder = SensorEncoder(checkpoint, rules=rules).eval()
        recipe = TransferRecipe(name="kNN while training", data=DataSpec(source=self._knn.labelled))
        fusion: Fusion = "single" if {len(slots) for slots in data.sensors} == {1} else "joint"
        fused = FusedEncoder(encoder, fusion=fusion, pool=self._knn.pool, seed=self._seed, metadata=False)
        return data, TaskReader(encoder, data, recipe), fused

    def _data(self, checkpoint: Checkpoint) -> TaskData:
        if self._opened is None:
            known = checkpoint_sensors(checkpoint)
            spec = DataSpec(
                source=str(self._knn.labelled),
                sensors=(self._knn.sensor,),
                split=_SHARES,
                # Nothing but a look: what is in the files is not compared.
                options={"contents": "sizes"},
            )
            if any(len(one.label) != 1 for one in list_samples(spec, sensors=known) if isinstance(one.label, tuple)):
                spec = replace(spec, kind="labels")
            data = open_images(spec, seed=self._seed, sensors=known)
            check_splits(data, protocol="a kNN score", splits=("train", "val"))
            self._opened = data
        return self._opened


_WHOLE = AugmentOptions(enabled=False)
# chosen: samples of a panel; enough to judge by, small enough to look at.
_PANEL_SAMPLES = 4


class Watch:
    """What is looked at between steps. Draws depend on the seed only, so every look sees the same masks."""

    def __init__(
        self, plan: RunPlan, folder: RunFolder, fabric: "Fabric", stepper: Stepper, preparer: BatchPreparer
    ) -> None:
        self._plan = plan
        self._folder = folder
        self._fabric = fabric
        self._stepper = stepper
        self._preparer = preparer
        self._val_batches = _val_batches(plan, num_processes=fabric.world_size)
        self._knn = _knn_watch(plan) if fabric.is_global_zero else None

    def is_due(self, done: int) -> bool:
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
        samples = self._plan.val_samples or self._plan.samples
        title = f"{self._plan.recipe.name}, step {done}"
        for name, draw in samples.shown(_PANEL_SAMPLES).items():
            raw = samples.read(draw)
            example = self._preparer.prepare(raw, step=0, augment=_WHOLE)
            times = None if raw.metadata is None else raw.metadata.time
            inputs = [self._plan.inputs[group.array] for group in raw.groups]
            for end, view in panel_views(example, hides_images=self._plan.recipe.model.hidden_image > 0).items():
                with self._looking(model):
                    png = draw_reconstructions(
                        model, *view, inputs, title=title, places=samples.places(draw), times=times
                    )
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
    """See that the recipe's labelled images can be read, before the run is begun; `AnybandError` where not."""
    watch = _knn_watch(plan)
    if watch is not None:
        watch.check(plan.checkpoint(model.state_dict(), step=0), rules=assignment_rules(plan.recipe))


def _knn_watch(plan: RunPlan) -> "KnnWatch | None":
    if plan.recipe.run.knn is None:
        return None
    # Reading labelled images needs rasterio; a run without them does not.

    return KnnWatch(plan.recipe.run.knn, seed=plan.recipe.seed)


def _val_batches(plan: RunPlan, *, num_processes: int) -> list[SetDraw]:
    """Choose the batches of validation, as large as a part of a training batch where the samples suffice."""
    samples = plan.val_samples
    if samples is None:
        return []
    optim = plan.recipe.optim
    part = max(1, optim.batch_size // (optim.accumulate * num_processes))
    sampler = samples.sampler(batch_size=min(part, samples.largest_kind), seed=plan.recipe.seed)
    count = min(plan.recipe.run.val_batches, sampler.steps_per_epoch)
    return [sampler.batch(index) for index in range(count)]
