"""Counts of values, and statistics of bands computed from them."""

from collections.abc import Iterable, Sequence

import numpy as np

from anyband.arrays import Array, Bool, Float, Int, Num
from anyband.data.harmonise import decode
from anyband.data.store import ChipStore, Split
from anyband.errors import InputError
from anyband.progress import progress
from anyband.sensors.sensor import BandStatistics, Sensor

__all__ = ["RELATIVE_RESOLUTION", "StatisticsAccumulator", "count_statistics", "store_statistics"]

# chosen: 10 of a float's 23 bits; one megabyte a band, and 0.25 K at the temperatures of the Earth.
_MANTISSA_BITS = 10
# chosen: 2^-40 to 2^24 holds every radiance unit in use as well as 24-bit counts; beyond, the end bins count.
_LOWEST_EXPONENT, _HIGHEST_EXPONENT = -40, 24

_FLOAT_MANTISSA_BITS, _FLOAT_BIAS = 23, 127  # Source: IEEE 754-2019, binary32
_FIRST_KEY = (_LOWEST_EXPONENT + _FLOAT_BIAS) << _MANTISSA_BITS
_NUM_MAGNITUDES = (_HIGHEST_EXPONENT - _LOWEST_EXPONENT) << _MANTISSA_BITS

RELATIVE_RESOLUTION = 2.0**-_MANTISSA_BITS
"""Largest width of a bin, as a share of the values in it."""


class StatisticsAccumulator:
    """Count the values of some bands; percentiles, mean and deviation follow from the counts."""

    def __init__(self, bands: Sequence[str]) -> None:
        """Start with nothing counted; bands stand in the order of the arrays to come."""
        self.bands: tuple[str, ...] = tuple(bands)
        self._counts = np.zeros((len(self.bands), 2 * _NUM_MAGNITUDES), dtype=np.int64)
        self._lowest = np.full(len(self.bands), np.inf)
        self._highest = np.full(len(self.bands), -np.inf)

    def add(
        self,
        physical: Float[Array, "*batch band row col"],
        valid: Bool[Array, "*batch band row col"] | None = None,
    ) -> None:
        """Count the finite values of some images that have data, in physical units."""
        if physical.shape[-3] != len(self.bands):
            raise InputError(
                f"statistics of {len(self.bands)} bands ({', '.join(self.bands[:16])}) are being counted, "
                f"found an array of shape {physical.shape}"
            )
        usable = np.isfinite(physical) if valid is None else np.isfinite(physical) & valid
        for index in range(len(self.bands)):
            values = physical[..., index, :, :][usable[..., index, :, :]].astype(np.float32)
            if values.size:
                self._counts[index] += np.bincount(_bin_of(values), minlength=self._counts.shape[1])
                self._lowest[index] = min(self._lowest[index], values.min())
                self._highest[index] = max(self._highest[index], values.max())

    def result(self) -> dict[str, BandStatistics]:
        """Compute the statistics of each band: percentiles to within a bin, moments of scaled values. `InputError`
        where a band has no valid value, or the same at its 1st and 99th percentile."""
        return {band: self._statistics(index) for index, band in enumerate(self.bands)}

    def _statistics(self, index: int) -> BandStatistics:
        counts, band = self._counts[index], self.bands[index]
        if not counts.any():
            raise InputError(f"band '{band}' has no valid value; check its nodata value")
        lowest, highest = self._lowest[index], self._highest[index]
        p01, p99 = (float(np.clip(_quantile(counts, share), lowest, highest)) for share in (0.01, 0.99))
        if not p01 < p99:
            raise InputError(
                f"band '{band}' has the value {p01:g} from its 1st to its 99th percentile, so it can't be "
                f"normalised; leave it out, or check its nodata value"
            )
        weights = counts / counts.sum()
        scaled = (np.clip(_centres(), p01, p99) - p01) / (p99 - p01)
        mean = float(weights @ scaled)
        std = float(np.sqrt(weights @ (scaled - mean) ** 2))
        return BandStatistics(p01=p01, p99=p99, mean=mean, std=std)


def _bin_of(values: Float[Array, " value"]) -> Array:
    """Find the bin of each float32: its sign and leading bits, most negative first."""
    magnitude = (values.view(np.int32) & 0x7FFFFFFF) >> (_FLOAT_MANTISSA_BITS - _MANTISSA_BITS)
    key = np.clip(magnitude - _FIRST_KEY, 0, _NUM_MAGNITUDES - 1)
    return np.asarray(np.where(values < 0, _NUM_MAGNITUDES - 1 - key, _NUM_MAGNITUDES + key))


def _magnitude_edges() -> Array:
    """List the lower edges of the magnitude bins and the upper edge of the last; the first is 0."""
    keys = np.arange(_NUM_MAGNITUDES + 1) + _FIRST_KEY
    bits = (keys << (_FLOAT_MANTISSA_BITS - _MANTISSA_BITS)).astype(np.int32)
    edges = bits.view(np.float32).astype(np.float64)
    edges[0] = 0.0
    return edges


def _edges() -> Array:
    positive = _magnitude_edges()
    return np.concatenate([-positive[:0:-1], positive])


def _centres() -> Array:
    edges = _edges()
    return np.asarray((edges[:-1] + edges[1:]) / 2)


def _quantile(counts: Array, share: float) -> float:
    """Find the value below which a share of the counts lies, by proportion inside its bin."""
    below, edges = np.cumsum(counts), _edges()
    wanted = share * below[-1]
    index = int(np.searchsorted(below, wanted, side="left"))
    before = below[index] - counts[index]
    inside = (wanted - before) / counts[index] if counts[index] else 0.0
    return float(edges[index] + inside * (edges[index + 1] - edges[index]))


# chosen: enough chips in flight to keep the disk busy, few enough for a small machine.
_VALUES_PER_READ = 2**24

Statistics = dict[str, dict[str, BandStatistics]]


def count_statistics(
    images: Iterable[tuple[Num[Array, "*batch band row col"], Bool[Array, "*batch band row col"] | None]],
    sensor: Sensor,
    *,
    encoding: str | None = None,
) -> dict[str, BandStatistics]:
    """Count the statistics of images (digital numbers, which have data) of a sensor, in one pass and constant memory.
    `InputError` where a band has no valid value, or only one."""
    counted = StatisticsAccumulator(sensor.band_names)
    for dn, valid in images:
        counted.add(decode(dn, sensor, encoding=encoding), valid)
    return counted.result()


def store_statistics(
    store: ChipStore, *, split: Split | None = "train", shown: bool = False
) -> tuple[Statistics, list[str]]:
    """Count statistics, sensor → band, over all arrays of a store and one split or (None) all; with a line for each
    band that has none, and why."""
    counters: dict[tuple[str, str], StatisticsAccumulator] = {}
    wanted = {name: _rows(store, name, split) for name in store.arrays}
    with progress("statistics", sum(map(len, wanted.values())), shown=shown) as advance:
        for name, rows in wanted.items():
            info, sensor = store.arrays[name], store.array_sensor(name)
            size = max(1, _VALUES_PER_READ // (len(info.bands) * info.height * info.width))
            for first in range(0, len(rows), size):
                dn, valid = store.read(name, rows[first : first + size])
                physical = decode(dn, sensor)
                for index, band in enumerate(info.bands):
                    counter = counters.setdefault((info.sensor, band), StatisticsAccumulator([band]))
                    one = slice(index, index + 1)
                    counter.add(physical[:, one], None if valid is None else valid[:, one])
                advance(len(dn))
    found: Statistics = {}
    problems: list[str] = []
    for (sensor_name, _), counter in counters.items():
        try:
            found.setdefault(sensor_name, {}).update(counter.result())
        except InputError as problem:
            problems.append(f"{sensor_name}: {problem}")
    return found, problems


def _rows(store: ChipStore, array: str, split: Split | None) -> Int[Array, " chip"]:
    here = store.index.column("array").to_numpy(zero_copy_only=False) == array
    if split is not None:
        here &= store.index.column("split").to_numpy(zero_copy_only=False) == split
    return np.sort(store.array_rows[here])
