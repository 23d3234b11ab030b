"""Rasters once sent requests and read any local file, pipes were waited for, and truncated files gave zeros."""

import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.shutil import copy as gdal_copy

from anyband.data.manifest import open_manifest
from anyband.errors import AnybandError, ManifestError, RasterError
from anyband.files import parse_yaml, read_yaml
from anyband.rasters.grid import Window, crs_name
from anyband.rasters.reader import Raster, RasterSource, open_raster
from anyband.sensors.catalogue import get_sensor

_PIXELS = np.random.default_rng(0).integers(1, 200, (3, 64, 64)).astype(np.uint8)


def _write(path: Path, driver: str = "GTiff", pixels: np.ndarray = _PIXELS, **how: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = {"count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2], "dtype": pixels.dtype}
    place = {"crs": "EPSG:32631", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)}
    with rasterio.open(path, "w", driver=driver, **shape, **place, **how) as file:
        file.write(pixels)
    return path


def _read(path: Path) -> Raster:
    with open_raster(RasterSource(paths=(path,)), get_sensor("maxar-rgb")) as reader:
        return reader.read()


def _vrt(path: Path, *sources: str, relative: bool = True, band: str = "", more: str = "") -> Path:
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{number}"{band}>'
        + "".join(
            f'<SimpleSource><SourceFilename relativeToVRT="{int(relative)}">{source}</SourceFilename>'
            f"<SourceBand>{number}</SourceBand></SimpleSource>"
            for source in sources
        )
        + f"{more}</VRTRasterBand>"
        for number in (1, 2, 3)
    )
    srs = "<SRS>EPSG:32631</SRS><GeoTransform>5e5, 10, 0, 5e6, 0, -10</GeoTransform>"
    path.write_text(f'<VRTDataset rasterXSize="64" rasterYSize="64">{srs}{bands}</VRTDataset>')
    return path


@pytest.fixture
def server() -> Iterator[tuple[str, list[bytes]]]:
    """A port of this machine, and what was requested of it."""
    heard: list[bytes] = []
    listening = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                heard.append(connection.recv(1000))

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    yield f"127.0.0.1:{listening.getsockname()[1]}", heard
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    thread.join(timeout=5)


@pytest.mark.parametrize(("name", "driver"), [("a.png", "PNG"), ("a.img", "ENVI"), ("a.img", "HFA"), ("a.bmp", "BMP")])
def test_formats_that_hold_their_own_pixels_are_read(tmp_path, name: str, driver: str) -> None:
    np.testing.assert_array_equal(_read(_write(tmp_path / name, driver)).dn, _PIXELS)


def test_cog_and_jpeg_2000_are_read(tmp_path) -> None:
    gdal_copy(_write(tmp_path / "a.tif"), tmp_path / "cog.tif", driver="COG")
    gdal_copy(tmp_path / "a.tif", tmp_path / "a.jp2", driver="JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES")
    for name in ("cog.tif", "a.jp2"):
        np.testing.assert_array_equal(_read(tmp_path / name).dn, _PIXELS)


def test_a_vrt_of_rasters_below_its_folder_is_read(tmp_path) -> None:
    _write(tmp_path / "parts" / "a.tif")
    _vrt(tmp_path / "parts" / "inner.vrt", "a.tif")
    for source in ("parts/a.tif", "parts/inner.vrt"):
        np.testing.assert_array_equal(_read(_vrt(tmp_path / "mosaic.vrt", source)).dn, _PIXELS)


@pytest.mark.parametrize(
    "case", ["above", "absolute", "linked", "inner above", "inner text", "raw", "derived", "itself"]
)
def test_a_vrt_that_reads_other_files_is_refused(tmp_path, case: str) -> None:
    folder = tmp_path / "images"
    outside, path = _write(tmp_path / "secret.tif"), folder / "a.vrt"
    _write(folder / "b.tif")
    if case == "above":
        _vrt(path, "../secret.tif")
    elif case == "absolute":
        _vrt(path, str(outside), relative=False)
    elif case == "linked":
        (folder / "link.tif").symlink_to(outside)
        _vrt(path, "link.tif")
    elif case == "inner above":
        (folder / "parts").mkdir()
        _vrt(folder / "parts" / "inner.vrt", "../b.tif")
        _vrt(path, "parts/inner.vrt")
    elif case == "inner text":
        _vrt(folder / "inner.tif", "../secret.tif")
        _vrt(path, "inner.tif")
    elif case == "raw":
        _vrt(path, "b.tif", band=' subClass="VRTRawRasterBand"')
    elif case == "derived":
        _vrt(path, "b.tif", more="<PixelFunctionCode>1</PixelFunctionCode>")
    else:
        _vrt(path, "a.vrt")
    with pytest.raises(RasterError, match=r"a\.vrt|inner\.(vrt|tif)"):
        _read(path)


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.img", "a", "a.TIFF"])
def test_a_vrt_by_another_name_is_refused(tmp_path, name: str) -> None:
    _write(tmp_path / "b.tif")
    with pytest.raises(RasterError, match=r"cannot open .* as a raster"):
        _read(_vrt(tmp_path / name, "b.tif"))


def _network_file(folder: Path, kind: str, address: str) -> Path:
    url = f"/vsicurl/http://{address}/x.tif"
    path = folder / "a.tif"
    if kind in ("vrt", "vrt as tif"):
        return _vrt(folder / ("a.vrt" if kind == "vrt" else "a.tif"), url, relative=False)
    if kind == "wms":
        path.write_text(
            f'<GDAL_WMS><Service name="TMS"><ServerUrl>http://{address}/${{z}}</ServerUrl></Service></GDAL_WMS>'
        )
        return path
    if kind == "overview tag":
        _write(path)
        with rasterio.open(path, "r+") as file:
            file.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=url)
        return path
    _write(path)
    if kind == "overview beside":
        item = f'<Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">{url}</MDI></Metadata>'
        Path(f"{path}.aux.xml").write_text(f"<PAMDataset>{item}</PAMDataset>")
    else:
        _vrt(Path(f"{path}.{kind}"), url, relative=False)
    return path


@pytest.mark.parametrize("kind", ["vrt", "vrt as tif", "wms", "overview tag", "overview beside", "msk", "ovr"])
def test_no_file_reaches_the_network(tmp_path, server, kind: str) -> None:
    address, heard = server
    with pytest.raises(RasterError, match=r"'.*a\.(tif|vrt)"):
        _read(_network_file(tmp_path, kind, address))
    assert heard == []


def test_a_coordinate_system_is_no_page_and_no_file(tmp_path, server) -> None:
    address, heard = server
    (tmp_path / "a").write_text(rasterio.CRS.from_epsg(32631).to_wkt())
    assert crs_name(f"http://{address}/crs") is None
    assert crs_name(str(tmp_path / "a")) is None
    assert heard == []
    assert crs_name(rasterio.CRS.from_epsg(32631).to_wkt()) == crs_name("epsg:32631") == "EPSG:32631"
    assert (
        crs_name("OGC:CRS84") == crs_name("+proj=longlat +datum=WGS84 +type=crs") or crs_name("OGC:CRS84") is not None
    )


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.nc", "a.vrt", "manifest.csv", "manifest.yaml", "m.parquet"])
@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder"])
def test_what_is_no_file_is_refused_before_it_is_opened(tmp_path, kind: str, name: str) -> None:
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(os.path.relpath(path))
        listening.close()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif name[0] == "a":
        (tmp_path / "x").mkdir()
        path.symlink_to(tmp_path / "x")
    else:
        path.mkdir()
    with pytest.raises(AnybandError, match=rf"is a {kind}; name a file|folder '.*' has no file named"):
        _read(path) if name[0] == "a" else open_manifest(path)


@pytest.mark.parametrize("name", ["a.tif.msk", "a.tif.aux.xml", "a.tfw"])
def test_a_pipe_beside_an_image_is_not_waited_for(tmp_path, name: str) -> None:
    _write(tmp_path / "a.tif", compress="deflate")
    os.mkfifo(tmp_path / name)
    with pytest.raises(RasterError, match="is a pipe; name a file"):
        _read(tmp_path / "a.tif")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_envi_file_is_not_zeros(tmp_path, share: float) -> None:
    path = _write(tmp_path / "a.img", "ENVI")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(RasterError, match=r"truncated or its header is wrong: it has \d+ bytes.* take 12288"):
        _read(path)


def test_an_envi_header_of_two_billion_lines_is_refused(tmp_path) -> None:
    path = _write(tmp_path / "a.img", "ENVI")
    header = path.with_suffix(".hdr")
    header.write_text(header.read_text().replace("lines   = 64", "lines   = 2000000000"))
    # Since version 3.12 GDAL itself refuses it.
    with pytest.raises(RasterError, match=r"2000000000 lines|Int overflow"):
        _read(path)


def _with_lines(path: Path, lines: int) -> None:
    """Say another height in the header of a TIFF."""
    data = bytearray(path.read_bytes())
    (start,) = struct.unpack_from("<I", data, 4)
    for entry in range(start + 2, start + 2 + 12 * struct.unpack_from("<H", data, start)[0], 12):
        if struct.unpack_from("<H", data, entry) == (257,):
            struct.pack_into("<HHII", data, entry, 257, 4, 1, lines)
    path.write_bytes(data)


@pytest.mark.parametrize("how", [{"compress": "deflate"}, {"tiled": True, "blockxsize": 16, "blockysize": 16}])
def test_a_tiff_of_two_billion_lines_is_refused(tmp_path, how) -> None:
    path = _write(tmp_path / "a.tif", **how)
    _with_lines(path, 2_000_000_000)
    with pytest.raises(RasterError, match="its header can't be read"):
        _read(path)


def test_blocks_that_are_not_in_the_file_are_no_data(tmp_path) -> None:
    pixels = _PIXELS.copy()
    pixels[:, :32, :16] = 0
    path = _write(tmp_path / "a.tif", pixels=pixels, tiled=True, blockxsize=16, blockysize=16, SPARSE_OK="TRUE")
    found = _read(path)
    expected = np.ones(pixels.shape, dtype=bool)
    expected[:, :32, :16] = False
    np.testing.assert_array_equal(found.valid, expected)
    np.testing.assert_array_equal(found.dn[expected], pixels[expected])
    longer = _write(tmp_path / "b.tif", tiled=True, compress="deflate")
    _with_lines(longer, 512)
    np.testing.assert_array_equal(_read(longer).valid.mean(axis=(0, 2)), np.arange(512) < 256)


@pytest.mark.parametrize(("size", "is_said"), [(512, True), (1536, False)])
def test_the_only_block_that_is_not_in_the_file_is_no_data(tmp_path, size: int, is_said: bool) -> None:
    """Of 27,648 blocks not each is looked for when the file is opened; each that is read is."""
    pixels = np.ones((3, size, size), dtype=np.uint8)
    pixels[1, 32:48, 96:112] = 0
    how = {"tiled": True, "blockxsize": 16, "blockysize": 16, "interleave": "band", "SPARSE_OK": "TRUE"}
    path = _write(tmp_path / "a.tif", pixels=pixels, **how)
    with open_raster(RasterSource(paths=(path,)), get_sensor("maxar-rgb")) as reader:
        valid = reader.read(Window(row=16, col=80, height=64, width=64)).valid
        assert ("some of its blocks are not in the file" in " ".join(reader.notes)) == is_said
    expected = np.ones((3, 64, 64), dtype=bool)
    expected[1, 16:32, 16:32] = False
    np.testing.assert_array_equal(valid, expected)


def _bomb(depth: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, depth)]
    return "\n".join(lines)


def test_aliases_of_yaml_are_bounded(tmp_path) -> None:
    (tmp_path / "m.yaml").write_text(_bomb(12))
    with pytest.raises(ManifestError, match="by its aliases this stands for more than"):
        open_manifest(tmp_path / "m.yaml")
    with pytest.raises(RasterError, match="by its aliases this holds itself"):
        parse_yaml("a: &a [*a]", name="x", error=RasterError)
    (tmp_path / "m.yaml").write_text("a: &a {b: 1}\nc: [*a, *a]\n")
    assert read_yaml(tmp_path / "m.yaml", error=ManifestError) == {"a": {"b": 1}, "c": [{"b": 1}, {"b": 1}]}
