"""The band lists of the imaging spectrometers against the papers of their missions and second lists."""

from itertools import pairwise

import numpy as np
import pytest

from anyband.sensors.catalogue import get_sensor
from anyband.sensors.sensor import OpticalRange


def _optical(sensor: str, band: str) -> OpticalRange:
    spectrum = get_sensor(sensor).band(band).spectrum
    assert isinstance(spectrum, OpticalRange)
    return spectrum


def _centers_nm(sensor: str) -> np.ndarray:
    return np.array([band.spectrum.center_nm for band in get_sensor(sensor).bands])


def _widths_nm(sensor: str) -> np.ndarray:
    ranges = [_optical(sensor, band.name) for band in get_sensor(sensor).bands]
    return np.array([spectrum.high_nm - spectrum.low_nm for spectrum in ranges])


@pytest.mark.parametrize(
    ("sensor", "num_bands", "num_first_detector"),
    [("enmap", 224, 91), ("prisma", 234, 63), ("emit", 285, 285)],
)
def test_hyperspectral_bands_rise_in_wavelength_within_each_detector(
    sensor: str, num_bands: int, num_first_detector: int
) -> None:
    centers_nm = _centers_nm(sensor)
    falls = [index + 1 for index, (a, b) in enumerate(pairwise(centers_nm)) if b <= a]
    assert len(centers_nm) == num_bands
    assert falls == ([] if num_first_detector == num_bands else [num_first_detector])


@pytest.mark.parametrize("sensor", ["enmap", "prisma", "emit"])
def test_hyperspectral_bands_touch_their_neighbours_outside_the_water_bands(sensor: str) -> None:
    order = np.argsort(_centers_nm(sensor))
    centers_nm, widths_nm = _centers_nm(sensor)[order], _widths_nm(sensor)[order]
    gaps_nm = np.diff(centers_nm) - (widths_nm[1:] + widths_nm[:-1]) / 2
    # EnMAP sends no channels in the water vapour bands near 1.4 and 1.87 µm; its prism samples near its FWHM.
    dry = (np.abs(centers_nm[1:] - 1450) > 60) & (np.abs(centers_nm[1:] - 1900) > 150)
    assert gaps_nm[dry].max() < 2.0


@pytest.mark.parametrize(
    ("sensor", "bands", "sampling_nm", "narrowest_nm", "widest_nm"),
    [
        # Storch and others, Remote Sensing of Environment 294 (2023): 6.5 nm VNIR, 10 nm SWIR on average
        ("enmap", slice(0, 91), 6.5, 5.5, 11.0),
        ("enmap", slice(91, 224), 10.0, 7.0, 12.0),
        # ASI: 66 bands from 400 to 1010 nm, 173 from 920 to 2505 nm: 9.2 nm a band in both; FWHM 9 to 15 nm
        ("prisma", slice(0, 63), 9.2, 8.5, 15.5),
        ("prisma", slice(63, 234), 9.2, 8.5, 15.5),
        # Green and others, IEEE Aerospace Conference (2020): 7.4 nm sampling
        ("emit", slice(0, 285), 7.4, 8.0, 9.0),
    ],
)
def test_hyperspectral_sampling_and_widths_agree_with_the_mission_papers(
    sensor: str, bands: slice, sampling_nm: float, narrowest_nm: float, widest_nm: float
) -> None:
    steps_nm, widths_nm = np.diff(_centers_nm(sensor)[bands]), _widths_nm(sensor)[bands]
    assert np.median(steps_nm) == pytest.approx(sampling_nm, rel=0.08)
    assert narrowest_nm <= widths_nm.min() <= widths_nm.max() <= widest_nm


@pytest.mark.parametrize(
    ("sensor", "band", "center_nm", "fwhm_nm"),
    [
        # DLR, EnMAP_Spectral_Bands_update.xlsx
        ("enmap", "B1", 418.416, None),
        ("enmap", "B48", 666.637, None),
        ("enmap", "B91", 993.338, None),
        ("enmap", "B92", 901.961, None),
        ("enmap", "B135", 1390.48, None),
        ("enmap", "B224", 2445.30, None),
        # EMIT_Wavelengths_20220817.txt, channels 304, 284, 154 and 20
        ("emit", "B1", 381.0056, 8.415),
        ("emit", "B21", 529.5333, 8.439),
        ("emit", "B151", 1498.8727, 8.621),
        ("emit", "B285", 2492.9239, 8.809),
        # List_Cw_Swir of a PRISMA level 1 granule of 2 September 2022, entries 170, 107 and 0 counted from 0
        ("prisma", "B64", 943.3579, None),
        ("prisma", "B127", 1606.4913, None),
        ("prisma", "B234", 2497.1155, None),
    ],
)
def test_a_hyperspectral_band_agrees_with_a_second_list(
    sensor: str, band: str, center_nm: float, fwhm_nm: float | None
) -> None:
    spectrum = _optical(sensor, band)
    assert spectrum.center_nm == pytest.approx(center_nm, abs=0.011)
    assert fwhm_nm is None or spectrum.high_nm - spectrum.low_nm == pytest.approx(fwhm_nm, abs=0.0011)
