"""Counts of chips, pairs and footprints, against counting in the plainest way."""

import sqlite3
from collections import Counter
from itertools import combinations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from anyband.data.prepare import PrepareReport, count_index, describe_store
from anyband.data.store import SPLITS, ChipStore
from anyband.data.store_writer import ChipRecord, IndexWriter

SENSORS = ("testoptical", "testradar")

chips = st.lists(
    st.tuples(st.sampled_from("pqr"), st.sampled_from(("c0", "c1")), st.sampled_from(SENSORS), st.sampled_from(SPLITS))
)


def _counted(found: list[tuple[str, str, str, str]]) -> PrepareReport:
    """Look at every two chips."""
    sensors = list(dict.fromkeys(chip[2] for chip in found))
    pairs = Counter(
        " + ".join(sorted((one[2], other[2]), key=sensors.index))
        for one, other in combinations(found, 2)
        if one[:2] == other[:2]
    )
    return PrepareReport(
        chips=dict(Counter(chip[2] for chip in found)),
        places=len({chip[0] for chip in found}),
        footprints=len({chip[:2] for chip in found}),
        splits={split: sum(chip[3] == split for chip in found) for split in SPLITS},
        pairs=dict(pairs),
    )


@given(chips)
def test_chips_that_come_place_by_place_are_counted_as_all_at_once(found: list[tuple[str, str, str, str]]) -> None:
    found.sort(key=lambda chip: chip[0])
    database = sqlite3.connect(":memory:", isolation_level=None)
    index = IndexWriter(database)
    for row, (place, cell, sensor, split) in enumerate(found):
        where = {"place": place, "cell": cell, "sensor": sensor, "source_path": "a", "split": split}
        index.add(ChipRecord(**where, valid_fraction=1.0), ("array", row))
    index.flush()
    assert count_index(database) == _counted(found)


@pytest.mark.parametrize("seed", range(3))
def test_a_store_whose_places_are_scattered_is_counted(make_store, seed: int) -> None:
    store: ChipStore = make_store(places=7, dates=3, splits=("train", "val"))
    store.index = store.index.take(np.random.default_rng(seed).permutation(len(store.index)))
    columns = (store.index[name].to_pylist() for name in ("place", "cell", "sensor", "split"))
    expected = _counted(list(zip(*columns, strict=True))).lines()
    assert describe_store(store)[1 : 1 + len(expected)] == expected
