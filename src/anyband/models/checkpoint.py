"""Checkpoints: weights in the published layout, and in the header all that is needed to use them."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anyband.errors import CatalogueError, CheckpointError, nearest_name
from anyband.models.a2mae import SetAutoencoder
from anyband.models.autoencoder import Autoencoder, AutoencoderConfig
from anyband.models.encoder import Encoder
from anyband.models.encodings import PositionKind, sincos_positions
from anyband.models.header import (
    CHECKPOINT_VERSION,
    config_from_header,
    config_from_shapes,
    has_decoder,
    header_json,
    header_of,
    header_records,
)
from anyband.models.layout import decoder_only, expected_shapes, from_published, num_ranges_of, to_published
from anyband.models.smarties import Smarties
from anyband.models.weight_files import checkpoint_hash, locate, read_weights, write_weights
from anyband.sensors.ranges import RangeTable, load_ranges, range_table_from_dict, range_table_to_dict, without_range
from anyband.shapes import Float

__all__ = [
    "CHECKPOINT_VERSION",
    "Checkpoint",
    "build_encoder",
    "build_model",
    "checkpoint_hash",
    "encoder_only",
    "extend_checkpoint",
    "load_checkpoint",
    "make_model",
    "save_checkpoint",
    "state_of",
    "withhold_range",
]

_PUBLISHED_RANGES = "smarties_v1"
# What is stacked by range, in the network's own names.
_STACKED = (
    "encoder.projection.",
    "reconstruction.",
    "levels.",
    "encoder.encodings.source.",
    "decoder.encodings.source.",
)
# float32 sine and cosine by different libraries differ by less.
_POSITION_TOLERANCE = 1e-5


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A network's weights with what they were trained on."""

    config: AutoencoderConfig
    """Architecture and pre-training task; the decoder's part means nothing where there is no decoder."""
    state: dict[str, Tensor]
    """Weights in the published layout, float32, on the CPU."""
    ranges: RangeTable
    """Trained ranges, in layer order."""
    normalisations: dict[str, dict[str, Any]] = field(default_factory=dict)
    """How each training sensor was harmonised, by sensor name."""
    sensors: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The training sensors as they were declared, by name."""
    recipe: dict[str, Any] | None = None
    """The run's recipe; None where it is not known."""
    step: int | None = None
    """Training steps done; None where it is not known."""

    @property
    def has_decoder(self) -> bool:
        """Whether the network can reconstruct, and not only encode."""
        return has_decoder(self.state)


def state_of(model: Autoencoder) -> dict[str, Tensor]:
    """Copy a network's weights into the published layout, for `Checkpoint.state`."""
    return to_published(model.state_dict())


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint whole or not at all; `load_checkpoint` gives it back exactly.

    Raises:
        CheckpointError: weights that do not fit their configuration, or are not finite.
        OutputError: no permission, or no room.
    """
    _check_state(checkpoint.state, checkpoint.config, decoder=checkpoint.has_decoder, where=str(path))
    header = header_of(checkpoint.config, decoder=checkpoint.has_decoder)
    header["ranges"] = json.dumps(range_table_to_dict(checkpoint.ranges))
    header["normalisations"] = json.dumps(checkpoint.normalisations)
    header["sensors"] = json.dumps(checkpoint.sensors)
    if checkpoint.recipe is not None:
        header["recipe"] = json.dumps(checkpoint.recipe)
    if checkpoint.step is not None:
        header["step"] = str(checkpoint.step)
    write_weights(path, checkpoint.state, header)


def load_checkpoint(path_or_hub_id: str | Path) -> Checkpoint:
    """Read a checkpoint of ours or a published one, strictly: no weight missing, none too many, all in shape.

    Args:
        path_or_hub_id: a safetensors file, a folder with `model.safetensors`, or a hub id `owner/name`.

    Raises:
        CheckpointError: no such file, a pickle, a truncated file, or weights that fit no network.
    """
    path = locate(path_or_hub_id)
    file = read_weights(path)
    positions = _position_kind(file.tensors.get("pos_embed"))
    if "embed_dim" in file.metadata:
        num_ranges = num_ranges_of(file.tensors)
        config = config_from_header(file.metadata, num_ranges=num_ranges, positions=positions)
    else:
        config = config_from_shapes(file.tensors, positions=positions)
    declared = "decoder_embed_dim" in file.metadata
    _check_state(file.tensors, config, decoder=declared or has_decoder(file.tensors), where=str(path))
    step = file.metadata.get("step", "")
    return Checkpoint(
        config=config,
        state={name: tensor.float() for name, tensor in file.tensors.items()},
        ranges=_ranges(file.metadata, config),
        normalisations=header_records(file.metadata, "normalisations"),
        sensors=header_records(file.metadata, "sensors"),
        recipe=header_json(file.metadata, "recipe"),
        step=int(step) if step.isdecimal() else None,
    )


def make_model(config: AutoencoderConfig, *, seed: int | None) -> Smarties | SetAutoencoder:
    """Make the network that a configuration describes: of pairs or of sets.

    Args:
        config: the architecture and the task.
        seed: of the first weights; None leaves them without values, for a checkpoint to fill.
    """
    return Smarties(config, seed=seed) if config.images == "pair" else SetAutoencoder(config, seed=seed)


def build_model(checkpoint: Checkpoint) -> Smarties | SetAutoencoder:
    """Make the whole network with the checkpoint's weights, of pairs or of sets, as it was trained.

    Raises:
        CheckpointError: the checkpoint has no decoder.
    """
    if not checkpoint.has_decoder:
        raise CheckpointError("the checkpoint has an encoder only; reconstruction needs one with its decoder")
    model = make_model(checkpoint.config, seed=None)
    model.load_state_dict(from_published(checkpoint.state, checkpoint.config.encoder.num_ranges), strict=True)
    return model


def build_encoder(
    checkpoint: Checkpoint, *, positions: PositionKind | None = None, drop_path: float | None = None
) -> Encoder:
    """Make the encoder with the checkpoint's weights.

    Args:
        checkpoint: with or without a decoder.
        positions: `trained` to train them from where they are; None: as in the checkpoint.
        drop_path: rate of the last block in training; None: as in the checkpoint.
    """
    config = checkpoint.config.encoder
    config = replace(
        config,
        positions=config.positions if positions is None else positions,
        drop_path=config.drop_path if drop_path is None else drop_path,
    )
    state = from_published(encoder_only(checkpoint).state, config.num_ranges)
    encoder = Encoder(config, seed=None)
    encoder.load_state_dict({name.removeprefix("encoder."): value for name, value in state.items()}, strict=True)
    return encoder


def encoder_only(checkpoint: Checkpoint) -> Checkpoint:
    """Leave out the decoder and the reconstruction."""
    state = {name: tensor for name, tensor in checkpoint.state.items() if not decoder_only(name)}
    return replace(checkpoint, state=state)


def extend_checkpoint(
    checkpoint: Checkpoint, table: RangeTable, mixing: Float[Tensor, "new_range range"]
) -> Checkpoint:
    """Add ranges that start as mixtures of the trained ones and learn from there.

    Encoding with a new range gives, before any training, what interpolation gave.

    Args:
        checkpoint: with the trained ranges.
        table: its ranges, then the new ones.
        mixing: share of each trained range in each new one.

    Raises:
        CheckpointError: the table does not begin with the checkpoint's ranges, or the counts differ.
    """
    old, new = checkpoint.ranges.ranges, table.ranges
    if new[: len(old)] != old or len(new) != len(old) + mixing.shape[0] or mixing.shape[1] != len(old):
        raise CheckpointError(
            f"ranges are added at the end: the checkpoint has {len(old)}, the table {len(new)}, the mixing "
            "matrix is "
            f"{mixing.shape[0]} × {mixing.shape[1]}; extend the checkpoint's own table"
        )
    network = from_published(checkpoint.state, len(old))
    for name in [name for name in network if name.startswith(_STACKED)]:
        trained = network[name]
        added = torch.tensordot(mixing.to(trained.dtype), trained, dims=1)
        network[name] = torch.cat([trained, added])
    encoder = replace(checkpoint.config.encoder, num_ranges=len(new))
    config = replace(checkpoint.config, encoder=encoder)
    return replace(checkpoint, config=config, state=to_published(network), ranges=table)


def withhold_range(checkpoint: Checkpoint, name: str) -> Checkpoint:
    """Take a trained range away with its weights, as if no band of it had been there to train on.

    Property: bands of the other ranges are encoded as before.

    Args:
        checkpoint: with weights.
        name: of the range.

    Raises:
        CheckpointError: no such range, or it is the only one.
    """
    names = checkpoint.ranges.range_names
    if name not in names or len(names) == 1:
        raise CheckpointError(f"range '{name}' can't be withheld from {', '.join(names)}{nearest_name(name, names)}")
    kept = [index for index, one in enumerate(names) if one != name]
    network = from_published(checkpoint.state, len(names))
    for stacked in [one for one in network if one.startswith(_STACKED)]:
        network[stacked] = network[stacked][kept]
    encoder = replace(checkpoint.config.encoder, num_ranges=len(kept))
    config = replace(checkpoint.config, encoder=encoder)
    ranges = without_range(checkpoint.ranges, name)
    return replace(checkpoint, config=config, state=to_published(network), ranges=ranges)


def _ranges(metadata: Mapping[str, str], config: AutoencoderConfig) -> RangeTable:
    declared = header_json(metadata, "ranges")
    try:
        table = load_ranges(_PUBLISHED_RANGES) if declared is None else range_table_from_dict(declared)
    except CatalogueError as problem:
        raise CheckpointError(f"the ranges in the header of the checkpoint are wrong: {problem}") from problem
    if len(table.ranges) != config.encoder.num_ranges:
        raise CheckpointError(
            f"the checkpoint has weights for {config.encoder.num_ranges} ranges, its table '{table.name}' "
            f"{len(table.ranges)}"
        )
    return table


def _position_kind(table: Tensor | None) -> PositionKind:
    """Tell fixed positions from trained ones by their values, for files that do not say."""
    if table is None or table.ndim != 3 or table.shape[2] % 4:
        return "fixed"
    return "fixed" if _are_computed(table) else "trained"


def _are_computed(table: Tensor) -> bool:
    edge = math.isqrt(max(table.shape[1] - 1, 0))
    if table.shape[0] != 1 or edge < 1 or edge * edge != table.shape[1] - 1 or not table.is_floating_point():
        return False
    computed = sincos_positions(edge, edge, table.shape[2])
    # Files in half precision round the table.
    tolerance = max(_POSITION_TOLERANCE, torch.finfo(table.dtype).eps)
    return bool((table[0, 1:] - computed).abs().max() <= tolerance) and not bool(table[0, 0].any())


def _check_state(state: Mapping[str, Tensor], config: AutoencoderConfig, *, decoder: bool, where: str) -> None:
    expected = expected_shapes(config, decoder=decoder)
    problems = [
        *_listed("missing", [name for name in expected if name not in state]),
        *_listed("unexpected", [name for name in state if name not in expected]),
        *_listed(
            "of another shape",
            [
                f"{name} {tuple(state[name].shape)} and not {shape}"
                for name, shape in expected.items()
                if name in state and tuple(state[name].shape) != shape
            ],
        ),
    ]
    if problems:
        raise CheckpointError(
            f"'{where}' does not fit its architecture (embed_dim {config.encoder.embed_dim}, depth "
            f"{config.encoder.depth}, {config.encoder.num_ranges} ranges): {'; '.join(problems)}; "
            "its header describes another network: get the file again from where it was made"
        )
    bad = [name for name, tensor in state.items() if not (tensor.is_floating_point() and tensor.isfinite().all())]
    if bad:
        raise CheckpointError(
            f"'{where}' has weights that are no finite numbers, first '{bad[0]}'; use an earlier checkpoint of the run"
        )
    tables = ["decoder_pos_embed"] if "decoder_pos_embed" in state else []
    tables += ["pos_embed"] if config.encoder.positions == "fixed" else []
    wrong = [name for name in tables if not _are_computed(state[name])]
    if wrong:
        raise CheckpointError(
            f"'{wrong[0]}' in '{where}' is not the computed sine and cosine positions, though they are declared fixed"
        )


def _listed(kind: str, names: list[str]) -> list[str]:
    if not names:
        return []
    shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    return [f"{len(names)} {kind} ({shown})"]
