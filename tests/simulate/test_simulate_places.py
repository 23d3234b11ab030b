"""Where places lie and what grows there."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyband.simulate.archive import acquisition_days, cover_map
from anyband.simulate.landscape import make_landscape
from anyband.simulate.plan import Frame, load_themes, make_place, theme_weights, utm_epsg
from anyband.simulate.surface import sun_position


def _weight(theme: str, latitude_deg: float) -> float:
    return float(theme_weights(latitude_deg)[list(load_themes()).index(theme)])


@given(latitude_deg=st.floats(-66, 66))
def test_theme_weights_sum_to_1(latitude_deg: float) -> None:
    assert theme_weights(latitude_deg).sum() == pytest.approx(1.0)


def test_the_mix_of_landscapes_changes_with_latitude() -> None:
    assert _weight("rice_delta", 10.0) > 0.1 > _weight("rice_delta", 60.0) == 0
    assert _weight("boreal_forest", 60.0) > 0.1 > _weight("boreal_forest", 20.0) == 0
    assert _weight("dunes", 25.0) > _weight("dunes", 50.0) == 0


def test_drawn_places_follow_the_weights_of_their_latitude() -> None:
    places = [make_place(0, index) for index in range(400)]
    boreal = [abs(place.latitude_deg) for place in places if place.theme == "boreal_forest"]
    rice = [abs(place.latitude_deg) for place in places if place.theme == "rice_delta"]
    assert min(boreal) > 40 > np.mean(rice)


@pytest.mark.parametrize(
    ("latitude_deg", "longitude_deg", "epsg"),
    [(48.1, 11.6, 32632), (-33.9, 18.4, 32734), (0.5, 179.9, 32660)],
)
def test_utm_zones_of_known_towns(latitude_deg: float, longitude_deg: float, epsg: int) -> None:
    assert utm_epsg(latitude_deg, longitude_deg) == epsg


def test_places_lie_inside_their_utm_zones() -> None:
    places = [make_place(1, index) for index in range(50)]
    assert all(100_000 < place.corner_m[0] < 900_000 for place in places)


def test_places_do_not_overlap() -> None:
    places = [make_place(1, index) for index in range(300)]
    longitudes = np.sort([place.longitude_deg for place in places])
    # A footprint of 960 m spans 0.009 degrees at the equator and 0.022 at 66 degrees.
    assert np.diff(longitudes).min() > 0.05


def test_days_with_a_low_sun_are_not_used() -> None:
    places = [make_place(0, index) for index in range(60)]
    lowest = min(sun_position(p.latitude_deg, float(d))[0] for p in places for d in acquisition_days(p, 2))
    assert lowest >= 20


def test_dates_of_a_place_are_in_order() -> None:
    days = acquisition_days(make_place(0, 7), 4)
    assert list(days) == sorted(days)


def test_a_coarse_map_has_the_cover_with_most_of_each_pixel() -> None:
    landscape = make_landscape(make_place(0, 0), Frame(footprint_m=120.0, detail_m=2.5))
    coarse = cover_map(landscape, gsd_m=30.0)
    block = landscape.cover[12:24, 24:36]
    assert coarse[1, 2] == np.bincount(block.ravel()).argmax()
    assert coarse.shape == (4, 4)
