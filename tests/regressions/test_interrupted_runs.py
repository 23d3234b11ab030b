"""Runs that are stopped or killed: their workers end with them, one message says so, and the next run clears up."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from anyband.data.ledger import open_ledger, publish
from anyband.data.store import partial_path
from anyband.errors import OutputError
from anyband.files import held, whole_directory, whole_file

# A verb that works in two processes for a minute; `ready` is printed once both are at work.
_VERB = """
import os, signal, sys, time
from anyband.cli import main, sensors
from anyband.progress import worker_pool

def work(number):
    os.write(1, b"ready\\n")  # at once: two processes write, and Python may write a line and its end apart
    time.sleep(60)

def verb(_):
    with worker_pool(2) as pool:
        list(pool.map(work, range(2)))

if __name__ == "__main__":
    # Shells have what they start in the background ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sensors.run = verb
    sys.exit(main(["sensors"]))
"""


@pytest.fixture
def verb(tmp_path: Path):
    """Start the verb in a process group of its own, and give it when its workers are at work."""
    script = tmp_path / "verb.py"
    script.write_text(_VERB)
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen([sys.executable, str(script)], **how) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def test_workers_end_with_a_killed_parent_and_let_its_pipes_go(verb) -> None:
    verb.send_signal(signal.SIGKILL)
    verb.communicate(timeout=10)
    assert verb.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("number", "to_all"),
    [(signal.SIGINT, True), (signal.SIGINT, False), (signal.SIGTERM, True), (signal.SIGTERM, False)],
)
def test_a_signal_stops_a_run_with_one_message_and_its_code(verb, number: signal.Signals, to_all: bool) -> None:
    (os.killpg if to_all else os.kill)(verb.pid, number)
    _, err = verb.communicate(timeout=10)
    assert err == "anyband sensors: stopped; outputs that were not finished were not written\n"
    assert verb.returncode == 128 + number


def test_processes_of_other_devices_stop_without_a_word(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    from anyband.cli import main, sensors

    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(sensors, "run", interrupted)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert main(["sensors"]) == 130
    assert capsys.readouterr().err == ""


_KILLED = """
import os, signal, sys
from pathlib import Path
from anyband.files import {how}
with {how}(Path(sys.argv[1])) as beside:
    {write}
    os.kill(os.getpid(), signal.SIGKILL)
"""
_WRITES = {"whole_file": "beside.write_text('half')", "whole_directory": "(beside / 'a').write_text('half')"}


@pytest.mark.parametrize("how", _WRITES)
def test_what_a_killed_process_left_goes_with_the_next_file(tmp_path: Path, how: str) -> None:
    program = _KILLED.format(how=how, write=_WRITES[how])
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "out")], check=False)
    assert len(list(tmp_path.glob(".*.partial.out"))) == 1
    with whole_file(tmp_path / "other.tif") as beside:
        beside.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["other.tif"]


@pytest.mark.parametrize("lock", [None, "", "held by anybody\n", "held by anyband\nand more"])
def test_what_is_not_ours_stays(tmp_path: Path, lock: str | None) -> None:
    theirs = tmp_path / ".0123abcd.partial.out"
    theirs.mkdir()
    (theirs / "out").write_text("of somebody")
    if lock is not None:
        (theirs / "lock").write_text(lock)
    (tmp_path / ".0123abce.partial.out").write_text("of somebody")
    with whole_file(tmp_path / "out") as beside:
        beside.write_text("ours")
    assert (theirs / "out").read_text() == "of somebody"
    assert (tmp_path / ".0123abce.partial.out").read_text() == "of somebody"


def test_what_another_process_is_writing_stays(tmp_path: Path) -> None:
    with whole_directory(tmp_path / "one") as one, whole_file(tmp_path / "two") as two:
        (one / "a").write_text("1")
        two.write_text("2")
        with whole_file(tmp_path / "three") as three:
            three.write_text("3")
        assert (one / "a").read_text() == "1"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "three", "two"]


def test_a_lock_is_for_one_and_leaves_nothing(tmp_path: Path) -> None:
    lock = tmp_path / "a" / "run" / ".lock"
    with held(lock):
        with (
            pytest.raises(OutputError, match=r"another run is writing to '.*run'; wait for it, or name another"),
            held(lock),
        ):
            pass
        assert lock.is_file()
    assert not list(tmp_path.iterdir())


def test_a_store_whose_replacement_was_killed_between_two_moves_is_back_with_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, move = tmp_path / "out", Path.replace
    out.mkdir()
    (out / "a").write_text("old")
    new = partial_path(out) / "store"
    with open_ledger(out):
        new.mkdir()
    (new / "a").write_text("new")

    def killed(self: Path, target: Path) -> Path:
        if self == new:
            raise KeyboardInterrupt
        return move(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            publish(out)
    assert not out.exists()
    with open_ledger(out):
        assert (out / "a").read_text() == "old"
        publish(out)
    assert (out / "a").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
