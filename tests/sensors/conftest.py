"""Small sensors and tables for the tests of the sensors room."""

from collections.abc import Callable

import pytest

from anyband.sensors.ranges import RangeTable, load_ranges
from anyband.sensors.sensor import Band, Encoding, OpticalRange, RadarBeam, Sensor, Spectrum

MakeSensor = Callable[..., Sensor]


@pytest.fixture(scope="session")
def v1() -> RangeTable:
    """The published SMARTIES v1 ranges."""
    return load_ranges("smarties_v1")


@pytest.fixture(scope="session")
def make_sensor() -> MakeSensor:
    """Make a sensor from spectra, (low, high) in nm or radar beams; its bands are called b0, b1, …"""

    def make(*spectra: Spectrum | tuple[float, float], name: str = "own") -> Sensor:
        bands = tuple(_band(f"b{index}", spectrum) for index, spectrum in enumerate(spectra))
        return Sensor(name=name, title="a sensor of one's own", bands=bands, default_encoding="dn")

    return make


def _band(name: str, spectrum: Spectrum | tuple[float, float]) -> Band:
    if isinstance(spectrum, tuple):
        seen: Spectrum = OpticalRange(low_nm=float(spectrum[0]), high_nm=float(spectrum[1]))
    else:
        seen = spectrum
    unit = "sigma0_db" if isinstance(seen, RadarBeam) else "reflectance"
    return Band(name=name, spectrum=seen, gsd_m=10.0, unit=unit, encodings=(("dn", Encoding()),))
