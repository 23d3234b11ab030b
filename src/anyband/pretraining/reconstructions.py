"""Pictures of what a network makes of hidden patches, over the sensors of a pair or the images of a set."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from anyband.arrays import Array, Float, Int, Shaped
from anyband.data.harmonise import composite, picture, restore
from anyband.errors import InputError
from anyband.models.autoencoder import Autoencoder
from anyband.models.inputs import ImageBatch, SetBatch, SetNoise
from anyband.pretraining.batches import ArrayInput, Example

__all__ = ["draw_reconstructions", "panel_views"]

_OUTLINE_NOTE = "Outlined patches were exchanged between the first two images."
# chosen: two sets of a few images stand beside each other on a page.
_SETS_ACROSS = 2


def panel_views(example: Example, *, hides_images: bool) -> dict[str, Example]:
    """Say what of an example is drawn, by the end of the panel's name; the last image hidden where training does it."""
    batch, noise = example
    views = {"": (batch, replace(noise, hides_last=False))}
    if hides_images and batch.shape[1] > 1:
        views["_hidden"] = (batch, replace(noise, hides_last=True))
    return views


def draw_reconstructions(
    model: Autoencoder,
    batch: SetBatch,
    noise: SetNoise,
    inputs: Sequence[ArrayInput],
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
    from anyband.report.figures import PanelImages, hide_patches, reconstruction_panel

    if len(places) != batch.shape[0]:
        raise InputError(f"{batch.shape[0]} sets need as many names of places, found {len(places)}")
    expected = batch.shape
    if times is not None and times.shape != expected:
        raise InputError(f"times of images have shape {times.shape}; give {expected}: set, image")
    with torch.no_grad():
        made, plan = model.reconstruct(batch, noise)
    drawn = [_draw(*one) for one in zip(batch.groups, made, inputs, strict=True)]
    rows = _rows(batch)
    originals, reconstructions = (np.concatenate(pictures)[rows] for pictures in zip(*drawn, strict=True))
    masked = plan.masked.cpu().numpy()
    exchanged = np.zeros_like(masked)
    if plan.swapped is not None:
        exchanged[:, :2] = plan.swapped.cpu().numpy()[:, None] & ~masked[:, :2]
    patch_size = model.config.encoder.patch_size
    grid = [side // patch_size for side in batch.groups[0].pixels.shape[2:]]
    pairs = model.config.images == "pair"
    blocks = [
        PanelImages(
            title=place,
            original=originals[index],
            seen=hide_patches(originals[index], masked[index], patch_size=patch_size),
            reconstruction=reconstructions[index],
            row_titles=_row_titles(
                rows[index], batch, inputs, None if times is None else times[index], anchor=not pairs
            ),
            outlined=exchanged[index].reshape(-1, *grid),
        )
        for index, place in enumerate(places)
    ]
    note = f"{_note(model)} {_OUTLINE_NOTE}" if exchanged.any() else _note(model)
    return reconstruction_panel(blocks, title=title, note=note, across=_SETS_ACROSS)


def _draw(image: ImageBatch, reconstruction: Tensor, entry: ArrayInput) -> tuple[Array, Array]:
    """Draw images and their reconstructions (sample, colour, row, col), both stretched as the original is."""
    sensor = entry.assignment.sensor
    original = _physical(image.pixels, entry)
    if image.valid is not None:
        known = image.valid[:, _rows_of_bands(entry)].cpu().numpy()
        original = np.where(known, original, np.float32(np.nan))
    made = _physical(reconstruction, entry)
    shown = _planes([picture(one, sensor, missing_grey=np.nan) for one in original])
    return shown, _planes([picture(one, sensor, like=like) for one, like in zip(made, original, strict=True)])


def _physical(pixels: Tensor, entry: ArrayInput) -> Float[Array, "sample band row col"]:
    """Bring network input back to physical units, with the bands of the assigned sensor."""
    rows = _rows_of_bands(entry)
    normalisation = entry.normalisation.at([entry.assignment.kept_index[row] for row in rows])
    physical: Array = restore(pixels[:, rows].float().cpu(), normalisation).numpy()
    return physical


def _rows_of_bands(entry: ArrayInput) -> list[int]:
    """Find where each band of the assigned sensor stands in the network input: a stem may hold one more than once."""
    kept = entry.assignment.kept_index
    return [kept.index(band) for band in dict.fromkeys(kept)]


def _planes(pictures: Sequence[Array]) -> Float[Array, "sample 3 row col"]:
    planes: Array = np.stack(pictures).transpose(0, 3, 1, 2)
    return planes


def _note(model: Autoencoder) -> str:
    from anyband.report.figures import PREDICTED_NOTE, RECONSTRUCTION_NOTE

    return PREDICTED_NOTE if model.config.predicts_values else RECONSTRUCTION_NOTE


def _rows(batch: SetBatch) -> Array:
    """Tell where each image stands when the groups are laid one after the other."""
    if batch.rows is not None:
        return batch.rows.cpu().numpy()
    return np.arange(math.prod(batch.shape)).reshape(batch.shape[::-1]).T


def _row_titles(
    rows: Int[Array, "slot"],
    batch: SetBatch,
    inputs: Sequence[ArrayInput],
    times: Shaped[Array, "slot"] | None,
    *,
    anchor: bool,
) -> tuple[str, ...]:
    group_of = np.repeat(np.arange(len(batch.groups)), [len(group.pixels) for group in batch.groups])
    texts = []
    for slot, row in enumerate(rows.tolist()):
        sensor = inputs[group_of[row]].assignment.sensor
        lines = ["anchor"] if anchor and slot == 0 else []
        lines.append(sensor.name)
        if times is not None:
            lines.append("date unknown" if np.isnat(times[slot]) else str(np.datetime64(times[slot], "D")))
        texts.append("\n".join([*lines, composite(sensor)[1]]))
    return tuple(texts)
