"""Normalisation published for evaluation sets: the numbers, by catalogue band, in physical units."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from anyband.errors import CatalogueError
from anyband.labelled.published import are_of_pictures, published_statistics_of
from anyband.sensors.catalogue import get_sensor
from anyband.sensors.ranges import load_ranges

_REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference" / "smarties_v1.json"
# Bands of the published order of EuroSAT, whose file puts B8A last.
_EUROSAT = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A"]


def test_the_numbers_of_eurosat_come_in_reflectance():
    found = published_statistics_of("EuroSAT", get_sensor("sentinel2-l1c"))
    aerosol, nir = found["B01"], found["B8A"]
    assert (aerosol.p01, aerosol.p99) == pytest.approx((0.0968, 0.2084))
    assert (aerosol.mean, aerosol.std) == (0.343667, 0.210455)
    assert (nir.p99, nir.mean) == pytest.approx((0.5312, 0.476805))


@pytest.mark.parametrize(
    ("name", "sensor", "unit_scale"),
    [
        ("EuroSAT", "sentinel2-l1c", 1e-4),
        ("WHU-RS19", "maxar-rgb", 1.0),
        ("UC-Merced", "maxar-rgb", 1.0),
        ("RESISC45", "maxar-rgb", 1.0),
        ("BigEarthNetS2", "sentinel2-l2a", 1e-4),
        ("BigEarthNetS1", "sentinel1-grd", 1.0),
    ],
)
def test_all_numbers_equal_the_published_configuration(name: str, sensor: str, unit_scale: float):
    if not _REFERENCE.is_file():
        pytest.skip("the published configuration is not beside the project")
    published = json.loads(_REFERENCE.read_text(encoding="utf-8"))["evaluation_sets"][name]
    found = published_statistics_of(name, get_sensor(sensor))
    for index, range_name in enumerate(published["bands"]):
        ours = found[_band_of(range_name, sensor)]
        assert ours.p01 == pytest.approx(published["p01"][index] * unit_scale)
        assert ours.p99 == pytest.approx(published["p99"][index] * unit_scale)
        assert (ours.mean, ours.std) == (published["mean"][index], published["std"][index])
    assert len(found) == len(published["bands"])


def _band_of(range_name: str, sensor: str) -> str:
    # The cirrus band has a range without weights.
    known = [(name, band) for entry in load_ranges("smarties_v1").ranges if entry.name == range_name
             for name, band in entry.known]  # fmt: skip
    return next((band for name, band in known if name == sensor), "B10")


def test_bands_follow_the_sensor_and_not_the_published_order():
    some = get_sensor("sentinel2-l1c").select(reversed(_EUROSAT))
    assert tuple(published_statistics_of("EuroSAT", some)) == tuple(reversed(_EUROSAT))


@pytest.mark.parametrize("name", ["ucmerced", "UC_Merced", "UC-Merced", "UCMerced"])
def test_how_a_name_is_written_does_not_count(name: str):
    assert published_statistics_of(name, get_sensor("maxar-rgb"))["R"].p99 == 244.807772


def test_both_sensors_of_bigearthnet_have_their_own():
    radar = published_statistics_of("BigEarthNet-MM", get_sensor("sentinel1-grd"))
    assert (radar["VV"].p01, radar["VH"].p99) == (-29.519697, -9.905399)
    assert published_statistics_of("BigEarthNet-MM", get_sensor("sentinel2-l2a"))["B12"].mean == 0.295883


def test_the_pictures_of_dfc2020_are_taken_as_counts_and_as_nothing_else():
    sensor = get_sensor("sentinel2-l1c").select(["B02", "B03"])
    counts = replace(sensor, bands=tuple(replace(band, unit="count") for band in sensor.bands))
    assert published_statistics_of("DFC2020", counts)["B02"].p99 == 255.0
    with pytest.raises(CatalogueError, match=r"is in the unit 'count', and band 'B02' .* in 'reflectance'; take `sta"):
        published_statistics_of("DFC2020", sensor)


def test_pictures_of_dfc2020_are_made_by_the_sets_own_mean_and_deviation():
    sensor = get_sensor("sentinel2-l1c").select(["B02", "B03"])
    found = published_statistics_of("DFC2020", sensor, moments={"B02": (0.2, 0.05), "B03": (0.1, 0.02)})
    assert {band: (round(one.p01, 9), round(one.p99, 9)) for band, one in found.items()} == {
        "B02": (0.1, 0.3),
        "B03": (0.06, 0.14),
    }
    assert (found["B02"].mean, found["B02"].std) == (0.4883, 0.2103)
    assert are_of_pictures("dfc2020")
    assert not are_of_pictures("EuroSAT")


@pytest.mark.parametrize(
    ("name", "sensor", "message"),
    [
        (
            "EuroSatt",
            "sentinel2-l1c",
            r"BigEarthNet, DFC2020, HLS Burn Scars, DynamicEarthNet, SpaceNet7\); did you mean 'EuroSAT'\?",
        ),
        ("EuroSAT", "maxar-rgb", r"of 'EuroSAT' is of sentinel2-l1c, and the images are declared as 'maxar-rgb'; take"),
        ("BigEarthNet", "maxar-rgb", r"is of sentinel2-l2a and sentinel1-grd, and"),
    ],
)
def test_what_was_not_published_is_refused(name: str, sensor: str, message: str):
    with pytest.raises(CatalogueError, match=message):
        published_statistics_of(name, get_sensor(sensor))


def test_a_band_without_published_numbers_is_named():
    sensor = get_sensor("sentinel2-l1c").select(["B02", "B03"])
    other = replace(sensor, bands=(sensor.bands[0], replace(sensor.bands[1], name="B99")))
    with pytest.raises(CatalogueError, match=r"has no band B99 of 'sentinel2-l1c' \(it has B01, B02"):
        published_statistics_of("EuroSAT", other)
