"""Which scene is of which place, and which place is for training, validation or test."""

from collections.abc import Sequence
from dataclasses import dataclass

from anyband.data.chip_index import SPLITS, Split
from anyband.data.places import PlacedImage, find_places
from anyband.data.supervised.dense_scenes import Scene
from anyband.data.supervised.records import DataSpec, SplitSpec
from anyband.data.supervised.split_lists import parts_from_lists
from anyband.errors import InputError, ManifestError
from anyband.randomness import permutation

__all__ = ["DenseParts", "parts_of"]


@dataclass(frozen=True, kw_only=True)
class DenseParts:
    """Where each scene belongs."""

    splits: tuple[Split | None, ...]
    """Part of each; None: left out."""
    places: tuple[str, ...]
    """Place of each."""
    notes: tuple[str, ...] = ()
    """What a reader of the results should know."""


def parts_of(scenes: Sequence[Scene], spec: DataSpec, *, seed: int) -> DenseParts:
    """Find the part and place of each scene.

    Parts are those of lists, or declared; else places are drawn, so that images of one ground stay together: images
    without a declared place that overlap are of one. Where validation is not declared it is drawn from training. With
    blocks every scene is `train`, to be divided later.

    Args:
        scenes: opened.
        spec: says lists, blocks and shares.
        seed: of the draw.

    Raises:
        ManifestError: lists that do not fit, or parts declared together with blocks.
        InputError: too few places for the parts.
    """
    shares = spec.split
    if shares.blocks is not None:
        _check_undeclared(scenes, shares, spec.source)
        places, notes = _places_by_ground(scenes)
        return DenseParts(splits=_all_training(scenes), places=places, notes=notes)
    if shares.lists is not None:
        names = [scene.name for scene in scenes]
        absent = spec.options.get("absent", "refuse")
        listed = parts_from_lists(shares.lists, names, source=spec.source, absent=absent)
        parts = DenseParts(splits=listed.parts, places=_own_places(scenes), notes=listed.notes)
        return _with_validation(parts, shares, seed=seed)
    declared = tuple(scene.split for scene in scenes)
    if all(part is not None for part in declared):
        return _with_validation(DenseParts(splits=declared, places=_own_places(scenes)), shares, seed=seed)
    places, notes = _places_by_ground(scenes)
    parts = DenseParts(splits=_all_training(scenes), places=places, notes=notes)
    return _drawn(parts, val=shares.val, test=shares.test, seed=seed)


def _check_undeclared(scenes: Sequence[Scene], shares: SplitSpec, source: str) -> None:
    if shares.lists is not None or any(scene.split is not None for scene in scenes):
        raise ManifestError(
            f"'{source}' declares parts, and `split.blocks` would draw them; take out the column `split` (or the "
            "folders `train`, `val`, `test`, or `split.lists`), or the blocks"
        )


def _all_training(scenes: Sequence[Scene]) -> tuple[Split | None, ...]:
    everything: list[Split | None] = ["train" for _ in scenes]
    return tuple(everything)


def _own_places(scenes: Sequence[Scene]) -> tuple[str, ...]:
    return tuple(scene.place or scene.name for scene in scenes)


def _places_by_ground(scenes: Sequence[Scene]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Take declared places as they are, and join the other scenes that overlap."""
    free = [index for index, scene in enumerate(scenes) if scene.place is None]
    images = [
        PlacedImage(name=scenes[index].name, grid=scenes[index].grids[0], place=None, split=None) for index in free
    ]
    if not images:
        return _own_places(scenes), ()
    found, notes = find_places(images)
    names = {free[member]: place.name for place in found for member in place.members}
    declared = {scene.place for scene in scenes}
    # A place that is found must not be taken for a declared one of its name.
    return (
        tuple(
            scene.place if scene.place is not None else names[index] + " (found)" * (names[index] in declared)
            for index, scene in enumerate(scenes)
        ),
        tuple(notes),
    )


def _with_validation(parts: DenseParts, shares: SplitSpec, *, seed: int) -> DenseParts:
    """Draw validation from training where there is none."""
    if "val" in parts.splits or shares.val == 0:
        return parts
    drawn = _drawn(parts, val=shares.val, test=0.0, seed=seed)
    note = f"{drawn.splits.count('val')} of {parts.splits.count('train')} training images are drawn for validation"
    return DenseParts(splits=drawn.splits, places=parts.places, notes=(*parts.notes, note))


def _drawn(parts: DenseParts, *, val: float, test: float, seed: int) -> DenseParts:
    """Draw places of the training part for validation and test."""
    if not (val >= 0 and test >= 0 and val + test < 1):
        raise InputError(f"shares must be 0 or more and leave some to learn from, found val {val:g}, test {test:g}")
    pool = sorted({place for place, part in zip(parts.places, parts.splits, strict=True) if part == "train"})
    num_val, num_test = (max(1, round(share * len(pool))) if share else 0 for share in (val, test))
    if num_val + num_test >= len(pool):
        raise InputError(
            f"{len(pool)} place{'s' * (len(pool) != 1)} can't be divided into {1 + (val > 0) + (test > 0)} parts; add "
            "some, declare a column `split`, or divide the ground of each image by `split.blocks`"
        )
    order = [pool[index] for index in permutation(seed, step=0, purpose="parts of places", size=len(pool))]
    part_of: dict[str, Split] = dict.fromkeys(order[:num_test], SPLITS[2])
    part_of |= dict.fromkeys(order[num_test : num_test + num_val], SPLITS[1])
    splits = tuple(
        part_of.get(place, part) if part == "train" else part
        for place, part in zip(parts.places, parts.splits, strict=True)
    )
    return DenseParts(splits=splits, places=parts.places, notes=parts.notes)
