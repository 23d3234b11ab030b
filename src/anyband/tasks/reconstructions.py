"""Pictures of what a network makes of hidden patches, for both sensors of a pair."""

import numpy as np
import torch
from torch import Tensor

from anyband.data.harmonise import Normalisation
from anyband.errors import CatalogueError
from anyband.models.inputs import ImageBatch, PairBatch, PairNoise
from anyband.models.smarties import Smarties
from anyband.sensors.sensor import Sensor
from anyband.shapes import Array, Float
from anyband.tasks.pair_batches import ArrayInput

__all__ = ["draw_reconstructions", "shown_bands"]

# chosen: shares of the original's values that become black and white; a cloud does not set the contrast.
_DARK, _BRIGHT = 0.02, 0.98


def shown_bands(sensor: Sensor) -> tuple[str, ...]:
    """Choose the bands of a picture: red, green and blue where there are such, else the first in grey."""
    try:
        return tuple(sensor.band(name).name for name in ("red", "green", "blue"))
    except CatalogueError:
        return (sensor.bands[0].name,)


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
    from anyband.report.panels import PanelImages, hide_patches, reconstruction_panel

    with torch.no_grad():
        made = model.reconstruct(pair, noise)
    patch_size = model.config.encoder.patch_size
    masked = made.masked.cpu().numpy()
    panels = []
    for image, reconstruction, entry in zip((pair.a, pair.b), (made.a, made.b), inputs, strict=True):
        sensor = entry.assignment.sensor
        names = shown_bands(sensor)
        bands = [sensor.band_index(name) for name in names]
        original = _scaled(image.pixels, entry, bands)
        limits = _limits(original, image, bands)
        pictures = [_stretched(values, limits) for values in (original, _scaled(reconstruction, entry, bands))]
        panels.append(
            PanelImages(
                title=f"{sensor.name} ({', '.join(names)})",
                original=_blank(pictures[0], image, bands),
                seen=hide_patches(_blank(pictures[0], image, bands), masked, patch_size=patch_size),
                reconstruction=pictures[1],
            )
        )
    return reconstruction_panel(panels, title=title)


def _scaled(pixels: Tensor, entry: ArrayInput, bands: list[int]) -> Float[Array, "sample band row col"]:
    """Undo the standardising: back to 0 at p01 and 1 at p99."""
    kept = [entry.assignment.kept_index[band] for band in bands]
    normalisation: Normalisation = entry.normalisation
    mean, std = (
        np.array([values[band] for band in kept], dtype=np.float32)[:, None, None]
        for values in (normalisation.mean, normalisation.std)
    )
    scaled: Array = pixels[:, bands].float().cpu().numpy() * std + mean
    return scaled


def _limits(original: Array, image: ImageBatch, bands: list[int]) -> Array:
    """Find what is drawn black and white in each sample; the same for its bands: colours stay true."""
    seen = original if image.valid is None else np.where(image.valid[:, bands].cpu().numpy(), original, np.nan)
    flat = seen.reshape(len(seen), -1)
    flat = np.where(np.isfinite(flat).any(axis=1, keepdims=True), flat, 0.0)
    limits: Array = np.nanquantile(flat, (_DARK, _BRIGHT), axis=1).astype(np.float32)
    return limits[:, :, None, None, None]


def _stretched(values: Array, limits: Array) -> Array:
    dark, bright = limits
    stretched: Array = ((values - dark) / np.maximum(bright - dark, 1e-3)).clip(0.0, 1.0)
    return stretched


def _blank(picture: Array, image: ImageBatch, bands: list[int]) -> Array:
    if image.valid is None:
        return picture
    return np.where(image.valid[:, bands].cpu().numpy(), picture, np.float32(np.nan))
