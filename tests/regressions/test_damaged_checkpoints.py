"""A bit that flipped in a checkpoint is noticed: a run goes on from the one before, and nothing else uses it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from anyband.errors import CheckpointError, OutputError
from anyband.files import held
from anyband.models.checkpoint import load_checkpoint, read_weights, write_weights
from anyband.pretraining import plan
from anyband.pretraining.cost import read_metrics
from anyband.pretraining.loop import pretrain
from anyband.pretraining.plan import LOCK_FILE


@pytest.fixture(scope="module")
def stopped(pair_store, changed, tmp_path_factory):
    """A run that was stopped after its checkpoints of steps 3 and 6, its recipe, and the weights that it ends with."""
    folder = tmp_path_factory.mktemp("stopped")
    recipe = changed(optim={"steps": 7}, run={"checkpoint_every_steps": 3})
    save = plan.save_checkpoint

    def interrupted(path: Path, checkpoint) -> None:
        if checkpoint.step == 7:
            raise KeyboardInterrupt
        save(path, checkpoint)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(plan, "save_checkpoint", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pretrain(recipe, data=pair_store, out=folder / "run", shown=False)
    shutil.copytree(folder / "run", folder / "whole")
    result = pretrain(recipe, data=pair_store, out=folder / "whole", shown=False)
    assert result.resumed_from == 6
    return folder / "run", recipe, result.checkpoint.read_bytes()


def _flip(path: Path, share: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(share * (len(content) - 1))] ^= 4
    path.write_bytes(content)


_NEWEST = "checkpoints/step_00000006"


@pytest.mark.parametrize(
    ("name", "share"),
    [("model.safetensors", 0.5), ("model.safetensors", 0.02), ("optimizer.safetensors", 0.99), ("state.json", 0.2)],
)
def test_a_run_goes_on_from_the_checkpoint_before_one_that_is_damaged(
    stopped, pair_store, tmp_path, capsys, name: str, share: float
) -> None:
    run, recipe, whole = stopped
    shutil.copytree(run, tmp_path / "run")
    _flip(tmp_path / "run" / _NEWEST / name, share)
    result = pretrain(recipe, data=pair_store, out=tmp_path / "run", shown=False)
    said = capsys.readouterr().err
    assert result.resumed_from == 3
    assert result.checkpoint.read_bytes() == whole
    assert said.startswith("note: '")
    assert "step_00000006" in said
    assert said.endswith("an earlier checkpoint is taken\n")


def test_a_run_without_a_whole_checkpoint_is_refused(stopped, pair_store, tmp_path) -> None:
    run, recipe, _ = stopped
    shutil.copytree(run, tmp_path / "run")
    for folder in (tmp_path / "run" / "checkpoints").iterdir():
        _flip(folder / "optimizer.safetensors", 0.9)
    with pytest.raises(OutputError, match=r"no checkpoint of run '.*' can be used; the newest: .* is damaged"):
        pretrain(recipe, data=pair_store, out=tmp_path / "run", shown=False)


def test_checkpoints_from_before_there_were_checksums_are_taken_up(stopped, pair_store, tmp_path) -> None:
    run, recipe, whole = stopped
    shutil.copytree(run, tmp_path / "run")
    for name in ("model.safetensors", "optimizer.safetensors"):
        path = tmp_path / "run" / _NEWEST / name
        tensors, header = read_weights(path)
        save_file(tensors, path, metadata=header)
    state = tmp_path / "run" / _NEWEST / "state.json"
    sizes = {file.name: file.stat().st_size for file in state.parent.iterdir() if file != state}
    state.write_text(json.dumps({"progress": json.loads(state.read_text())["progress"], "sizes": sizes}))
    result = pretrain(recipe, data=pair_store, out=tmp_path / "run", shown=False)
    assert result.resumed_from == 6
    assert load_file(result.checkpoint).keys() == read_weights(result.checkpoint)[0].keys()
    assert result.checkpoint.read_bytes() == whole


def test_a_finished_run_whose_result_is_damaged_says_how_it_is_made_again(stopped, pair_store, tmp_path) -> None:
    run, recipe, whole = stopped
    shutil.copytree(run.parent / "whole", tmp_path / "run")
    result = tmp_path / "run" / "encoder.safetensors"
    _flip(result, 0.7)
    with pytest.raises(CheckpointError, match=r"is damaged: .*; or remove it: the same command makes it again"):
        pretrain(recipe, data=pair_store, out=tmp_path / "run", shown=False)
    result.unlink()
    assert pretrain(recipe, data=pair_store, out=tmp_path / "run", shown=False).checkpoint.read_bytes() == whole


@pytest.mark.parametrize("share", [0.02, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
def test_a_bit_anywhere_in_weights_is_noticed(tmp_path: Path, share: float) -> None:
    path = tmp_path / "head.safetensors"
    write_weights(path, {"head.weight": torch.arange(40.0)}, {"classes": '["a", "b"]', "settings": "{}"})
    assert read_weights(path)[1]["classes"] == '["a", "b"]'
    _flip(path, share)
    with pytest.raises(CheckpointError, match=r"is damaged|not a whole safetensors file"):
        read_weights(path)


def test_what_another_program_changed_and_wrote_is_no_damage(stopped, tmp_path: Path) -> None:
    run, _, _ = stopped
    path = run / "checkpoints" / "step_00000006" / "model.safetensors"
    with safe_open(path, "pt") as file:
        header, tensors = file.metadata(), {name: file.get_tensor(name) * 2 for name in file.keys()}  # noqa: SIM118
    assert "checksum" in header
    del tensors["pos_embed"], tensors["decoder_pos_embed"]
    save_file(tensors, tmp_path / "m.safetensors", metadata=header)
    assert read_weights(tmp_path / "m.safetensors")[0].keys() == tensors.keys()


def test_a_step_of_thousands_of_digits_is_no_step(stopped, tmp_path) -> None:
    run, _, _ = stopped
    tensors, header = read_weights(run / _NEWEST / "model.safetensors")
    for step in ("9" * 5000, "²", "-1", ""):
        save_file(tensors, tmp_path / "m.safetensors", metadata=header | {"step": step})
        assert load_checkpoint(tmp_path / "m.safetensors").step is None


@pytest.mark.parametrize("text", ["", "[]", "{}", "1", '{"recipe": 1}', "{" * 5000, "\0", '{"recipe": {"seed": "'])
def test_a_damaged_description_of_a_run_is_said(stopped, pair_store, tmp_path, text: str) -> None:
    run, recipe, _ = stopped
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text(text)
    with pytest.raises(OutputError, match=r"'.*run.json' can't be read \(.*\); name another output"):
        pretrain(recipe, data=pair_store, out=tmp_path / "run", shown=False)


def test_rows_of_numbers_that_are_damaged_do_not_count(tmp_path: Path) -> None:
    whole = "step,epoch\n1,0.5\n²,0.5\n" + "9" * 5000 + ",0.5\n"
    (tmp_path / "metrics.csv").write_bytes(whole.encode() + b"2,\xff\n")
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.csv")] == ["1", "2"]


def test_a_log_without_its_header_is_no_log(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("sdep,epoch\n1,0.5\n")
    with pytest.raises(OutputError, match=r"metrics.csv' is damaged: it has no column 'step'; restore it, or move"):
        read_metrics(tmp_path / "metrics.csv")


def test_two_runs_do_not_train_in_one_folder(stopped, pair_store, tmp_path) -> None:
    run, recipe, _ = stopped
    shutil.copytree(run, tmp_path / "run")
    for out in (tmp_path / "run", tmp_path / "new"):
        with held(out / LOCK_FILE), pytest.raises(OutputError, match=r"another run is writing to '.*'; wait for it"):
            pretrain(recipe, data=pair_store, out=out, shown=False)
    assert not (tmp_path / "new").exists()
