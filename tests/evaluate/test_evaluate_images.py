"""Evaluation of images that lie in files, from the recipe to rows of results."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anyband.errors import InputError, RasterError
from anyband.evaluate.recipe import CompareRecipe, InputRecipe, KnnRecipe, LinearRecipe, Protocol, TransferRecipe
from anyband.evaluate.results import ResultRow, result_rows
from anyband.evaluate.run import evaluate
from anyband.labelled.samples import DataSpec, SplitSpec
from anyband.models.checkpoint import load_checkpoint, save_checkpoint
from anyband.sensors.catalogue import get_sensor
from anyband.sensors.sensor import sensor_to_dict

_COLOURS = {"beach": (220, 200, 150), "forest": (40, 90, 40), "river": (60, 80, 140)}


@pytest.fixture(scope="module")
def checkpoint(golden: Path) -> Path:
    return golden / "smarties" / "checkpoint.safetensors"


def _write_image(path: Path, colour: tuple[int, int, int], seed: int, size: int = 40) -> None:
    noise = np.random.default_rng(seed).normal(0, 12, (size, size + seed % 3, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("labelled")
    for number, (name, colour) in enumerate(_COLOURS.items()):
        for index in range(20):
            _write_image(root / name / f"{name}{index:02d}.png", colour, seed=100 * number + index)
    return root


@pytest.fixture(scope="module")
def table(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "labels.csv"
    lines = ["path,label"]
    for name in _COLOURS:
        for index in range(20):
            label = f"{name};land" if name != "river" else name
            lines.append(f"{folders}/{name}/{name}{index:02d}.png,{label}")
    path.write_text("\n".join(lines) + "\n")
    return path


def _recipe(source: Path, checkpoint: Path, **changes: Any) -> TransferRecipe:
    recipe = TransferRecipe(
        name="test",
        data=DataSpec(source=str(source), sensors=("maxar-rgb",), split=SplitSpec(val=0.2, test=0.2)),
        checkpoint=str(checkpoint),
        knn=KnnRecipe(k=5),
        linear=LinearRecipe(epochs=20, base_lr=0.1),
    )
    return recipe.changed(**changes)


def _rows(recipe: TransferRecipe, protocol: Protocol = "knn") -> list[ResultRow]:
    return result_rows(*evaluate(recipe, protocol))


@pytest.mark.parametrize("protocol", ["knn", "linear"])
def test_classes_of_different_colour_are_told_apart_by_every_kind_of_features(
    checkpoint: Path, folders: Path, protocol: Protocol
) -> None:
    rows = _rows(_recipe(folders, checkpoint, compare=CompareRecipe(untrained=True, baseline=True)), protocol)
    means = {"knn": "band means + nearest neighbours", "linear": "band means + linear probe"}[protocol]
    assert [row.features for row in rows] == ["encoder", "untrained encoder", means]
    assert [row.width for row in rows] == [64, 64, 6]
    for row in rows:
        assert row.score("accuracy").value > 0.9
        assert row.score("accuracy").num_samples == 12
        assert row.num_samples == {"train": 36, "val": 12, "test": 12}


@pytest.mark.parametrize("protocol", ["knn", "linear"])
def test_several_labels_an_image_are_scored_by_average_precision(
    checkpoint: Path, table: Path, protocol: Protocol
) -> None:
    recipe = _recipe(table, checkpoint)
    (row,) = _rows(recipe.changed(data=replace(recipe.data, kind="labels")), protocol)
    assert row.predictions is not None
    assert row.predictions.classes == ("beach", "forest", "land", "river")
    assert [score.metric for score in row.scores][:2] == ["map_micro", "map_macro"]
    assert row.scores[0].value > 0.9


def test_equal_seeds_give_equal_results(checkpoint: Path, folders: Path) -> None:
    first, second = (_rows(_recipe(folders, checkpoint, seed=3), "linear")[0] for _ in range(2))
    assert first.id == second.id
    assert first.scores == second.scores
    assert first.predictions is not None
    assert second.predictions is not None
    assert np.array_equal(first.predictions.arrays["scores"], second.predictions.arrays["scores"])


def test_statistics_may_be_counted_on_the_training_images(checkpoint: Path, folders: Path) -> None:
    (row,) = _rows(_recipe(folders, checkpoint, input=InputRecipe(statistics="data")))
    assert "maxar-rgb: encoding 'dn'; statistics counted on the training images" in row.notes
    assert row.scores[0].value > 0.9


def test_a_sensor_that_only_the_checkpoint_knows_may_be_named(checkpoint: Path, folders: Path, tmp_path: Path) -> None:
    known = load_checkpoint(checkpoint)
    own = replace(get_sensor("maxar-rgb"), name="our-camera")
    save_checkpoint(
        tmp_path / "own.safetensors",
        replace(known, sensors={**known.sensors, "our-camera": sensor_to_dict(own)}),
    )
    recipe = _recipe(folders, tmp_path / "own.safetensors")
    (own_row,) = _rows(recipe.changed(data=replace(recipe.data, sensors=("our-camera",))))
    (row,) = _rows(recipe)
    assert own_row.scores == row.scores
    assert any(note.startswith("our-camera: ") for note in own_row.notes)


def test_several_labels_must_be_declared(checkpoint: Path, table: Path) -> None:
    with pytest.raises(InputError, match=r"40 samples of '.*\.csv' have no label or several, .*data\.kind=labels"):
        evaluate(_recipe(table, checkpoint), "knn")


def test_more_neighbours_than_training_images_are_refused(checkpoint: Path, folders: Path) -> None:
    with pytest.raises(InputError, match="k is 50 but there are 36 training samples"):
        evaluate(_recipe(folders, checkpoint, knn=KnnRecipe(k=50)), "knn")


def test_a_class_that_training_lacks_is_refused(checkpoint: Path, folders: Path, tmp_path: Path) -> None:
    lines = ["path,label,split"]
    for index in range(8):
        part = "val" if index == 7 else "train"
        lines.append(f"{folders / 'beach' / f'beach{index:02d}.png'},beach,{part}")
        lines.append(f"{folders / 'river' / f'river{index:02d}.png'},river,test")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"1 of 2 classes is in split 'test' of 't\.csv' and not in training"):
        evaluate(_recipe(tmp_path / "t.csv", checkpoint), "knn")


def test_an_image_that_can_not_be_read_is_named(checkpoint: Path, tmp_path: Path) -> None:
    for name in _COLOURS:
        for index in range(6):
            _write_image(tmp_path / name / f"{index}.png", _COLOURS[name], seed=100 * len(name) + index)
    (tmp_path / "river" / "2.png").write_bytes(b"not a picture")
    with pytest.raises(RasterError, match=r"river.2\.png"):
        evaluate(_recipe(tmp_path, checkpoint), "knn")


@pytest.mark.real
def test_real_aerial_images_of_unequal_size_are_scored(checkpoint: Path, real_data: Path, tmp_path: Path) -> None:
    classes = sorted(
        path for path in (real_data / "ucmerced_jpg").rglob("*") if path.is_dir() and any(path.glob("*.jpg"))
    )
    for folder in classes[:4]:
        (tmp_path / folder.name).mkdir()
        for image in sorted(folder.glob("*.jpg"))[:10]:
            (tmp_path / folder.name / image.name).symlink_to(image)
    recipe = _recipe(tmp_path, checkpoint, compare=CompareRecipe(baseline=True))
    split = SplitSpec(val=0.1, test=0.3)
    rows = _rows(recipe.changed(data=replace(recipe.data, split=split)))
    assert rows[0].num_samples["test"] == 12
    assert all(row.scores[0].value > 0.25 for row in rows)
