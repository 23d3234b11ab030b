"""What is watched while a network trains: panels of reconstructions, and a kNN score."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from anyband.arrays import Array, Shaped
from anyband.data.harmonise import composite, picture, restore
from anyband.data.resample import AugmentOptions
from anyband.encode.encoder import SensorEncoder
from anyband.encode.input_spec import InputSpec, checkpoint_sensors
from anyband.evaluate.features import FusedEncoder, check_splits, extract_features
from anyband.evaluate.inputs import TaskReader
from anyband.evaluate.metrics import LabelledFeatures, metric_value
from anyband.evaluate.probes import NUM_NEIGHBOURS, knn_scores
from anyband.evaluate.recipe import Fusion, TransferRecipe
from anyband.labelled.images import open_images
from anyband.labelled.samples import DataSpec, SplitSpec, TaskData
from anyband.labelled.tables import list_samples
from anyband.models.autoencoder import Autoencoder
from anyband.models.checkpoint import Checkpoint
from anyband.models.inputs import ImageBatch, SetBatch, SetNoise
from anyband.pretraining.batches import BatchPreparer
from anyband.pretraining.plan import RunPlan
from anyband.pretraining.recipe import KnnRecipe
from anyband.sensors.assignment import AssignmentRules
from anyband.sensors.sensor import Sensor

__all__ = ["draw_panels", "draw_reconstructions", "knn_score", "open_labelled"]

# chosen: the shares of `anyband evaluate`, where no split is declared. Test images are never looked at.
_SHARES = SplitSpec(val=0.1, test=0.2)


def open_labelled(knn: KnnRecipe, checkpoint: Checkpoint, *, rules: AssignmentRules, seed: int) -> TaskData:
    """Open the labelled images of a kNN score, and see that a network reads their sensors; else `AnybandError`."""
    known = checkpoint_sensors(checkpoint)
    # Nothing but a look: what is in the files is not compared.
    spec = DataSpec(source=str(knn.labelled), sensors=(knn.sensor,), split=_SHARES, options={"contents": "sizes"})
    if any(len(one.label) > 1 for one in list_samples(spec, sensors=known) if isinstance(one.label, tuple)):
        spec = replace(spec, kind="labels")
    data = open_images(spec, seed=seed, sensors=known)
    check_splits(data, protocol="a kNN score", splits=("train", "val"))
    reader = TaskReader(SensorEncoder(checkpoint, rules=rules), data, _recipe(knn))
    for sensor in dict.fromkeys(sensor for slots in data.sensors for sensor in slots):
        reader.input_spec(sensor)
    return data


def knn_score(
    knn: KnnRecipe, data: TaskData, checkpoint: Checkpoint, *, rules: AssignmentRules, seed: int, device: str
) -> float:
    """Let training images vote on validation images: accuracy, or micro mean average precision for many labels. Images
    that are samples together are one sequence, told nothing but their pixels."""
    encoder = SensorEncoder(checkpoint, rules=rules).eval()
    fusion: Fusion = "single" if {len(slots) for slots in data.sensors} == {1} else "joint"
    fused = FusedEncoder(encoder, fusion=fusion, pool=knn.pool, seed=seed, metadata=False)
    reader = TaskReader(encoder, data, _recipe(knn))
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


def _recipe(knn: KnnRecipe) -> TransferRecipe:
    return TransferRecipe(name="kNN while training", data=DataSpec(source=knn.labelled))


# chosen: samples of a panel; enough to judge by, small enough to look at.
_PANEL_SAMPLES = 4
_OUTLINE_NOTE = "Outlined patches were exchanged between the first two images."
# chosen: two sets of a few images stand beside each other on a page.
_SETS_ACROSS = 2


def draw_panels(plan: RunPlan, model: Autoencoder, preparer: BatchPreparer, *, step: int) -> dict[str, bytes]:
    """Draw what a network makes of hidden patches, always of the same samples and masks: name of the panel → PNG. A
    second panel of sets has the last image hidden whole, where training does that."""
    samples, found = plan.val_samples or plan.samples, {}
    for name, draw in samples.shown(_PANEL_SAMPLES).items():
        raw = samples.read(draw)
        batch, noise = preparer.finish(preparer.draw(raw, step=0, augment=AugmentOptions(enabled=False)))
        hides_images = plan.recipe.model.hidden_image > 0 and batch.shape[1] > 1
        for hides_last in (False, True) if hides_images else (False,):
            found[f"{name}_hidden" if hides_last else name] = draw_reconstructions(
                model,
                batch,
                replace(noise, hides_last=hides_last),
                [plan.inputs[group.array] for group in raw.groups],
                title=f"{plan.recipe.name}, step {step}",
                places=samples.places(draw),
                times=None if raw.metadata is None else raw.metadata["time"],
            )
    return found


def draw_reconstructions(
    model: Autoencoder,
    batch: SetBatch,
    noise: SetNoise,
    inputs: Sequence[InputSpec],
    *,
    title: str,
    places: Sequence[str],
    times: Shaped[Array, "set slot"] | None = None,
) -> bytes:
    """Draw original, what the encoder saw, and reconstruction of each image of some sets, the anchor first.

    Patches are outlined where two sources exchange tokens to any effect.

    Args:
        model: in evaluation mode; batch and noise are on its device.
        inputs: of each group.
        places: of the sets.
        times: datetime64, NaT where unknown; None: no dates are written.
    """
    from anyband.report import figures

    with torch.no_grad():
        made, plan = model.reconstruct(batch, noise)
    drawn = [_draw(*one) for one in zip(batch.groups, made, inputs, strict=True)]
    # Where each image stands when the groups are laid one after the other.
    rows = np.arange(batch.shape[0] * batch.shape[1]).reshape(batch.shape[::-1]).T
    if batch.rows is not None:
        rows = batch.rows.cpu().numpy()
    originals, reconstructions = (np.concatenate(pictures)[rows] for pictures in zip(*drawn, strict=True))
    masked = plan.masked.cpu().numpy()
    exchanged = np.zeros_like(masked)
    if plan.swapped is not None:
        exchanged[:, :2] = plan.swapped.cpu().numpy()[:, None] & ~masked[:, :2]
    patch_size = model.config.encoder.patch_size
    grid = [side // patch_size for side in batch.groups[0].pixels.shape[2:]]
    sensors = [
        spec.assignment.sensor for spec, one in zip(inputs, batch.groups, strict=True) for _ in range(len(one.pixels))
    ]
    blocks = [
        figures.PanelImages(
            title=place,
            original=originals[index],
            seen=figures.hide_patches(originals[index], masked[index], patch_size=patch_size),
            reconstruction=reconstructions[index],
            row_titles=_row_titles(
                [sensors[row] for row in rows[index]],
                None if times is None else times[index],
                has_anchor=model.config.images == "set",
            ),
            outlined=exchanged[index].reshape(-1, *grid),
        )
        for index, place in enumerate(places)
    ]
    note = figures.PREDICTED_NOTE if model.config.predicts_values else figures.RECONSTRUCTION_NOTE
    if exchanged.any():
        note = f"{note} {_OUTLINE_NOTE}"
    return figures.reconstruction_panel(blocks, title=title, note=note, across=_SETS_ACROSS)


def _draw(image: ImageBatch, reconstruction: Tensor, spec: InputSpec) -> tuple[Array, Array]:
    """Draw images and their reconstructions (sample, colour, row, col), both stretched as the original is."""
    sensor, kept = spec.assignment.sensor, spec.assignment.kept_index
    # A stem may hold a band more than once; it is drawn once.
    rows = [kept.index(band) for band in dict.fromkeys(kept)]
    normalisation = spec.normalisation.at(rows)
    original, made = (
        restore(pixels[:, rows].float().cpu(), normalisation).numpy() for pixels in (image.pixels, reconstruction)
    )
    if image.valid is not None:
        original = np.where(image.valid[:, rows].cpu().numpy(), original, np.float32(np.nan))
    shown = [picture(one, sensor, missing_grey=np.nan) for one in original]
    drawn = [picture(one, sensor, like=like) for one, like in zip(made, original, strict=True)]
    return np.stack(shown).transpose(0, 3, 1, 2), np.stack(drawn).transpose(0, 3, 1, 2)


def _row_titles(sensors: Sequence[Sensor], times: Shaped[Array, "slot"] | None, *, has_anchor: bool) -> tuple[str, ...]:
    texts = []
    for slot, sensor in enumerate(sensors):
        lines = ["anchor", sensor.name] if has_anchor and slot == 0 else [sensor.name]
        if times is not None:
            lines.append("date unknown" if np.isnat(times[slot]) else str(np.datetime64(times[slot], "D")))
        texts.append("\n".join([*lines, composite(sensor)[1]]))
    return tuple(texts)
