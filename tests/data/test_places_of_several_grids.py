"""Images of one place on other coordinate systems, or on none: where their pixels come to lie, and what is said."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.warp
from PIL import Image
from pyproj import Transformer
from rasterio.vrt import WarpedVRT
from scipy import ndimage

from anyband.arrays import Array
from anyband.data.manifest import parse_entry
from anyband.data.prepare import PrepareOptions, PrepareReport, prepare
from anyband.data.store import ChipStore
from anyband.errors import GeometryError, InputError
from anyband.rasters.footprints import warp
from anyband.rasters.grid import Grid

_CRS = "EPSG:32631"
# On the edge of two zones.
_LON, _LAT = 5.98, 45.2
_SIDE = 96


def _centre(crs: str) -> tuple[float, float]:
    x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(_LON, _LAT)
    return float(x), float(y)


def _transform(crs: str, step: tuple[float, float], side: int) -> rasterio.Affine:
    x, y = _centre(crs)
    return rasterio.Affine(step[0], 0.0, x - side * step[0] / 2, 0.0, -step[1], y + side * step[1] / 2)


def _ground(crs: str, transform: rasterio.Affine, shape: tuple[int, int]) -> Array:
    """Metres to the east and north of the centre, in the first zone, at the centre of each pixel."""
    rows, cols = np.meshgrid(*(np.arange(size) + 0.5 for size in shape), indexing="ij")
    x, y = transform.a * cols + transform.c, transform.e * rows + transform.f
    east, north = Transformer.from_crs(crs, _CRS, always_xy=True).transform(x, y)
    return np.stack([east - _centre(_CRS)[0], north - _centre(_CRS)[1]])


def _write(path: Path, pixels: Array, crs: str, transform: rasterio.Affine) -> str:
    shape = {"count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2], "dtype": pixels.dtype}
    with rasterio.open(path, "w", crs=crs, transform=transform, **shape) as file:
        file.write(pixels)
    return path.name


_SCENES = {
    "EPSG:32631": (10.0, 10.0),
    "EPSG:32632": (10.0, 10.0),
    "EPSG:4326": (1.3e-4, 9e-5),
    "EPSG:3035": (20.0, 20.0),
}


def _scene(folder: Path, crs: str, *, hole: bool = False) -> str:
    transform, side = _transform(crs, _SCENES[crs], _SIDE), _SIDE
    pixels = _ground(crs, transform, (side, side)).astype(np.float32)
    if hole:
        pixels[:, 40:52, 30:44] = np.nan
    return _write(folder / f"{crs[5:]}.tif", pixels, crs, transform)


def _prepare(folder: Path, rows: list[dict[str, str]], **options: object) -> tuple[ChipStore, PrepareReport]:
    columns = {"sensor": "sentinel2-l2a", "place": "p", "bands": "B04;B08", "scale": "1", "split": "train"}
    entries = [parse_entry({**columns, **row}, folder=folder) for row in rows]
    report = prepare(entries, folder / "store", PrepareOptions(fractions=(1.0, 0.0, 0.0), **options))  # type: ignore[arg-type]
    return ChipStore.open(folder / "store"), report


def _chips(store: ChipStore, path: str) -> list[tuple[dict[str, object], Array, Array]]:
    found = []
    for row in store.index.to_pylist():
        if row["source_path"] == path:
            (chip,), valid = store.read(row["array"], [row["array_row"]])
            found.append((row, chip, np.ones(chip.shape, dtype=bool) if valid is None else valid[0]))
    return found


@pytest.mark.parametrize("options", [{}, {"chip_px": 32}, {"chip_size": {"sentinel2-l2a": 48}}])
@pytest.mark.parametrize("other", ["EPSG:32632", "EPSG:4326", "EPSG:3035"])
def test_images_of_other_coordinate_systems_lie_on_the_grid_of_their_place(tmp_path, other, options) -> None:
    names = [_scene(tmp_path, "EPSG:32631"), _scene(tmp_path, other)]
    store, report = _prepare(tmp_path, [{"path": name} for name in names], **options)
    chips = _chips(store, names[1])
    assert chips
    for row, chip, valid in chips:
        assert row["crs"] == _CRS
        transform = rasterio.Affine(*row["transform"])
        expected = _ground(_CRS, transform, chip.shape[1:])
        # At the rim of an image there is nothing to interpolate with.
        inside = ndimage.binary_erosion(valid.all(axis=0), iterations=2)
        assert inside.any()
        # A tenth of the smaller pixel.
        assert np.abs(chip - expected)[:, inside].max() <= 0.1 * min(transform.a, 10.0)
    assert any("from another CRS onto the grid of their place" in note for note in report.notes)
    assert 0 < next(iter(report.pairs.values())) <= len(chips)


def test_pixels_warp_as_gdal_warps_a_file(tmp_path) -> None:
    names = [_scene(tmp_path, "EPSG:32631"), _scene(tmp_path, "EPSG:4326")]
    store, _ = _prepare(tmp_path, [{"path": name} for name in names])
    ((row, chip, valid),) = _chips(store, names[1])
    how = {"crs": _CRS, "transform": rasterio.Affine(*row["transform"]), "nodata": np.nan}
    with rasterio.open(tmp_path / names[1]) as file:
        shape = {"height": chip.shape[1], "width": chip.shape[2]}
        with WarpedVRT(file, resampling=rasterio.enums.Resampling.bilinear, **shape, **how) as vrt:
            expected = vrt.read()
    np.testing.assert_allclose(chip[valid], expected[valid], atol=0.02)


def test_missing_pixels_are_warped_with_the_others(tmp_path) -> None:
    names = [_scene(tmp_path, "EPSG:32631"), _scene(tmp_path, "EPSG:32632", hole=True)]
    store, _ = _prepare(tmp_path, [{"path": name} for name in names])
    ((row, chip, valid),) = _chips(store, names[1])
    transform = rasterio.Affine(*row["transform"])
    rows, cols = np.meshgrid(*(np.arange(size) + 0.5 for size in chip.shape[1:]), indexing="ij")
    x, y = transform.a * cols + transform.c, transform.e * rows + transform.f
    there = _transform("EPSG:32632", (10.0, 10.0), _SIDE)
    x, y = Transformer.from_crs(_CRS, "EPSG:32632", always_xy=True).transform(x, y)
    col, down = (x - there.c) / there.a, (y - there.f) / there.e
    # Beside the rim of the hole and of the image, half of the weight decides.
    deep = (col > 31) & (col < 43) & (down > 41) & (down < 51)
    clear = (col > 1) & (col < 95) & (down > 1) & (down < 95) & ~((col > 29) & (col < 45) & (down > 39) & (down < 53))
    assert not valid[:, deep].any()
    assert valid[:, clear].all()
    assert deep.sum() > 80 < clear.sum()


def test_classes_are_never_mixed(tmp_path) -> None:
    values = np.random.default_rng(0).choice(np.array([3, 40, 200], np.uint16), size=(2, _SIDE, _SIDE))
    names = [_scene(tmp_path, "EPSG:32631")]
    names.append(_write(tmp_path / "classes.tif", values, "EPSG:4326", _transform("EPSG:4326", (1.3e-4, 9e-5), _SIDE)))
    rows = [
        {"path": names[0]},
        {"path": names[1], "sensor": "landsat8-oli-tirs-l2", "bands": "SR_B4;SR_B5", "encoding": "dn"},
    ]
    rows[1] = {key: value for key, value in rows[1].items() if key != "encoding"}
    store, _ = _prepare(tmp_path, rows, resampling={"landsat8-oli-tirs-l2": "nearest"})
    ((_, chip, valid),) = _chips(store, names[1])
    assert set(np.unique(chip[valid])) == {3, 40, 200}


def test_one_size_is_stored_of_each_sensor_whatever_the_shapes(tmp_path) -> None:
    rng, rows = np.random.default_rng(0), []
    for place, (height, width) in enumerate(((22, 26), (17, 12), (30, 31))):
        fine = round(height * 19.6), round(width * 19.7)
        transform = rasterio.Affine(1e-4, 0, 6.0 + place, 0, -1e-4, 45.0)
        coarse = rng.integers(1, 9000, (2, height, width)).astype(np.uint16)
        names = _write(tmp_path / f"s{place}.tif", coarse, "EPSG:4326", transform), f"r{place}.png"
        Image.fromarray(rng.integers(0, 255, (*fine, 3)).astype(np.uint8)).save(tmp_path / names[1])
        rows += [
            {"path": names[0], "place": str(place)},
            {"path": names[1], "place": str(place), "sensor": "maxar-rgb", "bands": "", "scale": ""},
        ]
    size = {"maxar-rgb": 224, "sentinel2-l2a": 32}
    store, report = _prepare(tmp_path, rows, chip_size=size, resampling={"maxar-rgb": "cubic"})
    shapes = {info.name: (info.num_chips, info.height, info.width) for info in store.arrays.values()}
    assert shapes == {"sentinel2-l2a_32x32": (3, 32, 32), "maxar-rgb_224x224": (3, 224, 224)}
    assert report.pairs == {"sentinel2-l2a + maxar-rgb": 3}
    by_path = {row["source_path"]: row for row in store.index.to_pylist()}
    finest = by_path["r0.png"]
    assert finest["gsd_m"] == pytest.approx(by_path["s0.tif"]["gsd_m"] * 32 / 224)
    for place in range(3):
        np.testing.assert_array_equal(by_path[f"s{place}.tif"]["geometry"], by_path[f"r{place}.png"]["geometry"])
    notes = "\n".join(report.notes)
    assert "maxar-rgb: 3 of 3 chips were brought to 224 × 224 pixels (cubic)" in notes
    assert "sentinel2-l2a: 3 of 3 chips were brought to 32 × 32 pixels (bilinear)" in notes
    laid = "maxar-rgb: 3 images without coordinates count as showing all the ground of the place"
    # 22 × 26 beside 431 × 512, 17 × 12 beside 333 × 236, 30 × 31 beside 588 × 611.
    assert f"{laid}; ratios of rows to columns differ from its by up to 0.6%" in notes


def test_a_chip_of_a_size_equals_a_registered_resize(tmp_path) -> None:
    """GDAL's kernels widen where pixels are merged, as those of training do."""
    import torch

    from anyband.data.resample import resized

    pixels = np.random.default_rng(0).integers(50, 200, (3, 96, 80)).astype(np.uint8)
    Image.fromarray(np.moveaxis(pixels, 0, -1)).save(tmp_path / (name := "a.png"))
    row = {"path": name, "sensor": "maxar-rgb", "bands": "", "scale": ""}
    for method, kernel in (("bilinear", "bilinear"), ("cubic", "bicubic")):
        folder = tmp_path / method
        folder.mkdir()
        (folder / name).write_bytes((tmp_path / name).read_bytes())
        store, _ = _prepare(folder, [row], chip_size={"maxar-rgb": 32}, resampling={"maxar-rgb": method})
        ((_, chip, _),) = _chips(store, name)
        expected, _ = resized(torch.from_numpy(pixels)[None].float(), None, shape=(32, 32), interpolation=kernel)
        inner = np.s_[:, 2:-2, 2:-2]
        assert np.abs(chip.astype(np.float32) - expected[0].numpy())[inner].max() <= 0.75


def test_images_smaller_than_a_patch_are_taken_where_they_are_enlarged(tmp_path) -> None:
    rows = [
        {"path": _write(tmp_path / "a.tif", np.full((2, 9, 11), 7, np.uint16), _CRS, _transform(_CRS, (10, 10), 9))}
    ]
    store, _ = _prepare(tmp_path, rows, chip_size={"sentinel2-l2a": 32})
    ((_, chip, _),) = _chips(store, "a.tif")
    assert chip.shape == (2, 32, 32)
    assert (chip == 7).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"chip_size": {"sentinel2-l2": 32}},
            r"chip_size names 'sentinel2-l2', of which there is no image .*sentinel2-l2a",
        ),
        ({"chip_size": {"sentinel2-l2a": 8}}, r"chips of 8 pixels \(sentinel2-l2a\) are smaller than a patch"),
        (
            {"resampling": {"sentinel2-l2a": "cubics"}},
            r"resampling 'cubics' is unknown \(bilinear, .*did you mean 'cubic'",
        ),
        ({"ratio_tolerance": 100.0}, r"ratio_tolerance is per cent from 0 to below 100, found 100"),
    ],
)
def test_sizes_and_resampling_that_mean_nothing_are_refused(tmp_path, options, message) -> None:
    name = _scene(tmp_path, "EPSG:32631")
    with pytest.raises(InputError, match=message):
        _prepare(tmp_path, [{"path": name}], **options)


def test_a_size_for_one_sensor_alone_is_refused(tmp_path) -> None:
    rows = [
        {"path": _scene(tmp_path, "EPSG:32631")},
        {"path": _scene(tmp_path, "EPSG:32632"), "sensor": "landsat8-oli-tirs-l2"},
    ]
    rows[1]["bands"] = "SR_B4;SR_B5"
    with pytest.raises(
        InputError, match=r"chip_size names sentinel2-l2a and not landsat8-oli-tirs-l2; give a size for each sensor"
    ):
        _prepare(tmp_path, rows, chip_size={"sentinel2-l2a": 32})


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "int64", "float32", "float64"])
def test_numbers_of_any_type_are_warped_in_their_range(dtype: str) -> None:
    grid = Grid(height=40, width=40, transform=(10.0, 0.0, 500_000.0, 0.0, -10.0, 5e6), crs=_CRS, gsd_m=10.0)
    target = replace(grid, height=20, width=20, transform=(20.0, 0.0, 500_000.0, 0.0, -20.0, 5e6))
    dn = np.random.default_rng(0).integers(-100 if dtype[0] != "u" else 1, 101, (2, 40, 40)).astype(dtype)
    valid = np.ones(dn.shape, dtype=bool)
    plain = warp(dn, valid, source=grid, target=target, resampling="average")
    expected = dn.astype(np.float64).reshape(2, 20, 2, 20, 2).mean(axis=(2, 4))
    assert plain[0].dtype == dtype
    assert plain[1].all()
    np.testing.assert_allclose(plain[0], expected, atol=0.5 if dtype[0] != "f" else 1e-4)
    valid[1, :20] = False
    holed = warp(dn, valid, source=grid, target=target, resampling="average")
    np.testing.assert_array_equal(holed[1], valid[:, ::2, ::2])
    np.testing.assert_array_equal(holed[0][valid[:, ::2, ::2]], plain[0][valid[:, ::2, ::2]])


def test_an_image_on_the_other_side_of_the_earth_is_no_part_of_a_place(tmp_path) -> None:
    far = rasterio.Affine(1e-4, 0, 170.0, 0, -1e-4, -45.0)
    names = [
        _scene(tmp_path, "EPSG:32631"),
        _write(tmp_path / "far.tif", np.ones((2, 96, 96), np.uint16), "EPSG:4326", far),
    ]
    with pytest.raises(
        GeometryError, match=r"place 'p': '.*' (does not overlap any other image|in EPSG:4326 can't be)"
    ):
        _prepare(tmp_path, [{"path": name} for name in names])


@pytest.mark.real
@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32647", "EPSG:3857"])
def test_a_real_scene_in_another_system_shows_the_same_ground(real_data: Path, tmp_path: Path, crs: str) -> None:
    """The shift that explains most of the difference of two chips, by their gradient, is under a tenth of a pixel."""
    source = next((real_data / "majortom_s2l2a_scene").rglob("B04.tif"))
    with rasterio.open(source) as file:
        pixels, whole, own = file.read()[:, 300:684, 300:684], file.transform, str(file.crs)
    transform = rasterio.Affine(10.0, 0.0, whole.c + 3000.0, 0.0, -10.0, whole.f - 3000.0)
    x, y = Transformer.from_crs(own, crs, always_xy=True).transform(transform.c + 1920.0, transform.f - 1920.0)
    across, down = {"EPSG:4326": (1.2e-4, 9e-5), "EPSG:3857": (12.0, 12.0)}.get(crs, (10.0, 10.0))
    height = width = 460
    there = rasterio.Affine(across, 0.0, x - across * width / 2, 0.0, -down, y + down * height / 2)
    other, how = np.zeros((1, height, width), pixels.dtype), rasterio.enums.Resampling.cubic
    sides = {"src_transform": transform, "src_crs": own, "dst_transform": there, "dst_crs": crs}
    rasterio.warp.reproject(pixels, other, resampling=how, tolerance=0, **sides)
    names = [_write(tmp_path / "a.tif", pixels, own, transform), _write(tmp_path / "b.tif", other, crs, there)]
    columns = {"bands": "B04", "scale": "", "nodata": "0"}
    options = {"chip_px": 96, "chip_size": {"sentinel2-l2a": 96}, "resampling": {"sentinel2-l2a": "cubic"}}
    store, _ = _prepare(tmp_path, [{**columns, "path": name} for name in names], **options)
    compared = 0
    before = {row["cell"]: chip[0].astype(np.float64) for row, chip, _ in _chips(store, "a.tif")}
    for row, chip, valid in _chips(store, "b.tif"):
        if valid.all() and row["cell"] in before:
            assert row["crs"] == own
            first, second = before[row["cell"]], chip[0].astype(np.float64)
            gradient = np.stack([one[4:-4, 4:-4].ravel() for one in np.gradient(first)], axis=1)
            shift = np.linalg.lstsq(gradient, (second - first)[4:-4, 4:-4].ravel(), rcond=None)[0]
            assert np.abs(shift).max() < 0.1
            compared += 1
    assert compared >= 4
