"""Values that cannot be what is declared: found on a sample of pixels, and said with the likely cause."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from anyband.sensors.sensor import Band, Encoding, Sensor, Unit, physical_values

__all__ = ["ValueCheck", "in_first_words", "sampled"]

# chosen: what may be in half of the values of an image, and what may be in one in a hundred; from what is known:
# - decibels: spaceborne radars have noise of -20 to -30 dB (ESA, Sentinel-1 User Guide: -22 dB), and land seldom
#   reaches 10 dB (Ulaby and Dobson, Handbook of Radar Scattering Statistics for Terrain, 1989);
# - reflectance: a white surface has 1; USGS, Landsat 8-9 Collection 2 Level 2 Science Product Guide, LSDS-1619: -0.2 to
#   1.6 in any pixel;
# - kelvin: the coldest ground has -98 °C (Scambos and others, doi:10.1029/2018GL078133), the hottest without fire 81 °C
#   (Zhao and others, doi:10.1175/BAMS-D-20-0325.1);
# - radiance: 2100 W m⁻² µm⁻¹ of sunlight (Coddington and others, doi:10.1029/2020GL091709) over π, and a fifth more.
_LIMITS: dict[Unit, tuple[float, float, float, float, str]] = {
    "sigma0_db": (-60.0, 30.0, -100.0, 100.0, " dB"),
    "reflectance": (-0.05, 2.0, -0.5, 5.0, ""),
    "kelvin": (175.0, 400.0, 100.0, 2000.0, " K"),
    "radiance": (-5.0, 800.0, -50.0, 2000.0, " W/(m² sr µm)"),
    "count": (-0.5, math.inf, -0.5, math.inf, ""),
}
_BYTE, _COUNTS = 255, "declare a sensor of counts, for example `maxar-rgb`"
# chosen: a picture of 8 bits fills its range, dark water does not; and what it would be is no reflectance of land.
_PICTURE_SPREAD, _DARK = 100, 0.1
# chosen: numbers with decimals, none over 3, where 1 stands for a hundredth or less, are reflectance already.
_LARGEST_SHARE, _COARSEST_SCALE = 3.0, 0.01
# chosen: and of all bands none over 100, where 1 stands for a thousandth or less, are per cent.
_LARGEST_PERCENT, _SCALE_OF_PERCENT = 100.0, 0.001
# chosen: speckle alone spreads decibels over more than this, so that values from 0 to 1 are power or amplitude.
_LARGEST_POWER, _NOISE = 1.0, 0.1
# chosen: reflectance is seldom below -0.2 (see above), standardised numbers are by half.
_STANDARDISED = 0.5
_SAMPLED_PIXELS, _NAMED_BANDS, _VISIBLE_NM = 256, 4, 700


def sampled(pixels: Any) -> Any:
    """Take some pixels of (…, row, col), evenly spread, as (…, value): enough to see what an image holds."""
    height, width = pixels.shape[-2:]
    step = max(1, math.isqrt(height * width // _SAMPLED_PIXELS))
    return pixels[..., ::step, ::step].reshape(*pixels.shape[:-2], -1)


class ValueCheck:
    """Finds values that cannot be what is declared, or are no values of the statistics in use; they decide nothing."""

    def __init__(
        self, sensor: Sensor, encodings: Sequence[Encoding], limits: Sequence[tuple[float, float] | None]
    ) -> None:
        """Take how each band of a sensor is stored, and the 1st and 99th percentile of its statistics, physical; None
        where there are none."""
        self._name, self._bands, self._encodings = sensor.name, sensor.bands, encodings
        bands = sensor.bands
        units = np.array([band.unit for band in bands])
        self._scale = np.array([code.scale for code in encodings])
        self._offset = np.array([code.offset for code in encodings])
        self._p01, self._p99 = np.array([limit or (math.nan, math.nan) for limit in limits]).T
        self._low, self._high, self._lowest, self._highest = np.array([_LIMITS[band.unit][:4] for band in bands]).T
        plain = np.array([code.transform == "identity" for code in encodings])
        self._logged = np.flatnonzero(~plain).tolist()
        self._power, self._decibel = (units == "sigma0_db") & ~plain, (units == "sigma0_db") & plain
        optical = (units == "reflectance") & plain
        self._share = optical & (np.abs(self._scale) <= _COARSEST_SCALE) | (units == "count")
        self._percent = optical & (np.abs(self._scale) <= _SCALE_OF_PERCENT) & (self._offset == 0)
        self._of_bytes = (units == "count") & (self._p99 <= _BYTE)
        self._picture = optical & (np.abs(self._scale) * _BYTE < _DARK)
        # Water is black beyond the visible.
        self._never_dark = ~(optical & np.array([band.spectrum.center_nm > _VISIBLE_NM for band in bands]))

    def __call__(self, dn: Any, valid: Any) -> dict[str, tuple[str, list[int]]]:
        """Look at a sample of images: digital numbers (image, band, value), and which have data.

        Returns:
            what is wrong in a word → a sentence with the likely cause and what mends it, of the first image that has
            it; and the positions of the images that have it.
        """
        stored = _ordered(dn, valid)
        broken = np.zeros(dn.shape[:2], dtype=bool)
        if dn.dtype.kind == "f":
            broken = ((dn != np.rint(dn)) & valid & np.isfinite(dn)).any(axis=-1)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            physical = stored * self._scale[:, None] + self._offset[:, None]
            negative = physical[..., 2] < 0
            for band in self._logged:
                code = self._encodings[band]
                physical[:, band] = physical_values(physical[:, band], code.transform, k1=code.k1, k2=code.k2)
            wrong = self._wrong(stored, physical, negative, broken, dn.dtype == np.uint8)
        found, taken = {}, np.zeros(negative.shape, dtype=bool)
        for kind, flagged in wrong.items():
            new = flagged & ~taken
            if new.any():
                taken |= new
                images = np.flatnonzero(new.any(axis=1)).tolist()
                index = np.flatnonzero(new[images[0]]).tolist()
                bands = [self._bands[one] for one in index]
                spans = [one[images[0]][index].T for one in (stored, physical)]
                said = _sentence(kind, bands, self._encodings[index[0]], *spans)
                word = "unlikely" if kind in ("dark", "bright") else "impossible"
                found[f"{self._name} {kind}"] = f"{self._name}: {word} values: {said}", images
        return found

    def _wrong(self, stored: Any, physical: Any, negative: Any, broken: Any, is_byte: bool) -> dict[str, Any]:
        """Tell in which bands of which images (image, band) what is wrong; what says more of the cause comes first."""
        least, low, middle, high, largest = np.moveaxis(physical, -1, 0)
        small = broken & (np.abs(stored[..., 1]) <= _LARGEST_SHARE) & (stored[..., 3] <= _LARGEST_SHARE)
        in_byte = ~broken & (stored[..., 0] >= 0) & (stored[..., 4] <= _BYTE)
        fills = is_byte | (stored[..., 3] - stored[..., 1] >= _PICTURE_SPREAD).any(axis=1, keepdims=True)
        too_dark, measured = largest < self._p01, np.isfinite(self._p01)
        return {
            "negative": self._power & negative,
            "power": _in_all(self._decibel, (low >= -_NOISE) & (middle >= 0) & (middle <= _LARGEST_POWER)),
            "share": self._share & small,
            "percent": _in_all(self._percent, broken & (stored[..., 0] >= 0) & (stored[..., 3] <= _LARGEST_PERCENT)),
            "bits": self._of_bytes & (stored[..., 4] > _BYTE),
            "picture": _in_all(self._picture, in_byte & fills),
            "outside": (middle < self._low) | (middle > self._high) | (low < self._lowest) | (high > self._highest),
            "dark": too_dark & self._never_dark | _in_all(measured, too_dark),
            "bright": _in_all(measured, least > self._p99),
        }


def _ordered(dn: Any, valid: Any) -> Any:
    """Find least value, 1st percentile, median, 99th percentile and largest value; NaN without data."""
    known = valid & np.isfinite(dn)
    last = known.sum(axis=-1) - 1
    ranks = np.stack([last * 0, last // 100, last // 2, last - last // 100, last], axis=-1).clip(0)
    ordered = np.sort(dn if known.all() else np.where(known, dn, np.nan), axis=-1)
    return np.take_along_axis(ordered, ranks, axis=-1).astype(np.float64)


def in_first_words(found: Iterable[tuple[str, Mapping[str, str]]]) -> Iterator[tuple[str, list[str]]]:
    """Make notes of what `ValueCheck` found, (name, kind → sentence) of each image: of a kind the first sentence."""
    first: dict[str, str] = {}
    for name, said in found:
        yield name, [first.setdefault(kind, sentence) for kind, sentence in said.items()]


def _in_all(group: Any, flagged: Any) -> Any:
    """Flag the bands of a group where all of them are."""
    return group & flagged & (flagged | ~group).all(axis=-1, keepdims=True)


def _sentence(kind: str, bands: Sequence[Band], code: Encoding, stored: Any, physical: Any) -> str:
    """Say what is wrong in some bands of one image, what the numbers likely are, and what mends it. `stored` and
    `physical` have the values of `_ordered` of each band; `code` is of the first."""
    band, alike = bands[0], [one.name for one in bands if one.unit == bands[0].unit]
    names = ", ".join(alike[:_NAMED_BANDS]) + f" and {len(alike) - _NAMED_BANDS} more" * (len(alike) > _NAMED_BANDS)
    numbers = f"{_shown(stored[1].min())} to {_shown(stored[3].max())}"
    declare_plain = f"declare {_encoding_of(band, _is_plain)}"
    match kind:
        case "negative":
            return (
                f"most of {names} is negative ({numbers}), which no power or amplitude is: likely dB; {declare_plain}"
            )
        case "power":
            power = _encoding_of(band, lambda one: one.transform == "power_to_db")
            return f"{names} are {numbers} as dB, never negative: likely linear power or amplitude; declare {power}"
        case "share" if band.unit == "count":
            return (
                f"the counts of {names} are {numbers} with decimals: likely scaled to 0..1 or standardised; give the "
                "picture's own numbers, or declare `scale: 255`"
            )
        case "share" if stored[1].min() < -_STANDARDISED:
            return (
                f"the digital numbers of {names} are {numbers}: likely standardised (mean 0, deviation 1); give the "
                "numbers from before that"
            )
        case "share":
            return (
                f"the digital numbers of {names} are {numbers}: likely reflectance of 0 to 1 already; {declare_plain}"
            )
        case "percent":
            return f"the digital numbers of {names} are {numbers} with decimals: likely per cent; declare `scale: 0.01`"
        case "bits":
            largest = stored[4].max()
            scale = _BYTE / (2 ** math.ceil(math.log2(largest + 1)) - 1)
            return (
                f"the counts of {names} reach {_shown(largest)}, where a picture of 8 bits ends at {_BYTE}: likely of "
                f"more bits; declare `scale: {scale:.6g}`"
            )
        case "picture":
            return f"the digital numbers of {names} are {numbers}, whole: likely a picture of 8 bits; {_COUNTS}"
        case "outside":
            return _outside(names, band, code, stored[1:4, 0], physical[1:4, 0])
    side = "below the 1st" if kind == "dark" else "above the 99th"
    return (
        f"every value of {names} lies {side} percentile of the statistics in use: likely another encoding, else take "
        "statistics of these images"
    )


def _outside(names: str, band: Band, code: Encoding, stored: Any, physical: Any) -> str:
    """Say of the first band which value lies outside what can be; that of a few pixels, or of most, is a fill value."""
    low, high, *_, unit = _LIMITS[band.unit]
    at = 1 if not low <= physical[1] <= high else 0 if physical[0] < low else 2
    dn, value = float(stored[at]), float(physical[at])
    can_be = f"{low:g} and above" if high == math.inf else f"{low:g} to {high:g}{unit}"
    found = f"{'' if at == 1 else 'some '}values of {names} are about {_shown(value)}{unit}, where {can_be} can be"
    if at != 1 or stored[0] == dn:
        return f"{found}: likely a fill value; declare `nodata: {dn:g}`"
    return f"{found}: likely {_likely(band, code, dn, value)}"


def _likely(band: Band, code: Encoding, dn: float, value: float) -> str:
    """Name what numbers around `dn` likely are, which become `value`, and what mends it."""
    scaled = f"digital numbers; declare {_encoding_of(band, lambda one: not _is_plain(one))}"
    times = next((times for times in (10, 100, 1000, 10_000) if value >= -40 * times), None)
    match band.unit:
        case "sigma0_db" if code.transform == "identity" and value < 0 and times is not None:
            return f"decibels times {times}; declare `scale: {code.scale / times:g}`"
        case "sigma0_db":
            return "numbers without calibration; calibrate them, then declare `encoding: linear` or `amplitude`"
        case "kelvin" if -100 <= dn <= 100:
            return "degrees Celsius; declare `scale: 1` and `offset: 273.15`"
        case "kelvin" if 175 <= dn <= 400:
            return f"kelvin already; declare {_encoding_of(band, _is_plain)}"
        case "kelvin" if 1750 <= dn <= 4000:
            return "tenths of a kelvin; declare `scale: 0.1`"
        case "reflectance" if _is_plain(code) and 0 < dn <= _BYTE:
            return f"per cent, or a picture of 8 bits; declare `scale: 0.01`, or {_COUNTS.removeprefix('declare ')}"
    return scaled if _is_plain(code) else "of another product; declare the `scale` and `offset` of these numbers"


def _shown(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"


def _is_plain(code: Encoding) -> bool:
    return code.transform == "identity" and code.scale == 1 and code.offset == 0


def _encoding_of(band: Band, fits: Callable[[Encoding], bool]) -> str:
    """Name the first encoding of a band that fits, as it is declared."""
    name = next((name for name, code in band.encodings if fits(code)), None)
    return "how its numbers are stored" if name is None else f"`encoding: {name}`"
