"""Image sets: what is drawn of a footprint, and in which batch, over made-up index tables."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as options
from hypothesis import strategies as st
from index_stores import DAY_US, index_store

from anyband.data.image_sets import UNKNOWN_TIME, ImageSets, find_sets
from anyband.data.loader import SetDraw, SetSampler
from anyband.data.store import ChipStore, Split
from anyband.errors import StoreError

_SENSORS = ("red", "green", "blue")

Image = tuple[str, str, int | None]
"""(place, sensor, day)"""


def _store(images: list[Image], split: Split = "train") -> ChipStore:
    """Make a store that has an index and no pixels."""
    shapes = {sensor: (8 + 4 * number, 32 - 4 * number) for number, sensor in enumerate(_SENSORS)}
    return index_store(images, shapes, split)


_IMAGES = st.lists(
    st.tuples(
        st.sampled_from("abcd"), st.sampled_from(_SENSORS), st.one_of(st.none(), st.integers(-30, 30), st.just(0))
    ),
    min_size=1,
    max_size=18,
)
_SIZES = st.tuples(st.integers(1, 6), st.integers(1, 6)).map(lambda size: (min(size), max(size)))
_OPTIONS = st.fixed_dictionaries({"size": _SIZES, "gap_days": st.sampled_from([0.0, 1.0, 7.0, 12.5])})


def _draws(sets: ImageSets, *, batch_size: int = 3, seed: int = 0, epochs: int = 2) -> list[SetDraw]:
    sampler = SetSampler(sets, batch_size=batch_size, seed=seed)
    return [sampler.batch(step) for step in range(epochs * sampler.steps_per_epoch)]


def _are_apart(first: Image, second: Image, gap_days: float) -> bool:
    if first[1] != second[1] or gap_days == 0:
        return True
    return first[2] is not None and second[2] is not None and abs(first[2] - second[2]) >= gap_days


def _most_of_any_anchor(images: list[Image], gap_days: float) -> int:
    def most(anchor: int) -> int:
        others = [image for image in range(len(images)) if image != anchor]
        for size in range(len(others), -1, -1):
            for chosen in combinations(others, size):
                if all(_are_apart(images[a], images[b], gap_days) for a, b in combinations((anchor, *chosen), 2)):
                    return size + 1
        return 1

    return min(most(anchor) for anchor in range(len(images)))


@options(max_examples=60)
@given(images=_IMAGES, chosen=_OPTIONS, seed=st.integers(0, 2**63))
def test_no_image_is_repeated_in_a_set_and_all_are_of_its_footprint(images, chosen, seed) -> None:
    for draw in _draws(find_sets(_store(images), **chosen), seed=seed):
        for chips in draw.chips.tolist():
            assert len(set(chips)) == len(chips)
            assert len({images[chip][0] for chip in chips}) == 1


@options(max_examples=60)
@given(images=_IMAGES, chosen=_OPTIONS, seed=st.integers(0, 2**63))
def test_images_of_one_source_keep_the_gap(images, chosen, seed) -> None:
    for draw in _draws(find_sets(_store(images), **chosen), seed=seed):
        for chips in draw.chips.tolist():
            for a, b in combinations(chips, 2):
                assert _are_apart(images[a], images[b], chosen["gap_days"])


@options(max_examples=60)
@given(images=_IMAGES, chosen=_OPTIONS, seed=st.integers(0, 2**63))
def test_slot_1_is_of_another_source_wherever_the_footprint_has_one(images, chosen, seed) -> None:
    sensors_of: dict[str, set[str]] = {}
    for place, sensor, _ in images:
        sensors_of.setdefault(place, set()).add(sensor)
    for draw in _draws(find_sets(_store(images), **chosen), seed=seed):
        drawn = [[images[chip] for chip in chips] for chips in draw.chips.tolist()]
        for same, one in zip(draw.same_source.tolist(), drawn, strict=True):
            assert same == [image[1] == one[0][1] for image in one]
            assert draw.partnered == (len(one) > 1 and len(sensors_of[one[0][0]]) > 1)
            assert len(one) == 1 or same[1] != draw.partnered


@options(max_examples=60)
@given(images=_IMAGES, chosen=_OPTIONS, seed=st.integers(0, 2**63))
def test_capacity_is_what_can_be_drawn_whatever_the_anchor(images, chosen, seed) -> None:
    sets = find_sets(_store(images), **chosen)
    for footprint, place in enumerate(sorted({place for place, _, _ in images})):
        mine = [image for image in images if image[0] == place]
        assert sets.capacity[footprint] == min(chosen["size"][1], _most_of_any_anchor(mine, chosen["gap_days"]))


@options(max_examples=60)
@given(images=_IMAGES, chosen=_OPTIONS, seed=st.integers(0, 2**63))
def test_a_batch_has_as_many_images_a_set_as_drawn_for_it_within_what_its_footprints_have(images, chosen, seed) -> None:
    sets = find_sets(_store(images), **chosen)
    least, most = chosen["size"]
    for draw in _draws(sets, seed=seed):
        size = draw.chips.shape[1]
        (capacity,) = set(sets.capacity[draw.items].tolist())
        assert min(least, capacity) <= size <= min(most, capacity)


@options(max_examples=40)
@given(images=_IMAGES, chosen=_OPTIONS, seed=st.integers(0, 2**63))
def test_the_first_slot_holds_the_earliest_image_and_unknown_times_come_last(images, chosen, seed) -> None:
    def order(chip: int) -> tuple[float, int]:
        day = images[chip][2]
        return (np.inf if day is None else day), chip

    for draw in _draws(find_sets(_store(images), **chosen), seed=seed):
        for chips, first in zip(draw.chips.tolist(), draw.first_slot.tolist(), strict=True):
            assert chips[first] == min(chips, key=order)


@options(max_examples=30)
@given(images=_IMAGES, chosen=_OPTIONS, seed=st.integers(0, 2**63), step=st.integers(0, 10_000))
def test_a_batch_is_a_function_of_seed_and_step_alone(images, chosen, seed, step) -> None:
    sets = find_sets(_store(images), **chosen)
    sampler = SetSampler(sets, batch_size=3, seed=seed)
    for earlier in range(3):
        sampler.batch(earlier)
    one, other = sampler.batch(step), SetSampler(sets, batch_size=3, seed=seed).batch(step)
    for name, value in vars(one).items():
        np.testing.assert_array_equal(value, getattr(other, name))


@options(max_examples=30)
@given(images=_IMAGES, chosen=_OPTIONS, batch_size=st.integers(1, 5), seed=st.integers(0, 2**63))
def test_every_footprint_passes_once_a_round(images, chosen, batch_size, seed) -> None:
    sets = find_sets(_store(images), **chosen)
    draws = _draws(sets, batch_size=batch_size, seed=seed, epochs=3)
    passed = Counter(int(footprint) for draw in draws for footprint in draw.items)
    kinds = np.stack([sets.capacity, sets.has_partner], axis=1)
    for kind in np.unique(kinds, axis=0):
        counts = [passed[int(footprint)] for footprint in np.flatnonzero((kinds == kind).all(axis=1))]
        assert min(counts) > 0
        assert max(counts) - min(counts) <= 1
    samples = np.concatenate([draw.samples for draw in draws])
    assert len(np.unique(samples)) == len(samples)


def test_a_part_of_a_batch_holds_the_same_sets() -> None:
    draw = SetSampler(find_sets(_store(_series("red", range(9)))), batch_size=4, seed=0).batch(0)
    some = draw.at(slice(1, 3))
    for name in ("chips", "same_source", "first_slot", "samples", "items"):
        np.testing.assert_array_equal(getattr(some, name), getattr(draw, name)[1:3])
    assert (some.partnered, some.epoch) == (draw.partnered, draw.epoch)


def _series(sensor: str, days: range, place: str = "a") -> list[Image]:
    return [(place, sensor, day) for day in days]


def test_every_image_becomes_the_anchor_equally_often() -> None:
    sets = find_sets(_store([*_series("red", range(6)), ("a", "blue", 0), ("a", "green", None)]))
    anchors = Counter(int(chip) for draw in _draws(sets, batch_size=16, epochs=200) for chip in draw.chips[:, 0])
    assert len(anchors) == 8
    # 400 are expected of each; 5 standard deviations are about 94.
    assert all(abs(count - 400) < 94 for count in anchors.values())


def test_every_image_count_is_drawn_equally_often() -> None:
    sets = find_sets(_store(_series("red", range(6))), size=(1, 4))
    sizes = Counter(draw.chips.shape[1] for draw in _draws(sets, batch_size=1, epochs=2000))
    assert sorted(sizes) == [1, 2, 3, 4]
    assert all(abs(count - 500) < 100 for count in sizes.values())


def test_a_gap_that_leaves_one_way_only_is_always_found() -> None:
    """Of days 0, 5, 6, 10 three are 5 apart in one way, so the image of day 6 can't be drawn with two others."""
    images = [("a", "red", day) for day in (0, 5, 10)]
    draws = _draws(find_sets(_store(images), size=(3, 3), gap_days=5.0), epochs=20)
    assert all(sorted(chips) == [0, 1, 2] for draw in draws for chips in draw.chips.tolist())
    images.insert(2, ("a", "red", 6))
    sets = find_sets(_store(images), size=(3, 3), gap_days=5.0)
    assert sets.capacity.tolist() == [2]


def test_images_of_sensors_that_may_not_enter_are_never_drawn() -> None:
    images = [*_series("red", range(4)), *_series("blue", range(4)), *_series("green", range(3), place="b")]
    sets = find_sets(_store(images), size=(1, 6), sensors=("red", "green"))
    drawn = {images[chip][1] for draw in _draws(sets, epochs=20) for chip in draw.chips.ravel().tolist()}
    assert drawn == {"red", "green"}
    assert sets.arrays == ("red_8x8", "green_8x8")
    assert sets.has_partner.tolist() == [False, False]


def test_crops_are_aligned_to_the_fewest_rows_and_columns_of_all_arrays_that_may_come() -> None:
    images: list[Image] = [("a", "red", 0), ("b", "blue", 0)]
    assert find_sets(_store(images)).grid == (8, 24)
    assert find_sets(_store(images), sensors=("blue",)).grid == (16, 24)


def test_sets_are_of_the_split_asked_for() -> None:
    store = _store([("a", "red", 0)], split="val")
    assert len(find_sets(store, split=None)) == len(find_sets(store, split="val")) == 1
    with pytest.raises(
        StoreError, match=r"no image is in split 'train' of store 'somewhere'; `anyband prepare --show`"
    ):
        find_sets(store)


def test_footprints_of_one_source_are_left_out_where_two_are_needed() -> None:
    images: list[Image] = [("a", "red", 0), ("b", "red", 0), ("b", "blue", 3), ("c", "blue", 0)]
    sets = find_sets(_store(images), size=(2, 3), needs_two_sources=True)
    assert sets.chips.tolist() == [1, 2]
    assert sets.capacity.tolist() == [2]
    assert all(draw.partnered for draw in _draws(sets))


def test_no_footprint_with_two_sources_says_how_many_and_what_to_do() -> None:
    images: list[Image] = [("a", "red", 0), ("b", "blue", 0), ("b", "blue", 5)]
    message = (
        r"all 2 footprints in split 'train' of store 'somewhere' have images of one sensor only, .*"
        r"\(data.sets.needs_two_sources\): prepare images of another sensor of the same places, or turn it off"
    )
    with pytest.raises(StoreError, match=message):
        find_sets(_store(images), needs_two_sources=True)


def test_an_unknown_sensor_offers_the_nearest() -> None:
    with pytest.raises(StoreError, match=r"sensor 'rde' is not in store .*did you mean 'red'"):
        find_sets(_store([("a", "red", 0)]), sensors=("rde",))


def test_unknown_times_are_kept_apart_from_known_ones_in_the_record() -> None:
    sets = find_sets(_store([("a", "red", None), ("a", "red", 4)]))
    assert sets.time_us.tolist() == [4 * DAY_US, UNKNOWN_TIME]
    assert sets.chips.tolist() == [1, 0]
