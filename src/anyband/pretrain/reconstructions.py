"""Pictures of what a network makes of hidden patches, over the sensors of a pair or the images of a set."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from anyband.arrays import Array, Bool, Float, Shaped
from anyband.data.harmonise import composite, picture, restore
from anyband.errors import InputError
from anyband.models.a2mae import SetAutoencoder
from anyband.models.autoencoder import Autoencoder
from anyband.models.inputs import ImageBatch, PairBatch, PairNoise, SetBatch, SetNoise
from anyband.models.smarties import Smarties
from anyband.pretrain.batches import ArrayInput

__all__ = ["SetTitles", "draw_reconstructions", "draw_set_reconstructions"]

_OUTLINE_NOTE = "Outlined patches were exchanged between the first two images."
# chosen: two sets of a few images stand beside each other on a page.
_SETS_ACROSS = 2


@dataclass(frozen=True, kw_only=True)
class SetTitles:
    """What is written on a panel of sets."""

    title: str
    """Stands above the panel, for example the step."""
    places: tuple[str, ...]
    """Name of the place of each set."""
    times: Shaped[Array, "set slot"] | None = None
    """When each image was taken, datetime64, NaT where unknown; None: no dates are written."""


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """Pictures of the images of one sensor (sample, colour, row, col)."""

    original: Float[Array, "sample 3 row col"]
    reconstruction: Float[Array, "sample 3 row col"]


def draw_reconstructions(
    model: Smarties, pair: PairBatch, noise: PairNoise, inputs: tuple[ArrayInput, ArrayInput], *, title: str
) -> bytes:
    """Draw original, what the encoder saw, and reconstruction of both images of each pair.

    Args:
        model: with its decoder, in evaluation mode.
        pair: some pairs, on the model's device.
        noise: of these pairs.
        inputs: how the two arrays are read.
        title: stands above the panel.

    Returns:
        A PNG.
    """
    from anyband.report.figures import PanelImages, hide_patches, reconstruction_panel

    with torch.no_grad():
        made = model.reconstruct(pair, noise)
    patch_size = model.config.encoder.patch_size
    masked = made.masked.cpu().numpy()
    blocks = []
    for image, reconstruction, entry in zip((pair.a, pair.b), (made.a, made.b), inputs, strict=True):
        drawn = _draw(image, reconstruction, entry)
        sensor = entry.assignment.sensor
        blocks.append(
            PanelImages(
                title=f"{sensor.name} ({composite(sensor).title})",
                original=drawn.original,
                seen=hide_patches(drawn.original, masked, patch_size=patch_size),
                reconstruction=drawn.reconstruction,
            )
        )
    return reconstruction_panel(blocks, title=title, note=_note(model))


def draw_set_reconstructions(
    model: SetAutoencoder, batch: SetBatch, noise: SetNoise, inputs: Sequence[ArrayInput], *, titles: SetTitles
) -> bytes:
    """Draw original, what the encoder saw, and reconstruction of each image of some sets, the anchor first.

    Patches are outlined where two sources exchange tokens to any effect.

    Args:
        model: with its decoder, in evaluation mode.
        batch: some sets, on the model's device.
        noise: of these sets.
        inputs: how the array of each group is read.
        titles: what to write on the panel.

    Returns:
        A PNG.

    Raises:
        InputError: titles for other sets than these.
    """
    from anyband.report.figures import PanelImages, hide_patches, reconstruction_panel

    _check_titles(titles, batch)
    with torch.no_grad():
        made = model.reconstruct(batch, noise)
    drawn = [_draw(*one) for one in zip(batch.groups, made.images, inputs, strict=True)]
    originals, reconstructions = (
        np.concatenate([getattr(one, part) for one in drawn])[batch.rows.cpu().numpy()]
        for part in ("original", "reconstruction")
    )
    masked = made.plan.masked.cpu().numpy()
    exchanged = _exchanged(model, made.plan.swapped.cpu().numpy(), masked)
    patch_size = model.config.encoder.patch_size
    blocks = [
        PanelImages(
            title=place,
            original=originals[index],
            seen=hide_patches(originals[index], masked[index], patch_size=patch_size),
            reconstruction=reconstructions[index],
            row_titles=_row_titles(batch, inputs, titles, index),
            outlined=exchanged[index].reshape(-1, *made.grid),
        )
        for index, place in enumerate(titles.places)
    ]
    note = f"{_note(model)} {_OUTLINE_NOTE}" if exchanged.any() else _note(model)
    return reconstruction_panel(blocks, title=titles.title, note=note, across=_SETS_ACROSS)


def _draw(image: ImageBatch, reconstruction: Tensor, entry: ArrayInput) -> _Drawn:
    """Draw images and their reconstructions, both stretched as the original is."""
    sensor = entry.assignment.sensor
    original = _physical(image.pixels, entry)
    if image.valid is not None:
        known = image.valid[:, _rows_of_bands(entry)].cpu().numpy()
        original = np.where(known, original, np.float32(np.nan))
    made = _physical(reconstruction, entry)
    return _Drawn(
        original=_planes([picture(one, sensor, missing_grey=np.nan) for one in original]),
        reconstruction=_planes([picture(one, sensor, like=like) for one, like in zip(made, original, strict=True)]),
    )


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


def _check_titles(titles: SetTitles, batch: SetBatch) -> None:
    if len(titles.places) != batch.num_sets:
        raise InputError(f"{batch.num_sets} sets need as many names of places, found {len(titles.places)}")
    expected = (batch.num_sets, batch.num_slots)
    if titles.times is not None and titles.times.shape != expected:
        raise InputError(f"times of images have shape {titles.times.shape}; give {expected}: set, image")


def _exchanged(
    model: SetAutoencoder, swapped: Bool[Array, "set token"], masked: Bool[Array, "set slot token"]
) -> Bool[Array, "set slot token"]:
    """Tell which visible tokens stand in another image's sequence."""
    exchanged = np.zeros_like(masked)
    # In one joint sequence an exchange of tokens that carry where they are is of no effect.
    if model.config.sequence == "apart":
        exchanged[:, :2] = swapped[:, None] & ~masked[:, :2]
    return exchanged


def _row_titles(batch: SetBatch, inputs: Sequence[ArrayInput], titles: SetTitles, index: int) -> tuple[str, ...]:
    """Say of each image of a set whether it is the anchor, of which sensor and date, and in which bands it is shown."""
    group_of = np.repeat(np.arange(len(batch.groups)), [len(group.pixels) for group in batch.groups])
    texts = []
    for slot, row in enumerate(batch.rows[index].tolist()):
        sensor = inputs[group_of[row]].assignment.sensor
        lines = ["anchor"] if slot == 0 else []
        lines.append(sensor.name)
        if titles.times is not None:
            time = titles.times[index, slot]
            lines.append("date unknown" if np.isnat(time) else str(np.datetime64(time, "D")))
        texts.append("\n".join([*lines, composite(sensor).title]))
    return tuple(texts)
