"""`anyband results`: the table, comparisons, JSON, and what can't be shown."""

import datetime as dt
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from predicted import class_predictions, number_predictions

from anyband.cli import main
from anyband.evaluate.metrics import Predictions, scores_of
from anyband.evaluate.results import ResultRow, append_results

_NAMES = tuple(f"image {index}" for index in range(40))
_LABELS = np.random.default_rng(0).integers(0, 2, 40)


def _classes(right: int) -> Predictions:
    guessed = np.where(np.arange(40) < right, _LABELS, 1 - _LABELS)
    return class_predictions(_LABELS, np.eye(2)[guessed], classes=("water", "town"), samples=_NAMES)


def _numbers(error: float) -> Predictions:
    truth = np.random.default_rng(1).normal(size=40)
    return number_predictions(truth, truth + error * np.sin(np.arange(40)), samples=_NAMES)


def _row(identity: str, predictions: Predictions, **changed: Any) -> ResultRow:
    row = ResultRow(
        id=identity,
        made=dt.datetime(2024, 5, 1, tzinfo=dt.UTC),
        recipe="fields",
        protocol="linear",
        features="encoder",
        width=32,
        checkpoint="tiny.safetensors",
        checkpoint_hash="c" * 64,
        data="photographs [old]",
        data_fingerprint="f00df00d",
        kind=predictions.kind,
        num_samples={"train": 30, "val": 6, "test": 40},
        seed=0,
        settings={"fusion": "single", "input": {"pool": "cls"}},
        scores=scores_of(predictions, seed=0, num_resamples=50),
        predictions=predictions,
    )
    return replace(row, **changed)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("results") / "results.parquet"
    rows = [
        _row("aaaa11112222", _classes(20), features="untrained encoder"),
        _row("bbbb11112222", _classes(34), settings={"fusion": "single", "input": {"pool": "mean"}}),
        _row("bbbb99992222", _classes(30), protocol="knn"),
        _row("cccc11112222", _numbers(0.5), data="yields", data_fingerprint="beef", protocol="regress"),
        _row("dddd11112222", _numbers(0.1), data="yields", data_fingerprint="beef", protocol="regress"),
    ]
    append_results(path, rows)
    return path


def _lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line.strip() for line in capsys.readouterr().out.splitlines()]


def test_results_stand_by_test_with_the_best_first(
    table: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    assert main(["results", str(table)]) == 0
    lines = _lines(capsys)
    assert lines[0] == "photographs [old] (f00df00d); samples: train 30, val 6, test 40"
    order = [line.split()[0] for line in lines if line[:4] in ("aaaa", "bbbb", "cccc", "dddd")]
    assert order == ["bbbb1111", "bbbb9999", "aaaa1111", "dddd1111", "cccc1111"]
    best = next(line for line in lines if line.startswith("bbbb1111"))
    assert "85.0 [" in best
    assert "pool mean" in best
    assert lines[-1].startswith("5 results; in brackets 95 % bootstrap intervals")


def test_results_are_filtered_by_data_protocol_and_features(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", "photo", "--protocol", "linear", "--features", "untrained"]
    assert main(["results", str(table), *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["results"]
    assert [row["id"] for row in found] == ["aaaa11112222"]


def test_json_holds_scores_with_definitions_and_no_predictions(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["results", str(table), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["results"]
    assert len(found) == 5
    assert found[0]["scores"][0]["value"] == 0.85
    assert found[0]["scores"][0]["definition"].startswith("share of the samples")
    assert "predictions" not in found[0]


def test_one_metric_is_shown_alone_and_only_where_it_is_defined(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["results", str(table), "--metric", "mae"]) == 0
    message = capsys.readouterr().out
    assert "MAE" in message
    assert "RMSE" not in message
    assert "photographs" not in message


def test_two_results_are_compared_in_every_metric(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["results", str(table), "--compare", "bbbb1", "aaaa"]) == 0
    lines = _lines(capsys)
    assert lines[0].startswith("A bbbb1111: linear, encoder, recipe fields")
    accuracy = next(line for line in lines if line.startswith("accuracy"))
    assert accuracy.split()[:5] == ["accuracy,", "%", "85.0", "50.0", "+35.0"]
    assert accuracy.split()[-1] == "A"


def test_of_errors_the_smaller_is_called_better(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["results", str(table), "--compare", "cccc", "dddd", "--metric", "rmse"]) == 0
    row = next(line for line in _lines(capsys) if line.startswith("RMSE"))
    assert row.split()[-1] == "B"


def test_a_comparison_as_json_gives_the_interval(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["results", str(table), "--compare", "bbbb1", "aaaa", "--metric", "accuracy", "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)["differences"]
    assert one["value"] == pytest.approx(0.35)
    assert one["low"] < 0.35 < one["high"]
    assert one["first_is_better"] is True


def test_all_are_compared_with_one_and_those_of_another_test_say_why_not(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["results", str(table), "--against", "aaaa"]) == 0
    lines = _lines(capsys)
    assert [line.split()[0] for line in lines if line.startswith("bbbb")] == ["bbbb1111", "bbbb9999"]
    assert "2 not compared (cccc1111, dddd1111): results of kind 'number'" in lines[-1]


def test_all_compared_with_one_as_json(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["results", str(table), "--against", "aaaa", "--data", "photo", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["reference"] == "aaaa11112222"
    assert [one["id"] for one in found["compared"]] == ["bbbb11112222", "bbbb99992222"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "photografs"], "no result has data 'photografs' (there are 'photographs [old]', 'yields')"),
        (["--protocol", "segment"], "no result has protocol 'segment' (there are 'linear', 'knn', 'regress')"),
        (["--features", "bands"], "no result has features 'bands'"),
        (["--metric", "acuracy"], "there is no metric 'acuracy'"),
        (["--metric", "miou"], "none of the 5 results has the metric 'miou'"),
        (["--compare", "bbbb", "aaaa"], "2 results begin with 'bbbb'"),
        (["--compare", "eeee", "aaaa"], "no result begins with 'eeee' (5 results)"),
        (["--compare", "aaaa", "cccc"], "can't be compared"),
        (["--compare", "aaaa", "bbbb1", "--metric", "mae"], "results of kind 'class' have no 'mae'"),
    ],
)
def test_what_is_not_there_is_said(
    table: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["results", str(table), *words]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_table_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["results", str(tmp_path / "none.parquet")]) == 2
    assert "there is no table of results" in capsys.readouterr().err


def test_a_result_alone_has_nothing_to_be_compared_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    append_results(tmp_path / "one.parquet", [_row("aaaa", _classes(20))])
    assert main(["results", str(tmp_path / "one.parquet"), "--against", "aaaa"]) == 0
    assert "there is no other result" in capsys.readouterr().out
