"""Run a checkpoint on recorded vectors and compare what comes out, entry by entry."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anyband.errors import CheckpointError, InputError
from anyband.models.checkpoint import Checkpoint, build_encoder, build_model, load_checkpoint
from anyband.models.inputs import ImageBatch, PairBatch
from anyband.models.losses import TargetVariance
from anyband.models.masking import PairPlan, plan_from_ids
from anyband.models.smarties import Smarties
from anyband.models.weight_files import read_weights
from anyband.tasks.vectors import PairVectors, SensorVectors, Vectors, mixing_for, parse_vectors

__all__ = ["EntryResult", "VerifyReport", "compare", "verify"]

# Losses were recorded with the variance of repeated values; the default one differs by up to 1e-3.
_LOSS_VARIANCE: TargetVariance = "repeated"


@dataclass(frozen=True, kw_only=True)
class EntryResult:
    """How far one recorded entry and what the checkpoint gives are apart."""

    entry: str
    """Name in the file of vectors."""
    max_abs_error: float
    """Largest difference."""
    max_rel_error: float
    """Largest difference over the entry's largest value."""
    passed: bool
    """Whether the relative error is within the tolerance."""
    note: str = ""
    """What else is to be known."""


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """All entries of a file of vectors."""

    tolerance: float
    """Largest relative error that passes."""
    entries: tuple[EntryResult, ...]
    """In the order of the file."""

    @property
    def passed(self) -> bool:
        """Whether every entry passes."""
        return all(entry.passed for entry in self.entries)

    def to_dict(self) -> dict[str, Any]:
        """Give plain values for JSON; an error that is no number becomes null."""
        rows = [
            {
                "entry": entry.entry,
                "max_abs_error": _finite_or_none(entry.max_abs_error),
                "max_rel_error": _finite_or_none(entry.max_rel_error),
                "passed": entry.passed,
                "note": entry.note,
            }
            for entry in self.entries
        ]
        return {"tolerance": self.tolerance, "passed": self.passed, "entries": rows}


def verify(checkpoint: str | Path, vectors: Path, *, tolerance: float = 1e-5) -> VerifyReport:
    """Run a checkpoint in float32 on recorded images and compare every recorded output.

    Args:
        checkpoint: file or hub id.
        vectors: safetensors file as `docs/verify.md` describes it.
        tolerance: largest difference that passes, relative to an entry's largest value.

    Raises:
        CheckpointError: the checkpoint or the file of vectors can't be read.
        InputError: vectors that are incomplete or do not fit the checkpoint.
    """
    if not tolerance > 0 or not math.isfinite(tolerance):
        raise InputError(f"the tolerance must be over 0, found {tolerance:g}")
    loaded = load_checkpoint(checkpoint)
    recorded = parse_vectors(read_weights(vectors), where=str(vectors))
    _check_architecture(loaded, recorded)
    with torch.no_grad():
        results = [*_sensor_results(loaded, recorded, tolerance), *_pair_results(loaded, recorded, tolerance)]
    if not results:
        raise InputError(f"'{vectors}' has images but no recorded outputs to compare")
    return VerifyReport(tolerance=tolerance, entries=tuple(results))


def compare(entry: str, found: Tensor, expected: Tensor, *, tolerance: float, note: str = "") -> EntryResult:
    """Compare one output with its record. A value that is no number on either side fails.

    Args:
        entry: its name.
        found: what the network gave.
        expected: what was recorded.
        tolerance: largest relative error that passes.
        note: carried into the result.

    Raises:
        InputError: the shapes differ.
    """
    if found.shape != expected.shape:
        raise InputError(
            f"'{entry}' was recorded with shape {tuple(expected.shape)}, the checkpoint gives {tuple(found.shape)}"
        )
    error = (found.double() - expected.double()).abs().max().item()
    largest = expected.double().abs().max().item()
    relative = error / largest if largest else (0.0 if error == 0 else math.inf)
    return EntryResult(
        entry=entry,
        max_abs_error=error,
        max_rel_error=relative,
        passed=relative <= tolerance,
        note=note,
    )


def _check_architecture(checkpoint: Checkpoint, recorded: Vectors) -> None:
    own = asdict(checkpoint.config.encoder) | asdict(checkpoint.config.decoder)
    for name, number in recorded.architecture.items():
        if name.startswith("decoder_") and not recorded.pairs:
            continue
        if not math.isclose(own[name], number, rel_tol=1e-6):
            raise InputError(f"the vectors were recorded with {name} {number:g}, the checkpoint has {own[name]:g}")


def _sensor_results(checkpoint: Checkpoint, recorded: Vectors, tolerance: float) -> Iterator[EntryResult]:
    encoder = build_encoder(checkpoint).eval()
    last = checkpoint.config.encoder.depth - 1
    for name, sensor in recorded.sensors.items():
        batch = _image_batch(sensor, checkpoint)
        output = encoder(batch)
        found = {"cls": output.cls, "vit_cls": output.cls}
        if "vit_feature_map" in sensor.outputs:
            found["vit_feature_map"] = encoder.forward_features(batch, blocks=(last,)).maps[0]
        for kind, expected in sensor.outputs.items():
            yield compare(f"{name}.{kind}", found[kind], expected, tolerance=tolerance)


def _pair_results(checkpoint: Checkpoint, recorded: Vectors, tolerance: float) -> Iterator[EntryResult]:
    if not recorded.pairs:
        return
    config = replace(checkpoint.config, target_variance=_LOSS_VARIANCE, mixup="mirrored", norm_pix_loss=True)
    model = build_model(replace(checkpoint, config=config)).eval()
    if not isinstance(model, Smarties):
        raise CheckpointError(
            "the vectors hold pairs, but this checkpoint was trained on sets of images; verify it with vectors of "
            "single images"
        )
    for name, vectors in recorded.pairs.items():
        pair = PairBatch(
            a=_image_batch(recorded.sensors[vectors.a], checkpoint),
            b=_image_batch(recorded.sensors[vectors.b], checkpoint),
        )
        latent, decoded, output = model.follow(pair, _plan(vectors, pair, patch_size=config.encoder.patch_size))
        found = {
            "latent_a": latent.chunk(2)[0],
            "decoded_a": decoded.chunk(2)[0],
            "loss_a": output.loss_a,
        }
        for kind, expected in vectors.outputs.items():
            record = expected.squeeze() if kind == "loss_a" else expected
            note = "variance of repeated values" if kind == "loss_a" else ""
            yield compare(f"{name}.{kind}", found[kind], record, tolerance=tolerance, note=note)


def _image_batch(sensor: SensorVectors, checkpoint: Checkpoint) -> ImageBatch:
    mixing = mixing_for(sensor, checkpoint.ranges)
    if len(mixing) != sensor.image.shape[1]:
        raise InputError(
            f"'{sensor.name}.image' has {sensor.image.shape[1]} bands, '{sensor.name}' has {len(mixing)}; "
            "name its "
            f"bands in the header of the vectors: bands.{sensor.name}"
        )
    return ImageBatch(pixels=sensor.image, mixing=mixing)


def _plan(vectors: PairVectors, pair: PairBatch, *, patch_size: int) -> PairPlan:
    """Rebuild the plan from what was recorded; `masked` must be all that is not in `ids_keep`."""
    keep = vectors.ids_keep
    batch, tokens = vectors.from_a.shape
    images, _, height, width = pair.a.pixels.shape
    expected = (images, height * width // patch_size**2)
    if vectors.from_a.shape != expected:
        raise InputError(
            f"pair '{vectors.name}' must have from_a and masked for {expected[0]} × {expected[1]} tokens; "
            f"found {batch} × {tokens}"
        )
    if not 0 < keep.shape[1] < tokens or keep.min() < 0 or keep.max() >= tokens:
        raise InputError(f"'{vectors.name}.ids_keep' must name some, not all, positions from 0 to {tokens - 1}")
    order = torch.arange(tokens).repeat(batch, 1) + tokens
    order = order.scatter(1, keep, torch.arange(keep.shape[1]).repeat(batch, 1))
    plan = plan_from_ids(vectors.from_a, torch.argsort(order, dim=1), keep.shape[1])
    if not torch.equal(plan.masked, vectors.masked):
        raise InputError(f"'{vectors.name}.masked' is not all that '{vectors.name}.ids_keep' leaves out")
    return plan


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
