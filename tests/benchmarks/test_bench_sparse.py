"""The comparison of decoding shares at toy scale."""

import csv
import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
SMALL = ("--places", "60", "--steps", "4", "--every", "2", "--batch", "4", "--seeds", "1", "--ratios", "1", "0.25")


def test_each_ratio_has_its_steps_and_seconds_to_equal_knn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    import bench_sparse
    import measure

    monkeypatch.setattr(measure, "RESULTS", tmp_path / "results")
    assert bench_sparse.main(["--out", str(tmp_path / "runs"), "--quiet", *SMALL]) == 0
    found = json.loads(next(line for line in capsys.readouterr().out.splitlines() if line.startswith("{")))
    with (tmp_path / "results" / "bench_sparse.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["decode_ratio"]) for row in rows] == [1.0, 0.25]
    # The full decoder has its own best score of the first half by definition.
    assert rows[0]["steps to equal kNN"] == "2"
    assert all(float(row["s/step"]) > 0 for row in rows)
    assert found["settings"]["equal_knn"] == float(rows[0]["kNN at 2"])
