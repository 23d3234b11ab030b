"""The numbers of the sensor tables against other documents than the ones they were taken from."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import anyband.sensors
from anyband.errors import CatalogueError
from anyband.files import read_yaml
from anyband.sensors.catalogue import get_sensor, list_sensors
from anyband.sensors.sensor import Band, Encoding, OpticalRange, RadarBeam

TABLES = sorted((Path(anyband.sensors.__file__).parent / "tables").glob("*.yaml"))

REQUIRED = [
    *(
        "sentinel1-grd",
        "sentinel2-l1c",
        "sentinel2-l2a",
        "hls-l30",
        "hls-s30",
        "modis",
        "viirs",
        "aster",
        "naip",
    ),
    *(f"landsat{name}-{level}" for name in ("5-tm", "7-etm", "8-oli-tirs") for level in ("l1", "l2")),
    *("planetscope-4b", "planetscope-8b", "spot6-7", "pleiades", "worldview2", "worldview3", "maxar-rgb"),
    *("gaofen1", "gaofen2", "gaofen6", "enmap", "prisma", "emit"),
    *("palsar2", "terrasar-x", "capella-x", "nisar-l"),
    *("sentinel1-rtc", "sentinel3-olci", "ecostress-l1", "ecostress-lst", "landsat8-oli-tirs-c1-l2"),
]

# STAC electro-optical extension, version 1.0, table of common band names, micrometres.
STAC_RANGES_UM = {
    "coastal": (0.40, 0.45),
    "blue": (0.45, 0.50),
    "green": (0.50, 0.60),
    "yellow": (0.58, 0.62),
    "red": (0.60, 0.70),
    "pan": (0.50, 0.70),
    "rededge": (0.70, 0.79),
    "nir": (0.75, 1.00),
    "nir08": (0.75, 0.90),
    "nir09": (0.85, 1.05),
    "cirrus": (1.35, 1.40),
    "swir16": (1.55, 1.75),
    "swir22": (2.10, 2.30),
    "lwir": (10.5, 12.5),
    "lwir11": (10.5, 11.5),
    "lwir12": (11.5, 12.5),
}
STAC_TOLERANCE_NM = 10.0  # chosen: the middle of the panchromatic band of Landsat 7, 710 nm, lies 10 nm outside

# IEEE Std 521-2019, letter designations of radar bands, gigahertz.
RADAR_LETTERS_GHZ = {"L": (1, 2), "S": (2, 4), "C": (4, 8), "X": (8, 12)}

# Centres and widths as other documents publish them, nanometres.
PUBLISHED_NM = [
    # Earth Engine catalogue, MODIS/061/MCD43A4: band centres
    *[("modis", f"B0{n}", nm, None) for n, nm in zip(range(1, 8), (645, 859, 469, 555, 1240, 1640, 2130), strict=True)],
    # NASA Suomi NPP, VIIRS instrument page: band centres
    *[("viirs", n, nm, None) for n, nm in zip(("M1", "M2", "M3", "M4"), (412, 445, 488, 555), strict=True)],
    *[("viirs", n, nm, None) for n, nm in zip(("M5", "M7", "M8", "M10"), (672, 865, 1240, 1610), strict=True)],
    *[("viirs", n, nm, None) for n, nm in zip(("M11", "I1", "I2", "I3"), (2250, 640, 865, 1610), strict=True)],
    # Planet, "Understanding PlanetScope instruments": centre (FWHM) of the SuperDove bands
    ("planetscope-8b", "coastal_blue", 443, 20),
    ("planetscope-8b", "blue", 490, 50),
    ("planetscope-8b", "green_i", 531, 36),
    ("planetscope-8b", "green", 565, 36),
    ("planetscope-8b", "yellow", 610, 20),
    ("planetscope-8b", "red", 665, 31),
    ("planetscope-8b", "rededge", 705, 15),
    ("planetscope-8b", "nir", 865, 40),
    # WMO OSCAR/Space, PMS-2: central wavelengths
    *[("gaofen2", f"B{n}", nm, None) for n, nm in zip(range(1, 5), (485, 555, 660, 830), strict=True)],
    # Kuester, DigitalGlobe technical note (2016), effective centre wavelengths from the measured responses
    *[("worldview3", n, nm, None) for n, nm in zip(("C", "B", "G", "Y"), (427, 482, 547, 604), strict=True)],
    *[("worldview3", n, nm, None) for n, nm in zip(("R", "RE", "S1", "S2"), (660, 723, 1209, 1572), strict=True)],
    *[("worldview3", n, nm, None) for n, nm in zip(("S3", "S4", "S5"), (1661, 1730, 2164), strict=True)],
    # waterquality (R package), data-raw/01f_OLCI.R: band centres
    *[
        ("sentinel3-olci", f"Oa{n:02d}", nm, None)
        for n, nm in zip((1, 2, 3, 4, 6, 8), (400, 413, 443, 490, 560, 665), strict=True)
    ],
    *[
        ("sentinel3-olci", f"Oa{n}", nm, None)
        for n, nm in zip((11, 14, 17, 20, 21), (709, 764, 865, 940, 1020), strict=True)
    ],
    # NASA LP DAAC, product page of ECO1BRAD version 1; of bands 3 and 5 it has the nominal 9060 and 12001
    *[("ecostress-l1", n, nm, None) for n, nm in zip(("B1", "B2", "B4"), (8285, 8785, 10522), strict=True)],
    *[("worldview3", n, nm, None) for n, nm in zip(("S6", "S7", "S8"), (2202, 2259, 2329), strict=True)],
]


def _bands(kind: type) -> list[tuple[str, Band]]:
    every = [(name, band) for name in list_sensors() for band in get_sensor(name).bands]
    return [(name, band) for name, band in every if isinstance(band.spectrum, kind)]


def _optical(sensor: str, band: str) -> OpticalRange:
    spectrum = get_sensor(sensor).band(band).spectrum
    assert isinstance(spectrum, OpticalRange)
    return spectrum


def _decoded(encoding: Encoding, dn: np.ndarray) -> np.ndarray:
    linear = dn * encoding.scale + encoding.offset
    return {"identity": lambda v: v, "amplitude_to_db": lambda v: 20 * np.log10(v)}[encoding.transform](linear)


def test_the_required_sensors_are_in_the_catalogue() -> None:
    assert set(REQUIRED) - set(list_sensors()) == set()


def test_every_table_names_its_mission_and_every_sensor_a_source() -> None:
    missions = [read_yaml(path, error=CatalogueError)["mission"].strip() for path in TABLES]
    assert all(missions)
    for name in list_sensors():
        assert len(get_sensor(name).source) > 30, f"{name}: a source is a document and its edition"


def test_every_optical_band_lies_between_the_near_ultraviolet_and_the_thermal_infrared() -> None:
    for sensor, band in _bands(OpticalRange):
        assert 350 <= _optical(sensor, band.name).low_nm < _optical(sensor, band.name).high_nm <= 15_000, (
            sensor,
            band.name,
        )


def test_every_ground_sampling_distance_is_between_a_decimetre_and_a_kilometre() -> None:
    for name in list_sensors():
        for band in get_sensor(name).bands:
            assert 0.1 <= band.gsd_m <= 1_000, (name, band.name)


def test_common_names_lie_in_the_ranges_that_stac_gives_them() -> None:
    seen = set()
    for sensor, band in _bands(OpticalRange):
        for common in {band.name.casefold(), *band.aliases} & set(STAC_RANGES_UM):
            low_um, high_um = STAC_RANGES_UM[common]
            center_nm = band.spectrum.center_nm
            seen.add(common)
            assert low_um * 1e3 - STAC_TOLERANCE_NM <= center_nm <= high_um * 1e3 + STAC_TOLERANCE_NM, (
                sensor,
                band.name,
            )
    assert len(seen) >= 12


def test_blue_green_red_and_near_infrared_stand_in_order_of_wavelength_in_every_sensor() -> None:
    counted = 0
    for name in list_sensors():
        by_common = {alias: band for band in get_sensor(name).bands for alias in (band.name, *band.aliases)}
        found = [by_common[common] for common in ("blue", "green", "red", "nir") if common in by_common]
        centers_nm = [band.spectrum.center_nm for band in found]
        assert centers_nm == sorted(centers_nm), name
        counted += len(found) == 4
    assert counted >= 12


@pytest.mark.parametrize(("sensor", "band", "center_nm", "width_nm"), PUBLISHED_NM)
def test_a_band_agrees_with_a_second_document(sensor: str, band: str, center_nm: float, width_nm: float | None) -> None:
    spectrum = _optical(sensor, band)
    # Documents round edges and centres each in their own way: 3 nm in the visible, 1 part in 200 beyond it.
    tolerance_nm = max(3.0, center_nm / 200)
    assert spectrum.center_nm == pytest.approx(center_nm, abs=tolerance_nm)
    assert width_nm is None or spectrum.high_nm - spectrum.low_nm == pytest.approx(width_nm, abs=tolerance_nm)


@pytest.mark.parametrize(
    ("pan", "multispectral"),
    [
        (f"{name}-pan", name)
        for name in ("spot6-7", "pleiades", "worldview2", "worldview3", "gaofen1", "gaofen2", "gaofen6")
    ],
)
def test_a_panchromatic_band_is_four_times_finer_and_covers_blue_to_red(pan: str, multispectral: str) -> None:
    wide = get_sensor(pan).bands[0]
    red = get_sensor(multispectral).band("red")
    assert red.gsd_m / wide.gsd_m == pytest.approx(4.0, rel=0.01)
    assert isinstance(wide.spectrum, OpticalRange)
    # Pléiades' blue starts below its panchromatic band, so the centres are what it covers.
    assert wide.spectrum.low_nm < get_sensor(multispectral).band("blue").spectrum.center_nm
    assert red.spectrum.center_nm < wide.spectrum.high_nm


@pytest.mark.parametrize(
    ("sensor", "letter", "wavelength_cm", "tolerance_cm"),
    [
        ("palsar2", "L", 23.8, 0.5),  # 23.4 cm at 1278.5 MHz, 24.2 cm at 1236.5 MHz
        ("palsar2-mosaic", "L", 23.8, 0.5),
        ("nisar-l", "L", 24.0, 0.3),  # earthdata.nasa.gov, NISAR
        ("nisar-s", "S", 9.3, 0.1),  # earthdata.nasa.gov, NISAR
        ("sentinel1-grd", "C", 5.5466, 0.0001),  # ESA
        ("sentinel1-rtc", "C", 5.5466, 0.0001),  # ESA
        ("terrasar-x", "X", 3.1, 0.05),  # DLR
        ("capella-x", "X", 3.1, 0.05),  # CATALYST product page
    ],
)
def test_a_radar_has_the_letter_and_the_wavelength_that_its_agency_gives(
    sensor: str, letter: str, wavelength_cm: float, tolerance_cm: float
) -> None:
    low_ghz, high_ghz = RADAR_LETTERS_GHZ[letter]
    for band in get_sensor(sensor).bands:
        assert isinstance(band.spectrum, RadarBeam)
        assert low_ghz <= band.spectrum.frequency_ghz <= high_ghz
        assert band.spectrum.wavelength_nm / 1e7 == pytest.approx(wavelength_cm, abs=tolerance_cm)


def test_every_radar_band_is_backscatter_and_named_by_its_polarisation() -> None:
    for sensor, band in _bands(RadarBeam):
        assert isinstance(band.spectrum, RadarBeam)
        assert band.unit == "sigma0_db", sensor
        assert band.spectrum.polarisation in band.name.upper(), sensor


@given(dn=st.integers(min_value=1, max_value=65_535))
def test_palsar2_numbers_become_twenty_log_dn_minus_83_db(dn: int) -> None:
    for name in ("palsar2", "palsar2-mosaic"):
        sensor = get_sensor(name)
        found = _decoded(sensor.band("HV").encoding(sensor.default_encoding), np.array(float(dn)))
        assert found == pytest.approx(20 * math.log10(dn) - 83.0, abs=1e-9)


def test_aster_bands_hold_the_effective_wavelengths_of_their_measured_responses() -> None:
    # Jet Propulsion Laboratory, ASTER spectral response functions: effective wavelengths, nanometres
    effective_nm = (556, 661, 807, 1656, 2167, 2209, 2262, 2336, 2400, 8291, 8634, 9075, 10657, 11318)
    found_nm = [band.spectrum.center_nm for band in get_sensor("aster-l1t").bands]
    np.testing.assert_allclose(found_nm, effective_nm, rtol=0.02)


@pytest.mark.parametrize(
    ("gain", "maximum"),
    [
        # ASTER User Handbook, version 2, maximum radiance for each gain setting, W/(m2 sr um)
        ("normal_gain", (427.0, 358.0, 218.0, 55.0, 17.6, 15.8, 15.1, 10.55, 8.04)),
        ("high_gain", (170.8, 179.0, 106.8, 27.5, 8.8, 7.9, 7.55, 5.27, 4.02)),
    ],
)
def test_aster_conversion_reaches_the_published_maximum_radiance_at_dn_255(
    gain: str, maximum: tuple[float, ...]
) -> None:
    bands = get_sensor("aster-l1t").bands[:9]
    found = [float(_decoded(band.encoding(gain), np.array(255.0))) for band in bands]
    np.testing.assert_allclose(found, maximum, rtol=0.01)


def test_aster_radiance_is_zero_at_dn_1() -> None:
    for band in get_sensor("aster-l1t").bands:
        for gain in ("normal_gain", "high_gain"):
            assert _decoded(band.encoding(gain), np.array(1.0)) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("sensor", "white"),
    [
        *[(name, 10_000) for name in ("modis", "viirs", "planetscope-4b", "planetscope-8b", "enmap")],
        *[("aster", 1_000), ("prisma", 65_535), ("emit", 1.0)],
    ],
)
def test_the_number_stored_for_a_white_surface_becomes_reflectance_one(sensor: str, white: float) -> None:
    for band in get_sensor(sensor).bands:
        assert band.unit == "reflectance"
        assert _decoded(band.encoding(get_sensor(sensor).default_encoding), np.array(white)) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "name",
    [
        *("modis", "viirs", "enmap", "worldview3", "gaofen6-wfv", "palsar2", "nisar-l"),
        *("sentinel1-rtc", "sentinel3-olci", "ecostress-lst"),
    ],
)
def test_a_sensor_without_published_statistics_has_none(name: str) -> None:
    assert all(band.statistics is None for band in get_sensor(name).bands)


def test_olci_numbers_reach_the_radiance_of_clouds_and_no_more_than_sunlight() -> None:
    # Thuillier and others (2003): sunlight of 1.9 kW/(m2 um) at 442 nm, 0.95 at 865 nm; over pi, what white reflects.
    sensor = get_sensor("sentinel3-olci")
    largest = {band.name: float(_decoded(band.encoding("dn"), np.array(65_534.0))) for band in sensor.bands}
    assert all(150 < one < 1_000 for one in largest.values())
    assert largest["Oa03"] > 1_900 / math.pi
    assert 1_900 / math.pi > largest["Oa17"] > 950 / math.pi


def test_collection_1_of_landsat_8_is_not_scaled_as_collection_2() -> None:
    first, second = get_sensor("landsat8-oli-tirs-c1-l2"), get_sensor("landsat8-oli-tirs-l2")
    assert (first.nodata, second.nodata) == (-9999, 0)
    for one, other in zip(first.bands[:7], second.bands[:7], strict=True):
        assert one.spectrum == other.spectrum
        # The same reflectance of 0.3 in both, by their product guides.
        assert one.encoding("dn").decode(3000.0) == pytest.approx(0.3)
        assert other.encoding("dn").decode(18_182.0) == pytest.approx(0.3, abs=1e-5)
    assert first.band("bt_band10").encoding("dn").decode(2950.0) == pytest.approx(295.0)


@pytest.mark.real
def test_collection_1_is_what_a_worldcereal_site_holds(real_data: Path) -> None:
    import h5netcdf

    (path,) = (real_data / "worldcereal_s1_s2_l8_timeseries").glob("*/L8_SR_*.nc")
    sensor = get_sensor("landsat8-oli-tirs-c1-l2")
    with h5netcdf.File(path, "r", invalid_netcdf=True) as file:
        stored = {name: np.asarray(file.variables[name][0], dtype=np.float64) for name in ("B04", "B05", "B10")}
    medians = {name: np.median(_decoded(sensor.band(name).encoding("dn"), dn[dn > 0])) for name, dn in stored.items()}
    assert 0.0 < medians["B04"] < medians["B05"] < 1.0
    assert 250 < medians["B10"] < 320


@pytest.mark.real
def test_a_capella_image_of_spacenet6_is_in_decibels_as_the_default_encoding_says(real_data: Path) -> None:
    import rasterio

    with rasterio.open(real_data / "spacenet6_optical_sar_vhr" / "sar_masked.tif") as dataset:
        stored = dataset.read()
    sensor = get_sensor("capella-x")
    assert sensor.default_encoding == "db"
    assert stored.shape[0] == len(sensor.bands)
    medians_db = np.nanmedian(stored, axis=(1, 2))
    assert np.all((medians_db > -20) & (medians_db < -5)), "land lies there in X band"
    # Cross polarisations are weaker, and the two agree: the order HH, HV, VH, VV is the right one.
    assert np.all(medians_db[[0, 3]] > medians_db[[1, 2]])
    assert abs(medians_db[1] - medians_db[2]) < 0.6
