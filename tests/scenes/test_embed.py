"""Features of whole scenes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.transform import Affine

from anyband.cli import main
from anyband.encode.encoder import SensorEncoder, load_encoder
from anyband.errors import CatalogueError, GeometryError, InputError, OutputError, RasterError
from anyband.rasters.grid import IDENTITY, Grid, Window
from anyband.rasters.reader import Raster, RasterReader, RasterSource
from anyband.rasters.writer import write_geotiff
from anyband.scenes import embed, outputs
from anyband.scenes.embed import EmbedReport, embed_scene, scene_statistics
from anyband.sensors.catalogue import get_sensor

_SENSOR = get_sensor("sentinel2-l2a").select(["B02", "B03", "B04", "B08"])
_UTM = (10.0, 0.0, 399960.0, 0.0, -10.0, 5700000.0)


@pytest.fixture(scope="module")
def encoder(golden: Path) -> SensorEncoder:
    return load_encoder(golden / "smarties" / "checkpoint.safetensors")


def _pixels(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    smooth = np.cumsum(np.cumsum(draw.normal(size=(4, height, width)), axis=1), axis=2)
    return (1500 + 40 * smooth).clip(1, 9000).astype(np.uint16)


def _scene(
    folder: Path, pixels: np.ndarray, *, crs: str | None = "EPSG:32632", transform: tuple[float, ...] = _UTM
) -> RasterSource:
    grid = Grid(
        height=pixels.shape[1],
        width=pixels.shape[2],
        transform=transform,  # type: ignore[arg-type]
        crs=crs,
        gsd_m=10.0,
    )
    write_geotiff(folder / "scene.tif", pixels, grid=grid, descriptions=_SENSOR.band_names, nodata=0.0)
    return RasterSource(paths=(folder / "scene.tif",))


def _embedded(
    encoder: SensorEncoder, folder: Path, pixels: np.ndarray, **options: Any
) -> tuple[np.ndarray, EmbedReport]:
    report = embed_scene(encoder, _scene(folder, pixels), _SENSOR, folder / "f.tif", **options)
    with rasterio.open(report.features) as file:
        return file.read(), report


def test_a_scene_of_the_networks_size_gets_the_features_of_encode(encoder: SensorEncoder, tmp_path: Path) -> None:
    pixels = _pixels(64, 64)
    written, _ = _embedded(encoder, tmp_path, pixels, halo=64)
    expected = encoder.encode(pixels, sensor=_SENSOR).map.numpy()
    assert np.allclose(written, expected, atol=1e-5)


def test_features_do_not_depend_on_tiles_where_the_halo_covers_the_scene(
    encoder: SensorEncoder, tmp_path: Path
) -> None:
    pixels = _pixels(80, 112)
    layouts = [(16, 112), (48, 112), (112, 0), (32, 128)]
    results = [_embedded(encoder, tmp_path, pixels, tile=tile, halo=halo)[0] for tile, halo in layouts]
    for other in results[1:]:
        assert np.allclose(other, results[0], atol=1e-5)


def test_each_patch_has_the_features_of_the_view_around_its_core(encoder: SensorEncoder, tmp_path: Path) -> None:
    pixels = _pixels(128, 128)
    written, _ = _embedded(encoder, tmp_path, pixels, tile=32, halo=16)
    view = encoder.encode(pixels[:, 16:80, 48:112], sensor=_SENSOR).map.numpy()
    assert np.allclose(written[:, 2:4, 4:6], view[:, 1:3, 1:3], atol=1e-5)


def test_blocks_do_not_change_the_features_where_cores_fit_them(
    encoder: SensorEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = _pixels(128, 96)
    whole, _ = _embedded(encoder, tmp_path, pixels)
    monkeypatch.setattr(embed, "BLOCK_PATCHES", 4)
    assert np.allclose(_embedded(encoder, tmp_path, pixels)[0], whole, atol=1e-5)


def test_the_patch_grid_is_exactly_placed(encoder: SensorEncoder, tmp_path: Path) -> None:
    _, report = _embedded(encoder, tmp_path, _pixels(70, 90))
    with rasterio.open(report.features) as file:
        assert (file.height, file.width, file.count) == (5, 6, 64)
        assert file.transform == Affine(160.0, 0.0, 399960.0, 0.0, -160.0, 5700000.0)
        assert file.crs.to_epsg() == 32632
        assert set(file.dtypes) == {"float32"}
        assert np.isnan(file.nodata)
        tags = file.tags()
    assert tags["ANYBAND_SENSOR"] == "sentinel2-l2a"
    assert json.loads(tags["ANYBAND_BANDS"]) == list(_SENSOR.band_names)


def test_patches_over_the_edge_count_what_is_outside_as_missing(encoder: SensorEncoder, tmp_path: Path) -> None:
    # 72 leaves half a patch, which is enough; 70 leaves 6 of 16 rows, which is not.
    written, report = _embedded(encoder, tmp_path, _pixels(72, 70))
    assert np.isfinite(written[:, 4, :4]).all()
    assert np.isnan(written[:, :, 4]).all()
    assert report.num_missing == 5


def test_nodata_stays_nodata_and_does_not_disturb_the_rest(encoder: SensorEncoder, tmp_path: Path) -> None:
    pixels = _pixels(64, 64)
    pixels[:, :32, :32] = 0
    written, report = _embedded(encoder, tmp_path, pixels)
    missing = np.isnan(written).all(axis=0)
    assert missing[:2, :2].all()
    assert int(missing.sum()) == report.num_missing == 4


def test_views_without_data_are_not_encoded(encoder: SensorEncoder, tmp_path: Path) -> None:
    pixels = _pixels(64, 256)
    pixels[:, :, 128:] = 0
    written, _ = _embedded(encoder, tmp_path, pixels)
    assert np.isfinite(written[:, :, :8]).all()
    assert np.isnan(written[:, :, 8:]).all()


def test_memory_is_bounded_by_blocks_and_batches(
    encoder: SensorEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    original = RasterReader.read

    def counted(reader: RasterReader, window: Window) -> Raster:
        raster = original(reader, window)
        read.append(raster.dn.nbytes)
        return raster

    monkeypatch.setattr(RasterReader, "read", counted)
    _embedded(encoder, tmp_path, _pixels(320, 320))
    assert max(read) == 4 * 64 * 64 * 2
    assert len(read) == 100


def test_the_picture_shows_the_components_of_the_features(encoder: SensorEncoder, tmp_path: Path) -> None:
    pixels = _pixels(160, 128)
    pixels[:, :16, :16] = 0
    _, report = _embedded(encoder, tmp_path, pixels)
    shown = np.asarray(Image.open(report.picture))
    assert report.picture.name == "f_pca.png"
    assert shown.shape == (510, 408, 4)
    assert shown[0, 0, 3] == 0
    assert np.ptp(shown[60:, :, :3].astype(int), axis=(0, 1)).min() > 200


def test_a_large_map_is_drawn_on_a_lattice(
    encoder: SensorEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = _pixels(160, 112)
    monkeypatch.setattr(outputs, "_ENLARGED_EDGE", 1)
    _, whole = _embedded(encoder, tmp_path, pixels)
    full = np.asarray(Image.open(whole.picture))
    monkeypatch.setattr(outputs, "_PICTURE_EDGE", 4)
    monkeypatch.setattr(embed, "BLOCK_PATCHES", 6)
    monkeypatch.setattr(outputs, "BLOCK_PATCHES", 6)
    _, report = _embedded(encoder, tmp_path, pixels)
    assert (np.asarray(Image.open(report.picture)) == full[::3, ::3]).all()


def test_a_scene_without_a_place_gets_none_and_says_so(encoder: SensorEncoder, tmp_path: Path) -> None:
    source = _scene(tmp_path, _pixels(64, 64), crs=None, transform=IDENTITY)
    report = embed_scene(encoder, source, _SENSOR, tmp_path / "f.tif")
    assert any("has no coordinate system" in note for note in report.notes)
    assert report.grid.crs is None


def test_bf16_is_near_float32(encoder: SensorEncoder, tmp_path: Path) -> None:
    pixels = _pixels(64, 64)
    plain, _ = _embedded(encoder, tmp_path, pixels)
    quick, _ = _embedded(encoder, tmp_path, pixels, precision="bf16")
    flat = [torch.from_numpy(one.reshape(64, -1).copy()) for one in (plain, quick)]
    assert torch.cosine_similarity(*flat, dim=0).min() > 0.995


def test_statistics_of_the_scene_are_those_of_numpy(tmp_path: Path) -> None:
    pixels = _pixels(96, 96)
    found = scene_statistics(_scene(tmp_path, pixels), _SENSOR)["B03"]
    values = pixels[1].ravel() * 1e-4
    p01, p99 = np.percentile(values, [1, 99])
    assert (found.p01, found.p99) == pytest.approx((p01, p99), rel=0.003)
    scaled = (values.clip(p01, p99) - p01) / (p99 - p01)
    assert (found.mean, found.std) == pytest.approx((scaled.mean(), scaled.std()), abs=0.003)


def test_a_sensor_without_statistics_can_take_those_of_the_scene(encoder: SensorEncoder, tmp_path: Path) -> None:
    source = _scene(tmp_path, _pixels(64, 64))
    sensor = get_sensor("spot6-7").select(get_sensor("spot6-7").band_names[:4])
    bands = tuple((name, str(index)) for index, name in enumerate(sensor.band_names, start=1))
    source = RasterSource(paths=source.paths, bands=bands)
    with pytest.raises(CatalogueError, match="no normalisation statistics"):
        embed_scene(encoder, source, sensor, tmp_path / "f.tif")
    report = embed_scene(encoder, source, sensor, tmp_path / "f.tif", statistics="scene")
    assert any("statistics given by the caller" in note for note in report.notes)
    assert report.num_missing == 0


def test_a_scene_without_data_is_refused_and_leaves_the_old_output(encoder: SensorEncoder, tmp_path: Path) -> None:
    (tmp_path / "f.tif").write_text("old")
    with pytest.raises(InputError, match="no patch of the scene has data"):
        _embedded(encoder, tmp_path, np.zeros((4, 64, 64), np.uint16))
    assert (tmp_path / "f.tif").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.tif", "scene.tif"]


def test_a_scene_smaller_than_a_patch_is_refused(encoder: SensorEncoder, tmp_path: Path) -> None:
    with pytest.raises(GeometryError, match="10 × 64 pixels is smaller than one patch"):
        _embedded(encoder, tmp_path, _pixels(10, 64))


def test_a_truncated_scene_is_refused_and_leaves_nothing(encoder: SensorEncoder, tmp_path: Path) -> None:
    source = _scene(tmp_path, np.random.default_rng(0).integers(1, 9000, (4, 512, 512)).astype(np.uint16))
    data = source.paths[0].read_bytes()
    source.paths[0].write_bytes(data[: len(data) // 2])
    with pytest.raises(RasterError):
        embed_scene(encoder, source, _SENSOR, tmp_path / "f.tif")
    assert [path.name for path in tmp_path.iterdir()] == ["scene.tif"]


def test_an_output_that_is_no_geotiff_is_refused(encoder: SensorEncoder, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"must end in \.tif"):
        embed_scene(encoder, _scene(tmp_path, _pixels(64, 64)), _SENSOR, tmp_path / "f.npy")


@pytest.mark.parametrize(("name", "size"), [("tile", 20), ("tile", 0), ("halo", -16), ("halo", 5)])
def test_tiles_that_are_no_whole_patches_are_refused(
    encoder: SensorEncoder, tmp_path: Path, name: str, size: int
) -> None:
    with pytest.raises(InputError, match=f"{name} is {size} pixels; it must be a multiple of the patch size, 16"):
        _embedded(encoder, tmp_path, _pixels(64, 64), **{name: size})


def test_the_verb_embeds_a_scene(golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = _scene(tmp_path, _pixels(64, 96)).paths[0]
    checkpoint = golden / "smarties" / "checkpoint.safetensors"
    words = ["embed", str(scene), "--sensor", "S2_L2A", "--bands", "B02,B03,B04,B08"]
    assert main([*words, "--checkpoint", str(checkpoint), "--out", str(tmp_path / "f.tif")]) == 0
    printed = capsys.readouterr().out
    assert "64 features on 4 × 6 patches of 160 m, 0 without data" in printed
    with rasterio.open(tmp_path / "f.tif") as file:
        assert file.tags()["ANYBAND_CHECKPOINT"].startswith("checkpoint.safetensors sha256:")


def test_the_verb_ends_with_2_and_one_message_where_the_sensor_is_unknown(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = str(golden / "smarties" / "checkpoint.safetensors")
    words = ["embed", str(golden), "--sensor", "sentinel2-l2b", "--checkpoint", checkpoint]
    assert main([*words, "--out", str(tmp_path / "f.tif")]) == 2
    assert "did you mean 'sentinel2-l2a'?" in capsys.readouterr().err


def test_an_output_folder_that_can_not_be_written_is_refused_before_any_work(
    encoder: SensorEncoder, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    source = RasterSource(paths=(tmp_path / "absent.tif",))
    with pytest.raises(OutputError, match="file"):
        embed_scene(encoder, source, _SENSOR, tmp_path / "file" / "f.tif")


def test_a_full_disk_leaves_neither_features_nor_pieces(
    encoder: SensorEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    def full(*_: object, window: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    source = _scene(tmp_path, _pixels(64, 64))
    monkeypatch.setattr("anyband.rasters.formats.QuietWriter.write", full)
    with pytest.raises(OutputError, match="no room on the disk"):
        embed_scene(encoder, source, _SENSOR, tmp_path / "f.tif")
    assert [path.name for path in tmp_path.iterdir()] == ["scene.tif"]


@pytest.mark.real
def test_a_real_scene_is_embedded_with_its_place(encoder: SensorEncoder, real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "majortom_s2l2a_scene"
    sensor = get_sensor("sentinel2-l2a").select(["B02", "B03", "B04", "B08"])
    paths = tuple(next(folder.rglob(f"*{name}*.tif")) for name in sensor.band_names)
    report = embed_scene(encoder, RasterSource(paths=paths), sensor, tmp_path / "f.tif", batch_size=64)
    assert (report.grid.height, report.grid.width, report.grid.crs) == (67, 67, "EPSG:32648")
    assert report.num_missing < 0.1 * 67 * 67
