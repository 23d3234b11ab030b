"""How many images fit with a gap between them: against trying all choices."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as options
from hypothesis import strategies as st

from anyband.data.image_sets import UNKNOWN_TIME, most_with_each, room_left

_TIMES = st.lists(st.one_of(st.integers(-20, 20), st.just(UNKNOWN_TIME)), min_size=1, max_size=8).map(sorted)


def _are_apart(times: list[int], chosen: tuple[int, ...], gap: int) -> bool:
    def apart(a: int, b: int) -> bool:
        return gap == 0 or (UNKNOWN_TIME not in (a, b) and abs(a - b) >= gap)

    return all(apart(times[a], times[b]) for a, b in combinations(chosen, 2))


def _choices(times: list[int], gap: int) -> list[tuple[int, ...]]:
    everything = range(len(times))
    return [
        chosen
        for size in range(len(times) + 1)
        for chosen in combinations(everything, size)
        if _are_apart(times, chosen, gap)
    ]


@options(max_examples=100)
@given(times=_TIMES, gap=st.integers(0, 15))
def test_most_with_each_equals_the_best_of_all_choices(times, gap) -> None:
    choices = _choices(times, gap)
    best = [max(len(chosen) for chosen in choices if image in chosen) for image in range(len(times))]
    assert most_with_each(np.array(times), gap) == best


@options(max_examples=100)
@given(times=_TIMES, gap=st.integers(0, 15), which=st.integers(0, 10_000))
def test_room_left_equals_the_best_of_all_choices_that_go_on_from_what_is_taken(times, gap, which) -> None:
    choices = _choices(times, gap)
    taken = choices[which % len(choices)]
    best = max(len(chosen) for chosen in choices if set(taken) <= set(chosen))
    assert room_left(times, [times[image] for image in taken], gap) == best - len(taken)


@pytest.mark.parametrize(("gap", "count"), [(0, 3), (1, 1)])
def test_unknown_times_are_apart_only_without_a_gap(gap: int, count: int) -> None:
    assert most_with_each(np.full(3, UNKNOWN_TIME), gap) == [count] * 3
