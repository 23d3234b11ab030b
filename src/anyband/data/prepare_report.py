"""What preparing gave: counts, pairs, and what was skipped and why, for people and for machines."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations_with_replacement
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from anyband.data.chip_index import SPLITS, chips_of
from anyband.data.store import ChipStore

__all__ = ["ChipCounter", "PrepareReport", "Skipped", "StoreCounts", "describe_store"]

# chosen: as many skipped images are listed as fit a screen; `store.json` has all.
_LISTED = 20


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """An image that gave no chips."""

    name: str
    """Path as the manifest writes it."""
    reason: str
    """Why, for people."""

    def line(self) -> str:
        """Say it in one line; most reasons name the image themselves."""
        return self.reason if self.name in self.reason else f"{self.name}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class StoreCounts:
    """How much a store holds."""

    chips: Mapping[str, int]
    """Sensor → chips."""
    places: int
    """Places."""
    footprints: int
    """Different (place, cell)."""
    splits: Mapping[str, int]
    """Split → chips."""
    pairs: Mapping[str, int]
    """`sensor + sensor` → pairs of chips of one footprint."""

    def lines(self) -> list[str]:
        """Say it for people."""
        total = sum(self.chips.values())
        splits = ", ".join(f"{name} {count}" for name, count in self.splits.items())
        return [
            f"{total} chips of {self.footprints} footprints in {self.places} places ({splits})",
            *(f"  {name}: {count} chips" for name, count in self.chips.items()),
            *(f"  pairs {name}: {count}" for name, count in self.pairs.items()),
        ]


@dataclass(frozen=True, kw_only=True)
class PrepareReport:
    """The result of preparing."""

    counts: StoreCounts
    """What the store holds."""
    skipped: tuple[Skipped, ...]
    """Images that gave no chips."""
    notes: tuple[str, ...]
    """What else one should know."""
    was_complete: bool = False
    """Whether the store was there already, of the same inputs, so that nothing was done."""

    def to_dict(self) -> dict[str, Any]:
        """Make plain JSON; `from_dict` is its inverse."""
        return {
            "counts": asdict(self.counts),
            "skipped": [asdict(one) for one in self.skipped],
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any], *, was_complete: bool) -> "PrepareReport":
        """Read what `to_dict` made."""
        return cls(
            counts=StoreCounts(**entry["counts"]),
            skipped=tuple(Skipped(**one) for one in entry["skipped"]),
            notes=tuple(entry["notes"]),
            was_complete=was_complete,
        )

    def lines(self) -> list[str]:
        """Say it for people."""
        lines = self.counts.lines()
        lines += [f"note: {note}" for note in self.notes]
        if self.skipped:
            lines.append(f"skipped {len(self.skipped)} images:")
            lines += [f"  {one.line()}" for one in self.skipped[:_LISTED]]
            if len(self.skipped) > _LISTED:
                lines.append(f"  … and {len(self.skipped) - _LISTED} more (all stand in store.json)")
        return lines


_Content = tuple[tuple[str, int], ...]


class ChipCounter:
    """Counts chips that come place by place: what is kept does not grow with the number of places."""

    def __init__(self, sensors: Iterable[str] = ()) -> None:
        """Begin with nothing counted.

        Args:
            sensors: in the order of the result; others come after them as they appear.
        """
        self._sensors = Counter[str](dict.fromkeys(sensors, 0))
        self._splits = Counter[str]()
        self._places = 0
        self._place: str | None = None
        self._cells: dict[str, _Content] = {}
        self._contents = Counter[_Content]()

    def add(self, place: str, cell: str, sensor: str, split: str) -> None:
        """Count one chip; those of a place come one after the other."""
        if place != self._place:
            self._close_place()
            self._place = place
        self._sensors[sensor] += 1
        self._splits[split] += 1
        self._cells[cell] = _with_one_more(self._cells.get(cell, ()), sensor)

    def result(self) -> StoreCounts:
        """Say what was counted."""
        self._close_place()
        return StoreCounts(
            chips=dict(self._sensors),
            places=self._places,
            footprints=self._contents.total(),
            splits={split: self._splits[split] for split in SPLITS},
            pairs=_count_pairs(list(self._sensors), self._contents),
        )

    def _close_place(self) -> None:
        self._contents.update(self._cells.values())
        self._places += bool(self._cells)
        self._place, self._cells = None, {}


def _count_index(index: pa.Table) -> StoreCounts:
    counter = ChipCounter(pc.unique(index["sensor"]).to_pylist())
    for chip in chips_of(index.select(["place", "cell", "sensor", "split"]).sort_by("place")):
        counter.add(*chip)
    return counter.result()


def describe_store(store: ChipStore) -> list[str]:
    """Say what a store holds: counts, arrays and statistics."""
    counts = _count_index(store.index)
    lines = [f"chip store '{store.path}', version {store.version}", *counts.lines(), "arrays:"]
    lines += [
        f"  {info.name}: {info.num_chips} × {len(info.bands)} × {info.height} × {info.width} {info.dtype}"
        f"{', with a valid array' if info.has_valid else ''} ({', '.join(info.bands)})"
        for info in store.arrays.values()
    ]
    computed = ", ".join(store.statistics) or f"none; `anyband prepare --stats {store.path}` computes them"
    return [*lines, f"statistics of the store: {computed}"]


def _with_one_more(content: _Content, sensor: str) -> _Content:
    counts = dict(content)
    counts[sensor] = counts.get(sensor, 0) + 1
    return tuple(counts.items())


def _count_pairs(sensors: Sequence[str], footprints: Mapping[_Content, int]) -> dict[str, int]:
    pairs: Counter[str] = Counter()
    for content, number in footprints.items():
        footprint = dict(content)
        here = [sensor for sensor in sensors if sensor in footprint]
        for first, second in combinations_with_replacement(here, 2):
            a, b = footprint[first], footprint[second]
            pairs[f"{first} + {second}"] += number * (a * (a - 1) // 2 if first == second else a * b)
    return {name: count for name, count in pairs.items() if count}
