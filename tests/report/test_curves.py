"""Curves of a run."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyband.errors import InputError
from anyband.report.figures import Curve, CurvePanel, curves_png, metrics_panels, read_columns, smoothed

_TABLE = "step,loss,lr,knn\n0,1.5,0.1,\n10,1.25,0.2,0.5\n20,nan,0.1,text\n"


def _written(folder: Path, text: str = _TABLE) -> Path:
    path = folder / "metrics.csv"
    path.write_text(text)
    return path


def test_columns_are_read_and_empty_fields_are_missing(tmp_path: Path) -> None:
    columns = read_columns(_written(tmp_path))
    assert columns["step"].tolist() == [0, 10, 20]
    assert np.isnan(columns["knn"]).tolist() == [True, False, True]


def test_a_missing_column_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no column 'losses' .*did you mean 'loss'"):
        read_columns(_written(tmp_path), columns=["losses"])


def test_a_missing_table_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        read_columns(tmp_path / "absent.csv")


def test_only_columns_with_values_get_a_panel(tmp_path: Path) -> None:
    columns = read_columns(_written(tmp_path, "step,loss,lr\n0,1,\n1,2,\n"))
    panels = metrics_panels(columns, titles={"loss": "loss", "lr": "learning rate", "knn": "kNN"})
    assert [panel.title for panel in panels] == ["loss"]
    assert panels[0].curves[0].values == [1, 2]


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 60))
def test_smoothing_is_the_mean_of_the_neighbours_that_exist(count: int, width: int) -> None:
    values = np.random.default_rng(count).normal(size=count)
    values[:: max(3, count // 2)] = np.nan
    plain = [values[max(0, i - width) : i + width + 1] for i in range(count)]
    expected = [np.mean(part[np.isfinite(part)]) if np.isfinite(part).any() else np.nan for part in plain]
    assert smoothed(values, width=width) == pytest.approx(expected, nan_ok=True, abs=1e-12)


def test_a_drawing_holds_every_panel() -> None:
    panel = CurvePanel(title="loss", smooth=True, curves=(Curve(label="loss", steps=range(30), values=[1.0] * 30),))
    one, two = curves_png([panel]), curves_png([panel, panel])
    width = [int.from_bytes(png[16:20], "big") for png in (one, two)]
    assert width[1] == 2 * width[0]


def test_curves_without_panels_are_refused() -> None:
    with pytest.raises(InputError, match="at least one panel"):
        curves_png([])
