"""The ablation at toy scale: the whole command, what it refuses, and that variants differ in what they say alone."""

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from anyband.pretraining.recipe import recipe_differences

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
SENSORS = ("sentinel2-l2a", "sentinel1-grd", "maxar-rgb")
UNSEEN = ("landsat8-oli-tirs-l2",)
COMMAND = ("--places", "12", "--steps", "4", "--seeds", "1", "--images", "12", "--device", "cpu", "--workers", "1")


@pytest.fixture(scope="module")
def ablation() -> Iterator[ModuleType]:
    """The script and its modules, which stand in a folder of their own."""
    sys.path.insert(0, str(FOLDER))
    import ablation

    yield ablation
    sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def out(ablation: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ablation")
    assert ablation.main(["--out", str(folder), *COMMAND, "--variants", "smarties", "a2mae_anchor"]) == 0
    return folder


def _scores(out: Path) -> list[dict[str, str]]:
    with (out / "ablation_simulated_tiny.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_variant_has_scores_of_each_sensor_and_errors_between_them(out: Path) -> None:
    rows = _scores(out)
    assert {row["variant"] for row in rows} == {"smarties", "a2mae_anchor", "untrained", "band means"}
    of = {name: {(row["sensors"], row["how"], row["unseen"]) for row in rows if row["variant"] == name} for name in
          ("smarties", "a2mae_anchor")}  # fmt: skip
    both = " + ".join(SENSORS[:2])
    assert {(name, "alone", "") for name in SENSORS} | {(both, "side by side", "")} <= of["smarties"]
    assert {(UNSEEN[0], "alone", rule) for rule in ("interpolate", "nearest", "released")} <= of["smarties"]
    assert (both, "joint", "") in of["a2mae_anchor"] - of["smarties"]
    errors = {row["sensors"] for row in rows if row["measure"] == "cross-sensor error" and row["variant"] == "smarties"}
    assert errors == {f"{a} > {b}" for a in SENSORS for b in SENSORS if a != b}


def test_scores_are_shares_and_errors_are_near_that_of_the_mean(out: Path) -> None:
    rows = _scores(out)
    assert all(0 <= float(row["value"]) <= 1 for row in rows if row["measure"] == "knn accuracy")
    # Four steps teach nothing: between the mean, which is 1, and twice as wrong.
    errors = [float(row["value"]) for row in rows if row["measure"] == "cross-sensor error"]
    assert all(0.9 < error < 2 for error in errors)


def test_networks_with_encodings_are_scored_with_and_without_facts(out: Path) -> None:
    told = {
        name: {row["facts"] for row in _scores(out) if row["variant"] == name} for name in ("smarties", "a2mae_anchor")
    }
    assert told == {"smarties": {"hidden"}, "a2mae_anchor": {"hidden", "known"}}


def test_what_is_done_is_not_done_again(ablation: ModuleType, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = sorted((out / "runs").glob("*.json"))
    before = [path.stat().st_mtime_ns for path in runs]
    assert ablation.main(["--out", str(out), *COMMAND, "--variants", "smarties"]) == 0
    assert [path.stat().st_mtime_ns for path in runs] == before
    assert len(_scores(out)) == len({tuple(row.items()) for row in _scores(out)})


def test_runs_of_other_settings_are_refused(
    ablation: ModuleType, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ablation.main(["--out", str(out), *COMMAND, "--steps", "5", "--variants", "smarties"]) == 2
    assert "holds runs of other settings (steps: 4, not 5)" in capsys.readouterr().err


def test_an_unknown_variant_is_refused_with_the_nearest_name(
    ablation: ModuleType, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ablation.main(["--out", str(out), *COMMAND, "--variants", "smartis"]) == 2
    assert "'smartis' is no variant" in capsys.readouterr().err


def test_variants_differ_in_masking_mixup_encodings_and_sets_alone(ablation: ModuleType) -> None:
    from ablation_variants import TrainOptions, recipe_of, variants

    def plain(name: str) -> dict[str, object]:
        return recipe_of(name, TrainOptions(), seed=0, sensors=SENSORS, unseen=UNSEEN).model_dump(mode="json")

    allowed = ("data.sets", "model.mixup", "model.masking", "model.encodings", "model.hidden_image", "model.levels",
               "model.sequence", "optim.batch_size", "optim.base_lr")  # fmt: skip
    for name in (name for name in variants(SENSORS) if not name.startswith("mae_")):
        changed = recipe_differences(plain(name), plain("smarties"))
        assert [line for line in changed if not line.startswith(allowed)] == []


def test_images_a_step_and_the_rate_are_equal_over_variants(ablation: ModuleType) -> None:
    from ablation_variants import TrainOptions, images_a_sample, recipe_of, variants

    for name in variants(SENSORS):
        recipe = recipe_of(name, TrainOptions(), seed=0, sensors=SENSORS, unseen=UNSEEN)
        assert recipe.optim.batch_size * images_a_sample(recipe) == pytest.approx(96, abs=2)
        assert recipe.optim.base_lr * recipe.optim.batch_size == pytest.approx(8e-3 * 48)


def test_tables_give_mean_and_deviation_and_pair_seeds_with_the_reference(ablation: ModuleType) -> None:
    from ablation_table import tables_of

    score = {"measure": "knn accuracy", "sensors": "sentinel2-l2a", "how": "alone", "unseen": "", "pool": "mean"}
    values = {"smarties": (0.50, 0.60), "unified": (0.52, 0.66)}
    rows = [
        {**score, "variant": name, "seed": seed, "facts": "hidden", "value": value}
        for name, of_seeds in values.items()
        for seed, value in enumerate(of_seeds)
    ]
    tables = tables_of(rows)
    assert "| smarties | 55.0 ± 7.1 |" in tables
    assert "| unified | +4.0 ± 2.8 |" in tables


def test_tables_go_between_their_markers_and_nowhere_else(ablation: ModuleType, tmp_path: Path) -> None:
    from ablation_table import put_between_markers

    from anyband.errors import OutputError

    page = tmp_path / "page.md"
    page.write_text("before\n<!-- t -->\nold\n<!-- end of t -->\nafter\n")
    put_between_markers(page, "t", "new")
    assert page.read_text() == "before\n<!-- t -->\n\nnew\n\n<!-- end of t -->\nafter\n"
    with pytest.raises(OutputError, match="has no place for the tables"):
        put_between_markers(page, "other", "new")


def test_the_page_has_a_place_for_each_published_table(ablation: ModuleType) -> None:
    from ablation_table import page_name

    page = (FOLDER.parent / "docs" / "ablation.md").read_text()
    for kind, size in (("simulated", "tiny"), ("simulated", "base"), ("kit", "tiny")):
        assert page.count(f"<!-- {page_name(kind, size)} -->") == 1


def test_results_say_how_they_were_made(out: Path) -> None:
    run = json.loads((out / "runs" / "smarties_0.json").read_text())
    assert set(run["losses"]) == {"smarties"}
    assert {"processor", "commit", "versions", "training_s", "scoring_s"} <= set(run)
