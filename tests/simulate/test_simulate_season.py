"""Sun, warmth and the calendar of plants."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyband.simulate.plan import cover_named, material_names, reflectance_curves
from anyband.simulate.surface import (
    air_temperature_k,
    cover_shares,
    material_temperatures_k,
    northern_day,
    snow_share,
    sun_position,
)

MONTHS = np.arange(15.0, 365.0, 30.4)


def _ndvi(cover: str, latitude_deg: float) -> np.ndarray:
    red, infrared = reflectance_curves(np.array([665.0, 842.0])).T
    upper, _ = cover_shares(cover_named(cover), latitude_deg=latitude_deg, day=MONTHS, choice=np.zeros_like(MONTHS))
    ndvi: np.ndarray = (upper @ infrared - upper @ red) / (upper @ infrared + upper @ red)
    return ndvi


def test_the_sun_stands_overhead_at_the_equator_at_noon_of_the_equinox() -> None:
    assert sun_position(0.0, 81.0, solar_hour=12.0)[0] == pytest.approx(90, abs=0.5)


def test_the_noon_sun_is_in_the_south_in_the_north_and_in_the_north_in_the_south() -> None:
    assert sun_position(50.0, 81.0, solar_hour=12.0)[1] == pytest.approx(180, abs=1)
    assert sun_position(-50.0, 81.0, solar_hour=12.0)[1] % 360 == pytest.approx(0, abs=1)


def test_the_morning_sun_is_in_the_east() -> None:
    assert 0 < sun_position(45.0, 172.0, solar_hour=8.0)[1] < 180


@pytest.mark.parametrize(("cover", "first", "last"), [("winter_crop", 4, 6), ("summer_crop", 7, 9), ("paddy", 7, 9)])
def test_ndvi_of_crops_peaks_in_their_season_in_the_north(cover: str, first: int, last: int) -> None:
    assert first <= int(_ndvi(cover, 45.0).argmax()) + 1 <= last


@pytest.mark.parametrize("cover", ["winter_crop", "summer_crop", "paddy"])
def test_ndvi_of_crops_peaks_half_a_year_later_in_the_south(cover: str) -> None:
    north, south = int(_ndvi(cover, 40.0).argmax()), int(_ndvi(cover, -40.0).argmax())
    assert (south - north) % 12 in (5, 6, 7)


def test_two_crops_look_alike_at_their_peaks_and_unlike_in_between() -> None:
    winter, summer = _ndvi("winter_crop", 45.0), _ndvi("summer_crop", 45.0)
    assert winter.max() == pytest.approx(summer.max(), abs=0.02)
    assert np.abs(winter - summer).max() > 0.5


def test_broadleaf_forest_keeps_its_leaves_at_the_equator_only() -> None:
    assert np.ptp(_ndvi("broadleaf_forest", 0.0)) < 0.01
    assert np.ptp(_ndvi("broadleaf_forest", 50.0)) > 0.4


@given(latitude_deg=st.floats(-66, 66), day=st.floats(1, 365))
def test_seasons_of_mirrored_latitudes_are_half_a_year_apart(latitude_deg: float, day: float) -> None:
    here = air_temperature_k(latitude_deg, day)
    there = air_temperature_k(-latitude_deg, day + 182.625 if latitude_deg >= 0 else day - 182.625)
    assert northern_day(abs(latitude_deg), day) == day
    assert here == pytest.approx(there, abs=1e-6) or latitude_deg == 0


@given(latitude_deg=st.floats(-66, 66), day=st.floats(1, 365))
def test_surface_temperatures_are_those_of_the_earth(latitude_deg: float, day: float) -> None:
    elevation_deg = sun_position(latitude_deg, day)[0]
    kelvin = material_temperatures_k(latitude_deg, day, elevation_deg=elevation_deg)
    ground = [name != "cloud" for name in material_names()]
    assert kelvin[ground].min() > 240
    assert kelvin.max() < 335


def test_water_stays_liquid_and_snow_stays_frozen() -> None:
    arctic = material_temperatures_k(65.0, 20.0, elevation_deg=2.0)
    tropic = material_temperatures_k(5.0, 20.0, elevation_deg=60.0)
    assert arctic[material_names().index("deep_water")] >= 273.15
    assert tropic[material_names().index("snow")] <= 273.15


def test_snow_lies_in_the_northern_winter_and_not_in_summer() -> None:
    assert snow_share(62.0, 20.0) > 0.5
    assert snow_share(62.0, 200.0) == 0


def test_one_of_draws_each_material_by_its_weight() -> None:
    choice = (np.arange(900) + 0.5) / 900
    upper, _ = cover_shares(cover_named("urban_dense"), latitude_deg=0.0, day=np.full(900, 100.0), choice=choice)
    counts = dict(zip(material_names(), upper.sum(axis=0), strict=True))
    assert (counts["concrete"], counts["metal"], counts["tile"]) == (500, 200, 200)
