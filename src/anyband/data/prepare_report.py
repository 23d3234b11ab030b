"""What preparing gave: counts, pairs, and what was skipped and why, for people and for machines."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations_with_replacement
from typing import Any

from anyband.data.chip_index import SPLITS, chips_of
from anyband.data.store import ChipStore

__all__ = ["PrepareReport", "Skipped", "StoreCounts", "count_chips", "describe_store"]

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


def count_chips(chips: Iterable[tuple[str, str, str, str]]) -> StoreCounts:
    """Count chips given as (place, cell, sensor, split)."""
    sensors: Counter[str] = Counter()
    splits: Counter[str] = Counter()
    # Most footprints hold the same: they share one tuple of (sensor, chips).
    contents: dict[_Content, _Content] = {}
    footprints: dict[tuple[str, str], _Content] = {}
    for place, cell, sensor, split in chips:
        sensors[sensor] += 1
        splits[split] += 1
        content = _with_one_more(footprints.get((place, cell), ()), sensor)
        footprints[place, cell] = contents.setdefault(content, content)
    return StoreCounts(
        chips=dict(sensors),
        places=len({place for place, _ in footprints}),
        footprints=len(footprints),
        splits={split: splits[split] for split in SPLITS},
        pairs=_count_pairs(list(sensors), Counter(footprints.values())),
    )


def describe_store(store: ChipStore) -> list[str]:
    """Say what a store holds: counts, arrays and statistics."""
    counts = count_chips(chips_of(store.index))
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
