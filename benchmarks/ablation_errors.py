"""How well a network predicts the image of one sensor from that of another."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import torch
from ablation_archive import Archive
from ablation_features import CellChips, cell_chips, cell_images, metadata_of
from ablation_scores import Score, encoder_of
from torch import Tensor

from anyband.arrays import Array
from anyband.data.store import ChipStore
from anyband.encode.encoder import SensorEncoder
from anyband.models.autoencoder import Autoencoder
from anyband.models.checkpoint import Checkpoint, build_model
from anyband.models.encodings import NO_ENCODINGS
from anyband.models.inputs import ImageBatch, SetBatch, SetNoise
from anyband.randomness import uniform

__all__ = ["error_scores"]

# chosen: enough footprints for a mean of some thousand tokens.
_MOST_CELLS = 256
_BATCH = 64


def error_scores(checkpoint: Checkpoint, archive: Archive, *, device: str) -> list[Score]:
    """Measure how well each sensor is predicted from each other one on test places.

    A quarter of the one image is visible, nothing of the other; the error is taken where both are hidden. Positions
    are the same for all networks and seeds. A network that saw one sensor only is left out: nothing taught it to
    predict another.

    Args:
        checkpoint: of the network.
        archive: to read.
        device: where it runs.
    """
    if len(checkpoint.sensors) < 2:
        return []
    model = build_model(checkpoint).to(device).eval()
    encoder = encoder_of(checkpoint, "interpolate", device)
    seen = [name for name in archive.trained if name in checkpoint.sensors]
    told = checkpoint.config.encoder.encodings != NO_ENCODINGS
    scores = []
    for pair in combinations(seen, 2):
        cells = _some(cell_chips(archive.store, pair, splits=("test",)))
        if not cells.cells:
            continue
        means = _pair_errors(model, encoder, archive.store, cells, pair)
        for names, mean in zip((pair, pair[::-1]), means, strict=True):
            scores.append(_error_score(names, mean, len(cells.cells), told=told))
    return scores


def _some(cells: CellChips) -> CellChips:
    """Take at most so many, evenly spread."""
    chosen = np.zeros(len(cells.cells), dtype=bool)
    chosen[np.linspace(0, max(0, len(chosen) - 1), min(_MOST_CELLS, len(chosen))).round().astype(int)] = True
    return cells.part(chosen)


def _error_score(names: tuple[str, ...], mean: float, count: int, *, told: bool) -> Score:
    return Score(
        measure="cross-sensor error",
        sensors=" > ".join(names),
        how="joint",
        unseen="",
        pool="",
        facts="known" if told else "hidden",
        value=mean,
        num_train=0,
        num_test=count,
    )


@torch.no_grad()
def _pair_errors(
    model: Autoencoder,
    encoder: SensorEncoder,
    store: ChipStore,
    cells: CellChips,
    names: tuple[str, str],
) -> tuple[float, float]:
    """Compute the mean error of the second sensor from the first, and of the first from the second."""
    config = encoder.config
    num_tokens = (config.img_size // config.patch_size) ** 2
    found: list[tuple[Tensor, Tensor]] = []
    for start in range(0, len(cells.cells), _BATCH):
        numbers = range(start, min(start + _BATCH, len(cells.cells)))
        chips = [cells.chips[name][numbers.start : numbers.stop] for name in names]
        images = [
            cell_images(encoder, store, cells.arrays[name], rows) for name, rows in zip(names, chips, strict=True)
        ]
        # Of no network's seed: all are asked for the same tokens.
        draws = uniform(0, step=0, samples=numbers, purpose="ablation: visible tokens", shape=(num_tokens,))
        noise = torch.from_numpy(draws).float()
        both = [_two_sensors(store, images, chips, order, img_size=config.img_size) for order in ((0, 1), (1, 0))]
        found.append(_errors(model, both, noise))
    first, second = (torch.cat(errors).double().nanmean() for errors in zip(*found, strict=True))
    return float(first), float(second)


def _errors(model: Autoencoder, batches: Sequence[SetBatch], noise: Tensor) -> tuple[Tensor, Tensor]:
    device = next(model.parameters()).device
    drawn = SetNoise(masking=noise[:, None].expand(-1, 2, -1), mixup=noise).to(device)
    first, second = (model.hidden_errors(batch.to(device), drawn).cpu() for batch in batches)
    return first, second


def _two_sensors(
    store: ChipStore, images: Sequence[ImageBatch], chips: Sequence[Array], order: tuple[int, int], *, img_size: int
) -> SetBatch:
    """Make sets of an anchor and, behind it, the image of another sensor."""
    ordered = np.stack([chips[index] for index in order], axis=1)
    groups = tuple(images[index] for index in order)
    batch = SetBatch(groups=groups, metadata=metadata_of(store, ordered, img_size=img_size))
    same_source = torch.tensor([True, False]).expand(len(ordered), 2)
    return replace(batch, same_source=same_source, partnered=True)
