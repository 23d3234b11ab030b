"""Items of public catalogues, as they stand in public repositories, mapped onto the sensors of ours."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest

from anyband.archive.items import MASKS, ItemBands, is_clear, read_item
from anyband.errors import ArchiveError
from anyband.sensors.catalogue import get_sensor

ITEMS = Path(__file__).with_name("items")
S2_BANDS = get_sensor("s2_l2a").band_names
SR_BANDS = ["SR_B1", "SR_B2", "SR_B3", "SR_B4", "SR_B5", "SR_B6", "SR_B7"]


def load(name: str) -> dict[str, Any]:
    return json.loads((ITEMS / f"{name}.json").read_text())  # type: ignore[no-any-return]


def bands_of(name: str, sensor: str, bands: Any = None, **options: Any) -> ItemBands:
    chosen = get_sensor(sensor)
    return read_item(load(name), chosen.select(bands) if bands else chosen, **options)


# (item, sensor, bands or all, encoding, mask, assets of the first and the last band)
READ = [
    ("earth_search_s2_l2a", "s2_l2a", None, "dn", "SCL", "coastal", "swir22"),
    ("earth_search_s2_c1_l2a", "s2_l2a", None, "baseline_04.00", "SCL", "coastal", "swir22"),
    ("earth_search_s2_l1c", "s2_l1c", None, "baseline_04.00", None, "coastal", "swir22"),
    ("earth_search_v0_s2", "s2_l2a", None, "dn", "SCL", "B01", "B12"),
    ("earth_search_landsat", "landsat8-l2", None, "dn", "QA_PIXEL", "coastal", "lwir11"),
    ("earth_search_v0_s2_offset", "s2_l2a", None, "dn", "SCL", "B01", "B12"),
    ("planetary_s2_l2a", "s2_l2a", None, "baseline_04.00", "SCL", "B01", "B12"),
    ("planetary_s2_l2a_old", "s2_l2a", None, "dn", "SCL", "B01", "B12"),
    ("planetary_landsat8", "landsat8-l2", None, "dn", "QA_PIXEL", "SR_B1", "ST_B10"),
    ("planetary_landsat9", "landsat9-l2", None, "dn", "QA_PIXEL", "coastal", "lwir11"),
    ("planetary_landsat9_sr", "landsat9-l2", SR_BANDS, "dn", "QA_PIXEL", "coastal", "swir22"),
    ("planetary_naip", "naip", None, "dn", None, "image", "image"),
    ("planetary_s1_rtc", "s1_rtc", None, "linear", None, "vv", "vh"),
    ("stactools_s1_rtc_aws", "s1_rtc", None, "linear", None, "gamma0_vv", "gamma0_vh"),
    ("stactools_s2_l2a", "s2_l2a", None, "baseline_04.00", "SCL", "coastal", "swir22"),
    ("stactools_landsat4", "landsat4-tm-l2", None, "dn", "QA_PIXEL", "blue", "lwir"),
    ("usgs_landsat8", "landsat8-l2", SR_BANDS, "dn", "QA_PIXEL", "coastal", "swir22"),
    ("usgs_landsat7", "landsat7-etm-l2", ["SR_B1", "SR_B4", "SR_B7"], "dn", "QA_PIXEL", "blue", "swir22"),
    ("copernicus_s2_l2a", "s2_l2a", ["B01", "B02"], "baseline_04.00", None, "B01_20m", "B02_10m"),
]


@pytest.mark.parametrize(
    ("name", "sensor", "bands", "encoding", "mask", "first", "last"), READ, ids=[one[0] for one in READ]
)
def test_an_item_of_a_public_catalogue_is_read(
    name: str, sensor: str, bands: Any, encoding: str, mask: str | None, first: str, last: str
) -> None:
    found = bands_of(name, sensor, bands)
    assert found.encoding == encoding
    assert (found.mask and found.mask.band) == mask
    assert (found.bands[0].asset, found.bands[-1].asset) == (first, last)
    assert [one.band for one in found.bands] == list(bands or get_sensor(sensor).band_names)


@pytest.mark.parametrize("name", [one[0] for one in READ])
def test_addresses_time_grid_and_cloud_are_those_that_pystac_reads(name: str) -> None:
    sensor, bands = next((one[1], one[2]) for one in READ if one[0] == name)
    found = bands_of(name, sensor, bands)
    theirs = pystac.Item.from_dict(load(name), migrate=False)
    assert found.datetime == theirs.datetime
    for one in found.bands:
        asset = theirs.assets[one.asset]
        assert one.href == asset.href
        said = {**theirs.properties, **asset.extra_fields}
        assert one.crs == (said.get("proj:code") or f"EPSG:{said['proj:epsg']}")
        assert list(one.transform or ()) == said["proj:transform"][:6]
        assert list(one.shape or ()) == said["proj:shape"]
    cloud = theirs.properties.get("eo:cloud_cover")
    assert found.cloud_share == (None if cloud is None else cloud / 100)


def test_several_bands_of_one_file_are_told_by_their_number() -> None:
    found = bands_of("planetary_naip", "naip")
    assert [(one.band, one.index) for one in found.bands] == [("R", 1), ("G", 2), ("B", 3), ("NIR", 4)]


def test_the_finest_file_of_a_band_is_taken_and_no_picture() -> None:
    found = bands_of("stactools_s2_l2a", "s2_l2a")
    assert [one.gsd_m for one in found.bands] == [60, 10, 10, 10, 20, 20, 20, 10, 20, 60, 20, 20]


def test_geotiffs_go_before_jpeg_2000_of_the_same_pixels() -> None:
    assert all(one.href.endswith(".tif") for one in bands_of("earth_search_s2_l2a", "s2_l2a").bands)


def test_scale_and_offset_of_the_item_are_kept() -> None:
    one = bands_of("planetary_landsat9", "landsat9-l2", ["ST_B10"]).bands[0]
    assert (one.scale, one.offset, one.nodata, one.dtype) == (0.00341802, 149.0, 0.0, "uint16")


def test_nodata_that_is_another_than_the_sensors_is_said() -> None:
    assert "no data is 0 as the item says, not -32768" in bands_of("stactools_s1_rtc_aws", "s1_rtc").notes


def test_an_encoding_that_the_item_does_not_say_is_said() -> None:
    assert bands_of("usgs_landsat8", "landsat8-l2", SR_BANDS).notes == (
        "encoding 'dn' is taken: the item says no scale",
    )
    assert bands_of("planetary_landsat9", "landsat9-l2").notes == ()


# Radar.


def test_uncalibrated_amplitudes_are_refused_until_an_encoding_is_declared() -> None:
    with pytest.raises(ArchiveError, match=r"ground range amplitudes that are not calibrated.*declare `encoding`"):
        bands_of("stactools_s1_grd", "s1_grd")
    found = bands_of("stactools_s1_grd", "s1_grd", encoding="amplitude")
    assert [one.asset for one in found.bands] == ["vv", "vh"]
    assert found.bands[0].crs is None
    assert "ground control points" in found.notes[0]


def test_a_polarisation_that_was_not_taken_is_a_missing_band() -> None:
    with pytest.raises(ArchiveError, match=r"has no band 'HV' of sensor 'sentinel1-grd-hh'; it has hh"):
        bands_of("earth_search_s1_grd_hh", "s1_grd_hh", encoding="amplitude")


def test_polarisations_of_the_item_contradict_its_assets() -> None:
    item = load("planetary_s1_rtc")
    item["properties"]["sar:polarizations"] = ["VV"]
    with pytest.raises(ArchiveError, match="was taken in VV, without VH"):
        read_item(item, get_sensor("s1_rtc"))


# The offset of Sentinel-2.


def test_an_offset_that_earth_search_took_out_is_not_taken_out_again() -> None:
    assert load("earth_search_s2_l2a")["assets"]["red"]["raster:bands"][0]["offset"] == -0.1
    assert bands_of("earth_search_s2_l2a", "s2_l2a").encoding == "dn"


def test_a_flag_that_is_known_to_be_wrong_at_times_needs_a_declared_encoding() -> None:
    item = load("earth_search_s2_l2a")
    item["properties"]["earthsearch:boa_offset_applied"] = False
    with pytest.raises(ArchiveError, match=r"that is not so of all such items: look at dark pixels and declare"):
        read_item(item, get_sensor("s2_l2a"))
    for encoding in ("dn", "baseline_04.00"):
        assert read_item(item, get_sensor("s2_l2a"), encoding).encoding == encoding


def test_an_item_that_says_nothing_of_its_baseline_is_refused() -> None:
    item = load("planetary_s2_l2a")
    item["id"] = "unnamed"
    for key in ("s2:processing_baseline", "s2:product_uri"):
        item["properties"].pop(key)
    with pytest.raises(ArchiveError, match=r"neither scale and offset nor processing baseline.*dn, baseline_04.00"):
        read_item(item, get_sensor("s2_l2a"))


def test_a_baseline_that_contradicts_the_offset_is_refused() -> None:
    item = load("earth_search_s2_c1_l2a")
    item["properties"]["s2:processing_baseline"] = "02.14"
    with pytest.raises(
        ArchiveError, match=r"contradicts itself: its processing baseline 02.14 and its scale and offset"
    ):
        read_item(item, get_sensor("s2_l2a"))


# Contradictions.


def test_a_declared_encoding_that_the_scale_contradicts_is_refused() -> None:
    with pytest.raises(
        ArchiveError, match=r"band 'B01' is DN · 0.0001 − 0.1, but sensor 'sentinel2-l2a' has DN · 0.0001 as 'dn'"
    ):
        bands_of("earth_search_s2_c1_l2a", "s2_l2a", encoding="dn")


def test_a_scale_of_no_encoding_is_refused() -> None:
    item = load("planetary_landsat9")
    item["assets"]["red"]["raster:bands"][0]["scale"] = 1e-4
    with pytest.raises(ArchiveError, match=r"band 'SR_B4' is DN · 0.0001 − 0.2, but sensor .* has no encoding of it"):
        read_item(item, get_sensor("landsat9-l2"))


def test_a_wavelength_outside_the_band_is_refused() -> None:
    item = load("planetary_s2_l2a")
    item["assets"]["B04"]["eo:bands"][0]["center_wavelength"] = 0.56
    with pytest.raises(
        ArchiveError, match=r"'B04' is centred at 560 nm, but band 'B04' reaches from 649.1 to 680.1 nm"
    ):
        read_item(item, get_sensor("s2_l2a"))


def test_names_that_mean_two_bands_are_refused() -> None:
    item = load("planetary_s2_l2a")
    item["assets"]["B04"]["eo:bands"][0]["common_name"] = "green"
    with pytest.raises(
        ArchiveError, match=r"contradict each other .* its band 'B04' means B04, its common name 'green' means B03"
    ):
        read_item(item, get_sensor("s2_l2a"))


def test_a_missing_band_is_named_with_what_there_is() -> None:
    item = load("planetary_s2_l2a")
    del item["assets"]["B05"]
    with pytest.raises(ArchiveError, match=r"has no band 'B05' of sensor 'sentinel2-l2a'; it has AOT, B01, B02"):
        read_item(item, get_sensor("s2_l2a"))


def test_a_band_in_two_files_alike_is_asked_for() -> None:
    item = load("planetary_s1_rtc")
    item["assets"]["VV_copy"] = copy.deepcopy(item["assets"]["vv"]) | {"eo:bands": [{"name": "VV"}]}
    with pytest.raises(ArchiveError, match=r"band 'VV' in asset 'vv' and in 'VV_copy'; say which"):
        read_item(item, get_sensor("s1_rtc"))
    assert read_item(item, get_sensor("s1_rtc"), assets={"VV": "VV_copy"}).bands[0].asset == "VV_copy"


def test_assets_are_named_where_names_do_not_tell() -> None:
    item = load("planetary_naip")
    item["assets"]["image"].pop("eo:bands")
    with pytest.raises(ArchiveError, match="has no band 'R'"):
        read_item(item, get_sensor("naip"))
    with pytest.raises(ArchiveError, match=r"no asset 'imag' with a band 1.*did you mean 'image'"):
        read_item(item, get_sensor("naip").select("R"), assets={"R": "imag"})


@pytest.mark.parametrize("code", ["EPSG:32632", "EPSG:32747"], ids=["next zone", "other half"])
def test_a_coordinate_system_of_another_place_is_refused(code: str) -> None:
    item = load("planetary_s2_l2a")
    item["properties"].pop("proj:epsg")
    item["properties"]["proj:code"] = code
    with pytest.raises(ArchiveError, match=rf"lies by its coordinate system '{code}' .* away from the outline"):
        read_item(item, get_sensor("s2_l2a"))


def test_a_coordinate_system_that_there_is_not_is_refused() -> None:
    item = load("planetary_s2_l2a")
    item["properties"]["proj:epsg"] = 99999
    with pytest.raises(ArchiveError, match="coordinate system 'EPSG:99999', which there is not"):
        read_item(item, get_sensor("s2_l2a"))


# HLS, whose item is made: assets and names as in NASA's product guide, on the grid of a tile that there is.


def test_a_made_item_of_hls_is_read() -> None:
    item = load("planetary_s2_l2a") | {"id": "HLS.S30.T47XML", "collection": "hls2-s30"}
    grid = {"proj:shape": [3660, 3660], "proj:transform": [30.0, 0.0, 399960.0, 0.0, -30.0, 9100020.0]}
    bands = get_sensor("hls-s30").band_names
    item["assets"] = {
        name: {"href": f"https://example.com/HLS.S30.T47XML.{name}.tif", "type": "image/tiff", **grid}
        for name in (*bands, "Fmask", "SZA")
    }
    found = read_item(item, get_sensor("hls-s30"))
    assert [one.asset for one in found.bands] == list(bands)
    assert found.mask is not None
    assert (found.mask.band, found.mask.asset, found.encoding) == ("Fmask", "Fmask", "dn")


# Masks.


def test_classes_of_scl_that_show_ground() -> None:
    assert is_clear("SCL", np.arange(12, dtype=np.uint8)).nonzero()[0].tolist() == [4, 5, 6, 7, 11]


def test_bits_of_qa_pixel_that_hide_ground() -> None:
    # Values that USGS lists for Landsat 8: fill, clear land, water, cloud shadow, cloud, cirrus.
    values = np.array([1, 21824, 21952, 23888, 22280, 54596], dtype=np.uint16)
    assert is_clear("QA_PIXEL", values).tolist() == [False, True, True, False, False, False]


def test_bits_of_fmask_that_hide_ground() -> None:
    values = np.array([0b0, 0b10, 0b100, 0b1000, 0b10000, 0b100000, 0b11000000, 255], dtype=np.uint8)
    assert is_clear("Fmask", values).tolist() == [True, False, False, False, True, True, True, False]


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_keeps_its_shape(name: str) -> None:
    assert is_clear(name, np.zeros((2, 3), dtype=np.uint16)).shape == (2, 3)


def test_no_data_that_is_no_number_is_read() -> None:
    item = load("planetary_s1_rtc")
    for key in ("vv", "vh"):
        item["assets"][key]["raster:bands"][0]["nodata"] = "nan"
    assert all(math.isnan(one.nodata or 0.0) for one in read_item(item, get_sensor("s1_rtc")).bands)
