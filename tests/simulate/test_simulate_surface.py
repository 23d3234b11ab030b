"""The truth: landscapes and surfaces."""

from collections.abc import Callable

import numpy as np
import pytest

from anyband.errors import CatalogueError
from anyband.simulate.landscape import make_landscape
from anyband.simulate.plan import Frame, cover_named, make_place
from anyband.simulate.surface import Surface, make_surface, reflectance_at, sun_shade

BANDS_NM = np.array([490.0, 560.0, 665.0, 705.0, 842.0, 1610.0, 2190.0])


def _mean_spectrum(surface: Surface, cover: str) -> np.ndarray:
    """Mean where the cover stands and has its own materials: no field margins, hedges and gardens."""
    landscape, value = surface.landscape, cover_named(cover).value
    here = (landscape.cover == value) & (landscape.unit_recipe[landscape.unit] == value)
    mean: np.ndarray = reflectance_at(surface, BANDS_NM)[:, here].mean(axis=1)
    return mean


def _periodicity(plane: np.ndarray) -> float:
    """Largest spectral peak between periods of 6 and 20 m over the mean power there."""
    power = np.abs(np.fft.fft2((plane - plane.mean()) * np.hanning(len(plane))[:, None])) ** 2
    cycles = np.hypot(*np.meshgrid(*[np.fft.fftfreq(len(plane), d=2.5)] * 2))
    within = (cycles > 1 / 20) & (cycles < 1 / 6)
    return float(power[within].max() / power[within].mean())


def test_shares_of_materials_sum_to_1_at_every_pixel(mixed_surface: Surface) -> None:
    np.testing.assert_allclose(mixed_surface.abundance.sum(axis=0), 1.0, atol=1e-5)


def test_no_share_of_a_material_is_negative(mixed_surface: Surface) -> None:
    assert mixed_surface.abundance.min() > -1e-6


def test_truth_is_known_at_every_wavelength(mixed_surface: Surface) -> None:
    truth = reflectance_at(mixed_surface, np.geomspace(350, 14_000, 12))
    assert np.isfinite(truth).all()
    assert truth.min() > -1e-6


def test_truth_beyond_the_known_wavelengths_is_refused(mixed_surface: Surface) -> None:
    with pytest.raises(CatalogueError, match="requested were 20000 to 20000 nm"):
        reflectance_at(mixed_surface, np.array([20_000.0]))


def test_fields_are_green_and_water_is_dark_in_june(mixed_surface: Surface) -> None:
    crop, water = _mean_spectrum(mixed_surface, "winter_crop"), _mean_spectrum(mixed_surface, "water")
    assert crop[4] > 3 * crop[2]
    assert water[4] < 0.08


@pytest.mark.parametrize("pair", [("shrubland", "orchard"), ("broadleaf_forest", "plantation")])
def test_pairs_share_their_mean_spectrum_within_ten_percent(
    surface_of: Callable[..., Surface], pair: tuple[str, str]
) -> None:
    one, other = (_mean_spectrum(surface_of({cover: 1.0}, day=200.0), cover) for cover in pair)
    np.testing.assert_allclose(other, one, rtol=0.10)


def test_an_orchard_is_periodic_and_shrubland_is_not(surface_of: Callable[..., Surface]) -> None:
    planes = [
        reflectance_at(surface_of({cover: 1.0}, day=200.0, footprint_m=320.0), np.array([842.0]))[0]
        for cover in ("orchard", "shrubland")
    ]
    assert _periodicity(planes[0]) > 2.5 * _periodicity(planes[1])


def test_a_landscape_depends_on_seed_and_index_only() -> None:
    frame = Frame(footprint_m=240.0, detail_m=2.5)
    one, same, other = (make_landscape(make_place(2, index), frame) for index in (4, 4, 5))
    assert np.array_equal(one.cover, same.cover)
    assert np.array_equal(one.texture, same.texture)
    assert not np.array_equal(one.cover, other.cover) or not np.array_equal(one.texture, other.texture)


def test_flat_open_ground_has_full_light(surface_of: Callable[..., Surface]) -> None:
    surface = surface_of({"bare_soil": 1.0})
    shade = sun_shade(surface.landscape, (60.0, 140.0))
    assert float(np.median(shade)) == pytest.approx(1.0, abs=0.05)


def test_shadows_lie_on_the_side_away_from_the_sun(surface_of: Callable[..., Surface]) -> None:
    landscape = surface_of({"urban_dense": 1.0}).landscape
    east, west = (sun_shade(landscape, (30.0, azimuth)) for azimuth in (90.0, 270.0))
    high = landscape.height_m > 5
    west_of_building = ~high[:, :-1] & high[:, 1:]
    assert east[:, :-1][west_of_building].mean() < 0.6 * west[:, :-1][west_of_building].mean()


def test_snow_covers_fields_in_winter_and_spares_water(surface_of: Callable[..., Surface]) -> None:
    shares = {"winter_crop": 1.0, "water": 1.0}
    winter = surface_of(shares, day=30.0, latitude_deg=60.0)
    summer = surface_of(shares, day=190.0, latitude_deg=60.0)
    assert _mean_spectrum(winter, "winter_crop")[1] > 2 * _mean_spectrum(summer, "winter_crop")[1]
    assert _mean_spectrum(winter, "water")[1] < 0.15


def test_date_changes_materials_but_not_the_map(surface_of: Callable[..., Surface]) -> None:
    spring, autumn = (surface_of({"winter_crop": 1.0}, day=day) for day in (140.0, 260.0))
    assert np.array_equal(spring.landscape.cover, autumn.landscape.cover)
    green, bare = (_mean_spectrum(surface, "winter_crop") for surface in (spring, autumn))
    assert green[4] / green[2] > 3 * bare[4] / bare[2]
    assert isinstance(make_surface(spring.landscape, 10.0), Surface)


def test_dunes_are_bare_sand_with_crests_and_hollows(surface_of: Callable[..., Surface]) -> None:
    landscape = surface_of({"sand": 1.0}, footprint_m=960.0).landscape
    assert landscape.canopy.mean() == pytest.approx(0.97, abs=0.02)
    assert landscape.canopy.min() < 0.5
    # Crests some 75 m apart rise over the ground between them.
    low, high = np.quantile(landscape.height_m, [0.1, 0.9])
    assert high - low > 4
    assert high < 1.6 * 14
