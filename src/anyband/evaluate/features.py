"""Samples to features: how several images of a sample become one, extraction, and a cache by the weights' hash."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from anyband.arrays import Array, Bool, Float, Int
from anyband.encode.encoder import SensorEncoder, check_memory, set_batch
from anyband.encode.metadata import Pool
from anyband.errors import InputError
from anyband.evaluate.inputs import TaskReader
from anyband.evaluate.recipe import Fusion
from anyband.evaluate.samples import TaskBatch
from anyband.models.inputs import ImageBatch, SetMetadata
from anyband.models.masking import smallest_first
from anyband.models.vit import TokenSets
from anyband.models.weight_files import write_weights
from anyband.randomness import uniform

__all__ = [
    "Difference",
    "FeatureCache",
    "FusedEncoder",
    "Levels",
    "SiameseEncoder",
    "VectorMaker",
    "cache_key",
    "extract_features",
    "extract_levels",
    "mixed_tokens",
    "stacked_images",
    "weights_hash",
]

Levels = Sequence[int] | Literal["final"]
"""Blocks of the encoder, from 0, before the final norm; or the last block after it."""

Difference = Literal["absolute", "signed"]
"""How levels of two dates become one: |after − before|; or before beside after − before."""

# Source: SMARTIES, section 3.2: half of the tokens of a' are of a.
_MIXUP_RATIO = 0.5


class FusedEncoder(nn.Module):
    """Encode samples whose images are fused; the order of a batch's samples changes no sample's features.

    - `single`: the sample's only image.
    - `stack`: one token from the bands of all images; what is known of the first image is told.
    - `concat`: each image by itself, their features side by side.
    - `mixup_concat`: two images a and b exchange half of their tokens, drawn for each sample by `seed`; the mixed
      images are encoded whole, their features side by side. A token that is hidden stays so wherever it goes.
    - `joint`: the images are one sequence.

    The encoder's weights are shared, not copied. By `pool` a vector is the CLS token, or the mean of the patches that
    are not hidden; of a joint sequence the mean over its images of theirs. With `metadata` the network is told what a
    batch knows of its images.
    Source: SMARTIES (arXiv 2506.19585), table 8; joint sequences are those of A²-MAE (arXiv 2406.08079).
    """

    def __init__(self, encoder: SensorEncoder, *, fusion: Fusion, pool: Pool, seed: int, metadata: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.fusion = fusion
        self.pool = pool
        self.seed = seed
        self.metadata = metadata

    def settings(self) -> dict[str, Any]:
        drawn = {"seed": self.seed} if self.fusion == "mixup_concat" else {}
        return {"fusion": self.fusion, "pool": self.pool, "metadata": self.metadata, **drawn}

    def width(self, num_slots: int) -> int:
        """Count the numbers of the vector of a sample with so many images."""
        return self.encoder.config.embed_dim if self.fusion == "joint" else self.map_width(num_slots)

    def map_width(self, num_slots: int) -> int:
        """Count the numbers of each patch in a level of a sample with so many images."""
        return self.encoder.config.embed_dim * (1 if self.fusion in ("single", "stack") else num_slots)

    def forward(self, batch: TaskBatch, *, step: int = 0) -> Float[Tensor, "sample width"]:
        """Make one vector a sample, with gradients; `step` is of training, for what is drawn, 0 where nothing is."""
        sets = self._tokens(batch, step)
        sequence = self.encoder.encoder.encode_tokens(*self._sequences(sets))
        if self.pool == "cls":
            return rearrange(sequence[:, 0], "(s q) d -> s (q d)", s=len(batch))
        tokens = rearrange(sequence[:, 1:], "(s q) (k n) d -> s (q k) n d", s=len(batch), n=sets.tokens.shape[2])
        seen = tokens.new_ones(tokens.shape[:3]) if sets.hidden is None else (~sets.hidden).to(tokens.dtype)
        counts = seen.sum(dim=2, keepdim=True)
        means = (tokens * seen[..., None]).sum(dim=2) / counts.clamp(min=1)
        if self.fusion != "joint":
            return means.flatten(1)
        known = (counts > 0).to(tokens.dtype)
        return (means * known).sum(dim=1) / known.sum(dim=1).clamp(min=1)

    def levels(
        self, batch: TaskBatch, blocks: Levels, *, step: int = 0
    ) -> tuple[Float[Tensor, "sample width row col"], ...]:
        """Make maps of patch features after chosen blocks, with gradients; a block must be there, else `InputError`.
        A map has the first image's channels, then the next one's; patches that are hidden have numbers without meaning.
        """
        sets, encoder = self._tokens(batch, step), self.encoder.encoder
        tokens, hidden = self._sequences(sets)
        if blocks == "final":
            levels: tuple[Tensor, ...] = (encoder.encode_tokens(tokens, hidden)[:, 1:],)
        else:
            levels = encoder.token_levels(tokens, hidden, blocks=blocks)
        (rows, cols), samples = sets.grid, len(batch)
        return tuple(rearrange(one, "(s q) (k h w) d -> s (q k d) h w", s=samples, h=rows, w=cols) for one in levels)

    def _sequences(self, sets: TokenSets) -> tuple[Tensor, Tensor | None]:
        """Make sequences of (sample, slot, token, …): one a sample for joint sets, else one a slot."""
        first = 1 if self.fusion == "joint" else 0
        hidden = None if sets.hidden is None else sets.hidden.flatten(first, first + 1)
        return sets.tokens.flatten(first, first + 1), hidden

    def _tokens(self, batch: TaskBatch, step: int) -> TokenSets:
        """Project the images to what goes into the first block, (sample, slot, token, width)."""
        images, metadata = batch.images, batch.metadata if self.metadata else None
        if self.fusion == "stack":
            images, metadata = (stacked_images(images),), None if metadata is None else _slots_of(metadata, slice(0, 1))
        sets = self.encoder.encoder.embed_sets(set_batch(images, metadata))
        if self.fusion != "mixup_concat":
            return sets
        samples, shape = [int(sample) for sample in batch.samples], (sets.tokens.shape[2],)
        noise = uniform(self.seed, step=step, samples=samples, purpose="mixup concatenation", shape=shape)
        from_a = smallest_first(torch.from_numpy(noise), round(_MIXUP_RATIO * noise.shape[1]))
        return mixed_tokens(sets, from_a.to(sets.tokens.device))


class SiameseEncoder(nn.Module):
    """Levels of the change between two dates, which one encoder sees by themselves.
    `absolute` is for changed or not: exchanging the dates changes nothing. `signed` is for kinds of change: what was
    there, beside what was added; exchanging the dates turns the sign of the second half.
    Source: Daudt et al., "Fully convolutional siamese networks for change detection" (arXiv 1810.08462).
    """

    def __init__(self, encoder: FusedEncoder, *, difference: Difference) -> None:
        super().__init__()
        self.encoder = encoder
        self.difference = difference

    def settings(self) -> dict[str, Any]:
        return {**self.encoder.settings(), "difference": self.difference}

    def map_width(self, num_slots: int) -> int:
        """Count the numbers of each patch in a level of a sample with so many images, of both dates."""
        return self.encoder.map_width(num_slots // 2) * (1 if self.difference == "absolute" else 2)

    def levels(
        self, batch: TaskBatch, blocks: Levels, *, step: int = 0
    ) -> tuple[Float[Tensor, "sample width row col"], ...]:
        """Make maps of the change in patch features from images before, then as many after; both see the same draw."""
        half = len(batch.images) // 2
        before, after = (
            self.encoder.levels(_with_slots(batch, date), blocks, step=step)
            for date in (slice(0, half), slice(half, None))
        )
        changes = tuple(late - early for early, late in zip(before, after, strict=True))
        if self.difference == "absolute":
            return tuple(change.abs() for change in changes)
        return tuple(torch.cat([early, change], dim=1) for early, change in zip(before, changes, strict=True))


def mixed_tokens(sets: TokenSets, from_a: Bool[Tensor, "set token"]) -> TokenSets:
    """Exchange tokens of the images a and b of each set: a' takes those of a where `from_a`, b' the others.
    Tokens keep what they carry: a' + b' = a + b. A hidden token is hidden wherever it goes.
    Source: SMARTIES (arXiv 2506.19585), equations 1 and 2.
    """
    # Slot 0 keeps its own where `from_a`, and so does slot 1.
    own, other = sets.tokens, sets.tokens.flip(1)
    hidden = sets.hidden
    return TokenSets(
        tokens=torch.where(from_a[:, None, :, None], own, other),
        hidden=None if hidden is None else torch.where(from_a[:, None], hidden, hidden.flip(1)),
        grid=sets.grid,
    )


def stacked_images(images: Sequence[ImageBatch]) -> ImageBatch:
    """Put the bands of several images of each sample, given by slot and all of one size, into one image."""
    valid = None
    if any(image.valid is not None for image in images):
        valid = torch.cat(
            [torch.ones_like(one.pixels, dtype=torch.bool) if one.valid is None else one.valid for one in images], dim=1
        )
    return ImageBatch(
        pixels=torch.cat([image.pixels for image in images], dim=1),
        valid=valid,
        mixing=torch.cat([image.mixing for image in images]),
    )


def _with_slots(batch: TaskBatch, slots: slice) -> TaskBatch:
    metadata = None if batch.metadata is None else _slots_of(batch.metadata, slots)
    return TaskBatch(images=batch.images[slots], sensors=batch.sensors[slots], samples=batch.samples, metadata=metadata)


def _slots_of(metadata: SetMetadata, slots: slice) -> SetMetadata:
    return SetMetadata(**{name: one[:, slots] for name, one in vars(metadata).items()})


_Made = tuple[Tensor, ...]
"""Features of a batch: one tensor, or one for each level, the sample first."""


@runtime_checkable
class VectorMaker(Protocol):
    """A module that makes a vector of each sample; `settings` tell all that it depends on beside weights and images."""

    def __call__(self, batch: TaskBatch) -> Tensor: ...

    def settings(self) -> dict[str, Any]: ...


def extract_features(
    encoders: Mapping[str, VectorMaker],
    reader: TaskReader,
    samples: Sequence[int] | Int[Array, " sample"],
    *,
    cache: "FeatureCache | None",
    scale: float = 1.0,
    shown: bool = False,
) -> dict[str, Float[Array, "sample width"]]:
    """Make one vector a sample by each encoder, without gradients; nothing is varied.
    Args:
        samples: positions in the data.
        cache: where features are kept; None: nowhere.
        scale: share of their size to which images are reduced first.
    Raises:
        InputError: a sample can't be read, has features that are not finite, or another number of images than others
            where the fusion needs one; it is named.
    """
    makers = {name: (one, {"of": "vectors", **one.settings()}) for name, one in encoders.items()}
    found = _extracted(makers, lambda one, batch: (one(batch),), reader, samples, cache, scale=scale, shown=shown)
    return {name: tensors[0].numpy() for name, tensors in found.items()}


def extract_levels(
    encoder: FusedEncoder | SiameseEncoder,
    reader: TaskReader,
    samples: Sequence[int] | Int[Array, " sample"],
    *,
    blocks: Levels,
    cache: "FeatureCache | None",
    shown: bool = False,
) -> tuple[Float[Tensor, "sample width row col"], ...]:
    """Make maps of patch features after chosen blocks, as `extract_features`; all are held in CPU memory, once."""
    described = {"of": "levels", "blocks": blocks if blocks == "final" else list(blocks), **encoder.settings()}
    makers = {"": (encoder, described)}
    return _extracted(makers, lambda one, batch: one.levels(batch, blocks), reader, samples, cache, shown=shown)[""]


def _extracted(
    makers: Mapping[str, tuple[Any, Mapping[str, Any]]],
    make: Callable[[Any, TaskBatch], _Made],
    reader: TaskReader,
    samples: Sequence[int] | Int[Array, " sample"],
    cache: "FeatureCache | None",
    *,
    scale: float = 1.0,
    shown: bool,
) -> dict[str, _Made]:
    """Take what is kept, and read what is missing once and encode it by each that lacks it."""
    wanted = [int(sample) for sample in samples]
    if not wanted:
        raise InputError(f"no samples of '{reader.data.name}' were requested; there is nothing to encode")
    rows = {}
    for name, (module, described) in makers.items():
        key = "" if cache is None else _key_of(module, described, reader, scale)
        rows[name] = _Rows(wanted, reader.data.names, cache, key)
    todo = list(dict.fromkeys(sample for one in rows.values() for sample in one.missing))
    if todo:
        with _evaluating([module for module, _ in makers.values()]):
            for batch in reader.batches(np.array(todo), scale=scale, shown=shown):
                for name, (module, _) in makers.items():
                    lacking = np.flatnonzero([sample in rows[name].missing for sample in batch.samples.tolist()])
                    if len(lacking):
                        made = _encoded(module, make, batch, reader)
                        rows[name].add(batch.samples[lacking], tuple(one[torch.from_numpy(lacking)] for one in made))
        for one in rows.values():
            one.flush()
    return {name: one.of(wanted) for name, one in rows.items()}


def _encoded(module: Any, make: Callable[[Any, TaskBatch], _Made], batch: TaskBatch, reader: TaskReader) -> _Made:
    weights = next(module.parameters(), None)
    device = torch.device("cpu") if weights is None else weights.device
    if isinstance(module, FusedEncoder) and module.fusion == "joint":
        encoder = module.encoder.encoder
        rows, cols = (side // encoder.config.patch_size for side in batch.images[0].pixels.shape[2:])
        check_memory(encoder, num_sets=len(batch), num_images=len(batch.images), num_tokens=rows * cols)
    half = reader.recipe.input.precision == "bf16"
    with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
        made = tuple(one.float().cpu() for one in make(module, batch.to(device)))
    for one in made:
        wrong = np.flatnonzero(~one.flatten(1).isfinite().all(dim=1).numpy())
        if len(wrong):
            name = reader.data.names[int(batch.samples[wrong[0]])]
            raise InputError(
                f"the features of '{name}' are no finite numbers ({len(wrong)} of {len(batch)} samples of its batch); "
                "look at its pixels and its normalisation, or leave it out"
            )
    return made


@contextmanager
def _evaluating(modules: Sequence[nn.Module]) -> Iterator[None]:
    training = [module.training for module in modules]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for module, was in zip(modules, training, strict=True):
            module.train(was)


# chosen: what an interrupted run loses at most, and what is in memory twice while it is written.
_PART_BYTES = 1 << 26


class _Rows:
    """Features of some samples, which come in any order; what is new is kept, in parts of some size."""

    def __init__(self, samples: Sequence[int], names: Sequence[str], cache: "FeatureCache | None", key: str) -> None:
        self.missing = dict.fromkeys(samples)
        self._row = {sample: row for row, sample in enumerate(self.missing)}
        self._names, self._cache, self._key = names, cache, key
        self._made: _Made = ()
        self._waiting: list[tuple[Int[Array, " sample"], _Made]] = []
        for found, made in () if cache is None else cache.read(key, np.array(samples)):
            self._fill(found, made)

    def add(self, samples: Int[Array, " sample"], made: _Made) -> None:
        self._fill(samples, made)
        if self._cache is not None:
            self._waiting.append((samples, made))
            if sum(one.nbytes for _, tensors in self._waiting for one in tensors) >= _PART_BYTES:
                self.flush()

    def flush(self) -> None:
        if self._cache is not None and self._waiting:
            joined = [torch.cat(one) for one in zip(*(made for _, made in self._waiting), strict=True)]
            self._cache.add(self._key, np.concatenate([samples for samples, _ in self._waiting]), joined)
            self._waiting = []

    def of(self, samples: Sequence[int]) -> _Made:
        """Give the features, a sample that stands twice twice."""
        if len(samples) == len(self._row):
            return self._made
        rows = [self._row[sample] for sample in samples]
        return tuple(one[rows] for one in self._made)

    def _fill(self, samples: Int[Array, " found"], made: _Made) -> None:
        if not self._made:
            self._made = tuple(torch.empty(len(self._row), *one.shape[1:]) for one in made)
        widths, found = ([tuple(one.shape[1:]) for one in tensors] for tensors in (self._made, made))
        if found != widths:
            raise InputError(
                f"'{self._names[int(samples[0])]}' has features of another size than the samples before it ({found[0]} "
                f"and not {widths[0]}), because it has another number of images; use fusion=joint, or samples of one "
                "kind"
            )
        rows = [self._row[sample] for sample in samples.tolist()]
        for held, one in zip(self._made, made, strict=True):
            held[rows] = one
        for sample in samples.tolist():
            self.missing.pop(sample, None)


# Counts up when the same inputs would give other features.
_VERSION = 1
_ENDING = ".safetensors"
_DIGEST_BYTES = 16


class FeatureCache:
    """A folder of features, made when the first part is written; several processes may write at once.
    Features of one key lie in parts, each with some of the samples; a part that is damaged, or that is of something
    else, counts as absent and is made again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(
        self, key: str, samples: Int[Array, " sample"]
    ) -> Iterator[tuple[Int[Array, " found"], tuple[Float[Tensor, "found ..."], ...]]]:
        """Give what is there of some samples, part by part, each sample once; several tensors of several levels."""
        wanted = set(samples.tolist())
        for path in sorted(self._place(key).glob(f"*{_ENDING}")):
            found = _read_part(path, key, wanted)
            if found is not None:
                wanted -= set(found[0].tolist())
                yield found
            if not wanted:
                return

    def add(self, key: str, samples: Int[Array, " sample"], features: Sequence[Float[Tensor, "sample ..."]]) -> None:
        """Keep the features of some samples, float32 on the CPU."""
        positions = torch.from_numpy(np.ascontiguousarray(samples))
        tensors = {f"level_{index}": tensor.contiguous() for index, tensor in enumerate(features)}
        tensors["samples"] = positions
        name = hashlib.blake2b(positions.numpy().tobytes(), digest_size=_DIGEST_BYTES).hexdigest()
        path = self._place(key) / f"{name}{_ENDING}"
        write_weights(path, tensors, {"key": key, "digest": _digest(tensors)})

    def _place(self, key: str) -> Path:
        return self.folder / key[:2] / key


def cache_key(description: Mapping[str, Any]) -> str:
    """Hash a description of features: of plain values, in any order of keys."""
    text = json.dumps({"version": _VERSION, **description}, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def weights_hash(module: nn.Module) -> str:
    """Hash all weights of a network with their names: equal networks, and no others, have equal hashes."""
    return _digest(module.state_dict())


def _key_of(module: nn.Module, described: Mapping[str, Any], reader: TaskReader, scale: float) -> str:
    return cache_key(
        {
            "weights": weights_hash(module),
            "features": described,
            "data": reader.data.fingerprint,
            "input": reader.settings(),
            "scale": scale,
            "precision": reader.recipe.input.precision,
        }
    )


def _read_part(path: Path, key: str, wanted: set[int]) -> tuple[Int[Array, " found"], tuple[Tensor, ...]] | None:
    """Read the samples of a part that are wanted; None where there is none, or it is damaged or of something else."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata, names = file.metadata() or {}, list(file.keys())
            if metadata.get("key") != key or "samples" not in names:
                return None
            samples = file.get_tensor("samples").numpy()
            rows = [row for row, sample in enumerate(samples.tolist()) if sample in wanted]
            if not rows:
                return None
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError):
        return None
    if metadata.get("digest") != _digest(tensors):
        return None
    return samples[rows], tuple(tensors[f"level_{index}"][rows] for index in range(len(tensors) - 1))


def _digest(tensors: Mapping[str, Tensor]) -> str:
    state = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for name, tensor in sorted(tensors.items()):
        state.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        # As bytes and not as numbers: NumPy knows no bfloat16.
        state.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()
