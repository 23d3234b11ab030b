"""Layouts in which weights are published: names of wrapped networks, heads, averages stored again, no header."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from anyband.errors import CheckpointError
from anyband.models.autoencoder import AutoencoderConfig
from anyband.models.encodings import PositionKind, sincos_positions
from anyband.models.vit import DecoderConfig, EncoderConfig
from anyband.sensors.ranges import RangeTable, load_ranges

__all__ = ["DECODER_NAMES", "PROJECTION", "are_computed", "config_from_shapes", "plain_weights", "shard_files"]

PROJECTION = "spectrum_projection.spectrum_embeds.{}.proj.{}"
"""Names of the weights and biases of a range's projection."""
DECODER_NAMES = ("decoder_", "mask_token")
"""How the names of a decoder's weights begin."""
_HEAD = "head."

# Width → (blocks, heads) of published files, which carry no header. Source: ViT (arXiv 2010.11929), table 1.
_PUBLISHED = {768: (12, 12), 1024: (24, 16), 1280: (32, 16)}
_PUBLISHED_DECODER = DecoderConfig(decoder_embed_dim=512, decoder_depth=8, decoder_num_heads=16)
# Source: the published configuration of the transformers interface.
_PUBLISHED_PIXELS = 224
_PUBLISHED_RANGES = "smarties_v1"
# What the released network has after its trained layers: averages over other layers, from layer 17. Source: the public
# configuration of the v1 weights, `projection_idx`.
_AVERAGED = ("thermal_infrared_1", "blue_2")
# Words that wrappers of networks put before names: transformers, DataParallel, torch.compile, and training modules.
_WRAPPERS = re.compile(r"^((?:model|vit|encoder|backbone|module|_orig_mod)\.)+")
_COMPILED = "._orig_mod."
_KINDS = ("weight", "bias")
_LAYER = re.compile(r"spectrum_projection\.spectrum_embeds\.(\d+)\.(.+)")
_OF_LAYER = re.compile(r"\w+\.(\d+)\.proj\.(weight|bias)")
# float32 sine and cosine by different libraries differ by less; so do sums of equal products.
_POSITION_TOLERANCE = _SUM_TOLERANCE = 1e-5


def shard_files(index: Path, *, are_there: bool = True) -> dict[Path, list[str]]:
    """Read which names stand in which files beside an index of weights in several files; `CheckpointError` where it is
    none, or, unless they are still to be had, a file is not there."""
    try:
        table = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        found: dict[Path, list[str]] = {}
        for name, file in table.items():
            found.setdefault(index.parent / Path(file).name, []).append(str(name))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise CheckpointError(f"'{index}' is no index of weights in several files: {problem!r}") from problem
    missing = [path.name for path in found if not path.is_file()]
    if (missing and are_there) or not found:
        raise CheckpointError(
            f"'{index}' names {len(found)} files of weights, of which {len(missing)} are not beside it "
            f"({', '.join(missing[:3]) or 'none'}); get them all"
        )
    return found


def plain_weights(
    tensors: Mapping[str, Tensor], header: Mapping[str, str], where: str
) -> tuple[dict[str, Tensor], dict[str, Tensor], RangeTable, tuple[str, ...]]:
    """Bring weights, whoever published them, to plain names: those of encoder and decoder, if there is one, float32;
    the head's by its own names, empty where there is none; the published ranges that the layers have, of which headers
    of ours name others; and what was taken, for people. `CheckpointError`: words before the names that no wrapper puts
    there, or a weight that is stored twice with other numbers."""
    found, notes = _unwrapped(tensors, where)
    head = {name.removeprefix(_HEAD): tensor for name, tensor in found.items() if name.startswith(_HEAD)}
    found = {name: tensor for name, tensor in found.items() if not name.startswith(_HEAD)}
    ranges = load_ranges(_PUBLISHED_RANGES)
    if "ranges" not in header:
        found, ranges, said = _without_averages(found, ranges, where)
        notes += said
    found, said = _with_positions(found, header)
    floats = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in found.items()}
    return floats, head, ranges, (*notes, *said)


def _unwrapped(tensors: Mapping[str, Tensor], where: str) -> tuple[dict[str, Tensor], list[str]]:
    found: dict[str, Tensor] = {}
    words = dict[str, None]()
    for name, tensor in tensors.items():
        before = _WRAPPERS.match(name)
        plain = name[before.end() :] if before else name
        if before:
            words[before[0]] = None
        while _COMPILED in f".{plain}":
            plain = f".{plain}".replace(_COMPILED, ".")[1:]
        if plain in found:
            raise CheckpointError(f"'{where}' has two weights of the name '{plain}'; keep those of one network")
        found[plain] = tensor
    first = PROJECTION.format(0, "weight")
    other = [name.removesuffix(first) for name in found if name.endswith(first)]
    if other and "" not in other:
        raise CheckpointError(
            f"the names of the weights in '{where}' begin with '{other[0]}', which is of no wrapper that is known; "
            f"save {{name.removeprefix('{other[0]}'): weight}} of those with it, and the header as it is"
        )
    return found, [f"'{word}' before the names of weights is of a wrapper, and was taken off" for word in words]


def _without_averages(
    tensors: dict[str, Tensor], ranges: RangeTable, where: str
) -> tuple[dict[str, Tensor], RangeTable, list[str]]:
    """Take out the layers that only average others, wherever their parts are stored again. A later layer with numbers
    of its own is a range with weights."""
    declared = {entry.name: entry for entry in ranges.declared}
    left, again, own = dict(tensors), list[str](), list[str]()
    for layer, name in enumerate(_AVERAGED, start=len(ranges.ranges)):
        layers = [ranges.range_names.index(one) for one in declared[name].neighbours]
        parts = [key for key in left if (match := _LAYER.fullmatch(key)) and int(match[1]) == layer]
        for key in parts:
            _take_copy(left, key, layers, where)
        centers_nm = [ranges.ranges[one].spectrum.center_nm for one in layers]
        away_nm = [abs(declared[name].spectrum.center_nm - center_nm) for center_nm in centers_nm]
        stored = [one for kind in _KINDS if (one := PROJECTION.format(layer, kind)) in left]
        if all(_is_average(left, one, layers, away_nm) for one in stored):
            again += [name] if parts else []
            left = {key: tensor for key, tensor in left.items() if key not in stored}
        else:
            own.append(name)
    notes = [f"{', '.join(again)} average trained ranges and are stored again: left out"] if again else []
    if own:
        rest = tuple(entry for name, entry in declared.items() if name not in own)
        added = tuple(replace(declared[name], neighbours=()) for name in own)
        ranges = replace(ranges, name=f"{ranges.name}+{len(own)}", ranges=(*ranges.ranges, *added), declared=rest)
        notes.append(f"{', '.join(own)} have weights of their own, and are read by them")
    return left, ranges, notes


def _take_copy(left: dict[str, Tensor], key: str, layers: Sequence[int], where: str) -> None:
    """Take a part of an averaging layer out; a copy of a trained layer must be that layer, or stand for it."""
    match = _LAYER.fullmatch(key)
    part = match[2] if match else ""
    copied = _OF_LAYER.fullmatch(part)
    if copied and int(copied[1]) < len(layers):
        own = PROJECTION.format(layers[int(copied[1])], copied[2])
        if not _are_close(left.setdefault(own, left[key]), left[key]):
            raise CheckpointError(
                f"'{where}' stores '{own}' a second time as '{key}', with other numbers; get it again"
            )
    if not part.startswith("proj."):
        del left[key]


def _is_average(left: Mapping[str, Tensor], key: str, layers: Sequence[int], away_nm: Sequence[float]) -> bool:
    kind = key.rpartition(".")[2]
    parts = [left.get(PROJECTION.format(layer, kind)) for layer in layers]
    shares = [distance_nm / sum(away_nm) for distance_nm in away_nm]
    known = [share * part.double() for share, part in zip(shares, parts, strict=True) if part is not None]
    return len(known) == len(parts) and _are_close(left[key], torch.stack(known).sum(dim=0))


def _are_close(a: Tensor, b: Tensor) -> bool:
    """Tell whether numbers are equal up to the precision in which they are stored."""
    if a.shape != b.shape or not (a.is_floating_point() and b.is_floating_point()):
        return False
    tolerance = max(_SUM_TOLERANCE, *(4 * torch.finfo(one.dtype).eps for one in (a, b)))
    return bool((a.double() - b.double()).abs().max() <= tolerance * a.double().abs().max())


def _with_positions(found: dict[str, Tensor], header: Mapping[str, str]) -> tuple[dict[str, Tensor], list[str]]:
    """Compute positions anew where they are computed ones: of half precision, of another image size than the header
    says, or not stored."""
    first = found.get(PROJECTION.format(0, "weight"))
    if first is None or first.ndim != 2 or not first.shape[1]:
        return found, []
    patch_size, said = math.isqrt(first.shape[1]), list[str]()
    text = header.get("img_size", "")
    wanted = int(text) // patch_size if text.isdecimal() and len(text) < 9 else None
    tables = {"pos_embed": first.shape[0]}
    if (embed := found.get("decoder_embed.weight")) is not None:
        tables["decoder_pos_embed"] = embed.shape[0]
    for name, width in tables.items():
        table = found.get(name)
        if table is not None and not (table.ndim == 3 and are_computed(table)):
            continue
        if width % 4:
            continue
        stored = None if table is None else math.isqrt(table.shape[1] - 1)
        edge = wanted or stored or (None if "pos_embed" in found else _PUBLISHED_PIXELS // patch_size)
        if edge is None:
            edge = math.isqrt(found["pos_embed"].shape[1] - 1)
        if stored is None:
            said.append(f"'{name}' is not stored, and was computed for {edge * patch_size} pixels")
        elif stored != edge:
            said.append(
                f"'{name}' is stored for {stored * patch_size} pixels, and was computed for the {edge * patch_size} of "
                "the header"
            )
        if table is None or table.dtype in (torch.float16, torch.bfloat16) or stored != edge:
            computed = sincos_positions(edge, edge, width)
            found[name] = torch.nn.functional.pad(computed, (0, 0, 1, 0))[None]
    return found, said


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


def config_from_shapes(tensors: Mapping[str, Tensor], *, num_ranges: int, positions: PositionKind) -> AutoencoderConfig:
    """Tell the architecture of a published v1 file from its shapes; `CheckpointError` for any but a published size."""
    first = tensors.get(PROJECTION.format(0, "weight"))
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
