"""Spectra: edges, centres and the measures between them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyband.errors import CatalogueError
from anyband.sensors.sensor import (
    OpticalRange,
    RadarBeam,
    covered_share,
    intersection_over_union,
    octaves_between,
    parse_spectrum,
    spectrum_to_dict,
)

edges = st.tuples(st.floats(300, 3000), st.floats(1, 500)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(edges, edges)
def test_intersection_over_union_is_symmetric_and_at_most_one(a: tuple[float, float], b: tuple[float, float]) -> None:
    first, second = (OpticalRange(low_nm=low, high_nm=high) for low, high in (a, b))
    iou = intersection_over_union(first, second)
    assert iou == pytest.approx(intersection_over_union(second, first))
    assert 0 <= iou <= 1


@given(edges, edges)
def test_covered_share_agrees_with_a_fine_grid(a: tuple[float, float], b: tuple[float, float]) -> None:
    grid_nm = np.linspace(a[0], a[1], 20_001)
    inside = np.mean((grid_nm >= b[0]) & (grid_nm <= b[1]))
    first, second = (OpticalRange(low_nm=low, high_nm=high) for low, high in (a, b))
    assert covered_share(first, second) == pytest.approx(inside, abs=2e-4)


def test_c_band_is_55_466_micrometres() -> None:
    beam = RadarBeam(frequency_ghz=5.405, polarisation="VV")
    assert beam.wavelength_nm / 1000 == pytest.approx(55_466, abs=0.5)


def test_octaves_count_doublings() -> None:
    assert octaves_between(400.0, 1600.0) == pytest.approx(2.0)
    assert octaves_between(1600.0, 400.0) == pytest.approx(2.0)


def test_a_triangle_has_its_edges_at_half_height() -> None:
    triangle = OpticalRange.from_response([(500.0, 0.0), (600.0, 2.0), (700.0, 0.0)])
    assert (triangle.low_nm, triangle.high_nm, triangle.center_nm) == pytest.approx((550.0, 650.0, 600.0))


def test_uneven_sampling_does_not_move_the_centre() -> None:
    even = OpticalRange.from_response([(500.0, 1.0), (550.0, 1.0), (600.0, 1.0)])
    dense_left = OpticalRange.from_response([(500.0, 1.0), (501.0, 1.0), (502.0, 1.0), (600.0, 1.0)])
    assert dense_left.center_nm == pytest.approx(even.center_nm)


def test_a_response_that_starts_high_keeps_its_first_wavelength_as_edge() -> None:
    assert OpticalRange.from_response([(500.0, 1.0), (600.0, 0.8), (700.0, 0.0)]).low_nm == 500.0


@pytest.mark.parametrize(
    "samples",
    [[(500.0, 1.0)], [(500.0, 1.0), (400.0, 1.0)], [(500.0, 0.0), (600.0, 0.0)], [(1.0, -1.0), (2.0, 1.0)]],
)
def test_responses_that_cannot_be_are_refused(samples: list[tuple[float, float]]) -> None:
    with pytest.raises(CatalogueError, match="a response needs two samples or more"):
        OpticalRange.from_response(samples)


@pytest.mark.parametrize(("low_nm", "high_nm"), [(600, 500), (0, 500), (500, 500), (500, math.inf), (math.nan, 500)])
def test_edges_out_of_order_are_refused(low_nm: float, high_nm: float) -> None:
    with pytest.raises(CatalogueError, match=r"needs 0 < low < high in nm|expected a finite number"):
        parse_spectrum({"low_nm": float(low_nm), "high_nm": float(high_nm)}, where="here")


def test_centre_and_width_give_the_edges() -> None:
    spectrum = parse_spectrum({"center_nm": 492.4, "fwhm_nm": 66}, where="here")
    assert isinstance(spectrum, OpticalRange)
    assert (spectrum.low_nm, spectrum.high_nm) == pytest.approx((459.4, 525.4))


@pytest.mark.parametrize(
    "entry",
    [
        {"low_nm": 400.0},
        {"low_nm": 400.0, "high_nm": 500.0, "center_nm": 450.0},
        {"low_nm": 400.0, "high_nm": 500.0, "frequency_ghz": 5.4, "polarisation": "VV"},
        {"frequency_ghz": 5.4},
        {"response": [[1.0, 1.0], [2.0, 1.0]], "low_nm": 1.0},
        {},
    ],
)
def test_keys_that_do_not_go_together_are_refused(entry: dict[str, object]) -> None:
    with pytest.raises(CatalogueError, match="here: a band's spectrum is low_nm and high_nm"):
        parse_spectrum(entry, where="here")


def test_an_unknown_polarisation_offers_the_nearest() -> None:
    with pytest.raises(CatalogueError, match="'vv' is not one of VV, VH, HH, HV; did you mean 'VV'"):
        parse_spectrum({"frequency_ghz": 5.4, "polarisation": "vv"}, where="here")


@pytest.mark.parametrize(
    "spectrum",
    [
        OpticalRange(low_nm=400.1, high_nm=500.2),
        OpticalRange.from_response([(500.0, 0.0), (601.5, 2.0), (700.0, 0.0)]),
        RadarBeam(frequency_ghz=9.65, polarisation="HV", orbit="descending"),
    ],
)
def test_spectra_survive_being_written(spectrum: OpticalRange | RadarBeam) -> None:
    assert parse_spectrum(spectrum_to_dict(spectrum), where="here") == spectrum
