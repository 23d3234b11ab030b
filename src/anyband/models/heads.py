"""Heads for maps: from patch features of some blocks to a number for each class at each pixel."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from anyband.arrays import Float
from anyband.errors import InputError
from anyband.randomness import generator

__all__ = ["FINAL", "LinearHead", "MapHeadKind", "UPerNetHead", "head_blocks", "make_head", "resized"]

MapHeadKind = Literal["linear", "dfc2020", "upernet"]
"""A 1×1 convolution after the final norm, the same before it, or UPerNet over four blocks."""

FINAL: Literal["final"] = "final"
"""In place of blocks: the last block's features after the final norm."""

_NUM_LEVELS = 4
# Source: SMARTIES (arXiv 2506.19585) in PANGAEA (arXiv 2412.04204): blocks of ViT-B and ViT-L, counted from 0.
_PUBLISHED_BLOCKS = {12: (3, 5, 7, 11), 24: (7, 11, 15, 23)}
# Source: the linear probe of masked autoencoders (arXiv 2111.06377), section A.1: a classifier starts with std 0.01.
_CLASSIFIER_STD = 0.01


def head_blocks(kind: MapHeadKind, *, depth: int, blocks: Sequence[int] = ()) -> tuple[int, ...] | Literal["final"]:
    """Say which blocks, before the final norm, a head sees, or `final`.

    Without `blocks`: as published for encoders of 12 and 24, else in equal distances, the last included.

    Raises:
        InputError: blocks that the encoder or the head does not have.
    """
    wrong = [index for index in blocks if not 0 <= index < depth]
    if wrong:
        raise InputError(f"head.blocks are {list(blocks)}; the encoder has blocks 0 to {depth - 1}")
    if kind != "upernet":
        if blocks:
            raise InputError(f"head '{kind}' sees the last block only; leave head.blocks empty, or take 'upernet'")
        return FINAL if kind == "linear" else (depth - 1,)
    if blocks and len(blocks) != _NUM_LEVELS:
        raise InputError(f"head 'upernet' needs {_NUM_LEVELS} blocks, found {len(blocks)} in head.blocks")
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
    kind: MapHeadKind, *, width: int, num_outputs: int, seed: int, channels: int = 512
) -> "LinearHead | UPerNetHead":
    """Make a head with first weights."""
    if min(width, num_outputs, channels) < 1:
        raise InputError(f"a head needs width, outputs and channels over 0; found {width}, {num_outputs}, {channels}")
    if kind == "upernet":
        return UPerNetHead(width=width, num_outputs=num_outputs, channels=channels, seed=seed)
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


class UPerNetHead(nn.Module):
    """UPerNet over four blocks of a transformer, rescaled to a pyramid by 4, 2, 1 and ½.

    Batch normalisation takes its running statistics where a batch has one value a channel, which has no variance.

    Source:
        Xiao et al., "Unified perceptual parsing for scene understanding", ECCV 2018; the pyramid over a plain
        transformer: BEiT (arXiv 2106.08254), section 3.2.
    """

    num_levels = _NUM_LEVELS

    def __init__(self, *, width: int, num_outputs: int, channels: int, seed: int) -> None:
        # Late: a large library, for this head only.
        from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder

        super().__init__()
        self.width, self.num_outputs = width, num_outputs
        with torch.device("meta"):
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
        """Compute the logits of each pixel from four maps of one size, first block to last.

        Without `size` they have four times the patches' resolution. Maps of one patch have no half: `InputError`.
        """
        _check_levels(levels, "upernet", width=self.width, num_levels=self.num_levels)
        rows, cols = levels[0].shape[2:]
        if rows < 2 or cols < 2:
            raise InputError(
                f"'upernet' halves the map of patches, and this one has {rows} × {cols}; "
                "use a larger input.img_size, or head 'linear'"
            )
        scaled = [scale(level) for scale, level in zip(self.pyramid, levels, strict=True)]
        # The decoder writes into its list, so it gets one of its own.
        logits: Tensor = self.classifier(self.decoder([scaled[0], scaled[0], *scaled]))
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
        raise InputError(f"head '{kind}' takes {num_levels} maps of one size and width {width}, found {found}")


def _start(head: nn.Module, *, seed: int) -> None:
    """Give every parameter and buffer its first values, from the seed and its name only."""
    head.to_empty(device="cpu")
    for name, module in head.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
        for key, parameter in module.named_parameters(prefix=f"head.{name}".rstrip("."), recurse=False):
            shape = parameter.shape
            if len(shape) == 1:
                nn.init.constant_(parameter, 0.0 if key.endswith("bias") else 1.0)
                continue
            # Source: He et al. (arXiv 1502.01852), eq. 10. A doubling's pixels each see one input pixel.
            fan_in = shape[0] if isinstance(module, nn.ConvTranspose2d) else math.prod(shape[1:])
            std = _CLASSIFIER_STD if key == "head.classifier.weight" else math.sqrt(2 / fan_in)
            draws = generator(seed, step=0, sample=0, purpose=f"first weights of {key}")
            values = draws.standard_normal(shape, dtype=np.float32) * np.float32(std)
            parameter.data.copy_(torch.from_numpy(values))
