"""Pictures of images."""

import numpy as np
import pytest

from anyband.data.harmonise import composite, picture
from anyband.errors import InputError
from anyband.sensors.sensor import Band, Encoding, OpticalRange, Polarisation, RadarBeam, Sensor


def _optical(name: str, low_nm: float, *aliases: str) -> Band:
    spectrum = OpticalRange(low_nm=low_nm, high_nm=low_nm + 30.0)
    encodings = (("dn", Encoding()),)
    return Band(name=name, spectrum=spectrum, gsd_m=10.0, unit="reflectance", encodings=encodings, aliases=aliases)


def _radar(name: Polarisation) -> Band:
    spectrum = RadarBeam(frequency_ghz=5.405, polarisation=name)
    return Band(name=name, spectrum=spectrum, gsd_m=10.0, unit="sigma0_db", encodings=(("db", Encoding()),))


def _sensor(*bands: Band) -> Sensor:
    return Sensor(name="testing", title="Testing", bands=bands, default_encoding="dn")


_OPTICAL = _sensor(
    _optical("B02", 460.0, "blue"),
    _optical("B03", 540.0, "green"),
    _optical("B04", 650.0, "red"),
    _optical("B08", 800.0, "nir"),
)
_RADAR = _sensor(_radar("VV"), _radar("VH"))


def test_natural_colour_is_found_by_aliases() -> None:
    assert composite(_OPTICAL)[0] == (("B04",), ("B03",), ("B02",))


def test_radar_shows_both_polarisations_and_their_difference() -> None:
    chosen = composite(_RADAR)
    assert chosen[0] == (("VV",), ("VH",), ("VV", "VH"))
    assert chosen[1] == "VV, VH, VV − VH"


def test_other_bands_are_spread_over_the_spectrum() -> None:
    sensor = _sensor(*(_optical(f"B{number}", 400.0 + 100 * number) for number in range(1, 6)))
    assert composite(sensor)[0] == (("B5",), ("B3",), ("B1",))


def test_one_band_is_grey() -> None:
    image = np.linspace(0, 1, 100, dtype=np.float32).reshape(1, 10, 10)
    drawn = picture(image, _sensor(_optical("pan", 500.0)))
    assert (drawn[..., 0] == drawn[..., 2]).all()
    assert drawn[..., 0].max() == 1


def test_percentiles_become_black_and_full_colour() -> None:
    image = np.random.default_rng(0).uniform(0, 1, (4, 50, 50)).astype(np.float32)
    drawn = picture(image, _OPTICAL, percentiles=(10.0, 90.0))
    low, high = np.percentile(image[2], [10, 90])
    np.testing.assert_allclose(drawn[..., 0], np.clip((image[2] - low) / (high - low), 0, 1), atol=1e-5)


def test_missing_pixels_are_white() -> None:
    image = np.random.default_rng(0).uniform(0, 1, (4, 8, 8)).astype(np.float32)
    valid = np.ones(image.shape, dtype=bool)
    valid[0, 2, 3] = False
    valid[3, 4, 4] = False  # not shown
    image[1, 5, 5] = np.nan
    drawn = picture(image, _OPTICAL, valid=valid)
    assert drawn[2, 3].tolist() == [1, 1, 1]
    assert drawn[5, 5].tolist() == [1, 1, 1]
    assert drawn[4, 4].tolist() != [1, 1, 1]


def test_missing_pixels_can_be_left_open() -> None:
    image = np.random.default_rng(0).uniform(0, 1, (4, 8, 8)).astype(np.float32)
    image[2, 0, 0] = np.nan
    drawn = picture(image, _OPTICAL, missing_grey=np.nan)
    assert np.isnan(drawn[0, 0]).all()
    assert np.isfinite(drawn).sum() == drawn.size - 3


def test_a_picture_can_take_the_stretch_of_another() -> None:
    image = np.random.default_rng(0).uniform(0, 1, (4, 20, 20)).astype(np.float32)
    darker = picture(image * np.float32(0.5), _OPTICAL, like=image)
    assert darker.mean() < 0.6 * picture(image, _OPTICAL).mean()


def test_an_image_without_data_is_white() -> None:
    drawn = picture(np.full((2, 4, 4), np.nan, dtype=np.float32), _RADAR)
    assert (drawn == 1).all()


def test_a_flat_image_is_drawn_without_dividing_by_zero() -> None:
    drawn = picture(np.full((2, 4, 4), -12.0, dtype=np.float32), _RADAR)
    assert (drawn == 0).all()


def test_another_number_of_bands_is_refused() -> None:
    with pytest.raises(InputError, match=r"'testing' has 2 bands, found an array of shape \(3, 4, 4\)"):
        picture(np.zeros((3, 4, 4), dtype=np.float32), _RADAR)
