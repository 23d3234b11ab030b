"""A kit of tiny things, good and bad, and a way to run a command that must be refused and leave no trace."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from small_networks import small_checkpoint

from anyband.cli import main
from anyband.models.checkpoint import save_checkpoint

_RECIPE = """\
name: tiny
seed: 1
model:
  {img_size: 32, patch_size: 16, embed_dim: 16, depth: 1, num_heads: 2,
   decoder_embed_dim: 8, decoder_depth: 1, decoder_num_heads: 2}
optim: {batch_size: 2, steps: 2, epochs: 2, warmup_epochs: 1.0, precision: 32-true}
run:
  {accelerator: cpu, devices: 1, checkpoint_every_steps: 1, log_every_steps: 1, panel_every_steps: 0, val_batches: 1}
"""

Tiff = Callable[..., Path]


def _tiff(
    path: Path,
    pixels: np.ndarray,
    *,
    crs: str | None = "EPSG:32632",
    east_m: float = 0.0,
    nodata: float | None = None,
) -> Path:
    transform = rasterio.Affine(10.0, 0.0, 5e5 + east_m, 0.0, -10.0, 5e6) if crs else None
    shape = {"count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2], "dtype": pixels.dtype}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver="GTiff", crs=crs, transform=transform, nodata=nodata, **shape) as file:
            file.write(pixels)
    return path


@pytest.fixture(scope="session")
def tiff() -> Tiff:
    """Write a GeoTIFF: `tiff(path, pixels, crs=, east_m=, nodata=)`."""
    return _tiff


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of images, bad images, labelled images, a store, a checkpoint and a recipe. Nothing may change it."""
    root = tmp_path_factory.mktemp("kit")
    rng = np.random.default_rng(0)
    rows = ["path,sensor,place,split"]
    for number in range(4):
        _tiff(root / f"rgb{number}.tif", _rgb(rng), east_m=1e3 * number)
        radar = rng.normal(-12, 3, (2, 32, 32)).astype(np.float32)
        _tiff(root / f"s1_{number}.tif", radar, east_m=1e3 * number)
        split = "train" if number < 3 else "val"
        rows += [f"rgb{number}.tif,rgb,p{number},{split}", f"s1_{number}.tif,sentinel1-grd,p{number},{split}"]
    (root / "m.csv").write_text("\n".join(rows) + "\n")
    (root / "recipe.yaml").write_text(_RECIPE)
    _bad_images(root, rng)
    _labelled(root / "labelled", rng)
    _checkpoint(root / "model.safetensors")
    words = ["prepare", str(root / "m.csv"), "--out", str(root / "store"), "--workers", "1", "--quiet"]
    assert main(words) == 0
    return root


def _rgb(rng: np.random.Generator, size: int = 32) -> np.ndarray:
    return rng.integers(1, 255, (3, size, size)).astype(np.uint8)


def _bad_images(root: Path, rng: np.random.Generator) -> None:
    _tiff(root / "nodata.tif", np.zeros((3, 32, 32), np.uint8), nodata=0)
    _tiff(root / "nan.tif", np.full((2, 32, 32), np.nan, np.float32))
    _tiff(root / "small.tif", _rgb(rng, 8))
    _tiff(root / "grey.tif", _rgb(rng)[:1])
    _tiff(root / "no_crs.tif", _rgb(rng), crs=None)
    _tiff(root / "other_crs.tif", _rgb(rng), crs="EPSG:32633")
    _tiff(root / "far.tif", _rgb(rng), east_m=3e5)
    whole = (root / "rgb0.tif").read_bytes()
    (root / "header_cut.tif").write_bytes(whole[:200])
    (root / "half.tif").write_bytes(whole[: len(whole) // 2])
    (root / "noise.tif").write_bytes(rng.bytes(3000))
    (root / "empty.tif").touch()
    (root / "folder.tif").mkdir()
    (root / "text.tif").write_text("no picture")
    _no_pixels(root / "no_pixels.nc")


def _no_pixels(path: Path) -> None:
    import h5netcdf

    with h5netcdf.File(path, "w") as file:
        file.dimensions = {"y": 0, "x": 0}
        for band in ("R", "G", "B"):
            file.create_variable(band, ("y", "x"), "u1")


def _labelled(root: Path, rng: np.random.Generator) -> None:
    for name in ("field", "river"):
        (root / name).mkdir(parents=True)
        for number in range(6):
            pixels = rng.integers(0, 255, (32, 32, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")


def _checkpoint(path: Path) -> None:
    save_checkpoint(path, small_checkpoint(patch_size=16, decoder_embed_dim=8))


def _snapshot(*folders: Path) -> dict[Path, bytes | None]:
    files = [path for folder in folders for path in sorted(folder.rglob("*"))]
    return {path: path.read_bytes() if path.is_file() else None for path in files}


def _exit_code(words: list[str]) -> int:
    try:
        return main(words)
    except SystemExit as stopped:  # argparse ends the program itself
        return int(str(stopped.code))


Refused = Callable[..., str]


@pytest.fixture
def refused(kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Refused]:
    """Run a command that must end with code 2, one message, and every file as it was. Gives the message.

    In the words `KIT` is the kit and `HERE` the test's own folder. `leaves` names what may be new or different, by the
    start of its path below `HERE`.
    """

    def run(*words: str, leaves: str | None = None) -> str:
        before = _snapshot(kit, tmp_path)
        capsys.readouterr()
        code = _exit_code([word.replace("KIT", str(kit)).replace("HERE", str(tmp_path)) for word in words])
        message = capsys.readouterr().err
        after = _snapshot(kit, tmp_path)
        changed = {path for path in before | after if before.get(path, b"absent") != after.get(path, b"absent")}
        allowed = str(tmp_path / leaves) if leaves else "nothing"
        assert code == 2, message
        assert "Traceback" not in message
        assert message.count(f"anyband {words[0]}: ") == 1
        assert {str(path) for path in changed if not str(path).startswith(allowed)} == set()
        return message

    return run
