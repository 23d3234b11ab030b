"""The kNN score of training: that of the encoder's features, whatever way leads there."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier

from anyband.encode.encoder import EncodeOptions, Features, SensorEncoder
from anyband.errors import CatalogueError, InputError, ManifestError
from anyband.evaluate.metrics import metric_value
from anyband.labelled.images import open_images
from anyband.labelled.samples import DataSpec
from anyband.models.checkpoint import Checkpoint, load_checkpoint
from anyband.pretraining.recipe import KnnRecipe
from anyband.pretraining.watch import knn_score, open_labelled
from anyband.rasters.grid import Grid
from anyband.rasters.writer import write_geotiff
from anyband.sensors.assignment import AssignmentRules
from anyband.sensors.catalogue import get_sensor
from anyband.sensors.sensor import sensor_to_dict

_RULES = AssignmentRules()


@pytest.fixture(scope="module")
def checkpoint(golden: Path) -> Checkpoint:
    return load_checkpoint(golden / "smarties" / "checkpoint.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of noisy colours that features tell apart now and then; images differ in size."""
    root = tmp_path_factory.mktemp("labelled")
    for kind in range(4):
        (root / f"c{kind}").mkdir()
        for number in range(25):
            draw = np.random.default_rng(100 * kind + number)
            size = (30 + number % 5, 28 + number % 3, 3)
            pixels = draw.normal([60 + 14 * kind, 90, 120 - 9 * kind], 35, size).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / f"c{kind}" / f"{number}.png")
    return root


def _table(folder: Path, out: Path, *, labels: bool = False, splits: tuple[str, ...] = ()) -> Path:
    rows = ["path,label,split" if splits else "path,label"]
    for kind in range(4):
        for number in range(25):
            label = f"c{kind};even" if labels and number % 2 == 0 else f"c{kind}"
            part = f",{splits[number % len(splits)]}" if splits else ""
            rows.append(f"{folder}/c{kind}/{number}.png,{label}{part}")
    out.write_text("\n".join(rows) + "\n")
    return out


def _score(
    labelled: Path,
    checkpoint: Checkpoint,
    *,
    sensor: str = "maxar-rgb",
    seed: int = 0,
    pool: Literal["cls", "mean"] = "cls",
) -> float:
    knn = KnnRecipe(labelled=str(labelled), sensor=sensor, every_steps=1, pool=pool)
    data = open_labelled(knn, checkpoint, rules=_RULES, seed=seed)
    return knn_score(knn, data, checkpoint, rules=_RULES, seed=seed, device="cpu")


def _scored_by_scikit_learn(
    checkpoint: Checkpoint, folder: Path, vector: Callable[[Features], torch.Tensor], *, seed: int
) -> float:
    images = open_images(DataSpec(source=str(folder), sensors=("maxar-rgb",)), seed=seed)
    encoder = SensorEncoder(checkpoint).eval()
    options = EncodeOptions(img_size=checkpoint.config.encoder.img_size)
    arrays = [np.asarray(Image.open(path)).transpose(2, 0, 1) for path in (folder / name for name in images.names)]
    with torch.no_grad():
        encoded = [encoder.encode(one, sensor="maxar-rgb", options=options) for one in arrays]
    features = np.stack([vector(one).numpy() for one in encoded])
    train, val = (np.array(images.splits) == part for part in ("train", "val"))
    oracle = KNeighborsClassifier(20, weights=lambda d: np.exp((1 - d) / 0.07), metric="cosine")
    votes = oracle.fit(features[train], images.targets[train]).predict_proba(features[val])
    return metric_value("accuracy", images.targets[val], votes)


@pytest.mark.parametrize(("seed", "recorded"), [(0, 0.6), (3, 1.0)])
def test_the_score_is_that_of_features_and_of_scikit_learn(
    checkpoint: Checkpoint, folder: Path, seed: int, recorded: float
) -> None:
    expected = _scored_by_scikit_learn(checkpoint, folder, lambda one: one.cls, seed=seed)
    # Recorded before evaluation of images and of sets became one.
    assert _score(folder, checkpoint, seed=seed) == pytest.approx(expected) == recorded


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_mean_of_patches_may_be_scored_instead(checkpoint: Checkpoint, folder: Path, seed: int) -> None:
    expected = _scored_by_scikit_learn(checkpoint, folder, lambda one: one.map.flatten(1).mean(1), seed=seed)
    assert _score(folder, checkpoint, seed=seed, pool="mean") == pytest.approx(expected)


def test_several_labels_are_scored_by_average_precision(checkpoint: Checkpoint, folder: Path, tmp_path: Path) -> None:
    table = _table(folder, tmp_path / "t.csv", labels=True)
    # Recorded before evaluation of images and of sets became one.
    assert _score(table, checkpoint) == pytest.approx(0.7461962505669599, abs=1e-6)


def test_test_images_are_never_read(checkpoint: Checkpoint, folder: Path, tmp_path: Path) -> None:
    table = _table(folder, tmp_path / "t.csv", splits=("train", "val", "test"))
    expected = _score(table, checkpoint)
    rows = table.read_text().splitlines()
    (tmp_path / "damaged.png").write_bytes(b"no picture")
    test = next(index for index, row in enumerate(rows) if row.endswith(",test"))
    rows[test] = f"{tmp_path}/damaged.png,c0,test"
    table.write_text("\n".join(rows) + "\n")
    assert _score(table, checkpoint) == expected


def test_a_part_without_images_is_refused(checkpoint: Checkpoint, folder: Path, tmp_path: Path) -> None:
    table = _table(folder, tmp_path / "t.csv", splits=("val", "test"))
    with pytest.raises(InputError, match="a kNN score needs samples in train, val"):
        _score(table, checkpoint)


def test_a_sensor_that_only_the_checkpoint_knows_may_be_named(checkpoint: Checkpoint, folder: Path) -> None:
    own = replace(get_sensor("maxar-rgb"), name="our-camera")
    known = replace(checkpoint, sensors={**checkpoint.sensors, "our-camera": sensor_to_dict(own)})
    assert _score(folder, known, sensor="our-camera") == _score(folder, known)


def test_a_sensor_that_nobody_knows_is_refused_before_any_step(checkpoint: Checkpoint, folder: Path) -> None:
    knn = KnnRecipe(labelled=str(folder), sensor="maxar-rbg", every_steps=1)
    with pytest.raises(CatalogueError, match="did you mean 'maxar-rgb'"):
        open_labelled(knn, checkpoint, rules=_RULES, seed=0)


def test_nothing_there_is_said_before_any_step(checkpoint: Checkpoint, tmp_path: Path) -> None:
    knn = KnnRecipe(labelled=str(tmp_path / "none"), sensor="maxar-rgb", every_steps=1)
    with pytest.raises(ManifestError, match="none' does not exist"):
        open_labelled(knn, checkpoint, rules=_RULES, seed=0)


def _pair_table(folder: Path) -> Path:
    """Two dates of one place a set; the bright and the dark ones are two classes."""
    rows = ["path,set,label,sensor,bands"]
    for number in range(24):
        for date in range(1 + number % 2):
            draw = np.random.default_rng(10 * number + date)
            pixels = (800 + 2500 * (number % 3 == 0) + draw.normal(0, 200, (3, 20, 20))).astype(np.uint16)
            transform = (10.0, 0.0, 4e5 + 1e4 * number, 0.0, -10.0, 5.7e6)
            grid = Grid(height=20, width=20, transform=transform, crs="EPSG:32632", gsd_m=10.0)
            write_geotiff(folder / f"{number}_{date}.tif", pixels, grid=grid, descriptions=("B02", "B03", "B04"))
            rows.append(f"{number}_{date}.tif,s{number},{'ab'[number % 3 == 0]},sentinel2-l2a,B02;B03;B04")
    (folder / "t.csv").write_text("\n".join(rows) + "\n")
    return folder / "t.csv"


def test_sets_of_images_are_samples(checkpoint: Checkpoint, tmp_path: Path) -> None:
    assert _score(_pair_table(tmp_path), checkpoint, sensor="sentinel2-l2a") == 1.0
