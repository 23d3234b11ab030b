"""Numbers and words on the command line that can't be: refused before any work."""

import pytest

_SIMULATE = ("simulate", "--places", "1", "--sensors", "sentinel2-l2a", "--out", "HERE/sim")
_PREPARE = ("prepare", "KIT/rgb0.tif", "--sensor", "rgb", "--out", "HERE/store", "--quiet")
_EMBED = ("embed", "KIT/rgb0.tif", "--sensor", "rgb", "--checkpoint", "KIT/model.safetensors", "--out", "HERE/f.tif")
_EVALUATE = (
    "evaluate", "knn", "--checkpoint", "KIT/model.safetensors", "--data", "KIT/labelled", "--sensor", "rgb",
    "--out", "HERE/scores", "--no-results", "--no-cache",
)  # fmt: skip
_DEMO = ("demo", "--out", "HERE/demo", "--quiet")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--places=0", "num_places must be at least 1, found 0"),
        ("--places=many", "argument --places: invalid int value: 'many'"),
        ("--dates=-1", "num_dates must be at least 1, found -1"),
        ("--workers=0", "workers must be at least 1, found 0"),
        ("--footprint=nan", "footprint_m must be over 0 metres and finite, found nan"),
        ("--footprint=inf", "footprint_m must be over 0 metres and finite, found inf"),
        ("--footprint=-960", "footprint_m must be over 0 metres and finite, found -960"),
        ("--footprint=965", "a footprint of 965 m is no multiple of the pixel size"),
        ("--detail=0", "detail_m must be over 0 metres and finite, found 0"),
        ("--clouds=1.5", "cloud_share must be from 0 to 1, found 1.5"),
        ("--edges=nan", "edge_share must be from 0 to 1, found nan"),
        ("--gsd=sentinel2-l2a=nan", "the pixel size of 'sentinel2-l2a' must be over 0 metres and finite, found nan"),
        ("--gsd=sentinel2-l2a=1", "finer than the truth, which is drawn at 2.5 m"),
        ("--gsd=sentinel2-l2a", "--gsd takes NAME=METRES, for example maxar-rgb=2.5"),
        ("--gsd=naip=5", "a pixel size is given for 'naip', which is not simulated"),
        ("--sensors=sentinel2-l2a,S2_L2A", "a sensor is named twice"),
    ],
)
def test_simulate_refuses_options_that_can_not_be(refused, option: str, message: str) -> None:
    assert message in refused(*_SIMULATE, option)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--chip-px=0", "chips of 0 pixels are smaller than a patch (16 pixels)"),
        ("--chip-px=-16", "chips of -16 pixels are smaller than a patch"),
        ("--chip-m=inf", "chip_m must be over 0 metres and finite, found inf"),
        ("--chip-m=nan", "chip_m must be over 0 metres and finite, found nan"),
        ("--chip-m=0.001", "does not cover 50% of any footprint"),
        ("--min-valid=nan", "min_valid is a share from 0 to 1, found nan"),
        ("--splits=nan,0,0", "the shares of train, val and test must sum to 1"),
        ("--splits=-1,1,1", "the shares of train, val and test must sum to 1"),
        ("--splits=half", "--splits takes three shares such as 0.8,0.1,0.1, found 'half'"),
        ("--workers=0", "workers must be at least 1, found 0"),
        ("--workers=-2", "workers must be at least 1, found -2"),
    ],
)
def test_prepare_refuses_options_that_can_not_be(refused, option: str, message: str) -> None:
    workers = () if option.startswith("--workers") else ("--workers", "1")
    assert message in refused(*_PREPARE, *workers, option)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--tile=0", "tile is 0 pixels; it must be a multiple of the patch size, 16, and at least 16"),
        ("--tile=-16", "tile is -16 pixels"),
        ("--tile=20", "tile is 20 pixels"),
        ("--tile=wide", "argument --tile: invalid int value: 'wide'"),
        ("--halo=-16", "halo is -16 pixels; it must be a multiple of the patch size, 16, and at least 0"),
        ("--batch-size=0", "batch_size must be at least 1, found 0"),
        ("--batch-size=-1", "batch_size must be at least 1, found -1"),
        ("--min-support=nan", "min_support must be from 0 to 1, found nan"),
        ("--device=abacus", "there is no device 'abacus' here: "),
        ("--device=meta", "there is no device 'meta' here: "),
        ("--precision=fp8", "argument --precision: invalid choice: 'fp8'"),
        ("--statistics=KIT/missing.json", "missing.json' does not exist"),
    ],
)
def test_embed_refuses_options_that_can_not_be(refused, option: str, message: str) -> None:
    assert message in refused(*_EMBED, option)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--k=0", "knn.k must be at least 1, found 0"),
        ("--k=100", "k is 100 but there are 7 training samples; ask for a smaller k"),
        ("--split=0.5", "--split takes the shares of val and test, such as 0.1,0.2; found 0.5"),
        ("--split=0.5,0.6", "shares must be 0 or more and leave some to learn from, found val 0.5, test 0.6"),
        ("--split=nan,0.2", "key 'data.split.val': expected float, found 'NaN'"),
        ("--img-size=0", "input.img_size must be at least 1, found 0"),
        ("--img-size=-32", "input.img_size must be at least 1, found -32"),
        ("--img-size=33", "img_size 33 is not a multiple of the patch size 16"),
        ("--batch-size=0", "input.batch_size must be at least 1, found 0"),
        ("--device=abacus", "there is no device 'abacus' here: "),
        ("--pool=max", "key 'input.pool': expected one of ['cls', 'mean'], found 'max'"),
    ],
)
def test_evaluate_refuses_options_that_can_not_be(refused, option: str, message: str) -> None:
    assert message in refused(*_EVALUATE, option)


def test_a_linear_probe_refuses_no_epochs(refused) -> None:
    words = [word.replace("knn", "linear") for word in _EVALUATE]
    assert "a linear probe needs batch_size ≥ 2, epochs ≥ 1" in refused(*words, "--epochs=0")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--steps=0",), "steps must be at least 1, found 0"),
        (("--places=-1",), "num_places must be at least 1, found -1"),
        (("--batch-size=0",), "batch_size must be at least 1, found 0"),
        (("--workers=0",), "workers must be at least 1, found 0"),
        (("--labelled", "KIT/labelled"), "labelled images need a sensor, and a sensor needs images"),
        (("--labelled", "KIT/labelled", "--labelled-sensor", "rgb"), "labelled images go with your own images"),
    ],
)
def test_the_demo_refuses_options_that_can_not_be(refused, options: tuple[str, ...], message: str) -> None:
    assert message in refused(*_DEMO, *options)


def test_a_want_of_memory_is_said_and_not_traced(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr("anyband.evaluate.features.extract_features", too_large)
    message = refused(*_EVALUATE, "--k", "1")
    assert "there is not enough memory for this; take smaller images, batches or tiles" in message


def test_other_errors_of_the_program_are_not_hidden(kit, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    from anyband.cli import main

    def mistake(*_: object, **__: object) -> None:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr("anyband.evaluate.features.extract_features", mistake)
    words = [word.replace("KIT", str(kit)).replace("HERE", str(tmp_path)) for word in _EVALUATE]
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        main([*words, "--k", "1"])
