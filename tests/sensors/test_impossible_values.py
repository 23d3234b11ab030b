"""Values that cannot be what is declared are said, with the likely cause and what mends it; right ones are not."""

import numpy as np
import pytest

from anyband.sensors.catalogue import get_sensor
from anyband.sensors.values import ValueCheck, sampled

RNG = np.random.default_rng(0)


def _said(
    name: str, encoding: str, dn: np.ndarray, *, scale: float = 1.0, valid: np.ndarray | None = None
) -> list[str]:
    """Sentences about one image (band, value) whose numbers are those of `dn` times `scale`."""
    sensor = get_sensor(name)
    limits = [one.statistics and (one.statistics.p01, one.statistics.p99) for one in sensor.bands]
    check = ValueCheck(sensor, [band.encoding(encoding) for band in sensor.bands], limits)
    numbers = (dn * scale).astype(dn.dtype)[None]
    known = np.ones(numbers.shape, dtype=bool) if valid is None else valid[None]
    return [sentence for sentence, images in check(numbers, known).values() if images == [0]]


def _db(bands: int = 2) -> np.ndarray:
    """Backscatter of land: speckle around -12 and -19 dB."""
    return (np.array([-12.0, -19.0])[:bands, None] + RNG.normal(0, 2.5, (bands, 400))).astype(np.float32)


def _reflectance(bands: int) -> np.ndarray:
    return RNG.gamma(4.0, 0.04, (bands, 400)).clip(0.001, 1.2).astype(np.float32)


def _kelvin(bands: int = 1) -> np.ndarray:
    return RNG.normal(295.0, 4.0, (bands, 400)).astype(np.float32)


def _picture(bands: int) -> np.ndarray:
    return RNG.integers(0, 256, (bands, 400)).astype(np.uint8)


_DN = np.rint(_reflectance(12) * 1e4).astype(np.uint16)
_POWER = 10 ** (_db() / 10)


@pytest.mark.parametrize(
    ("sensor", "encoding", "dn", "cause", "mend"),
    [
        ("sentinel1-grd", "db", _db() * 1e4, "are about -120,", "decibels times 10000; declare `scale: 0.0001`"),
        ("sentinel2-l2a", "dn", _reflectance(12) * 100, "with decimals", "likely per cent; declare `scale: 0.01`"),
        ("sentinel2-l2a", "dn", RNG.normal(0, 1, (12, 400)), "likely standardised", "numbers from before that"),
        (
            "sentinel2-l2a",
            "dn",
            np.where(np.arange(400) < 40, 65535, _DN).astype(np.uint16),
            "are about 6.554",
            "likely a fill value; declare `nodata: 65535`",
        ),
        ("maxar-rgb", "dn", RNG.integers(0, 65536, (3, 400)), "8 bits ends at 255", "declare `scale: 0.00389105`"),
        ("maxar-rgb", "dn", RNG.integers(0, 2048, (3, 400)), "likely of more bits", "declare `scale: 0.124573`"),
        ("sentinel1-grd", "db", _db() * 100, "-60 to 30 dB can be", "decibels times 100; declare `scale: 0.01`"),
        ("sentinel1-grd", "db", np.sqrt(_POWER) * 9e3, "can be", "without calibration; calibrate them, then declare"),
        ("sentinel1-grd", "linear", np.full((2, 400), 4e5) * _POWER, "can be", "calibrate them"),
        (
            "sentinel1-grd",
            "db",
            _POWER,
            "as dB, never negative",
            "linear power or amplitude; declare `encoding: linear`",
        ),
        ("capella-x", "db", 10 ** (_db()[[0, 1, 1, 0]] / 20), "never negative", "declare `encoding: linear`"),
        ("sentinel1-rtc", "linear", _db(), "VV, VH is negative", "likely dB; declare `encoding: db`"),
        ("sentinel1-grd", "amplitude", _db(), "is negative", "likely dB"),
        (
            "sentinel2-l2a",
            "dn",
            _reflectance(12),
            "0.0",
            "reflectance of 0 to 1 already; declare `encoding: reflectance`",
        ),
        (
            "landsat8-oli-tirs-l2",
            "dn",
            np.vstack([_reflectance(7), _kelvin()]),
            "kelvin already",
            "`encoding: physical`",
        ),
        ("landsat8-oli-tirs-l2", "dn", np.vstack([_DN[:7], _DN[:1] * 10]), "-0.05 to 2 can be", "another product"),
        ("sentinel2-l2a", "reflectance", _DN, "are about 1,", "digital numbers; declare `encoding: dn`"),
        ("hls-s30", "physical", np.vstack([_DN, _DN[:1]]), "-0.05 to 2 can be", "declare `encoding: dn`"),
        ("sentinel2-l2a", "dn", _picture(12), "whole", "picture of 8 bits; declare a sensor of counts"),
        ("sentinel2-l1c", "dn", _picture(13).astype(np.int16), "whole", "picture of 8 bits"),
        ("sentinel2-l2a", "reflectance", _picture(12), "can be", "picture of 8 bits"),
        ("sentinel2-l2a", "reflectance", _reflectance(12) * 100, "can be", "per cent"),
        ("maxar-rgb", "dn", _picture(3) / 255.0, "with decimals", "`scale: 255`"),
        ("naip", "dn", RNG.normal(0, 1, (4, 400)), "with decimals", "standardised"),
        (
            "ecostress-lst",
            "kelvin",
            _kelvin() - 273.15,
            "are about 2",
            "degrees Celsius; declare `scale: 1` and `offset",
        ),
        ("ecostress-lst", "kelvin", _kelvin() * 50, "175 to 400 K can be", "digital numbers; declare `encoding: dn`"),
        ("ecostress-lst", "kelvin", _kelvin() * 10, "can be", "tenths of a kelvin; declare `scale: 0.1`"),
        ("ecostress-lst", "dn", _kelvin(), "can be", "kelvin already; declare `encoding: kelvin`"),
        ("ecostress-lst", "kelvin", np.zeros((1, 400)), "are about 0 K", "a fill value; declare `nodata: 0`"),
        ("sentinel3-olci", "radiance", RNG.integers(4000, 9000, (21, 400)), "can be", "declare `encoding: dn`"),
        ("ecostress-l1", "radiance", np.full((5, 400), -9997.0), "can be", "a fill value; declare `nodata: -9997`"),
        ("sentinel2-l2a", "dn", _DN // 2000, "below the 1st percentile", "another encoding"),
        ("sentinel1-grd", "db", np.full((2, 400), 3.0) + RNG.normal(0, 0.3, (2, 400)), "above the 99th", "encoding"),
    ],
)
def test_a_wrong_declaration_is_said_with_its_cause_and_what_mends_it(
    sensor: str, encoding: str, dn: np.ndarray, cause: str, mend: str
) -> None:
    said = [one for one in _said(sensor, encoding, dn) if cause in one and mend in one]
    assert len(said) == 1, _said(sensor, encoding, dn)
    assert said[0].startswith((f"{sensor}: impossible values: ", f"{sensor}: unlikely values: every"))


@pytest.mark.parametrize("where", ["B10 and B11", "one of three Landsat bands"])
def test_only_the_bands_that_are_wrong_are_named(where: str) -> None:
    dn = np.rint(np.vstack([_reflectance(9), _kelvin(2)]) * 1e3)
    dn[:9] = np.rint((_reflectance(9) + 0.1) / 2e-5)
    if where == "B10 and B11":
        dn[9:] = RNG.normal(22, 3, (2, 400))
        (said,) = _said_l1(dn)
        assert "values of B10, B11 are about 1" in said
        assert "degrees Celsius" in said
    else:
        dn[9:] = RNG.normal(28_000, 300, (2, 400))
        dn[3] = _reflectance(1)
        (said,) = _said_l1(dn)
        assert "the digital numbers of B4 are" in said


def _said_l1(dn: np.ndarray) -> list[str]:
    sensor = get_sensor("landsat8-oli-tirs-l1").select([f"B{one}" for one in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)])
    check = ValueCheck(sensor, [band.encoding("dn") for band in sensor.bands], [None] * 11)
    return [one for one, _ in check(dn[None], np.ones((1, *dn.shape), dtype=bool)).values()]


@pytest.mark.parametrize(
    ("sensor", "encoding", "dn"),
    [
        ("sentinel1-grd", "db", _db()),
        ("sentinel1-grd", "linear", _POWER),
        ("sentinel1-grd", "amplitude", np.sqrt(_POWER)),
        ("sentinel1-grd", "db_int100", np.rint(_db() * 100).astype(np.int16)),
        ("sentinel2-l2a", "dn", _DN),
        ("sentinel2-l2a", "reflectance", _reflectance(12)),
        ("sentinel2-l2a", "baseline_04.00", _DN + 1000),
        ("maxar-rgb", "dn", _picture(3)),
        ("ecostress-lst", "kelvin", _kelvin()),
        ("sentinel3-olci", "radiance", RNG.gamma(4, 20, (21, 400))),
    ],
)
def test_a_right_declaration_says_nothing(sensor: str, encoding: str, dn: np.ndarray) -> None:
    assert _said(sensor, encoding, dn) == []


def test_dark_water_is_no_picture_and_may_be_black_in_the_infrared() -> None:
    water = np.vstack([RNG.integers(150, 230, (4, 400)), np.ones((8, 400), dtype=np.int64)]).astype(np.uint16)
    assert _said("sentinel2-l2a", "dn", water) == []


def test_values_without_data_do_not_count() -> None:
    dn, valid = _DN.astype(np.float32), np.ones(_DN.shape, dtype=bool)
    dn[:, :300], valid[:, :300] = -9999, False
    assert _said("sentinel2-l2a", "dn", dn, valid=valid) == []
    (said,) = _said("sentinel2-l2a", "dn", dn[:, 295:])
    assert "some values of B01, B02, B03, B04 and 8 more are about -0.9999" in said
    assert "declare `nodata: -9999`" in said
    assert _said("sentinel2-l2a", "dn", np.full(_DN.shape, np.nan)) == []


def test_each_image_is_judged_by_itself() -> None:
    sensor = get_sensor("sentinel1-grd")
    check = ValueCheck(sensor, [band.encoding("db") for band in sensor.bands], [None, None])
    images = np.stack([_db(), _POWER, _db(), np.sqrt(_POWER)])
    assert [images for _, images in check(images, np.ones(images.shape, dtype=bool)).values()] == [[1, 3]]


def test_a_sample_is_spread_over_the_image() -> None:
    pixels = np.arange(2 * 300 * 200).reshape(2, 300, 200)
    found = sampled(pixels)
    assert found.shape[0] == 2
    assert 200 <= found.shape[1] <= 600
    assert found[0].max() > 0.94 * pixels[0].max()
    assert sampled(np.zeros((5, 3, 8, 8))).shape == (5, 3, 64)
