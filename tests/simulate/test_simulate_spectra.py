"""Band integration and thermal emission against closed forms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import constants

from anyband.errors import CatalogueError
from anyband.sensors.sensor import OpticalRange
from anyband.simulate.plan import make_place
from anyband.simulate.surface import (
    band_mean,
    brightness_temperature_k,
    material_emission,
    material_reflectance,
    place_palette,
    planck_radiance,
    response_weights,
)


@given(low_nm=st.floats(400, 2000), width_nm=st.floats(5, 300), slope=st.floats(-1, 1))
def test_a_straight_curve_over_a_flat_band_gives_its_value_at_the_centre(
    low_nm: float, width_nm: float, slope: float
) -> None:
    band = OpticalRange(low_nm=low_nm, high_nm=low_nm + width_nm)
    wavelength_nm, _ = response_weights(band)
    assert band_mean(band, 0.3 + slope * wavelength_nm / 1000) == pytest.approx(
        0.3 + slope * band.center_nm / 1000, abs=1e-9
    )


def test_a_square_curve_over_a_flat_band_gives_the_integral() -> None:
    band = OpticalRange(low_nm=500.0, high_nm=600.0)
    wavelength_nm, _ = response_weights(band)
    exact = (600**3 - 500**3) / 3 / 100
    assert float(band_mean(band, wavelength_nm**2)) == pytest.approx(exact, rel=1e-5)


def test_a_triangular_response_weighs_by_the_triangle() -> None:
    band = OpticalRange(low_nm=525.0, high_nm=575.0, response=((500.0, 0.0), (550.0, 1.0), (600.0, 0.0)))
    wavelength_nm, _ = response_weights(band)
    # Variance of a symmetric triangle of half width 50 is 50² / 6.
    assert float(band_mean(band, (wavelength_nm - 550) ** 2)) == pytest.approx(50**2 / 6, rel=2e-3)


def test_planck_agrees_with_the_constants_of_scipy() -> None:
    metres, kelvin = 10.9e-6, 300.0
    exact = 2 * constants.h * constants.c**2 / metres**5
    exact /= np.expm1(constants.h * constants.c / (metres * constants.k * kelvin))
    assert float(planck_radiance(np.array(10_900.0), np.array(kelvin))) == pytest.approx(exact * 1e-6, rel=1e-8)


def test_planck_integrates_to_stefan_boltzmann() -> None:
    wavelength_nm = np.geomspace(1_000, 2_000_000, 20_000)
    radiance = planck_radiance(wavelength_nm, np.full_like(wavelength_nm, 300.0))
    exitance = np.pi * np.trapezoid(radiance, wavelength_nm / 1000)
    assert exitance == pytest.approx(constants.sigma * 300.0**4, rel=1e-3)


@given(kelvin=st.floats(200, 350))
def test_brightness_temperature_undoes_the_emission_of_a_black_body(kelvin: float) -> None:
    band = OpticalRange(low_nm=10_600.0, high_nm=11_190.0)
    wavelength_nm, _ = response_weights(band)
    black = material_emission(band, np.zeros((1, wavelength_nm.size)), np.array([kelvin]))
    assert float(brightness_temperature_k(band, black)[0]) == pytest.approx(kelvin, abs=2e-3)


def test_a_place_keeps_reflectance_below_1_and_emissivity_as_in_the_table() -> None:
    wavelength_nm = np.array([450.0, 2_000.0, 11_000.0])
    one, other = (material_reflectance(place_palette(make_place(1, index)), wavelength_nm) for index in (0, 1))
    assert max(one.max(), other.max()) < 1
    np.testing.assert_array_equal(one[:, 2], other[:, 2])
    assert not np.array_equal(one[:, 0], other[:, 0])


def test_a_wavelength_beyond_the_truth_is_refused() -> None:
    with pytest.raises(CatalogueError, match="truth is known from 350 to 14000 nm, requested were 300 to 300 nm"):
        material_reflectance(place_palette(make_place(0, 0)), np.array([300.0]))
