"""Recipes with keys, types or values that can't be: refused before the folder of the run is made."""

from pathlib import Path

import pytest

_WORDS = ("--data", "KIT/store", "--out", "HERE/run", "--quiet")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optm.epochs=5", "unknown recipe key 'optm'; did you mean 'optim'?"),
        ("optim.epoch=5", "unknown recipe key 'epoch' in 'optim'; did you mean 'epochs'?"),
        ("optim.epochs=abc", "key 'optim.epochs': expected int, found 'abc'"),
        ("optim.epochs=5.5", "key 'optim.epochs': expected int, found 5.5"),
        ("optim.epochs=.nan", "key 'optim.epochs': expected int, found nan"),
        ("optim.epochs=", "recipe key 'optim.epochs' needs a value, found nothing"),
        ("optim.epochs=[1", "is not valid YAML"),
        ("optim.epochs", "must read key.key=value, for example optim.epochs=5"),
        ("=5", "must read key.key=value"),
        ("optim=5", "recipe key 'optim' holds keys of its own, found int '5'"),
        ("optim.epochs.x=5", "'epochs' holds int '2', which has no keys in it"),
        ("optim.steps=0", "optim.steps must be at least 1, found 0"),
        ("optim.batch_size=-1", "optim.batch_size must be at least 1, found -1"),
        ("optim.base_lr=.nan", "optim.base_lr must be over 0, found nan"),
        ("optim.base_lr=.inf", "optim.base_lr must be finite, found inf"),
        ("optim.clip_grad_norm=.inf", "optim.clip_grad_norm must be finite, found inf"),
        ("optim.weight_decay=.inf", "optim.weight_decay must be finite, found inf"),
        ("optim.betas=[0.9]", "key 'optim.betas': expected tuple with more elements, found [0.9]"),
        ("optim.warmup_epochs=.nan", "optim.warmup_epochs must be at least 0, found nan"),
        ("model.img_size=33", "model.patch_size 16 does not divide model.img_size 33"),
        ("model.img_size=-32", "model.img_size must be at least 1, found -32"),
        ("model.embed_dim=0", "model.embed_dim must be a multiple of 4, found 0"),
        ("model.mlp_ratio=.inf", "model.mlp_ratio must be finite, found inf"),
        ("model.mlp_ratio=0.001", "model.mlp_ratio 0.001 leaves no hidden layer at width 16"),
        ("model.mask_ratio=1", "model.mask_ratio must be over 0 and under 1, found 1"),
        ("model.mask_ratio=0.9", "a mask ratio of 0.9 leaves 0 of 4 tokens visible"),
        ("model.ranges=smarties_v2", "key 'model.ranges': expected one of ['smarties_v1'"),
        ("data.pairs=[]", "data.pairs is empty; name pairs of sensors"),
        ("data.pairs=[[rgb]]", "key 'data.pairs[0]': expected tuple with more elements, found ['rgb']"),
        ("data.split=trian", "key 'data.split': expected one of ['train', 'val', 'test'], found 'trian'"),
        ("data.split=test", "no footprint in split 'test' of store"),
        ("data.augment.crop_area=[2,1]", "crop_area needs 0 < least <= largest <= 1, found 2 to 1"),
        ("run.workers=0", "run.workers must be at least 1, found 0"),
        ("run.accelerator=tpu", "key 'run.accelerator': expected one of"),
        ("run.knn={labelled: KIT/missing, sensor: rgb, every_steps: 1}", "missing' does not exist"),
        ("run.knn={labelled: KIT/labelled, sensor: capella-x, every_steps: 1}", "no normalisation statistics"),
        ("run.knn={labelled: KIT/labelled, sensor: rgb}", "key 'run.knn': missing every_steps"),
        ("seed=1.5", "key 'seed': expected int, found 1.5"),
        ("name=5", "key 'name': expected str, found 5"),
    ],
)
def test_an_override_that_can_not_be_is_refused(refused, override: str, message: str) -> None:
    assert message in refused("pretrain", "KIT/recipe.yaml", *_WORDS, override)


def test_a_key_overridden_twice_is_refused(refused) -> None:
    words = ("optim.epochs=5", "optim.epochs=6")
    assert "key 'optim.epochs' is overridden twice" in refused("pretrain", "KIT/recipe.yaml", *_WORDS, *words)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be keys with values, found nothing"),
        ("- a", "must be keys with values, found list"),
        ("name: x\nsead: 3", "unknown recipe key 'sead'; did you mean 'seed'?"),
        ("name: x\nseed: 1\nseed: 2", "key 'seed' stands twice, on lines 2 and 3"),
        ("name: x\nmodel: {depth: 1, depth: 2}", "key 'depth' stands twice"),
        ("name: x\nmodel: big", "recipe key 'model' holds keys of its own, found str 'big'"),
        ("name: x\nseed: true", "key 'seed': expected int, found True"),
        ("name: x\n5: 1", "unknown recipe key '5'"),
        ("? [a]\n: 1", "['a'] can't be a key"),
        ("seed: 1", "missing name"),
        ("name: [", "is not valid YAML"),
        (b"\xff\xfe", "is not a text in UTF-8, so it can't be YAML"),
    ],
)
def test_a_wrong_recipe_file_is_refused(refused, tmp_path: Path, text: str | bytes, message: str) -> None:
    (tmp_path / "r.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert message in refused("pretrain", "HERE/r.yaml", *_WORDS)


@pytest.mark.parametrize("recipe", ["smarties_tny", "HERE/missing.yaml", "KIT/labelled"])
def test_a_recipe_that_is_not_there_is_refused(refused, recipe: str) -> None:
    assert "is neither a file nor a shipped recipe (a2mae_base, " in refused("pretrain", recipe, *_WORDS)


def test_a_misspelt_recipe_offers_the_nearest(refused) -> None:
    assert "did you mean 'smarties_tiny'?" in refused("pretrain", "smarties_tny", *_WORDS)


def test_an_accelerator_that_is_not_there_is_refused(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(**_: object) -> None:
        raise RuntimeError("No supported gpu backend found!")

    monkeypatch.setattr("lightning_fabric.Fabric", missing)
    message = refused("pretrain", "KIT/recipe.yaml", *_WORDS, "run.accelerator=gpu")
    assert "run.accelerator 'gpu' with run.devices 1 can't be had here: No supported gpu backend" in message
    assert "use run.accelerator=auto or cpu" in message
