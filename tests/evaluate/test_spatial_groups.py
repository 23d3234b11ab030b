"""Independent pieces of ground: dates of a place are drawn together, blocks are counted by themselves."""

from dataclasses import replace

import numpy as np
import pytest
from predicted import number_predictions

from anyband.evaluate.metrics import (
    Predictions,
    count_map,
    interval,
    map_predictions,
    predictions_of,
    resample,
    scores_of,
)
from anyband.evaluate.results import difference
from anyband.labelled.samples import TaskData


def _quarters(_: int) -> np.ndarray:
    return np.kron(np.array([[0, 1], [2, 3]]), np.ones((24, 24), dtype=np.int64))


def _numbers(count: int) -> Predictions:
    return number_predictions(np.arange(count), np.zeros(count), samples=tuple(map(str, range(count))))


def _counted(data: TaskData, *positions: int) -> Predictions:
    counted = []
    for position in positions:
        truth = data.read(position).class_map
        assert truth is not None
        counted += count_map(data, position, truth, np.zeros_like(truth))[1]
    return map_predictions(data, counted)


def test_each_block_of_a_sample_is_counted_by_itself(class_map_data: TaskData) -> None:
    whole = _counted(class_map_data, 0)
    data = replace(class_map_data, regions=_quarters, places=("here",) * len(class_map_data))
    blocks = _counted(data, 0)
    assert len(blocks.samples) == 4
    assert blocks.samples[3] == "map 0 block 3"
    assert np.array_equal(blocks.arrays["confusion"].sum(axis=0), whole.arrays["confusion"][0])


def test_a_block_is_one_piece_of_ground_on_all_dates(class_map_data: TaskData) -> None:
    data = replace(class_map_data, regions=_quarters, places=("here",) * len(class_map_data))
    predictions = _counted(data, 0, 1)
    assert len(predictions.groups) == 8
    assert set(predictions.groups) == {f"here block {block}" for block in range(4)}


def test_samples_of_places_of_their_own_have_no_groups(class_map_data: TaskData) -> None:
    assert _counted(class_map_data, 0, 1).groups == ()


def test_the_places_of_images_are_their_groups(class_data: TaskData) -> None:
    some, scores = np.arange(4), np.zeros((4, 3))
    assert predictions_of(class_data, some, scores).groups == ()
    placed = replace(class_data, places=tuple(f"place {index // 2}" for index in range(len(class_data))))
    assert predictions_of(placed, some, scores).groups == ("place 0", "place 0", "place 1", "place 1")


def test_what_shares_ground_is_drawn_together() -> None:
    predictions = replace(_numbers(4), groups=("a", "b", "a", "b"))
    drawn = resample(predictions, {"sums": lambda weights: weights @ np.array([1.0, 10.0, 100.0, 1000.0])}, seed=0)
    assert set(drawn["sums"]) <= {2 * 101.0, 2 * 1010.0, 101.0 + 1010.0}


def test_copies_of_a_sample_do_not_narrow_its_interval() -> None:
    rng = np.random.default_rng(0)
    truth, predicted = rng.normal(size=12), rng.normal(size=12)
    alone = number_predictions(truth, predicted, samples=tuple(f"place {index}" for index in range(12)))
    dates = number_predictions(
        np.tile(truth, 5), np.tile(predicted, 5), samples=tuple(f"date {index}" for index in range(60))
    )
    grouped = replace(dates, groups=alone.samples * 5)
    once, five_times = scores_of(alone, seed=0)[0], scores_of(grouped, seed=0)[0]
    assert five_times.low == pytest.approx(once.low)
    assert five_times.high == pytest.approx(once.high)
    narrow = scores_of(dates, seed=0)[0]
    assert narrow.high - narrow.low < 0.7 * (once.high - once.low)


def test_one_piece_of_ground_has_no_interval() -> None:
    predictions = number_predictions(np.arange(4.0), np.zeros(4), samples=tuple("abcd"))
    one = replace(predictions, groups=("here",) * 4)
    score = scores_of(one, seed=0)[0]
    assert np.isfinite(score.value)
    assert np.isnan([score.low, score.high]).all()
    assert np.isnan(difference(one, one, seed=0).low)


def test_without_groups_draws_are_those_of_single_samples() -> None:
    drawn = resample(_numbers(50), {"first": lambda weights: weights[:, 0]}, seed=3)
    low, high = interval(drawn["first"])
    assert (low, high) == (0.0, 3.0)
