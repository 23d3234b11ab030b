"""The reader on real images: every format and layout of the kit."""

import datetime as dt
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from anyband.data.harmonise import picture
from anyband.rasters.grid import Window
from anyband.rasters.reader import Raster, RasterReader, RasterSource, open_raster
from anyband.sensors.catalogue import get_sensor
from anyband.sensors.sensor import Sensor

pytestmark = pytest.mark.real

_CEREAL = "worldcereal_s1_s2_l8_timeseries/00002806639B424A"


def _read(source: RasterSource, sensor: Sensor) -> Raster:
    with open_raster(source, sensor) as reader:
        return reader.read()


def _only(folder: Path, pattern: str) -> Path:
    return sorted(folder.glob(pattern))[0]


def _check_windows(reader: RasterReader, window: Window) -> None:
    whole, part = reader.read(), reader.read(window)
    np.testing.assert_array_equal(part.valid, whole.valid[:, *window.slices])
    np.testing.assert_array_equal(part.dn[part.valid], whole.dn[:, *window.slices][part.valid])


@pytest.mark.parametrize(("folder", "sensor"), [("s2c", "sentinel2-l1c"), ("s2a", "sentinel2-l2a")])
def test_ssl4eo_folders_come_on_the_ten_metre_grid(real_data: Path, folder: str, sensor: str) -> None:
    path = _only(real_data / "ssl4eo_s12_multidate" / folder / "0000200", "*20200604*")
    with open_raster(RasterSource(paths=(path,)), get_sensor(sensor)) as reader:
        assert (reader.grid.height, reader.grid.width, reader.grid.crs) == (264, 264, "EPSG:4326")
        assert reader.grid.gsd_m == pytest.approx(9.746, abs=1e-3)
        raster = reader.read()
        _check_windows(reader, Window(row=100, col=200, height=64, width=64))
    finest = raster.valid[reader.band_names.index("B02")]
    assert finest.all()
    # The 60 m grid begins 2.5 fine pixels before and so ends before the 10 m grid does.
    coarsest = raster.valid[reader.band_names.index("B09")]
    assert coarsest[:261, :261].all()
    assert not coarsest[:, 262:].any()


@pytest.mark.parametrize("place", ["0_45", "26_57"])
def test_bigearthnet_pairs_are_read_from_one_folder(real_data: Path, place: str) -> None:
    path = _only(real_data / "bigearthnet_mm_pairs", f"S2A*_{place}")
    optical = _read(RasterSource(paths=(path,)), get_sensor("sentinel2-l2a"))
    radar = _read(RasterSource(paths=(path,)), get_sensor("sentinel1-grd"))
    assert optical.grid.crs is None
    assert optical.dn.shape == (12, 120, 120)
    assert radar.dn.shape == (2, 120, 120)
    assert -40 < radar.dn.mean() < 0
    assert optical.grid.gsd_m == 10.0


def test_resampled_bands_agree_with_torch(real_data: Path) -> None:
    # The kit carries the same patch as arrays, each band at its own resolution.
    path = _only(real_data / "bigearthnet_mm_pairs", "S2A*_26_57")
    recorded = np.load(path / "all_bands.npz")
    sensor = get_sensor("sentinel2-l2a")
    raster = _read(RasterSource(paths=(path,)), sensor)
    for index, name in enumerate(sensor.band_names):
        native = torch.from_numpy(recorded[name].astype(np.float64))[None, None]
        expected = torch.nn.functional.interpolate(native, (120, 120), mode="bilinear", align_corners=False)
        # Whole numbers: halves may fall to either side.
        np.testing.assert_allclose(raster.dn[index], expected[0, 0].numpy(), atol=0.501)


@pytest.mark.parametrize(
    ("folder", "sensor", "count"),
    [("s1", "sentinel1-grd", 2), ("s2_cloudfree", "sentinel2-l1c", 13), ("s2_cloudy", "sentinel2-l1c", 13)],
)
def test_sen12mscr_is_read_by_order(real_data: Path, folder: str, sensor: str, count: int) -> None:
    path = _only(real_data / "sen12mscr" / folder, "*.tif")
    with open_raster(RasterSource(paths=(path,)), get_sensor(sensor)) as reader:
        raster = reader.read()
        _check_windows(reader, Window(row=10, col=20, height=100, width=60))
    assert raster.dn.shape == (count, 256, 256)
    assert raster.grid.gsd_m == 10.0
    assert raster.valid.mean() > 0.99


def test_sen1floods11_masks_by_its_labels(real_data: Path) -> None:
    kit = real_data / "sen1floods11_spain"
    labels = _only(kit / "Labels", "*.tif")
    source = RasterSource(paths=(_only(kit / "S2", "*.tif"),), valid_paths=(labels,), valid_values=(0.0, 1.0))
    raster = _read(source, get_sensor("sentinel2-l1c"))
    with rasterio.open(labels) as file:
        unknown = file.read(1) == -1
    assert unknown.sum() == 99
    assert not raster.valid[:, unknown].any()
    assert raster.valid[:, ~unknown].mean() > 0.99


def test_landsat_comes_on_the_panchromatic_grid(real_data: Path) -> None:
    folder = real_data / "landsat8_11band_30m"
    with open_raster(RasterSource(paths=(folder,)), get_sensor("landsat8-oli-tirs-l1")) as reader:
        assert (reader.grid.height, reader.grid.width, reader.grid.gsd_m) == (1207, 1254, 15.0)
        raster = reader.read(Window(row=0, col=0, height=101, width=101))
    with rasterio.open(folder / "l8_B4.tif") as file:
        red = file.read(1).astype(float)
    # The centre of fine pixel (1, 1) is that of coarse pixel (0, 0): the grids start half a fine pixel apart.
    index = raster.dn[reader.band_names.index("B4")]
    np.testing.assert_array_equal(index[1:101:2, 1:101:2], red[:50, :50])
    np.testing.assert_array_equal(index[1:101:2, 2:100:2], np.rint((red[:50, :49] + red[:50, 1:50]) / 2))


def test_landsat_without_its_panchromatic_band_stays_at_thirty_metres(real_data: Path) -> None:
    sensor = get_sensor("landsat8-oli-tirs-l1").select(["B2", "B3", "B4", "B10"])
    raster = _read(RasterSource(paths=(real_data / "landsat8_11band_30m",)), sensor)
    assert raster.dn.shape == (4, 603, 627)
    assert raster.grid.gsd_m == 30.0


def test_taizhou_envi_files_are_read_with_declared_bands(real_data: Path) -> None:
    names = ("B1", "B2", "B3", "B4", "B5", "B7")
    source = RasterSource(
        paths=(real_data / "landsat_tm_cd/Taizhou/2000TM",),
        bands=tuple((name, str(number)) for number, name in enumerate(names, start=1)),
    )
    with open_raster(source, get_sensor("landsat7-etm-l1")) as reader:
        assert reader.band_names == names
        raster = reader.read()
        _check_windows(reader, Window(row=10, col=20, height=100, width=60))
    assert raster.grid.crs == "EPSG:32651"
    assert raster.grid.gsd_m == 30.0
    assert raster.dn.dtype == np.uint8


def test_uc_merced_jpegs_are_read_without_a_place(real_data: Path) -> None:
    raster = _read(RasterSource(paths=(_only(real_data / "ucmerced_jpg/beach", "*.jpg"),)), get_sensor("rgb"))
    assert raster.dn.shape == (3, 256, 256)
    assert raster.grid.crs is None
    assert raster.valid.all()


def test_web_mercator_images_have_their_pixel_on_the_ground(real_data: Path) -> None:
    raster = _read(RasterSource(paths=(real_data / "rsvqa_lr_rgb_geotiff/180.tif",)), get_sensor("rgb"))
    assert raster.grid.crs == "EPSG:3857"
    assert raster.grid.gsd_m == pytest.approx(10.0, abs=0.1)


def test_majortom_scene_is_valid_where_its_cloud_mask_is_clear(real_data: Path) -> None:
    folder = _only(real_data / "majortom_s2l2a_scene/199U/199U_1099R", "S2B*")
    # 0 is clear; 1, 2, 3 are thick cloud, thin cloud and shadow.
    source = RasterSource(paths=(folder,), valid_paths=(folder / "cloud_mask.tif",), valid_values=(0.0,))
    with open_raster(source, get_sensor("sentinel2-l2a")) as reader:
        assert (reader.grid.height, reader.grid.gsd_m) == (1068, 10.0)
        raster = reader.read(Window(row=500, col=500, height=128, width=128))
    assert raster.valid.all()


def test_spacenet_radar_is_missing_outside_its_swath(real_data: Path) -> None:
    path = real_data / "spacenet6_optical_sar_vhr/sar_masked.tif"
    bands = tuple((name, str(number)) for number, name in enumerate(("HH", "HV", "VH", "VV"), start=1))
    raster = _read(RasterSource(paths=(path,), bands=bands), get_sensor("capella-x"))
    assert raster.grid.gsd_m == pytest.approx(4.4997, abs=1e-4)
    assert 0.39 < (~raster.valid).mean() < 0.40
    assert -30 < raster.dn[raster.valid].mean() < 0


def test_naip_keeps_the_nodata_of_its_file(real_data: Path) -> None:
    path = _only(real_data / "naip_10dates_5m", "*2014*.tif")
    with open_raster(RasterSource(paths=(path,)), get_sensor("naip")) as reader:
        assert reader.nodata == 0
        raster = reader.read()
    np.testing.assert_array_equal(raster.valid, raster.dn != 0)
    assert raster.grid.gsd_m == 5.0


def test_worldcereal_optical_files_are_joined(real_data: Path) -> None:
    folder = real_data / _CEREAL
    paths = (_only(folder, "S2_L2A_10m*"), _only(folder, "S2_L2A_20m*"))
    names = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
    source = RasterSource(paths=paths, bands=tuple((name, "") for name in names), time_index=20)
    with open_raster(source, get_sensor("sentinel2-l2a")) as reader:
        assert reader.datetime == dt.datetime(2017, 12, 2, 10, 54, 15, tzinfo=dt.UTC)
        raster = reader.read()
        _check_windows(reader, Window(row=10, col=20, height=30, width=30))
    assert raster.dn.shape == (10, 64, 64)
    assert raster.grid.crs == "EPSG:32631"
    assert raster.grid.transform == (10.0, 0.0, 501360.0, 0.0, -10.0, 5629680.0)


def test_worldcereal_radar_is_stored_as_whole_numbers_of_decibels(real_data: Path) -> None:
    source = RasterSource(paths=(_only(real_data / _CEREAL, "S1_GRD*"),), time_index=20)
    raster = _read(source, get_sensor("sentinel1-grd"))
    assert (raster.dn.dtype, raster.dn.shape, raster.grid.gsd_m) == (np.int32, (2, 32, 32), 20.0)
    assert -30 < raster.dn.mean() * 1e-4 < 0


def test_worldcereal_thermal_is_found_by_its_day(real_data: Path) -> None:
    day = dt.datetime(2017, 8, 15, tzinfo=dt.UTC)
    source = RasterSource(paths=(_only(real_data / _CEREAL, "L8_L2-ST*"),), bands=(("B10", "ST-B10"),), time=day)
    with open_raster(source, get_sensor("landsat8-oli-tirs-l1")) as reader:
        assert reader.datetime == day


def test_worldcereal_composites_have_gaps_of_65535(real_data: Path) -> None:
    path = _only(real_data / "worldcereal_monthly_s1_s2", "*.nc")
    names = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B11", "B12")
    bands = tuple((name, f"S2-L2A-{name}") for name in names)
    shares = []
    for month in (0, 1):
        source = RasterSource(paths=(path,), bands=bands, time_index=month, nodata=65535.0)
        shares.append(_read(source, get_sensor("sentinel2-l2a")).valid.mean())
    assert shares == [1.0, 0.0]


def test_a_picture_of_a_real_scene_uses_the_whole_range(real_data: Path) -> None:
    path = _only(real_data / "bigearthnet_mm_pairs", "S2A*_26_57")
    sensor = get_sensor("sentinel2-l2a")
    raster = _read(RasterSource(paths=(path,)), sensor)
    drawn = picture(raster.dn.astype(np.float32), sensor, valid=raster.valid)
    assert drawn.shape == (120, 120, 3)
    assert 0.2 < drawn.mean() < 0.8
