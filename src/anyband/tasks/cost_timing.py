"""What a device does in a second, measured by short work of the kind that a training step is made of.

Nothing here draws from a global generator, and nothing touches the network that is trained.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from anyband.models.blocks import make_blocks, set_fused_attention
from anyband.models.initialise import initialise
from anyband.tasks.cost_flops import block_flops

__all__ = ["BlockSizes", "Device", "copied_bytes_s", "peak_flops_s", "seconds_of", "sequence_seconds"]

# chosen: the best of so many is near what the device can do; other work on it only makes a product slower.
_REPEATS = 8
# chosen: a product is made larger until it takes so long, or has this side: then its start costs little, and an H200
# takes about a millisecond for it.
_LONG_S = 0.01
_FIRST_SIDE, _LAST_SIDE = 128, 8192
# chosen: repeating ends there, so that a processor that does bf16 in software is not waited for.
_MOST_S = 0.3
# chosen: a block is timed on as many sequences of the run as the peak would do in so long, so that large networks on
# small machines stay under a few seconds.
_BLOCK_S = 0.05
_BLOCK_REPEATS = 3
# chosen: more than the caches of common processors hold.
_COPIED_BYTES = 128 * 2**20


@dataclass(frozen=True, kw_only=True)
class Device:
    """Where a network computes, and in which arithmetic."""

    device: torch.device
    """The device."""
    precision: str
    """As `optim.precision`."""

    @property
    def in_bf16(self) -> bool:
        """Whether products are of bfloat16."""
        return self.precision.startswith("bf16")

    @property
    def fused(self) -> bool:
        """Whether training has fused attention there: not in bf16 on CPUs; see `set_fused_attention`."""
        return not (self.device.type == "cpu" and self.in_bf16)

    def numbers(self, *shape: int) -> torch.Tensor:
        """Make numbers that are neither constant nor drawn; a device may do constant ones faster."""
        count = int(torch.Size(shape).numel())
        return torch.arange(count, dtype=torch.float32, device=self.device).mul_(0.7).sin_().view(shape)

    def wait(self) -> None:
        """Wait until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()


@dataclass(frozen=True, kw_only=True)
class BlockSizes:
    """One transformer block of a network."""

    width: int
    """Of a token."""
    num_heads: int
    """Attention heads."""
    mlp_ratio: float
    """Width of the hidden layer over `width`."""
    norm_eps: float
    """Of the layer norms."""


def seconds_of(work: Callable[[], object], where: Device, *, repeats: int = _BLOCK_REPEATS) -> float:
    """Time something: the median after one uncounted run, each waited for."""
    return statistics.median(_seconds(work, where, repeats=repeats))


def _seconds(work: Callable[[], object], where: Device, *, repeats: int) -> list[float]:
    work()
    where.wait()
    found: list[float] = []
    while len(found) < repeats and sum(found) < _MOST_S:
        begun = time.perf_counter()
        work()
        where.wait()
        found.append(time.perf_counter() - begun)
    return found


def peak_flops_s(where: Device) -> float:
    """Measure the rate of a plain matrix product in the run's precision: what its arithmetic is compared with.

    The best of several counts, because a peak is what a device can do: on a busy machine, the median was under the rate
    of the training step itself.
    """
    dtype = torch.bfloat16 if where.in_bf16 else torch.float32
    side = _FIRST_SIDE
    while True:
        # Below 1 in norm and many in number, so that bf16 neither overflows nor sees zeros.
        factor = where.numbers(side, side).to(dtype)

        def product(factor: torch.Tensor = factor) -> torch.Tensor:
            # As the layers of a network lay it out: without bf16 in hardware, a plain product is slower than this.
            return functional.linear(factor, factor)

        if side >= _LAST_SIDE or min(_seconds(product, where, repeats=1)) > _LONG_S:
            return 2 * side**3 / min(_seconds(product, where, repeats=_REPEATS))
        side *= 2


def copied_bytes_s(where: Device) -> float:
    """Measure how fast memory is read and written together, by a copy."""
    source = where.numbers(_COPIED_BYTES // 4)
    target = torch.empty_like(source)
    return 2 * _COPIED_BYTES / seconds_of(lambda: target.copy_(source), where)


def sequence_seconds(sizes: BlockSizes, where: Device, *, length: int, num_sequences: int, flops_s: float) -> float:
    """Measure forward and backward of one block, in the attention that training uses.

    Args:
        sizes: of the block.
        where: it runs.
        length: tokens of a sequence.
        num_sequences: that are computed together; fewer are timed where they would take long.
        flops_s: rate of a plain product.

    Returns:
        Seconds for each sequence.
    """
    long = _BLOCK_S * flops_s / (3 * block_flops([length], width=sizes.width, mlp_ratio=sizes.mlp_ratio))
    timed = max(1, min(num_sequences, int(long)))
    blocks = make_blocks(
        1,
        width=sizes.width,
        num_heads=sizes.num_heads,
        mlp_ratio=sizes.mlp_ratio,
        norm_eps=sizes.norm_eps,
        drop_path=0.0,
    )
    initialise(blocks, seed=0, prefix="timed")
    set_fused_attention(blocks, fused=where.fused)
    blocks.to(where.device)
    tokens = where.numbers(timed, length, sizes.width).requires_grad_()
    gradient = where.numbers(timed, length, sizes.width)

    def work() -> None:
        with torch.autocast(where.device.type, dtype=torch.bfloat16, enabled=where.in_bf16):
            decoded = blocks[0](tokens, attn_mask=None)
        decoded.backward(gradient.to(decoded.dtype))

    return seconds_of(work, where) / timed
