"""The profile of reading at toy scale."""

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def test_each_layer_of_reading_is_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    import bench_data
    import bench_reading
    import measure

    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    monkeypatch.setattr(bench_data, "DISTINCT", 4)
    monkeypatch.setattr(bench_reading, "pin_to_one_core", lambda: -1)
    assert bench_reading.main(["--pairs", "64", "--repeats", "1"]) == 0
    found = json.loads(next(line for line in capsys.readouterr().out.splitlines() if line.startswith("{")))
    assert [row["what"] for row in found["rows"]] == [
        "decoding alone",
        "arrays from memory",
        "arrays from files",
        "arrays from files, new memory",
        "batches of training",
    ]
    assert all(row["ms/pair"] > 0 for row in found["rows"])
    assert found["settings"]["pairs"] == 64
