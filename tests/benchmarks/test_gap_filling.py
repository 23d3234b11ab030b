"""Gaps in series: what is taken away, what is scored, and the whole command at toy scale."""

import csv
import datetime as dt
import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from anyband.errors import InputError
from anyband.rasters.grid import IDENTITY, Grid

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def scripts() -> Iterator[None]:
    """The scripts stand in a folder of their own."""
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def dates(scripts: None) -> ModuleType:
    return importlib.import_module("gap_filling_dates")


@pytest.fixture(scope="module")
def cases(scripts: None) -> ModuleType:
    return importlib.import_module("gap_filling_cases")


def _site(dates: ModuleType, days: list[int], *, clouded: dict[int, float] | None = None) -> Any:
    """Make a site with dates so many days after the first; class 4 is vegetation, class 9 is cloud."""
    classes = np.full((len(days), 4, 4), 4)
    for index, share in (clouded or {}).items():
        classes[index].reshape(-1)[: round(share * 16)] = 9
    start = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    return dates.Site(
        name="somewhere",
        optical={index: {"time": index} for index in range(len(days)) if (clouded or {}).get(index, 0) <= 0.5},
        radar=(),
        times=tuple(start + dt.timedelta(days=day) for day in days),
        classes=classes,
    )


def test_one_season_in_three_is_held_out(dates: ModuleType) -> None:
    site = _site(dates, [0, 59, 60, 119, 120, 179, 180, 239, 240])
    assert sorted(site.held_out) == [2, 3, 8]
    assert [row["time"] for row in site.training_rows] == [0, 1, 4, 5, 6, 7]


def test_the_nearest_dates_are_taken_away_until_the_gap_is_wide_enough(dates: ModuleType) -> None:
    site = _site(dates, [0, 62, 70, 80, 84, 90, 100, 140])
    assert dates.cut_gap(site, 3, 5) == dates.Target(date=3, before=2, after=4, gap_days=14.0)
    # Day 84 is nearer than day 70, then day 90 equals it.
    assert dates.cut_gap(site, 3, 15) == dates.Target(date=3, before=2, after=5, gap_days=20.0)
    assert dates.cut_gap(site, 3, 25) == dates.Target(date=3, before=1, after=5, gap_days=28.0)


def test_a_gap_that_hides_what_training_saw_gives_no_target(dates: ModuleType) -> None:
    site = _site(dates, [0, 50, 70, 130, 300])
    assert dates.cut_gap(site, 2, 60) == dates.Target(date=2, before=1, after=3, gap_days=80.0)
    assert dates.cut_gap(site, 2, 100) is None


def test_a_side_without_dates_gives_no_target(dates: ModuleType) -> None:
    site = _site(dates, [61, 70, 80])
    assert dates.cut_gap(site, 0, 5) is None
    assert dates.cut_gap(site, 1, 40) is None


def test_clouded_dates_are_neither_targets_nor_around_them(dates: ModuleType) -> None:
    site = _site(dates, [0, 60, 70, 72, 80, 110, 140], clouded={3: 0.5, 4: 0.2})
    assert site.clear == (0, 1, 2, 5, 6)
    assert [target.date for target in dates.find_targets(site, 10)] == [1, 2, 5]
    assert dates.cut_gap(site, 2, 10).after == 5


def test_clouds_are_those_of_another_date_and_the_same_for_every_gap(dates: ModuleType) -> None:
    site = _site(dates, [0, 60, 70, 72, 80], clouded={3: 0.5, 4: 1.0})
    clouds = dates.draw_clouds(site, 2, seed=0)
    assert (clouds == ~site.seen[3]).all()
    with pytest.raises(InputError, match="has no date of which 20% to 70% are clouded"):
        dates.draw_clouds(_site(dates, [0, 60, 70]), 1, seed=0)


@pytest.fixture
def case(dates: ModuleType, cases: ModuleType) -> Any:
    """A target a quarter of the way from 1000 to 2000, and 100 over the line everywhere; its left half is cut out."""
    site = _site(dates, [60, 70, 100])
    clouds = np.zeros((4, 4), dtype=bool)
    clouds[:, :2] = True
    scored = clouds.copy()
    scored[0] = False
    return cases.Case(
        site=site,
        target=dates.Target(date=1, before=0, after=2, gap_days=40.0),
        bands=("B02", "B03"),
        truth=np.full((2, 4, 4), 1350),
        before=np.full((2, 4, 4), 1000),
        after=np.full((2, 4, 4), 2000),
        clouds=clouds,
        scored=scored,
        grid=Grid(height=4, width=4, transform=IDENTITY, crs=None, gsd_m=10.0),
    )


def test_what_the_network_is_compared_with(cases: ModuleType, case: Any) -> None:
    line = cases._line(case)
    assert (line == 1250).all()
    assert (cases._shifted(case, line) == 1350).all()
    assert (cases._nearest(case) == 1000).all()


def test_errors_are_of_scored_pixels_in_reflectance(cases: ModuleType, case: Any) -> None:
    filled = np.full((2, 4, 4), 1450.0)
    filled[1] = 1350
    filled[:, ~case.scored] = 9999
    found = {row["band"]: row["rmse"] for row in cases.errors(case, {"some": filled})}
    assert found == pytest.approx({"B02": 0.01, "B03": 0.0, "all": np.sqrt(0.5) * 0.01})


def test_what_the_target_holds_under_its_clouds_moves_no_line(cases: ModuleType, case: Any) -> None:
    truth = np.where(case.clouds, 7000, case.truth)
    assert (cases._shifted(replace(case, truth=truth), cases._line(case)) == 1350).all()


def test_the_table_has_means_spreads_and_counts_and_marks_the_best(scripts: None) -> None:
    table = importlib.import_module("gap_filling_table")
    done = [
        {
            "site": "x",
            "least_gap_days": 10,
            "gap_days": days,
            "errors": [
                {"method": method, "band": band, "rmse": rmse * factor}
                for method, factor in (("line in time", 1.0), ("nearest clear date", 2.0))
                for band in ("B02", "all")
            ],
        }
        for days, rmse in ((12.0, 0.01), (18.0, 0.03))
    ]
    rows = table.summarised(done)
    assert rows[0] == {
        "site": "x", "gap_days": 10, "method": "line in time", "band": "B02", "rmse": pytest.approx(0.02),
        "spread": pytest.approx(0.01 * np.sqrt(2)), "dates": 2, "mean_gap_days": 15.0,
    }  # fmt: skip
    text = table.tables_of(rows)
    assert "| 10 days or more (mean 15), n = 2 | line in time | **2.00** ± 1.41 | **2.00** |" in text
    assert "|  | nearest clear date | 4.00 ± 2.83 | 4.00 |" in text


@pytest.mark.real
@pytest.mark.slow
def test_the_command_fills_real_gaps_and_goes_on_where_it_was(
    scripts: None,
    real_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gap_filling = importlib.import_module("gap_filling")
    # One site and a few radar dates will do; most of the time would go into preparing the others.
    sites = [replace(site, radar=site.radar[::12]) for site in gap_filling.find_sites(real_data)][1:]
    monkeypatch.setattr(gap_filling, "find_sites", lambda _images: sites)
    words = [str(real_data), "--out", str(tmp_path), "--steps", "2", "--batch-size", "2", "--most-targets", "1"]
    words += ["--gaps", "30", "--device", "cpu"]
    assert gap_filling.main(words) == 0
    with (tmp_path / "gap_filling.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["dates"] for row in rows} == {"1"}
    assert {row["method"] for row in rows} == set(importlib.import_module("gap_filling_cases").METHODS)
    assert all(0 < float(row["rmse"]) < 1 for row in rows)
    assert (tmp_path / "gap_filling.png").is_file()
    trained = (tmp_path / "run" / "encoder.safetensors").stat().st_mtime_ns
    before = [path.stat().st_mtime_ns for path in sorted((tmp_path / "cases").iterdir())]
    assert gap_filling.main(words) == 0
    assert (tmp_path / "run" / "encoder.safetensors").stat().st_mtime_ns == trained
    assert [path.stat().st_mtime_ns for path in sorted((tmp_path / "cases").iterdir())] == before
    capsys.readouterr()
    assert gap_filling.main([*words, "--seed", "1"]) == 2
    assert "holds results of other settings" in capsys.readouterr().err
