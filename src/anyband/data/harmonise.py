"""Digital numbers, physical units, network input, pictures of them, and statistics counted from them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated, Any, get_args

import numpy as np
import torch
from pydantic import Strict, TypeAdapter, ValidationError
from torch import Tensor

from anyband.arrays import Array, Bool, Float, Num, to_device
from anyband.errors import CatalogueError, InputError, counted
from anyband.sensors.sensor import BandStatistics, Encoding, Number, RadarBeam, Sensor, Transform, physical_values

__all__ = [
    "RELATIVE_RESOLUTION",
    "Normalisation",
    "Standardiser",
    "StatisticsAccumulator",
    "can_hold",
    "composite",
    "count_statistics",
    "decode",
    "normalisation_for",
    "picture",
    "restore",
    "rounded_into",
    "standardise",
    "stretched",
    "to_physical",
    "to_stored",
    "two_sigma",
]


# Source: the released code of A²-MAE stretches mean ± 2 standard deviations to [0, 1].
_NUM_SIGMAS = 2.0


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """All that turns digital numbers of some bands into network input; one value for each band."""

    sensor: str
    bands: tuple[str, ...]
    units: tuple[str, ...]
    scale: tuple[float, ...]
    """Physical units per digital number."""
    offset: tuple[float, ...]
    """Physical value of DN 0, before the transform."""
    transform: tuple[str, ...]
    """identity, power_to_db, amplitude_to_db or brightness_temperature."""
    p01: tuple[float, ...]
    """Physical value that becomes 0."""
    p99: tuple[float, ...]
    """Physical value that becomes 1."""
    mean: tuple[float, ...]
    """Of the values scaled to [0, 1]."""
    std: tuple[float, ...]
    """Of the values scaled to [0, 1]."""
    nodata: float | None
    source: str
    """Where encoding and statistics come from."""
    k1: tuple[float, ...] = ()
    """First thermal constant, in the unit of the radiance; 0 where a band has none; empty: none has."""
    k2: tuple[float, ...] = ()
    """Second thermal constant, kelvin; as `k1`."""

    @property
    def encodings(self) -> tuple[Encoding, ...]:
        """How digital numbers of each band become physical values."""
        none = (0.0,) * len(self.bands)
        rows = zip(self.scale, self.offset, self.transform, self.k1 or none, self.k2 or none, strict=True)
        return tuple(Encoding(scale=a, offset=b, transform=c, k1=d, k2=e) for a, b, c, d, e in rows)  # type: ignore[arg-type]

    def at(self, index: Sequence[int]) -> "Normalisation":
        """Take the bands at some positions, in that order; one may be taken twice."""
        taken: dict[str, Any] = {
            name: tuple(value[band] for band in index)
            for name, value in vars(self).items()
            if isinstance(value, tuple) and value
        }
        return replace(self, **taken)

    def to_dict(self) -> dict[str, Any]:
        """Make plain JSON values; `from_dict` is the exact inverse."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Normalisation":
        """Read what `to_dict` wrote; `CatalogueError` where a key, a value or a number of values is wrong."""
        kinds: dict[str, Any] = {field.name: field.type for field in fields(cls)}
        if set(values) != set(kinds):
            raise CatalogueError(
                f"a normalisation has the keys {', '.join(sorted(kinds))}; found {', '.join(sorted(values)) or 'none'}"
            )
        read: dict[str, Any] = {}
        for key, value in values.items():
            kind, adapter = _KINDS[kinds[key]]
            try:
                read[key] = adapter.validate_python(value)
            except ValidationError:
                raise CatalogueError(f"a normalisation needs {kind} as '{key}', found {value!r}") from None
        may_be_none = () if "brightness_temperature" in read["transform"] else ("k1", "k2")
        lengths = {key: len(one) for key, one in read.items() if isinstance(one, tuple) and key not in may_be_none}
        if set(lengths.values()) != {len(read["bands"])} or not read["bands"]:
            raise CatalogueError(
                f"a normalisation needs one value of each kind for each of its {len(read['bands'])} bands, "
                f"found {', '.join(f'{length} of {name}' for name, length in lengths.items())}"
            )
        for band, transform in zip(read["bands"], read["transform"], strict=True):
            if transform not in get_args(Transform):
                raise CatalogueError(
                    f"transform '{transform}' of band '{band}' is not known; there are {', '.join(get_args(Transform))}"
                )
        return cls(**read)


# What each kind of field has to be, in words.
_KINDS: dict[Any, tuple[str, TypeAdapter[Any]]] = {
    str: ("a text", TypeAdapter(str)),
    float | None: ("a number or null", TypeAdapter(Annotated[float, Strict()] | None)),
    tuple[str, ...]: ("a list of texts", TypeAdapter(tuple[str, ...])),
    tuple[float, ...]: ("a list of finite numbers", TypeAdapter(tuple[Number, ...])),
}


def normalisation_for(
    sensor: Sensor, *, encoding: str | None = None, statistics: Mapping[str, BandStatistics] | None = None
) -> Normalisation:
    """Join a sensor's encoding (None: its default) and statistics by band (None: the catalogue's). `CatalogueError`
    where there is no such encoding, or a band has no statistics."""
    name = encoding or sensor.default_encoding
    codes = [band.encoding(name) for band in sensor.bands]
    if statistics is None:
        statistics = {band.name: band.statistics for band in sensor.bands if band.statistics is not None}
        statistics_source = sensor.statistics_source or "statistics of the catalogue"
    else:
        statistics_source = "given statistics"
    missing = [band for band in sensor.band_names if band not in statistics]
    if missing:
        raise CatalogueError(
            f"no normalisation statistics for {len(missing)} of {counted(len(sensor.bands), 'band')} of "
            f"'{sensor.name}' ({', '.join(missing[:8])}{' …' if len(missing) > 8 else ''}); "
            f"compute those of your images with `anyband prepare --stats`"
        )
    known = [statistics[band] for band in sensor.band_names]
    return Normalisation(
        sensor=sensor.name,
        bands=sensor.band_names,
        units=tuple(band.unit for band in sensor.bands),
        scale=tuple(code.scale for code in codes),
        offset=tuple(code.offset for code in codes),
        transform=tuple(code.transform for code in codes),
        k1=tuple(code.k1 for code in codes),
        k2=tuple(code.k2 for code in codes),
        p01=tuple(one.p01 for one in known),
        p99=tuple(one.p99 for one in known),
        mean=tuple(one.mean for one in known),
        std=tuple(one.std for one in known),
        nodata=sensor.nodata,
        source=f"encoding '{name}'; {statistics_source}",
    )


def two_sigma(statistics: BandStatistics) -> BandStatistics:
    """Make the statistics that stretch mean ± 2 deviations to [0, 1], of values clipped to [p01, p99]. Source: the
    released code of A²-MAE (arXiv 2406.08079). That values outside are clipped is our reading."""
    extent = statistics.p99 - statistics.p01
    mean, std = statistics.p01 + statistics.mean * extent, statistics.std * extent
    return BandStatistics(p01=mean - _NUM_SIGMAS * std, p99=mean + _NUM_SIGMAS * std, mean=0.0, std=1.0)


def stretched(n: Normalisation) -> Normalisation:
    """Make the normalisation of `data.stretch: two_sigma` from one by percentiles."""
    rows = zip(n.p01, n.p99, n.mean, n.std, strict=True)
    bands = [two_sigma(BandStatistics(p01=p01, p99=p99, mean=mean, std=std)) for p01, p99, mean, std in rows]
    return replace(
        n,
        p01=tuple(one.p01 for one in bands),
        p99=tuple(one.p99 for one in bands),
        mean=tuple(one.mean for one in bands),
        std=tuple(one.std for one in bands),
        source=f"{n.source}; mean ± 2 deviations stretched to [0, 1]",
    )


def decode(
    dn: Num[Array, "*batch band row col"], sensor: Sensor, *, encoding: str | None = None
) -> Float[Array, "*batch band row col"]:
    """Decode digital numbers of a sensor's bands to physical units, as `to_physical`; no statistics are needed."""
    unused = BandStatistics(p01=0.0, p99=1.0, mean=0.0, std=1.0)
    n = normalisation_for(sensor, encoding=encoding, statistics=dict.fromkeys(sensor.band_names, unused))
    return np.asarray(to_physical(torch.from_numpy(np.ascontiguousarray(dn)), n).numpy())


def to_physical(dn: Num[Tensor, "*batch band row col"], n: Normalisation) -> Float[Tensor, "*batch band row col"]:
    """Decode each band's digital numbers by itself to physical units, float32. What has no logarithm becomes NaN."""
    numbers = torch.tensor([n.scale, n.offset], dtype=torch.float32, device=dn.device)
    return _decoded(dn, n, *numbers[:, :, None, None])


def _decoded(dn: Tensor, n: Normalisation, scale: Tensor, offset: Tensor) -> Tensor:
    if dn.shape[-3] != len(n.bands):
        raise _other_bands(dn, n)
    linear = dn.to(torch.float32, copy=True).mul_(scale).add_(offset)
    if set(n.transform) == {"identity"}:
        return linear
    rows = zip(linear.unbind(-3), n.encodings, strict=True)
    return torch.stack([physical_values(x, one.transform, k1=one.k1, k2=one.k2, xp=torch) for x, one in rows], dim=-3)


def standardise(
    dn: Num[Tensor, "*batch band row col"],
    n: Normalisation,
    valid: Bool[Tensor, "*batch band row col"] | None = None,
) -> Float[Tensor, "*batch band row col"]:
    """Turn digital numbers into network input: clipped, scaled, standardised; 0 where missing, NaN or infinite."""
    return Standardiser(n, device=dn.device)(dn, valid)[0]


class Standardiser:
    """Turns digital numbers into network input on a device: `standardise` with the constants at hand."""

    def __init__(self, n: Normalisation, *, device: torch.device) -> None:
        """Bring the numbers of the bands to the device."""
        self._n = n
        rows = (n.scale, n.offset, n.p01, n.p99, n.mean, n.std)
        numbers = torch.tensor(rows, dtype=torch.float32)[:, :, None, None]
        self._scale, self._offset, self._low, self._high, self._mean, self._std = to_device(numbers, device)
        self._is_linear = set(n.transform) == {"identity"}

    def __call__(
        self, dn: Num[Tensor, "*batch band row col"], valid: Bool[Tensor, "*batch band row col"] | None = None
    ) -> tuple[Float[Tensor, "*batch band row col"], Bool[Tensor, "*batch band row col"] | None]:
        """Standardise, see `standardise`, and tell what is missing; None: nothing. In place on one float32 copy,
        because memory is what this waits for."""
        # Whole numbers times a factor are finite, so there is nothing to look for.
        always_finite = self._is_linear and not dn.is_floating_point()
        x = _decoded(dn, self._n, self._scale, self._offset)
        missing = None if always_finite else ~torch.isfinite(x)
        if valid is not None:
            missing = ~valid if missing is None else missing | ~valid
        x.clamp_(self._low, self._high).sub_(self._low).div_(self._high - self._low)
        x.sub_(self._mean).div_(self._std)
        return x if missing is None else x.masked_fill_(missing, 0.0), missing


def restore(x: Float[Tensor, "*batch band row col"], n: Normalisation) -> Float[Tensor, "*batch band row col"]:
    """Turn network input back into physical units: the inverse of `standardise` where nothing was clipped."""
    if x.shape[-3] != len(n.bands):
        raise _other_bands(x, n)
    numbers = torch.tensor([n.mean, n.std, n.p01, n.p99], dtype=torch.float32, device=x.device)
    mean, std, low, high = numbers[:, :, None, None]
    restored: Tensor = (x * std + mean) * (high - low) + low
    return restored


def _other_bands(pixels: Tensor, n: Normalisation) -> InputError:
    return InputError(
        f"'{n.sensor}' is normalised over {counted(len(n.bands), 'band')} ({', '.join(n.bands[:16])}), found an "
        f"array of shape {tuple(pixels.shape)}; it needs (…, band, row, col), with these bands in this order"
    )


def to_stored(physical: Float[Array, "band row col"], n: Normalisation) -> Float[Array, "band row col"]:
    """Encode physical units as digital numbers, float64 and not rounded: the inverse of `to_physical`."""
    if len(physical) != len(n.bands):
        raise InputError(
            f"'{n.sensor}' has {counted(len(n.bands), 'band')} here, found an array of shape {physical.shape}"
        )
    rows = zip(physical, n.encodings, strict=True)
    return np.stack([encoding.encode(band.astype(np.float64)) for band, encoding in rows])


def rounded_into(
    stored: Float[Array, "band row col"], dtype: str, *, nodata: float | None
) -> Num[Array, "band row col"]:
    """Bring numbers into a type: rounded and clipped to it. One that would be `nodata` becomes the type's next number,
    on the side of the true one."""
    kind: np.dtype[Any] = np.dtype(dtype)
    low, high = _limits(kind)
    whole = stored if kind.kind == "f" else np.rint(stored)
    numbers: Array = whole.clip(low, high).astype(kind)
    if nodata is None or nodata != nodata or not can_hold(dtype, nodata):
        return numbers
    below, above = _neighbours(kind, nodata)
    beside = np.where((stored > nodata) & (above <= high) | (below < low), above, below).astype(kind)
    return np.where(numbers == kind.type(nodata), beside, numbers)


def _limits(kind: np.dtype[Any]) -> tuple[float, float]:
    limits: Any = np.finfo(kind) if kind.kind == "f" else np.iinfo(kind)
    return float(limits.min), float(limits.max)


def can_hold(dtype: str, number: float) -> bool:
    """Tell whether a number is one of a NumPy type; NaN and infinity are of floats."""
    kind: np.dtype[Any] = np.dtype(dtype)
    low, high = _limits(kind)
    if kind.kind == "f":
        return bool(low <= number <= high or not np.isfinite(number))
    return bool(low <= number <= high and number == int(number))


def _neighbours(kind: np.dtype[Any], nodata: float) -> tuple[float, float]:
    if kind.kind != "f":
        return nodata - 1, nodata + 1
    value = kind.type(nodata)
    return float(np.nextafter(value, -np.inf, dtype=kind)), float(np.nextafter(value, np.inf, dtype=kind))


# chosen: 2 % and 98 % show structure without being led by a few bright roofs.
_PERCENTILES = (2.0, 98.0)
_MISSING = 1.0  # chosen: white, as paper


def composite(sensor: Sensor) -> tuple[tuple[tuple[str, ...], ...], str]:
    """Choose bands for red, green and blue, (band,) or (band, band) for the difference of two, and say what they show:
    natural colour if there; radar as co-polarised, cross-polarised and their difference; else three bands spread over
    the spectrum, the longest as red; of one or two bands the first in grey."""
    natural = _found(sensor, ("red", "green", "blue"))
    if natural is not None:
        return tuple((name,) for name in natural), "natural colour"
    for pair in (("VV", "VH"), ("HH", "HV")):
        radar = _found(sensor, pair)
        if radar is not None and isinstance(sensor.band(radar[0]).spectrum, RadarBeam):
            co, cross = radar
            return ((co,), (cross,), (co, cross)), f"{co}, {cross}, {co} − {cross}"
    by_wavelength = sorted(sensor.bands, key=lambda band: band.spectrum.center_nm, reverse=True)
    if len(by_wavelength) < 3:
        name = sensor.bands[0].name
        return ((name,),) * 3, name
    names = tuple(by_wavelength[index].name for index in (0, len(by_wavelength) // 2, -1))
    return tuple((name,) for name in names), ", ".join(names)


def picture(
    physical: Float[Array, "band row col"],
    sensor: Sensor,
    *,
    valid: Bool[Array, "band row col"] | None = None,
    like: Float[Array, "band y x"] | None = None,
    percentiles: tuple[float, float] = _PERCENTILES,
    missing_grey: float = _MISSING,
) -> Float[Array, "row col colour"]:
    """Draw an image in the bands that `composite` chooses, in [0, 1], each channel stretched between two percentiles.

    Args:
        physical: equally many bands as `sensor`, else `InputError`.
        sensor: what the bands are.
        valid: which values have data; None: the finite ones.
        like: image whose percentiles are used, so that two pictures can be compared; None: this one.
        percentiles: that become black and full colour.
        missing_grey: drawn where a pixel lacks a shown band; NaN leaves that to who shows the picture.
    """
    _check(physical, sensor)
    known = np.isfinite(physical) if valid is None else np.isfinite(physical) & valid
    channels, _ = composite(sensor)
    shown = np.stack([_channel(physical, sensor, names) for names in channels], axis=-1)
    missing = ~np.logical_and.reduce([known[sensor.band_index(name)] for names in channels for name in names])
    reference, usable = shown, ~missing
    if like is not None:
        _check(like, sensor)
        reference = np.stack([_channel(like, sensor, names) for names in channels], axis=-1)
        usable = np.isfinite(reference).all(axis=-1)
    stretched = _stretched(shown, reference[usable], percentiles)
    stretched[missing] = missing_grey
    return stretched


def _found(sensor: Sensor, names: Sequence[str]) -> tuple[str, ...] | None:
    try:
        return tuple(sensor.band(name).name for name in names)
    except CatalogueError:
        return None


def _channel(physical: Array, sensor: Sensor, names: tuple[str, ...]) -> Array:
    first = physical[sensor.band_index(names[0])]
    return np.asarray(first if len(names) == 1 else first - physical[sensor.band_index(names[1])])


def _stretched(shown: Array, reference: Array, percentiles: tuple[float, float]) -> Array:
    if not len(reference):
        return np.full(shown.shape, _MISSING, dtype=np.float32)
    low, high = np.percentile(reference.astype(np.float64), percentiles, axis=0)
    # A channel of one value is drawn as black, not divided by zero.
    span = np.where(high > low, high - low, 1.0)
    scaled: Array = np.clip(np.nan_to_num((shown - low) / span), 0, 1).astype(np.float32)
    return scaled


def _check(physical: Array, sensor: Sensor) -> None:
    if physical.shape[0] != len(sensor.bands):
        raise InputError(
            f"an image of '{sensor.name}' has {counted(len(sensor.bands), 'band')}, found an array of shape "
            f"{physical.shape}"
        )


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
                f"statistics of {counted(len(self.bands), 'band')} ({', '.join(self.bands[:16])}) are being counted, "
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

    def moments(self) -> dict[str, tuple[float, float]]:
        """Compute mean and deviation of each band over all that was counted, none of it clipped, to within a bin.
        `InputError` as `result` has it."""
        edges = _edges()
        middles, found = (edges[:-1] + edges[1:]) / 2, {}
        for band, counts in zip(self.result(), self._counts, strict=True):
            mean = float(np.average(middles, weights=counts))
            found[band] = mean, float(np.sqrt(np.average((middles - mean) ** 2, weights=counts)))
        return found

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
        weights, edges = counts / counts.sum(), _edges()
        scaled = (np.clip((edges[:-1] + edges[1:]) / 2, p01, p99) - p01) / (p99 - p01)
        mean = float(weights @ scaled)
        return BandStatistics(p01=p01, p99=p99, mean=mean, std=float(np.sqrt(weights @ (scaled - mean) ** 2)))


def _bin_of(values: Float[Array, " value"]) -> Array:
    """Find the bin of each float32: its sign and leading bits, most negative first."""
    magnitude = (values.view(np.int32) & 0x7FFFFFFF) >> (_FLOAT_MANTISSA_BITS - _MANTISSA_BITS)
    key = np.clip(magnitude - _FIRST_KEY, 0, _NUM_MAGNITUDES - 1)
    return np.asarray(np.where(values < 0, _NUM_MAGNITUDES - 1 - key, _NUM_MAGNITUDES + key))


def _edges() -> Array:
    """List the edges of all bins, ascending: those of the magnitudes, of which the first is 0, with either sign."""
    keys = np.arange(_NUM_MAGNITUDES + 1) + _FIRST_KEY
    bits = (keys << (_FLOAT_MANTISSA_BITS - _MANTISSA_BITS)).astype(np.int32)
    edges = bits.view(np.float32).astype(np.float64)
    edges[0] = 0.0
    return np.concatenate([-edges[:0:-1], edges])


def _quantile(counts: Array, share: float) -> float:
    """Find the value below which a share of the counts lies, by proportion inside its bin."""
    below, edges = np.cumsum(counts), _edges()
    wanted = share * below[-1]
    index = int(np.searchsorted(below, wanted, side="left"))
    before = below[index] - counts[index]
    inside = (wanted - before) / counts[index] if counts[index] else 0.0
    return float(edges[index] + inside * (edges[index + 1] - edges[index]))


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
