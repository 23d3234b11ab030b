"""The script for machines with a GPU at small size on the CPU, without the libraries that such machines may lack."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
WITHOUT = ("rasterio", "geopandas", "shapely", "pyproj")
SMALL = ("--device", "cpu", "--sizes", "tiny", "--pairs", "64", "--batch", "8", "--steps", "5", "--workers", "1")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Run gpu.sh in a copy of the scripts, with a Python that refuses to import what is missing there."""
    top = tmp_path_factory.mktemp("machine")
    (top / "benchmarks").mkdir()
    for name in ("gpu.sh", "bench_train.py", "pair_store.py", "pair_costs.py", "measure.py"):
        shutil.copy(BENCHMARKS / name, top / "benchmarks" / name)
    (top / "src").symlink_to(ROOT / "src")
    (top / "sitecustomize.py").write_text(
        f"import sys\nfor name in {WITHOUT}:\n    sys.modules[name] = None\n", encoding="utf-8"
    )
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(top)}
    words = ["bash", str(top / "benchmarks" / "gpu.sh"), *SMALL]
    return top, subprocess.run(words, capture_output=True, text=True, env=environment, check=False, timeout=600)


def test_the_script_ends_well_without_geographic_libraries(ran) -> None:
    assert ran[1].returncode == 0, ran[1].stderr[-2000:]


def test_it_prints_a_table_and_one_line_of_json(ran) -> None:
    lines = [line for line in ran[1].stdout.splitlines() if line.startswith("{")]
    assert len(lines) == 1
    found = json.loads(lines[0])
    assert [row["what"] for row in found["rows"]] == ["step", "from disk"]
    assert found["settings"]["peak_tflops"] > 0
    assert found["settings"]["store_pairs"] == 64


def test_its_rates_are_written_and_lie_where_they_can(ran) -> None:
    with (ran[0] / "benchmarks" / "results" / "gpu.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert float(row["pairs/s"]) == pytest.approx(int(row["batch"]) / float(row["s/step"]), rel=1e-6)
        assert float(row["MFU %"]) > 0
        assert 0 <= float(row["waited for data %"]) <= 100


def test_where_the_time_goes_is_written(ran) -> None:
    text = (ran[0] / "benchmarks" / "results" / "gpu_profile_tiny.txt").read_text(encoding="utf-8")
    assert "aten::" in text


def test_the_store_has_the_real_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from pair_store import build_pair_store

    store = build_pair_store(tmp_path / "store", num_pairs=5, workers=1)
    shapes = {(info.sensor, len(info.bands), info.height, info.width, info.dtype) for info in store.arrays.values()}
    assert shapes == {("sentinel2-l2a", 12, 120, 120, "uint16"), ("sentinel1-grd", 2, 120, 120, "int16")}
    assert all(info.num_chips == 5 for info in store.arrays.values())
    assert not any(info.has_valid for info in store.arrays.values())
