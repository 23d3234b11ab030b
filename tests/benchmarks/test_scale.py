"""The layout of large runs: counted, so that every row follows from its inputs."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def scale() -> Iterator[ModuleType]:
    """The script, which stands in a folder of its own."""
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module("scale")
    sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def base(scale: ModuleType) -> Any:
    return scale.network("base")


def _row(scale: ModuleType, base: Any, gpus: int, *words: str) -> dict[str, Any]:
    row: dict[str, Any] = scale.layout(base, gpus, scale.arguments_of(["--pairs-per-core-second", "2000", *words]))
    return row


def test_gpu_hours_do_not_depend_on_the_number_of_gpus_while_arithmetic_limits(scale: ModuleType, base: Any) -> None:
    one, eight = (_row(scale, base, gpus) for gpus in (1, 8))
    assert one["limit"] == eight["limit"] == "arithmetic"
    assert one["GPU hours"] == pytest.approx(eight["GPU hours"])


def test_hours_are_operations_over_the_rate(scale: ModuleType, base: Any) -> None:
    row = _row(scale, base, 1, "--peak-tflops", "500", "--mfu", "0.5")
    expected_s = row["steps"] * 2048 * base.pair_flops / 250e12
    assert row["hours"] == pytest.approx(expected_s / 3600)


def test_a_slow_network_limits_and_sets_the_time(scale: ModuleType, base: Any) -> None:
    row = _row(scale, base, 64, "--link-gb-s", "1")
    assert row["limit"] == "network"
    assert row["hours"] == pytest.approx(row["steps"] * row["network s"] / 3600)


def test_slow_reading_limits(scale: ModuleType, base: Any) -> None:
    assert _row(scale, base, 1, "--pairs-per-core-second", "10")["limit"] == "reading cores"


def test_less_memory_means_more_parts_of_the_same_batch(scale: ModuleType, base: Any) -> None:
    rows = [_row(scale, base, 1, "--gpu-memory-gb", size) for size in ("141", "24")]
    assert rows[0]["parts"] < rows[1]["parts"]
    assert all(row["pairs/GPU"] * row["parts"] == 2048 for row in rows)


def test_weights_that_one_gpu_can_not_hold_are_sharded(scale: ModuleType, base: Any) -> None:
    assert _row(scale, base, 64, "--gpu-memory-gb", "2")["strategy"] == "fsdp"


def test_a_price_adds_a_column(scale: ModuleType, base: Any) -> None:
    row = _row(scale, base, 8, "--price-per-gpu-hour", "3")
    assert row["price"] == pytest.approx(3 * row["GPU hours"])
