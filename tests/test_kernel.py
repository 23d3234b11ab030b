"""The modules at the top of the package: errors, randomness, strict YAML, files that appear whole."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import anyband
from anyband.cli import VERBS, main
from anyband.errors import AnybandError, OutputError, RecipeError, nearest_name
from anyband.files import check_target, parse_yaml, read_yaml, whole_directory, whole_file
from anyband.progress import progress
from anyband.randomness import generator, permutation, uniform


def test_the_nearest_name_is_offered() -> None:
    assert nearest_name("sentinel2-l2", ["sentinel2-l2a", "naip"]) == "; did you mean 'sentinel2-l2a'?"


def test_no_name_is_offered_when_none_is_near() -> None:
    assert nearest_name("zzz", ["sentinel2-l2a", "naip"]) == ""


@given(seed=st.integers(0, 2**63), step=st.integers(0, 2**40), sample=st.integers(0, 2**40))
@settings(max_examples=25)
def test_equal_arguments_draw_equal_numbers(seed: int, step: int, sample: int) -> None:
    one = generator(seed, step=step, sample=sample, purpose="mask").random(4)
    two = generator(seed, step=step, sample=sample, purpose="mask").random(4)
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("changed", [{"seed": 1}, {"step": 1}, {"sample": 1}, {"purpose": "mixup"}])
def test_every_argument_changes_the_draw(changed: dict[str, object]) -> None:
    plain = {"seed": 0, "step": 0, "sample": 0, "purpose": "mask"}
    words = {**plain, **changed}
    here = generator(words.pop("seed"), **words).random(8)  # type: ignore[arg-type]
    there = generator(0, step=0, sample=0, purpose="mask").random(8)
    assert not np.any(here == there)


def test_a_samples_numbers_do_not_depend_on_its_batch() -> None:
    whole = uniform(3, step=5, samples=[7, 8, 9], purpose="mask", shape=(6,))
    alone = uniform(3, step=5, samples=[9], purpose="mask", shape=(6,))
    np.testing.assert_array_equal(whole[2], alone[0])


def test_streams_of_neighbouring_samples_do_not_overlap() -> None:
    rows = uniform(0, step=0, samples=range(200), purpose="mask", shape=(64,))
    assert len(np.unique(rows)) == rows.size
    correlation = np.corrcoef(rows)[np.triu_indices(200, 1)]
    assert abs(correlation.mean()) < 0.01


def test_a_permutation_holds_each_index_once() -> None:
    order = permutation(0, step=3, purpose="order", size=100)
    np.testing.assert_array_equal(np.sort(order), np.arange(100))


def test_a_duplicate_key_is_refused_with_its_lines() -> None:
    with pytest.raises(RecipeError, match="key 'seed' stands twice, on lines 1 and 3"):
        parse_yaml("seed: 1\nname: x\nseed: 2\n", name="r.yaml", error=RecipeError)


def test_a_duplicate_key_is_refused_inside_a_mapping() -> None:
    with pytest.raises(RecipeError, match="key 'lr' stands twice"):
        parse_yaml("optim:\n  lr: 1\n  lr: 2\n", name="r.yaml", error=RecipeError)


def test_scientific_notation_is_a_number() -> None:
    assert parse_yaml("a: 1e-4\nb: 2.5E+3\nc: 1e", name="x", error=RecipeError) == {
        "a": 1e-4,
        "b": 2500.0,
        "c": "1e",
    }


def test_yaml_can_not_build_python_objects() -> None:
    with pytest.raises(RecipeError, match="not valid YAML"):
        parse_yaml("a: !!python/object/apply:os.system ['true']", name="x", error=RecipeError)


def test_a_missing_yaml_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.yaml"):
        read_yaml(tmp_path / "none.yaml", error=RecipeError)


def test_a_file_appears_when_its_block_ends_well(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a.bin") as beside:
        beside.write_bytes(b"new")
        assert not (tmp_path / "a.bin").exists()
    assert (tmp_path / "a.bin").read_bytes() == b"new"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_failed_block_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"old")
    with pytest.raises(KeyError), whole_file(tmp_path / "a.bin") as beside:
        beside.write_bytes(b"ne")
        raise KeyError("half way")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no room on the disk"), whole_file(tmp_path / "a.bin") as beside:
        beside.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(KeyError), whole_directory(tmp_path / "out") as beside:
        (beside / "one").write_text("1")
        raise KeyError("half way")
    assert not list(tmp_path.iterdir())
    with whole_directory(tmp_path / "out") as beside:
        (beside / "one").write_text("1")
    assert (tmp_path / "out" / "one").read_text() == "1"


def test_a_folder_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="exists already"), whole_directory(tmp_path / "out"):
        pass


def test_a_file_in_place_of_a_folder_is_not_writable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="file"):
        check_target(tmp_path / "file" / "run", is_folder=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_not_writable(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="not writable"):
        check_target(tmp_path / "run", is_folder=True)


def test_a_silent_progress_counts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("work", 3, shown=False) as advance:
        advance(3)
    assert capsys.readouterr().err == ""


def test_an_unknown_verb_exits_with_2_and_offers_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulte"]) == 2
    assert "did you mean 'simulate'?" in capsys.readouterr().err


def test_every_verb_shows_its_help() -> None:
    for verb in VERBS:
        done = subprocess.run(
            [sys.executable, "-m", "anyband", verb, "--help"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert verb in done.stdout


def test_our_errors_have_one_root() -> None:
    assert issubclass(OutputError, AnybandError)
    assert issubclass(OutputError, OSError)


def test_every_public_name_is_there() -> None:
    assert all(getattr(anyband, name) is not None for name in anyband.__all__)


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, anyband; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'load_encodr'"):
        _ = anyband.load_encodr
