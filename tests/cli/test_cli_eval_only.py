"""`anyband evaluate … --eval-only` with files as SMARTIES released them, for each recipe that has one.

Files are made from plain tensors, data sets are rendered in the folders in which they are published. A head whose
weights are 0 and whose bias chooses one output shows which class that output is taken for.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from safetensors.torch import save_file
from small_networks import encoder_only, small_checkpoint
from torch import Tensor

from anyband.cli import main
from anyband.encode.encoder import SensorEncoder
from anyband.evaluate.inputs import TaskReader
from anyband.evaluate.recipe import load_transfer_recipe
from anyband.evaluate.results import read_results
from anyband.labelled import open_task_data

_WIDTH = 16
_RNG = np.random.default_rng(0)
_S2 = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")

# The order of the outputs is that of the released data loaders (github.com/gsumbul/SMARTIES, `eval_datasets.py`):
# folders in alphabetic order; the list of the 19 classes of BigEarthNet; DFC2020 without savanna and snow.
_EUROSAT = "AnnualCrop Forest HerbaceousVegetation Highway Industrial Pasture PermanentCrop Residential River SeaLake"
_BIGEARTHNET = {0: "Urban fabric", 4: "Pastures", 13: "Transitional woodland, shrub", 18: "Marine waters"}
_DFC2020 = ("forest", "shrubland", "grassland", "wetlands", "croplands", "urban/built-up", "barren", "water")

Head = Callable[[int, int, int], dict[str, Tensor]]


def _chosen(num_classes: int, output: int) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(output), num_classes).float()


def _probe(width: int, num_classes: int, output: int) -> dict[str, Tensor]:
    return {
        "head.0.running_mean": torch.zeros(width),
        "head.0.running_var": torch.ones(width),
        "head.0.num_batches_tracked": torch.tensor(2200),
        "head.1.weight": torch.zeros(num_classes, width),
        "head.1.bias": _chosen(num_classes, output),
    }


def _layer(width: int, num_classes: int, output: int) -> dict[str, Tensor]:
    return {"head.weight": torch.zeros(num_classes, width), "head.bias": _chosen(num_classes, output)}


def _convolution(width: int, num_classes: int, output: int) -> dict[str, Tensor]:
    return {"head.0.weight": torch.zeros(num_classes, width, 1, 1), "head.0.bias": _chosen(num_classes, output)}


def _tif(path: Path, pixels: np.ndarray, *, place: int = 0, gsd_m: float = 10.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    transform = rasterio.Affine(gsd_m, 0, 5e5 + 1e4 * place, 0, -gsd_m, 5e6)
    shape = {"count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2], "dtype": pixels.dtype}
    with rasterio.open(path, "w", driver="GTiff", crs="EPSG:32632", transform=transform, **shape) as file:
        file.write(pixels)


def _dn(*shape: int) -> np.ndarray:
    return _RNG.integers(100, 4000, shape).astype(np.uint16)


def _eurosat(root: Path) -> list[str]:
    names = [f"{one}/{one}_{index}.tif" for one in _EUROSAT.split() for index in (1, 2)]
    for name in names:
        _tif(root / "EuroSAT_MS" / name, _dn(13, 16, 16))
    return [f"./{name}" for name in names if name.endswith("_2.tif")]


def _resisc45(root: Path) -> list[str]:
    names = [f"{one}/{one}_{index:03d}.jpg" for one in _resisc45_classes() for index in (1, 2)]
    for name in names:
        (root / name).parent.mkdir(exist_ok=True)
        Image.fromarray(_RNG.integers(0, 255, (16, 16, 3)).astype(np.uint8)).save(root / name)
    return [f"./{name}" for name in names if name.endswith("_002.jpg")]


def _resisc45_classes() -> list[str]:
    from anyband.labelled.published import _CLASS_FOLDERS

    return sorted(_CLASS_FOLDERS["resisc45"]["classes"])


def _bigearthnet(root: Path) -> list[str]:
    patches = []
    for index in range(4):
        s2, s1 = f"S2A_MSIL2A_20170613T101031_{index}_7", f"S1A_IW_GRDH_1SDV_20170613T165043_33UUP_{index}_7"
        labels = {"labels": ["Pastures", "Sea and ocean" if index % 2 else "Mixed forest"]}
        for band in _S2:
            _tif(root / "S2" / s2 / f"{s2}_{band}.tif", _dn(1, 12, 12))
        for band in ("VV", "VH"):
            _tif(root / "S1" / s1 / f"{s1}_{band}.tif", _RNG.normal(-12, 3, (1, 12, 12)).astype(np.float32))
        (root / "S2" / s2 / f"{s2}_labels_metadata.json").write_text(json.dumps(labels))
        labels |= {"corresponding_s2_patch": s2}
        (root / "S1" / s1 / f"{s1}_labels_metadata.json").write_text(json.dumps(labels))
        patches.append(s2)
    return patches[2:]


def _dfc2020(root: Path) -> list[str]:
    for part in ("test", "validation"):
        for index in range(2):
            files = {
                kind: root / f"ROIs0000_{part}" / f"{kind}_0" / f"ROIs0000_{part}_{kind}_0_p{index}.tif"
                for kind in ("s2", "s1", "dfc")
            }
            _tif(files["s2"], _dn(13, 32, 32), place=index)
            _tif(files["s1"], _RNG.normal(-12, 3, (2, 32, 32)).astype(np.float32), place=index)
            _tif(files["dfc"], _RNG.choice([1, 2, 4, 10], (1, 32, 32)).astype(np.uint16), place=index)
    return []


# Of each released file: recipe, what writes the data, the head, its width over the encoder's, its classes, and outputs
# with the classes that they are.
_ROWS: dict[str, tuple[str, Callable[[Path], list[str]], Head, int, int, Mapping[int, str]]] = {
    "eurosat-linprobe": ("table2_eurosat_linear", _eurosat, _probe, 1, 10, dict(enumerate(_EUROSAT.split()))),
    "eurosat-finetune": ("table2_eurosat_finetune", _eurosat, _layer, 1, 10, {6: "PermanentCrop"}),
    "resisc45-finetune": ("table3_resisc45_finetune", _resisc45, _layer, 1, 45, {0: "airplane", 44: "wetland"}),
    "bigearthnets1-linprobe": ("table1_ben_s1_linear", _bigearthnet, _probe, 1, 19, {4: "Pastures"}),
    "bigearthnets2-finetune": ("table1_ben_s2_finetune", _bigearthnet, _layer, 1, 19, _BIGEARTHNET),
    "bigearthnetmm-linprobe": ("table1_ben_mm_linear", _bigearthnet, _probe, 2, 19, {18: "Marine waters"}),
    "bigearthnetmm-linprobe of table 8": (
        "table8_ben_mm_mixup_concat",
        _bigearthnet,
        _probe,
        2,
        19,
        {4: "Pastures"},
    ),
    "dfc2020-linprobe": ("dfc2020", _dfc2020, _convolution, 1, 8, dict(enumerate(_DFC2020))),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture(scope="module")
def data_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, list[str]]]:
    """Gives the folder of a row's data and the names on its list of test images; each set is rendered once."""
    made: dict[Any, tuple[Path, list[str]]] = {}

    def rendered(row: str) -> tuple[Path, list[str]]:
        write = _ROWS[row][1]
        if write not in made:
            root = tmp_path_factory.mktemp("data")
            made[write] = root, write(root)
        return made[write]

    return rendered


def _save(path: Path, head: dict[str, Tensor]) -> None:
    """Write an encoder and its head in the released layout."""
    checkpoint = encoder_only(small_checkpoint(img_size=32, embed_dim=_WIDTH))
    # Released files have published sizes and no header; a small one must say its sizes.
    sizes = {"img_size": "32", "patch_size": "8", "embed_dim": str(_WIDTH), "depth": "1", "num_heads": "2"}
    save_file({**checkpoint.state, **head}, path, sizes)


Evaluate = Callable[..., int]


@pytest.fixture
def evaluate(here: Path, data_of: Callable[[str], tuple[Path, list[str]]]) -> Evaluate:
    """Score a head with a row's recipe and data; `protocol` is the recipe's where None. Gives the exit code."""

    def run(row: str, head: dict[str, Tensor], *words: str, protocol: str | None = None) -> int:
        recipe = load_transfer_recipe(f"paper/{_ROWS[row][0]}")
        _save(Path(f"smarties-v1-vitb-{row.split()[0]}.safetensors"), head)
        root, listed = data_of(row)
        if listed:
            Path("val.txt").write_text("\n".join(listed) + "\n")
            words = (*words, "data.split.lists.test=val.txt")
        named = ("--checkpoint", f"smarties-v1-vitb-{row.split()[0]}.safetensors", "--data", str(root))
        words = ("--img-size", "32", "--eval-only", "--json", *words)
        return main(["evaluate", protocol or str(recipe.protocol), f"paper/{_ROWS[row][0]}", *named, *words])

    return run


@pytest.mark.parametrize("row", _ROWS)
def test_a_released_file_is_scored_in_its_own_order_of_classes(
    evaluate: Evaluate, row: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, head, times, num_classes, known = _ROWS[row]
    for output, name in list(known.items())[-2:]:
        capsys.readouterr()
        assert evaluate(row, head(times * _WIDTH, num_classes, output)) == 0
        told = json.loads(capsys.readouterr().out)["results"][0]
        assert any(note.startswith("nothing was fitted here: head in 'smarties-v1-vitb-") for note in told["notes"])
        predictions = read_results(Path("results.parquet"), predictions=True)[-1].predictions
        assert predictions is not None
        assert predictions.classes[output] == name
        if predictions.kind == "class_map":
            counted = predictions.arrays["confusion"].sum(axis=(0, 1))
            assert counted[output] == counted.sum() > 0
            continue
        expected = np.tile(_chosen(num_classes, output), (len(predictions.samples), 1))
        assert np.array_equal(predictions.arrays["scores"], expected)


@pytest.mark.parametrize(
    ("table", "place", "names", "count"),
    [
        (1, "BigEarthNet", ["bigearthnets1-linprobe", "bigearthnets2-finetune", "bigearthnetmm-linprobe"], 6),
        (2, "EuroSAT", ["eurosat-linprobe", "eurosat-finetune"], 4),
        (3, "NWPU-RESISC45", ["resisc45-finetune"], 1),
        (8, "BigEarthNet", ["bigearthnetmm-linprobe"], 1),
    ],
)
def test_reproduce_scores_the_released_heads_of_a_table_by_the_names_of_their_files(
    table: int, place: str, names: list[str], count: int, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, write, *_ = _ROWS[names[0]]
    (here / place).mkdir()
    (here / "val.txt").write_text("\n".join(write(here / place)) + "\n")
    heads = here / "gsumbul" / "SMARTIES-v1-finetuned-models"
    heads.mkdir(parents=True)
    for size, name in ((size, name) for size in "bl" for name in names):
        _, _, head, times, num_classes, _ = _ROWS[name]
        _save(heads / f"smarties-v1-vit{size}-{name}.safetensors", head(times * _WIDTH, num_classes, 4))
    words = ("--eval-only", "--no-cache", "--json", "input.img_size=32", "data.split.lists.test=val.txt")
    assert main(["reproduce", str(table), "--data", ".", *words]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    done = [row for row in rows if "ours" in row]
    assert len(done) == count, rows
    assert all(any(note.startswith("nothing was fitted here: head in ") for note in row["notes"]) for row in done)
    assert all(row["ours"].keys() == row["published"].keys() and row["num_samples"]["train"] == 0 for row in done)
    assert all("no head was released for this row" in row["missing"] for row in rows if row not in done)


def test_dfc2020_can_be_read_as_the_pictures_that_its_head_saw(
    evaluate: Evaluate, data_of: Callable[[str], tuple[Path, list[str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("input.statistics=published", "data.tile_px=12", "data.split.val=0")
    assert evaluate("dfc2020-linprobe", _convolution(_WIDTH, 8, 7), *words) == 0
    told = json.loads(capsys.readouterr().out)["results"][0]
    # 32 pixels are three squares of twelve, the last of which reaches back.
    assert told["num_samples"] == {"train": 18, "val": 0, "test": 18}
    title = "published statistics of 'DFC2020' for pictures, made by mean and deviation of the training images"
    assert any(note.endswith(title) for note in told["notes"])
    recipe = load_transfer_recipe("paper/dfc2020", [f"data.root={data_of('dfc2020-linprobe')[0]}", *words])
    data = open_task_data(recipe.data, seed=0, test_only=True)
    reader = TaskReader(SensorEncoder(small_checkpoint()), data, recipe)
    (sensor,) = data.sensors[0]
    found = reader.input_spec(sensor).normalisation
    blue = np.stack([data.read(index).images[0].dn[1] for index in data.split("train").tolist()]) / 10_000
    assert found.p01[1] == pytest.approx(blue.mean() - 2 * blue.std(), rel=0.02)
    assert found.p99[1] == pytest.approx(blue.mean() + 2 * blue.std(), rel=0.02)
    assert (found.mean[1], found.std[1]) == (0.4883, 0.2103)


def test_only_listed_test_images_are_scored(evaluate: Evaluate) -> None:
    assert evaluate("eurosat-linprobe", _probe(_WIDTH, 10, 3)) == 0
    (row,) = read_results(Path("results.parquet"), predictions=True)
    assert row.predictions is not None
    assert row.num_samples == {"train": 0, "val": 0, "test": 10}
    assert all(name.endswith("_2.tif") for name in row.predictions.samples)
    # One image of each class, all taken for one.
    assert row.scores[0].value == pytest.approx(0.1)
    assert "linear" not in row.settings


@pytest.mark.parametrize(
    ("row", "head", "words", "reason"),
    [
        ("eurosat-finetune", _probe(_WIDTH, 10, 0), {}, "is batch normalisation and a linear layer, and 'finetune'"),
        ("eurosat-linprobe", _layer(_WIDTH, 10, 0), {}, "is a linear layer alone, and 'linear' here scores"),
        ("bigearthnets1-linprobe", _probe(_WIDTH, 10, 0), {}, "has 10 outputs, and 'bigearthnet-mm' needs 19"),
        ("bigearthnetmm-linprobe", _probe(_WIDTH, 19, 0), {}, "takes 16 numbers, and features are 32 wide"),
        ("bigearthnets1-linprobe", _probe(2 * _WIDTH, 19, 0), {}, "wants fusion=mixup_concat"),
        ("resisc45-finetune", _layer(1024, 45, 0), {}, "takes 1024 numbers, and features are 16 wide"),
        (
            "dfc2020-linprobe",
            _convolution(_WIDTH, 8, 0),
            {"--head": "upernet"},
            "is a 1×1 convolution, and 'segment' here",
        ),
        ("dfc2020-linprobe", _layer(_WIDTH, 8, 0), {}, "evaluate this one by `finetune`, or `regress`"),
        ("eurosat-linprobe", {}, {}, "holds no fitted head"),
        ("eurosat-linprobe", _probe(_WIDTH, 10, 0), {"compare.untrained=true": ""}, "fits nothing to compare it with"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_message(
    evaluate: Evaluate,
    row: str,
    head: dict[str, Tensor],
    words: dict[str, str],
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert evaluate(row, head, *(word for pair in words.items() for word in pair if word)) == 2
    said = capsys.readouterr()
    assert reason in said.err
    assert said.err.count("anyband evaluate: ") == 1
    assert said.out == ""
    assert not Path("results.parquet").exists()
