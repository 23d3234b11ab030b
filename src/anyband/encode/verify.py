"""Recorded vectors, and a checkpoint compared with them."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from anyband.arrays import Array, Bool, Float, Int
from anyband.errors import CatalogueError, CheckpointError, InputError, nearest_name
from anyband.models.autoencoder import Autoencoder, SetLoss
from anyband.models.checkpoint import Checkpoint, build_encoder, build_model, load_checkpoint
from anyband.models.inputs import ImageBatch, SetBatch
from anyband.models.masking import SetPlan, plan_from_positions
from anyband.models.patches import TargetVariance, gather_tokens
from anyband.models.vit import Encoder, tokens_as_map
from anyband.models.weight_files import read_weights
from anyband.sensors.assignment import assign, mixing_of_ranges
from anyband.sensors.catalogue import get_sensor
from anyband.sensors.ranges import RangeTable

__all__ = [
    "EntryResult",
    "PairVectors",
    "SensorVectors",
    "Vectors",
    "VerifyReport",
    "compare",
    "follow_pairs",
    "mixing_for",
    "parse_vectors",
    "verify",
]

_SENSOR_OUTPUTS = ("cls", "vit_cls", "vit_feature_map")
_PAIR_INPUTS = ("from_a", "masked", "ids_keep")
_PAIR_OUTPUTS = ("latent_a", "decoded_a", "loss_a")
_ARCHITECTURE = (
    "patch_size",
    "embed_dim",
    "depth",
    "num_heads",
    "decoder_embed_dim",
    "decoder_depth",
    "decoder_num_heads",
    "mlp_ratio",
    "norm_eps",
)

_SENTINEL2 = (
    "aerosol",
    "blue_1",
    "green_2",
    "red_2",
    "red_edge_1",
    "red_edge_2",
    "near_infrared_2",
    "near_infrared_1",
    "near_infrared_3",
    "short_wave_infrared_1",
    "short_wave_infrared_3",
    "short_wave_infrared_4",
)
_SENTINEL1 = ("microwave_1", "microwave_2")
_RGB = ("red_1", "green_1", "blue_3")
# Bands of the images in recorded files, as ranges of the v1 table. Source: the SMARTIES v1 configuration,
# whose order of bands these are; the last two are the subset and the unseen sensor of the golden files.
_BANDS = MappingProxyType(
    {
        "s2_l2a": _SENTINEL2,
        "s2_l1c": _SENTINEL2,
        "s2": _SENTINEL2,
        "sentinel2-l2a": _SENTINEL2,
        "sentinel2-l1c": _SENTINEL2,
        "s1": _SENTINEL1,
        "sentinel1-grd": _SENTINEL1,
        "rgb": _RGB,
        "s2_subset": ("red_2", "near_infrared_1", "short_wave_infrared_3"),
        "landsat8": (
            "blue_2",
            "green_2",
            "red_2",
            "near_infrared_3",
            "short_wave_infrared_3",
            "short_wave_infrared_4",
            "thermal_infrared_1",
        ),
    }
)
_SHORT_NAMES = MappingProxyType({"s2": "s2_l2a"})


@dataclass(frozen=True, kw_only=True)
class SensorVectors:
    """Images of one sensor and what was recorded of them."""

    name: str
    image: Float[Tensor, "batch band row col"]
    """Normalised images."""
    bands: tuple[str, ...]
    """Names of ranges or of the sensor's bands, from the header; empty: told by the name of the sensor."""
    catalogue_name: str
    """Sensor of the catalogue, from the header; else its name in the file."""
    outputs: dict[str, Tensor]
    """By kind."""


@dataclass(frozen=True, kw_only=True)
class PairVectors:
    """A plan for two recorded sensors and what was recorded of it."""

    name: str
    a: str
    """First sensor, by its name in the file."""
    b: str
    from_a: Bool[Tensor, "batch token"]
    """Where a' takes the token of a."""
    masked: Bool[Tensor, "batch token"]
    """Positions that are hidden from the encoder."""
    ids_keep: Int[Tensor, "batch visible"]
    """Positions that are not, in the order of the encoder's input."""
    outputs: dict[str, Tensor]
    """By kind."""


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """A file of recorded vectors."""

    sensors: dict[str, SensorVectors]
    pairs: dict[str, PairVectors]
    architecture: dict[str, float]
    """Numbers of the network that they were recorded with, as far as the header tells."""


def parse_vectors(tensors: Mapping[str, Tensor], header: Mapping[str, str], *, where: str) -> Vectors:
    """Sort the entries of a file (`where`, in messages) into sensors and pairs. `InputError` where an entry is of an
    unknown kind, or one that others need is missing."""
    groups: dict[str, dict[str, Tensor]] = {}
    for entry, tensor in tensors.items():
        name, dot, kind = entry.rpartition(".")
        known = ("image", *_SENSOR_OUTPUTS, *_PAIR_INPUTS, *_PAIR_OUTPUTS)
        if not dot or kind not in known:
            raise InputError(
                f"'{where}' has an entry '{entry}', whose kind is not known{nearest_name(kind, known)}; "
                f"entries are NAME.KIND with one of {', '.join(known)}"
            )
        groups.setdefault(name, {})[kind] = tensor
    pair_kinds = {*_PAIR_INPUTS, *_PAIR_OUTPUTS}
    sensors = {name: _sensor(name, group, header) for name, group in groups.items() if not pair_kinds & group.keys()}
    if not sensors:
        raise InputError(f"'{where}' has no recorded images; it needs entries such as 's2_l2a.image'")
    pairs = {name: _pair(name, group, sensors, header) for name, group in groups.items() if name not in sensors}
    return Vectors(sensors=sensors, pairs=pairs, architecture=_architecture(header, where))


def mixing_for(sensor: SensorVectors, table: RangeTable) -> Float[Tensor, "band range"]:
    """Find the share of each trained range in each recorded band. Names of ranges are weighted as for the published
    weights (`released`); others must be in the catalogue (else `InputError`) and in the span of the ranges
    (`AssignmentError`)."""
    bands = sensor.bands or _BANDS.get(sensor.name.casefold(), ())
    known = {*table.range_names, *(entry.name for entry in table.declared)}
    if bands and known.issuperset(bands):
        mixing = mixing_of_ranges(bands, table, unseen="released")
    else:
        mixing = _mixing_of_catalogue(sensor, table)
    return torch.as_tensor(mixing, dtype=torch.float32)


def _mixing_of_catalogue(sensor: SensorVectors, table: RangeTable) -> Array:
    try:
        found = get_sensor(sensor.catalogue_name)
    except CatalogueError as problem:
        raise InputError(
            f"the bands of '{sensor.name}.image' are not known; write the names of its ranges, with "
            "commas, in the "
            f"header of the vectors: bands.{sensor.name} ({problem})"
        ) from problem
    if sensor.bands:
        found = found.select(sensor.bands)
    elif len(found.bands) != sensor.image.shape[1]:
        raise InputError(
            f"'{sensor.name}.image' has {sensor.image.shape[1]} bands, sensor '{found.name}' has "
            f"{len(found.bands)}; "
            f"name those that are there in the header of the vectors: bands.{sensor.name}"
        )
    return assign(found, table).mixing


def _sensor(name: str, group: Mapping[str, Tensor], metadata: Mapping[str, str]) -> SensorVectors:
    if "image" not in group:
        raise InputError(f"'{name}.{next(iter(group))}' was recorded, but '{name}.image' is missing")
    image = group["image"]
    if image.ndim != 4 or 0 in image.shape:
        raise InputError(f"'{name}.image' has shape {tuple(image.shape)}; it must be batch, band, row, column")
    return SensorVectors(
        name=name,
        image=image.float(),
        bands=_listed(metadata.get(f"bands.{name}", "")),
        catalogue_name=metadata.get(f"sensor.{name}", name),
        outputs={kind: group[kind] for kind in _SENSOR_OUTPUTS if kind in group},
    )


def _pair(
    name: str, group: Mapping[str, Tensor], sensors: Mapping[str, SensorVectors], metadata: Mapping[str, str]
) -> PairVectors:
    missing = next((kind for kind in _PAIR_INPUTS if kind not in group), None)
    if missing is not None:
        raise InputError(f"'{name}.{next(iter(group))}' was recorded, but '{name}.{missing}' is missing")
    from_a, masked, ids_keep = (group[kind] for kind in _PAIR_INPUTS)
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (from_a, masked, ids_keep))
    if {from_a.ndim, masked.ndim, ids_keep.ndim} != {2}:
        raise InputError(f"from_a, masked, ids_keep of pair '{name}' must be batch × positions; found {shapes}")
    if from_a.shape != masked.shape or len(ids_keep) != len(masked):
        raise InputError(f"from_a, masked, ids_keep of pair '{name}' differ in their counts: {shapes}")
    a, b = _members(name, sensors, metadata.get(f"pair.{name}", ""))
    return PairVectors(
        name=name,
        a=a,
        b=b,
        from_a=from_a > 0,
        masked=masked > 0,
        ids_keep=ids_keep.long(),
        outputs={kind: group[kind] for kind in _PAIR_OUTPUTS if kind in group},
    )


def _members(name: str, sensors: Mapping[str, SensorVectors], declared: str) -> tuple[str, str]:
    """Find the two sensors of a pair: as the header says, or where its name splits into two recorded ones."""
    words = name.split("_")
    splits = [("_".join(words[:cut]), "_".join(words[cut:])) for cut in range(1, len(words))]
    named = _listed(declared)
    if len(named) == 2:
        splits = [(named[0], named[1])]
    for first, second in splits:
        a, b = _recorded(first, sensors), _recorded(second, sensors)
        if a is not None and b is not None:
            return a, b
    raise InputError(
        f"pair '{name}' does not name two of the recorded sensors ({', '.join(sensors)}); "
        f"write them, with a comma, in the header of the vectors: pair.{name}"
    )


def _recorded(name: str, sensors: Mapping[str, SensorVectors]) -> str | None:
    for candidate in (name, _SHORT_NAMES.get(name, name)):
        if candidate in sensors:
            return candidate
    longer = [known for known in sensors if known.startswith(f"{name}_")]
    return longer[0] if len(longer) == 1 else None


def _listed(text: str) -> tuple[str, ...]:
    """Read names from a header entry: a JSON list, or words with commas."""
    stripped = text.strip()
    if not stripped:
        return ()
    if stripped.startswith("["):
        try:
            return tuple(str(name) for name in json.loads(stripped))
        except (json.JSONDecodeError, RecursionError) as problem:
            raise InputError(f"'{text}' in the header of the vectors is no list of names: {problem}") from problem
    return tuple(name.strip() for name in stripped.split(","))


def _architecture(metadata: Mapping[str, str], where: str) -> dict[str, float]:
    try:
        return {name: float(metadata[name]) for name in _ARCHITECTURE if name in metadata}
    except ValueError as problem:
        raise InputError(f"the header of '{where}' has an architecture that is not all numbers: {problem}") from problem


# Losses were recorded with the variance of repeated values; the default one differs by up to 1e-3.
_LOSS_VARIANCE: TargetVariance = "repeated"


@dataclass(frozen=True, kw_only=True)
class EntryResult:
    """How far one recorded entry and what the checkpoint gives are apart."""

    entry: str
    max_abs_error: float
    """Largest difference."""
    max_rel_error: float
    """Largest difference over the entry's largest value."""
    passed: bool
    """Whether the relative error is within the tolerance."""
    note: str = ""


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
    """Run a checkpoint (file or hub id) in float32 on recorded images and compare every recorded output.

    Args:
        vectors: safetensors file as `docs/verify.md` describes it.
        tolerance: largest difference that passes, relative to an entry's largest value.

    Raises:
        CheckpointError: the checkpoint or the file of vectors can't be read.
        InputError: vectors that are incomplete or do not fit the checkpoint.
    """
    if not tolerance > 0 or not math.isfinite(tolerance):
        raise InputError(f"the tolerance must be over 0, found {tolerance:g}")
    loaded = load_checkpoint(checkpoint)
    recorded = parse_vectors(*read_weights(vectors), where=str(vectors))
    _check_architecture(loaded, recorded)
    with torch.no_grad():
        results = [*_sensor_results(loaded, recorded, tolerance), *_pair_results(loaded, recorded, tolerance)]
    if not results:
        raise InputError(f"'{vectors}' has images but no recorded outputs to compare")
    return VerifyReport(tolerance=tolerance, entries=tuple(results))


def compare(entry: str, found: Tensor, expected: Tensor, *, tolerance: float, note: str = "") -> EntryResult:
    """Compare one output with its record, by the largest relative error. NaN or infinity on either side fails."""
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
    for name, sensor in recorded.sensors.items():
        batch = _image_batch(sensor, checkpoint)
        output = encoder(batch)
        found = {"cls": output.cls, "vit_cls": output.cls}
        if "vit_feature_map" in sensor.outputs:
            found["vit_feature_map"] = _map_before_norm(encoder, batch)
        for kind, expected in sensor.outputs.items():
            yield compare(f"{name}.{kind}", found[kind], expected, tolerance=tolerance)


def _pair_results(checkpoint: Checkpoint, recorded: Vectors, tolerance: float) -> Iterator[EntryResult]:
    if not recorded.pairs:
        return
    config = replace(checkpoint.config, target_variance=_LOSS_VARIANCE, mixup="mirrored", norm_pix_loss=True)
    model = build_model(replace(checkpoint, config=config)).eval()
    if config.images != "pair":
        raise CheckpointError(
            "the vectors hold pairs, but this checkpoint was trained on sets of images; verify it with vectors of "
            "single images"
        )
    for name, vectors in recorded.pairs.items():
        pair = SetBatch(
            groups=tuple(_image_batch(recorded.sensors[name], checkpoint) for name in (vectors.a, vectors.b))
        )
        latent, decoded, output = follow_pairs(model, pair, _plan(vectors, pair, patch_size=config.encoder.patch_size))
        found = {"latent_a": latent.chunk(2)[0], "decoded_a": decoded.chunk(2)[0], "loss_a": output.terms[0]}
        for kind, expected in vectors.outputs.items():
            record = expected.squeeze() if kind == "loss_a" else expected
            note = "variance of repeated values" if kind == "loss_a" else ""
            yield compare(f"{name}.{kind}", found[kind], record, tolerance=tolerance, note=note)


def _map_before_norm(encoder: Encoder, images: ImageBatch) -> Tensor:
    sets = encoder.embed_sets(SetBatch(groups=(images,)))
    (level,) = encoder.token_levels(sets.tokens[:, 0], None, blocks=(encoder.config.depth - 1,))
    return tokens_as_map(level, sets.grid)


def follow_pairs(model: Autoencoder, pairs: SetBatch, plan: SetPlan) -> tuple[Tensor, Tensor, SetLoss]:
    """Compute the loss of a plan of pairs, with what encoder and decoder gave on the way, both after their norms:
    latent tokens (2 · batch, 1 + visible, width) and decoded ones (2 · batch, 1 + token, width), in the order of the
    grid, of a' then of b'."""
    caught: dict[str, Tensor] = {}
    with (
        model.encoder.norm.register_forward_hook(lambda _, __, latent: caught.update(latent=latent)),
        model.decoder.blocks.register_forward_hook(lambda _, __, decoded: caught.update(decoded=decoded)),
    ):
        output = model.follow(pairs, plan)
    keep, masked = plan.in_images()
    order = torch.argsort(torch.cat([keep, masked], dim=2), dim=2).transpose(0, 1).flatten(0, 1)
    sequence = model.decoder.norm(caught["decoded"])
    return caught["latent"], torch.cat([sequence[:, :1], gather_tokens(sequence[:, 1:], order)], dim=1), output


def _image_batch(sensor: SensorVectors, checkpoint: Checkpoint) -> ImageBatch:
    mixing = mixing_for(sensor, checkpoint.ranges)
    if len(mixing) != sensor.image.shape[1]:
        raise InputError(
            f"'{sensor.name}.image' has {sensor.image.shape[1]} bands, '{sensor.name}' has {len(mixing)}; "
            "name its "
            f"bands in the header of the vectors: bands.{sensor.name}"
        )
    return ImageBatch(pixels=sensor.image, mixing=mixing)


def _plan(vectors: PairVectors, pair: SetBatch, *, patch_size: int) -> SetPlan:
    """Rebuild the plan from what was recorded; `masked` must be all that is not in `ids_keep`."""
    keep = vectors.ids_keep
    batch, tokens = vectors.from_a.shape
    images, _, height, width = pair.groups[0].pixels.shape
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
    positions = torch.argsort(order, dim=1)[:, None].expand(-1, 2, -1)
    plan = plan_from_positions(positions, torch.full((batch, 2), keep.shape[1]), 2 * keep.shape[1])
    plan = replace(plan, swapped=~vectors.from_a, num_visible=keep.shape[1])
    if not torch.equal(plan.masked[:, 0], vectors.masked):
        raise InputError(f"'{vectors.name}.masked' is not all that '{vectors.name}.ids_keep' leaves out")
    return plan


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
