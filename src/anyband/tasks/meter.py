"""What steps did while they ran: images, operations, and how long they waited for data."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

__all__ = ["Meter", "Reached"]

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
