"""How digital numbers become physical values."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyband.errors import CatalogueError
from anyband.sensors.catalogue import get_sensor
from anyband.sensors.sensor import BandStatistics, Encoding

_EVERY = [
    Encoding(scale=2.75e-5, offset=-0.2),
    Encoding(transform="power_to_db"),
    Encoding(scale=1e-3, transform="amplitude_to_db"),
    Encoding(scale=3.342e-4, offset=0.1, transform="brightness_temperature", k1=774.8853, k2=1321.0789),
]


@pytest.mark.parametrize("encoding", _EVERY, ids=lambda encoding: encoding.transform)
def test_encode_undoes_decode(encoding: Encoding) -> None:
    @settings(max_examples=50)
    @given(st.floats(1, 65_535))
    def check(stored: float) -> None:
        assert encoding.encode(encoding.decode(stored)) == pytest.approx(stored, rel=1e-9)

    check()


@pytest.mark.parametrize(
    ("sensor", "band", "encoding", "stored", "physical"),
    [
        ("sentinel2-l2a", "B04", "dn", 1000, 0.1),
        ("sentinel2-l2a", "B04", "baseline_04.00", 2000, 0.1),
        ("sentinel2-l1c", "B04", "reflectance", 0.1, 0.1),
        ("landsat8-oli-tirs-l2", "SR_B4", "dn", 10_000, 0.075),
        ("landsat8-oli-tirs-l2", "ST_B10", "dn", 44_177.623, 300.0),
        ("landsat8-oli-tirs-l1", "B4", "dn", 10_000, 0.1),
        ("landsat5-tm-l2", "ST_B6", "dn", 44_177.623, 300.0),
        ("hls-l30", "B04", "dn", 1000, 0.1),
        ("hls-l30", "B10", "dn", 2685, 300.0),
        ("sentinel1-grd", "VV", "db", -12.5, -12.5),
        ("sentinel1-grd", "VV", "db_int100", -1250, -12.5),
        ("sentinel1-grd", "VV", "linear", 0.1, -10.0),
        ("sentinel1-grd", "VV", "amplitude", 0.1, -20.0),
        ("sentinel1-rtc", "VV", "linear", 0.1, -10.0),
        ("sentinel1-rtc", "VH", "amplitude", 0.1, -20.0),
        ("sentinel3-olci", "Oa01", "dn", 5000, 69.7323),
        ("landsat8-oli-tirs-c1-l2", "B4", "dn", 1000, 0.1),
        ("landsat8-oli-tirs-c1-l2", "B10", "dn", 3000, 300.0),
        ("ecostress-lst", "LST", "kelvin", 300, 300.0),
        ("ecostress-lst", "LST", "dn", 15_000, 300.0),
        ("ecostress-l1", "B4", "radiance", 9.6, 9.6),
        ("maxar-rgb", "red", "dn", 255, 255),
    ],
)
def test_products_are_scaled_as_their_documents_say(
    sensor: str, band: str, encoding: str, stored: float, physical: float
) -> None:
    decoded = get_sensor(sensor).band(band).encoding(encoding).decode(float(stored))
    assert decoded == pytest.approx(physical, abs=1e-3 if physical > 256 else 1e-9)


def test_brightness_temperature_agrees_with_planck_at_the_band_centre() -> None:
    # A second opinion: Planck's law at 10.9 µm, which the two thermal constants stand for.
    planck, light, boltzmann, wavelength_m, kelvin = (
        6.62607015e-34,
        299_792_458.0,
        1.380649e-23,
        10.9e-6,
        300.0,
    )
    exponent = planck * light / (wavelength_m * boltzmann * kelvin)
    radiance = 2 * planck * light**2 / wavelength_m**5 / math.expm1(exponent) * 1e-6
    encoding = get_sensor("landsat8-oli-tirs-l1").band("B10").encoding("dn")
    assert encoding.decode((radiance - encoding.offset) / encoding.scale) == pytest.approx(kelvin, abs=0.5)


def test_a_power_of_zero_has_no_decibels() -> None:
    assert math.isnan(Encoding(transform="power_to_db").decode(0.0))


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ({"scale": 0.0}, "a scale other than 0"),
        ({"offset": math.nan}, "finite numbers"),
        ({"transform": "brightness_temperature"}, "needs k1 > 0 and k2 > 0"),
        ({"k1": 1.0, "k2": 1.0}, "other transforms take neither"),
    ],
)
def test_encodings_that_cannot_be_are_refused(encoding: dict[str, object], message: str) -> None:
    with pytest.raises(CatalogueError, match=message):
        Encoding(**encoding)


def test_an_unknown_encoding_offers_the_nearest() -> None:
    band = get_sensor("sentinel2-l2a").band("B04")
    with pytest.raises(CatalogueError, match=r"'baseline_04' is not declared for band 'B04'.*'baseline_04.00'"):
        band.encoding("baseline_04")


def test_statistics_without_a_span_are_refused() -> None:
    with pytest.raises(CatalogueError, match="need p01 < p99 and std > 0"):
        BandStatistics(p01=1.0, p99=1.0, mean=0.5, std=0.1)
