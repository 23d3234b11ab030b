"""Stages of a run: which footprints each step draws from, over made-up index tables."""

from dataclasses import replace

import numpy as np
import pytest
from index_stores import index_store

from anyband.data.image_sets import find_sets
from anyband.data.loader import SetSampler
from anyband.data.store import ChipStore
from anyband.errors import RecipeError, StoreError
from anyband.pretraining.batches import Samples, stage_footprints
from anyband.pretraining.loop import pretrain
from anyband.pretraining.plan import plan_run
from anyband.pretraining.recipe import DataRecipe, ModelRecipe, OptimRecipe, PretrainRecipe, SetRecipe, StageRecipe

_SENSORS = ("gaofen1", "gaofen2", "landsat8-oli-tirs-l2", "sentinel2-l2a")
# Places of four kinds, as in A²-MAE's archive: 12 of Gaofen-1, 4 of Gaofen-2, 8 of Landsat; all have Sentinel-2.
_PLACES = {"a": ("gaofen1", 12), "b": ("gaofen2", 4), "c": ("landsat8-oli-tirs-l2", 8)}
_GAOFEN = ("gaofen1", "gaofen2")


@pytest.fixture(scope="module")
def store() -> ChipStore:
    """An index without pixels."""
    images = [
        (f"{kind}{number:02d}", sensor, day)
        for kind, (other, count) in _PLACES.items()
        for number in range(count)
        for sensor in (other, "sentinel2-l2a")
        for day in (0, 40)
    ]
    return index_store(images, dict.fromkeys(_SENSORS, (8, 8)))


@pytest.fixture(scope="module")
def samples(store) -> Samples:
    return Samples(store, find_sets(store, size=(2, 3)))


def _stages(*pairs: tuple[int, tuple[str, ...]]) -> tuple[StageRecipe, ...]:
    return tuple(StageRecipe(epochs=epochs, with_sensors=names) for epochs, names in pairs)


_TWO = _stages((3, _GAOFEN), (2, ()))


def _sampler(samples, stages, *, steps=None):
    return replace(samples, stages=stages, steps=steps).sampler(batch_size=4, seed=0)


def _places(samples, step_draws) -> set[str]:
    places = samples.store.index.column("place").to_pylist()
    return {places[chip][0] for draw in step_draws for chip in draw.chips.ravel()}


def test_stages_take_the_footprints_with_their_sensors_and_the_last_the_others(samples, store) -> None:
    gaofen, others = stage_footprints(samples.sets, _TWO, store)
    first_place = np.array(store.index.column("place").to_pylist())[samples.sets.chips[samples.sets.bounds[:-1]]]
    assert {place[0] for place in first_place[gaofen]} == {"a", "b"}
    assert {place[0] for place in first_place[others]} == {"c"}
    assert sorted([*gaofen, *others]) == list(range(24))


def test_a_footprint_may_stand_in_several_stages(samples, store) -> None:
    stages = _stages((1, ("gaofen1",)), (1, ("sentinel2-l2a",)), (1, ("landsat8-oli-tirs-l2", "gaofen1")))
    assert [len(one) for one in stage_footprints(samples.sets, stages, store)] == [12, 24, 20]


def test_each_stage_draws_from_its_own_footprints(samples) -> None:
    sampler = _sampler(samples, _TWO)
    gaofen, others = 3 * 16 // 4, 2 * 8 // 4
    assert sampler.steps_of_stages == (gaofen, others)
    draws = [sampler.batch(step) for step in range(sampler.total_steps)]
    assert _places(samples, draws[:gaofen]) == {"a", "b"}
    assert _places(samples, draws[gaofen:]) == {"c"}
    assert [draw.epoch for draw in draws] == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 2 + [4] * 2


def test_every_footprint_of_a_stage_passes_once_an_epoch(samples) -> None:
    sampler = _sampler(samples, _TWO)
    draws = [sampler.batch(step) for step in range(sampler.total_steps)]
    passed = np.bincount(np.concatenate([draw.items for draw in draws]), minlength=24)
    assert passed.tolist() == [3] * 16 + [2] * 8


def test_footprints_are_positions_in_all_sets(samples) -> None:
    sampler = _sampler(samples, _TWO)
    for step in range(sampler.total_steps):
        draw = sampler.batch(step)
        for footprint, chips in zip(draw.items, draw.chips, strict=True):
            assert set(chips) <= set(samples.sets.chips[samples.sets.images(int(footprint))])


def test_one_stage_of_everything_draws_what_no_stages_do(samples) -> None:
    staged = _sampler(samples, _stages((2, ())))
    plain = SetSampler(samples.sets, batch_size=4, seed=0)
    assert staged.total_steps == 2 * plain.steps_per_epoch
    for step in range(staged.total_steps):
        left, right = vars(staged.batch(step)), vars(plain.batch(step))
        assert all(np.array_equal(left[name], right[name]) for name in left)


def test_a_batch_is_a_function_of_the_step_alone(samples) -> None:
    forwards, backwards = _sampler(samples, _TWO), _sampler(samples, _TWO)
    steps = range(forwards.total_steps)
    ahead = [forwards.batch(step).chips for step in steps]
    behind = [backwards.batch(step).chips for step in reversed(steps)][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(ahead, behind, strict=True))


def test_stages_of_the_same_footprints_draw_anew(samples) -> None:
    sampler = _sampler(samples, _stages((1, _GAOFEN), (1, ("gaofen2", "gaofen1"))))
    first, second = sampler.batch(0), sampler.batch(sampler.steps_of_stages[0])
    assert not np.array_equal(first.chips, second.chips)


@pytest.mark.parametrize(("steps", "expected"), [(8, (6, 2)), (100, (75, 25)), (1, (1, 0)), (16, (12, 4))])
def test_steps_shorten_the_run_and_keep_the_shares(samples, steps, expected) -> None:
    sampler = _sampler(samples, _TWO, steps=steps)
    assert sampler.steps_of_stages == expected
    assert sampler.total_steps == steps
    assert _places(samples, [sampler.batch(steps - 1)]) == ({"c"} if expected[1] else {"a", "b"})


def test_the_length_of_a_run_is_the_sum_over_its_stages(samples) -> None:
    sampler = _sampler(samples, _TWO)
    assert (sampler.total_steps, sampler.steps_per_epoch) == (3 * 4 + 2 * 2, round(16 / 5))
    assert sampler.share_until(1.5) == pytest.approx(1.5 * 4 / 16)


def test_warmup_into_the_second_stage_counts_its_shorter_epochs(samples) -> None:
    assert _sampler(samples, _TWO).share_until(4.0) == pytest.approx((12 + 2) / 16)


def test_notes_say_what_each_stage_draws_from(samples) -> None:
    notes = replace(samples, stages=_TWO).notes(batch_size=4)
    assert notes[:2] == [
        "stage 0: 12 steps over 16 of 24 footprints, those with gaofen1 or gaofen2",
        "stage 1: 4 steps over 8 of 24 footprints, those of no other stage",
    ]


def test_panels_show_sets_of_all_footprints(samples) -> None:
    shown = replace(samples, stages=_TWO).shown(2)["sets"]
    np.testing.assert_array_equal(shown.chips, samples.shown(2)["sets"].chips)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (_stages((1, ("sentinel2-l2a",)), (1, ())), "stage 1 of data.stages .* is left by the other stages"),
        (_stages((1, ("gaofen3",))), "gaofen3"),
        (_stages((1, ("naip",))), "sensor 'naip' is not in store"),
    ],
)
def test_stages_that_draw_from_nothing_are_refused(samples, store, stages, message) -> None:
    with pytest.raises((StoreError, ValueError), match=message):
        stage_footprints(samples.sets, stages, store)


@pytest.mark.parametrize(
    ("stages", "epochs", "message"),
    [
        (_stages((2, _GAOFEN), (2, ())), 5, r"have 4 epochs \(2 \+ 2\), but optim.epochs is 5"),
        (_stages((2, ()), (3, ())), 5, r"stages 0 and 1 of data.stages \(from 0\) both name no sensors"),
        ((), 5, "data.stages is empty"),
    ],
)
def test_stages_that_do_not_go_with_the_recipe_are_refused(stages, epochs, message) -> None:
    with pytest.raises(RecipeError, match=message):
        PretrainRecipe(
            name="staged",
            model=ModelRecipe(mixup="none"),
            data=DataRecipe(sets=SetRecipe(), stages=stages),
            optim=OptimRecipe(epochs=epochs, warmup_epochs=1.0),
        )


def test_stages_are_for_sets() -> None:
    with pytest.raises(RecipeError, match="this recipe trains on pairs"):
        PretrainRecipe(name="staged", data=DataRecipe(stages=_TWO), optim=OptimRecipe(epochs=5, warmup_epochs=1.0))


def test_a_stage_has_at_least_one_epoch() -> None:
    with pytest.raises(RecipeError, match=r"epochs must be at least 1, found 0"):
        StageRecipe(epochs=0)


def test_a_run_goes_through_its_stages(set_store, changed_sets, tmp_path) -> None:
    """From the recipe on: the rate and the length know the stages, and the run ends after the last."""
    stages = _stages((2, ("sentinel1-grd",)), (1, ()))
    recipe = changed_sets(
        data={"stages": stages}, optim={"epochs": 3, "steps": None, "warmup_epochs": 2.0}, run={"val_batches": 0}
    )
    plan = plan_run(recipe, ChipStore.open(set_store))
    counts = [len(one) for one in stage_footprints(plan.samples.sets, stages, plan.store)]
    done = pretrain(recipe, data=set_store, out=tmp_path / "run", shown=False)
    assert done.steps == plan.total_steps == sum(plan.samples.sampler(batch_size=8, seed=3).steps_of_stages)
    first = plan.samples.sampler(batch_size=8, seed=3).steps_of_stages[0]
    assert plan.schedule.warmup_steps == pytest.approx(first)
    said = f"stage 0: {first} steps over {counts[0]} of {sum(counts)} footprints, those with sentinel1-grd"
    assert said in plan.notes()
