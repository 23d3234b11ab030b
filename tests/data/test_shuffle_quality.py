"""The numbers of an order are those of their definitions, and lanes have the quality that is stated."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyband.data.sampler import ShardLanes, full_shuffle_quality, shuffle_quality

_SHARDS = st.lists(st.integers(0, 4), min_size=4, max_size=20)


@settings(max_examples=40)
@given(shards=_SHARDS, batch_size=st.integers(2, 4))
def test_quality_is_what_its_definition_says(shards, batch_size) -> None:
    quality = shuffle_quality(np.array(shards), batch_size=batch_size)
    batches = [shards[start : start + batch_size] for start in range(0, len(shards) - batch_size + 1, batch_size)]
    pairs = [one == other for batch in batches for one, other in combinations(batch, 2)]
    distances = [j - i for i, j in combinations(range(len(shards)), 2) if shards[i] == shards[j]]
    assert quality.shards_per_batch == pytest.approx(np.mean([len(set(batch)) for batch in batches]))
    assert quality.same_shard == pytest.approx(np.mean(pairs))
    assert quality.spread == pytest.approx(np.mean(distances) / len(shards) if distances else 0.0)


def test_a_full_shuffle_has_on_average_what_is_expected_of_it() -> None:
    shards = np.repeat(np.arange(12), [30, 20, 1, 9, 25, 25, 40, 7, 30, 30, 12, 11])
    rng = np.random.default_rng(0)
    drawn = [shuffle_quality(rng.permutation(shards), batch_size=16) for _ in range(400)]
    expected = full_shuffle_quality(shards, batch_size=16)
    for name in ("shards_per_batch", "same_shard", "spread"):
        assert np.mean([getattr(one, name) for one in drawn]) == pytest.approx(getattr(expected, name), rel=0.01)


@pytest.mark.parametrize("count", [4, 16])
def test_lanes_mix_as_many_shards_as_there_are_lanes(count: int) -> None:
    shards = np.repeat(np.arange(200), 50)
    items = np.random.default_rng(0).permutation(len(shards))
    lanes = ShardLanes(shards=shards, count=count)
    dealt = lanes.deal(items, first=0, batch_size=100, seed=1, purpose="order", number=0)
    quality = shuffle_quality(shards[dealt], batch_size=100)
    assert quality.same_shard == pytest.approx(1 / count, rel=0.3)
    assert quality.spread == pytest.approx(50 * count / len(shards) / 3, rel=0.25)
    assert count <= quality.shards_per_batch <= 2 * count


def test_as_many_lanes_as_shards_are_as_good_as_a_full_shuffle() -> None:
    shards = np.repeat(np.arange(20), 50)
    items = np.random.default_rng(0).permutation(len(shards))
    lanes = ShardLanes(shards=shards, count=20)
    dealt = lanes.deal(items, first=0, batch_size=100, seed=1, purpose="order", number=0)
    full = full_shuffle_quality(shards, batch_size=100)
    assert shuffle_quality(shards[dealt], batch_size=100).same_shard <= full.same_shard
