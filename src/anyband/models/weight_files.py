"""Opening a file of weights: safetensors only, from the disk or from the Hugging Face hub."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from anyband.errors import CheckpointError
from anyband.files import whole_file

__all__ = ["checkpoint_hash", "checkpoint_name", "locate", "read_weights", "write_weights"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_HUB_FILE = "model.safetensors"
# First bytes of what torch.save and pickle write: a zip archive, or a pickle of protocol 2 and later.
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_PICKLE_SUFFIXES = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt")
# Source: the safetensors format.
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def locate(path_or_hub_id: str | Path) -> Path:
    """Find the file of weights: a path, a folder with `model.safetensors`, or a hub id `owner/name`.

    Raises:
        CheckpointError: nothing is there, or the hub can't be reached.
    """
    path = Path(path_or_hub_id)
    if path.is_dir():
        if (path / _HUB_FILE).is_file():
            return path / _HUB_FILE
        raise CheckpointError(f"folder '{path}' has no '{_HUB_FILE}'; name the checkpoint file itself")
    if path.exists():
        return path
    name = str(path_or_hub_id)
    if path.suffix == ".safetensors" or path.suffix in _PICKLE_SUFFIXES or not _HUB_ID.fullmatch(name):
        raise CheckpointError(
            f"there is no checkpoint '{name}'; give a safetensors file or a hub id such as 'gsumbul/SMARTIES-v1-ViT-B'"
        )
    return _downloaded(name)


def _downloaded(hub_id: str) -> Path:
    try:
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as problem:
        raise CheckpointError(
            f"'{hub_id}' is no file here, and as a hub id it needs huggingface_hub: pip install 'anyband[hub]'"
        ) from problem
    try:
        return _from_hub(hub_id)
    except (HfHubHTTPError, OSError, ValueError) as problem:
        reason = str(problem).strip().partition("\n")[0].rstrip(".")
        raise CheckpointError(
            f"'{hub_id}' is no file here, and weights of that name could not be had from the hub: {reason}. "
            f"Check the name and the connection, or download the file and give its path."
        ) from problem


def _from_hub(hub_id: str) -> Path:
    """Download `model.safetensors`, or the only safetensors file where that name is not used."""
    from huggingface_hub import hf_hub_download, list_repo_files
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(hub_id, _HUB_FILE))
    except LocalEntryNotFoundError:
        raise  # Nothing was downloaded before, and the hub can't be reached: there is nothing to list.
    except EntryNotFoundError:
        others = [name for name in list_repo_files(hub_id) if name.endswith(".safetensors")]
        if len(others) != 1:
            raise
        return Path(hf_hub_download(hub_id, others[0]))


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and header of a safetensors file; `CheckpointError` for a pickle or what is no whole one."""
    from safetensors import SafetensorError, safe_open

    _refuse_pickle(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as problem:
        raise CheckpointError(
            f"'{path}' is not a whole safetensors file ({path.stat().st_size:,} bytes; {problem}); "
            f"it may be truncated: copy or download it again"
        ) from problem
    except OSError as problem:
        raise CheckpointError(f"cannot read '{path}': {problem.strerror or problem}") from problem
    return tensors, metadata


def _refuse_pickle(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as problem:
        raise CheckpointError(f"cannot read '{path}': {problem.strerror or problem}") from problem
    if start.startswith(_PICKLE_STARTS) or path.suffix in _PICKLE_SUFFIXES:
        raise CheckpointError(
            f"'{path}' is a pickle or a PyTorch archive, not safetensors; reading one can run any code in "
            "it. "
            f"Where you trust its source, convert it once: torch.load('{path.name}', weights_only=True), "
            "then "
            f"safetensors.torch.save_file of its dict of weights (often under 'model'), and give that file"
        )


def write_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file whole or not at all; equal contents give equal bytes, unlike by the library's writer.

    Source:
        The safetensors format, https://github.com/huggingface/safetensors#format.
    """
    # Wide numbers first, so that every tensor starts at a multiple of its own item size.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    start = 0
    for name in names:
        end = start + tensors[name].numel() * tensors[name].element_size()
        shape, kind = list(tensors[name].shape), _DTYPES[tensors[name].dtype]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with whole_file(path) as beside, beside.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            flat = tensors[name].detach().cpu().contiguous().flatten()
            file.write(flat.view(torch.uint8).numpy().data)


def checkpoint_hash(path: Path) -> str:
    """Compute the SHA-256 of a checkpoint file, in hexadecimal."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as problem:
        raise CheckpointError(f"cannot read '{path}': {problem.strerror or problem}") from problem


def checkpoint_name(path_or_hub_id: str | Path) -> str:
    """Name a checkpoint by what was asked for and the first quarter of its hash."""
    return f"{Path(path_or_hub_id).name} sha256:{checkpoint_hash(locate(path_or_hub_id))[:16]}"
