"""How far a loop is: a bar on a terminal, a line now and then in a log."""

import sys

import pytest

from anyband import progress as module
from anyband.progress import progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_every_15_seconds_with_the_time_left(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("cutting chips", 40) as advance:
        for second in range(40):
            clock[0] = 101.0 + second
            advance(1, "s2" if second > 20 else "")
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["cutting chips: 15/40, 25 s left", "cutting chips: 30/40, s2, 10 s left",
                     "cutting chips: 40/40, s2, 0 s left"]  # fmt: skip


def test_a_resumed_loop_estimates_the_time_by_its_own_rate(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("steps", 100, done=50) as advance:
        clock[0] += 20.0
        advance(10)
    assert capsys.readouterr().err == "steps: 60/100, 80 s left\n"


def test_a_terminal_gets_one_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    with progress("cutting chips", 3, done=1) as advance:
        advance(2, "sentinel2-l2a")
    shown = capsys.readouterr().err
    assert "cutting chips" in shown
    assert "3/3" in shown
    assert "sentinel2-l2a" in shown


def test_nothing_is_shown_where_nothing_is_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("cutting chips", 2, shown=False) as advance:
        advance(2)
    assert capsys.readouterr().err == ""
