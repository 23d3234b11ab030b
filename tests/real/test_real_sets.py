"""Sets of real images over sensors and dates: prepare, find them, train on them, look at them."""

import csv
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from anyband.data.image_sets import find_sets
from anyband.data.manifest import read_manifest
from anyband.data.prepare import PrepareOptions, prepare
from anyband.data.store import ChipStore
from anyband.pretraining.loop import pretrain
from anyband.pretraining.recipe import load_recipe

pytestmark = [pytest.mark.real, pytest.mark.slow]

DAY = np.timedelta64(1, "D")


@pytest.fixture(scope="module")
def store(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> ChipStore:
    spec = importlib.util.spec_from_file_location("kit", Path(__file__).parent / "kit.py")
    kit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kit)
    folder = tmp_path_factory.mktemp("real_sets")
    manifest = folder / "kit.yaml"
    manifest.write_text(yaml.safe_dump(kit.manifest_rows(real_data, short=True, sets=True, singles=False)))
    prepare(read_manifest(manifest), folder / "store", PrepareOptions(chip_px=96, statistics=True))
    return ChipStore.open(folder / "store")


@pytest.fixture(scope="module")
def run(store: ChipStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "unified"
    changes = ("data.statistics=store", "optim.steps=6", "optim.batch_size=8",
               "run.val_batches=0", "run.panel_every_steps=6", "run.accelerator=cpu")  # fmt: skip
    pretrain(load_recipe("unified_tiny", changes), data=store.path, out=out, shown=False)
    return out


def _footprints(store: ChipStore, place: str) -> Iterator[list[dict]]:
    rows = [row for row in store.index.to_pylist() if (row["place"] or "").startswith(place)]
    for cell in sorted({(row["place"], row["cell"]) for row in rows}):
        yield [row for row in rows if (row["place"], row["cell"]) == cell]


@pytest.mark.parametrize(
    ("place", "sensors", "least_days"),
    [
        ("worldcereal 0", {"sentinel1-grd", "sentinel2-l2a", "landsat8-c1-sr"}, 300),
        ("worldcereal monthly", {"sentinel1-grd", "sentinel2-l2a"}, 300),
        ("ssl4eo", {"sentinel1-grd", "sentinel2-l1c", "sentinel2-l2a"}, 60),
        ("naip", {"naip"}, 4000),
        ("peru", {"landsat-peru8"}, 5000),
    ],
)
def test_a_place_over_dates_has_sets_of_its_sensors(
    store: ChipStore, place: str, sensors: set[str], least_days: int
) -> None:
    found = list(_footprints(store, place))
    assert found
    for images in found:
        times = [np.datetime64(row["datetime"].replace(tzinfo=None)) for row in images]
        assert {row["sensor"] for row in images} == sensors
        assert (max(times) - min(times)) / DAY > least_days


def test_sets_of_three_with_two_sensors_are_found(store: ChipStore) -> None:
    sets = find_sets(store, size=(1, 6), gap_days=5.0, needs_two_sources=True, split=None)
    assert sets.has_partner.all()
    assert (sets.capacity >= 3).sum() >= 4


def test_thermal_bands_of_landsat_are_kelvin_of_a_temperate_place(store: ChipStore) -> None:
    thermal = store.statistics["landsat8-c1-sr"]["B10"]
    assert 250 < thermal.p01 < thermal.p99 < 320


def test_clouds_of_a_set_are_no_data(store: ChipStore) -> None:
    shares = [row["valid_fraction"] for row in store.index.to_pylist() if row["place"].startswith("worldcereal 0")]
    assert min(shares) < 1
    assert min(shares) >= 0.5


def test_the_loss_on_real_sets_stays_finite_and_a_panel_is_drawn(run: Path) -> None:
    with (run / "metrics.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert losses
    assert np.isfinite(losses).all()
    assert {path.suffix for path in (run / "panels").iterdir()} == {".png"}
