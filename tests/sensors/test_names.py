"""Names of bands among conventions."""

import pytest

from anyband.errors import CatalogueError
from anyband.sensors.catalogue import find_band, find_bands, get_sensor

_OWN = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
_CONVENTIONS = {
    "pangaea": ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12"),
    "terratorch": (
        *("COASTAL_AEROSOL", "BLUE", "GREEN", "RED", "RED_EDGE_1", "RED_EDGE_2", "RED_EDGE_3", "NIR_BROAD"),
        *("NIR_NARROW", "WATER_VAPOR", "CIRRUS", "SWIR_1", "SWIR_2"),
    ),
    "stac": (
        *("coastal", "blue", "green", "red", "rededge1", "rededge2", "rededge3", "nir", "nir08", "nir09"),
        *("cirrus", "swir16", "swir22"),
    ),
    "geobench": (
        *("01 - Coastal aerosol", "02 - Blue", "03 - Green", "04 - Red", "05 - Vegetation Red Edge"),
        *("06 - Vegetation Red Edge", "07 - Vegetation Red Edge", "08 - NIR", "08A - Vegetation Red Edge"),
        *("09 - Water vapour", "10 - SWIR - Cirrus", "11 - SWIR", "12 - SWIR"),
    ),
}


@pytest.mark.parametrize("convention", _CONVENTIONS)
def test_the_names_of_a_convention_are_understood(convention: str) -> None:
    assert find_bands(_CONVENTIONS[convention], get_sensor("sentinel2-l1c")).band_names == _OWN


@pytest.mark.parametrize(
    ("sensor", "name", "band"),
    [
        ("sentinel1-grd", "ASC_VV", "VV"),
        ("sentinel1-grd", "S1GRD.VH", "VH"),
        ("sentinel2-l2a", "S2L2A.NIR_NARROW", "B8A"),
        ("sentinel2-l2a", "anything.blue", "B02"),
        ("landsat8-oli-tirs-l1", "THERMAL_INFRARED_1", "B10"),
        ("landsat8-oli-tirs-l2", "SWIR_1", "SR_B6"),
        ("hls-l30", "NIR_NARROW", "B05"),
        ("hls-s30", "nir08", "B8A"),
        ("maxar-rgb", "RED", "R"),
    ],
)
def test_names_with_and_without_prefix_are_understood(sensor: str, name: str, band: str) -> None:
    assert find_band(name, get_sensor(sensor)).name == band


def test_a_prefix_that_names_another_sensor_is_refused() -> None:
    with pytest.raises(CatalogueError, match=r"'S1GRD.VV' is a band of sensor 'sentinel1-grd', but 'sentinel2-l2a'"):
        find_band("S1GRD.VV", get_sensor("sentinel2-l2a"))


def test_bands_are_chosen_in_mixed_conventions() -> None:
    assert find_bands(["BLUE", "B3", "04 - Red"], get_sensor("sentinel2-l2a")).band_names == (
        "B02",
        "B03",
        "B04",
    )


def test_a_band_named_twice_is_refused() -> None:
    with pytest.raises(CatalogueError, match="names band 'B02' twice"):
        find_bands(["BLUE", "B2"], get_sensor("sentinel2-l2a"))
