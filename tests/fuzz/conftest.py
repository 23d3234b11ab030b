"""Small inputs of every kind to damage, and a way to run a command on damaged ones."""

import contextlib
import json
import re
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
import shapely
from PIL import Image
from small_networks import small_checkpoint

from anyband.cli import main
from anyband.models.checkpoint import save_checkpoint

# chosen: no command here takes a second; a machine that is busy gets time.
_LONGEST_S = 60
# What libraries print by themselves.
_FOREIGN = re.compile(
    r"^(ERROR|Warning) \d+:|HDF5-DIAG|Exception ignored|Traceback|^\S+Warning:|\.py:\d+:", re.MULTILINE
)

RECIPE = """\
name: tiny
seed: 1
model:
  {img_size: 32, patch_size: 16, embed_dim: 16, depth: 1, num_heads: 2,
   decoder_embed_dim: 8, decoder_depth: 1, decoder_num_heads: 2}
data: {pairs: [[maxar-rgb, maxar-rgb]], split: train, statistics: store}
optim: {batch_size: 2, steps: 2, warmup_epochs: 1.0, precision: 32-true, betas: [0.9, 0.95]}
run:
  accelerator: cpu
  devices: 1
  checkpoint_every_steps: 1
  val_batches: 1
"""
EVALUATION = """\
name: small
protocol: knn
checkpoint: ROOT/model.safetensors
data:
  source: ROOT/labelled
  sensors: [maxar-rgb]
  kind: class
  split: {val: 0.2, test: 0.4}
input: {img_size: 32, batch_size: 4, pool: mean}
knn: {k: 2, temperature: 0.07}
"""
SENSOR = """\
mission: Mine
source: by me
sensors:
  mine:
    title: My camera
    aliases: [cam]
    nodata: 0
    unit: reflectance
    default_encoding: dn
    encodings:
      dn: {scale: 0.0001, offset: 0.0, source: handbook}
    bands:
      - {name: R, low_nm: 600, high_nm: 700, gsd_m: 10, statistics: {p01: 0.01, p99: 0.5, mean: 0.2, std: 0.1}}
      - {name: G, low_nm: 500, high_nm: 600, gsd_m: 10}
      - {name: B, low_nm: 400, high_nm: 500, gsd_m: 10}
"""


def _geotiff(path: Path, pixels: np.ndarray, *, east_m: float = 0.0, **how: object) -> None:
    transform = rasterio.Affine(10.0, 0.0, 5e5 + east_m, 0.0, -10.0, 5e6)
    shape = {"count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2], "dtype": pixels.dtype}
    with rasterio.open(
        path, "w", **({"driver": "GTiff"} | how), crs="EPSG:32632", transform=transform, **shape
    ) as file:
        file.write(pixels)


def _netcdf(path: Path, pixels: np.ndarray) -> None:
    import h5netcdf

    with h5netcdf.File(path, "w") as file:
        file.dimensions = {"y": pixels.shape[1], "x": pixels.shape[2]}
        for name in ("y", "x"):
            file.create_variable(name, (name,), data=np.arange(file.dimensions[name].size) * 10.0)
        for band, plane in zip(("R", "G", "B"), pixels, strict=True):
            file.create_variable(band, ("y", "x"), data=plane)


def _maps(root: Path, labels: np.ndarray) -> None:
    """Write a table of images with label rasters, and one with polygons."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _geotiff(root / "labels.tif", labels)
    boxes = [shapely.box(5e5 + 100 * n, 5e6 - 100, 5e5 + 100 * n + 90, 5e6) for n in range(3)]
    frame = geopandas.GeoDataFrame({"label": [1, 2, 1]}, geometry=boxes, crs="EPSG:32632")
    for ending in ("gpkg", "geojson", "parquet"):
        name = f"fields.{ending}"
        if ending == "parquet":
            frame.to_parquet(root / name)
        else:
            frame.to_file(root / name)
        rows = [f"{number}.tif,{name},{split}" for number, split in ((0, "train"), (1, "val"), (0, "test"))]
        (root / f"{ending}.csv").write_text("\n".join(["path,label,split", *rows]) + "\n")
    rows = [f"{number}.tif,labels.tif,{split}" for number, split in ((0, "train"), (1, "val"), (0, "test"))]
    (root / "maps.csv").write_text("\n".join(["path,label,split", *rows]) + "\n")


def _manifests(root: Path) -> None:
    rows = [
        {"path": f"{number}.tif", "sensor": "maxar-rgb", "place": "p", "datetime": f"2020-01-0{number + 1}T10:00:00Z"}
        | {"bands": "R=1;G=2;B=3", "split": "train", "nodata": 0, "scale": 1.0}
        for number in range(2)
    ]
    names = list(rows[0])
    (root / "m.csv").write_text(
        "\n".join([",".join(names), *(",".join(map(str, row.values())) for row in rows)]) + "\n"
    )
    (root / "m.yaml").write_text("".join(f"- {json.dumps(row)}\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), root / "m.parquet")


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of whole inputs."""
    root, rng = tmp_path_factory.mktemp("whole"), np.random.default_rng(0)
    pixels = rng.integers(1, 255, (3, 32, 32)).astype(np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(2):
            _geotiff(root / f"{number}.tif", pixels, compress="deflate" if number else "none")
        _geotiff(root / "a.img", pixels, driver="ENVI")
        _geotiff(root / "a.png", pixels, driver="PNG")
    _maps(root, pixels[:1] % 3)
    _netcdf(root / "a.nc", pixels)
    _manifests(root)
    for name, text in (("recipe.yaml", RECIPE), ("mine.yaml", SENSOR)):
        (root / name).write_text(text)
    for label in ("field", "river"):
        (root / "labelled" / label).mkdir(parents=True)
        for number in range(5):
            noise = rng.integers(0, 255, (32, 32, 3)).astype(np.uint8)
            Image.fromarray(noise).save(root / "labelled" / label / f"{number}.png")
    rows = [f"labelled/{label}/{number}.png,{label},train" for label in ("field", "river") for number in range(5)]
    (root / "table.csv").write_text("\n".join(["path,label,split", *rows]) + "\n")
    save_checkpoint(root / "model.safetensors", small_checkpoint(patch_size=16, decoder_embed_dim=8))
    (root / "evaluation.yaml").write_text(EVALUATION.replace("ROOT", str(root)))
    words = ["evaluate", "knn", str(root / "evaluation.yaml"), "--no-cache", "--results", str(root / "results.parquet")]
    assert main(words) == 0
    words = ["prepare", str(root / "m.csv"), "--out", str(root / "store"), "--workers", "1", "--quiet", "--stats"]
    assert main(words) == 0
    return root


def _snapshot(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@contextlib.contextmanager
def _in_time() -> Iterator[None]:
    def hangs(*_: object) -> None:
        raise AssertionError(f"still at work after {_LONGEST_S} s")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.setitimer(signal.ITIMER_REAL, _LONGEST_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def fault_of(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must succeed, or end with code 2 and one message, and leave `inputs` as they are. Gives what
    is wrong with it, in one line for each kind; nothing where all is well."""

    def run(*words: str, inputs: Path) -> str:
        before = _snapshot(inputs)
        capfd.readouterr()
        try:
            with _in_time(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                code = main([*words])
        except SystemExit as stopped:  # argparse ends the program itself
            code = int(str(stopped.code))
        except Exception as problem:  # noqa: BLE001 (whatever it is, it is a fault)
            frame = traceback.extract_tb(problem.__traceback__)[-1]
            return (
                f"{type(problem).__name__} in {Path(frame.filename).name}, {frame.name}, line {frame.lineno}: {problem}"
            )
        said = capfd.readouterr().err
        if code not in (0, 1, 2):
            return f"exit code {code}"
        if code == 2 and len(re.findall(r"^anyband( \w+)?: ", said, re.MULTILINE)) != 1:
            return f"not one message: {said}"
        if _FOREIGN.search(said):
            return f"a library speaks: {said}"
        return "" if _snapshot(inputs) == before else "inputs changed"

    return run
