"""A dry run: it passes for every recipe of the paper on folders laid out like the data, and names what is in the way.

The folders hold random pixels. They show that layout and shapes are right, and nothing else.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from published_folders import RENDERED
from safetensors.torch import save_file
from small_networks import small_checkpoint
from torch import nn

from anyband import cli
from anyband.evaluate import run as run_module
from anyband.evaluate.recipe import list_transfer_recipes, load_transfer_recipe
from anyband.evaluate.run import _Steps, dry_run, dry_run_lines
from anyband.labelled import is_named
from anyband.models.checkpoint import save_checkpoint


@pytest.fixture(scope="module")
def deep_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights with twelve blocks, as the recipes of table 5 want them."""
    path = tmp_path_factory.mktemp("checkpoint") / "deep.safetensors"
    save_checkpoint(path, small_checkpoint(depth=12))
    return path


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the folder, or the table, of a data set by what recipes call it; each is written once."""
    made: dict[str, Path] = {}

    def folder(source: str) -> Path:
        if source not in made:
            root = tmp_path_factory.mktemp("data")
            RENDERED[source](root)
            made[source] = root
        return made[source]

    return folder


def _run(name: str, data: Path | str, checkpoint: Path | str, *changes: str) -> dict[str, Any]:
    recipe = load_transfer_recipe(
        name, [f"data.root={data}", f"checkpoint={checkpoint}", "input.img_size=32", *changes]
    )
    assert recipe.protocol is not None
    return dry_run(recipe, recipe.protocol)


def _recipes() -> list[Any]:
    """Give all recipes of published sets; one of each protocol on each data set is quick enough for every run."""
    seen: set[tuple[str, str | None]] = set()
    found = []
    for name in list_transfer_recipes():
        recipe = load_transfer_recipe(name)
        if not is_named(recipe.data.source):
            continue
        key = (recipe.data.source, recipe.protocol)
        found.append(pytest.param(name, marks=[pytest.mark.slow] * (key in seen)))
        seen.add(key)
    return found


@pytest.mark.parametrize("name", _recipes())
def test_a_recipe_of_the_paper_passes_on_a_folder_laid_out_like_its_data(
    name: str, folder_of: Callable[[str], Path], deep_checkpoint: Path
):
    source = load_transfer_recipe(name).data.source
    found = _run(name, folder_of(source), deep_checkpoint, "head.channels=16")
    assert found["ok"], dry_run_lines(found)
    assert found["cost"]["total_s"] > 0


@pytest.fixture
def pictures(folder_of: Callable[[str], Path]) -> Path:
    return folder_of("ucmerced")


_KNN, _FINETUNED = "paper/table4_ucmerced_knn", "paper/table3_resisc45_finetune"


def test_it_tells_parts_classes_sensors_and_shapes(pictures: Path, deep_checkpoint: Path):
    found = _run(_KNN, pictures, deep_checkpoint)
    message = {check["what"]: check["message"] for check in found["checks"]}
    assert "18 train, 0 val, 2 test; 2 classes; sensors (bands): maxar-rgb (3)" in message["data"]
    assert "12 blocks, 16 wide, 32 pixels, patches of 8" in message["checkpoint"]
    assert "maxar-rgb: 3 bands, 32 × 32; 16 numbers a sample" in message["shapes"]
    assert dry_run_lines(found)[-1] == "nothing was scored; the evaluation can start"


def test_where_nothing_is_fitted_two_test_samples_are_scored(
    pictures: Path, deep_checkpoint: Path, tmp_path: Path
) -> None:
    weights = {"head.weight": torch.ones(2, 16), "head.bias": torch.zeros(2)}
    save_file(weights, tmp_path / "head.safetensors")
    words = ("data.source=ucmerced", "eval_only=true", f"head.file={tmp_path / 'head.safetensors'}")
    found = _run(_FINETUNED, pictures, deep_checkpoint, *words)
    assert found["ok"], found
    assert "2 test samples went through all of it; maxar-rgb: 3 bands" in found["checks"][-1]["message"]
    assert (found["cost"]["num_encoded"], found["cost"]["num_epochs"]) == (4, 0)
    save_file({**weights, "head.bias": torch.zeros(3)}, tmp_path / "head.safetensors")
    broken = _run(_FINETUNED, pictures, deep_checkpoint, *words)
    assert "1 of another shape" in broken["checks"][-1]["message"]


def test_a_head_on_the_hub_is_not_fetched(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "_SIZES", {"b": ("ViT-B", 32, 2, 2)})
    found = _run(_FINETUNED, pictures, "gsumbul/SMARTIES-v1-ViT-B", "data.source=ucmerced", "eval_only=true")
    assert found["ok"], found
    assert "the head is not here and was not looked at" in found["checks"][-1]["message"]


def test_without_the_data_everything_else_is_still_checked(tmp_path: Path, deep_checkpoint: Path):
    found = _run(_KNN, tmp_path / "nowhere", deep_checkpoint)
    assert {check["what"]: check["ok"] for check in found["checks"]} == {
        "recipe": True,
        "checkpoint": True,
        "data": False,
    }
    assert not found["ok"]
    assert found["cost"] is None
    assert "data        NOT OK: " in "\n".join(dry_run_lines(found))
    assert "nowhere" in "\n".join(dry_run_lines(found))


def test_several_things_in_the_way_are_named_together(tmp_path: Path):
    found = _run(_KNN, tmp_path / "nowhere", tmp_path / "missing.safetensors")
    assert [check["what"] for check in found["checks"] if not check["ok"]] == ["checkpoint", "data"]


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ("null", "an evaluation needs a checkpoint"),
        ("missing.safetensors", "there is no checkpoint 'missing.safetensors'"),
        ("somebody/some-encoder", "its name tells no size to check with"),
    ],
)
def test_a_checkpoint_that_can_not_be_had_is_in_the_way(pictures: Path, checkpoint: str, message: str):
    found = _run(_KNN, pictures, checkpoint)
    assert not found["ok"]
    assert message in next(check["message"] for check in found["checks"] if check["what"] == "checkpoint")


@pytest.mark.parametrize(
    "checkpoint",
    [
        "gsumbul/SMARTIES-v1-ViT-B",
        "gsumbul/SMARTIES-v1-ViT-B@main",
        "gsumbul/SMARTIES-v1-finetuned-models/smarties-v1-vitb-eurosat-linprobe.safetensors",
    ],
)
def test_weights_of_the_hub_are_not_fetched_but_stood_for(
    pictures: Path, checkpoint: str, monkeypatch: pytest.MonkeyPatch
):
    # Narrow, so that the test is quick; the name still tells the size.
    monkeypatch.setattr(run_module, "_SIZES", {"b": ("ViT-B", 32, 2, 2)})
    found = _run(_KNN, pictures, checkpoint)
    assert found["ok"]
    message = next(check["message"] for check in found["checks"] if check["what"] == "checkpoint")
    assert "not on this machine, and a dry run fetches nothing; a ViT-B of random weights stands in" in message


@pytest.mark.parametrize(("name", "sizes"), [("ViT-B", (768, 12, 12)), ("ViT-L", (1024, 24, 16))])
def test_what_stands_in_has_the_size_of_the_published_network(name: str, sizes: tuple[int, int, int]):
    letter = run_module._SIZE_IN_NAME.search(f"gsumbul/SMARTIES-v1-{name}")
    assert letter is not None
    assert run_module._SIZES[letter[1].lower()] == (name, *sizes)


def test_a_protocol_for_other_data_is_in_the_way(pictures: Path, deep_checkpoint: Path):
    recipe = load_transfer_recipe(_KNN, [f"data.root={pictures}", f"checkpoint={deep_checkpoint}", "protocol=null"])
    found = dry_run(recipe, "segment")
    assert not found["checks"][0]["ok"]
    assert "is for data of kind class_map" in found["checks"][0]["message"]


def test_a_band_that_no_range_reads_is_in_the_way(folder_of: Callable[[str], Path], deep_checkpoint: Path):
    found = _run("paper/table4_eurosat_knn", folder_of("eurosat"), deep_checkpoint, "input.unseen=refuse")
    check = found["checks"][-1]
    assert (check["what"], check["ok"]) == ("shapes", False)
    assert "B10" in check["message"]


def test_too_little_memory_is_in_the_way(pictures: Path, deep_checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run_module, "available_bytes", lambda device: 1000)
    found = _run(_KNN, pictures, deep_checkpoint)
    assert found["checks"][-1]["what"] == "memory"
    assert "lower fit.batch_size" in found["checks"][-1]["message"]


def test_the_dictionary_is_plain_json_and_says_the_same(pictures: Path, deep_checkpoint: Path):
    found = _run(_KNN, pictures, deep_checkpoint)
    plain = json.loads(json.dumps(found))
    assert plain["ok"]
    assert [check["what"] for check in plain["checks"]] == ["recipe", "checkpoint", "data", "shapes"]
    assert plain["cost"]["num_encoded"] == 20


def test_epochs_count_for_what_is_trained_only(pictures: Path, deep_checkpoint: Path):
    knn = _run(_KNN, pictures, deep_checkpoint)["cost"]
    trained = _run(_FINETUNED, pictures, deep_checkpoint, "data.source=ucmerced", "fit.epochs=7")["cost"]
    assert (knn["num_epochs"], knn["num_encoded"], knn["fitted_bytes"]) == (0, 20, 0)
    assert (trained["num_epochs"], trained["num_encoded"], trained["num_in_epoch"]) == (7, 4, 16)
    assert trained["total_s"] == pytest.approx(4 * trained["encode_s"] + 7 * 16 * trained["epoch_s"])
    assert trained["fitted_bytes"] > 4 * trained["weights_bytes"] * 0.9


def test_a_training_step_is_measured_by_what_it_keeps():
    layers = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    optimizer = torch.optim.AdamW(layers.parameters())
    watch = _Steps()
    with watch.watched():
        layers(torch.ones(3, 8)).square().sum().backward()
        optimizer.step()
    # The input, what comes out of the activation and of the last layer; weights are counted among what is fitted.
    assert watch.kept_bytes == 4 * 3 * (8 + 16 + 4)
    numbers = sum(one.numel() for one in layers.parameters())
    # Weights, gradients and two moments, and a count of steps for each parameter.
    assert watch.fitted_bytes == 4 * (4 * numbers + 4)


@pytest.mark.parametrize("json_words", [[], ["--json"]])
def test_the_command_tells_by_its_exit_code(
    pictures: Path,
    deep_checkpoint: Path,
    json_words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    words = [
        "evaluate",
        "knn",
        _KNN,
        "input.img_size=32",
        "--checkpoint",
        str(deep_checkpoint),
        "--dry-run",
        *json_words,
    ]
    assert cli.main([*words, *json_words, "--data", str(pictures)]) == 0
    assert cli.main([*words, *json_words, "--data", str(tmp_path / "nowhere")]) == 1
    assert "nowhere" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
