"""Samples that were read stay in memory while there is room: an epoch after the first needs no files."""

import threading
from collections.abc import Callable
from dataclasses import replace

from anyband.data.supervised.records import Sample

__all__ = ["keep_samples"]

# chosen: a small part of any machine's memory that holds the data sets which are read again most often, the small ones.
_MOST_BYTES = 256 * 2**20


def keep_samples(read: Callable[[int], Sample], *, most_bytes: int = _MOST_BYTES) -> Callable[[int], Sample]:
    """Make a reader that keeps what it read first, up to a size; what comes later is read each time.

    Nothing is given up for later samples: whoever passes over all samples in turn would find none of them again.
    Callers get copies, so that what they change stays theirs. Threads may share it.

    Args:
        read: gives the sample at a position.
        most_bytes: of all that is kept.
    """
    kept: dict[int, Sample] = {}
    lock = threading.Lock()
    used = 0

    def again(position: int) -> Sample:
        nonlocal used
        found = kept.get(position)
        if found is not None:
            return _copied(found)
        sample = read(position)
        size = _num_bytes(sample)
        with lock:
            if position not in kept and used + size <= most_bytes:
                kept[position] = _copied(sample)
                used += size
        return sample

    return again


def _num_bytes(sample: Sample) -> int:
    maps = [one for one in (sample.class_map, sample.number_map) if one is not None]
    return sum(one.nbytes for one in maps) + sum(image.dn.nbytes + image.valid.nbytes for image in sample.images)


def _copied(sample: Sample) -> Sample:
    return replace(
        sample,
        images=tuple(replace(image, dn=image.dn.copy(), valid=image.valid.copy()) for image in sample.images),
        class_map=None if sample.class_map is None else sample.class_map.copy(),
        number_map=None if sample.number_map is None else sample.number_map.copy(),
    )
