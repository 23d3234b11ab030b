"""Checkpoints: layout of their tensors, header, reading and writing."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from anyband.arrays import Float
from anyband.errors import CatalogueError, CheckpointError, nearest_name
from anyband.models.autoencoder import Autoencoder, AutoencoderConfig
from anyband.models.encodings import EncodingConfig, PositionKind, SetEncodings, sincos_positions
from anyband.models.vit import LARGEST_COUNT, DecoderConfig, Encoder, EncoderConfig
from anyband.models.weight_files import checkpoint_hash, locate, read_weights, write_weights
from anyband.sensors.ranges import RangeTable, load_ranges, range_table_from_dict, range_table_to_dict, without_range

__all__ = [
    "CHECKPOINT_VERSION",
    "Checkpoint",
    "are_computed",
    "build_encoder",
    "build_model",
    "checkpoint_hash",
    "config_from_header",
    "config_from_shapes",
    "decoder_only",
    "encoder_only",
    "expected_shapes",
    "extend_checkpoint",
    "from_published",
    "has_decoder",
    "header_json",
    "header_of",
    "header_records",
    "load_checkpoint",
    "num_ranges_of",
    "save_checkpoint",
    "shape_problems",
    "state_of",
    "to_published",
    "withhold_range",
    "without_decay",
]

_PROJECTION = "spectrum_projection.spectrum_embeds.{}.proj.{}"
_PREDICTION = "decoder_preds.{}.{}"
_LEVEL = "decoder_levels.{}.{}"
# What the network stacks by range, and the layers that the published layout has instead.
_STACKS = (("encoder.projection.", _PROJECTION), ("reconstruction.", _PREDICTION), ("levels.", _LEVEL))
_DECODER_NAMES = ("decoder_", "mask_token")


def decoder_only(name: str) -> bool:
    """Tell whether a weight belongs to the decoder."""
    return name.startswith(_DECODER_NAMES)


def num_ranges_of(names: Mapping[str, Tensor]) -> int:
    """Count the trained ranges by their projection weights."""
    first, last = _PROJECTION.split("{}", 1)[0], ".proj.weight"
    return sum(1 for name in names if name.startswith(first) and name.endswith(last))


def expected_shapes(config: AutoencoderConfig, *, decoder: bool) -> dict[str, tuple[int, ...]]:
    """List every weight of a checkpoint with its shape."""
    shapes = _encoder_shapes(config.encoder)
    if decoder:
        shapes |= _decoder_shapes(config.encoder, config.decoder, levels=config.levels)
    return shapes


def _encoder_shapes(config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    width, pixels = config.embed_dim, config.patch_size**2
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + config.grid[0] * config.grid[1], width),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    for index in range(config.num_ranges):
        shapes[_PROJECTION.format(index, "weight")] = (width, pixels)
        shapes[_PROJECTION.format(index, "bias")] = (width,)
    shapes |= _encoding_shapes(config, width, "encoder")
    return shapes | _block_shapes("blocks", config.depth, width, config.mlp_ratio)


def _decoder_shapes(encoder: EncoderConfig, decoder: DecoderConfig, *, levels: bool) -> dict[str, tuple[int, ...]]:
    width, pixels = decoder.decoder_embed_dim, encoder.patch_size**2
    shapes: dict[str, tuple[int, ...]] = {
        "decoder_embed.weight": (width, encoder.embed_dim),
        "decoder_embed.bias": (width,),
        "mask_token": (1, 1, width),
        "decoder_pos_embed": (1, 1 + encoder.grid[0] * encoder.grid[1], width),
        "decoder_norm.weight": (width,),
        "decoder_norm.bias": (width,),
    }
    for index in range(encoder.num_ranges):
        shapes[_PREDICTION.format(index, "weight")] = (pixels, width)
        shapes[_PREDICTION.format(index, "bias")] = (pixels,)
        if levels:
            shapes[_LEVEL.format(index, "weight")] = (2, width)
            shapes[_LEVEL.format(index, "bias")] = (2,)
    shapes |= _encoding_shapes(encoder, width, "decoder")
    return shapes | _block_shapes("decoder_blocks", decoder.decoder_depth, width, encoder.mlp_ratio)


def _encoding_shapes(
    config: EncoderConfig, width: int, role: Literal["encoder", "decoder"]
) -> dict[str, tuple[int, ...]]:
    if not config.encodings.any:
        return {}
    with torch.device("meta"):
        encodings = SetEncodings(config.encodings, width=width, num_ranges=config.num_ranges, role=role)
    prefix = "encodings" if role == "encoder" else "decoder_encodings"
    return {f"{prefix}.{name}": tuple(tensor.shape) for name, tensor in encodings.state_dict().items()}


def _block_shapes(prefix: str, depth: int, width: int, mlp_ratio: float) -> dict[str, tuple[int, ...]]:
    inner = int(width * mlp_ratio)
    linear = {
        "attn.qkv": (3 * width, width),
        "attn.proj": (width, width),
        "mlp.fc1": (inner, width),
        "mlp.fc2": (width, inner),
    }
    shapes: dict[str, tuple[int, ...]] = {}
    for index in range(depth):
        for norm in ("norm1", "norm2"):
            shapes |= {f"{prefix}.{index}.{norm}.{part}": (width,) for part in ("weight", "bias")}
        for name, (out, into) in linear.items():
            shapes[f"{prefix}.{index}.{name}.weight"] = (out, into)
            shapes[f"{prefix}.{index}.{name}.bias"] = (out,)
    return shapes


def to_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give a network's state the names and shapes of the published layout; `from_published` is the inverse."""
    published: dict[str, Tensor] = {}
    for name, tensor in state.items():
        for key, value in _published_entries(name, tensor):
            published[key] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    return published


def _published_entries(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    for prefix, layout in _STACKS:
        if name.startswith(prefix):
            part = name.removeprefix(prefix)
            rows = tensor.transpose(1, 2) if name == "encoder.projection.weight" else tensor
            return [(layout.format(index, part), row) for index, row in enumerate(rows)]
    return [(_published_name(name), tensor)]


def _published_name(name: str) -> str:
    plain = name.replace("positions.table", "pos_embed")
    if plain.startswith("encoder."):
        return plain.removeprefix("encoder.")
    if plain == "decoder.mask_token":
        return "mask_token"
    return plain.replace("decoder.", "decoder_", 1)


def from_published(state: Mapping[str, Tensor], num_ranges: int) -> dict[str, Tensor]:
    """Give published weights, decoder or not, the network's names and shapes; `to_published` is the inverse."""
    ranged = tuple(layout.split("{}", 1)[0] for _, layout in _STACKS)
    network = {_network_name(name): tensor for name, tensor in state.items() if not name.startswith(ranged)}
    for prefix, layout in _STACKS:
        for part in ("weight", "bias"):
            if layout.format(0, part) in state:
                network[prefix + part] = torch.stack([state[layout.format(index, part)] for index in range(num_ranges)])
    network["encoder.projection.weight"] = network["encoder.projection.weight"].transpose(1, 2)
    return network


def _network_name(name: str) -> str:
    plain = name.replace("pos_embed", "positions.table")
    if plain == "mask_token":
        return "decoder.mask_token"
    if plain.startswith("decoder_"):
        return plain.replace("decoder_", "decoder.", 1)
    return f"encoder.{plain}"


def without_decay(state: Mapping[str, Tensor]) -> frozenset[str]:
    """Name the parameters that weight decay spares: those 1-D in the published layout, where biases are not stacked."""
    return frozenset(name for name, tensor in state.items() if tensor.ndim <= 1 or name.endswith(".bias"))


CHECKPOINT_VERSION = 1

# Width → (blocks, heads) of published files, which carry no header. Source: ViT (arXiv 2010.11929), table 1.
_PUBLISHED = {768: (12, 12), 1024: (24, 16), 1280: (32, 16)}
_PUBLISHED_DECODER = DecoderConfig(decoder_embed_dim=512, decoder_depth=8, decoder_num_heads=16)


def header_of(config: AutoencoderConfig, *, decoder: bool) -> dict[str, str]:
    """Write an architecture as header entries; `config_from_header` reads them back exactly."""
    task = asdict(config)
    entries, decoder_entries = task.pop("encoder"), task.pop("decoder")
    entries["encodings"] = json.dumps(entries["encodings"])
    entries |= decoder_entries if decoder else {}
    header = {name: value if isinstance(value, str) else repr(value) for name, value in entries.items()}
    return header | {
        "format": "pt",
        "anyband_version": str(CHECKPOINT_VERSION),
        "pretraining": json.dumps(task),
    }


def config_from_header(metadata: Mapping[str, str], *, num_ranges: int, positions: PositionKind) -> AutoencoderConfig:
    """Read an architecture from header entries; `CheckpointError` where one is missing, wrong or of a newer version."""
    _check_version(metadata)
    encoder, decoder = (
        {key: metadata[key] for key in _keys(kind) if key in metadata} for kind in (EncoderConfig, DecoderConfig)
    )
    missing = [key for key in _keys(DecoderConfig) if key not in decoder]
    if decoder and missing:
        raise CheckpointError(f"the header of the checkpoint has no '{missing[0]}', but other numbers of a decoder")
    encodings = header_json(metadata, "encodings") or {}
    task = header_json(metadata, "pretraining") or {}
    given = {"positions": positions, **encoder, "num_ranges": num_ranges, "encodings": encodings}
    try:
        config: AutoencoderConfig = TypeAdapter(AutoencoderConfig).validate_python(
            {**task, "encoder": given, "decoder": decoder}
        )
    except ValidationError as problem:
        raise CheckpointError(_header_problem(problem.errors(include_url=False)[0])) from problem
    return config


def _keys(kind: type) -> list[str]:
    return [field.name for field in fields(kind)]


def _header_problem(error: Any) -> str:
    kind, place, found = error["type"], error["loc"], error["input"]
    name = place[-1] if place else ""
    if kind == "missing":
        return f"the header of the checkpoint has no '{name}'"
    if kind == "unexpected_keyword_argument":
        known = _keys(EncodingConfig if "encodings" in place else AutoencoderConfig)
        return f"the header of the checkpoint describes no network: unknown key '{name}'{nearest_name(name, known)}"
    if isinstance(found, str) and place[0] in ("encoder", "decoder"):
        shares = ("mlp_ratio", "drop_path", "norm_eps")
        wanted = "no number of 0 or more" if name in shares else f"no number from 1 to {LARGEST_COUNT}"
        wanted = "not 'fixed' or 'trained'" if name == "positions" else wanted
        return f"'{name}' in the header of the checkpoint is '{found}', {wanted}"
    reason = error["ctx"]["error"] if kind == "value_error" else f"{'.'.join(map(str, place))}: {error['msg']}"
    return f"the header of the checkpoint describes no network: {reason}"


def config_from_shapes(tensors: Mapping[str, Tensor], *, positions: PositionKind) -> AutoencoderConfig:
    """Tell the architecture of a published v1 file from its shapes; `CheckpointError` for any but a published size."""
    num_ranges = num_ranges_of(tensors)
    first = tensors.get("spectrum_projection.spectrum_embeds.0.proj.weight")
    table = tensors.get("pos_embed")
    if first is None or table is None or first.ndim != 2 or table.ndim != 3:
        raise CheckpointError(
            "the file has no architecture in its header and no 'pos_embed' and "
            "'spectrum_projection.spectrum_embeds.0.proj.weight' as published checkpoints have; "
            "it is not a checkpoint of anyband or SMARTIES v1"
        )
    width, pixels = first.shape
    patch_size, edge = math.isqrt(pixels), math.isqrt(table.shape[1] - 1)
    if patch_size**2 != pixels or edge**2 != table.shape[1] - 1:
        raise CheckpointError(
            f"a projection of {pixels} pixels and {table.shape[1] - 1} positions are not squares; "
            f"the file is not a checkpoint of SMARTIES v1"
        )
    if width not in _PUBLISHED:
        raise CheckpointError(
            f"the file has no architecture in its header, and {width} is not the width of a published size "
            f"({', '.join(map(str, _PUBLISHED))}); add img_size, patch_size, embed_dim, depth and "
            "num_heads to its header"
        )
    depth, num_heads = _PUBLISHED[width]
    encoder = EncoderConfig(
        img_size=edge * patch_size,
        patch_size=patch_size,
        embed_dim=width,
        depth=depth,
        num_heads=num_heads,
        num_ranges=num_ranges,
        positions=positions,
    )
    return AutoencoderConfig(encoder=encoder, decoder=_PUBLISHED_DECODER)


def header_json(metadata: Mapping[str, str], name: str) -> dict[str, Any] | None:
    """Read a JSON object from the header; None where it is absent."""
    if name not in metadata:
        return None
    try:
        value = json.loads(metadata[name])
    except (json.JSONDecodeError, RecursionError) as problem:
        raise CheckpointError(f"'{name}' in the header of the checkpoint is not JSON: {problem}") from problem
    if not isinstance(value, dict):
        raise CheckpointError(f"'{name}' in the header of the checkpoint is not a JSON object")
    return value


def header_records(metadata: Mapping[str, str], name: str) -> dict[str, dict[str, Any]]:
    """Read a JSON object of JSON objects from the header; empty where it is absent."""
    records = header_json(metadata, name) or {}
    wrong = next((key for key, value in records.items() if not isinstance(value, dict)), None)
    if wrong is not None:
        raise CheckpointError(f"'{name}' in the header of the checkpoint: '{wrong}' is not a JSON object")
    return records


def has_decoder(names: Mapping[str, Tensor]) -> bool:
    """Tell whether a file has any weight of a decoder."""
    return any(decoder_only(name) for name in names)


def _check_version(metadata: Mapping[str, str]) -> None:
    version = metadata.get("anyband_version", str(CHECKPOINT_VERSION))
    if not version.isdecimal() or int(version) > CHECKPOINT_VERSION:
        raise CheckpointError(
            f"the checkpoint is of format version '{version}'; this anyband reads up to {CHECKPOINT_VERSION}: update it"
        )


_PUBLISHED_RANGES = "smarties_v1"
_STACKED = (*(prefix for prefix, _ in _STACKS), "encoder.encodings.source.", "decoder.encodings.source.")
# float32 sine and cosine by different libraries differ by less.
_POSITION_TOLERANCE = 1e-5


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A network's weights with what they were trained on."""

    config: AutoencoderConfig
    """Of the decoder too, which means nothing where there is none."""
    state: dict[str, Tensor]
    """In the published layout, float32, on the CPU."""
    ranges: RangeTable
    """In layer order."""
    normalisations: dict[str, dict[str, Any]] = field(default_factory=dict)
    """How each training sensor was harmonised, by sensor name."""
    sensors: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The training sensors as declared, by name."""
    recipe: dict[str, Any] | None = None
    step: int | None = None

    @property
    def has_decoder(self) -> bool:
        """Whether the network can reconstruct."""
        return has_decoder(self.state)


def state_of(model: Autoencoder) -> dict[str, Tensor]:
    """Copy a network's weights into the published layout, for `Checkpoint.state`."""
    return to_published(model.state_dict())


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint whole or not at all; `load_checkpoint` gives it back exactly.

    Raises:
        CheckpointError: weights that do not fit their configuration, or are not finite.
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
    tensors, header = read_weights(path)
    positions = _position_kind(tensors.get("pos_embed"))
    if "embed_dim" in header:
        num_ranges = num_ranges_of(tensors)
        config = config_from_header(header, num_ranges=num_ranges, positions=positions)
    else:
        config = config_from_shapes(tensors, positions=positions)
    declared = "decoder_embed_dim" in header
    _check_state(tensors, config, decoder=declared or has_decoder(tensors), where=str(path))
    step = header.get("step", "")
    return Checkpoint(
        config=config,
        state={name: tensor.float() for name, tensor in tensors.items()},
        ranges=_ranges(header, config),
        normalisations=header_records(header, "normalisations"),
        sensors=header_records(header, "sensors"),
        recipe=header_json(header, "recipe"),
        step=int(step) if step.isdecimal() else None,
    )


def build_model(checkpoint: Checkpoint) -> Autoencoder:
    """Make the whole network with the checkpoint's weights; `CheckpointError` where it has no decoder."""
    if not checkpoint.has_decoder:
        raise CheckpointError("the checkpoint has an encoder only; reconstruction needs one with its decoder")
    model = Autoencoder(checkpoint.config, seed=None)
    model.load_state_dict(from_published(checkpoint.state, checkpoint.config.encoder.num_ranges), strict=True)
    return model


def build_encoder(
    checkpoint: Checkpoint, *, positions: PositionKind | None = None, drop_path: float | None = None
) -> Encoder:
    """Make the encoder with the checkpoint's weights; None: as there; `trained` positions start from there."""
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
    """Add ranges that start as mixtures of the trained ones: before any training they encode as interpolation did.

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
    return _with_ranges(
        checkpoint, table, lambda rows: torch.cat([rows, torch.tensordot(mixing.to(rows.dtype), rows, dims=1)])
    )


def withhold_range(checkpoint: Checkpoint, name: str) -> Checkpoint:
    """Take a trained range away with its weights; bands of the other ranges are encoded as before.

    Raises:
        CheckpointError: no such range, or it is the only one.
    """
    names = checkpoint.ranges.range_names
    if name not in names or len(names) == 1:
        raise CheckpointError(f"range '{name}' can't be withheld from {', '.join(names)}{nearest_name(name, names)}")
    kept = [index for index, one in enumerate(names) if one != name]
    return _with_ranges(checkpoint, without_range(checkpoint.ranges, name), lambda rows: rows[kept])


def _with_ranges(checkpoint: Checkpoint, table: RangeTable, change: Callable[[Tensor], Tensor]) -> Checkpoint:
    """Give a checkpoint other ranges by a change of whatever is stacked by range."""
    network = from_published(checkpoint.state, checkpoint.config.encoder.num_ranges)
    network |= {name: change(rows) for name, rows in network.items() if name.startswith(_STACKED)}
    encoder = replace(checkpoint.config.encoder, num_ranges=len(table.ranges))
    config = replace(checkpoint.config, encoder=encoder)
    return replace(checkpoint, config=config, state=to_published(network), ranges=table)


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
    return "fixed" if table is None or table.ndim != 3 or table.shape[2] % 4 or are_computed(table) else "trained"


def are_computed(table: Tensor, *, tolerance: float = _POSITION_TOLERANCE) -> bool:
    """Tell whether positions are the computed sines and cosines of a square grid, with CLS at 0."""
    edge = math.isqrt(max(table.shape[1] - 1, 0))
    if (
        table.shape[0] != 1
        or table.shape[2] % 4
        or edge < 1
        or edge * edge != table.shape[1] - 1
        or not table.is_floating_point()
    ):
        return False
    computed = sincos_positions(edge, edge, table.shape[2])
    # Files in half precision round the table.
    tolerance = max(tolerance, torch.finfo(table.dtype).eps)
    return bool((table[0, 1:] - computed).abs().max() <= tolerance) and not bool(table[0, 0].any())


def _check_state(state: Mapping[str, Tensor], config: AutoencoderConfig, *, decoder: bool, where: str) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    problems = shape_problems(shapes, expected_shapes(config, decoder=decoder), unexpected="unexpected")
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
    wrong = [name for name in tables if not are_computed(state[name])]
    if wrong:
        raise CheckpointError(
            f"'{wrong[0]}' in '{where}' is not the computed sine and cosine positions, though they are declared fixed"
        )


def shape_problems(
    found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], *, unexpected: str
) -> list[str]:
    """Count the weights that are missing, too many (named by `unexpected`) or of another shape, with some names."""
    other = [
        f"{name} {found[name]} and not {shape}" for name, shape in expected.items() if found.get(name, shape) != shape
    ]
    kinds = {
        "missing": [name for name in expected if name not in found],
        unexpected: [name for name in found if name not in expected],
        "of another shape": other,
    }
    return [
        f"{len(names)} {kind} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for kind, names in kinds.items()
        if names
    ]
