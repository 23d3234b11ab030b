"""Results as a table and as JSON."""

import json
from pathlib import Path

import pytest

from anyband.tasks.metrics import DEFINITIONS, Score
from anyband.tasks.results import (
    Evaluation,
    ScoredFeatures,
    checkpoint_name,
    evaluation_to_dict,
    print_evaluation,
    score_text,
    table_rows,
    write_evaluation,
)


def _score(metric: str, value: float) -> Score:
    return Score(metric=metric, value=value, low=value - 0.05, high=value + 0.05, num_samples=210)  # type: ignore[arg-type]


def _evaluation() -> Evaluation:
    rows = tuple(
        ScoredFeatures(features=name, width=width, scores=(_score("accuracy", value), _score("macro_f1", value)))
        for name, width, value in (("encoder", 192, 0.612), ("band means", 6, 0.3))
    )
    return Evaluation(
        protocol="knn",
        settings={"k": 20, "temperature": 0.07, "pool": "cls"},
        checkpoint="tiny.safetensors sha256:abc",
        data="ucmerced 0123",
        sensors=("maxar-rgb",),
        classes=("beach", "river"),
        num_samples={"train": 1890, "val": 0, "test": 210},
        seed=0,
        rows=rows,
        notes=("maxar-rgb: encoding 'dn'",),
    )


def test_a_score_stands_with_its_interval() -> None:
    assert score_text(_score("accuracy", 0.612)) == "61.2 [56.2–66.2]"


def test_the_table_has_a_row_for_each_kind_of_features_and_the_number_of_samples() -> None:
    header, rows = table_rows(_evaluation())
    assert header == ("features", "width", "accuracy, %", "macro F1, %", "samples")
    assert rows[1] == ("band means", "6", "30.0 [25.0–35.0]", "30.0 [25.0–35.0]", "210")


def test_the_printed_table_names_checkpoint_data_protocol_and_seed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_evaluation(_evaluation())
    printed = " ".join(capsys.readouterr().out.split())
    for part in (
        "tiny.safetensors sha256:abc",
        "ucmerced 0123",
        "k 20",
        "temperature 0.07",
        "seed 0",
        "train 1890",
    ):
        assert part in printed


def test_the_json_defines_its_metrics_and_reads_back(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "r.json", _evaluation())
    values = json.loads((tmp_path / "r.json").read_text())
    assert values["metrics"] == {name: DEFINITIONS[name] for name in ("accuracy", "macro_f1")}
    assert values["rows"][0]["scores"][0] == pytest.approx(
        {"metric": "accuracy", "value": 0.612, "low": 0.562, "high": 0.662, "num_samples": 210}
    )
    assert values["num_samples"]["test"] == 210
    assert evaluation_to_dict(_evaluation())["interval"].startswith("95 % bootstrap")


def test_a_checkpoint_is_named_with_its_hash(golden: Path) -> None:
    assert checkpoint_name(golden / "smarties" / "checkpoint.safetensors").startswith("checkpoint.safetensors sha256:")
