"""Copying of a finished chip store between folders and object storage, key by key; the header comes last."""

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from hashlib import md5
from itertools import islice
from typing import Any

from anyband.data.store import ChipStore
from anyband.data.store_location import StoreLocation
from anyband.errors import OutputError, StoreError
from anyband.progress import progress

__all__ = ["CopyReport", "copy_store"]

_HEADER = "store.json"
_INDEX = "index.parquet"
# chosen: enough to keep a line busy while one is checked; each is at most a shard (512 MiB), so memory stays flat.
_IN_FLIGHT = 4


@dataclass(frozen=True, kw_only=True)
class CopyReport:
    """What copying did."""

    keys: int
    """Keys of the store."""
    copied: int
    """Of these, how many were written; the others were there with the same content."""
    copied_bytes: int
    """Size of those written."""

    def line(self) -> str:
        """Say it for people."""
        size = f"{self.copied_bytes / 2**20:.1f} MiB"
        return f"{self.copied} of {self.keys} keys copied ({size}); {self.keys - self.copied} were there already"


def copy_store(source: ChipStore, target: StoreLocation, *, overwrite: bool = False, shown: bool = False) -> CopyReport:
    """Copy a store. What was stopped goes on: keys that are there with the same content are left alone.

    Property: the target gets the keys of the source, with equal bytes, and keeps no others. Until the last moment it
    has no header, so that it is no store.

    Args:
        source: finished.
        target: to fill: empty, or with a copy of this store that was stopped, or whose statistics are older.
        overwrite: whether another store there is replaced.
        shown: whether to show progress.

    Returns:
        What was done.

    Raises:
        OutputError: something else is there, or it can't be written.
        StoreError: the source can't be read.
    """
    wanted = _store_keys(source)
    found = target.list_keys()
    _check_target(source, target, found, wanted, overwrite=overwrite)
    header = _content(source.location, _HEADER)
    is_whole = _HEADER in found and target.read(_HEADER) == header
    if _HEADER in found and not is_whole:
        target.remove(_HEADER)
    sizes = _copy_keys(source.location, target, wanted, found, shown=shown)
    for key in sorted(found - {*wanted, _HEADER}):
        target.remove(key)
    if not is_whole:
        target.write(_HEADER, header)
        sizes.append(len(header))
    return CopyReport(keys=len(wanted) + 1, copied=len(sizes), copied_bytes=sum(sizes))


def _store_keys(store: ChipStore) -> list[str]:
    """List what belongs to a store, but for its header."""
    folders = [f"chips/{name}/" for name in store.arrays]
    folders += [f"valid/{name}/" for name, info in store.arrays.items() if info.has_valid]
    return [_INDEX, *(key for folder in folders for key in sorted(store.location.list_keys(folder)))]


def _check_target(
    source: ChipStore, target: StoreLocation, found: set[str], wanted: Iterable[str], *, overwrite: bool
) -> None:
    if str(target) == str(source.location) and target.endpoint == source.location.endpoint:
        raise OutputError(f"'{target}' is the store itself; name another place")
    others = sorted(found - {*wanted, _HEADER})
    foreign = [key for key in others if not key.startswith(("chips/", "valid/"))]
    if foreign:
        raise OutputError(
            f"'{target}' holds other things than a chip store ('{foreign[0]}', {len(foreign)} in all); "
            "name an empty place"
        )
    if overwrite:
        return
    if _HEADER in found and _identity(target) != _identity(source.location):
        raise OutputError(f"'{target}' is another chip store; replace it with --overwrite, or name another place")
    if others:
        raise OutputError(
            f"'{target}' has parts of another chip store ('{others[0]}', {len(others)} in all); remove them with "
            "--overwrite, or name another place"
        )


def _identity(location: StoreLocation) -> dict[str, Any] | None:
    """Tell which chips a store holds, by its header; statistics may be newer or older. None: it can't be told."""
    try:
        header = json.loads((location.read(_HEADER) or b"").decode())
        return {key: header[key] for key in ("version", "sensors", "arrays", "inputs")}
    except (ValueError, KeyError, TypeError):
        return None


def _copy_keys(
    source: StoreLocation, target: StoreLocation, keys: list[str], found: set[str], *, shown: bool
) -> list[int]:
    """Copy keys, a few at a time, and give the sizes of those that were not there already."""
    waiting = iter(keys)
    sizes: list[int] = []
    with progress("copy", len(keys), shown=shown) as advance, ThreadPoolExecutor(_IN_FLIGHT) as pool:
        running = {pool.submit(_copy_key, source, target, key, key in found) for key in islice(waiting, _IN_FLIGHT)}
        while running:
            done = next(as_completed(running))
            running.discard(done)
            # A failure ends it here; those in flight are waited for, and no other is begun.
            size = done.result()
            sizes += [] if size is None else [size]
            advance(1)
            running |= {pool.submit(_copy_key, source, target, key, key in found) for key in islice(waiting, 1)}
    return sizes


def _copy_key(source: StoreLocation, target: StoreLocation, key: str, is_there: bool) -> int | None:
    """Copy one key and give its size; None where the same content is there."""
    if is_there and _is_same(source, target, key):
        return None
    content = _content(source, key)
    target.write(key, content)
    return len(content)


def _is_same(source: StoreLocation, target: StoreLocation, key: str) -> bool:
    """Compare content: by the MD5 that an S3 server keeps of it, where it does, else byte by byte.

    A tag that is no MD5, of an encrypted object for example, equals none, so that such a key is copied again.
    """
    ours, theirs = source.entity_tag(key), target.entity_tag(key)
    if ours is not None and theirs is not None:
        return ours == theirs
    if ours is None and theirs is None:
        return _content(source, key) == target.read(key)
    content = _content(source if ours is None else target, key)
    return md5(content, usedforsecurity=False).hexdigest() == (theirs if ours is None else ours)


def _content(location: StoreLocation, key: str) -> bytes:
    content = location.read(key)
    if content is None:
        raise StoreError(f"'{location.file(key)}' is missing: something else changes the store while it is copied")
    return content
