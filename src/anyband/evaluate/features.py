"""Features of labelled samples, kept by a hash of the weights."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from anyband.arrays import Array, Float, Int
from anyband.encode.encoder import check_memory
from anyband.errors import InputError
from anyband.evaluate.fusion import FusedEncoder, Levels
from anyband.evaluate.inputs import TaskReader
from anyband.evaluate.samples import TaskBatch
from anyband.models.weight_files import write_weights

__all__ = [
    "FeatureCache",
    "LevelMaker",
    "VectorMaker",
    "cache_key",
    "extract_features",
    "extract_levels",
    "weights_hash",
]

# Counts up when the same inputs would give other features.
_VERSION = 1
_ENDING = ".safetensors"
_DIGEST_BYTES = 16


class FeatureCache:
    """A folder of features.

    Features of one key lie in parts, each with some of the samples; a part that is damaged, or that is of something
    else, counts as absent and is made again. Several processes may write at once.

    Args:
        folder: where features are kept; it is made when the first part is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(
        self, key: str, samples: Int[Array, " sample"]
    ) -> Iterator[tuple[Int[Array, " found"], tuple[Float[Tensor, "found ..."], ...]]]:
        """Give what is there of some samples, part by part, each sample once.

        Args:
            key: see `cache_key`.
            samples: positions in the data.

        Returns:
            Of each part the samples, and their features; several tensors where there are several levels.
        """
        wanted = set(samples.tolist())
        for path in sorted(self._place(key).glob(f"*{_ENDING}")):
            found = _read_part(path, key, wanted)
            if found is not None:
                wanted -= set(found[0].tolist())
                yield found
            if not wanted:
                return

    def add(self, key: str, samples: Int[Array, " sample"], features: Sequence[Float[Tensor, "sample ..."]]) -> None:
        """Keep the features of some samples.

        Args:
            key: see `cache_key`.
            samples: positions in the data.
            features: of these samples, float32 on the CPU; several tensors where there are several levels.

        Raises:
            OutputError: the folder can't be written to.
        """
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
    state = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for name, tensor in sorted(module.state_dict().items()):
        state.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        state.update(_bytes(tensor))
    return state.hexdigest()


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
        state.update(_bytes(tensor))
    return state.hexdigest()


def _bytes(tensor: Tensor) -> Any:
    # As bytes and not as numbers: NumPy knows no bfloat16.
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


# chosen: what an interrupted run loses at most, and what is in memory twice while it is written.
_PART_BYTES = 1 << 26

Made = tuple[Tensor, ...]
"""Features of a batch: one tensor, or one for each level, the sample first."""


@runtime_checkable
class VectorMaker(Protocol):
    """A module that makes a vector of each sample."""

    def __call__(self, batch: TaskBatch) -> Tensor:
        """Make the vectors of a batch."""

    def settings(self) -> dict[str, Any]:
        """Tell all that the vectors depend on beside weights and images, as plain values."""


@runtime_checkable
class LevelMaker(Protocol):
    """A module that makes maps of samples."""

    def levels(self, batch: TaskBatch, blocks: Levels, *, step: int = 0) -> tuple[Tensor, ...]:
        """Make maps of patch features after chosen blocks."""

    def settings(self) -> dict[str, Any]:
        """Tell all that the maps depend on beside weights and images, as plain values."""


def extract_features(
    encoders: Mapping[str, VectorMaker],
    reader: TaskReader,
    samples: Sequence[int] | Int[Array, " sample"],
    *,
    cache: FeatureCache | None,
    scale: float = 1.0,
    shown: bool = False,
) -> dict[str, Float[Array, "sample width"]]:
    """Make one vector a sample by each encoder, without gradients; nothing is varied.

    Args:
        encoders: modules, by name.
        reader: of the samples.
        samples: positions in the data.
        cache: where features are kept; None: nowhere.
        scale: share of their size to which images are reduced first.
        shown: show a progress bar.

    Returns:
        By encoder, float32, in the order of `samples`.

    Raises:
        InputError: a sample that can't be read, whose features are no finite numbers, or whose number of images differs
            from the others' where the fusion needs one; it is named.
    """
    makers = {}
    for name, one in encoders.items():
        assert isinstance(one, nn.Module)
        makers[name] = _Maker(_vectors(one), one, {"of": "vectors", **one.settings()})
    made = _extracted(makers, _Images(reader, scale, shown), samples, cache)
    return {name: tensors[0].numpy() for name, tensors in made.items()}


def extract_levels(
    encoders: Mapping[str, LevelMaker],
    reader: TaskReader,
    samples: Sequence[int] | Int[Array, " sample"],
    *,
    blocks: Levels,
    cache: FeatureCache | None,
    shown: bool = False,
) -> dict[str, tuple[Float[Tensor, "sample width row col"], ...]]:
    """Make maps of patch features by each encoder, without gradients; nothing is varied.

    All of them are held in memory, once.

    Args:
        encoders: modules, by name.
        reader: of the samples.
        samples: positions in the data.
        blocks: which levels; see `FusedEncoder.levels`.
        cache: where levels are kept; None: nowhere.
        shown: show a progress bar.

    Returns:
        By encoder one tensor for each level, float32 on the CPU, in the order of `samples`.

    Raises:
        InputError: as `extract_features`.
    """
    said = blocks if blocks == "final" else list(blocks)
    makers = {}
    for name, one in encoders.items():
        assert isinstance(one, nn.Module)
        makers[name] = _Maker(_levels(one, blocks), one, {"of": "levels", "blocks": said, **one.settings()})
    return _extracted(makers, _Images(reader, 1.0, shown), samples, cache)


@dataclass(frozen=True, eq=False)
class _Maker:
    """What makes features of one kind."""

    make: Callable[[TaskBatch], Made]
    """Of a batch on the module's device."""
    module: nn.Module
    """With the weights."""
    described: dict[str, Any]
    """All that features depend on beside weights and input."""


@dataclass(frozen=True)
class _Images:
    """Which images, and how they are read."""

    reader: TaskReader
    scale: float
    shown: bool

    def settings(self) -> dict[str, Any]:
        """Tell all that network input depends on beside the stored images."""
        return {
            "data": self.reader.data.fingerprint,
            "input": self.reader.settings(),
            "scale": self.scale,
            "precision": self.reader.recipe.input.precision,
        }


class _Rows:
    """Features of some samples, which come in any order and stand in that of the samples."""

    def __init__(self, samples: Sequence[int], names: Sequence[str]) -> None:
        self.missing = dict.fromkeys(samples)
        self._row = {sample: row for row, sample in enumerate(samples)}
        self._names = names
        self._made: Made = ()

    def fill(self, samples: Int[Array, " found"], made: Made) -> None:
        """Put in the features of samples that are missing yet."""
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

    def result(self, samples: Sequence[int]) -> Made:
        """Give the features, a sample that stands twice twice."""
        if len(samples) == len(self._row):
            return self._made
        rows = [self._row[sample] for sample in samples]
        return tuple(one[rows] for one in self._made)


class _Kept:
    """Writes features to the cache in parts of some size."""

    def __init__(self, cache: FeatureCache | None, key: str) -> None:
        self._cache, self._key = cache, key
        self._waiting: list[tuple[Int[Array, " sample"], Made]] = []

    def add(self, samples: Int[Array, " sample"], made: Made) -> None:
        """Take some samples, and write when there are enough."""
        if self._cache is None:
            return
        self._waiting.append((samples, made))
        if sum(one.nbytes for _, tensors in self._waiting for one in tensors) >= _PART_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if self._cache is None or not self._waiting:
            return
        joined = [torch.cat(one) for one in zip(*(made for _, made in self._waiting), strict=True)]
        self._cache.add(self._key, np.concatenate([samples for samples, _ in self._waiting]), joined)
        self._waiting = []


def _extracted(
    makers: Mapping[str, _Maker],
    images: _Images,
    samples: Sequence[int] | Int[Array, " sample"],
    cache: FeatureCache | None,
) -> dict[str, Made]:
    wanted = [int(sample) for sample in samples]
    if not wanted:
        raise InputError(f"no samples of '{images.reader.data.name}' were asked for; there is nothing to encode")
    names = images.reader.data.names
    rows = {name: _Rows(list(dict.fromkeys(wanted)), names) for name in makers}
    keys = {name: "" if cache is None else _key(maker, images) for name, maker in makers.items()}
    kept = {name: _Kept(cache, key) for name, key in keys.items()}
    if cache is not None:
        for name, key in keys.items():
            for found, made in cache.read(key, np.array(wanted)):
                rows[name].fill(found, made)
    todo = list(dict.fromkeys(sample for one in rows.values() for sample in one.missing))
    if todo:
        _make(makers, images, np.array(todo), rows, kept)
    return {name: one.result(wanted) for name, one in rows.items()}


def _make(
    makers: Mapping[str, _Maker],
    images: _Images,
    todo: Int[Array, " sample"],
    rows: Mapping[str, _Rows],
    kept: Mapping[str, _Kept],
) -> None:
    """Read what is missing, once, and encode it by each that lacks it."""
    reader = images.reader
    with _evaluating([maker.module for maker in makers.values()]):
        for batch in reader.batches(todo, scale=images.scale, shown=images.shown):
            for name, maker in makers.items():
                lacking = np.flatnonzero([sample in rows[name].missing for sample in batch.samples.tolist()])
                if not len(lacking):
                    continue
                made = tuple(one[torch.from_numpy(lacking)] for one in _encoded(maker, batch, reader))
                rows[name].fill(batch.samples[lacking], made)
                kept[name].add(batch.samples[lacking], made)
    for one in kept.values():
        one.flush()


def _encoded(maker: _Maker, batch: TaskBatch, reader: TaskReader) -> Made:
    weights = next(maker.module.parameters(), None)
    device = torch.device("cpu") if weights is None else weights.device
    _check_joint(maker.module, batch)
    with (
        torch.no_grad(),
        torch.autocast(device.type, dtype=torch.bfloat16, enabled=reader.recipe.input.precision == "bf16"),
    ):
        made = tuple(one.float().cpu() for one in maker.make(batch.to(device)))
    for one in made:
        wrong = np.flatnonzero(~one.flatten(1).isfinite().all(dim=1).numpy())
        if len(wrong):
            name = reader.data.names[int(batch.samples[wrong[0]])]
            raise InputError(
                f"the features of '{name}' are no finite numbers ({len(wrong)} of {len(batch)} samples of its batch); "
                "look at its pixels and its normalisation, or leave it out"
            )
    return made


def _check_joint(module: nn.Module, batch: TaskBatch) -> None:
    if isinstance(module, FusedEncoder) and module.fusion == "joint":
        encoder = module.encoder.encoder
        rows, cols = (side // encoder.config.patch_size for side in batch.images[0].pixels.shape[2:])
        check_memory(encoder, num_sets=len(batch), num_images=len(batch.images), num_tokens=rows * cols)


def _key(maker: _Maker, images: _Images) -> str:
    return cache_key({"weights": weights_hash(maker.module), "features": maker.described, **images.settings()})


def _vectors(encoder: VectorMaker) -> Callable[[TaskBatch], Made]:
    return lambda batch: (encoder(batch),)


def _levels(encoder: LevelMaker, blocks: Levels) -> Callable[[TaskBatch], Made]:
    return lambda batch: encoder.levels(batch, blocks)


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
