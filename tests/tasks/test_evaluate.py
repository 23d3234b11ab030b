"""Evaluation on labelled images and on the chips of a store."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anyband.cli import main
from anyband.errors import InputError, RasterError
from anyband.models.inputs import ImageBatch
from anyband.tasks.evaluate import (
    EvaluateOptions,
    ScoreOptions,
    band_means,
    evaluate_images,
    read_split_images,
)
from anyband.tasks.features import SensorEncoder, load_encoder
from anyband.tasks.knn import KnnOptions
from anyband.tasks.linear import LinearOptions

_COLOURS = {"beach": (220, 200, 150), "forest": (40, 90, 40), "river": (60, 80, 140)}


@pytest.fixture(scope="module")
def encoder(golden: Path) -> SensorEncoder:
    return load_encoder(golden / "smarties" / "checkpoint.safetensors")


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
def table(folders: Path) -> Path:
    path = folders / "labels.csv"
    lines = ["path,label"]
    for name in _COLOURS:
        for index in range(20):
            label = f"{name};land" if name != "river" else name
            lines.append(f"{name}/{name}{index:02d}.png,{label}")
    path.write_text("\n".join(lines) + "\n")
    return path


def _options(protocol: str, **changes: object) -> EvaluateOptions:
    score = ScoreOptions(
        protocol=protocol,  # type: ignore[arg-type]
        knn=KnnOptions(k=5),
        linear=LinearOptions(epochs=20, base_lr=0.1),
    )
    return EvaluateOptions(score=score, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("protocol", ["knn", "linear"])
def test_classes_of_different_colour_are_told_apart_by_every_kind_of_features(
    encoder: SensorEncoder, folders: Path, protocol: str
) -> None:
    images = read_split_images(folders, multi_label=False, val_share=0.2, test_share=0.2, seed=0)
    evaluation = evaluate_images(encoder, images, "maxar-rgb", _options(protocol, untrained=True, baseline=True))
    assert [row.features for row in evaluation.rows] == ["encoder", "untrained encoder", "band means"]
    assert [row.width for row in evaluation.rows] == [64, 64, 6]
    for row in evaluation.rows:
        assert row.scores[0].value > 0.9
        assert row.scores[0].num_samples == 12
    assert evaluation.num_samples == {"train": 36, "val": 12, "test": 12}


@pytest.mark.parametrize("protocol", ["knn", "linear"])
def test_several_labels_an_image_are_scored_by_average_precision(
    encoder: SensorEncoder, table: Path, protocol: str
) -> None:
    images = read_split_images(table, multi_label=True, val_share=0.2, test_share=0.2, seed=0)
    evaluation = evaluate_images(encoder, images, "maxar-rgb", _options(protocol))
    assert evaluation.classes == ("beach", "forest", "land", "river")
    assert [score.metric for score in evaluation.rows[0].scores] == ["map_micro", "map_macro"]
    assert evaluation.rows[0].scores[0].value > 0.9


def test_equal_seeds_give_equal_results(encoder: SensorEncoder, folders: Path) -> None:
    results = []
    for _ in range(2):
        images = read_split_images(folders, multi_label=False, val_share=0.2, test_share=0.2, seed=3)
        results.append(evaluate_images(encoder, images, "maxar-rgb", _options("linear")))
    assert results[0] == results[1]


def test_statistics_may_be_counted_on_the_training_images(encoder: SensorEncoder, folders: Path) -> None:
    images = read_split_images(folders, multi_label=False, val_share=0.1, test_share=0.2, seed=0)
    evaluation = evaluate_images(encoder, images, "maxar-rgb", _options("knn", statistics="data"))
    assert evaluation.settings["normalisation"] == "statistics given by the caller"
    assert evaluation.rows[0].scores[0].value > 0.9


def test_several_labels_must_be_declared(table: Path) -> None:
    with pytest.raises(InputError, match="has no label or several; say so with `--multi-label`"):
        read_split_images(table, multi_label=False, val_share=0.1, test_share=0.2, seed=0)


def test_more_neighbours_than_training_images_are_refused(encoder: SensorEncoder, folders: Path) -> None:
    images = read_split_images(folders, multi_label=False, val_share=0.1, test_share=0.2, seed=0)
    options = EvaluateOptions(score=ScoreOptions(knn=KnnOptions(k=50)))
    with pytest.raises(InputError, match="k is 50 but there are 42 training samples"):
        evaluate_images(encoder, images, "maxar-rgb", options)


def test_a_class_that_training_lacks_is_refused(encoder: SensorEncoder, folders: Path, tmp_path: Path) -> None:
    lines = ["path,label,split"]
    for index in range(8):
        lines.append(f"{folders / 'beach' / f'beach{index:02d}.png'},beach,train")
        lines.append(f"{folders / 'river' / f'river{index:02d}.png'},river,test")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    images = read_split_images(tmp_path / "t.csv", multi_label=False, val_share=0.0, test_share=0.2, seed=0)
    with pytest.raises(InputError, match="1 of 1 classes in the test split have no training sample: 'river'"):
        evaluate_images(encoder, images, "maxar-rgb", _options("knn"))


def test_an_image_that_can_not_be_read_is_named(encoder: SensorEncoder, folders: Path, tmp_path: Path) -> None:
    for name in _COLOURS:
        for index in range(4):
            _write_image(tmp_path / name / f"{index}.png", _COLOURS[name], seed=index)
    (tmp_path / "river" / "2.png").write_bytes(b"not a picture")
    images = read_split_images(tmp_path, multi_label=False, val_share=0.0, test_share=0.25, seed=0)
    with pytest.raises(RasterError, match=r"river.2\.png"):
        evaluate_images(encoder, images, "maxar-rgb", _options("knn"))


def test_band_means_are_those_of_numpy_over_valid_pixels() -> None:
    draw = np.random.default_rng(0)
    pixels = draw.normal(size=(2, 3, 8, 8)).astype(np.float32)
    valid = draw.random((2, 3, 8, 8)) < 0.7
    batch = ImageBatch(
        pixels=torch.from_numpy(np.where(valid, pixels, 0)),
        valid=torch.from_numpy(valid),
        mixing=torch.eye(3),
    )
    found = band_means(batch).numpy()
    for image in range(2):
        for band in range(3):
            seen = pixels[image, band][valid[image, band]]
            assert found[image, band] == pytest.approx(seen.mean(), abs=1e-5)
            assert found[image, 3 + band] == pytest.approx(seen.std(), abs=1e-5)


def test_the_verb_prints_a_table_and_writes_json(
    golden: Path, folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = str(golden / "smarties" / "checkpoint.safetensors")
    words = [
        "evaluate",
        "knn",
        "--checkpoint",
        checkpoint,
        "--data",
        str(folders),
        "--sensor",
        "rgb",
        "--k",
        "5",
    ]
    assert main([*words, "--baseline", "--untrained", "--out", str(tmp_path / "r.json")]) == 0
    printed = capsys.readouterr().out
    assert "untrained encoder" in printed
    values = json.loads((tmp_path / "r.json").read_text())
    assert values["checkpoint"].startswith("checkpoint.safetensors sha256:")
    assert values["data"].startswith(folders.name)
    assert values["settings"]["k"] == 5


def test_the_verb_prints_one_json_object(golden: Path, folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = str(golden / "smarties" / "checkpoint.safetensors")
    words = [
        "evaluate",
        "linear",
        "--checkpoint",
        checkpoint,
        "--data",
        str(folders),
        "--sensor",
        "maxar-rgb",
    ]
    assert main([*words, "--epochs", "3", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["rows"][0]["chosen"]["epoch"] in (1, 2, 3)


def test_the_verb_ends_with_2_where_the_split_is_no_pair_of_shares(
    golden: Path, folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = str(golden / "smarties" / "checkpoint.safetensors")
    words = ["evaluate", "knn", "--checkpoint", checkpoint, "--data", str(folders), "--sensor", "maxar-rgb"]
    assert main([*words, "--split", "0.2"]) == 2
    assert "--split takes the shares of val and test" in capsys.readouterr().err


@pytest.mark.real
def test_real_aerial_images_of_unequal_size_are_scored(encoder: SensorEncoder, real_data: Path, tmp_path: Path) -> None:
    classes = sorted(
        path for path in (real_data / "ucmerced_jpg").rglob("*") if path.is_dir() and any(path.glob("*.jpg"))
    )
    for folder in classes[:4]:
        (tmp_path / folder.name).mkdir()
        for image in sorted(folder.glob("*.jpg"))[:10]:
            (tmp_path / folder.name / image.name).symlink_to(image)
    images = read_split_images(tmp_path, multi_label=False, val_share=0.0, test_share=0.3, seed=0)
    evaluation = evaluate_images(encoder, images, "maxar-rgb", _options("knn", baseline=True))
    assert evaluation.num_samples["test"] == 12
    assert all(row.scores[0].value > 0.25 for row in evaluation.rows)
