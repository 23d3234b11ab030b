"""The architecture of a checkpoint: in the header of ours, told by the shapes of published files."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from anyband.errors import CheckpointError, InputError
from anyband.models.autoencoder import AutoencoderConfig
from anyband.models.decoder import DecoderConfig
from anyband.models.encoder import EncoderConfig
from anyband.models.encodings import EncodingConfig, PositionKind
from anyband.models.layout import decoder_only, num_ranges_of

__all__ = [
    "CHECKPOINT_VERSION",
    "config_from_header",
    "config_from_shapes",
    "has_decoder",
    "header_json",
    "header_of",
    "header_records",
]

CHECKPOINT_VERSION = 1

_COUNTS = ("img_size", "patch_size", "embed_dim", "depth", "num_heads")
_DECODER_COUNTS = ("decoder_embed_dim", "decoder_depth", "decoder_num_heads")
# chosen: far above any network, low enough that a broken header can't ask for all the memory.
_LARGEST_COUNT = 1 << 16

# Width → (blocks, heads) of published files, which carry no header. Source: ViT (arXiv 2010.11929), table 1.
_PUBLISHED = {768: (12, 12), 1024: (24, 16), 1280: (32, 16)}
_PUBLISHED_DECODER = DecoderConfig(decoder_embed_dim=512, decoder_depth=8, decoder_num_heads=16)


def header_of(config: AutoencoderConfig, *, decoder: bool) -> dict[str, str]:
    """Write an architecture as header entries; `config_from_header` reads them back exactly.

    Args:
        config: of the network.
        decoder: whether the file has the decoder too.
    """
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
    """Read an architecture from header entries.

    Args:
        metadata: of the file.
        num_ranges: counted from the weights.
        positions: kind to take where the header does not say.

    Raises:
        CheckpointError: an entry is missing or wrong, or the file is of a newer version.
    """
    _check_version(metadata)
    counts = {name: _count(metadata, name) for name in _COUNTS}
    decoder = {name: _count(metadata, name) for name in _DECODER_COUNTS if name in metadata}
    if decoder and len(decoder) < len(_DECODER_COUNTS):
        missing = next(name for name in _DECODER_COUNTS if name not in metadata)
        raise CheckpointError(f"the header of the checkpoint has no '{missing}', but other numbers of a decoder")
    kind = metadata.get("positions", positions)
    if kind not in ("fixed", "trained"):
        raise CheckpointError(f"'positions' in the header of the checkpoint is '{kind}', not 'fixed' or 'trained'")
    task = header_json(metadata, "pretraining") or {}
    try:
        encoder = EncoderConfig(
            img_size=counts["img_size"],
            patch_size=counts["patch_size"],
            embed_dim=counts["embed_dim"],
            depth=counts["depth"],
            num_heads=counts["num_heads"],
            mlp_ratio=_number(metadata, "mlp_ratio", 4.0),
            num_ranges=num_ranges,
            max_bands=_count(metadata, "max_bands") if "max_bands" in metadata else 12,
            drop_path=_number(metadata, "drop_path", 0.0),
            norm_eps=_number(metadata, "norm_eps", 1e-6),
            positions="trained" if kind == "trained" else "fixed",
            encodings=EncodingConfig(**(header_json(metadata, "encodings") or {})),
        )
        return AutoencoderConfig(encoder=encoder, decoder=DecoderConfig(**decoder), **task)
    except (InputError, TypeError, AttributeError) as problem:
        raise CheckpointError(f"the header of the checkpoint describes no network: {problem}") from problem


def config_from_shapes(tensors: Mapping[str, Tensor], *, positions: PositionKind) -> AutoencoderConfig:
    """Tell the architecture of a published v1 file, which has no header, from the shapes of its weights.

    Args:
        tensors: of the file.
        positions: kind of the positions, told from their values.

    Raises:
        CheckpointError: not the weights of a published size.
    """
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
    """Read a JSON object from the header; None where it is absent.

    Raises:
        CheckpointError: it is no JSON object.
    """
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
    """Read a JSON object of JSON objects from the header; empty where it is absent.

    Raises:
        CheckpointError: it is anything else.
    """
    records = header_json(metadata, name) or {}
    wrong = next((key for key, value in records.items() if not isinstance(value, dict)), None)
    if wrong is not None:
        raise CheckpointError(f"'{name}' in the header of the checkpoint: '{wrong}' is not a JSON object")
    return records


def has_decoder(names: Mapping[str, Tensor]) -> bool:
    """Tell whether a file has a decoder, by any of its weights."""
    return any(decoder_only(name) for name in names)


def _check_version(metadata: Mapping[str, str]) -> None:
    version = metadata.get("anyband_version", str(CHECKPOINT_VERSION))
    if not version.isdecimal() or int(version) > CHECKPOINT_VERSION:
        raise CheckpointError(
            f"the checkpoint is of format version '{version}'; this anyband reads up to {CHECKPOINT_VERSION}: update it"
        )


def _count(metadata: Mapping[str, str], name: str) -> int:
    text = metadata.get(name)
    if text is None:
        raise CheckpointError(f"the header of the checkpoint has no '{name}'")
    if not text.isdecimal() or not 0 < int(text) <= _LARGEST_COUNT:
        raise CheckpointError(
            f"'{name}' in the header of the checkpoint is '{text}', no number from 1 to {_LARGEST_COUNT}"
        )
    return int(text)


def _number(metadata: Mapping[str, str], name: str, default: float) -> float:
    text = metadata.get(name, repr(default))
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise CheckpointError(f"'{name}' in the header of the checkpoint is '{text}', no number of 0 or more")
    return value
