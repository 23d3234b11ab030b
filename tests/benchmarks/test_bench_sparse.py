"""The comparison of decoding shares at toy scale."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
SMALL = ("--endings", "png", "--chip-px", "32", "--steps", "4", "--every", "2", "--batch", "4", "--seeds", "2")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of noisy colours."""
    for kind in range(2):
        (tmp_path / "pictures" / f"c{kind}").mkdir(parents=True)
        for number in range(8):
            draw = np.random.default_rng(10 * kind + number)
            pixels = draw.normal([90 + 60 * kind, 90, 120], 30, (32, 32, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / f"c{kind}" / f"{number}.png")
    return tmp_path / "pictures"


def test_each_ratio_has_its_steps_and_seconds_to_equal_knn(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    import bench_sparse
    import measure

    monkeypatch.setattr(measure, "RESULTS", tmp_path / "results")
    # Rates are taken of rows of five steps, but for the first.
    monkeypatch.setattr(bench_sparse, "_TIMED_STEPS", 10)
    monkeypatch.setattr(bench_sparse, "_ROUNDS", 1)
    words = ["--images", str(pictures), "--out", str(tmp_path / "runs"), "--quiet", *SMALL, "--ratios", "1", "0.25"]
    assert bench_sparse.main(words) == 0
    found = json.loads(next(line for line in capsys.readouterr().out.splitlines() if line.startswith("{")))
    with (tmp_path / "results" / "bench_sparse.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["decode_ratio"]) for row in rows] == [1.0, 0.25]
    assert all(float(row["s/step"]) > 0 for row in rows)
    full = {step: float(rows[0][f"kNN at {step}"]) for step in (2, 4)}
    wanted = found["settings"]["equal_knn"]
    assert wanted == pytest.approx(full[2] + 0.75 * (max(full.values()) - full[2]))
    # The full decoder reaches its own score by definition.
    assert rows[0]["steps to equal kNN"] == str(next(step for step, score in full.items() if score >= wanted))
    assert float(rows[0]["best kNN"]) == max(full.values())
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        "labels.csv", "ratio_0.25_seed_0", "ratio_0.25_seed_1", "ratio_1_seed_0", "ratio_1_seed_1", "store",
    ]  # fmt: skip
