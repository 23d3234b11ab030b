"""Features of the ground that several images of one place show."""

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from anyband.cli import main
from anyband.data.manifest import ImageEntry, parse_entry, read_manifest
from anyband.data.places import corners_lonlat
from anyband.encode import encoder as memory
from anyband.encode.encoder import EncodeOptions, SensorEncoder, SetImage, load_encoder
from anyband.errors import GeometryError, InputError, OutputError
from anyband.models.checkpoint import Checkpoint
from anyband.rasters.formats import QuietReader, QuietWriter
from anyband.rasters.grid import IDENTITY, Grid
from anyband.rasters.reader import RasterSource
from anyband.rasters.writer import write_geotiff
from anyband.scenes.embed import embed_scene, embed_set, named_set_statistics
from anyband.sensors.catalogue import get_sensor

_S2 = get_sensor("sentinel2-l2a").select(["B02", "B03", "B04", "B08"])
_S1 = get_sensor("sentinel1-grd").select(["VV", "VH"])
_EAST, _NORTH = 399960.0, 5700000.0


@pytest.fixture(scope="module")
def encoder(golden: Path) -> SensorEncoder:
    """64 px images, 16 px patches, no encodings."""
    return load_encoder(golden / "smarties" / "checkpoint.safetensors")


@pytest.fixture(scope="module")
def informed(set_checkpoint: Checkpoint) -> SensorEncoder:
    """32 px images, 8 px patches, all encodings."""
    return SensorEncoder(set_checkpoint).eval()


def _optical(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 6000, (4, height, width)).astype(np.uint16)


def _radar(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(-12, 3, (2, height, width)).astype(np.float32)


def _image(
    folder: Path,
    name: str,
    pixels: np.ndarray,
    *,
    gsd_m: float = 10.0,
    east_m: float = 0.0,
    crs: str | None = "EPSG:32632",
    **columns: object,
) -> ImageEntry:
    sensor = _S2 if pixels.dtype == np.uint16 else _S1
    grid = Grid(
        height=pixels.shape[1],
        width=pixels.shape[2],
        transform=(gsd_m, 0.0, _EAST + east_m, 0.0, -gsd_m, _NORTH) if crs else IDENTITY,
        crs=crs,
        gsd_m=gsd_m,
    )
    write_geotiff(folder / name, pixels, grid=grid, descriptions=sensor.band_names, nodata=0.0)
    row = {"path": name, "sensor": sensor.name, "bands": ";".join(sensor.band_names), **columns}
    return parse_entry(row, folder=folder)


def _embedded(encoder: SensorEncoder, folder: Path, entries: Sequence[ImageEntry], **options: Any) -> np.ndarray:
    report = embed_set(encoder, entries, folder / "f.tif", **options)
    with rasterio.open(report.features) as file:
        return np.asarray(file.read())


def test_a_set_of_one_image_gets_the_features_of_the_scene(encoder: SensorEncoder, tmp_path: Path) -> None:
    pixels = _optical(112, 96)
    pixels[:, :20, :20] = 0
    entry = _image(tmp_path, "a.tif", pixels)
    found = _embedded(encoder, tmp_path, [entry])
    report = embed_scene(encoder, RasterSource(paths=(tmp_path / "a.tif",)), _S2, tmp_path / "alone.tif")
    with rasterio.open(report.features) as file:
        assert np.allclose(found, file.read(), atol=1e-5, equal_nan=True)


def test_a_patch_has_the_mean_over_the_images_that_show_it(encoder: SensorEncoder, tmp_path: Path) -> None:
    first, second = _optical(64, 64), _optical(64, 64, seed=1)
    second[:, :32] = 0
    entries = [_image(tmp_path, "a.tif", first), _image(tmp_path, "b.tif", second)]
    found = _embedded(encoder, tmp_path, entries, halo=64)
    images = [SetImage(array=first, sensor=_S2), SetImage(array=second, sensor=_S2, valid=second > 0)]
    maps = [one.map.numpy() for one in encoder.encode_set(images).images]
    assert np.allclose(found[:, :2], maps[0][:, :2], atol=1e-5)
    assert np.allclose(found[:, 2:], (maps[0] + maps[1])[:, 2:] / 2, atol=1e-5)


def test_images_that_do_not_reach_a_view_are_left_out_of_its_set(encoder: SensorEncoder, tmp_path: Path) -> None:
    pixels = _optical(64, 128)
    entries = [_image(tmp_path, "a.tif", pixels), _image(tmp_path, "b.tif", _optical(64, 64, seed=1))]
    found = _embedded(encoder, tmp_path, entries, tile=64, halo=0)
    alone = encoder.encode(pixels[:, :, 64:], sensor=_S2).map.numpy()
    assert np.allclose(found[:, :, 4:], alone, atol=1e-5)
    assert not np.allclose(found[:, :, :4], encoder.encode(pixels[:, :, :64], sensor=_S2).map.numpy(), atol=1e-3)


def test_each_image_is_seen_at_its_own_resolution(encoder: SensorEncoder, tmp_path: Path) -> None:
    pixels, coarse, fine = _optical(64, 64), _radar(32, 32), _optical(128, 128, seed=2)
    entries = [
        _image(tmp_path, "a.tif", pixels),
        _image(tmp_path, "b.tif", coarse, gsd_m=20.0),
        _image(tmp_path, "c.tif", fine, gsd_m=5.0),
    ]
    found = _embedded(encoder, tmp_path, entries, halo=64)
    images = [SetImage(array=one, sensor=sensor) for one, sensor in ((pixels, _S2), (coarse, _S1), (fine, _S2))]
    features = encoder.encode_set(images, options=EncodeOptions(img_size=64))
    expected = np.mean([one.map.numpy() for one in features.images], axis=0)
    assert np.allclose(found, expected, atol=1e-5)


def test_place_resolution_and_date_of_each_window_are_told(informed: SensorEncoder, tmp_path: Path) -> None:
    pixels, coarse = _optical(32, 64), _radar(16, 32)
    entries = [
        _image(tmp_path, "a.tif", pixels, datetime="2020-06-01"),
        _image(tmp_path, "b.tif", coarse, gsd_m=20.0, datetime="2020-01-03"),
    ]
    found = _embedded(informed, tmp_path, entries, tile=32, halo=0)
    for col in (0, 32):
        corners = corners_lonlat((10.0, 0.0, _EAST + 10 * col, 0.0, -10.0, _NORTH), 32, 32, "EPSG:32632")
        images = [
            SetImage(array=one, sensor=sensor, corners_deg=corners, gsd_m=gsd_m, datetime=dt.datetime(2020, month, day))
            for one, sensor, gsd_m, month, day in (
                (pixels[:, :, col : col + 32], _S2, 10.0, 6, 1),
                (coarse[:, :, col // 2 : col // 2 + 16], _S1, 20.0, 1, 3),
            )
        ]
        features = informed.encode_set(images, options=EncodeOptions(img_size=32))
        expected = np.mean([one.map.numpy() for one in features.images], axis=0)
        assert np.allclose(found[:, :, col // 8 : col // 8 + 4], expected, atol=1e-4)


def test_a_patch_that_only_another_image_shows_has_features(encoder: SensorEncoder, tmp_path: Path) -> None:
    first = _optical(64, 64)
    first[:, :, 32:] = 0
    entries = [_image(tmp_path, "a.tif", first), _image(tmp_path, "b.tif", _radar(64, 64))]
    assert np.isfinite(_embedded(encoder, tmp_path, entries)).all()


def test_narrow_scenes_and_shifted_images_are_covered(encoder: SensorEncoder, tmp_path: Path) -> None:
    entries = [
        _image(tmp_path, "a.tif", _optical(40, 150)),
        _image(tmp_path, "b.tif", _radar(30, 50, seed=1), gsd_m=20.0, east_m=333.0),
    ]
    found = _embedded(encoder, tmp_path, entries)
    # The last column has 6 of its 16 columns of pixels, and the second image ends before it.
    assert found.shape == (64, 3, 10)
    assert np.isfinite(found[:, :, :9]).all()
    assert np.isnan(found[:, :, 9]).all()


def test_the_size_of_batches_changes_nothing(encoder: SensorEncoder, tmp_path: Path) -> None:
    entries = [_image(tmp_path, "a.tif", _optical(96, 128)), _image(tmp_path, "b.tif", _optical(96, 60, seed=1))]
    one, many = (_embedded(encoder, tmp_path, entries, batch_size=size) for size in (1, 64))
    assert np.allclose(one, many, atol=1e-5)


def test_a_scale_that_the_list_declares_is_used(encoder: SensorEncoder, tmp_path: Path) -> None:
    pixels = _optical(64, 64)
    plain = _embedded(encoder, tmp_path, [_image(tmp_path, "a.tif", pixels)])
    double = _embedded(encoder, tmp_path, [_image(tmp_path, "b.tif", pixels * 2, scale=5e-5)])
    assert np.allclose(plain, double, atol=1e-4)


def test_statistics_are_counted_for_each_sensor_over_its_images(encoder: SensorEncoder, tmp_path: Path) -> None:
    entries = [
        _image(tmp_path, "a.tif", _optical(64, 64)),
        _image(tmp_path, "b.tif", _optical(64, 64, seed=1)),
        _image(tmp_path, "c.tif", _radar(64, 64)),
    ]
    found = named_set_statistics("scene", entries)
    assert found is not None
    values = np.concatenate([_optical(64, 64)[1], _optical(64, 64, seed=1)[1]]) * 1e-4
    assert found["sentinel2-l2a"]["B03"].p99 == pytest.approx(np.percentile(values, 99), rel=0.003)
    assert set(found["sentinel1-grd"]) == {"VV", "VH"}
    report = embed_set(encoder, entries, tmp_path / "f.tif", statistics=found)
    assert "sentinel1-grd: encoding 'db'; statistics given by the caller" in report.notes


def test_the_file_names_its_images(encoder: SensorEncoder, tmp_path: Path) -> None:
    entries = [
        _image(tmp_path, "a.tif", _optical(64, 64), datetime="2020-06-01"),
        _image(tmp_path, "b.tif", _radar(64, 64)),
    ]
    report = embed_set(encoder, entries, tmp_path / "f.tif")
    with rasterio.open(report.features) as file:
        images = json.loads(file.tags()["ANYBAND_IMAGES"])
    assert [(one["path"], one["sensor"], one["datetime"]) for one in images] == [
        ("a.tif", "sentinel2-l2a", "2020-06-01T00:00:00.000000Z"),
        ("b.tif", "sentinel1-grd", None),
    ]
    assert report.notes[0] == "2 images on the grid of 'a.tif'"
    assert "no date is known of 'b.tif'" in report.notes


def test_an_image_of_control_points_is_not_laid_on_others(encoder: SensorEncoder, tmp_path: Path) -> None:
    entries = [_image(tmp_path, name, _optical(64, 64), crs=None) for name in ("a.tif", "b.tif")]
    with QuietReader(str(tmp_path / "b.tif")) as file:
        pixels, profile = file.read(), file.profile
    profile.pop("transform")
    corners = [rasterio.control.GroundControlPoint(row, col, 9 + col, 50 - row) for row in (0, 64) for col in (0, 64)]
    with QuietWriter(str(tmp_path / "b.tif"), "w", **profile) as file:
        file.gcps = (corners, rasterio.crs.CRS.from_epsg(4326))
        file.write(pixels)
    with pytest.raises(GeometryError, match=r"'b\.tif' is placed by 4 ground control points.*use it by itself"):
        embed_set(encoder, entries, tmp_path / "f.tif")
    assert any("4 ground control points" in note for note in embed_set(encoder, entries[1:], tmp_path / "f.tif").notes)


def test_images_without_a_coordinate_system_share_their_corners(encoder: SensorEncoder, tmp_path: Path) -> None:
    entries = [
        _image(tmp_path, "a.tif", _optical(64, 64), crs=None),
        _image(tmp_path, "b.tif", _radar(32, 32), crs=None),
    ]
    report = embed_set(encoder, entries, tmp_path / "f.tif")
    assert any("has no coordinate system" in note for note in report.notes)
    assert report.num_missing == 0


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"crs": "EPSG:32633"},
            r"'a\.tif', the first image, has EPSG:32632, 'b\.tif' has EPSG:32633; .* a CRS: reproject one of them",
        ),
        ({"crs": None}, r"'b\.tif' has no CRS; images of a set must share a CRS"),
        (
            {"east_m": 5000.0},
            r"'b\.tif' lies at x 404960 to 405600, y 5699360 to 5700000 and 'a\.tif', the first image, at x 399960 to "
            r"400600, .* no common ground; leave it out",
        ),
        ({"gsd_m": 1000.0}, r"'b\.tif' has too few pixels in a view of 64 pixels of the first image"),
    ],
)
def test_images_that_do_not_fit_the_first_are_refused(
    encoder: SensorEncoder, tmp_path: Path, other: dict[str, object], message: str
) -> None:
    entries = [
        _image(tmp_path, "a.tif", _optical(64, 64)),
        _image(tmp_path, "b.tif", _optical(64, 64, seed=1), **other),  # type: ignore[arg-type]
    ]
    with pytest.raises(GeometryError, match=message):
        embed_set(encoder, entries, tmp_path / "f.tif")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tif", "b.tif"]


def test_a_set_that_can_not_be_is_refused(encoder: SensorEncoder, tmp_path: Path) -> None:
    a = _image(tmp_path, "a.tif", _optical(64, 64), place="field")
    b = _image(tmp_path, "b.tif", _optical(64, 64), place="wood")
    out = tmp_path / "f.tif"
    with pytest.raises(InputError, match="a set needs at least one image"):
        embed_set(encoder, [], out)
    with pytest.raises(
        InputError, match=r"the images are of 2 places \(field, wood\), .* list the images of one place"
    ):
        embed_set(encoder, [a, b], out)
    with pytest.raises(OutputError, match="is the scene itself, which would be lost"):
        embed_set(encoder, [a], tmp_path / "a.tif")


def test_a_date_in_the_future_is_refused(encoder: SensorEncoder, tmp_path: Path) -> None:
    entry = replace(_image(tmp_path, "a.tif", _optical(64, 64)), datetime=dt.datetime(2999, 1, 1, tzinfo=dt.UTC))
    with pytest.raises(InputError, match=r"'a\.tif': datetime 2999-01-01T00:00:00Z lies in the future"):
        embed_set(encoder, [entry], tmp_path / "f.tif")


def test_images_of_a_sensor_that_differ_are_not_counted_together(tmp_path: Path) -> None:
    entries = [
        _image(tmp_path, "a.tif", _optical(64, 64)),
        _image(tmp_path, "b.tif", _optical(64, 64), encoding="baseline_04.00"),
    ]
    with pytest.raises(
        InputError, match=r"'a\.tif' and 'b\.tif' of sensor 'sentinel2-l2a' differ in bands or encoding"
    ):
        named_set_statistics("scene", entries)


def test_more_images_than_memory_holds_are_refused(
    encoder: SensorEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda device: 1000)
    entries = [_image(tmp_path, "a.tif", _optical(64, 64)), _image(tmp_path, "b.tif", _radar(64, 64))]
    with pytest.raises(InputError, match=r"4 sets of 2 images with 16 tokens each .* GB are free on 'cpu'"):
        embed_set(encoder, entries, tmp_path / "f.tif")
    assert not (tmp_path / "f.tif").exists()


def _listed(folder: Path) -> Path:
    _image(folder, "a.tif", _optical(64, 64))
    _image(folder, "b.tif", _radar(32, 32), gsd_m=20.0)
    rows = ["path,sensor,bands,datetime", "a.tif,S2_L2A,B02;B03;B04;B08,2020-06-01", "b.tif,sentinel1-grd,VV;VH,"]
    (folder / "set.csv").write_text("\n".join(rows) + "\n")
    return folder / "set.csv"


def test_the_verb_embeds_a_list(golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["embed", str(_listed(tmp_path)), "--checkpoint", str(golden / "smarties" / "checkpoint.safetensors")]
    assert main([*words, "--out", str(tmp_path / "f.tif"), "--statistics", "scene"]) == 0
    printed = capsys.readouterr().out
    assert "2 images on the grid of 'a.tif'" in printed
    assert "64 features on 4 × 4 patches of 160 m, 0 without data" in printed
    assert len(read_manifest(tmp_path / "set.csv")) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["set.csv", "--sensor", "rgb"], "each with its own sensor: leave out --sensor, and fill the column `sensor`"),
        (["set.csv", "--time-index", "1"], "leave out --time-index, and fill the column `time`"),
        (["a.tif"], "say with --sensor what the scene was taken by"),
    ],
)
def test_the_verb_says_what_lists_and_scenes_need(
    golden: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    _listed(tmp_path)
    monkeypatch.chdir(tmp_path)
    checkpoint = str(golden / "smarties" / "checkpoint.safetensors")
    assert main(["embed", *words, "--checkpoint", checkpoint, "--out", "f.tif"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.real
def test_real_dates_of_two_sensors_are_embedded_around_the_clouds(
    encoder: SensorEncoder, real_data: Path, tmp_path: Path
) -> None:
    site = real_data / "worldcereal_s1_s2_l8_timeseries" / "00002806639B424A"
    files = sorted(site.glob("S2_L2A_*.nc"))
    optical = {
        "path": ";".join(map(str, files)),
        "sensor": "sentinel2-l2a",
        "bands": "B02=B02;B03=B03;B04=B04;B08=B08;B11=B11",
        "valid": str(files[-1]),
        "valid_variable": "SCL",
        "valid_values": [4, 5, 6, 7, 11],
    }
    (radar_file,) = site.glob("S1_GRD-*.nc")
    radar = {"path": str(radar_file), "sensor": "sentinel1-grd", "bands": "VV=VV;VH=VH", "scale": 1e-4, "offset": 0.0}
    # Times 2 and 62 are nearly clear, time 5 is cloudy.
    rows = [*({**optical, "time": time} for time in (2, 5, 62)), {**radar, "time": 0}]
    entries = [parse_entry(row, folder=tmp_path) for row in rows]
    report = embed_set(encoder, entries, tmp_path / "f.tif")
    assert (report.grid.height, report.grid.width, report.grid.crs) == (4, 4, "EPSG:32631")
    assert report.num_missing == 0
    with rasterio.open(report.features) as file:
        dates = [image["datetime"][:10] for image in json.loads(file.tags()["ANYBAND_IMAGES"])]
    assert dates[0] == "2017-08-24"
    assert all(date is not None for date in dates)
