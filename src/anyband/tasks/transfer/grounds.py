"""Which pieces of ground test samples show: dates of one place, or of one block of it, are no independent evidence."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from anyband.data.supervised.records import TaskData
from anyband.shapes import Array, Int, Num
from anyband.tasks.transfer.map_kinds import MapKind
from anyband.tasks.transfer.records import Evidence

__all__ = ["GroundCounts", "with_grounds"]


@dataclass(kw_only=True)
class GroundCounts:
    """Counts of predicted maps against their truth: an entry for each sample, or for each region of it."""

    data: TaskData
    """Labelled maps."""
    kind: MapKind
    """What they hold."""
    _counts: list[Num[Array, "..."]] = field(default_factory=list)
    _names: list[str] = field(default_factory=list)
    _groups: list[str] = field(default_factory=list)

    def add(self, position: int, truth: Num[Array, "row col"], predicted: Num[Array, "row col"]) -> None:
        """Count a test sample; each of its regions that has labels by itself.

        Args:
            position: in the data.
            truth: of each pixel; −1 or NaN: none.
            predicted: of each pixel.
        """
        name = self.data.names[position]
        place = self.data.places[position] if self.data.places else name
        if self.data.regions is None:
            self._append(self.kind.count(truth, predicted), name, place)
            return
        regions = self.data.regions(position)
        nothing = np.nan if truth.dtype.kind == "f" else -1
        known = np.isfinite(truth) if truth.dtype.kind == "f" else truth >= 0
        for region in np.unique(regions[known]):
            inside = np.where(regions == region, truth, nothing).astype(truth.dtype)
            self._append(self.kind.count(inside, predicted), f"{name} block {region}", f"{place} block {region}")

    def evidence(self) -> Evidence:
        """Record what was counted."""
        found = self.kind.evidence(np.stack(self._counts), self._names)
        return found if len(set(self._groups)) == len(self._groups) else replace(found, groups=tuple(self._groups))

    def _append(self, counts: Num[Array, "..."], name: str, group: str) -> None:
        self._counts.append(counts)
        self._names.append(name)
        self._groups.append(group)


def with_grounds(evidence: Evidence, data: TaskData, samples: Sequence[int] | Int[Array, " sample"]) -> Evidence:
    """Say which test samples show one place, so that they are resampled together.

    Args:
        evidence: of image-level predictions.
        data: with the places of its samples.
        samples: positions of the test samples, in the order of the evidence.
    """
    if not data.places:
        return evidence
    places = tuple(data.places[int(sample)] for sample in samples)
    return evidence if len(set(places)) == len(places) else replace(evidence, groups=places)
