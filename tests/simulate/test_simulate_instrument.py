"""What sensors make of a known surface."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from anyband.errors import CatalogueError
from anyband.randomness import generator
from anyband.sensors.catalogue import get_sensor, list_sensors
from anyband.sensors.sensor import OpticalRange, RadarBeam, Sensor
from anyband.simulate.instruments import (
    Sky,
    area_mean,
    clear_sky,
    draw_sky,
    encode,
    noise_of,
    observe,
    speckle,
    stored_nodata,
    stored_type,
    swath,
)
from anyband.simulate.plan import Frame
from anyband.simulate.surface import Surface, reflectance_at


def _rng(sample: int = 0) -> np.random.Generator:
    return generator(3, step=0, sample=sample, purpose="test")


def _cloudy(surface: Surface) -> Sky:
    return draw_sky(_rng(), surface.landscape.frame, surface.sun, cloudy=True)


def _clear(surface: Surface) -> Sky:
    return clear_sky(surface.landscape.frame)


@pytest.fixture(scope="module")
def small_surface(surface_of: Callable[..., Surface]) -> Surface:
    """A few pixels of meadow."""
    return surface_of({"grassland": 1.0}, day=150.0, footprint_m=60.0)


def test_area_averages_keep_the_mean() -> None:
    frame = Frame(footprint_m=120.0, detail_m=2.5)
    fields = _rng().random((3, 48, 48)).astype(np.float32)
    for gsd_m in (5.0, 10.0, 30.0, 8.0):
        mean = area_mean(fields, frame, gsd_m=gsd_m).mean(axis=(1, 2))
        np.testing.assert_allclose(mean, fields.mean(axis=(1, 2)), rtol=1e-5)


def test_area_averages_of_whole_pixels_are_block_means() -> None:
    fields = _rng().random((2, 24, 24)).astype(np.float32)
    blocks = fields.reshape(2, 6, 4, 6, 4).mean(axis=(2, 4))
    averaged = area_mean(fields, Frame(footprint_m=60.0, detail_m=2.5), gsd_m=10.0)
    np.testing.assert_allclose(averaged, blocks, rtol=1e-5)


@pytest.mark.parametrize("name", ["B02", "B08", "B11"])
def test_a_band_is_the_area_mean_of_the_truth_over_its_range(mixed_surface: Surface, name: str) -> None:
    sensor = get_sensor("sentinel2-l2a").select([name])
    band = sensor.bands[0]
    assert isinstance(band.spectrum, OpticalRange)
    # A second way: the truth at many wavelengths inside the band, averaged, then blocks of pixels.
    nm = np.linspace(band.spectrum.low_nm, band.spectrum.high_nm, 41)
    truth = np.asarray(reflectance_at(mixed_surface, (nm[1:] + nm[:-1]) / 2).mean(axis=0))
    step = round(band.gsd_m / 2.5)
    blocks = truth.reshape(len(truth) // step, step, len(truth) // step, step).mean(axis=(1, 3))
    seen = observe(mixed_surface, sensor, _clear(mixed_surface), None)[0]
    if band.spectrum.response:
        pytest.skip("the catalogue has a sampled response")
    np.testing.assert_allclose(seen, blocks, rtol=2e-3, atol=2e-4)


def test_coarse_bands_repeat_their_own_pixels(mixed_surface: Surface) -> None:
    sensor = get_sensor("sentinel2-l2a").select(["B01", "B02"])
    coarse, fine = observe(mixed_surface, sensor, _clear(mixed_surface), _rng())
    blocks = coarse.reshape(8, 6, 8, 6)
    assert np.array_equal(blocks, np.broadcast_to(blocks[:, :1, :, :1], blocks.shape))
    assert len(np.unique(fine)) > len(np.unique(coarse))


def test_noise_has_the_declared_standard_deviation(mixed_surface: Surface) -> None:
    sensor = get_sensor("sentinel2-l2a").select(["B8A"])
    sky = _clear(mixed_surface)
    quiet = observe(mixed_surface, sensor, sky, None)
    draws = np.stack([observe(mixed_surface, sensor, sky, _rng(k)) - quiet for k in range(20)])
    assert draws.std() == pytest.approx(0.1 / noise_of("sentinel2-l2a")["snr_of_band"]["B8A"], rel=0.05)


def test_noise_of_a_radiance_is_that_of_a_dark_ground_in_the_sun(mixed_surface: Surface) -> None:
    sensor = get_sensor("landsat5-tm-l1").select(["B3"])
    quiet = observe(mixed_surface, sensor, _clear(mixed_surface), None)
    draws = np.stack([observe(mixed_surface, sensor, _clear(mixed_surface), _rng(k)) - quiet for k in range(20)])
    # The sun gives 1536 W/(m² µm) in this band (Chander et al. 2009, table 3): a tenth comes back, to all sides.
    overhead = 0.1 * 1536 / np.pi
    assert 0.3 * overhead < draws.std() * noise_of("landsat5-tm-l1")["snr"] < 1.05 * overhead


def test_speckle_has_mean_1_and_the_declared_number_of_looks() -> None:
    draws = speckle(_rng(), (400, 400), looks=4.4)
    assert float(draws.mean()) == pytest.approx(1, abs=0.01)
    assert float(draws.mean() ** 2 / draws.var()) == pytest.approx(4.4, rel=0.02)


def test_radar_over_uniform_ground_has_the_backscatter_of_the_table(
    surface_of: Callable[..., Surface],
) -> None:
    water = surface_of({"water": 1.0})
    offset_db = water.palette[2][list(water.materials)]
    vv, vh = observe(water, get_sensor("sentinel1-grd"), _clear(water), None)
    deep = (-20.5 + offset_db, -19.0 + offset_db)
    assert min(map(float, deep[0])) - 1 < float(np.median(vv)) < max(map(float, deep[1])) + 1
    assert float(np.median(vv - vh)) == pytest.approx(7.75, abs=0.4)


def test_clouds_whiten_optical_images_and_radar_does_not_notice(mixed_surface: Surface) -> None:
    clouds, clear = _cloudy(mixed_surface), _clear(mixed_surface)
    assert clouds.cloud.mean() > 0.02
    thick = clouds.cloud.reshape(48, 4, 48, 4).min(axis=(1, 3)) > 0.95
    blue = get_sensor("sentinel2-l2a").select(["B02"])
    assert observe(mixed_surface, blue, clouds, None)[0][thick].min() > 0.6
    radar = [observe(mixed_surface, get_sensor("sentinel1-grd"), sky, None) for sky in (clouds, clear)]
    np.testing.assert_array_equal(radar[0], radar[1])


def test_thermal_bands_see_plausible_temperatures(mixed_surface: Surface) -> None:
    sensor = get_sensor("landsat8-oli-tirs-l2")
    sensor = sensor.select([sensor.band_names[-1]])
    assert sensor.bands[0].unit == "kelvin"
    kelvin = observe(mixed_surface, sensor, _clear(mixed_surface), None)
    assert 275 < kelvin.min() < kelvin.max() < 325


def test_asphalt_is_hotter_than_water_at_noon_in_summer(surface_of: Callable[..., Surface]) -> None:
    sensor = get_sensor("landsat8-oli-tirs-l2").select(["ST_B10"])
    town, lake = (
        float(observe(surface, sensor, _clear(surface), None).mean())
        for surface in (surface_of({"urban_dense": 1.0}), surface_of({"water": 1.0}))
    )
    assert town > lake + 8


def test_clouds_are_colder_than_the_ground(mixed_surface: Surface) -> None:
    sensor = get_sensor("landsat8-oli-tirs-l2").select(["ST_B10"])
    clouds = _cloudy(mixed_surface)
    clear = observe(mixed_surface, sensor, _clear(mixed_surface), None)
    assert observe(mixed_surface, sensor, clouds, None).min() < clear.min() - 3


def _at_30_m(name: str) -> Sensor:
    whole = get_sensor(name)
    return dataclasses.replace(whole, bands=tuple(dataclasses.replace(b, gsd_m=30.0) for b in whole.bands))


_RADARS = [name for name in list_sensors() if isinstance(get_sensor(name).bands[0].spectrum, RadarBeam)]


def test_every_optical_sensor_and_sentinel_1_are_stored_as_their_products_are(small_surface: Surface) -> None:
    for name in {*list_sensors()} - {*_RADARS} | {"sentinel1-grd", "sentinel1-rtc"}:
        sensor = _at_30_m(name)
        values = observe(small_surface, sensor, _clear(small_surface), None)
        stored = encode(values, sensor, np.ones(values.shape[1:], dtype=bool))
        for band, dn, value in zip(sensor.bands, stored, values, strict=True):
            encoding = band.encoding(sensor.default_encoding)
            step = 1e-4 if stored.dtype.kind == "f" else 0.51
            assert float(dn[0, 0]) == pytest.approx(encoding.encode(float(value[0, 0])), rel=1e-5, abs=step), name


def test_radars_of_other_bands_or_polarisations_are_refused(small_surface: Surface) -> None:
    for name in {*_RADARS} - {"sentinel1-grd", "sentinel1-rtc"}:
        with pytest.raises(CatalogueError, match=r"knows backscatter at C band \(4 to 8 GHz\) in VH and VV, requested"):
            observe(small_surface, _at_30_m(name), _clear(small_surface), None)


@pytest.mark.parametrize(
    ("name", "encoding", "expected"),
    [
        ("sentinel2-l2a", "dn", "uint16"),
        ("sentinel1-grd", "db", "float32"),
        ("sentinel1-grd", "db_int100", "int16"),
        ("maxar-rgb", "dn", "uint8"),
        ("hls-s30", "sr", "int16"),
    ],
)
def test_products_have_their_usual_types(name: str, encoding: str, expected: str) -> None:
    sensor = get_sensor(name)
    known = encoding if encoding in dict(sensor.bands[0].encodings) else sensor.default_encoding
    assert stored_type(sensor, encoding=known).name == expected


def test_pixels_beyond_the_swath_are_nodata_and_no_others() -> None:
    sensor = get_sensor("sentinel2-l2a").select(["B02"])
    valid = swath(_rng(), 32)
    stored = encode(np.zeros((1, 32, 32), dtype=np.float32), sensor, valid)
    assert 0 < (~valid).mean() < 0.4
    assert np.array_equal(stored[0] == sensor.nodata, ~valid)


def test_radar_in_decibels_marks_nodata_by_nan() -> None:
    nodata = stored_nodata(get_sensor("sentinel1-grd"), encoding="db")
    assert nodata is not None
    assert np.isnan(nodata)


def test_a_sensor_without_nodata_has_no_edges() -> None:
    sensor: Sensor = dataclasses.replace(get_sensor("maxar-rgb"), nodata=None)
    with pytest.raises(CatalogueError, match="'maxar-rgb' has no nodata value, so its images can't have an edge"):
        encode(np.zeros((3, 8, 8), dtype=np.float32), sensor, swath(_rng(), 8))
