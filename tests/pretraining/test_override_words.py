"""Recipes and override words with recorded outcomes: the values that they set, or the error and the key that it names.

    python tests/pretraining/test_override_words.py --record

writes `override_words.json` anew from what the loaders do now. A good outcome holds the keys whose values differ from
the shipped recipe's (`bases`), flat and as JSON; a bad one the class of the error, a word that its message has (the key
that is wrong) and the nearest name that it offers.
"""

import argparse
import dataclasses
import importlib
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import anyband
from anyband.errors import AnybandError

_TABLE = Path(__file__).with_name("override_words.json")
_EVALUATION_LOADER = ("anyband.evaluate.recipe", "load_transfer_recipe")
_FILE = "file"
"""Key of the cases whose recipe is the text of a file."""

_EVALUATION = "name: mine\ndata: {source: images}\n"
_BASES = {"pretrain": "smarties_tiny", "evaluate": _EVALUATION}
_SHIPPED_PRETRAIN = (
    *("smarties_tiny", "smarties_small", "smarties_base", "smarties_large", "smarties_huge"),
    *("a2mae_tiny", "a2mae_base", "a2mae_large", "unified_tiny", "unified_base", "unified_large"),
    *(f"paper/pretraining/{name}" for name in ("base_50", "base_50_bigearthnet", "base_50_without_mixup", "large_50")),
)
_SHIPPED_EVALUATE = (
    *("paper/table1_ben_mm_linear", "paper/table1_ben_s1_linear", "paper/table1_ben_s2_finetune"),
    *("paper/table2_eurosat_finetune", "paper/table2_eurosat_linear", "paper/table3_resisc45_finetune"),
    *("paper/table4_eurosat_knn", "paper/table4_ucmerced_knn", "paper/table4_whu_rs19_knn"),
    *("paper/table5_burnscars_segment", "paper/table5_dynamicearthnet_segment", "paper/table5_spacenet7_segment"),
    *("paper/table6_sickle", "paper/table6_sickle_without", "paper/table7_eurosat_knn", "paper/table8_ben_mm_concat"),
    *("paper/table8_ben_mm_mixup_concat", "paper/table8_ben_mm_stack", "paper/dfc2020", "paper/figure5"),
)

# Words that are put on top of the base; a list holds several words of one command.
_PRETRAIN_WORDS: tuple[str | list[str], ...] = (
    # numbers
    "seed=7",
    "seed=-3",
    "seed=0x10",
    "seed=010",
    "optim.epochs=1_000",
    "optim.epochs=1e2",
    "optim.epochs=5.0",
    "optim.base_lr=1e-4",
    "optim.base_lr=1.5E-4",
    "optim.base_lr=1_0e-4",
    "optim.base_lr=1",
    "optim.base_lr='1e-4'",
    "optim.base_lr=.5",
    "model.mlp_ratio=4",
    "model.mask_ratio=0.5",
    "data.sets={size: [1, 3], gap_days: 10}",
    "optim.warmup_epochs=0",
    "optim.weight_decay=0",
    # nothing, and something in its place
    "optim.clip_grad_norm=null",
    "optim.clip_grad_norm=~",
    "optim.steps=500",
    "optim.steps=null",
    "run.endpoint=http://127.0.0.1:9000",
    "data.sets=null",
    "run.knn=null",
    # true and false
    "run.compile=true",
    "run.compile=yes",
    "run.compile=1",
    "model.norm_pix_loss=false",
    "model.levels=True",
    "data.augment.enabled=off",
    # texts
    "name='a name: with colon'",
    'name="5"',
    "name=true",
    "name=2020-01-01",
    "name=",
    "model.start=runs/first/encoder.safetensors",
    "model.start_mae=facebook/vit-mae-base",
    "run.devices=auto",
    "run.devices=2",
    "run.devices='2'",
    # words to choose from
    "optim.precision=32-true",
    "model.ranges=from_data",
    "model.mixup=released",
    "model.target_variance=repeated",
    "data.shuffle=shards",
    "run.strategy=fsdp",
    # lists
    "optim.betas=[0.9, 0.999]",
    "optim.betas=[0, 0.95]",
    "data.augment.crop_area=[0.5, 1]",
    "data.held_out=[sentinel1-grd]",
    "data.held_out=[]",
    "data.held_out=sentinel1-grd",
    "data.pairs=[[sentinel2-l2a, sentinel1-grd], [maxar-rgb, sentinel2-l2a]]",
    "data.pairs=any",
    # records inside
    ["data.sets.size=[2, 4]", "model.mixup=none"],
    ["data.sets={size: [1, 1]}", "model.hidden_image=0"],
    "model.encodings={geographic: none}",
    ["data.sets.size=[2, 2]", "model.encodings.date=true", "model.encodings.place=true"],
    "data.augment={flips: false}",
    "run.knn={labelled: photographs, sensor: maxar-rgb, every_steps: 100}",
    ["run.knn.labelled=photographs", "run.knn.sensor=maxar-rgb", "run.knn.every_steps=100", "run.knn.pool=mean"],
    # stages
    ["data.sets.size=[1, 3]", "data.stages=[{epochs: 40, with_sensors: [sentinel1-grd]}, {epochs: 60}]"],
    ["data.sets.size=[1, 3]", "data.stages=[{epochs: 40}, {epochs: 50, with_sensors: [naip]}]"],
    ["data.sets.size=[1, 3]", "data.stages=[{epochs: 50}, {epochs: 50}]"],
    ["data.sets.size=[1, 3]", "data.stages=[{epoch: 50}, {epochs: 50}]"],
    ["data.sets.size=[1, 3]", "data.stages=[50, 50]"],
    ["data.sets.size=[1, 3]", "data.stages=[]"],
    ["data.sets.size=[1, 3]", "data.stages=[{with_sensors: [naip]}]"],
    "data.stages=[{epochs: 100}]",
    # keys that are not there
    "optm.epochs=5",
    "optim.epoch=5",
    "optim.zzz=5",
    "model.encodings.dates=true",
    "data.sets.sizes=[1, 2]",
    "run.knn.sensors=naip",
    "Seed=1",
    "optim.epochs.x=5",
    "model.maskratio=0.5",
    "data.augment.flip=false",
    # types that are wrong
    "optim.epochs=abc",
    "optim.epochs=5.5",
    "optim.epochs='5'",
    "optim.epochs=true",
    "optim.epochs=[5]",
    "optim.epochs=.nan",
    "optim.base_lr=fast",
    "optim.betas=[0.9]",
    "optim.betas=[0.9, 0.95, 0.99]",
    "optim.betas=0.9",
    "optim=5",
    "optim=null",
    "model.encodings=5",
    "model.levels=maybe",
    "model.levels=0",
    "model.start=5",
    "name=5",
    "data.split=trian",
    "data.held_out=[5]",
    "data.pairs=[[rgb]]",
    "data.sets=5",
    "model.ranges=smarties_v2",
    "run.accelerator=tpu",
    "run.knn={labelled: photographs, sensor: rgb}",
    "optim.epochs=",
    "optim.epochs=null",
    # out of range, or not together
    "optim.steps=0",
    "optim.batch_size=-1",
    "optim.accumulate=3",
    "optim.base_lr=0",
    "optim.base_lr=.inf",
    "optim.warmup_epochs=200",
    "optim.clip_grad_norm=0",
    "model.img_size=100",
    "model.embed_dim=6",
    "model.num_heads=5",
    "model.mask_ratio=1",
    "model.mask_ratio=0.99",
    "model.drop_path=1",
    "model.decode_ratio=0",
    "model.min_support=-0.1",
    "data.augment.crop_area=[2, 1]",
    "data.open_shards=0",
    "run.workers=0",
    "run.devices=0",
    "data.sets.size=[3, 2]",
    ["data.pairs=[[naip, maxar-rgb]]", "data.held_out=[naip]"],
    ["data.pairs=[[naip, maxar-rgb]]", "data.sets.size=[1, 2]"],
    "data.pairs=[]",
    "model.masking=same",
    "model.stem=triplet",
    "model.encodings.geographic=a2mae",
    ["data.sets.size=[2, 4]", "model.encodings.geographic=a2mae"],
    ["data.sets.size=[2, 3]", "model.mixup=released"],
    ["model.start=a.safetensors", "model.start_mae=b.safetensors"],
    # words that are none
    "optim.epochs",
    "=5",
    "optim.epochs=[1",
    "optim.epochs={a: 1, a: 2}",
    ["optim.epochs=5", "optim.epochs=6"],
)

_EVALUATE_WORDS: tuple[str | list[str], ...] = (
    "protocol=knn",
    "checkpoint=run/encoder.safetensors",
    "seed=1_000",
    "knn.k=3",
    "knn.temperature=1e-2",
    "fit.base_lr=1.0e-4",
    "fit.lr_samples=null",
    "fit.patience=5",
    "fit.encoder=lora",
    "fit.lora.rank=4",
    "fit.lora={rank: 2, alpha: 8}",
    "fit.drops=[0.5]",
    "fit.drops=[]",
    "fit.augment={flips: true, crop_area: [0.5, 1]}",
    "input.scales=[0.125, 0.25, 0.5, 1]",
    "input.img_size=96",
    "input.statistics=data",
    "input.metadata=no",
    "linear.solver=lbfgs",
    "head={kind: linear}",
    "head.blocks=[3, 5, 7, 11]",
    "compare={untrained: true, baseline: true}",
    "data.kind=class_map",
    "data.sensors=[sentinel2-l2a, sentinel1-grd]",
    "data.bands=[[B02, B03], [VV]]",
    "data.encodings=[dn, db]",
    "data.classes={0: land, 1: water}",
    "data.classes={'1': water, -1: none}",
    "data.classes.3=grass",
    "data.ignore=[-1, 255]",
    "data.options={num_classes: '19'}",
    "data.options={num_classes: 19}",
    "data.split={val: 0.2, test: 0.3, blocks: {size_px: 64, buffer_px: 16}}",
    "data.split.blocks.size_px=64",
    "data.split.lists.train=train.txt",
    ["data.split.lists.train=train.txt", "data.split.lists.test=test.txt"],
    "data.split.fraction=0.1",
    "data.split.per_class=5",
    "data.tile_px=96",
    "fusion=joint",
    "measures=segment",
    "name=10",
    "data.sorce=x",
    "dat.source=x",
    "knn.kk=3",
    "knn.k=0",
    "knn.k=3.5",
    "knn.temperature=0",
    "fit.lora.ranks=4",
    "fit.lora.rank=0",
    "fit.encoder=frozn",
    "fit.warmup_epochs=60",
    "fit.layer_decay=0",
    "fit.augment.crop_area=[1, 0.5]",
    "fit.augment.crop_area=[0.5]",
    "fit.betas=[1, 0.9]",
    "input.scales=[2]",
    "input.scales=[]",
    "input.batch_size=0",
    "input.resize=wide",
    "linear.epochs=0",
    "head.channels=many",
    "data.kind=classes",
    "data.classes={water: 1}",
    "data.classes=[water]",
    "data.split.blocks.sizes_px=3",
    "data.split.blocks={buffer_px: 3}",
    "data.source=null",
    "data=images",
    "compare.baseline=perhaps",
    "protocol=knnn",
    "fusion=[joint]",
)

# Texts of whole files, and a word that their error must have.
_FILES: dict[str, tuple[tuple[str, str], ...]] = {
    "pretrain": (
        ("name: x\n", ""),
        ("name: x\nseed: 3\noptim: {base_lr: 1e-4, epochs: 1_0, warmup_epochs: 1}\n", ""),
        ("name: x\nmodel:\n  depth: 2\n  encodings: {}\n", ""),
        ("name: x\ndata: {pairs: [[naip, maxar-rgb]], held_out: [capella-x]}\n", ""),
        ("name: x\nrun: {knn: {labelled: a, sensor: naip, every_steps: 5}, endpoint: null}\n", ""),
        ("", ""),
        ("- a\n", ""),
        ("name: x\nsead: 3\n", "sead"),
        ("name: x\nseed: 1\nseed: 2\n", "seed"),
        ("name: x\nmodel: {depth: 1, depth: 2}\n", "depth"),
        ("name: x\nmodel: big\n", "model"),
        ("name: x\nseed: true\n", "seed"),
        ("name: x\n5: 1\n", "5"),
        ("? [a]\n: 1\n", ""),
        ("seed: 1\n", "name"),
        ("name: x\noptim:\n", "optim"),
        ("name: [\n", ""),
    ),
    "evaluate": (
        (_EVALUATION, ""),
        ("name: x\ndata:\n  source: fields.csv\n  classes: {1: maize, 2: wheat}\nfit: {base_lr: 1e-3}\n", ""),
        ("name: x\ndata:\n  source: a\n  split:\n    lists: {train: a.txt, test: b.txt}\n", ""),
        ("name: x\n", "data"),
        ("data: {source: a}\n", "name"),
        ("name: x\ndata: {}\n", "source"),
        ("name: x\ndata: {source: a}\nfitt: {}\n", "fitt"),
        ("name: x\ndata: {source: a, classes: {1: maize, 1: wheat}}\n", "1"),
        ("name: x\ndata: {source: a, split: {lists: {train: a.txt}}}\n", "test"),
    ),
}
_MISSPELT = {"pretrain": ("smarties_tny", "missing.yaml"), "evaluate": ("paper/table2_eurosat_linea", "missing.yaml")}

Case = dict[str, Any]


def _loader(kind: str) -> Callable[..., Any]:
    if kind == "pretrain":
        return anyband.load_recipe
    module, name = _EVALUATION_LOADER
    loader: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return loader


def _load(case: Case, folder: Path) -> Any:
    """Load the recipe of a case; the text of a file is written to one first."""
    recipe, words = case["recipe"], case["words"]
    if _FILE in case:
        file = folder / "recipe.yaml"
        file.write_text(recipe, encoding="utf-8")
        recipe = file
    return _loader(case["kind"])(recipe, words)


def _values(recipe: Any) -> dict[str, Any]:
    """Give the values of a recipe by dotted key, as JSON holds them."""
    plain = recipe.model_dump() if hasattr(recipe, "model_dump") else dataclasses.asdict(recipe)
    return _flat(json.loads(json.dumps(plain, default=str)))


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {key: value}
    flat: dict[str, Any] = {}
    for name, inner in value.items():
        flat |= _flat(inner, f"{key}.{name}" if key else name)
    return flat


def _typed(value: Any) -> Any:
    """Make values of other types unequal where Python has them equal, and no others: 1 and 1.0 are one number."""
    if isinstance(value, list):
        return [_typed(one) for one in value]
    return f"{value}".lower() if isinstance(value, bool) else value


def _changed(values: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    gone = {key: "<gone>" for key in base if key not in values}
    return gone | {key: value for key, value in values.items() if key not in base or _typed(value) != _typed(base[key])}


def _cases() -> list[Case]:
    """Give every case, without its outcome."""
    found: list[Case] = []
    for kind, words in (("pretrain", _PRETRAIN_WORDS), ("evaluate", _EVALUATE_WORDS)):
        base = {"kind": kind, "recipe": _BASES[kind]} | ({_FILE: True} if kind == "evaluate" else {})
        found += [base | {"words": [one] if isinstance(one, str) else one} for one in words]
        found += [{"kind": kind, "recipe": text, _FILE: True, "words": [], "about": of} for text, of in _FILES[kind]]
        shipped = _SHIPPED_PRETRAIN if kind == "pretrain" else _SHIPPED_EVALUATE
        found += [{"kind": kind, "recipe": name, "words": []} for name in (*shipped, *_MISSPELT[kind])]
    return found


def _named(case: Case, message: str) -> str:
    """Find what the message calls the wrong key: as much of the key's end as it has, else of its beginning."""
    if not case["words"]:
        about: str = case.get("about", "")
        return about if about in message else ""
    # The message repeats the file's name, whose words are not meant.
    message = message.replace(str(case["recipe"]), "")
    for word in reversed(case["words"]):
        parts = word.partition("=")[0].split(".")
        ends = [".".join(parts[start:]) for start in range(len(parts))]
        beginnings = [".".join(parts[:stop]) for stop in range(len(parts) - 1, 0, -1)]
        named = next((one for one in (*ends, *beginnings) if one and re.search(rf"\b{re.escape(one)}\b", message)), "")
        if named:
            return named
    return ""


def _outcome(case: Case, base: dict[str, Any], folder: Path) -> dict[str, Any]:
    try:
        recipe = _load(case, folder)
    except AnybandError as problem:
        near = re.search(r"did you mean '([^']*)'", str(problem))
        return {
            "error": type(problem).__name__,
            "names": _named(case, str(problem)),
            "nearest": near.group(1) if near else None,
        }
    return {"changed": _changed(_values(recipe), base)}


def _bases(folder: Path) -> dict[str, dict[str, Any]]:
    first = {"kind": "pretrain", "recipe": _BASES["pretrain"], "words": []}
    second = {"kind": "evaluate", "recipe": _BASES["evaluate"], "words": [], _FILE: True}
    return {str(case["kind"]): _values(_load(case, folder)) for case in (first, second)}


def _record() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bases = _bases(folder)
        cases = [case | {"outcome": _outcome(case, bases[case["kind"]], folder)} for case in _cases()]
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    head = ",\n".join(f" {json.dumps(kind)}: {json.dumps(values)}" for kind, values in bases.items())
    _TABLE.write_text(f'{{"bases": {{\n{head}}},\n"cases": [\n{lines}]}}\n', encoding="utf-8")
    bad = sum("error" in case["outcome"] for case in cases)
    print(f"{_TABLE}: {len(cases) - bad} recipes, {bad} errors")


_RECORDED: dict[str, Any] = json.loads(_TABLE.read_text(encoding="utf-8")) if _TABLE.exists() else {"cases": []}


def _id(case: Case) -> str:
    text = " ".join(case["words"]) or case["recipe"].replace("\n", "|")
    return f"{case['kind']} {text}"


@pytest.mark.parametrize("kind", ["pretrain", "evaluate"])
def test_the_recipes_that_words_change_have_their_recorded_values(kind: str, tmp_path: Path) -> None:
    assert _changed(_bases(tmp_path)[kind], _RECORDED["bases"][kind]) == {}


@pytest.mark.parametrize("case", [case for case in _RECORDED["cases"] if "changed" in case["outcome"]], ids=_id)
def test_good_words_give_the_recorded_recipe(case: Case, tmp_path: Path) -> None:
    values = _changed(_values(_load(case, tmp_path)), _RECORDED["bases"][case["kind"]])
    assert {key: _typed(value) for key, value in values.items()} == {
        key: _typed(value) for key, value in case["outcome"]["changed"].items()
    }


@pytest.mark.parametrize("case", [case for case in _RECORDED["cases"] if "error" in case["outcome"]], ids=_id)
def test_bad_words_are_refused_and_the_key_is_named(case: Case, tmp_path: Path) -> None:
    expected = case["outcome"]
    with pytest.raises(AnybandError) as refused:
        _load(case, tmp_path)
    assert type(refused.value).__name__ == expected["error"]
    assert expected["names"] in str(refused.value)
    if expected["nearest"] is not None:
        assert f"did you mean '{expected['nearest']}'" in str(refused.value)


def test_the_table_holds_every_case() -> None:
    held = [{key: value for key, value in case.items() if key != "outcome"} for case in _RECORDED["cases"]]
    assert held == _cases()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", required=True)
    parser.parse_args()
    _record()
