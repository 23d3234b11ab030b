"""Heads: maps from patch features of some blocks, and the weights of every fitted head by the names in its file."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from anyband.arrays import Float
from anyband.errors import CheckpointError, InputError, counted
from anyband.models.checkpoint import shape_problems
from anyband.randomness import generator

__all__ = [
    "FINAL",
    "LAST_LAYER",
    "FittedKind",
    "LinearHead",
    "MapHeadKind",
    "TemporalAttention",
    "UPerNetHead",
    "fitted_weights",
    "head_blocks",
    "load_head",
    "make_head",
    "resized",
]

MapHeadKind = Literal["linear", "dfc2020", "upernet", "pangaea"]
"""A 1×1 convolution after the final norm, the same before it, UPerNet over four blocks, or the same as in PANGAEA."""

FINAL: Literal["final"] = "final"
"""In place of blocks: the last block's features after the final norm."""

_NUM_LEVELS = 4
# Source: SMARTIES (arXiv 2506.19585) in PANGAEA (arXiv 2412.04204): blocks of ViT-B and ViT-L, counted from 0.
_PUBLISHED_BLOCKS = {12: (3, 5, 7, 11), 24: (7, 11, 15, 23)}
# Source: the linear probe of masked autoencoders (arXiv 2111.06377), section A.1: a classifier starts with std 0.01.
_CLASSIFIER_STD = 0.01
# Source: PANGAEA (arXiv 2412.04204), `SegUPerNet` of github.com/yurujaja/pangaea-bench.
_PANGAEA_DROPOUT = 0.1
# Source: L-TAE (arXiv 2007.00586), table 1, and the defaults of PANGAEA.
_LTAE_HEADS, _LTAE_KEY_WIDTH = 16, 4
# chosen: less than those of any published encoder, which have the published heads.
_LTAE_HEAD_CHANNELS = 8


def head_blocks(kind: MapHeadKind, *, depth: int, blocks: Sequence[int] = ()) -> tuple[int, ...] | Literal["final"]:
    """Say which blocks, before the final norm, a head sees, or `final`. Without `blocks`: as published for encoders of
    12 and 24, else in equal distances, the last included. `InputError`: blocks that the encoder or the head does not
    have."""
    wrong = [index for index in blocks if not 0 <= index < depth]
    if wrong:
        raise InputError(f"head.blocks are {list(blocks)}; the encoder has blocks 0 to {depth - 1}")
    if kind not in ("upernet", "pangaea"):
        if blocks:
            raise InputError(f"head '{kind}' sees the last block only; leave head.blocks empty, or take 'upernet'")
        return FINAL if kind == "linear" else (depth - 1,)
    if blocks and len(blocks) != _NUM_LEVELS:
        raise InputError(f"head '{kind}' needs {_NUM_LEVELS} blocks, found {len(blocks)} in head.blocks")
    equal = tuple(math.ceil((level + 1) * depth / _NUM_LEVELS) - 1 for level in range(_NUM_LEVELS))
    return tuple(blocks) or _PUBLISHED_BLOCKS.get(depth, equal)


def resized(
    outputs: Float[Tensor, "sample output row col"], size: tuple[int, int]
) -> Float[Tensor, "sample output down across"]:
    """Bring a head's outputs to a size in pixels, bilinearly; anti-aliased where it is smaller."""
    if tuple(outputs.shape[2:]) == size:
        return outputs
    # CPUs have no anti-aliased resizing in bf16.
    return functional.interpolate(outputs.float(), size=size, mode="bilinear", align_corners=False, antialias=True)


def make_head(
    kind: MapHeadKind, *, width: int, num_outputs: int, seed: int, channels: int = 512, weighed_images: int = 1
) -> "LinearHead | UPerNetHead":
    """Make a head with first weights. With several `weighed_images` a level has the channels of each, side by side, and
    UPerNet sees one map that `TemporalAttention` makes of them; another kind is an `InputError`.
    """
    if min(width, num_outputs, channels) < 1:
        raise InputError(f"a head needs width, outputs and channels over 0; found {width}, {num_outputs}, {channels}")
    if kind in ("upernet", "pangaea"):
        return UPerNetHead(
            width=width,
            num_outputs=num_outputs,
            channels=channels,
            weighed_images=weighed_images,
            as_pangaea=kind == "pangaea",
            seed=seed,
        )
    if weighed_images > 1:
        raise InputError(
            f"fusion=ltae is for UPerNet, found head '{kind}'; take 'pangaea' or 'upernet', or fusion=concat"
        )
    return LinearHead(width=width, num_outputs=num_outputs, seed=seed)


class LinearHead(nn.Module):
    """One linear layer on each patch, then bilinear upsampling. No neighbour is seen but through the encoder."""

    num_levels = 1

    def __init__(self, *, width: int, num_outputs: int, seed: int) -> None:
        super().__init__()
        self.width, self.num_outputs = width, num_outputs
        with torch.device("meta"):
            self.classifier = nn.Conv2d(width, num_outputs, kernel_size=1)
        _start(self, seed=seed)

    def forward(
        self, levels: Sequence[Float[Tensor, "sample width row col"]], size: tuple[int, int] | None = None
    ) -> Float[Tensor, "sample output down across"]:
        """Compute the logits of each pixel; without `size` those of each patch."""
        _check_levels(levels, "linear", width=self.width, num_levels=self.num_levels)
        logits: Tensor = self.classifier(levels[0])
        return logits if size is None else resized(logits, size)


class TemporalAttention(nn.Module):
    """Make one map of those of several images: each patch weighs its images by attention to learned queries, by groups
    of channels. Dates and order say nothing.

    Source:
        Garnot & Landrieu, "Lightweight temporal self-attention" (L-TAE, arXiv 2007.00586), section 2; heads, norms,
        widths and dropout are those of PANGAEA (arXiv 2412.04204, `seg_upernet_mt_ltae`), and no positions.
    """

    def __init__(self, *, width: int, num_images: int) -> None:
        super().__init__()
        self.num_images = num_images
        # Narrow encoders have fewer, because a norm over one or two channels leaves nothing of their values.
        self.num_heads = math.gcd(_LTAE_HEADS, max(1, width // _LTAE_HEAD_CHANNELS), width)
        self.norm_in = nn.GroupNorm(self.num_heads, width)
        self.values = nn.Conv1d(width, width, kernel_size=1)
        self.query = nn.Parameter(torch.empty(self.num_heads, _LTAE_KEY_WIDTH))
        self.keys = nn.Linear(width, self.num_heads * _LTAE_KEY_WIDTH)
        self.drop_images = nn.Dropout(0.1)
        self.mix = nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.2))
        self.norm_out = nn.GroupNorm(self.num_heads, width)

    def forward(self, level: Float[Tensor, "sample images_width row col"]) -> Float[Tensor, "sample width row col"]:
        samples, _, rows, _ = level.shape
        patches = rearrange(level, "s (k d) h w -> (s h w) d k", k=self.num_images)
        values = self.values(self.norm_in(patches))
        parts = rearrange(values, "p (n c) k -> p n c k", n=self.num_heads)
        made: Tensor = self.norm_out(self.mix(torch.einsum("pnk,pnck->pnc", self._weights(values), parts).flatten(1)))
        return rearrange(made, "(s h w) d -> s d h w", s=samples, h=rows)

    def _weights(self, values: Float[Tensor, "patch width image"]) -> Float[Tensor, "patch head image"]:
        keys = rearrange(self.keys(values.mT), "p k (n c) -> p n k c", n=self.num_heads)
        scores = torch.einsum("pnkc,nc->pnk", keys, self.query) / math.sqrt(_LTAE_KEY_WIDTH)
        weights: Tensor = self.drop_images(scores.softmax(dim=2))
        return weights


class UPerNetHead(nn.Module):
    """UPerNet over four blocks of a transformer, rescaled to a pyramid by 4, 2, 1 and ½.

    PANGAEA's takes the levels as they are, and leaves out channels in training; else each level is normalised over its
    channels, and none is left out. Batch normalisation takes its running statistics where a batch has one value a
    channel, which has no variance.

    Source:
        Xiao et al., "Unified perceptual parsing for scene understanding", ECCV 2018; the pyramid over a plain
        transformer: BEiT (arXiv 2106.08254), section 3.2.
    """

    num_levels = _NUM_LEVELS

    def __init__(
        self,
        *,
        width: int,
        num_outputs: int,
        channels: int,
        seed: int,
        weighed_images: int = 1,
        as_pangaea: bool = False,
    ) -> None:
        # Late: a large library, for this head only.
        from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder

        super().__init__()
        self.width, self.num_outputs = width, num_outputs
        # What follows sees one map.
        width //= weighed_images
        with torch.device("meta"):
            # One for all levels, as in PANGAEA.
            self.weigh = (
                TemporalAttention(width=width, num_images=weighed_images) if weighed_images > 1 else nn.Identity()
            )
            doublings = [nn.ConvTranspose2d(width, width, kernel_size=2, stride=2) for _ in range(3)]
            # An odd map keeps its last row and column when it is halved.
            self.pyramid = nn.ModuleList(
                [
                    nn.Sequential(doublings[0], nn.BatchNorm2d(width), nn.GELU(), doublings[1]),
                    doublings[2],
                    nn.Identity(),
                    nn.MaxPool2d(kernel_size=2, ceil_mode=True),
                ]
            )
            # The decoder skips the first two entries: levels finer than it uses.
            self.decoder = UPerNetDecoder(
                encoder_channels=[0, 0] + [width] * _NUM_LEVELS,
                encoder_depth=_NUM_LEVELS + 1,
                decoder_channels=channels,
            )
            if as_pangaea:
                self.decoder.feature_norms = nn.ModuleList([nn.Identity() for _ in range(_NUM_LEVELS)])
            self.drop_channels = nn.Dropout2d(_PANGAEA_DROPOUT if as_pangaea else 0.0)
            self.classifier = nn.Conv2d(channels, num_outputs, kernel_size=1)
            norms = [
                (part, name, child.num_features)
                for part in self.modules()
                for name, child in part.named_children()
                if isinstance(child, nn.BatchNorm2d)
            ]
            for part, name, num_features in norms:
                setattr(part, name, _BatchNorm(num_features))
        _start(self, seed=seed)

    def forward(
        self, levels: Sequence[Float[Tensor, "sample width row col"]], size: tuple[int, int] | None = None
    ) -> Float[Tensor, "sample output down across"]:
        """Compute the logits of each pixel from four maps of one size, first block to last. Without `size` they have
        four times the patches' resolution. Maps of one patch have no half: `InputError`."""
        _check_levels(levels, "upernet", width=self.width, num_levels=self.num_levels)
        rows, cols = levels[0].shape[2:]
        if rows < 2 or cols < 2:
            raise InputError(
                f"'upernet' halves the map of patches, and this one has {rows} × {cols}; "
                "use a larger input.img_size, or head 'linear'"
            )
        scaled = [scale(self.weigh(level)) for scale, level in zip(self.pyramid, levels, strict=True)]
        # The decoder writes into its list, so it gets one of its own.
        logits: Tensor = self.classifier(self.drop_channels(self.decoder([scaled[0], scaled[0], *scaled])))
        return logits if size is None else resized(logits, size)


class _BatchNorm(nn.BatchNorm2d):
    def forward(self, values: Tensor) -> Tensor:
        if self.training and values.numel() == values.shape[1]:
            return functional.batch_norm(
                values, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        return super().forward(values)


def _check_levels(levels: Sequence[Tensor], kind: str, *, width: int, num_levels: int) -> None:
    widths = sorted({level.shape[1] for level in levels})
    if len(levels) != num_levels or widths != [width] or len({level.shape for level in levels}) > 1:
        found = ", ".join(str(tuple(level.shape)) for level in levels)
        raise InputError(
            f"head '{kind}' takes {counted(num_levels, 'map')} of one size and width {width}, found {found}"
        )


def _start(head: nn.Module, *, seed: int) -> None:
    """Give every parameter and buffer its first values, from the seed and its name only."""
    head.to_empty(device="cpu")
    for name, module in head.named_modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_running_stats()
        for key, parameter in module.named_parameters(prefix=f"head.{name}".rstrip("."), recurse=False):
            shape = parameter.shape
            if len(shape) == 1:
                nn.init.constant_(parameter, 0.0 if key.endswith("bias") else 1.0)
                continue
            std = _first_std(module, key, shape)
            draws = generator(seed, step=0, sample=0, purpose=f"first weights of {key}")
            values = draws.standard_normal(shape, dtype=np.float32) * np.float32(std)
            parameter.data.copy_(torch.from_numpy(values))


def _first_std(module: nn.Module, key: str, shape: tuple[int, ...]) -> float:
    if key == "head.classifier.weight":
        return _CLASSIFIER_STD
    # Source: He et al. (arXiv 1502.01852), eq. 10. A doubling's pixels each see one input pixel.
    fan_in = shape[0] if isinstance(module, nn.ConvTranspose2d) else math.prod(shape[1:])
    # The released code of L-TAE, and PANGAEA's, start keys as they do queries, by the width of a key.
    return math.sqrt(2 / (_LTAE_KEY_WIDTH if key.endswith("weigh.keys.weight") else fan_in))


FittedKind = Literal["probe", "layer", "convolution", "upernet"]
"""A fitted head: a linear layer behind a batch normalisation without scale and shift, a linear layer alone, a 1×1
convolution, or UPerNet."""

LAST_LAYER: dict[FittedKind, str] = {
    "probe": "linear",
    "layer": "linear",
    "convolution": "classifier",
    "upernet": "classifier",
}
"""The layer whose outputs are the classes'."""

# By a tensor that no other layout has: the kind, and how names in the file begin and names of our modules.
# Source: the heads that the released `main_downstream.py` of SMARTIES makes with `--eval_only` (`get_task_head` in its
# `utils/utils.py`), saved with the encoder; and what evaluations write here.
_LAYOUTS: dict[str, tuple[FittedKind, dict[str, str]]] = {
    "head.0.running_mean": ("probe", {"head.0.": "norm.", "head.1.": "linear."}),
    "norm.running_mean": ("probe", {"norm.": "norm.", "linear.": "linear."}),
    "head.weight": ("layer", {"head.": "linear."}),
    "head.pyramid.0.0.weight": ("upernet", {"head.": ""}),
    "head.classifier.weight": ("convolution", {"head.": ""}),
    "head.0.weight": ("convolution", {"head.0.": "classifier."}),
}


def fitted_weights(tensors: Mapping[str, Tensor], *, where: str) -> tuple[FittedKind, dict[str, Tensor]]:
    """Find the head among the weights of a file, published or ours: its kind, and its weights as our modules name them.
    A file without a head, or with one of another layout, is a `CheckpointError`."""
    kind, beginnings = next((_LAYOUTS[name] for name in _LAYOUTS if name in tensors), ("layer", {}))
    state = {}
    for name, tensor in tensors.items():
        for before, ours in beginnings.items():
            if name.startswith(before):
                state[ours + name.removeprefix(before)] = tensor.float() if tensor.is_floating_point() else tensor
    last = state.get(f"{LAST_LAYER[kind]}.weight", torch.empty(0))
    if last.ndim != (2 if kind in ("probe", "layer") else 4) or f"{LAST_LAYER[kind]}.bias" not in state:
        others = ", ".join([name for name in tensors if name.startswith("head.")][:3])
        raise CheckpointError(
            f"'{where}' {f'has a head of an unknown layout ({others})' if others else 'holds no fitted head'}; one is "
            f"known by {', '.join(_LAYOUTS)}: give a fine-tuned or probed file, name the head's own by --head-file, or "
            "leave out --eval-only to fit one"
        )
    return kind, state


def load_head(head: nn.Module, state: Mapping[str, Tensor], *, where: str) -> None:
    """Give a head its fitted weights, strictly: no weight missing, none too many, all in shape and finite."""
    expected = head.state_dict()
    # How many batches a batch normalisation saw changes nothing of what it computes.
    counters = {name: value for name, value in expected.items() if name.endswith("num_batches_tracked")}
    shapes, wanted = (
        {name: tuple(one.shape) for name, one in some.items() if name not in counters} for some in (state, expected)
    )
    problems = shape_problems(shapes, wanted, unexpected="unexpected")
    bad = [name for name, one in state.items() if not one.isfinite().all()]
    bad += [name for name, one in state.items() if name.endswith("running_var") and (one < 0).any()]
    problems += [f"no finite numbers, or a variance below 0, in {bad[0]}"] if bad else []
    if problems:
        raise CheckpointError(
            f"the head in '{where}' does not fit: {'; '.join(problems)}; take checkpoint, fusion and head.* as when it "
            "was fitted, or get the file again"
        )
    head.load_state_dict({**counters, **state})
