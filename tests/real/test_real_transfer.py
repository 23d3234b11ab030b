"""Every downstream protocol on real images, with few dates, epochs and photographs."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from small_networks import small_checkpoint

from anyband.evaluate.results import read_results
from anyband.models.checkpoint import save_checkpoint

pytestmark = [pytest.mark.real, pytest.mark.slow]

CHOSEN = (
    "ucmerced_knn_scales",
    "ucmerced_linear_lbfgs",
    "ucmerced_finetune",
    "ucmerced_lora",
    "worldcereal_s2",
    "worldcereal_both_mixup_concat",
    "worldcereal_both_joint",
    "worldcereal_landsat8_new_ranges",
    "sen1floods11_both",
    "taizhou_change",
)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("real_transfer", Path(__file__).parent / "transfer.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_checkpoint(path, small_checkpoint(img_size=96, patch_size=16, embed_dim=32, depth=4))
    return path


@pytest.fixture(scope="module")
def out(script: ModuleType, checkpoint: Path, real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("transfer")
    assert script.run_all(real_data, checkpoint, folder, only=CHOSEN, short=True) == sorted(
        CHOSEN, key=[name for name, _, _ in script.evaluations(real_data, folder / "tables", short=True)].index
    )
    return folder


@pytest.mark.parametrize("name", CHOSEN)
def test_a_protocol_gives_a_report_and_scores(out: Path, name: str) -> None:
    result = json.loads((out / name / "result.json").read_text())
    assert result["results"][0]["features"] == "encoder"
    assert all(0 <= score["value"] <= 1 for score in result["results"][0]["scores"])
    assert (out / name / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_simple_baselines_stand_beside_the_encoder(out: Path) -> None:
    found = {(row.recipe, row.features) for row in read_results(out / "results.parquet")}
    assert ("taizhou_change", "change vector analysis") in found
    assert ("worldcereal_s2", "random forest on pixels") in found
    assert ("ucmerced_linear_lbfgs", "band means + logistic regression") in found


def test_blocks_of_one_site_are_what_intervals_draw(out: Path) -> None:
    rows = [row for row in read_results(out / "results.parquet", predictions=True) if row.recipe == "worldcereal_s2"]
    assert rows[0].predictions is not None
    assert len(rows[0].predictions.groups) == 2 * len(set(rows[0].predictions.groups)) > 2


def test_a_rerun_gives_identical_numbers(
    script: ModuleType, checkpoint: Path, real_data: Path, out: Path, tmp_path: Path
) -> None:
    again = ("ucmerced_finetune", "taizhou_change")
    script.run_all(real_data, checkpoint, tmp_path, only=again, short=True)
    first, second = (_scores_of_encoders(folder / "results.parquet") for folder in (out, tmp_path))
    assert second == {name: first[name] for name in again}


def _scores_of_encoders(path: Path) -> dict[str, tuple]:
    return {row.recipe: row.scores for row in read_results(path) if row.features == "encoder"}
