"""Pieces are done once, in any order, and given in theirs; a run goes on after what an earlier one finished."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from anyband.data.ledger import Ledger
from anyband.errors import OutputError
from anyband.progress import run_pieces, worker_pool


def _square(number: int) -> int:
    return number * number


def _run(count: int, work: Callable[[int], Any], done: dict[int, Any], **how: Any) -> list[tuple[int, Any]]:
    pieces = ((number, number) for number in range(count))
    return list(run_pieces(pieces, work, find=done.get, keep=done.__setitem__, **how))


@pytest.mark.parametrize("batch", [1, 3, 50])
def test_results_come_in_the_order_of_the_pieces(batch: int) -> None:
    def work(number: int) -> int:
        time.sleep(0.002 * ((number * 7) % 5))
        return number * number

    with ThreadPoolExecutor(4) as pool:
        results = _run(20, work, {}, executor=pool, workers=4, batch=batch)
    assert results == [(number, number * number) for number in range(20)]


@pytest.mark.parametrize("batch", [None, 1, 4])
def test_finished_pieces_are_not_done_again(batch: int | None) -> None:
    done = {1: 100, 2: 200}
    with ThreadPoolExecutor(1) as pool:
        results = _run(5, _square, done, **({"executor": pool, "batch": batch} if batch else {}))
    assert [result for _, result in results] == [0, 100, 200, 9, 16]
    assert done == {0: 0, 1: 100, 2: 200, 3: 9, 4: 16}


@pytest.mark.parametrize("batch", [None, 1, 6])
def test_error_of_a_piece_is_raised_and_the_pieces_before_it_are_kept(batch: int | None) -> None:
    def work(number: int) -> int:
        if number == 3:
            raise OutputError("no room")
        return number

    done: dict[int, int] = {}
    with ThreadPoolExecutor(1) as pool, pytest.raises(OutputError, match="no room"):
        _run(6, work, done, **({"executor": pool, "batch": batch} if batch else {}))
    assert {0, 1, 2} <= set(done)


def test_one_worker_needs_no_pool() -> None:
    with worker_pool(1) as pool:
        assert pool is None


def test_pieces_are_made_only_a_few_ahead_of_their_results() -> None:
    made: list[int] = []

    def pieces() -> Iterator[tuple[int, int]]:
        for number in range(1000):
            made.append(number)
            yield number, number

    done: dict[int, int] = {}
    with ThreadPoolExecutor(1) as pool:
        results = run_pieces(pieces(), _square, find=done.get, keep=done.__setitem__, executor=pool, batch=5)
        next(results)
        assert len(made) < 50
        results.close()


def test_a_ledger_in_a_folder_that_is_a_file_is_said(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write the ledger .*run the same command again"):
        Ledger(tmp_path / "file" / "ledger.sqlite")


def test_a_full_ledger_is_said_and_keeps_what_was_noted(tmp_path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.begin("inputs")
    ledger.keep_cut(0, "a reason")
    (pages,) = ledger.database.execute("PRAGMA page_count").fetchone()
    ledger.database.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(OutputError, match=r"cannot write the ledger .*full.*what is finished is kept"):
        ledger.keep_cut(1, ([], 0.0, bytes(100_000), {}))
    again = Ledger(tmp_path / "ledger.sqlite")
    again.begin("inputs")
    assert (again.cut(0), again.cut(1)) == ("a reason", None)
