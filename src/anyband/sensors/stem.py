"""A stem of three bands, as in A²-MAE's released code: which three of a sensor's bands stand in it, and what red is."""

from functools import cache

from anyband.sensors.ranges import RangeTable, load_ranges
from anyband.sensors.sensor import Sensor
from anyband.sensors.spectrum import OpticalRange, Spectrum, covered_share

__all__ = ["STEM", "colour_of", "is_stem", "stem_bands", "stem_ranges"]

STEM = "triplet"
"""Name of the range table whose ranges are the positions of a stem."""

# chosen: a range that lies in no window with at least half of it (panchromatic, yellow, red edge) is no colour.
_MIN_COVERED = 0.5


@cache
def stem_ranges() -> RangeTable:
    """Give the table of the stem's positions: red, green, blue."""
    return load_ranges(STEM)


def is_stem(table: RangeTable) -> bool:
    """Tell whether a network's ranges are the positions of a stem, which any band may stand in."""
    return table.name == STEM


def colour_of(spectrum: Spectrum) -> str | None:
    """Tell whether a spectrum is red, green or blue: at least half of it lies in that window.

    Args:
        spectrum: of a band or a trained range.

    Returns:
        The colour in whose window most of it lies; None: it is no colour.
    """
    if not isinstance(spectrum, OpticalRange):
        return None
    covered = {name: covered_share(spectrum, window) for name, window in _windows().items()}
    best = max(covered, key=covered.__getitem__)
    return best if covered[best] >= _MIN_COVERED else None


def stem_bands(sensor: Sensor) -> tuple[int, int, int]:
    """Choose the bands that stand in the stem when a network is used.

    Red, green and blue where the sensor has all three: of several of one colour the one nearest to the window's
    centre. Else the first three bands; a sensor with fewer repeats them in turn.

    Args:
        sensor: with the bands that are there, in their order.

    Returns:
        Position of a band for each position of the stem.

    """
    # chosen: features must not depend on chance, and colours are what most sensors share.
    found = [_of_colour(sensor, colour, window) for colour, window in _windows().items()]
    red, green, blue = (index if index is not None else -1 for index in found)
    if min(red, green, blue) >= 0:
        return red, green, blue
    count = len(sensor.bands)
    return 0, 1 % count, 2 % count


def _of_colour(sensor: Sensor, colour: str, window: OpticalRange) -> int | None:
    candidates = [index for index, band in enumerate(sensor.bands) if colour_of(band.spectrum) == colour]
    return min(
        candidates,
        key=lambda index: abs(sensor.bands[index].spectrum.center_nm - window.center_nm),
        default=None,
    )


def _windows() -> dict[str, OpticalRange]:
    ranges = stem_ranges().ranges
    return {entry.name: entry.spectrum for entry in ranges if isinstance(entry.spectrum, OpticalRange)}
