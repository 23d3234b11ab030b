"""`anyband reconstruct`."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from small_networks import encoder_only

from anyband.cli import main
from anyband.models.autoencoder import Autoencoder
from anyband.models.checkpoint import Checkpoint, save_checkpoint, state_of


@pytest.fixture
def checkpoint(set_checkpoint: Checkpoint, tmp_path: Path) -> str:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, set_checkpoint)
    return str(path)


@pytest.fixture
def place(make_place: Callable[..., Any]) -> Any:
    """A place with a manifest of two images."""
    made = make_place(40, 48)
    rows = [made.optical("2020-06-05"), made.radar("2020-06-11")]
    with (made.folder / "place.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "sensor", "bands", "datetime"])
        for entry in rows:
            names = ";".join(entry.sensor.band_names)
            writer.writerow([entry.name, entry.sensor.name, names, f"{entry.datetime:%Y-%m-%d}"])
    return made


def _words(place: Any, checkpoint: str, *more: str) -> list[str]:
    folder = place.folder
    words = ["reconstruct", str(folder / "place.csv"), "--checkpoint", checkpoint, "--out", str(folder / "out.tif")]
    return [*words, "--target-sensor", "sentinel2-l2a", *more]


def test_the_verb_writes_a_whole_image(place: Any, checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(_words(place, checkpoint, "--date", "2020-06-10")) == 0
    printed = capsys.readouterr().out
    assert "40 × 48 pixels of 10 m, 1920 predicted, 0 without data" in printed
    assert "looked at: sentinel1-grd 2020-06-11; sentinel2-l2a 2020-06-05" in printed
    with rasterio.open(place.folder / "out.tif") as file:
        assert file.tags()["ANYBAND_CHECKPOINT"].startswith("model.safetensors sha256:")
        assert file.tags()["ANYBAND_DATETIME"] == "2020-06-10T00:00:00.000000Z"
    assert (place.folder / "out_picture.png").is_file()


def test_the_verb_fills_what_a_mask_of_classes_calls_unclear(place: Any, checkpoint: str) -> None:
    classes = np.full((40, 48), 4)
    classes[:10, :10], classes[30:, 40:] = 9, 5
    mask = str(place.clouds(classes))
    target = str(place.optical("2020-06-10", name="target").source.paths[0])
    seen = ["--target", target, "--cloudy", mask, "--clear-values", "4,5,6,7,11", "--bands", "B02,B03,B04"]
    assert main(_words(place, checkpoint, "--date", "2020-06-10", *seen)) == 0
    with rasterio.open(place.folder / "out.tif") as file:
        changed = (file.read() != place.truth).any(axis=0)
    assert changed[:10, :10].any()
    assert not changed[classes != 9].any()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--date", "21.6.2018"], "--date: datetime '21.6.2018' is not ISO 8601"),
        (["--date", "2999-01-01"], "lies in the future"),
        ([], "when was the target taken?"),
        (["--date", "2020-06-10", "--cloudy", "m.tif"], "--cloudy is of an image that is there; name it with --target"),
        (["--date", "2020-06-10", "--bands", "B99"], "band 'B99' is not in sensor 'sentinel2-l2a'"),
        (["--date", "2020-06-10", "--encoding", "dm"], "encoding 'dm' is not declared"),
        (["--date", "2020-06-10", "--num-context", "0"], "num_context must be at least 1, found 0"),
        (["--date", "2020-06-10", "--like", "absent.tif"], "'absent.tif' does not exist"),
        (["--date", "2020-06-10", "--device", "abacus"], "there is no device 'abacus'"),
    ],
)
def test_wrong_words_end_with_2_and_one_message(
    place: Any, checkpoint: str, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert main(_words(place, checkpoint, *more)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (place.folder / "out.tif").exists()


def test_clear_values_that_are_no_numbers_are_refused(
    place: Any, checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    target = str(place.optical("2020-06-10", name="target").source.paths[0])
    more = ["--target", target, "--cloudy", target, "--clear-values", "clear", "--date", "2020-06-10"]
    assert main(_words(place, checkpoint, *more, "--bands", "B02,B03,B04")) == 2
    assert "--clear-values takes numbers such as 4,5,6, found 'clear'" in capsys.readouterr().err


def test_a_target_of_an_unknown_sensor_is_refused(
    place: Any, checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word if word != "sentinel2-l2a" else "sentinel2-l2b" for word in _words(place, checkpoint)]
    assert main([*words, "--date", "2020-06-10"]) == 2
    assert "did you mean 'sentinel2-l2a'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("pair", "was trained on pairs of sensors"),
        ("structure", "predicts the structure inside a token and not its values"),
        ("encoder", "has an encoder only; reconstruction needs one with its decoder"),
    ],
)
def test_a_checkpoint_that_can_not_predict_an_image_is_refused(
    place: Any, set_checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, message: str
) -> None:
    found = set_checkpoint
    if kind == "encoder":
        found = encoder_only(found)
    else:
        config = replace(found.config, levels=False)
        if kind == "pair":
            plain = replace(config.encoder, encodings=type(config.encoder.encodings)())
            config = replace(config, images="pair", encoder=plain)
        model = Autoencoder(config, seed=0)
        found = replace(found, config=config, state=state_of(model))
    path = tmp_path / "other.safetensors"
    save_checkpoint(path, found)
    assert main(_words(place, str(path), "--date", "2020-06-10")) == 2
    assert message in capsys.readouterr().err
