"""Which pairs or sets of a store a recipe asks for."""

from itertools import combinations
from typing import Any

from anyband.data.chip_index import Split
from anyband.data.image_sets import SetOptions, find_sets
from anyband.data.lanes import ShardLanes
from anyband.data.open_shards import shard_lanes
from anyband.data.sets import find_pairs
from anyband.data.store import ChipStore
from anyband.errors import StoreError
from anyband.sensors.catalogue import get_sensor
from anyband.shapes import Array, Int
from anyband.tasks.pair_batches import PairSamples
from anyband.tasks.recipe import PretrainRecipe, SetRecipe
from anyband.tasks.samples import Samples
from anyband.tasks.set_batches import SetSamples

__all__ = ["find_samples"]


def find_samples(recipe: PretrainRecipe, store: ChipStore, *, split: Split) -> Samples[Any]:
    """Find the pairs or sets of a split that a recipe asks for.

    Raises:
        StoreError: the store has none.
        CatalogueError: a sensor is unknown.
    """
    if recipe.data.sets is not None:
        sets = find_sets(store, _set_options(recipe, recipe.data.sets, store), split=split)
        return SetSamples(store, sets, lanes=_lanes(recipe, store, sets.chips[sets.bounds[:-1]]))
    pairs = find_pairs(store, sensors=_wanted_pairs(recipe, store), split=split)
    return PairSamples(store, pairs, lanes=_lanes(recipe, store, pairs.index_a))


def _lanes(recipe: PretrainRecipe, store: ChipStore, chips: Int[Array, " sample"]) -> ShardLanes | None:
    """Sort samples into the shards of their first chips, if these are to be read one after the other."""
    if recipe.data.shuffle == "chips":
        return None
    return shard_lanes(store, chips, count=recipe.data.open_shards)


def _set_options(recipe: PretrainRecipe, sets: SetRecipe, store: ChipStore) -> SetOptions:
    seen = _seen_sensors(recipe, store)
    if not seen:
        raise StoreError(
            f"data.held_out names all sensors of store '{store.path}' ({', '.join(store.sensors)}); leave one to train "
            "on"
        )
    return SetOptions(
        size=sets.size, gap_days=sets.gap_days, needs_two_sources=sets.needs_two_sources, sensors=tuple(seen)
    )


def _wanted_pairs(recipe: PretrainRecipe, store: ChipStore) -> list[tuple[str, str]]:
    seen = _seen_sensors(recipe, store)
    if recipe.data.pairs != "any":
        return [(_sensor_name(a, store), _sensor_name(b, store)) for a, b in recipe.data.pairs]
    if len(seen) < 2:
        raise StoreError(
            f"store '{store.path}' has {len(store.sensors)} sensors ({', '.join(store.sensors)}), of which "
            f"{len(seen)} may be trained on; pairs need two: prepare images of another sensor, "
            "or name pairs of dates such as data.pairs=[[sentinel2-l2a, sentinel2-l2a]]"
        )
    return list(combinations(seen, 2))


def _seen_sensors(recipe: PretrainRecipe, store: ChipStore) -> list[str]:
    held_out = {_sensor_name(name, store) for name in recipe.data.held_out}
    return [name for name in store.sensors if name not in held_out]


def _sensor_name(name: str, store: ChipStore) -> str:
    """Resolve an alias; a name that neither the store nor the catalogue knows is an error, never ignored."""
    return name if name in store.sensors else get_sensor(name).name
