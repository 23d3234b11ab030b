"""Curves of a run."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyband.errors import InputError
from anyband.report.figures import curves_png, metrics_png, smoothed


def _written(folder: Path, text: str) -> Path:
    path = folder / "metrics.csv"
    path.write_text(text)
    return path


def test_a_table_without_steps_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no column 'step' \(steps, loss\); did you mean 'steps'"):
        metrics_png(_written(tmp_path, "steps,loss\n0,1\n"), titles={})


def test_a_missing_table_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        metrics_png(tmp_path / "absent.csv", titles={})


def test_only_columns_with_values_get_a_panel(tmp_path: Path) -> None:
    table = _written(tmp_path, "step,loss,lr\n0,1,\n1,2,text\n")
    drawn = metrics_png(table, titles={"loss": "loss", "lr": "learning rate", "knn": "kNN"})
    assert drawn == curves_png({"loss": {"loss": ([0, 1], [1, 2])}}, smooth=["loss"])


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 60))
def test_smoothing_is_the_mean_of_the_neighbours_that_exist(count: int, width: int) -> None:
    values = np.random.default_rng(count).normal(size=count)
    values[:: max(3, count // 2)] = np.nan
    plain = [values[max(0, i - width) : i + width + 1] for i in range(count)]
    expected = [np.mean(part[np.isfinite(part)]) if np.isfinite(part).any() else np.nan for part in plain]
    assert smoothed(values, width=width) == pytest.approx(expected, nan_ok=True, abs=1e-12)


def test_a_drawing_holds_every_panel() -> None:
    panel = {"loss": (range(30), [1.0] * 30)}
    one, two = curves_png({"a": panel}, smooth=["a"]), curves_png({"a": panel, "b": panel})
    width = [int.from_bytes(png[16:20], "big") for png in (one, two)]
    assert width[1] == 2 * width[0]


def test_curves_without_panels_are_refused() -> None:
    with pytest.raises(InputError, match="at least one panel"):
        curves_png({})
