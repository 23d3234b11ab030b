"""From folders and lists as they are published to a score: prepared, pre-trained on both at once, evaluated on each."""

from pathlib import Path

import pytest
from published_folders import make_bigearthnet, make_fmow, write_list

from anyband.cli import main
from anyband.data.store import ChipStore
from anyband.pretraining.cost import read_metrics

_SMALL = ["model.img_size=48", "model.embed_dim=48", "model.depth=1", "model.decoder_embed_dim=32"]
_SMALL += ["model.decoder_depth=1", "run.val_batches=0", "run.panel_every_steps=0", "run.log_every_steps=1"]
_STEPS = [
    "optim.steps=2",
    "optim.batch_size=8",
    "optim.accumulate=4",
    "optim.mix_kinds=true",
    "optim.precision=32-true",
]


@pytest.fixture(scope="module", params=[20, pytest.param(200, marks=pytest.mark.slow)])
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders as published, their lists, a store of both, and a network trained on it for two steps."""
    folder = tmp_path_factory.mktemp("published")
    pairs = make_fmow(folder / "fmow", num=request.param)
    write_list(folder / "fmow.txt", pairs)
    for name, part in (("fmow_train", "/train/"), ("fmow_test", "/test_gt/")):
        write_list(folder / f"{name}.txt", [line for line in pairs if part in line])
    patches = make_bigearthnet(folder / "ben", num=12)
    for name, lines in (
        ("mm", patches),
        ("s2", [one.split()[0] for one in patches]),
        ("s1", [one.split()[1] for one in patches]),
    ):
        write_list(folder / f"{name}_train.txt", lines[:8])
        write_list(folder / f"{name}_test.txt", lines[8:])
    layouts = ["--layout", "fmow-pairs", str(folder / "fmow"), str(folder / "fmow.txt")]
    layouts += ["--layout", "bigearthnet-mm", str(folder / "ben"), str(folder / "mm_train.txt")]
    assert main(["prepare", *layouts, "--out", str(folder / "store"), "--workers", "1", "--quiet"]) == 0
    run = ["pretrain", "smarties_tiny", "--data", str(folder / "store"), "--out", str(folder / "run"), *_STEPS, *_SMALL]
    assert main(run) == 0
    return folder


def test_the_network_learns_from_both_kinds_of_pairs(published: Path) -> None:
    assert [row["step"] for row in read_metrics(published / "run" / "metrics.csv")] == ["1", "2"]
    assert sorted(ChipStore.open(published / "store").arrays) == [
        "maxar-rgb_448x448",
        "sentinel1-grd_120x120",
        "sentinel2-l1c_64x64",
        "sentinel2-l2a_120x120",
    ]


def _evaluate(published: Path, protocol: str, recipe: str, data: str, lists: str, *words: str) -> None:
    out = published / f"results_{lists}_{protocol}"
    named = [f"data.split.lists.{part}={published / f'{lists}_{part}.txt'}" for part in ("train", "test")]
    command = ["evaluate", protocol, recipe, "--checkpoint", str(published / "run" / "encoder.safetensors")]
    command += ["--data", str(published / data), "--out", str(out), "input.img_size=48", *named, *words]
    assert main(command) == 0


def test_fmow_is_evaluated_with_a_list_of_pairs(published: Path, tmp_path: Path, capsys) -> None:
    recipe = tmp_path / "fmow.yaml"
    recipe.write_text("name: fmow\nprotocol: knn\ndata: {source: fmow-pairs, split: {val: 0}}\nfusion: concat\n")
    _evaluate(published, "knn", str(recipe), "fmow", "fmow", "data.split.fraction=0.1", "knn.k=5")
    out, err = capsys.readouterr()
    assert "'fmow_train.txt' is a list of pairs" in err + out
    assert "split.fraction 0.1 is not taken of training samples" in err + out
    assert "accuracy, %" in out


@pytest.mark.parametrize("lists", ["mm", "s2", "s1"])
def test_bigearthnet_is_evaluated_with_each_released_kind_of_list(published: Path, lists: str, capsys) -> None:
    recipe = {"mm": "table1_ben_mm_linear", "s2": "table1_ben_s2_finetune", "s1": "table1_ben_s1_linear"}[lists]
    protocol = recipe.rpartition("_")[2]
    fit = ["fit.epochs=1", "fit.warmup_epochs=0"] if protocol == "finetune" else ["linear.epochs=1"]
    words = ["data.split.val=0.25", "data.split.test=0.25", *fit]
    _evaluate(published, protocol, f"paper/{recipe}", "ben", lists, *words)
    assert "mAP micro, %" in capsys.readouterr().out
