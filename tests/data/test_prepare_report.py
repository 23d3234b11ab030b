"""Counts of chips, pairs and footprints, against counting in the plainest way."""

from collections import Counter
from itertools import combinations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from anyband.data.chip_index import SPLITS, chips_of
from anyband.data.prepare import ChipCounter, StoreCounts, describe_store
from anyband.data.store import ChipStore

SENSORS = ("testoptical", "testradar")

chips = st.lists(
    st.tuples(st.sampled_from("pqr"), st.sampled_from(("c0", "c1")), st.sampled_from(SENSORS), st.sampled_from(SPLITS))
)


def _counted(found: list[tuple[str, str, str, str]]) -> StoreCounts:
    """Look at every two chips."""
    sensors = list(dict.fromkeys(chip[2] for chip in found))
    pairs = Counter(
        " + ".join(sorted((one[2], other[2]), key=sensors.index))
        for one, other in combinations(found, 2)
        if one[:2] == other[:2]
    )
    return StoreCounts(
        chips=dict(Counter(chip[2] for chip in found)),
        places=len({chip[0] for chip in found}),
        footprints=len({chip[:2] for chip in found}),
        splits={split: sum(chip[3] == split for chip in found) for split in SPLITS},
        pairs=dict(pairs),
    )


@given(chips)
def test_chips_that_come_place_by_place_are_counted_as_all_at_once(found: list[tuple[str, str, str, str]]) -> None:
    found.sort(key=lambda chip: chip[0])
    counter = ChipCounter()
    for chip in found:
        counter.add(*chip)
    assert counter.result() == _counted(found)


@pytest.mark.parametrize("seed", range(3))
def test_a_store_whose_places_are_scattered_is_counted(make_store, seed: int) -> None:
    store: ChipStore = make_store(places=7, dates=3, splits=("train", "val"))
    store.index = store.index.take(np.random.default_rng(seed).permutation(len(store.index)))
    expected = _counted(list(chips_of(store.index))).lines()
    assert describe_store(store)[1 : 1 + len(expected)] == expected
