"""A checkpoint compared with what was recorded of its network: images, and the outputs for them."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from anyband.errors import CatalogueError, CheckpointError, InputError, counted, nearest_name
from anyband.models.autoencoder import Autoencoder, SetLoss, TargetVariance
from anyband.models.checkpoint import Checkpoint, build_encoder, build_model, load_checkpoint, read_weights
from anyband.models.inputs import ImageBatch, SetBatch
from anyband.models.masking import SetPlan, plan_from_positions
from anyband.models.patches import gather_tokens
from anyband.sensors.assignment import assign, mixing_of_ranges
from anyband.sensors.catalogue import get_sensor

__all__ = ["VerifyReport", "compare", "follow_pairs", "verify"]

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
# Bands of the images in recorded files, as ranges of the v1 table. Source: the SMARTIES v1 configuration,
# whose order of bands these are; the last two are the subset and the unseen sensor of the golden files.
_BANDS = {
    **dict.fromkeys(("s2_l2a", "s2_l1c", "s2", "sentinel2-l2a", "sentinel2-l1c"), _SENTINEL2),
    **dict.fromkeys(("s1", "sentinel1-grd"), ("microwave_1", "microwave_2")),
    "rgb": ("red_1", "green_1", "blue_3"),
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
_SHORT_NAMES = {"s2": "s2_l2a"}

# Losses were recorded with the variance of repeated values; the default one differs by up to 1e-3.
_LOSS_VARIANCE: TargetVariance = "repeated"

_NOTES = {"loss_a": "variance of repeated values"}

Group = Mapping[str, Tensor]
"""What was recorded under one name, by kind."""


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """All entries of a file of vectors."""

    tolerance: float
    """Largest relative error that passes."""
    entries: tuple[dict[str, Any], ...]
    """In the order of the file: `entry`, `max_abs_error`, `max_rel_error` (over the entry's largest value), `passed`
    (that error is within the tolerance) and `note`."""

    @property
    def passed(self) -> bool:
        """Whether every entry passes."""
        return all(entry["passed"] for entry in self.entries)

    def to_dict(self) -> dict[str, Any]:
        """Give plain values for JSON; an error that is no number becomes null."""
        rows = [dict(entry) for entry in self.entries]
        for row in rows:
            for key in ("max_abs_error", "max_rel_error"):
                row[key] = row[key] if math.isfinite(row[key]) else None
        return {"tolerance": self.tolerance, "passed": self.passed, "entries": rows}


def verify(checkpoint: str | Path, vectors: Path, *, tolerance: float = 1e-5) -> VerifyReport:
    """Run a checkpoint (file or hub id) in float32 on recorded images and compare every recorded output.

    `vectors` is a safetensors file as `docs/verify.md` describes it; `tolerance` the largest difference that passes,
    relative to an entry's largest value. `CheckpointError`: the checkpoint or the file of vectors can't be read;
    `InputError`: vectors that are incomplete or do not fit the checkpoint.
    """
    if not tolerance > 0 or not math.isfinite(tolerance):
        raise InputError(f"the tolerance must be over 0, found {tolerance:g}")
    loaded = load_checkpoint(checkpoint)
    tensors, header = read_weights(vectors)
    groups = _grouped(tensors, str(vectors))
    of_pairs = {*_PAIR_INPUTS, *_PAIR_OUTPUTS}
    pairs = {name: group for name, group in groups.items() if of_pairs & group.keys()}
    if len(pairs) == len(groups):
        raise InputError(f"'{vectors}' has no recorded images; it needs entries such as 's2_l2a.image'")
    for name, group in groups.items():
        missing = next((kind for kind in (_PAIR_INPUTS if name in pairs else ("image",)) if kind not in group), None)
        if missing is not None:
            raise InputError(f"'{name}.{next(iter(group))}' was recorded, but '{name}.{missing}' is missing")
    _check_architecture(loaded, header, str(vectors), has_pairs=bool(pairs))
    images = {name: _image_batch(name, group, header, loaded) for name, group in groups.items() if name not in pairs}
    with torch.no_grad():
        found = [*_image_outputs(loaded, images, groups), *_pair_outputs(loaded, images, pairs, header)]
        results = [
            compare(f"{name}.{kind}", output, groups[name][kind], tolerance=tolerance, note=_NOTES.get(kind, ""))
            for name, outputs in found
            for kind, output in outputs.items()
            if kind in groups[name]
        ]
    if not results:
        raise InputError(f"'{vectors}' has images but no recorded outputs to compare")
    return VerifyReport(tolerance=tolerance, entries=tuple(results))


def compare(entry: str, found: Tensor, expected: Tensor, *, tolerance: float, note: str = "") -> dict[str, Any]:
    """Compare one output with its record, by the largest relative error. NaN or infinity on either side fails."""
    if found.shape != expected.shape:
        raise InputError(
            f"'{entry}' was recorded with shape {tuple(expected.shape)}, the checkpoint gives {tuple(found.shape)}"
        )
    error = (found.double() - expected.double()).abs().max().item()
    largest = expected.double().abs().max().item()
    relative = error / largest if largest else (0.0 if error == 0 else math.inf)
    passed = relative <= tolerance
    return {"entry": entry, "max_abs_error": error, "max_rel_error": relative, "passed": passed, "note": note}


def _grouped(tensors: Mapping[str, Tensor], where: str) -> dict[str, dict[str, Tensor]]:
    """Sort the entries of a file, NAME.KIND, by name; `InputError` where an entry is of an unknown kind."""
    known = ("image", *_SENSOR_OUTPUTS, *_PAIR_INPUTS, *_PAIR_OUTPUTS)
    groups: dict[str, dict[str, Tensor]] = {}
    for entry, tensor in tensors.items():
        name, dot, kind = entry.rpartition(".")
        if not dot or kind not in known:
            raise InputError(
                f"'{where}' has an entry '{entry}', whose kind is not known{nearest_name(kind, known)}; "
                f"entries are NAME.KIND with one of {', '.join(known)}"
            )
        # A loss may have been recorded as one number of an axis.
        groups.setdefault(name, {})[kind] = tensor.squeeze() if kind == "loss_a" else tensor
    return groups


def _check_architecture(checkpoint: Checkpoint, header: Mapping[str, str], where: str, *, has_pairs: bool) -> None:
    """See that the network is the one that was recorded, as far as the header tells."""
    own = asdict(checkpoint.config.encoder) | asdict(checkpoint.config.decoder)
    try:
        recorded = {name: float(header[name]) for name in _ARCHITECTURE if name in header}
    except ValueError as problem:
        raise InputError(f"the header of '{where}' has an architecture that is not all numbers: {problem}") from problem
    for name, number in recorded.items():
        is_run = has_pairs or not name.startswith("decoder_")
        if is_run and not math.isclose(own[name], number, rel_tol=1e-6):
            raise InputError(f"the vectors were recorded with {name} {number:g}, the checkpoint has {own[name]:g}")


def _image_batch(name: str, group: Group, header: Mapping[str, str], checkpoint: Checkpoint) -> ImageBatch:
    """Make network input of recorded images, which are standardised already. Names of ranges are weighted as for the
    published weights (`released`); others must be in the catalogue and in the span of the ranges."""
    image, table = group["image"].float(), checkpoint.ranges
    if image.ndim != 4 or 0 in image.shape:
        raise InputError(f"'{name}.image' has shape {tuple(image.shape)}; it must be batch, band, row, column")
    named = _listed(header.get(f"bands.{name}", ""))
    bands = named or _BANDS.get(name.casefold(), ())
    if bands and {*table.range_names, *(entry.name for entry in table.declared)}.issuperset(bands):
        mixing = mixing_of_ranges(bands, table, unseen="released")
    else:
        try:
            sensor = get_sensor(header.get(f"sensor.{name}", name))
        except CatalogueError as problem:
            raise InputError(
                f"the bands of '{name}.image' are not known; write the names of its ranges, with commas, in the "
                f"header of the vectors: bands.{name} ({problem})"
            ) from problem
        sensor = sensor.select(named) if named else sensor
        if not named and len(sensor.bands) != image.shape[1]:
            raise InputError(
                f"'{name}.image' has {image.shape[1]} bands, sensor '{sensor.name}' has {len(sensor.bands)}; "
                f"name those that are there in the header of the vectors: bands.{name}"
            )
        mixing = assign(sensor, table).mixing
    if len(mixing) != image.shape[1]:
        raise InputError(
            f"'{name}.image' has {counted(image.shape[1], 'band')}, '{name}' has {len(mixing)}; name its bands "
            f"in the header of the vectors: bands.{name}"
        )
    return ImageBatch(pixels=image, mixing=torch.as_tensor(mixing, dtype=torch.float32))


def _image_outputs(
    checkpoint: Checkpoint, images: Mapping[str, ImageBatch], groups: Mapping[str, Group]
) -> Iterator[tuple[str, Group]]:
    encoder = build_encoder(checkpoint).eval()
    for name, batch in images.items():
        cls = encoder(batch).cls
        found = {"cls": cls, "vit_cls": cls}
        if "vit_feature_map" in groups[name]:
            # The map was recorded before the last norm.
            tokens, _, (height, _) = encoder.embed_sets(SetBatch(groups=(batch,)))
            (level,) = encoder.token_levels(tokens[:, 0], None, blocks=(encoder.config.depth - 1,))
            found["vit_feature_map"] = rearrange(level, "b (h w) d -> b d h w", h=height)
        yield name, found


def _pair_outputs(
    checkpoint: Checkpoint, images: Mapping[str, ImageBatch], pairs: Mapping[str, Group], header: Mapping[str, str]
) -> Iterator[tuple[str, Group]]:
    if not pairs:
        return
    config = replace(checkpoint.config, target_variance=_LOSS_VARIANCE, mixup="mirrored", norm_pix_loss=True)
    model = build_model(replace(checkpoint, config=config)).eval()
    if config.images != "pair":
        raise CheckpointError(
            "the vectors hold pairs, but this checkpoint was trained on sets of images; verify it with vectors of "
            "single images"
        )
    for name, group in pairs.items():
        pair = SetBatch(groups=tuple(images[one] for one in _members(name, list(images), header)))
        latent, decoded, output = follow_pairs(model, pair, _plan(name, group, pair, config.encoder.patch_size))
        yield name, {"latent_a": latent.chunk(2)[0], "decoded_a": decoded.chunk(2)[0], "loss_a": output.terms[0]}


def follow_pairs(model: Autoencoder, pairs: SetBatch, plan: SetPlan) -> tuple[Tensor, Tensor, SetLoss]:
    """Compute the loss of a plan of pairs, with what encoder and decoder gave on the way, both after their norms:
    latent tokens (2 · batch, 1 + visible, width) and decoded ones (2 · batch, 1 + token, width), in the order of the
    grid, of a' then of b'."""
    caught: dict[str, Tensor] = {}
    with (
        model.encoder.norm.register_forward_hook(lambda _, __, latent: caught.update(latent=latent)),
        model.decoder.blocks.register_forward_hook(lambda _, __, decoded: caught.update(decoded=decoded)),
    ):
        output = model(pairs, plan)
    keep, masked = plan.in_images()
    order = torch.argsort(torch.cat([keep, masked], dim=2), dim=2).transpose(0, 1).flatten(0, 1)
    sequence = model.decoder.norm(caught["decoded"])
    return caught["latent"], torch.cat([sequence[:, :1], gather_tokens(sequence[:, 1:], order)], dim=1), output


def _plan(name: str, group: Group, pair: SetBatch, patch_size: int) -> SetPlan:
    """Rebuild the plan from what was recorded; `masked` must be all that is not in `ids_keep`."""
    from_a, masked, keep = (group[kind] for kind in _PAIR_INPUTS)
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (from_a, masked, keep))
    if {from_a.ndim, masked.ndim, keep.ndim} != {2}:
        raise InputError(f"from_a, masked, ids_keep of pair '{name}' must be batch × positions; found {shapes}")
    if from_a.shape != masked.shape or len(keep) != len(masked):
        raise InputError(f"from_a, masked, ids_keep of pair '{name}' differ in their counts: {shapes}")
    batch, tokens = from_a.shape
    images, _, height, width = pair.groups[0].pixels.shape
    expected = (images, height * width // patch_size**2)
    if from_a.shape != expected:
        raise InputError(
            f"pair '{name}' must have from_a and masked for {expected[0]} × {expected[1]} tokens; "
            f"found {batch} × {tokens}"
        )
    keep, num_visible = keep.long(), keep.shape[1]
    if not 0 < num_visible < tokens or keep.min() < 0 or keep.max() >= tokens:
        raise InputError(f"'{name}.ids_keep' must name some, not all, positions from 0 to {tokens - 1}")
    order = torch.arange(tokens).repeat(batch, 1) + tokens
    order = order.scatter(1, keep, torch.arange(num_visible).repeat(batch, 1))
    positions = torch.argsort(order, dim=1)[:, None].expand(-1, 2, -1)
    plan = plan_from_positions(positions, torch.full((batch, 2), num_visible), 2 * num_visible)
    plan = replace(plan, swapped=~(from_a > 0), num_visible=num_visible)
    if not torch.equal(plan.masked[:, 0], masked > 0):
        raise InputError(f"'{name}.masked' is not all that '{name}.ids_keep' leaves out")
    return plan


def _members(name: str, sensors: Sequence[str], header: Mapping[str, str]) -> tuple[str, str]:
    """Find the two sensors of a pair: as the header says, or where its name splits into two recorded ones."""
    words, named = name.split("_"), _listed(header.get(f"pair.{name}", ""))
    splits = [("_".join(words[:cut]), "_".join(words[cut:])) for cut in range(1, len(words))]
    for first, second in [(named[0], named[1])] if len(named) == 2 else splits:
        a, b = _recorded(first, sensors), _recorded(second, sensors)
        if a is not None and b is not None:
            return a, b
    raise InputError(
        f"pair '{name}' does not name two of the recorded sensors ({', '.join(sensors)}); "
        f"write them, with a comma, in the header of the vectors: pair.{name}"
    )


def _recorded(name: str, sensors: Sequence[str]) -> str | None:
    longer = [known for known in sensors if known.startswith(f"{name}_")]
    found = [candidate for candidate in (name, _SHORT_NAMES.get(name, name)) if candidate in sensors]
    return found[0] if found else longer[0] if len(longer) == 1 else None


def _listed(text: str) -> tuple[str, ...]:
    """Read names from a header entry: a JSON list, or words with commas."""
    try:
        names = json.loads(text) if text.strip().startswith("[") else text.split(",")
    except (json.JSONDecodeError, RecursionError) as problem:
        raise InputError(f"'{text}' in the header of the vectors is no list of names: {problem}") from problem
    return tuple(stripped for name in names if (stripped := str(name).strip()))
