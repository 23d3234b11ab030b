"""What a run costs."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch.nn import functional

from anyband.data.image_sets import SetDraw
from anyband.data.store import ChipStore
from anyband.encode.encoder import available_bytes, precision_note
from anyband.errors import RecipeError
from anyband.models.autoencoder import Autoencoder, AutoencoderConfig
from anyband.models.encodings import count_features
from anyband.models.masking import count_decoded, count_visible
from anyband.models.vit import initialise, make_blocks, set_fused_attention
from anyband.pretrain.batches import NUM_STEM_BANDS, BatchPreparer
from anyband.pretrain.plan import RunPlan
from anyband.pretrain.recipe import PretrainRecipe, RunRecipe

__all__ = [
    "BatchFlops",
    "BatchShape",
    "BlockSizes",
    "Device",
    "Meter",
    "Place",
    "Reached",
    "RunCost",
    "RunShapes",
    "SampleTokens",
    "StepSeconds",
    "batch_flops",
    "block_flops",
    "check_step_memory",
    "copied_bytes_s",
    "cost_lines",
    "count_processes",
    "count_weights",
    "duration",
    "peak_flops_s",
    "raw_bytes",
    "reached_lines",
    "run_cost",
    "sample_tokens",
    "scaled",
    "seconds_of",
    "sequence_seconds",
    "step_bytes",
    "stored_bytes",
]

ReadT = TypeVar("ReadT")

# A clock that does not move between two looks would divide by nothing.
_LEAST_S = 1e-9


@dataclass(frozen=True, kw_only=True)
class Reached:
    """What some steps reached. Scoring and saving between them do not count."""

    num_steps: int = 0
    """Steps."""
    num_images: int = 0
    """Images of them, over all processes."""
    flops: float = 0.0
    """Operations of the model that they took, over all processes."""
    seconds: float = 0.0
    """Time that they took."""
    waited_s: float = 0.0
    """Part of it in which this process waited for the next batch to be read."""
    peak_flops_s: float | None = None
    """Measured rate of a plain matrix product, of all processes together; None: not measured."""

    @property
    def flops_s(self) -> float:
        """Operations of the model a second."""
        return self.flops / max(self.seconds, _LEAST_S)

    @property
    def mfu(self) -> float | None:
        """Model FLOP utilisation, a share of the measured peak; None: that was not measured."""
        return None if self.peak_flops_s is None else self.flops_s / self.peak_flops_s

    @property
    def data_wait(self) -> float:
        """Share of the time that was waited."""
        return self.waited_s / max(self.seconds, _LEAST_S)

    @property
    def images_per_s(self) -> float:
        """Images a second."""
        return self.num_images / max(self.seconds, _LEAST_S)

    def plus(self, other: "Reached") -> "Reached":
        """Add later steps."""
        return Reached(
            num_steps=self.num_steps + other.num_steps,
            num_images=self.num_images + other.num_images,
            flops=self.flops + other.flops,
            seconds=self.seconds + other.seconds,
            waited_s=self.waited_s + other.waited_s,
            peak_flops_s=other.peak_flops_s,
        )


class Meter:
    """Counts from one row of metrics.csv to the next, and over all of them.

    It looks at the clock of the host only: on a GPU no step waits for it.
    """

    def __init__(self, *, peak_flops_s: float | None) -> None:
        """Begin now.

        Args:
            peak_flops_s: rate of a plain matrix product, of all processes together; None: not measured.
        """
        self._peak_flops_s = peak_flops_s
        self.total = Reached(peak_flops_s=peak_flops_s)
        self.restart()

    def restart(self) -> None:
        """Forget what happened since the last row: it was no step."""
        self._begun = time.perf_counter()
        self._num_steps, self._num_images, self._flops, self._waited_s = 0, 0, 0.0, 0.0

    def take(self, read: Iterator[ReadT], count: int) -> Iterator[ReadT]:
        """Take the next things that are read, and count how long each is waited for."""
        for _ in range(count):
            begun = time.perf_counter()
            one = next(read)
            self._waited_s += time.perf_counter() - begun
            yield one

    def did(self, *, num_images: int, flops: float) -> None:
        """Count a step."""
        self._num_steps += 1
        self._num_images += num_images
        self._flops += flops

    def row(self) -> Reached:
        """Tell what was reached since the last row, add it to the total, and begin anew."""
        found = Reached(
            num_steps=self._num_steps,
            num_images=self._num_images,
            flops=self._flops,
            seconds=time.perf_counter() - self._begun,
            waited_s=self._waited_s,
            peak_flops_s=self._peak_flops_s,
        )
        self.total = self.total.plus(found)
        self.restart()
        return found


@dataclass(frozen=True, kw_only=True)
class BatchShape:
    """What a batch holds, as far as its arithmetic depends on it."""

    num_samples: int
    """Pairs or sets."""
    num_slots: int
    """Images of each."""
    groups: tuple[tuple[int, int], ...]
    """(bands, images) of the images that share one projection. Of pairs, the first images and then the second."""
    apart: bool = False
    """Whether the images of a set stand in two sequences."""
    hides_last: bool = False
    """Whether the last image of each set is hidden whole."""


@dataclass(frozen=True, kw_only=True)
class SampleTokens:
    """How many tokens of a sample pass each part of the network."""

    encoder: tuple[int, ...]
    """Tokens of each sequence of the encoder, with CLS."""
    decoder: tuple[int, ...]
    """Tokens of each sequence of the decoder, with CLS."""
    projected: int
    """Tokens of each image that are projected."""
    compared: float
    """Tokens of each image that are reconstructed, on average over the images."""


@dataclass(frozen=True, kw_only=True)
class BatchFlops:
    """Floating-point operations of matrix products, a multiplication and an addition counted as two."""

    blocks: float = 0.0
    """Forward, of all transformer blocks."""
    maps: float = 0.0
    """Forward, of the map into the decoder and of the reconstruction."""
    first: float = 0.0
    """Forward, of products of which one side needs no gradient: projection, weights from ranges, encodings."""
    fixed: float = 0.0
    """Forward, of products of which neither side does: pixels of many bands shared out to ranges."""

    @property
    def trained(self) -> float:
        """Forward and backward: a product takes as much again for each side that needs a gradient.

        Computing a block again for the gradient is no work of the model and does not count.
        """
        return 3 * (self.blocks + self.maps) + 2 * self.first + self.fixed

    def computed(self, *, recompute: bool) -> float:
        """Count what the device does: with recomputation the blocks once more."""
        return self.trained + (self.blocks if recompute else 0.0)

    def plus(self, other: "BatchFlops", *, times: float = 1.0) -> "BatchFlops":
        """Add another batch, so many times."""
        return BatchFlops(
            blocks=self.blocks + times * other.blocks,
            maps=self.maps + times * other.maps,
            first=self.first + times * other.first,
            fixed=self.fixed + times * other.fixed,
        )


def block_flops(lengths: Sequence[int], *, width: int, mlp_ratio: float) -> float:
    """Count the forward operations of one block on some sequences: four maps, and attention's two products.

    Args:
        lengths: tokens of each sequence.
        width: of a token.
        mlp_ratio: width of the hidden layer over `width`.
    """
    maps = 2 * (4 * width**2 + 2 * width * int(width * mlp_ratio))
    return float(sum(length * maps + 4 * length**2 * width for length in lengths))


def sample_tokens(config: AutoencoderConfig, shape: BatchShape) -> SampleTokens:
    """Count the tokens of a sample, of which every sequence has one CLS more.

    Where the images of a set do not all leave as many tokens visible (the last one hidden, or masks as released),
    every token is projected, decoded and compared, and the set is one sequence.

    Args:
        config: of the network.
        shape: of the batch.
    """
    num_tokens = config.encoder.grid[0] * config.encoder.grid[1]
    visible = count_visible(num_tokens, config.mask_ratio)
    if config.images == "set" and (shape.hides_last or config.masking == "released"):
        seen = visible * (shape.num_slots - (shape.hides_last and shape.num_slots > 1))
        return SampleTokens(
            encoder=(1 + seen,),
            decoder=(1 + num_tokens * shape.num_slots,),
            projected=num_tokens,
            compared=float(num_tokens),
        )
    decoded = count_decoded(num_tokens - visible, config.decode_ratio)
    in_sequences = _images_of_sequences(config, shape)
    return SampleTokens(
        encoder=tuple(1 + visible * count for count in in_sequences),
        decoder=tuple(1 + (visible + decoded) * count for count in in_sequences),
        projected=visible,
        compared=float(decoded),
    )


def _images_of_sequences(config: AutoencoderConfig, shape: BatchShape) -> tuple[int, ...]:
    if config.images == "pair":
        return (1, 1)
    second = shape.num_slots // 2
    return (shape.num_slots - second, second) if shape.apart and second else (shape.num_slots,)


def batch_flops(config: AutoencoderConfig, shape: BatchShape, *, num_parts: int = 1) -> BatchFlops:
    """Count the operations of a batch. Norms, activations and sums are no matrix products and do not count.

    Args:
        config: of the network.
        shape: of the whole batch.
        num_parts: pieces that it is computed in, over all processes; each makes the weights of its sensors anew.
    """
    encoder, decoder = config.encoder, config.decoder
    tokens = sample_tokens(config, shape)
    blocks = sum(
        depth * block_flops(lengths, width=width, mlp_ratio=encoder.mlp_ratio)
        for depth, lengths, width in (
            (encoder.depth, tokens.encoder, encoder.embed_dim),
            (decoder.decoder_depth, tokens.decoder, decoder.decoder_embed_dim),
        )
    )
    embedded = 2 * sum(tokens.encoder) * encoder.embed_dim * decoder.decoder_embed_dim
    predicted = encoder.patch_size**2 + 2 * config.levels
    groups = _reconstructed(config, shape)
    values = 2 * predicted * tokens.compared
    mapped = sum(count * times * min(bands, encoder.num_ranges) for (bands, count), times in groups)
    shared = sum(count * times * _shared(bands, encoder.num_ranges) for (bands, count), times in groups)
    pixels = 2 * tokens.projected * encoder.patch_size**2
    return BatchFlops(
        blocks=shape.num_samples * blocks,
        maps=shape.num_samples * embedded + values * mapped * decoder.decoder_embed_dim,
        first=_first_flops(config, shape, tokens.projected)
        + num_parts * _weights_flops(config, shape)
        + values * shared,
        fixed=float(pixels * sum(count * _shared(bands, encoder.num_ranges) for bands, count in shape.groups)),
    )


def _shared(bands: int, num_ranges: int) -> int:
    """Count the products that share out one pixel position between bands and ranges: see `models.spectral`."""
    return bands * num_ranges if bands > num_ranges else 0


def _reconstructed(config: AutoencoderConfig, shape: BatchShape) -> list[tuple[tuple[int, int], int]]:
    """Tell how often each group is reconstructed: as released, the second images of pairs are predicted twice."""
    twice = config.images == "pair" and config.mixup == "released"
    return [(group, 1 + (twice and index == 1)) for index, group in enumerate(shape.groups)]


def _first_flops(config: AutoencoderConfig, shape: BatchShape, projected: int) -> float:
    encoder = config.encoder
    of_pixel = encoder.embed_dim * sum(count * min(bands, encoder.num_ranges) for bands, count in shape.groups)
    features = count_features(encoder.encodings, num_ranges=encoder.num_ranges)
    widths = encoder.embed_dim + config.decoder.decoder_embed_dim
    of_images = shape.num_samples * shape.num_slots * features * widths
    return float(2 * (projected * encoder.patch_size**2 * of_pixel + of_images))


def _weights_flops(config: AutoencoderConfig, shape: BatchShape) -> float:
    """Count what makes each sensor's weights and biases of those of the ranges, once for each part of a batch."""
    encoder, width = config.encoder, config.decoder.decoder_embed_dim
    values = encoder.patch_size**2
    projection = (values + 1) * encoder.embed_dim
    reconstruction = (values + 2 * config.levels) * (width + 1)
    return float(
        sum(
            2 * bands * encoder.num_ranges * (projection + times * reconstruction)
            for (bands, _), times in _reconstructed(config, shape)
            if bands <= encoder.num_ranges
        )
    )


# chosen: batches spread over a run tell its mean; drawing one may cost the order of a whole round.
_LOOKED_AT = 16


class RunShapes:
    """Tells what a draw of a run costs."""

    def __init__(self, plan: RunPlan, *, num_parts: int) -> None:
        """Look up the array of each chip, once.

        Args:
            plan: of the run.
            num_parts: pieces of a batch, over all processes.
        """
        self._plan = plan
        self._config = plan.config
        self._num_parts = num_parts
        column = plan.store.index.column("array").combine_chunks().dictionary_encode()
        self._codes = column.indices.to_numpy(zero_copy_only=False)
        self._names: list[str] = column.dictionary.to_pylist()

    def drawn(self) -> list[Any]:
        """Draw batches spread over the run, from the first on."""
        plan = self._plan
        sampler = plan.samples.sampler(batch_size=plan.recipe.optim.batch_size, seed=plan.recipe.seed)
        steps = np.unique(np.linspace(0, plan.total_steps - 1, _LOOKED_AT).astype(np.int64))
        return [sampler.batch(int(step)) for step in steps]

    def images(self, draw: SetDraw) -> dict[str, int]:
        """Count the images of a batch that are of each array."""
        counts = np.bincount(self._codes[draw.chips].ravel(), minlength=len(self._names))
        return {name: int(count) for name, count in zip(self._names, counts, strict=True) if count}

    def shape(self, draw: SetDraw, *, hides_last: bool = False) -> BatchShape:
        """Tell the shape of a batch."""
        config = self._config
        chips = draw.chips
        num_samples, num_slots = chips.shape
        if config.images == "pair":
            groups = tuple((self._bands(self._names[self._codes[chip]]), num_samples) for chip in chips[0])
            return BatchShape(num_samples=num_samples, num_slots=num_slots, groups=groups)
        return BatchShape(
            num_samples=num_samples,
            num_slots=num_slots,
            groups=tuple((self._bands(name), count) for name, count in self.images(draw).items()),
            apart=config.mixup == "mirrored" and config.sequence == "apart" and bool(draw.partnered),
            hides_last=hides_last,
        )

    def flops(self, draw: SetDraw) -> BatchFlops:
        """Count the operations of a batch; of hidden images, what is to be expected."""
        share = self._plan.recipe.model.hidden_image if draw.chips.shape[1] > 1 else 0.0
        whole = BatchFlops().plus(self._flops(draw, hides_last=False), times=1.0 - share)
        return whole.plus(self._flops(draw, hides_last=True), times=share) if share else whole

    def _flops(self, draw: SetDraw, *, hides_last: bool) -> BatchFlops:
        return batch_flops(
            self._config,
            self.shape(draw, hides_last=hides_last),
            num_parts=self._num_parts,
        )

    def _bands(self, array: str) -> int:
        if self._plan.recipe.model.stem == "triplet":
            return NUM_STEM_BANDS
        return len(self._plan.inputs[array].assignment.kept_index)


def stored_bytes(store: ChipStore, array: str) -> float | None:
    """Tell what a chip takes on the disk, with what says where it is valid; None: the store is not in a folder."""
    if isinstance(store.path, str):
        return None
    folders = [store.path / kind / array for kind in ("chips", "valid")]
    sizes = (file.stat().st_size for folder in folders if folder.is_dir() for file in folder.rglob("*"))
    return sum(sizes) / max(store.arrays[array].num_chips, 1)


def raw_bytes(store: ChipStore, array: str) -> int:
    """Tell what a chip takes in stored numbers: what travels to the device."""
    info = store.arrays[array]
    return len(info.bands) * info.height * info.width * np.dtype(info.dtype).itemsize


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


_GB = 1e9
# Values that a block of a transformer keeps for the gradient, for each token and unit of width, beside the hidden
# layer: its input, both norms, queries, keys and values, what attention gives, and the sum behind it.
_KEPT = 8
# Compiled, norms and activations are computed anew.
_KEPT_COMPILED = 6
# In mixed precision the input and the sum behind attention stay in float32.
_KEPT_FLOAT32 = 2
# float32 weights, their gradients and the two moments of AdamW.
_BYTES_OF_WEIGHT = 16
# A float32 number: a weight, a gradient, and what passes from block to block also in mixed precision.
_BYTES_OF_FLOAT32 = 4
# The copy of a weight that mixed precision computes with, from the forward pass on.
_BYTES_OF_COPY = 2


def step_bytes(
    recipe: PretrainRecipe,
    config: AutoencoderConfig,
    *,
    num_samples: int,
    num_images: int,
    fused: bool,
    num_processes: int = 1,
) -> int:
    """Estimate the least memory that a training step takes at its peak, in each process.

    Weights take 16 bytes each, which processes share with `run.strategy: fsdp`. Beside them stands what the gradient
    needs: for each token, block and unit of width 8 + 2 · mlp_ratio values (6 + mlp_ratio where blocks are compiled),
    of 4 bytes, or 2 in mixed precision. Only the visible tokens pass the encoder; the decoder sees them and what is
    decoded. Plain attention keeps the scores of all pairs of tokens too. With `run.recompute` blocks keep their input
    only, and one block at a time the rest.

    Args:
        recipe: of the run.
        config: of the network.
        num_samples: pairs or sets that are computed at once.
        num_images: of each.
        fused: whether attention keeps no scores.
        num_processes: of the run.
    """
    encoder, decoder = config.encoder, config.decoder
    num_tokens = encoder.grid[0] * encoder.grid[1]
    visible = count_visible(num_tokens, config.mask_ratio)
    decoded = visible + count_decoded(num_tokens - visible, config.decode_ratio)
    num_sequences = 1
    if config.images == "pair" or config.sequence == "apart":
        num_sequences = min(2, num_images)
    inputs, all_kept, most_kept = 0, 0, 0
    for tokens, width, depth, heads in (
        (visible, encoder.embed_dim, encoder.depth, encoder.num_heads),
        (decoded, decoder.decoder_embed_dim, decoder.decoder_depth, decoder.decoder_num_heads),
    ):
        length = tokens * num_images
        kept = length * width * _bytes_kept(recipe)
        scores = 0 if fused else _bytes_of_value(recipe) * heads * length * (length // num_sequences)
        inputs += num_samples * depth * length * width * _BYTES_OF_FLOAT32
        all_kept += num_samples * depth * (kept + scores)
        most_kept = max(most_kept, num_samples * (kept + scores))
    of_tokens = inputs + most_kept if recipe.run.recompute else all_kept
    return _bytes_of_weights(recipe, config, num_processes) + of_tokens


def check_step_memory(
    recipe: PretrainRecipe, config: AutoencoderConfig, *, num_images: int, device: torch.device, num_processes: int
) -> None:
    """See that a training step fits the memory that is free.

    Args:
        recipe: of the run.
        config: of the network.
        num_images: most images of a pair or set.
        device: that a process computes on.
        num_processes: of the run; on CPUs those of one machine share its memory.

    Raises:
        RecipeError: it doesn't; how much it needs, and which keys lower it.
    """
    free = available_bytes(device)
    if free is None:
        return
    optim = recipe.optim
    num_samples = max(1, optim.batch_size // (optim.accumulate * num_processes))
    fused = not (device.type == "cpu" and optim.precision.startswith("bf16"))
    together = max(1, num_processes // recipe.run.num_nodes) if device.type == "cpu" else 1
    needed = together * step_bytes(
        recipe, config, num_samples=num_samples, num_images=num_images, fused=fused, num_processes=num_processes
    )
    if needed <= free:
        return
    keeps_less = "" if recipe.run.recompute else "; run.recompute=true keeps less of each block"
    sample, size_key = ("pairs", "") if config.images == "pair" else ("sets", "data.sets.size, ")
    tokens = config.encoder.grid[0] * config.encoder.grid[1] * num_images
    raise RecipeError(
        f"a step of {num_samples} {sample} of up to {num_images} images ({tokens:,} tokens) needs at least "
        f"{needed / _GB:,.1f} GB on '{device}', and {free / _GB:,.1f} GB are free; lower {size_key}optim.batch_size, "
        "model.img_size or the sizes of the network, or cut the batch into more parts with optim.accumulate "
        f"(now {optim.accumulate}), which changes nothing else{keeps_less}"
    )


def _bytes_kept(recipe: PretrainRecipe) -> int:
    ratio = recipe.model.mlp_ratio
    values = _KEPT_COMPILED + ratio if recipe.run.compile else _KEPT + 2 * ratio
    in_float32 = _KEPT_FLOAT32 if _bytes_of_value(recipe) == 2 else 0
    return int(_bytes_of_value(recipe) * (values + in_float32))


def _bytes_of_value(recipe: PretrainRecipe) -> int:
    return 2 if recipe.optim.precision.startswith("bf16") else 4


def _bytes_of_weights(recipe: PretrainRecipe, config: AutoencoderConfig, num_processes: int) -> int:
    """Add up weights, gradients and moments, and what stands whole beside them where processes hold shares."""
    count = _num_weights(config)
    if recipe.run.strategy != "fsdp":
        return _BYTES_OF_WEIGHT * count
    # The block at work is whole, and so is its gradient.
    total = _BYTES_OF_WEIGHT * count // num_processes + 2 * _BYTES_OF_FLOAT32 * max(_weights_of_blocks(config))
    if _bytes_of_value(recipe) == 2:
        total += _BYTES_OF_COPY * count
    if recipe.optim.accumulate > 1:
        # Gradients of parts are added up before they are sent, whole.
        total += _BYTES_OF_FLOAT32 * count
    return total


def _weights_of_blocks(config: AutoencoderConfig) -> tuple[int, int]:
    """Count the weights of a block of the encoder and of one of the decoder."""
    of_block = 4 + 2 * config.encoder.mlp_ratio
    widths = (config.encoder.embed_dim, config.decoder.decoder_embed_dim)
    return int(of_block * widths[0] ** 2), int(of_block * widths[1] ** 2)


def _num_weights(config: AutoencoderConfig) -> int:
    """Count the weights of blocks and of the maps of ranges; what is left out is small."""
    encoder, decoder = config.encoder, config.decoder
    of_encoder, of_decoder = _weights_of_blocks(config)
    blocks = encoder.depth * of_encoder + decoder.decoder_depth * of_decoder
    of_ranges = encoder.num_ranges * encoder.patch_size**2 * (encoder.embed_dim + decoder.decoder_embed_dim)
    return int(blocks + of_ranges)


# Weights, their gradients and two moments are read, weights and moments written, in float32.
_BYTES_OF_UPDATE = 7 * 4
# chosen: samples that are read and prepared to see how long it takes: quick, and enough to fill a read.
_TRIED = 32


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run is done."""

    where: Device
    """The device of a process, and its arithmetic."""
    num_processes: int
    """Processes of the run."""
    peak_flops_s: float
    """Measured rate of a plain matrix product on one of the devices."""


@dataclass(frozen=True, kw_only=True)
class StepSeconds:
    """Where the time of a step is expected to go. It takes their sum: nothing is assumed to be done meanwhile."""

    blocks: float
    """Blocks forward and backward: one of encoder and decoder timed, times their number."""
    maps: float
    """The other products, at the rate that the blocks reach."""
    preparing: float
    """Harmonising, cropping and resizing on the device: timed on some samples."""
    optimizer: float
    """Bytes of weights, gradients and moments at the rate of a copy."""

    @property
    def total(self) -> float:
        """Seconds of a step."""
        return self.blocks + self.maps + self.preparing + self.optimizer


@dataclass(frozen=True, kw_only=True)
class RunCost:
    """An estimate. Left out are reading where it is slower than computing, losses and norms outside of the blocks,
    what processes tell each other, compilation (which makes blocks quicker), validation, panels and saving."""

    place: Place
    """Where the run is done."""
    noun: str
    """pair or set."""
    num_weights: int
    """Weights of the network with its decoder."""
    batch_size: int
    """Samples of a step, over all processes."""
    num_steps: int
    """Steps that are left."""
    flops: BatchFlops
    """Forward operations of a step, over all processes; the mean of batches spread over the run."""
    seconds: StepSeconds
    """Expected of a step."""
    needed_bytes: int
    """Memory that a step needs at least, on the device of one process; where CPUs share theirs, of all of them."""
    free_bytes: int | None
    """Memory that is free there; None: nobody says."""
    stored_bytes: float | None
    """Of a step as stored on the disk; None: the store is not in a folder."""
    raw_bytes: float
    """Of a step in stored numbers."""
    read_samples_s: float
    """Samples that one thread read in a second, waiting for each other thing it does."""
    workers: int
    """Threads that read ahead in each process."""

    @property
    def flops_a_sample(self) -> float:
        """Operations that training on a pair or set takes."""
        return self.flops.trained / self.batch_size

    @property
    def computed_samples_s(self) -> float:
        """Samples a second that all processes are expected to compute."""
        return self.batch_size / self.seconds.total

    @property
    def mfu(self) -> float:
        """Model FLOP utilisation that is expected."""
        return self.flops.trained / self.seconds.total / (self.place.num_processes * self.place.peak_flops_s)

    @property
    def reading_limits(self) -> bool:
        """Whether one reading thread a process is slower than computing, so that it matters how well threads add up."""
        return self.read_samples_s * self.place.num_processes < self.computed_samples_s


def count_processes(run: RunRecipe, device: torch.device) -> int:
    """Count the processes that a run would have, as the recipe says and this machine has devices."""
    if run.devices != "auto":
        return run.num_nodes * run.devices
    return run.num_nodes * (torch.cuda.device_count() if device.type == "cuda" else 1)


def count_weights(config: AutoencoderConfig) -> int:
    """Count the weights of a network with its decoder; none are drawn."""
    return sum(parameter.numel() for parameter in Autoencoder(config, seed=None).parameters())


def run_cost(plan: RunPlan, place: Place, *, first_step: int) -> RunCost:
    """Reckon the steps of a run from short measurements.

    No global generator is drawn from, and no network that is trained is touched. It takes a second or two: blocks are
    timed at the run's own lengths, on fewer samples where they are large.

    Args:
        plan: of the run.
        place: where it is done.
        first_step: that is done next.

    Raises:
        StoreError: the store is damaged.
    """
    optim = plan.recipe.optim
    shapes = RunShapes(plan, num_parts=optim.accumulate * place.num_processes)
    draws = shapes.drawn()
    flops = BatchFlops()
    for draw in draws:
        flops = flops.plus(shapes.flops(draw), times=1 / len(draws))
    read_s, prepare_s = _tried_seconds(plan, place, draws[0].part(slice(0, min(_TRIED, optim.batch_size))))
    blocks_s = _blocks_seconds(plan, place, [shapes.shape(draw) for draw in draws])
    num_weights = count_weights(plan.config)
    of_blocks = 3 * flops.blocks
    return RunCost(
        place=place,
        noun="pair" if plan.recipe.data.sets is None else "set",
        num_weights=num_weights,
        batch_size=optim.batch_size,
        num_steps=plan.total_steps - first_step,
        flops=flops,
        seconds=StepSeconds(
            blocks=blocks_s * (4 / 3 if plan.recipe.run.recompute else 1.0),
            maps=blocks_s * (flops.trained - of_blocks) / of_blocks,
            preparing=prepare_s * optim.batch_size / place.num_processes,
            optimizer=num_weights * _BYTES_OF_UPDATE / copied_bytes_s(place.where),
        ),
        needed_bytes=_needed_bytes(plan, place),
        free_bytes=available_bytes(place.where.device),
        stored_bytes=_mean_bytes(shapes, draws, {name: stored_bytes(plan.store, name) for name in plan.inputs}),
        raw_bytes=_mean_bytes(shapes, draws, {name: float(raw_bytes(plan.store, name)) for name in plan.inputs}) or 0.0,
        read_samples_s=1 / read_s,
        workers=plan.recipe.run.workers,
    )


def _mean_bytes(shapes: RunShapes, draws: list[Any], of_chip: dict[str, float | None]) -> float | None:
    """Average the bytes of batches; None where those of an array are not known."""
    known = {name: size for name, size in of_chip.items() if size is not None}
    if len(known) < len(of_chip):
        return None
    totals = [sum(count * known[name] for name, count in shapes.images(draw).items()) for draw in draws]
    return float(np.mean(totals))


def _blocks_seconds(plan: RunPlan, place: Place, shapes: list[BatchShape]) -> float:
    """Time one block of encoder and of decoder at each length of the run, and add up what a process's blocks take."""
    recipe, config = plan.recipe, plan.config
    encoder, decoder = config.encoder, config.decoder
    timed: dict[tuple[int, int], float] = {}
    total = 0.0
    for shape in shapes:
        tokens = sample_tokens(config, shape)
        for depth, lengths, width, heads in (
            (encoder.depth, tokens.encoder, encoder.embed_dim, encoder.num_heads),
            (decoder.decoder_depth, tokens.decoder, decoder.decoder_embed_dim, decoder.decoder_num_heads),
        ):
            for length in lengths:
                if (length, width) not in timed:
                    timed[length, width] = sequence_seconds(
                        BlockSizes(
                            width=width, num_heads=heads, mlp_ratio=encoder.mlp_ratio, norm_eps=encoder.norm_eps
                        ),
                        place.where,
                        length=length,
                        num_sequences=_part_size(recipe, place) * lengths.count(length),
                        flops_s=place.peak_flops_s,
                    )
                total += depth * shape.num_samples * timed[length, width]
    return total / len(shapes) / place.num_processes


def _part_size(recipe: PretrainRecipe, place: Place) -> int:
    return max(1, recipe.optim.batch_size // (recipe.optim.accumulate * place.num_processes))


def _tried_seconds(plan: RunPlan, place: Place, draw: SetDraw) -> tuple[float, float]:
    """Read and prepare some samples, once to warm up and once timed: seconds of each for a sample."""
    preparer = BatchPreparer(plan.recipe, plan.inputs, device=place.where.device)
    seconds = (0.0, 0.0)
    for _ in range(2):
        begun = time.perf_counter()
        raw = plan.samples.read(draw)
        read = time.perf_counter()
        preparer.prepare(raw, step=0)
        place.where.wait()
        seconds = (read - begun, time.perf_counter() - read)
    return seconds[0] / len(draw.samples), seconds[1] / len(draw.samples)


def _needed_bytes(plan: RunPlan, place: Place) -> int:
    run, on_cpu = plan.recipe.run, place.where.device.type == "cpu"
    together = max(1, place.num_processes // run.num_nodes) if on_cpu else 1
    return together * step_bytes(
        plan.recipe,
        plan.config,
        num_samples=_part_size(plan.recipe, place),
        num_images=plan.samples.most_images,
        fused=place.where.fused,
        num_processes=place.num_processes,
    )


_MINUTE_S, _HOUR_S, _DAY_S = 60.0, 3600.0, 86_400.0
# Steps between prefixes of SI.
_THOUSAND = 1000.0


def scaled(value: float, unit: str) -> str:
    """Write a number with three digits and a prefix: 117 GFLOP."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        # 999.6 would be written as 1e+03.
        if abs(value) < _THOUSAND - 0.5:
            return f"{value:.3g} {prefix}{unit}"
        value /= _THOUSAND
    return f"{value:.3g} E{unit}"


def duration(seconds: float) -> str:
    """Write a time in the unit that fits."""
    if seconds < _MINUTE_S:
        return f"{seconds:.3g} s"
    if seconds < _HOUR_S:
        return f"{seconds / _MINUTE_S:.3g} min"
    return f"{seconds / _HOUR_S:.3g} h" if seconds < _DAY_S else f"{seconds / _DAY_S:.3g} days"


def cost_lines(cost: RunCost) -> list[str]:
    """Say what a run is expected to cost."""
    place, seconds = cost.place, cost.seconds
    many = f" × {place.num_processes} processes" if place.num_processes > 1 else ""
    precision = "bf16" if place.where.in_bf16 else "float32"
    free = "" if cost.free_bytes is None else f", {scaled(float(cost.free_bytes), 'B')} are free"
    noun, trained = cost.noun, cost.flops.trained
    parts = (
        f"blocks {duration(seconds.blocks)}, other products {duration(seconds.maps)}, "
        f"preparing {duration(seconds.preparing)}, optimiser {duration(seconds.optimizer)}"
    )
    imitated = precision_note(place.where.device, place.where.precision)
    return [
        f"cost: {scaled(cost.flops_a_sample, 'FLOP')} a {noun}, {scaled(trained, 'FLOP')} a step of {cost.batch_size} "
        f"{noun}s, {scaled(cost.num_steps * trained, 'FLOP')} in {cost.num_steps} steps; "
        f"{cost.num_weights / 1e6:,.1f} million weights",
        f"cost: a matrix product in {precision} reaches {scaled(place.peak_flops_s, 'FLOP/s')} on "
        f"'{place.where.device}'{many} (measured)",
        f"cost: expected {duration(seconds.total)} a step ({parts}), "
        f"{duration(cost.num_steps * seconds.total)} in all, MFU {100 * cost.mfu:.0f} %",
        f"cost: a step needs at least {scaled(float(cost.needed_bytes), 'B')} of memory{free}",
        _reading_line(cost),
        _limit_line(cost),
        *([] if imitated is None else [f"cost: {imitated}"]),
    ]


def _reading_line(cost: RunCost) -> str:
    raw = scaled(cost.raw_bytes, "B")
    if cost.stored_bytes is None:
        return f"cost: a step reads {raw} of stored numbers, {scaled(cost.num_steps * cost.raw_bytes, 'B')} in all"
    return (
        f"cost: a step reads {scaled(cost.stored_bytes, 'B')} ({raw} of stored numbers unpacked), "
        f"{scaled(cost.num_steps * cost.stored_bytes, 'B')} in all; a {cost.noun} "
        f"{scaled(cost.stored_bytes / cost.batch_size, 'B')} ({scaled(cost.raw_bytes / cost.batch_size, 'B')})"
    )


def _limit_line(cost: RunCost) -> str:
    threads = f"{cost.workers} thread{'s' * (cost.workers > 1)}"
    what = (
        f"reading may limit: see data_wait in metrics.csv, and raise run.workers (now {threads})"
        if cost.reading_limits
        else "arithmetic limits"
    )
    return (
        f"cost: {what}; computing takes {cost.computed_samples_s:,.3g} {cost.noun}s a second, and one thread of "
        f"{'each' if cost.place.num_processes > 1 else 'the'} process read {cost.read_samples_s:,.3g} (measured)"
    )


def reached_lines(reached: Reached, expected: RunCost | None) -> list[str]:
    """Say what a run reached; nothing where it did no step."""
    if not reached.num_steps:
        return []
    mfu = "" if reached.mfu is None else f", {100 * reached.mfu:.1f} % of the measured peak (MFU)"
    before = "" if expected is None else f" (expected {duration(expected.seconds.total)})"
    return [
        f"reached: {scaled(reached.flops_s, 'FLOP/s')}{mfu}; {duration(reached.seconds / reached.num_steps)} a step"
        f"{before}; waited for data {100 * reached.data_wait:.1f} % of the time"
    ]
