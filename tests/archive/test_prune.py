"""Pruning: duplicates first, clusters balanced, a floor for uniform ground, equal bytes for equal input."""

from pathlib import Path

import numpy as np
import pytest
import shapely
from small_networks import small_checkpoint

from anyband.archive.prune import PruneRecipe, prune_store, spectral_entropy
from anyband.data.store import ArraySpec, ChipStore
from anyband.data.store_writer import Chip, ChipRecord, write_store
from anyband.errors import OutputError, StoreError
from anyband.models.checkpoint import save_checkpoint
from anyband.randomness import generator
from anyband.sensors.catalogue import get_sensor

BANDS = ("R", "G", "B")
NUM = {"meadow": 40, "town": 12, "lake": 8}


def _chip(kind: str, number: int) -> np.ndarray:
    rng = generator(0, step=0, sample=number, purpose=kind)
    level, spread = {"meadow": ((60, 120, 50), 3), "town": ((140, 130, 120), 40), "lake": ((10, 20, 60), 2)}[kind]
    dn = np.array(level)[:, None, None] + rng.normal(0, 4, (3, 1, 1)) + rng.normal(0, spread, (3, 16, 16))
    return dn.clip(1, 255).astype(np.uint8)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    sensor = get_sensor("maxar-rgb")
    encoding = {name: sensor.band(name).encoding(sensor.default_encoding) for name in BANDS}
    spec = ArraySpec(
        sensor="maxar-rgb", bands=BANDS, height=16, width=16, dtype="uint8", encoding=encoding, nodata=None
    )
    kinds = [(kind, number) for kind, count in NUM.items() for number in range(count)]

    def chips():
        for at, (kind, number) in enumerate(kinds):
            # The last two meadows are the first one again.
            source = 0 if kind == "meadow" and number >= 38 else number
            box = (float(at), 0.0, at + 0.5, 0.5)
            record = ChipRecord(
                place=f"{kind}{number:02d}",
                cell="r000c000",
                sensor="maxar-rgb",
                source_path="made",
                valid_fraction=1.0,
                split="test" if number == 7 else "train",
                geometry=shapely.to_wkb(shapely.box(*box)),
                bounds=box,
            )
            yield spec, record, Chip(pixels=_chip(kind, source))

    write_store(tmp_path / "store", chips(), {"maxar-rgb": sensor})
    return tmp_path / "store"


STRATA = {f"{kind}{number:02d}": kind for kind, count in NUM.items() for number in range(count)}


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("by", ["clusters", "entropy", "both"])
def test_pruning_twice_gives_equal_bytes(store: Path, tmp_path: Path, by: str) -> None:
    for name in ("a", "b"):
        prune_store(store, PruneRecipe(by=by), tmp_path / name, strata=STRATA)
    assert _bytes(tmp_path / "a") == _bytes(tmp_path / "b")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_kept_chips_are_those_of_the_store_and_tests_stay(store: Path, tmp_path: Path) -> None:
    report = prune_store(store, PruneRecipe(), tmp_path / "out")
    before, after = ChipStore.open(store), ChipStore.open(tmp_path / "out")
    places = after.index.column("place").to_pylist()
    of = dict(zip(before.index.column("place").to_pylist(), before.array_rows.tolist(), strict=True))
    array = next(iter(before.arrays))
    kept = before.read(array, [of[place] for place in places])[0]
    np.testing.assert_array_equal(after.read(next(iter(after.arrays)), after.array_rows)[0], kept)
    assert report["kept"] == round(0.49 * 57)
    assert {place for place in places if place.endswith("07")} == {"meadow07", "town07", "lake07"}


def test_exact_duplicates_go_before_anything_is_chosen(store: Path, tmp_path: Path) -> None:
    report = prune_store(store, PruneRecipe(kept=1.0, near=0.0), tmp_path / "out")
    assert report["exact_duplicates"] == 2
    assert report["kept"] == 55
    assert not {"meadow38", "meadow39"} & set(ChipStore.open(tmp_path / "out").index.column("place").to_pylist())


def test_balancing_takes_from_the_most_common_landscape(store: Path, tmp_path: Path) -> None:
    report = prune_store(store, PruneRecipe(num_clusters=3, kept=0.4), tmp_path / "out", strata=STRATA)
    share = {name: one["after"] / one["before"] for name, one in report["strata"].items()}
    assert share["meadow"] < 0.35 < share["lake"]
    assert share["town"] > 0.6


def test_uniform_landscapes_keep_their_floor_by_entropy(store: Path, tmp_path: Path) -> None:
    low = prune_store(store, PruneRecipe(by="entropy", kept=0.3, floor=0.01), tmp_path / "low", strata=STRATA)
    high = prune_store(store, PruneRecipe(by="entropy", kept=0.3, floor=0.5), tmp_path / "high", strata=STRATA)
    assert low["entropy"]["after"] > high["entropy"]["after"]
    assert low["strata"]["town"]["after"] == 11


def test_entropy_is_that_of_a_gaussian_over_its_noise() -> None:
    covariance = np.array([[4.0, 1.0], [1.0, 2.0]])
    scale = np.array([2.0, 1.0])
    scaled = covariance / np.outer(scale, scale)
    # Second opinion: by the determinant, without eigenvalues.
    expected = 0.5 * np.log(np.linalg.det(np.eye(2) + scaled / 0.01))
    assert spectral_entropy(covariance, scale=scale) == pytest.approx(expected)
    assert spectral_entropy(np.zeros((2, 2)), scale=scale) == 0.0


def test_a_store_without_training_footprints_and_a_taken_name_are_refused(store: Path, tmp_path: Path) -> None:
    prune_store(store, PruneRecipe(kept=0.01), tmp_path / "one")
    with pytest.raises(StoreError, match="nothing to prune"):
        prune_store(tmp_path / "one", PruneRecipe(), tmp_path / "two")
    with pytest.raises(OutputError):
        prune_store(store, PruneRecipe(), tmp_path / "one")


def test_an_encoder_may_tell_what_is_alike(store: Path, tmp_path: Path) -> None:
    """Features of a checkpoint take the place of spectral statistics; duplicates have equal ones, and go."""
    save_checkpoint(tmp_path / "tiny.safetensors", small_checkpoint(img_size=16, patch_size=8))
    recipe = PruneRecipe(checkpoint=str(tmp_path / "tiny.safetensors"), kept=1.0, near=0.0)
    report = prune_store(store, recipe, tmp_path / "out")
    assert report["exact_duplicates"] == 2
    assert report["kept"] == 55
    half = [prune_store(store, recipe.changed(kept=0.5), tmp_path / name, strata=STRATA) for name in ("a", "b")]
    assert half[0]["strata"] == half[1]["strata"]
    assert _bytes(tmp_path / "a") == _bytes(tmp_path / "b")
