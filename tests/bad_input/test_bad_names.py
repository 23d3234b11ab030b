"""Sensors, bands and encodings that there are not: the nearest name is offered, whatever the verb."""

import numpy as np
import pytest

_PREPARE = ("prepare", "KIT/rgb0.tif", "--out", "HERE/store", "--workers", "1", "--quiet")
_EMBED = ("embed", "KIT/rgb0.tif", "--checkpoint", "KIT/model.safetensors", "--out", "HERE/f.tif")
_EVALUATE = ("evaluate", "knn", "--k", "1", "--checkpoint", "KIT/model.safetensors", "--data", "KIT/labelled")
_PRETRAIN = ("pretrain", "KIT/recipe.yaml", "--data", "KIT/store", "--out", "HERE/run", "--quiet")


@pytest.mark.parametrize(
    "words",
    [
        ("sensors", "maxar-rbg"),
        ("simulate", "--sensors", "maxar-rbg", "--out", "HERE/sim"),
        (*_PREPARE, "--sensor", "maxar-rbg"),
        (*_EMBED, "--sensor", "maxar-rbg"),
        (*_EVALUATE, "--sensor", "maxar-rbg"),
        (*_PRETRAIN, "data.pairs=[[maxar-rbg, sentinel1-grd]]"),
        (*_PRETRAIN, "data.held_out=[maxar-rbg]"),
        (*_PRETRAIN, "run.knn={labelled: KIT/labelled, sensor: maxar-rbg, every_steps: 1}"),
    ],
    ids=lambda words: words[0],
)
def test_an_unknown_sensor_is_refused_and_the_nearest_offered(refused, words: tuple[str, ...]) -> None:
    message = refused(*words)
    assert "there is no sensor 'maxar-rbg' in the catalogue" in message
    assert "did you mean 'maxar-rgb'?" in message


def test_the_demo_refuses_an_unknown_sensor_of_the_labelled_images(refused) -> None:
    words = ("--images", "KIT/m.csv", "--labelled", "KIT/labelled", "--labelled-sensor", "maxar-rbg", "--quiet")
    message = refused("demo", "--out", "HERE/demo", *words, leaves="demo")
    assert "did you mean 'maxar-rgb'?" in message


@pytest.mark.parametrize("words", [_PREPARE, _EMBED, _EVALUATE], ids=lambda words: words[0])
def test_an_unknown_band_is_refused_with_those_there_are(refused, words: tuple[str, ...]) -> None:
    message = refused(*words, "--sensor", "rgb", "--bands", "rad")
    assert "band 'rad' is not in sensor 'maxar-rgb' (3 bands: R, G, B); did you mean 'red'?" in message


@pytest.mark.parametrize("words", [_EMBED, _EVALUATE], ids=lambda words: words[0])
def test_a_band_named_twice_is_refused(refused, words: tuple[str, ...]) -> None:
    assert "names band 'R' twice" in refused(*words, "--sensor", "rgb", "--bands", "R,R")


@pytest.mark.parametrize("words", [_PREPARE, _EMBED, _EVALUATE], ids=lambda words: words[0])
def test_an_unknown_encoding_is_refused_with_those_there_are(refused, words: tuple[str, ...]) -> None:
    assert "encoding 'reflectance' is not declared for band 'R' (dn)" in refused(
        *words, "--sensor", "rgb", "--encoding", "reflectance"
    )


@pytest.mark.parametrize("words", [_EMBED, _EVALUATE], ids=lambda words: words[0])
def test_a_band_outside_the_trained_span_is_refused(refused, words: tuple[str, ...]) -> None:
    message = refused(*words, "--sensor", "nisar-l")
    assert "2 of 2 bands of 'nisar-l' can't be expressed by 'smarties_v1'" in message
    assert "its frequency, 1.257 GHz, is 2.10 octaves from the nearest trained radar range" in message
    assert "use other bands, a checkpoint trained on such a sensor" in message


def test_a_band_that_is_not_exactly_known_is_refused_where_that_is_asked(refused) -> None:
    message = refused(*_EMBED, "--sensor", "naip", "--unseen", "refuse")
    assert "leave these bands out, or allow `unseen: interpolate`" in message


@pytest.mark.parametrize("words", [_EMBED, _EVALUATE], ids=lambda words: words[0])
def test_a_sensor_without_statistics_says_where_to_get_them(refused, words: tuple[str, ...]) -> None:
    message = refused(*words, "--sensor", "capella-x", "--bands", "HH")
    assert "no normalisation statistics for 1 of 1 band of 'capella-x' (HH)" in message
    assert "--statistics" in message


def test_training_on_a_band_outside_the_span_is_refused(refused, kit, tmp_path, tiff) -> None:
    from anyband.cli import main

    power = np.random.default_rng(0).uniform(0.01, 0.2, (2, 32, 32)).astype(np.float32)
    tiff(tmp_path / "l.tif", power)
    rows = [f"{kit / 'rgb0.tif'},rgb,p", f"{tmp_path / 'l.tif'},nisar-l,p"]
    (tmp_path / "m.csv").write_text("\n".join(["path,sensor,place", *rows]) + "\n")
    words = ["--out", str(tmp_path / "store"), "--workers", "1", "--quiet", "--splits", "1,0,0", "--stats"]
    assert main(["prepare", str(tmp_path / "m.csv"), *words]) == 0
    words = ["pretrain", "KIT/recipe.yaml", "--data", "HERE/store", "--out", "HERE/run", "--quiet"]
    assert "bands of 'nisar-l' can't be expressed" in refused(*words, "data.statistics=store")


def test_an_unknown_verb_offers_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    from anyband.cli import main

    assert main(["prepar"]) == 2
    assert "there is no verb 'prepar'; did you mean 'prepare'?" in capsys.readouterr().err
