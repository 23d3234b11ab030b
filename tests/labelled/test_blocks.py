"""Blocks of ground divide images into parts: each pixel in one, equal in all dates, with a gap between them."""

import dataclasses
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp

from anyband.errors import GeometryError, InputError
from anyband.labelled.blocks import axis_of, blocked, kept_regions, neighbour_splits
from anyband.labelled.samples import BlockSpec, Sample, SampleImage, TaskData
from anyband.rasters.grid import Grid
from anyband.sensors.catalogue import get_sensor

_SENSOR = get_sensor("sentinel2-l2a").select(("B02",))


def _sample(labels: np.ndarray, row: int = 0, col: int = 0, *, numbers: bool = False, step: float = 10.0) -> Sample:
    height, width = labels.shape
    grid = Grid(
        height=height,
        width=width,
        transform=(step, 0.0, 5e5 + step * col, 0.0, -step, 5e6 - step * row),
        crs="EPSG:32632",
        gsd_m=step,
    )
    image = SampleImage(
        dn=np.ones((1, height, width), dtype=np.uint16),
        valid=np.ones((1, height, width), dtype=bool),
        sensor=_SENSOR,
        grid=grid,
    )
    if numbers:
        return Sample(images=(image,), number_map=labels.astype(np.float64))
    return Sample(images=(image,), class_map=labels.astype(np.int64))


def _data(*samples: Sample, places: tuple[str, ...] = (), classes: tuple[str, ...] = ("a", "b")) -> TaskData:
    is_number = samples[0].number_map is not None
    return TaskData(
        name="tiny",
        kind="number_map" if is_number else "class_map",
        classes=() if is_number else classes,
        names=tuple(f"date {index}" for index in range(len(samples))),
        splits=("train",) * len(samples),
        places=places,
        sensors=((_SENSOR,),) * len(samples),
        read=lambda index: samples[index],
        fingerprint="f",
    )


def _chessboard(size: int = 32, square: int = 2) -> np.ndarray:
    rows, cols = np.indices((size, size)) // square
    return (rows + cols) % 2


def _parts(data: TaskData, index: int = 0) -> np.ndarray:
    """Give a map of the parts of one image: 0, 1, 2, and −1 where no part has a label."""
    found = np.full(data.read(0).class_map.shape, -1)
    for position, name in enumerate(data.names):
        if name.startswith(f"date {index} "):
            labelled = data.read(position).class_map >= 0
            assert not (labelled & (found >= 0)).any()
            found[labelled] = ("train", "val", "test").index(data.splits[position])
    return found


def _divided(size_px: int = 8, buffer_px: int = 0, *, seed: int = 0, labels: np.ndarray | None = None) -> TaskData:
    data = _data(_sample(_chessboard() if labels is None else labels))
    return blocked(data, BlockSpec(size_px=size_px, buffer_px=buffer_px), val=0.2, test=0.3, seed=seed)


def test_without_a_buffer_every_label_is_in_one_part() -> None:
    parts = _parts(_divided())
    assert (parts >= 0).all()
    counts = np.bincount(parts.ravel(), minlength=3) / 64
    assert counts.tolist() == [8, 3, 5]


def test_a_block_is_of_one_part() -> None:
    parts = _parts(_divided()).reshape(4, 8, 4, 8)
    assert (parts == parts[:, :1, :, :1]).all()


def test_labels_stay_what_they_were() -> None:
    data = _divided(buffer_px=2)
    for position in range(len(data)):
        found = data.read(position).class_map
        np.testing.assert_array_equal(found[found >= 0], _chessboard()[found >= 0])


def _without_buffer(whole: np.ndarray, buffer_px: int) -> np.ndarray:
    """Take labels away by looking at every pair of pixels: the rule itself."""
    kept = whole.copy()
    height, width = whole.shape
    for row, col in np.ndindex(height, width):
        near = whole[
            max(0, row - buffer_px) : row + buffer_px + 1,
            max(0, col - buffer_px) : col + buffer_px + 1,
        ]
        if (near > whole[row, col]).any():
            kept[row, col] = -1
    return kept


@given(hnp.arrays(np.int64, (4, 3), elements=st.integers(-1, 2)), st.integers(1, 7), st.data())
def test_the_buffer_takes_what_is_near_a_later_part(drawn: np.ndarray, size_px: int, data: st.DataObject) -> None:
    blocks = BlockSpec(size_px=size_px, buffer_px=data.draw(st.integers(0, size_px)))
    found = [(0, row, col) for row, col in np.ndindex(4, 3)]
    parts = {block: int(drawn[block[1:]]) for block in found}
    kept = kept_regions(neighbour_splits(found, parts), blocks).reshape(4, 3, 3, 3)
    (rows, row_strip), (cols, col_strip) = axis_of(0, 4 * size_px, blocks), axis_of(0, 3 * size_px, blocks)
    whole = drawn[rows[:, None], cols]
    by_region = kept[rows[:, None], cols, row_strip[:, None], col_strip]
    np.testing.assert_array_equal(np.where(by_region, whole, -1), _without_buffer(whole, blocks.buffer_px))


def test_test_blocks_stay_whole() -> None:
    parts = _parts(_divided(buffer_px=3)).reshape(4, 8, 4, 8)
    is_test = (parts == 2).any(axis=(1, 3))
    assert is_test.sum() == 5
    assert (parts == 2).all(axis=(1, 3)).sum() == 5


def test_all_dates_of_a_place_have_one_division() -> None:
    rng = np.random.default_rng(0)
    samples = [_sample(rng.integers(0, 2, (32, 32))) for _ in range(3)]
    data = blocked(_data(*samples, places=("here",) * 3), BlockSpec(size_px=8, buffer_px=2), val=0.2, test=0.3, seed=1)
    first = _parts(data, 0)
    for date in (1, 2):
        np.testing.assert_array_equal(_parts(data, date), first)


def test_an_image_that_lies_elsewhere_on_the_grid_shares_the_blocks_of_the_ground() -> None:
    labels = _chessboard(48)
    whole, cut = _sample(labels), _sample(labels[8:40, 12:44], row=8, col=12)
    data = blocked(
        _data(whole, cut, places=("here",) * 2), BlockSpec(size_px=8, buffer_px=2), val=0.2, test=0.3, seed=1
    )
    inside = _parts(data, 0)[8:40, 12:44]
    found = np.full((32, 32), -1)
    for position, name in enumerate(data.names):
        if name.startswith("date 1 "):
            found[data.read(position).class_map >= 0] = ("train", "val", "test").index(data.splits[position])
    np.testing.assert_array_equal(found, inside)


def test_two_places_are_divided_by_themselves() -> None:
    data = blocked(
        _data(_sample(_chessboard()), _sample(_chessboard()), places=("here", "there")),
        BlockSpec(size_px=8),
        val=0.2,
        test=0.3,
        seed=0,
    )
    assert (_parts(data, 0) != _parts(data, 1)).any()


def test_the_draw_is_a_function_of_the_seed() -> None:
    first, again, other = _divided(seed=1), _divided(seed=1), _divided(seed=2)
    np.testing.assert_array_equal(_parts(first), _parts(again))
    assert first.fingerprint == again.fingerprint
    assert first.fingerprint != other.fingerprint
    assert (_parts(first) != _parts(other)).any()


@settings(max_examples=4)
@given(st.integers(0, 10_000))
def test_a_rare_class_comes_into_every_part_where_it_can(seed: int) -> None:
    labels = np.zeros((32, 32), dtype=int)
    for row, col in ((0, 0), (1, 2), (2, 1), (3, 3)):
        labels[8 * row + 4, 8 * col + 4] = 1
    data = _divided(seed=seed, labels=labels)
    for position in range(len(data)):
        assert (data.read(position).class_map == 1).any()


def test_a_class_in_one_block_is_learned_and_its_absence_is_said() -> None:
    labels = np.zeros((32, 32), dtype=int)
    labels[:4, :4] = 1
    data = _divided(labels=labels)
    assert [(data.read(p).class_map == 1).any() for p in range(3)] == [True, False, False]
    assert "split 'val' has no labels of b" in data.notes
    assert "split 'test' has no labels of b" in data.notes


def test_parts_near_their_shares_in_every_class_are_preferred() -> None:
    labels = np.repeat(np.arange(2), 16)[:, None].repeat(32, axis=1)
    data = _divided(labels=labels)
    for position, share in zip(range(3), (8, 3, 5), strict=True):
        counts = np.bincount(data.read(position).class_map.ravel() + 1, minlength=3)[1:] / 64
        assert abs(counts[0] - counts[1]) <= 1, share


def test_unlabelled_ground_is_no_block() -> None:
    labels = _chessboard()
    labels[:, 16:] = -1
    data = _divided(size_px=4, labels=labels)
    assert "4 × 4 pixels with a buffer of 0 (train 16, val 6, test 10) in 1 place, each" in data.notes[0]


def test_maps_of_numbers_lose_numbers_of_other_parts() -> None:
    numbers = np.arange(32 * 32, dtype=float).reshape(32, 32)
    data = blocked(_data(_sample(numbers, numbers=True)), BlockSpec(size_px=8, buffer_px=2), val=0.2, test=0.3, seed=0)
    found = [data.read(position).number_map for position in range(3)]
    assert (np.isfinite(found).sum(axis=0) <= 1).all()
    for one in found:
        np.testing.assert_array_equal(one[np.isfinite(one)], numbers[np.isfinite(one)])


def test_samples_of_one_image_share_a_place() -> None:
    data = _divided()
    assert data.names == ("date 0 [train]", "date 0 [val]", "date 0 [test]")
    assert len(set(data.places)) == 1


def test_a_share_of_0_asks_for_no_validation() -> None:
    data = blocked(_data(_sample(_chessboard())), BlockSpec(size_px=8), val=0.0, test=0.3, seed=0)
    assert data.num_samples == {"train": 1, "val": 0, "test": 1}


def test_labels_are_read_by_themselves_where_that_is_cheaper(tmp_path: Path) -> None:
    data = _data(_sample(_chessboard()))
    asked: list[int] = []

    def labels(index: int) -> tuple[np.ndarray, Grid]:
        asked.append(index)
        return data.read(index).class_map, data.read(index).images[0].grid

    unread = dataclasses.replace(data, read=lambda _index: pytest.fail("the image was read"))
    blocked(unread, BlockSpec(size_px=8), val=0.2, test=0.3, seed=0, labels=labels)
    assert asked == [0]


def test_a_place_of_two_grids_is_refused() -> None:
    data = _data(_sample(_chessboard()), _sample(_chessboard(16), step=20.0), places=("here",) * 2)
    with pytest.raises(GeometryError, match=r"32 × 32 pixels of 10 m\) are of one place but not on one grid"):
        blocked(data, BlockSpec(size_px=8), val=0.2, test=0.3, seed=0)


def test_too_few_blocks_are_refused() -> None:
    with pytest.raises(InputError, match="1 block of 32 × 32 pixels has labels, too few for 3 splits; choose"):
        _divided(size_px=32)


def test_a_part_that_the_buffer_takes_away_is_refused() -> None:
    with pytest.raises(InputError, match="split 'train' of 'tiny' keeps no label of 4 blocks of 16 pixels beside"):
        blocked(_data(_sample(_chessboard())), BlockSpec(size_px=16, buffer_px=16), val=0.25, test=0.25, seed=0)


@pytest.mark.parametrize(("size_px", "buffer_px"), [(0, 0), (8, -1), (8, 9)])
def test_sizes_that_can_not_be_are_refused(size_px: int, buffer_px: int) -> None:
    with pytest.raises(InputError, match=r"needs size_px of 1 or more and buffer_px from 0 to it, found size_px"):
        _divided(size_px, buffer_px)


def test_shares_that_leave_nothing_are_refused() -> None:
    with pytest.raises(InputError, match=r"leave some to learn from, found val 0\.5, test 0\.5"):
        blocked(_data(_sample(_chessboard())), BlockSpec(size_px=8), val=0.5, test=0.5, seed=0)


def test_data_without_maps_are_refused() -> None:
    data = TaskData(
        name="scenes", kind="class", classes=("a",), names=("x",), splits=("train",), sensors=((_SENSOR,),),
        targets=np.zeros(1, dtype=np.int64), read=lambda _index: _sample(_chessboard()), fingerprint="f",
    )  # fmt: skip
    with pytest.raises(InputError, match="'scenes' has kind 'class'; blocks divide maps of labels, other data by"):
        blocked(data, BlockSpec(size_px=8), val=0.2, test=0.3, seed=0)


def test_each_pixel_knows_its_block_on_every_date() -> None:
    dates = _data(_sample(_chessboard()), _sample(_chessboard()), places=("here", "here"))
    data = blocked(dates, BlockSpec(size_px=8), val=0.2, test=0.2, seed=0)
    expected = np.arange(16).reshape(4, 4).repeat(8, axis=0).repeat(8, axis=1)
    assert data.regions is not None
    for position in range(len(data)):
        assert np.array_equal(data.regions(position), expected)
