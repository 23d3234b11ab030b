"""Features that were made once, kept on the disk: equal weights, data and settings give equal features."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anyband.models.weight_files import write_weights
from anyband.shapes import Array, Float, Int

__all__ = ["FeatureCache", "cache_key", "weights_hash"]

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
