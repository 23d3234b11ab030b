"""Stored numbers to network input and back."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anyband.data.harmonise import Normalisation, normalisation_for, restore, standardise, stretched, to_physical
from anyband.errors import CatalogueError, InputError
from anyband.sensors.sensor import Band, BandStatistics, Encoding, OpticalRange, RadarBeam, Sensor

_RED = BandStatistics(p01=0.01, p99=0.41, mean=0.4, std=0.2)
_WARM = BandStatistics(p01=270.0, p99=320.0, mean=0.5, std=0.25)
_ECHO = BandStatistics(p01=-25.0, p99=0.0, mean=0.45, std=0.18)
_L8_B10 = Encoding(scale=3.342e-4, offset=0.1, transform="brightness_temperature", k1=774.8853, k2=1321.0789)


def _band(name: str, encoding: Encoding, statistics: BandStatistics | None, *, radar: bool = False) -> Band:
    spectrum = RadarBeam(frequency_ghz=5.405, polarisation="VV") if radar else OpticalRange(low_nm=650.0, high_nm=680.0)
    unit = "sigma0_db" if radar else "reflectance"
    encodings = (("dn", encoding),)
    return Band(name=name, spectrum=spectrum, gsd_m=10.0, unit=unit, encodings=encodings, statistics=statistics)


def _sensor(*bands: Band) -> Sensor:
    return Sensor(name="testing", title="Testing", bands=bands, default_encoding="dn", nodata=0.0)


_MIXED = _sensor(
    _band("red", Encoding(scale=1e-4, offset=-0.1), _RED),
    _band("warm", _L8_B10, _WARM),
    _band("power", Encoding(transform="power_to_db"), _ECHO, radar=True),
    _band("amplitude", Encoding(scale=0.01, transform="amplitude_to_db"), _ECHO, radar=True),
)


def test_each_transform_agrees_with_its_formula() -> None:
    stored = np.array([2500.0, 22000.0, 0.05, 30.0])
    physical = to_physical(torch.from_numpy(stored)[:, None, None], normalisation_for(_MIXED)).ravel().tolist()
    radiance = 22000 * 3.342e-4 + 0.1
    expected = [
        0.15,
        1321.0789 / math.log(774.8853 / radiance + 1),
        10 * math.log10(0.05),
        20 * math.log10(0.3),
    ]
    assert physical == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_every_stored_type_is_decoded(dtype: type) -> None:
    n = normalisation_for(_sensor(_band("red", Encoding(scale=0.5, offset=1.0), _RED)))
    physical = to_physical(torch.from_numpy(np.array([[[3, 100]]], dtype=dtype)), n)
    assert physical.dtype == torch.float32
    assert physical.tolist() == [[[2.5, 51.0]]]


def test_power_of_zero_or_less_is_missing() -> None:
    n = normalisation_for(_sensor(_band("power", Encoding(transform="power_to_db"), _ECHO, radar=True)))
    stored = torch.tensor([[[0.0, -1.0, 0.1]]])
    assert torch.isnan(to_physical(stored, n)).tolist() == [[[True, True, False]]]
    assert standardise(stored, n)[..., :2].tolist() == [[[0.0, 0.0]]]


@given(share=st.floats(0.0, 1.0), band=st.sampled_from(["red", "warm"]))
def test_restore_is_the_inverse_where_nothing_was_clipped(share: float, band: str) -> None:
    statistics = {"red": _RED, "warm": _WARM}[band]
    n = normalisation_for(_sensor(_band(band, Encoding(), statistics)))
    physical = torch.full((1, 2, 3), statistics.p01 + share * (statistics.p99 - statistics.p01))
    back = restore(standardise(physical, n), n)
    torch.testing.assert_close(back, physical, rtol=1e-5, atol=1e-5)


@given(value=st.floats(-1.0, 2.0, width=32))
def test_standardise_agrees_with_numpy(value: float) -> None:
    n = normalisation_for(_sensor(_band("red", Encoding(), _RED)))
    clipped = np.clip(value, _RED.p01, _RED.p99)
    expected = ((clipped - _RED.p01) / (_RED.p99 - _RED.p01) - _RED.mean) / _RED.std
    found = standardise(torch.full((1, 1, 1), value), n).item()
    assert found == pytest.approx(expected, abs=1e-5)


def test_missing_pixels_become_zero() -> None:
    n = normalisation_for(_sensor(_band("red", Encoding(), _RED)))
    stored = torch.tensor([[[0.2, 0.3, math.nan, math.inf]]])
    valid = torch.tensor([[[True, False, True, True]]])
    found = standardise(stored, n, valid)
    assert (found == 0).tolist() == [[[False, True, True, True]]]


def test_batches_of_images_are_taken_too() -> None:
    n = normalisation_for(_MIXED)
    stored = torch.rand(3, 5, 4, 2, 2) + 0.1
    torch.testing.assert_close(standardise(stored, n)[1, 2], standardise(stored[1, 2], n))


def test_a_band_does_not_depend_on_the_others() -> None:
    stored = torch.rand(4, 3, 3) * 100 + 1
    together = to_physical(stored, normalisation_for(_MIXED))
    for index, name in enumerate(_MIXED.band_names):
        alone = to_physical(stored[index : index + 1], normalisation_for(_MIXED.select([name])))
        torch.testing.assert_close(together[index : index + 1], alone)


def test_band_permutation_permutes_the_result() -> None:
    order = ["amplitude", "red", "power", "warm"]
    indices = [_MIXED.band_index(name) for name in order]
    stored = torch.rand(4, 3, 3) * 100 + 1
    permuted = standardise(stored[indices], normalisation_for(_MIXED.select(order)))
    torch.testing.assert_close(permuted, standardise(stored, normalisation_for(_MIXED))[indices])


def test_normalisation_round_trips_through_plain_values() -> None:
    n = normalisation_for(_MIXED)
    assert Normalisation.from_dict(n.to_dict()) == n


def test_normalisation_with_an_unknown_key_is_refused() -> None:
    values = normalisation_for(_MIXED).to_dict() | {"sclae": [1.0]}
    with pytest.raises(CatalogueError, match=r"found .*sclae"):
        Normalisation.from_dict(values)


def test_normalisation_of_uneven_lengths_is_refused() -> None:
    with pytest.raises(CatalogueError, match="3 of p01"):
        Normalisation.from_dict(normalisation_for(_MIXED).to_dict() | {"p01": [0.0, 0.0, 0.0]})


def test_bands_without_statistics_are_named() -> None:
    sensor = _sensor(_band("red", Encoding(), _RED), _band("new", Encoding(), None))
    message = r"for 1 of 2 bands of 'testing' \(new\); compute those of your images with `anyband prepare --stats`"
    with pytest.raises(CatalogueError, match=message):
        normalisation_for(sensor)


def test_given_statistics_replace_the_catalogues() -> None:
    sensor = _sensor(_band("red", Encoding(), _RED))
    n = normalisation_for(sensor, statistics={"red": _WARM})
    assert (n.p01, n.p99) == ((270.0,), (320.0,))
    assert n.source == "encoding 'dn'; given statistics"


def test_unknown_encoding_is_refused() -> None:
    with pytest.raises(CatalogueError, match="encoding 'dm' is not declared"):
        normalisation_for(_MIXED, encoding="dm")


def test_another_number_of_bands_is_refused() -> None:
    with pytest.raises(InputError, match=r"over 4 bands \(red, warm, power, amplitude\), found .* \(3, 2, 2\)"):
        standardise(torch.zeros(3, 2, 2), normalisation_for(_MIXED))


@given(value=st.floats(-1.0, 2.0))
def test_two_sigma_agrees_with_numpy(value: float) -> None:
    n = stretched(normalisation_for(_sensor(_band("red", Encoding(), _RED))))
    mean, std = 0.01 + 0.4 * 0.4, 0.2 * 0.4  # in physical units: _RED lies between 0.01 and 0.41
    expected = np.clip((value - (mean - 2 * std)) / (4 * std), 0.0, 1.0)
    found = standardise(torch.full((1, 1, 1), value), n).item()
    assert found == pytest.approx(expected, abs=1e-5)


@given(share=st.floats(0.0, 1.0))
def test_two_sigma_is_restored_inside_its_ends(share: float) -> None:
    n = stretched(normalisation_for(_sensor(_band("warm", Encoding(), _WARM))))
    value = n.p01[0] + share * (n.p99[0] - n.p01[0])
    found = restore(standardise(torch.full((1, 1, 1), value), n), n).item()
    assert found == pytest.approx(value, rel=1e-5)


def test_two_sigma_of_standardised_values_is_the_same_line() -> None:
    """Where neither clips, one network input is half and a quarter of the other."""
    n = normalisation_for(_sensor(_band("red", Encoding(), _RED)))
    values = torch.linspace(0.1, 0.25, 20)[None, None]
    expected = standardise(values, n) / 4 + 0.5
    torch.testing.assert_close(standardise(values, stretched(n)), expected)


def test_two_sigma_is_said_where_statistics_come_from() -> None:
    n = normalisation_for(_MIXED)
    other = stretched(n)
    assert other.source == f"{n.source}; mean ± 2 deviations stretched to [0, 1]"
    assert Normalisation.from_dict(other.to_dict()) == other


def test_bands_are_taken_at_positions_and_may_come_twice() -> None:
    n = normalisation_for(_MIXED).at([2, 0, 2])
    names = [_MIXED.band_names[index] for index in (2, 0, 2)]
    assert n.bands == tuple(names)
    stored = torch.rand(4, 3, 3) * 100 + 1
    expected = standardise(stored, normalisation_for(_MIXED))[[2, 0, 2]]
    torch.testing.assert_close(standardise(stored[[2, 0, 2]], n), expected)
