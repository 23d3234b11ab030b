"""The names of weights on disk: those of the published v1 checkpoints, for ours too.

In memory the maps of all ranges are stacked in one parameter; on disk each range has its own entry.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from anyband.models.autoencoder import AutoencoderConfig
from anyband.models.decoder import DecoderConfig
from anyband.models.encoder import EncoderConfig
from anyband.models.set_encodings import SetEncodings

__all__ = [
    "decoder_only",
    "expected_shapes",
    "from_published",
    "num_ranges_of",
    "to_published",
    "without_decay",
]

_PROJECTION = "spectrum_projection.spectrum_embeds.{}.proj.{}"
_PREDICTION = "decoder_preds.{}.{}"
_LEVEL = "decoder_levels.{}.{}"
_DECODER_NAMES = ("decoder_", "mask_token")


def decoder_only(name: str) -> bool:
    """Tell whether a weight belongs to the decoder and not to the encoder."""
    return name.startswith(_DECODER_NAMES)


def num_ranges_of(names: Mapping[str, Tensor]) -> int:
    """Count the trained ranges by the projection weights that are there."""
    first, last = _PROJECTION.split("{}", 1)[0], ".proj.weight"
    return sum(1 for name in names if name.startswith(first) and name.endswith(last))


def expected_shapes(config: AutoencoderConfig, *, decoder: bool) -> dict[str, tuple[int, ...]]:
    """List every weight of a checkpoint with its shape.

    Args:
        config: the architecture.
        decoder: whether the decoder and the reconstruction belong to it.

    Returns:
        Shapes by name, in a fixed order.
    """
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
    """Give a network's state the names and shapes of the published layout; `from_published` is the inverse.

    Args:
        state: of `Smarties`.

    Returns:
        Weights on the CPU, each with memory of its own.
    """
    published: dict[str, Tensor] = {}
    for name, tensor in state.items():
        for key, value in _published_entries(name, tensor):
            published[key] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    return published


def _published_entries(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    part = name.rpartition(".")[2]
    if name.startswith("encoder.projection."):
        rows = tensor.transpose(1, 2) if part == "weight" else tensor
        return [(_PROJECTION.format(index, part), row) for index, row in enumerate(rows)]
    if name.startswith("reconstruction."):
        return [(_PREDICTION.format(index, part), row) for index, row in enumerate(tensor)]
    if name.startswith("levels."):
        return [(_LEVEL.format(index, part), row) for index, row in enumerate(tensor)]
    return [(_published_name(name), tensor)]


def _published_name(name: str) -> str:
    plain = name.replace("positions.table", "pos_embed")
    if plain.startswith("encoder."):
        return plain.removeprefix("encoder.")
    if plain == "decoder.mask_token":
        return "mask_token"
    return plain.replace("decoder.", "decoder_", 1)


def from_published(state: Mapping[str, Tensor], num_ranges: int) -> dict[str, Tensor]:
    """Give published weights the names and shapes of the network; `to_published` is the inverse.

    Args:
        state: complete, as `expected_shapes` lists it.
        num_ranges: trained ranges.

    Returns:
        State of `Smarties`, or of its encoder alone with `encoder.` before each name.
    """
    ranged = ("spectrum_projection.", "decoder_preds.", "decoder_levels.")
    network = {_network_name(name): tensor for name, tensor in state.items() if not name.startswith(ranged)}
    for part in ("weight", "bias"):
        rows = torch.stack([state[_PROJECTION.format(index, part)] for index in range(num_ranges)])
        network[f"encoder.projection.{part}"] = rows.transpose(1, 2) if part == "weight" else rows
        if _PREDICTION.format(0, part) in state:
            predictions = [state[_PREDICTION.format(index, part)] for index in range(num_ranges)]
            network[f"reconstruction.{part}"] = torch.stack(predictions)
        if _LEVEL.format(0, part) in state:
            levels = [state[_LEVEL.format(index, part)] for index in range(num_ranges)]
            network[f"levels.{part}"] = torch.stack(levels)
    return network


def _network_name(name: str) -> str:
    plain = name.replace("pos_embed", "positions.table")
    if plain == "mask_token":
        return "decoder.mask_token"
    if plain.startswith("decoder_"):
        return plain.replace("decoder_", "decoder.", 1)
    return f"encoder.{plain}"


def without_decay(state: Mapping[str, Tensor]) -> frozenset[str]:
    """Name the parameters that are 1-D in the published layout (biases and norms), which weight decay spares.

    Stacked biases are 2-D in memory, so the number of axes does not tell.

    Args:
        state: parameters by name, of `Smarties`, `Encoder` or a network around them.
    """
    return frozenset(name for name, tensor in state.items() if tensor.ndim <= 1 or name.endswith(".bias"))
