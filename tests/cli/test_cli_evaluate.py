"""`anyband evaluate` as users type it: protocols, recipes, outputs, and what is refused before any work."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import yaml
from PIL import Image
from small_networks import small_checkpoint

from anyband.cli import main
from anyband.encode.encoder import load_encoder
from anyband.evaluate.recipe import load_transfer_recipe
from anyband.evaluate.results import read_results
from anyband.models.checkpoint import save_checkpoint

_PARTS = ("train",) * 6 + ("val",) * 2 + ("test",) * 2
_COLOURS = {"beach": (220, 200, 150), "forest": (40, 90, 40), "river": (60, 80, 140)}
# Quick: no warmup, one epoch, a single-layer head.
_FIT = ("fit.epochs=1", "fit.warmup_epochs=0", "fit.batch_size=4", "head.kind=linear")


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint, class folders, and tables of every kind of labels. Nothing may change it."""
    root = tmp_path_factory.mktemp("kit")
    _checkpoint(root / "tiny.safetensors")
    rng = np.random.default_rng(0)
    rows = []
    for number, (name, colour) in enumerate(_COLOURS.items()):
        (root / "photographs" / name).mkdir(parents=True)
        for index, part in enumerate(_PARTS):
            path = f"photographs/{name}/{index}.png"
            pixels = np.array(colour) + rng.normal(0, 12, (24, 24, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / path)
            rows.append(
                (path, f"{name};{'wet' if number == 2 or index % 2 else 'dry'}", f"{number + index / 10}", part)
            )
    _table(root / "labels.csv", "path,label,split", [(path, labels, part) for path, labels, _, part in rows])
    _table(root / "numbers.csv", "path,label,split", [(path, number, part) for path, _, number, part in rows])
    _maps(root, rng)
    return root


def _table(path: Path, header: str, rows: Sequence[Sequence[str]]) -> None:
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")


def _checkpoint(path: Path) -> None:
    save_checkpoint(path, small_checkpoint(patch_size=16, depth=4, decoder_embed_dim=8))


def _maps(root: Path, rng: np.random.Generator) -> None:
    maps, heights, changes = [], [], []
    for index, part in enumerate(("train",) * 4 + ("val", "test", "test")):
        classes = np.kron(rng.integers(0, 2, (4, 4)), np.ones((8, 8), dtype=np.int64))
        classes[0, :2] = (0, 1)
        image = 60 + 90 * classes + rng.normal(0, 10, (3, 32, 32))
        _tiff(root / f"i{index}.tif", image.clip(1, 255).astype(np.uint8), index)
        _tiff(root / f"before{index}.tif", rng.normal(60, 10, (3, 32, 32)).clip(1, 255).astype(np.uint8), index)
        _tiff(root / f"l{index}.tif", (classes[None] + 1).astype(np.uint8), index)
        _tiff(root / f"n{index}.tif", (classes[None] * 2.5).astype(np.float32), index)
        maps.append((f"i{index}.tif", f"l{index}.tif", part))
        heights.append((f"i{index}.tif", f"n{index}.tif", part))
        changes.append((f"before{index}.tif", f"i{index}.tif", f"l{index}.tif", part))
    _table(root / "maps.csv", "image,label,split", maps)
    _table(root / "heights.csv", "image,label,split", heights)
    _table(root / "changes.csv", "before,after,label,split", changes)


def _tiff(path: Path, pixels: np.ndarray, place: int) -> None:
    transform = rasterio.Affine(10.0, 0.0, 5e5 + 1e4 * place, 0.0, -10.0, 5e6)
    shape = {"count": len(pixels), "height": 32, "width": 32, "dtype": pixels.dtype}
    with rasterio.open(path, "w", driver="GTiff", crs="EPSG:32632", transform=transform, **shape) as file:
        file.write(pixels)


Run = Callable[..., int]
Said = Callable[..., Any]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where the command runs, with a cache of its own beside it."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def evaluate(kit: Path, here: Path) -> Run:
    """Run `anyband evaluate` with the checkpoint; in the words `KIT` is the kit. Gives the exit code."""

    def run(protocol: str, *words: str, checkpoint: bool = True) -> int:
        named = ["--checkpoint", str(kit / "tiny.safetensors")] if checkpoint else []
        return main(["evaluate", protocol, *named, *(word.replace("KIT", str(kit)) for word in words)])

    return run


@pytest.fixture
def told(evaluate: Run, capsys: pytest.CaptureFixture[str]) -> Said:
    """Run with --json and give what was printed, which must be one JSON object."""

    def run(protocol: str, *words: str) -> Any:
        capsys.readouterr()
        assert evaluate(protocol, *words, "--json") == 0
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def refusal(evaluate: Run, here: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run what must end with code 2, one message and no file; gives the message."""

    def run(protocol: str, *words: str, checkpoint: bool = True) -> str:
        capsys.readouterr()
        before = sorted(here.rglob("*"))
        try:
            code = evaluate(protocol, *words, checkpoint=checkpoint)
        except SystemExit as stopped:  # argparse ends the program itself
            code = int(str(stopped.code))
        printed = capsys.readouterr()
        assert code == 2, printed
        assert "Traceback" not in printed.err
        assert printed.out == ""
        assert sorted(here.rglob("*")) == before
        return printed.err

    return run


_PHOTOGRAPHS = ("--data", "KIT/photographs", "--sensor", "rgb", "--split", "0.2,0.3")
_KNN = (*_PHOTOGRAPHS, "--k", "5")
_MAPS = ("--data", "KIT/maps.csv", "--sensor", "rgb")

# What users type, and the metric that comes first.
_COMMANDS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "knn": ("knn", _KNN, "accuracy"),
    "knn of labels": ("knn", ("--data", "KIT/labels.csv", "--sensor", "rgb", "--multi-label", "--k", "3"), "map_micro"),
    "linear": ("linear", (*_PHOTOGRAPHS, "--epochs", "3"), "accuracy"),
    "linear by lbfgs": ("linear", (*_PHOTOGRAPHS, "--solver", "lbfgs"), "accuracy"),
    "linear of numbers": ("linear", ("--data", "KIT/numbers.csv", "--sensor", "rgb", "--kind", "number"), "rmse"),
    "finetune": ("finetune", (*_PHOTOGRAPHS, *_FIT), "accuracy"),
    "regress": ("regress", ("--data", "KIT/numbers.csv", "--sensor", "rgb", *_FIT), "rmse"),
    "regress of maps": (
        "regress",
        ("--data", "KIT/heights.csv", "--sensor", "rgb", "--kind", "number_map", *_FIT),
        "rmse",
    ),
    "segment": ("segment", (*_MAPS, *_FIT), "miou"),
    "change": ("change", ("--data", "KIT/changes.csv", "--sensor", "rgb,rgb", *_FIT, "fusion=concat"), "miou"),
    "leave-one-band-out": ("leave-one-band-out", _KNN, "accuracy"),
}


@pytest.mark.parametrize("command", _COMMANDS)
def test_every_protocol_runs_by_options_alone(told: Said, here: Path, command: str) -> None:
    protocol, words, metric = _COMMANDS[command]
    found = told(protocol, *words)
    first = found["results"][0]
    assert (first["protocol"], first["features"], first["scores"][0]["metric"]) == (protocol, "encoder", metric)
    score = first["scores"][0]
    assert score["low"] <= score["value"] <= score["high"]
    assert [row.id for row in read_results(here / "results.parquet")] == [row["id"] for row in found["results"]]


@pytest.mark.parametrize("command", ["knn", "linear of numbers", "finetune", "segment"])
def test_the_recipe_that_is_written_gives_the_same_numbers(told: Said, here: Path, command: str) -> None:
    protocol, words, _ = _COMMANDS[command]
    found = told(protocol, *words, "--out", "first")
    again = told(protocol, "first/recipe.yaml", "--out", "again", "--no-cache")
    assert _without_time(here / "first") == _without_time(here / "again")
    assert [row["id"] for row in again["results"]] == [row["id"] for row in found["results"]]
    assert "stands in the table already with the same scores" in again["notes"][0]


def _without_time(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((folder / "result.json").read_text())["results"]
    return [{name: value for name, value in row.items() if name != "made"} for row in rows]


def test_the_table_says_what_was_scored_on_what(evaluate: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate("knn", *_KNN, "--untrained", "--baseline") == 0
    printed = capsys.readouterr().out
    assert printed.startswith("knn: tiny.safetensors (")
    assert "on photographs (train 14, val 7, test 9)" in printed
    for name in ("encoder", "untrained encoder", "band means + nearest neighbours"):
        assert name in printed
    assert "in brackets 95 % bootstrap intervals over test samples; validation chose, test is only reported" in printed
    assert "appended to results.parquet; `anyband results results.parquet` prints and compares" in printed


def test_nothing_but_the_object_is_printed_as_json(evaluate: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate("knn", *_KNN, "--json", "--out", "out") == 0
    printed = capsys.readouterr()
    assert len(printed.out.strip().splitlines()) == 1
    assert set(json.loads(printed.out)) == {"results", "notes"}
    assert printed.err == ""


def test_other_values_may_stand_anywhere(told: Said) -> None:
    words = ["input.pool=mean", *_PHOTOGRAPHS[:2], "knn.k=4", *_PHOTOGRAPHS[2:], "seed=3"]
    row = told("knn", *words)["results"][0]
    assert (row["settings"]["knn"]["k"], row["settings"]["input"]["pool"], row["seed"]) == (4, "mean", 3)


def test_words_win_over_options(told: Said) -> None:
    row = told("knn", *_KNN, "knn.k=2")["results"][0]
    assert row["settings"]["knn"]["k"] == 2


def test_options_win_over_the_recipe(told: Said, here: Path, kit: Path) -> None:
    recipe = {
        "name": "mine",
        "data": {"source": str(kit / "photographs"), "sensors": ["rgb"], "split": {"val": 0.2, "test": 0.3}},
        "knn": {"k": 7},
        "checkpoint": "elsewhere.safetensors",
    }
    (here / "mine.yaml").write_text(yaml.safe_dump(recipe))
    row = told("knn", "mine.yaml", "--k", "3")["results"][0]
    assert (row["recipe"], row["settings"]["knn"]["k"], row["checkpoint"]) == ("mine", 3, "tiny.safetensors")


def test_other_data_may_be_given_to_a_recipe(told: Said, here: Path) -> None:
    (here / "mine.yaml").write_text("{name: mine, data: {source: nowhere, sensors: [rgb]}, knn: {k: 3}}")
    row = told("knn", "mine.yaml", "--data", "KIT/photographs", "--split", "0.2,0.3")["results"][0]
    assert row["data"] == "photographs"


def test_the_folder_holds_everything(evaluate: Run, here: Path) -> None:
    assert evaluate("finetune", *_PHOTOGRAPHS, *_FIT, "--out", "out", "--no-results") == 0
    names = {path.name for path in (here / "out").iterdir()}
    weights = {"encoder.safetensors", "encoder_checkpoint.safetensors"}
    assert names == {"report.html", "result.json", "recipe.yaml", *weights}
    assert (here / "out" / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert load_encoder(here / "out" / "encoder_checkpoint.safetensors").config.embed_dim == 16
    assert sorted(here.iterdir()) == [here / "out"]


def test_the_recipe_that_is_written_has_every_key_and_equals_what_was_run(evaluate: Run, here: Path) -> None:
    assert evaluate("linear", *_PHOTOGRAPHS, "--epochs", "2", "--out", "out", "input.pool=mean") == 0
    recipe = load_transfer_recipe(here / "out" / "recipe.yaml")
    assert (recipe.protocol, recipe.linear.epochs, recipe.input.pool) == ("linear", 2, "mean")
    written = yaml.safe_load((here / "out" / "recipe.yaml").read_text())
    assert set(written) == set(type(recipe).model_fields)
    assert set(written["data"]["split"]) == set(recipe.data.split.__dataclass_fields__)


# What the evaluation that fits a head was asked for, beside what scores it again.
_SCORED_AGAIN = {
    "linear": ("linear", (*_PHOTOGRAPHS, "--solver", "lbfgs", "--fraction", "0.5")),
    "finetune": ("finetune", (*_PHOTOGRAPHS, *_FIT)),
    "segment": ("segment", (*_MAPS, *_FIT)),
}


@pytest.mark.parametrize("command", _SCORED_AGAIN)
def test_a_fitted_head_is_scored_again_without_fitting(told: Said, kit: Path, here: Path, command: str) -> None:
    protocol, words = _SCORED_AGAIN[command]
    fitted = told(protocol, *words, "--out", "out")["results"][0]
    tuned = here / "out" / "encoder_checkpoint.safetensors"
    checkpoint = tuned if tuned.exists() else kit / "tiny.safetensors"
    # The last of two options counts.
    again = ("--checkpoint", str(checkpoint), "--eval-only", "--head-file", "out/encoder.safetensors")
    row = told(protocol, *words, *again, "--out", "again")["results"][0]
    assert [one["value"] for one in row["scores"]] == [one["value"] for one in fitted["scores"]]
    assert "nothing was fitted here: head in 'encoder.safetensors'" in row["notes"]
    assert (row["chosen"], row["curves"]) == ({}, {})
    assert row["id"] != fitted["id"]
    assert not list((here / "again").glob("*.safetensors"))


def test_a_head_alone_needs_no_training_images(evaluate: Run, told: Said, here: Path, kit: Path) -> None:
    fitted = told("linear", *_PHOTOGRAPHS, "--solver", "lbfgs", "--out", "out")["results"][0]
    # Only the list of the test images, as the released lists name them.
    names = [str(path.relative_to(kit / "photographs")) for path in sorted((kit / "photographs").glob("*/*.png"))]
    (here / "test.txt").write_text("\n".join(f"./{name}" for name in names[::3]) + "\n")
    head = ("--eval-only", "--head-file", "out/encoder.safetensors")
    source = ("--data", "KIT/photographs", "--sensor", "rgb")
    row = told("linear", *source, *head, "data.split.lists.test=test.txt")["results"][0]
    assert row["num_samples"] == {"train": 0, "val": 0, "test": 10}
    assert row["scores"][0]["value"] > 0.5
    assert fitted["num_samples"]["train"] > 0


def test_what_can_not_be_scored_without_fitting_is_refused(refusal: Callable[..., str]) -> None:
    assert "holds no fitted head; one is known by" in refusal("linear", *_PHOTOGRAPHS, "--eval-only")
    assert "there is no checkpoint 'no.safetensors'" in refusal(
        "linear", *_PHOTOGRAPHS, "--eval-only", "--head-file", "no.safetensors"
    )
    assert "scored with eval_only=true" in refusal("linear", *_PHOTOGRAPHS, "head.file=tiny.safetensors")
    assert "eval_only scores one fitted head, by linear, finetune" in refusal("knn", *_KNN, "--eval-only")


def test_it_says_that_nothing_was_chosen(evaluate: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate("finetune", *_PHOTOGRAPHS, *_FIT, "--out", "out", "--no-results") == 0
    capsys.readouterr()
    again = ("--checkpoint", "out/encoder_checkpoint.safetensors", "--head-file", "out/encoder.safetensors")
    assert evaluate("finetune", *_PHOTOGRAPHS, *again, "--eval-only", "--no-results") == 0
    printed = capsys.readouterr().out
    assert "note: nothing was fitted here: head in 'encoder.safetensors'" in printed
    assert "over test samples; nothing was fitted or chosen here" in printed


def test_a_folder_that_exists_is_left_alone(refusal: Callable[..., str], here: Path) -> None:
    (here / "out").mkdir()
    assert "'out' exists already; remove it or name another folder" in refusal("knn", *_KNN, "--out", "out")


def test_a_table_of_something_else_is_refused_before_any_work(refusal: Callable[..., str], here: Path) -> None:
    (here / "notes.csv").write_text("mine")
    message = refusal("knn", *_KNN, "--out", "out", "--results", "notes.csv")
    assert "'notes.csv' can't be read as a table of results" in message


def test_nothing_is_left_behind_when_a_run_fails(refusal: Callable[..., str]) -> None:
    message = refusal("knn", *_PHOTOGRAPHS, "--k", "500", "--out", "out", "--results", "r.parquet")
    assert "k is 500 but there are 14 training samples; ask for a smaller k" in message


def test_results_are_appended(evaluate: Run, here: Path) -> None:
    assert evaluate("knn", *_KNN, "--results", "mine.parquet") == 0
    assert evaluate("knn", *_PHOTOGRAPHS, "--k", "3", "--results", "mine.parquet") == 0
    assert [row.settings["knn"]["k"] for row in read_results(here / "mine.parquet")] == [5, 3]
    assert not (here / "results.parquet").exists()


def test_no_results_are_appended_where_none_are_wanted(evaluate: Run, here: Path) -> None:
    assert evaluate("knn", *_KNN, "--no-results") == 0
    assert list(here.iterdir()) == []


def test_a_rerun_adds_no_second_row(told: Said, here: Path) -> None:
    told("linear", *_PHOTOGRAPHS, "--epochs", "2")
    again = told("linear", *_PHOTOGRAPHS, "--epochs", "2")
    assert len(read_results(here / "results.parquet")) == 1
    assert "stands in the table already with the same scores" in again["notes"][0]


def test_features_are_kept_in_the_users_cache(evaluate: Run, tmp_path: Path) -> None:
    assert evaluate("knn", *_KNN) == 0
    assert list((tmp_path / "cache" / "anyband" / "features").rglob("*.safetensors"))


def test_features_are_kept_in_the_folder_that_is_named(evaluate: Run, tmp_path: Path, here: Path) -> None:
    assert evaluate("knn", *_KNN, "--cache", "kept", "--baseline") == 0
    assert len(list((here / "kept").rglob("*.safetensors"))) == 2
    assert not (tmp_path / "cache").exists()


def test_no_features_are_kept_where_none_are_wanted(evaluate: Run, tmp_path: Path, here: Path) -> None:
    assert evaluate("knn", *_KNN, "--no-cache", "--no-results") == 0
    assert not (tmp_path / "cache").exists()
    assert list(here.iterdir()) == []


def test_a_second_probe_opens_no_image(
    evaluate: Run, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*_PHOTOGRAPHS, "--untrained", "--baseline", "--cache", "kept")
    assert evaluate("knn", *words, "--k", "5") == 0

    def opened(*_: object) -> None:
        raise AssertionError("an image was opened")

    monkeypatch.setattr("anyband.labelled.images._read", opened)
    assert evaluate("knn", *words, "--k", "3") == 0
    assert evaluate("linear", *words, "--solver", "lbfgs") == 0
    assert "band means + logistic regression" in capsys.readouterr().out


def test_a_dry_run_scores_nothing_and_ends_with_0(
    evaluate: Run, here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("knn", *_KNN, "--dry-run", "--out", "out") == 0
    assert "nothing was scored; the evaluation can start" in capsys.readouterr().out
    assert list(here.iterdir()) == []
    assert not (tmp_path / "cache").exists()


def test_a_dry_run_that_finds_something_in_the_way_ends_with_1(
    evaluate: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("knn", "--data", "KIT/nowhere", "--sensor", "rgb", "--dry-run", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["ok"]
    assert [check["what"] for check in found["checks"] if not check["ok"]] == ["data"]


@pytest.mark.parametrize(
    ("protocol", "words", "message"),
    [
        ("knn", ("nowhere.yaml",), "'nowhere.yaml' is neither a file nor a shipped recipe (paper/"),
        ("knn", ("paper/table4_ucmerced_kn",), "did you mean 'paper/table4_ucmerced_knn'?"),
        ("knn", (*_KNN, "one.yaml", "two.yaml"), "'two.yaml' is neither KEY=VALUE nor the only recipe"),
        ("knn", (*_KNN, "knn.kk=3"), "did you mean 'k'?"),
        ("knn", (*_KNN, "--kk", "3"), "unrecognized arguments: --kk"),
        ("knn", (*_KNN, "knn.k=many"), "key 'knn.k': expected int, found 'many'"),
        ("knn", ("--k", "3"), "say what to evaluate on: name a recipe, or give --data a folder, a table or a data set"),
        ("knn", ("--data", "KIT/nowhere", "--sensor", "rgb"), "nowhere"),
        ("knn", (*_KNN, "--split", "0.2"), "--split takes the shares of val and test, such as 0.1,0.2; found 0.2"),
        ("knn", (*_KNN, "--split", "a,b"), "takes numbers joined by commas, found 'a,b'"),
        ("knn", (*_KNN, "--split", "0.6,0.6"), "leave some to learn from, found val 0.6, test 0.6"),
        ("knn", (*_MAPS, "--kind", "class_map"), "'knn' (nearest neighbours vote; nothing is trained) is for"),
        ("segment", (*_KNN, "--kind", "class"), "'segment' (a head for maps of classes, on a frozen or trained"),
        ("knn", (*_KNN, "--kind", "number"), "take linear, finetune or regress, or say with data.kind what"),
        ("segment", (*_MAPS, "--scales", "0.5,1"), "input.scales are for knn and linear, and 'segment' takes images"),
        ("leave-one-band-out", (*_MAPS, "--kind", "class_map"), "these are of kind 'class_map'; set measures=segment"),
        ("cluster", _KNN, "invalid choice: 'cluster'"),
        ("knn", (*_KNN, "--device", "toaster"), "there is no device 'toaster' here"),
        ("knn", (*_KNN, "fusion=melt"), "key 'fusion': expected one of ['single', 'stack', 'concat', 'mixup_concat'"),
        ("knn", (*_KNN, "--root", "KIT"), "--root is the folder of a data set that --data names, and '"),
    ],
)  # fmt: skip
def test_what_can_not_be_is_refused_at_once(
    refusal: Callable[..., str], protocol: str, words: tuple[str, ...], message: str
) -> None:
    assert message in refusal(protocol, *words)


def test_a_recipe_for_another_protocol_is_refused(refusal: Callable[..., str], here: Path) -> None:
    (here / "mine.yaml").write_text("{name: mine, protocol: linear, data: {source: nowhere}}")
    message = refusal("knn", "mine.yaml", "--data", "KIT/photographs", "--sensor", "rgb")
    assert "recipe 'mine' is for 'linear', and 'knn' was asked for" in message


def test_an_evaluation_needs_a_checkpoint(refusal: Callable[..., str]) -> None:
    message = refusal("knn", *_KNN, checkpoint=False)
    assert "an evaluation needs a checkpoint: name it in the recipe or with --checkpoint" in message


def test_a_cache_that_can_not_be_written_is_said_before_any_work(refusal: Callable[..., str], here: Path) -> None:
    (here / "file").write_text("in the way")
    message = refusal("knn", *_KNN, "--cache", "file/kept")
    assert "features are kept there: name a folder by --cache, or use --no-cache" in message
