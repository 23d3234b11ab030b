"""Pieces are done once, in any order, and given in theirs; a killed run goes on after what it finished."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyband.data.ledger import Journal, run_pieces, worker_pool
from anyband.errors import OutputError, WorkerError


def _square(number: int) -> int:
    return number * number


def _killed(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def _pieces(count: int) -> list[tuple[str, int]]:
    return [(f"piece {number}", number) for number in range(count)]


def test_results_come_in_the_order_of_the_pieces(tmp_path) -> None:
    def work(number: int) -> int:
        time.sleep(0.01 * ((number * 7) % 5))
        return number * number

    with ThreadPoolExecutor(4) as pool:
        journal = Journal(tmp_path / "j")
        results = list(run_pieces(_pieces(20), work, journal=journal, executor=pool, workers=4))
    assert results == [(f"piece {number}", number * number) for number in range(20)]


def test_finished_pieces_are_not_done_again(tmp_path) -> None:
    journal = Journal(tmp_path / "j")
    list(run_pieces(_pieces(3), _square, journal=journal))
    done: list[int] = []

    def work(number: int) -> int:
        done.append(number)
        return number * number

    results = list(run_pieces(_pieces(5), work, journal=Journal(tmp_path / "j")))
    assert done == [3, 4]
    assert [result for _, result in results] == [0, 1, 4, 9, 16]


def test_results_are_the_same_from_work_and_from_the_journal(tmp_path) -> None:
    def work(number: int) -> tuple[int, str]:
        return number, "x"

    first = list(run_pieces(_pieces(2), work, journal=Journal(tmp_path / "j")))
    assert list(run_pieces(_pieces(2), work, journal=Journal(tmp_path / "j"))) == first


@settings(max_examples=40)
@given(cut=st.integers(0, 400))
def test_a_journal_cut_anywhere_keeps_the_whole_lines_before(tmp_path_factory, cut: int) -> None:
    path: Path = tmp_path_factory.mktemp("journal") / "j"
    journal = Journal(path)
    for key, number in _pieces(12):
        journal.add(key, {"number": number})
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    again = Journal(path)
    assert len(again.results) == whole[:cut].count(b"\n")
    again.add("next", 1)
    assert Journal(path).results == again.results


def test_error_of_a_piece_is_raised_and_the_pieces_before_it_are_kept(tmp_path) -> None:
    def work(number: int) -> int:
        if number == 2:
            raise OutputError("no room")
        return number

    journal = Journal(tmp_path / "j")
    with pytest.raises(OutputError, match="no room"):
        list(run_pieces(_pieces(5), work, journal=journal))
    assert list(journal.results) == ["piece 0", "piece 1"]


def test_one_worker_needs_no_pool() -> None:
    with worker_pool(1) as pool:
        assert pool is None


def test_killed_worker_is_said(tmp_path) -> None:
    with (
        pytest.raises(WorkerError, match=r"a worker process was killed.*fewer --workers"),
        worker_pool(2) as pool,
    ):
        list(run_pieces(_pieces(1), _killed, journal=Journal(tmp_path / "j"), executor=pool, workers=2))


def test_journal_in_a_folder_that_is_a_file_is_said(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write the journal"):
        Journal(tmp_path / "file" / "j")


@pytest.mark.parametrize("batch", [1, 3, 50])
def test_batches_change_no_result(tmp_path, batch: int) -> None:
    with ThreadPoolExecutor(2) as pool:
        journal = Journal(tmp_path / "j")
        results = list(run_pieces(_pieces(20), _square, journal=journal, executor=pool, workers=2, batch=batch))
    assert results == [(f"piece {number}", number * number) for number in range(20)]


def test_pieces_of_a_batch_before_one_that_fails_are_kept(tmp_path) -> None:
    def work(number: int) -> int:
        if number == 3:
            raise OutputError("no room")
        return number

    journal = Journal(tmp_path / "j")
    with ThreadPoolExecutor(1) as pool, pytest.raises(OutputError, match="no room"):
        list(run_pieces(_pieces(6), work, journal=journal, executor=pool, batch=6))
    assert set(Journal(tmp_path / "j").results) == {"piece 0", "piece 1", "piece 2"}


def test_only_pieces_of_a_batch_that_are_not_in_the_journal_are_done(tmp_path) -> None:
    journal = Journal(tmp_path / "j")
    journal.add("piece 1", 100)
    with ThreadPoolExecutor(1) as pool:
        results = list(run_pieces(_pieces(4), _square, journal=journal, executor=pool, batch=4))
    assert [result for _, result in results] == [0, 100, 4, 9]


def test_pieces_are_made_only_a_few_ahead_of_their_results(tmp_path) -> None:
    made: list[int] = []

    def pieces() -> Iterator[tuple[str, int]]:
        for number in range(1000):
            made.append(number)
            yield f"piece {number}", number

    with ThreadPoolExecutor(1) as pool:
        results = run_pieces(pieces(), _square, journal=Journal(tmp_path / "j"), executor=pool, batch=5)
        next(results)
        assert len(made) < 50
        results.close()


@settings(max_examples=40)
@given(keys=st.lists(st.one_of(st.integers(0, 10**7).map("cut {}".format), st.text(max_size=8)), unique=True))
def test_a_journal_gives_back_what_was_noted_under_any_key(tmp_path_factory, keys: list[str]) -> None:
    journal = Journal(tmp_path_factory.mktemp("journal") / "j")
    for number, key in enumerate(keys):
        journal.add(key, number)
    assert dict(journal.results) == {key: number for number, key in enumerate(keys)}
    assert len(journal.results) == len(keys)
