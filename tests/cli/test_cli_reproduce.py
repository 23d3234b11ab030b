"""`anyband reproduce`: a table of the paper on folders in their published layout."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from published_folders import RENDERED
from safetensors.torch import save_file
from small_networks import small_checkpoint

from anyband.cli import main
from anyband.evaluate.metrics import METRICS_OF
from anyband.evaluate.recipe import load_transfer_recipe
from anyband.evaluate.reproduce import reproduce, tables_of_the_paper
from anyband.evaluate.run import evaluate
from anyband.models.checkpoint import save_checkpoint


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a small UC-Merced, in which the command runs; beside it a tiny checkpoint."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for level, name in enumerate(("beach", "river")):
        folder = tmp_path / "data" / "UCMerced_LandUse" / "Images" / name
        folder.mkdir(parents=True)
        for number in range(20):
            pixels = (rng.integers(0, 60, (40, 40, 3)) + 120 * level).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{name}{number:02d}.tif")
    save_checkpoint(tmp_path / "tiny.safetensors", small_checkpoint(img_size=32, embed_dim=16))
    return tmp_path / "data"


def test_a_row_is_printed_beside_the_published_number_and_what_is_missing_is_named(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--checkpoint", "tiny.safetensors", "--no-results", "--no-cache", "input.img_size=32", "knn.k=3"]
    assert main(["reproduce", "4", "--data", str(root), *words]) == 0
    told = capsys.readouterr().out
    assert "table 4: kNN over four scales" in told
    assert re.search(r"WHU-RS19 +accuracy +80\.4 +not run", told)
    assert re.search(r"UC-Merced +accuracy +77\.0 +\d", told)
    assert "not run: WHU-RS19: no WHU-RS19 at" in told
    assert "https://captain-whu.github.io/BED4RS" in told
    assert "1 of 3 rows were run" in told
    assert main(["reproduce", "4", "--data", str(root), "--json", *words]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert rows[2]["published"] == {"accuracy": 77.0}
    assert rows[2]["ours"]["accuracy"].endswith("]")
    assert rows[2]["num_samples"] == {"train": 36, "val": 0, "test": 4}


# The data of each table with their rows, and the settings by which these take seconds.
_QUICK = ("input.img_size=32", "knn.k=3", "fit.epochs=1", "linear.epochs=2", "head.channels=8", "fit.warmup_epochs=0")
_ROWS = {
    1: [("bigearthnet-mm", "BigEarthNet", 6)],
    2: [("eurosat", "EuroSAT", 4)],
    3: [("resisc45", "NWPU-RESISC45", 1)],
    4: [("whu-rs19", "WHU-RS19", 1), ("eurosat", "EuroSAT", 1), ("ucmerced", "UCMerced_LandUse", 1)],
    5: [
        ("hls-burn-scars", "hls_burn_scars", 1),
        ("dynamicearthnet", "DynamicEarthNet", 1),
        ("spacenet7", "spacenet7", 1),
    ],
    6: [("sickle", "sickle", 2)],
    7: [("eurosat", "EuroSAT", 3)],
    8: [("bigearthnet-mm", "BigEarthNet", 6)],
}


@pytest.fixture(scope="module")
def v1_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights as they are released: tensors alone, but for the sizes, which those of a small network must say."""
    path = tmp_path_factory.mktemp("weights") / "v1.safetensors"
    sizes = {"img_size": "32", "patch_size": "8", "embed_dim": "16", "depth": "12", "num_heads": "2"}
    decoder = {"decoder_embed_dim": "16", "decoder_depth": "1", "decoder_num_heads": "2"}
    save_file(small_checkpoint(img_size=32, depth=12, embed_dim=16).state, path, sizes | decoder)
    return path


@pytest.mark.parametrize(
    ("table", "source", "place", "count"),
    [pytest.param(table, *row, id=f"{table}-{row[0]}") for table, rows in _ROWS.items() for row in rows],
)
def test_rows_of_each_table_run_end_to_end_on_a_folder_in_its_published_layout(
    table: int, source: str, place: str, count: int, tmp_path: Path, v1_checkpoint: Path
) -> None:
    RENDERED[source](tmp_path / place)
    rows = list(reproduce(table, tmp_path, checkpoint=str(v1_checkpoint), overrides=_QUICK))
    done = [row for row in rows if "ours" in row]
    assert len(done) == count, [row.get("missing") for row in rows]
    for row in done:
        assert row["ours"].keys() == row["published"].keys()
        assert all(re.match(r"\d+\.\d+ \[", score) for score in row["ours"].values())
    assert all("get it: " in row["missing"] for row in rows if row not in done)


@pytest.mark.parametrize(("name", "source"), [("dfc2020", "dfc2020"), ("figure5", "eurosat")])
def test_what_is_in_no_table_runs_end_to_end_on_a_folder_in_its_published_layout(
    name: str, source: str, tmp_path: Path, v1_checkpoint: Path
) -> None:
    RENDERED[source](tmp_path / source)
    recipe = load_transfer_recipe(
        f"paper/{name}", [f"data.root={tmp_path / source}", f"checkpoint={v1_checkpoint}", *_QUICK]
    )
    assert recipe.protocol is not None
    (result,) = evaluate(recipe, recipe.protocol)[1]
    assert len(result.predictions.samples) == {"dfc2020": 2, "figure5": 4}[name]
    assert bool(result.curves) == (recipe.protocol == "segment")


def test_rows_of_table_7_take_the_runs_that_they_name(tmp_path: Path, v1_checkpoint: Path) -> None:
    RENDERED["eurosat"](tmp_path / "EuroSAT")
    (tmp_path / "base_50").mkdir()
    shutil.copy(v1_checkpoint, tmp_path / "base_50" / "encoder.safetensors")
    *others, mixup = reproduce(7, tmp_path, overrides=_QUICK)
    assert re.match(r"\d+\.\d+ \[", mixup["ours"]["accuracy"])
    assert [row["missing"].partition("; make it: ")[2].split(" --out ")[0] for row in others] == [
        "anyband pretrain paper/pretraining/base_50_without_mixup",
        "anyband pretrain paper/pretraining/base_50_bigearthnet",
    ]


def test_what_torchgeo_can_fetch_is_fetched_where_that_is_allowed(
    tmp_path: Path, v1_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(root: str, *, download: bool, checksum: bool) -> None:
        assert download
        assert checksum
        Path(root).mkdir(exist_ok=True)
        if not (tmp_path / "online").exists():
            raise RuntimeError("the connection broke")
        RENDERED["ucmerced"](Path(root))

    def unreachable(root: str, **_: bool) -> None:
        raise OSError(f"no route to the publisher of {Path(root).name}")

    monkeypatch.setattr("torchgeo.datasets.EuroSAT", unreachable)
    monkeypatch.setattr("torchgeo.datasets.UCMerced", fetch)
    arguments = {"checkpoint": str(v1_checkpoint), "overrides": _QUICK}
    assert "get it: " in list(reproduce(4, tmp_path, **arguments))[2]["missing"]
    broken = list(reproduce(4, tmp_path, download=True, **arguments))[2]["missing"]
    assert re.search(r"TorchGeo could not fetch UCMerced into '.*\.partial': the connection broke", broken)
    (tmp_path / "online").touch()
    assert "ours" in list(reproduce(4, tmp_path, download=True, **arguments))[2]
    assert not list(tmp_path.glob("*.partial"))


def test_nothing_that_can_be_run_is_a_negative_answer(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "7", "--data", str(root)]) == 1
    assert "no EuroSAT at" in capsys.readouterr().out
    assert main(["reproduce", "9", "--data", str(root)]) == 2
    assert "the paper has no table 9 with results; there are 1, 2, 3, 4, 5, 6, 7, 8" in capsys.readouterr().err


def test_a_row_without_a_released_head_says_so(root: Path) -> None:
    rows = list(reproduce(4, root, eval_only=True))
    assert "no head was released for this row" in rows[2]["missing"]


@pytest.mark.parametrize("table", sorted(tables_of_the_paper()))
def test_every_row_has_a_recipe_whose_text_has_its_number(table: int, tmp_path: Path) -> None:
    for row in reproduce(table, tmp_path):
        assert load_transfer_recipe(row["recipe"]).name.startswith(f"table{table}_")
        page = (Path(__file__).resolve().parents[2] / "docs" / "paper.md").read_text(encoding="utf-8")
        assert set(row["published"]) <= set(METRICS_OF[load_transfer_recipe(row["recipe"]).data.kind])
        numbers = ", ".join(f"{value:.1f}" for value in row["published"].values())
        assert f"| {numbers} | `anyband evaluate" in page
        assert "get it: " in row["missing"]
