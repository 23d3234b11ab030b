"""`anyband prepare`: what it prints, what it refuses with exit code 2 and one message, and what it leaves."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio

from anyband.cli import main
from anyband.data.store import ChipStore


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A GeoTIFF of three bands."""
    path = tmp_path / "town.tif"
    _write(path, np.random.default_rng(0).integers(1, 255, (3, 64, 64)).astype(np.uint8))
    return path


def _write(path: Path, pixels: np.ndarray, *, crs: str | None = "EPSG:32631", east_m: float = 0.0) -> None:
    shape = {"count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2], "dtype": pixels.dtype}
    transform = rasterio.Affine(10.0, 0.0, 5e5 + east_m, 0.0, -10.0, 5e6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver="GTiff", crs=crs, transform=transform if crs else None, **shape) as file:
            file.write(pixels)


def _prepare(image: Path, *words: str) -> int:
    out = str(image.parent / "store")
    return main(["prepare", str(image), "--sensor", "maxar-rgb", "--out", out, "--workers", "1", "--quiet", *words])


def _refused(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    assert main(["prepare", *words]) == 2
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    assert printed.err.startswith("anyband prepare: ")
    assert printed.err.count("anyband prepare: ") == 1
    return printed.err


def test_images_become_a_store_and_the_counts_are_printed(image, capsys) -> None:
    assert _prepare(image, "--chip-px", "32", "--splits", "1,0,0") == 0
    printed = capsys.readouterr().out
    assert "4 chips of 4 footprints in 1 place (train 4, val 0, test 0)" in printed
    assert ChipStore.open(image.parent / "store").index.num_rows == 4


def test_second_time_nothing_is_done(image, capsys) -> None:
    _prepare(image)
    capsys.readouterr()
    assert _prepare(image) == 0
    assert "is complete already" in capsys.readouterr().out


def test_show_prints_what_a_store_holds(image, capsys) -> None:
    _prepare(image, "--chip-px", "32")
    capsys.readouterr()
    assert main(["prepare", "--show", str(image.parent / "store")]) == 0
    printed = capsys.readouterr().out
    assert "maxar-rgb_32x32: 4 × 3 × 32 × 32 uint8 (R, G, B)" in printed
    assert "statistics of the store: none; `anyband prepare --stats" in printed


def test_statistics_of_a_store_are_computed_saved_and_printed(image, capsys) -> None:
    _prepare(image, "--splits", "1,0,0")
    assert main(["prepare", "--stats", str(image.parent / "store"), "--quiet"]) == 0
    assert "maxar-rgb R: p01 " in capsys.readouterr().out
    assert set(ChipStore.open(image.parent / "store").statistics["maxar-rgb"]) == {"R", "G", "B"}


def test_statistics_can_be_computed_while_preparing(image) -> None:
    assert _prepare(image, "--splits", "1,0,0", "--stats") == 0
    assert ChipStore.open(image.parent / "store").statistics


def test_manifest_is_prepared(image, capsys) -> None:
    (image.parent / "m.csv").write_text("path,sensor,split\ntown.tif,rgb,test\n")
    store = str(image.parent / "store")
    assert main(["prepare", str(image.parent / "m.csv"), "--out", store, "--workers", "1", "--quiet"]) == 0
    assert "(train 0, val 0, test 1)" in capsys.readouterr().out


def test_skipped_images_are_printed_with_the_reason(image, capsys) -> None:
    (image.parent / "torn.tif").write_bytes(image.read_bytes()[:300])
    assert _prepare(image.parent / "*.tif") == 0
    printed = capsys.readouterr().out
    assert "skipped 1 image:" in printed
    assert "torn.tif" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{image}", "--sensor", "maxar-rbg", "--out", "{out}"], "did you mean 'maxar-rgb'"),
        (["{image}", "--sensor", "maxar-rgb", "--bands", "NIR", "--out", "{out}"], "band 'NIR' is not in"),
        (["{image}", "--sensor", "sentinel1-grd", "--out", "{out}"], "has 3 bands, sensor 'sentinel1-grd'"),
        (["{image}", "--out", "{out}"], "is no manifest: its name ends in '.tif'"),
        (["{image}", "{image}", "--out", "{out}"], "2 inputs need --sensor"),
        (["{image}", "--sensor", "maxar-rgb"], "with --out the store to make"),
        (["--out", "{out}"], "name the images"),
        (["nothing*.tif", "--sensor", "maxar-rgb", "--out", "{out}"], "no file matches 'nothing*.tif'"),
        (["{folder}/m.csv", "--out", "{out}", "--encoding", "dn"], "--encoding and --bands go with --sensor"),
        (["{folder}/m.csv", "--out", "{out}"], "cannot read manifest"),
        (["{image}", "--sensor", "maxar-rgb", "--out", "{out}", "--splits", "0.5"], "takes three shares"),
        (["{image}", "--sensor", "maxar-rgb", "--out", "{out}", "--chip-px", "8"], "smaller than a patch"),
        (["{image}", "--sensor", "maxar-rgb", "--out", "{image}"], "exists and is no whole chip store"),
        (["--show", "{out}"], "there is no chip store at"),
        (["--stats", "{out}"], "there is no chip store at"),
    ],
)  # fmt: skip
def test_mistakes_get_one_message_and_leave_nothing(image, capsys, words: list[str], message: str) -> None:
    folder, out = image.parent, image.parent / "deep" / "store"
    filled = [word.format(image=image, out=out, folder=folder) for word in words]
    before = image.read_bytes()
    assert message in _refused(capsys, filled)
    assert not out.exists()
    assert image.read_bytes() == before
    assert not list(folder.glob("**/*.partial"))


def _manifest(folder: Path, *rows: str) -> list[str]:
    (folder / "m.csv").write_text("\n".join(("path,sensor,place", *rows)) + "\n")
    return [str(folder / "m.csv"), "--out", str(folder / "store"), "--workers", "1", "--quiet"]


@pytest.mark.parametrize(
    ("crs", "east_m", "message"),
    [
        ("EPSG:32632", 0.0, "does not overlap any other image"),
        ("EPSG:32631", 9_000.0, "does not overlap any other image"),
    ],
)
def test_declared_place_that_cannot_be_one_is_refused(image, capsys, crs, east_m, message) -> None:
    _write(image.parent / "other.tif", np.ones((3, 64, 64), np.uint8), crs=crs, east_m=east_m)
    words = _manifest(image.parent, "town.tif,rgb,p", "other.tif,rgb,p")
    assert message in _refused(capsys, words)
    assert sorted(path.name for path in image.parent.iterdir()) == ["m.csv", "other.tif", "town.tif"]


def test_empty_manifest_is_refused(tmp_path, capsys) -> None:
    assert "has no images" in _refused(capsys, _manifest(tmp_path))


def test_existing_store_stays_when_the_new_images_are_bad(image, capsys) -> None:
    _prepare(image)
    index = (image.parent / "store" / "index.parquet").read_bytes()
    _write(image, np.zeros((3, 8, 8), np.uint8))
    capsys.readouterr()
    assert _prepare(image, "--overwrite") == 2
    assert "smaller than a patch" in capsys.readouterr().err
    assert (image.parent / "store" / "index.parquet").read_bytes() == index


def test_the_wavelengths_of_a_store_are_drawn(image, capsys) -> None:
    _prepare(image, "--chip-px", "32")
    picture = image.parent / "spectrum.png"
    assert main(["prepare", "--show", str(image.parent / "store"), "--picture", str(picture)]) == 0
    assert f"wavelengths: {picture}" in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(["prepare", "x.tif", "--sensor", "naip", "--out", "s", "--picture", str(picture)]) == 2
    assert "--picture draws the store that --show names" in capsys.readouterr().err
