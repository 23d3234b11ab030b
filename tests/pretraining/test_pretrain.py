"""Pre-training from a store to a checkpoint: what a run leaves, and how it refuses and fails."""

import contextlib
import errno
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from anyband import cli
from anyband.data.store import ChipStore
from anyband.errors import CatalogueError, ManifestError, OutputError, StoreError, TrainingError
from anyband.models.checkpoint import load_checkpoint
from anyband.pretraining import loop, plan
from anyband.pretraining.cost import METRICS, MetricsLog, read_metrics
from anyband.pretraining.loop import pretrain
from anyband.pretraining.plan import Progress, plan_run, saved_steps
from anyband.pretraining.recipe import KnnRecipe


@pytest.fixture(scope="module")
def finished(pair_store, changed, tmp_path_factory):
    """A finished run with panels: the folder, the recipe and the result."""
    out = tmp_path_factory.mktemp("finished") / "run"
    recipe = changed(run={"panel_every_steps": 6, "log_every_steps": 2})
    return out, recipe, pretrain(recipe, data=pair_store, out=out, shown=False)


def test_the_checkpoint_has_all_that_is_needed_to_use_it(finished):
    out, recipe, result = finished
    checkpoint = load_checkpoint(result.checkpoint)
    assert result.checkpoint == out / "encoder.safetensors"
    assert checkpoint.has_decoder
    assert checkpoint.step == result.steps == 12
    assert checkpoint.recipe == recipe.model_dump(mode="json")
    assert set(checkpoint.sensors) == set(checkpoint.normalisations) == {"sentinel2-l2a", "sentinel1-grd"}
    assert checkpoint.normalisations["sentinel2-l2a"]["bands"] == ["B02", "B03", "B04"]
    assert checkpoint.ranges.name == "smarties_v1"


def test_the_checkpoint_says_which_ranges_learned_nothing(finished, pair_store, changed, tmp_path):
    _, _, result = finished
    ranges = load_checkpoint(result.checkpoint).ranges
    trained = {"blue_1", "green_2", "red_2", "microwave_1", "microwave_2"}
    assert set(ranges.untrained) == set(ranges.range_names) - trained
    # A run that goes on from there trains what it sees, and forgets nothing that was trained.
    again = changed(model={"start": str(result.checkpoint), "ranges": "start", "drop_path": 0.0}, optim={"steps": 1})
    assert plan_run(again, ChipStore.open(pair_store)).checkpoint({}, step=0).ranges == ranges


def test_training_changes_the_weights_and_lowers_the_loss(pair_store, changed, tmp_path):
    recipe = changed(optim={"steps": 60})
    pretrain(recipe, data=pair_store, out=tmp_path / "run", shown=False)
    losses = [float(row["loss"]) for row in read_metrics(tmp_path / "run" / "metrics.csv")]
    assert len(losses) == 60
    assert np.mean(losses[-10:]) < 0.97 * np.mean(losses[:5])


def test_metrics_have_a_row_for_each_logged_step(finished):
    out, _, _ = finished
    rows = read_metrics(out / "metrics.csv")
    assert tuple(rows[0]) == METRICS
    # Every second step is logged, and each third has a checkpoint with a validation loss.
    assert [int(row["step"]) for row in rows] == [2, 3, 4, 6, 8, 9, 10, 12]
    assert all(float(row["val_loss"]) > 0 for row in rows if int(row["step"]) % 3 == 0)
    assert rows[-1]["epoch"] == "6.0"


def test_the_last_two_checkpoints_and_the_best_are_kept(finished):
    out, _, result = finished
    saved = saved_steps(out)
    best = saved[-1][1].best_step
    assert {progress.step for _, progress in saved} == {9, 12, best}
    assert result.best is not None
    assert load_checkpoint(result.best).step == best


def test_the_best_checkpoint_is_the_one_of_lowest_validation_loss(finished):
    out, _, _ = finished
    scores = {int(row["step"]): float(row["val_loss"]) for row in read_metrics(out / "metrics.csv") if row["val_loss"]}
    last = saved_steps(out)[-1][1]
    assert last.best_step == min(scores, key=scores.__getitem__)
    assert last.best_score == min(scores.values())


def test_without_validation_the_training_loss_chooses(pair_store, changed, tmp_path):
    recipe = changed(optim={"steps": 6}, run={"val_batches": 0})
    pretrain(recipe, data=pair_store, out=tmp_path / "run", shown=False)
    last = saved_steps(tmp_path / "run")[-1][1]
    assert last.best_score is not None
    assert last.best_score <= last.smoothed_loss


def test_the_loss_on_the_console_is_the_one_in_the_table_also_after_a_resume(
    pair_store, changed, tmp_path, monkeypatch
):
    recipe = changed(optim={"steps": 4}, run={"val_batches": 0, "log_every_steps": 1, "checkpoint_every_steps": 1})
    texts: list[str] = []

    def advance(_done: int, text: str) -> None:
        texts.append(text)
        if len(texts) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "shown_progress", lambda *_, **__: contextlib.nullcontext(advance))
    with pytest.raises(KeyboardInterrupt):
        pretrain(recipe, data=pair_store, out=tmp_path / "run")
    pretrain(recipe, data=pair_store, out=tmp_path / "run")
    shown = [text.split(",")[0] for text in (*texts[:2], *texts[3:])]
    losses = [float(row["loss"]) for row in read_metrics(tmp_path / "run" / "metrics.csv")]
    assert shown == [f"loss of this step {loss:.4f}" for loss in losses]


def test_panels_and_tensorboard_are_written(finished):
    out, _, _ = finished
    panels = sorted(path.name for path in (out / "panels").iterdir())
    assert panels == [f"step_{step:08d}_sentinel2-l2a_24x24_sentinel1-grd_12x12.png" for step in (6, 12)]
    assert (out / "panels" / panels[0]).read_bytes().startswith(b"\x89PNG")
    assert any((out / "tensorboard").iterdir())


def test_a_finished_run_says_so_and_does_nothing(finished, pair_store, capsys):
    out, recipe, first = finished
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    result = pretrain(recipe, data=pair_store, out=out)
    assert result.already_finished
    assert result.steps == first.steps
    assert "is finished (12 steps); nothing is left to do" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_the_folder_of_another_run_is_refused_with_what_differs(finished, pair_store, changed):
    out, _, _ = finished
    with pytest.raises(OutputError, match=r"holds another run \(seed: 3, not 4\)"):
        pretrain(changed(seed=4), data=pair_store, out=out, shown=False)


def test_a_run_is_not_gone_on_with_where_that_is_not_wanted(finished, pair_store):
    out, recipe, _ = finished
    with pytest.raises(OutputError, match="holds a run already"):
        pretrain(recipe, data=pair_store, out=out, resume=False, shown=False)


def test_a_folder_with_other_things_is_refused_and_kept(pair_store, small_recipe, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="exists and is not the folder of a run"):
        pretrain(small_recipe, data=pair_store, out=tmp_path, shown=False)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_resumed_run_says_so_and_may_have_another_run_part(pair_store, changed, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    _stop_at_save(monkeypatch, number=3, error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        pretrain(changed(), data=pair_store, out=out, shown=False)
    monkeypatch.undo()
    result = pretrain(changed(run={"workers": 1}), data=pair_store, out=out)
    assert result.resumed_from == 6
    assert "after step 6 of 12" in capsys.readouterr().err


def test_a_full_disk_keeps_the_last_good_checkpoint(pair_store, small_recipe, tmp_path, monkeypatch):
    out = tmp_path / "run"
    _stop_at_save(monkeypatch, number=2, error=OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(OutputError, match="no room on the disk to write"):
        pretrain(small_recipe, data=pair_store, out=out, shown=False)
    assert [progress.step for _, progress in saved_steps(out)] == [3]
    assert not list((out / "checkpoints").glob(".*"))
    monkeypatch.undo()
    assert pretrain(small_recipe, data=pair_store, out=out, shown=False).resumed_from == 3


def test_a_checkpoint_with_a_short_file_is_passed_over(pair_store, small_recipe, tmp_path, monkeypatch):
    out = tmp_path / "run"
    _stop_at_save(monkeypatch, number=3, error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        pretrain(small_recipe, data=pair_store, out=out, shown=False)
    monkeypatch.undo()
    model = out / "checkpoints" / "step_00000006" / "model.safetensors"
    model.write_bytes(model.read_bytes()[:100])
    assert pretrain(small_recipe, data=pair_store, out=out, shown=False).resumed_from == 3


def test_a_loss_that_is_not_finite_names_the_places_and_keeps_the_last_checkpoint(
    pair_store, changed, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    original = loop.Stepper.step

    def spoilt(self, step, parts):
        result = original(self, step, parts)
        return (result[0] * float("nan"), None) if step == 4 else result

    monkeypatch.setattr(loop.Stepper, "step", spoilt)
    with pytest.raises(TrainingError, match=r"the loss of step 4 is nan \(pairs of sentinel2-l2a_24x24 \+ ") as told:
        pretrain(changed(optim={"batch_size": 4}), data=pair_store, out=out, shown=False)
    store = ChipStore.open(pair_store)
    known = set(store.index.column("place").to_pylist())
    named = str(told.value).split("places: ")[1].split(")")[0].split(", ")
    assert len(named) == 4
    assert set(named) <= known
    assert [progress.step for _, progress in saved_steps(out)] == [3]


def test_weights_that_are_not_finite_are_never_saved(pair_store, changed, tmp_path, monkeypatch):
    original = loop.Stepper.step

    def spoilt(self, step, parts):
        result = original(self, step, parts)
        if step == 5:
            with torch.no_grad():
                self.model.encoder.cls_token.fill_(float("inf"))
        return result

    monkeypatch.setattr(loop.Stepper, "step", spoilt)
    with pytest.raises(TrainingError, match="the weights after step 5 are not finite"):
        pretrain(changed(), data=pair_store, out=tmp_path / "run", shown=False)
    assert [progress.step for _, progress in saved_steps(tmp_path / "run")] == [3]


def test_rows_beyond_the_restored_step_and_cut_rows_are_taken_away(tmp_path):
    log = MetricsLog(tmp_path / "metrics.csv", tmp_path / "board", restored_step=0)
    for step in (1, 2, 3):
        log.add(step, {"loss": 1.0 / step})
    log.close()
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("4,0.5")
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.csv")] == ["1", "2", "3"]
    MetricsLog(tmp_path / "metrics.csv", tmp_path / "board", restored_step=2).close()
    rows = read_metrics(tmp_path / "metrics.csv")
    assert [(row["step"], float(row["loss"])) for row in rows] == [("1", 1.0), ("2", 0.5)]


def test_the_earlier_of_two_equal_scores_stays_the_best():
    first = Progress(step=3).scored(0.5)
    assert Progress(step=6, best_score=first.best_score, best_step=first.best_step).scored(0.5).best_step == 3


def test_held_out_sensors_are_never_trained_on(pair_store, changed):
    store = ChipStore.open(pair_store)
    with pytest.raises(StoreError, match=r"of which 1 may be .* by data\.pairs=\[\[sentinel2-l2a,sentinel2-l2a\]\]"):
        plan_run(changed(data={"held_out": ("sentinel1-grd",)}), store)


def test_a_misspelt_sensor_is_refused(pair_store, changed):
    store = ChipStore.open(pair_store)
    with pytest.raises(CatalogueError, match="sentinel2-l2a"):
        plan_run(changed(data={"held_out": ("sentinel2-l2aa",)}), store)


def test_a_batch_over_the_number_of_pairs_is_said(pair_store, changed):
    planned = plan_run(changed(optim={"batch_size": 64}), ChipStore.open(pair_store))
    assert any("20 pairs of" in note and "do not fill a batch of 64" in note for note in planned.notes())


def test_statistics_of_the_store_are_asked_for_where_they_are_missing(pair_store, changed):
    with pytest.raises(StoreError, match=r"has no statistics of sensor .*`anyband prepare --stats "):
        plan_run(changed(data={"statistics": "store"}), ChipStore.open(pair_store))


def test_ranges_from_data_are_those_of_the_training_bands(pair_store, changed):
    store = ChipStore.open(pair_store)
    assert len(plan_run(changed(model={"ranges": "from_data"}), store).ranges.ranges) == 5
    v1 = plan_run(changed(), store)
    assert len(v1.ranges.ranges) == 17
    assert any("12 of 17 ranges are seen by no sensor" in note for note in v1.notes())


def test_epochs_and_steps_set_the_length(pair_store, changed):
    store = ChipStore.open(pair_store)
    assert plan_run(changed(optim={"steps": None, "epochs": 7}), store).total_steps == 7 * 2
    assert plan_run(changed(optim={"steps": 5}), store).total_steps == 5


def test_another_store_is_another_run(finished, pair_store, tmp_path):
    out, recipe, _ = finished
    other = tmp_path / "store"
    shutil.copytree(pair_store, other)
    header = json.loads((other / "store.json").read_text())
    header["arrays"][0]["digest"] = "0" * 32
    (other / "store.json").write_text(json.dumps(header))
    with pytest.raises(OutputError, match=r"holds another run \(store: "):
        pretrain(recipe, data=other, out=out, shown=False)


def test_the_command_line_trains_and_takes_overrides_anywhere(pair_store, tmp_path, capsys):
    words = [
        "pretrain",
        "smarties_tiny",
        "model.img_size=32",
        "--data",
        str(pair_store),
        "--out",
        str(tmp_path / "run"),
    ]
    small = [
        "model.embed_dim=24",
        "model.depth=1",
        "optim.batch_size=8",
        "optim.steps=2",
        "run.panel_every_steps=0",
    ]
    assert cli.main([*words, *small, "--quiet"]) == 0
    checkpoint = load_checkpoint(tmp_path / "run" / "encoder.safetensors")
    assert (checkpoint.config.encoder.img_size, checkpoint.config.encoder.depth, checkpoint.step) == (
        32,
        1,
        2,
    )


def test_the_command_line_answers_errors_with_code_2(pair_store, tmp_path, capsys):
    words = ["--data", str(pair_store), "--out", str(tmp_path / "run")]
    assert cli.main(["pretrain", "smarties_tiny", *words, "optim.epoch=2"]) == 2
    assert "did you mean 'epochs'?" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_knn_score_is_taken_now_and_then(pair_store, changed, tmp_path):
    for label, colour in (("dark", 20), ("bright", 220)):
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(12):
            noise = np.random.default_rng(number).normal(colour, 8, (20, 20, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(noise).save(tmp_path / "images" / label / f"{number}.png")
    knn = KnnRecipe(labelled=str(tmp_path / "images"), sensor="maxar-rgb", every_steps=4)
    recipe = changed(optim={"steps": 6}, run={"knn": knn})
    pretrain(recipe, data=pair_store, out=tmp_path / "run", shown=False)
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    scores = {int(row["step"]): float(row["knn_score"]) for row in rows if row["knn_score"]}
    assert scores.keys() == {4, 6}
    assert min(scores.values()) > 0.9


def test_labelled_images_that_are_missing_stop_the_run_before_its_first_step(pair_store, changed, tmp_path):
    knn = KnnRecipe(labelled=str(tmp_path / "nothing"), sensor="maxar-rgb", every_steps=4)
    with pytest.raises(ManifestError, match=r"'.*nothing' does not exist"):
        pretrain(changed(run={"knn": knn}), data=pair_store, out=tmp_path / "run", shown=False)
    assert not saved_steps(tmp_path / "run")


def test_accumulation_in_bf16_and_clipping_work_together(pair_store, changed, tmp_path):
    optim = {"steps": 3, "precision": "bf16-mixed", "clip_grad_norm": 0.5, "accumulate": 2}
    pretrain(changed(optim=optim), data=pair_store, out=tmp_path / "run", shown=False)
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    assert all(float(row["grad_norm"]) > 0 for row in rows)


def _stop_at_save(monkeypatch, *, number, error):
    """Let the save of this number (from 1) fail."""
    original, calls = plan.save_checkpoint, []

    def failing(path, checkpoint):
        calls.append(path)
        if len(calls) == number:
            path.write_bytes(b"half")
            raise error
        original(path, checkpoint)

    monkeypatch.setattr(plan, "save_checkpoint", failing)
