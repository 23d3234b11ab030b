"""Recipes: strict keys, clear types, values that go together, and the shipped ones."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from anyband.data.augment import AugmentOptions
from anyband.errors import RecipeError
from anyband.tasks.recipe import (
    DataRecipe,
    ModelRecipe,
    OptimRecipe,
    PretrainRecipe,
    RunRecipe,
    recipe_differences,
    recipe_to_dict,
)
from anyband.tasks.recipe_files import list_recipes, load_recipe


@pytest.fixture
def write(tmp_path: Path):
    def make(text: str) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return path

    return make


def test_shipped_recipes_are_those_of_the_repository():
    assert list_recipes() == ("smarties_base", "smarties_large", "smarties_small", "smarties_tiny")


@pytest.mark.parametrize(("name", "sizes"), [("smarties_base", (768, 12, 12)), ("smarties_large", (1024, 24, 16))])
def test_the_paper_recipes_carry_the_paper_numbers(name, sizes):
    recipe = load_recipe(name)
    model, optim = recipe.model, recipe.optim
    assert (model.embed_dim, model.depth, model.num_heads) == sizes
    assert (model.img_size, model.patch_size, model.mask_ratio, model.mixup_ratio) == (224, 16, 0.75, 0.5)
    assert (model.decoder_embed_dim, model.decoder_depth, model.decoder_num_heads) == (512, 8, 16)
    assert model.drop_path == 0.0
    assert (optim.batch_size, optim.epochs, optim.warmup_epochs) == (2048, 300, 20)
    assert (optim.base_lr, optim.weight_decay, optim.betas) == (1.5e-4, 0.05, (0.9, 0.95))
    assert recipe.data.augment == AugmentOptions(crop_area=(0.25, 1.0), flips=True, quarter_turns=True)
    assert recipe.data.pairs == (("maxar-rgb", "sentinel2-l1c"), ("sentinel2-l2a", "sentinel1-grd"))


def test_the_tiny_recipe_is_the_one_that_was_asked_for():
    model = load_recipe("smarties_tiny").model
    assert model.img_size == 96
    assert (model.embed_dim, model.depth, model.num_heads) == (192, 12, 3)
    assert (model.decoder_embed_dim, model.decoder_depth, model.decoder_num_heads) == (128, 2, 4)
    assert load_recipe("smarties_tiny").optim.precision == "bf16-mixed"


@pytest.mark.parametrize("name", ["smarties_base", "smarties_large", "smarties_small", "smarties_tiny"])
def test_a_shipped_recipe_names_every_key(name):
    file = Path(__file__).resolve().parents[2] / "recipes" / f"{name}.yaml"
    assert yaml.safe_load(file.read_text()).keys() == recipe_to_dict(load_recipe(name)).keys()
    for part in ("model", "data", "optim", "run"):
        assert yaml.safe_load(file.read_text())[part].keys() == recipe_to_dict(load_recipe(name))[part].keys()


def test_a_recipe_survives_writing_and_reading(write):
    recipe = load_recipe("smarties_tiny", ["data.pairs=[[a, b], [c, d]]", "optim.clip_grad_norm=null"])
    assert load_recipe(write(yaml.safe_dump(recipe_to_dict(recipe)))) == recipe


def test_dotted_overrides_replace_values_of_any_depth():
    recipe = load_recipe(
        "smarties_tiny",
        [
            "optim.epochs=5",
            "data.augment.crop_area=[0.5, 1]",
            "run.compile=true",
            "run.knn.labelled=images",
            "run.knn.sensor=rgb",
            "run.knn.every_steps=10",
        ],
    )
    assert recipe.optim.epochs == 5
    assert recipe.data.augment.crop_area == (0.5, 1.0)
    assert recipe.run.compile
    assert recipe.run.knn is not None
    assert recipe.run.knn.sensor == "rgb"


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("name: x\noptim: {epoch: 5}", [], r"unknown recipe key 'epoch' in 'optim'; did you mean 'epochs'\?"),
        ("name: x\nmodle: {}", [], r"unknown recipe key 'modle'; did you mean 'model'\?"),
        (
            "name: x",
            ["data.augment.crop_aria=1"],
            r"'crop_aria' in 'data.augment'; did you mean 'crop_area'\?",
        ),
        ("name: x\nname: y", [], r"key 'name' stands twice, on lines 1 and 2"),
        ("name: x", ["seed=1", "seed=2"], r"key 'seed' is overridden twice"),
        ("name: x", ["seed"], r"override 'seed' must read key\.key=value"),
        ("name: x", ["seed.part=1"], r"unknown recipe key|recipe key 'seed'|expected int"),
        ("name: x\nmodel: {depth: 1.5}", [], r"key 'model\.depth': expected int, found 1\.5"),
        (
            "name: x\nmodel: {mixup: mirored}",
            [],
            r"key 'model\.mixup': expected one of \['mirrored', .* found mirored",
        ),
        ("name: x\nmodel: 4", [], r"recipe key 'model' holds keys of its own, found int '4'"),
        ("name: x\nseed: null", [], r"recipe key 'seed' needs a value, found nothing"),
        ("seed: 1", [], r"missing name"),
        ("name: x\nrun: {knn: {labelled: y}}", [], r"key 'run\.knn': missing sensor, every_steps"),
        ("- 1", [], r"must be keys with values, found list"),
        ("name: x\nmodel: {img_size: 90}", [], r"model\.patch_size 16 does not divide model\.img_size 90"),
        ("name: [", [], r"is not valid YAML"),
    ],
)
def test_a_wrong_recipe_is_refused_with_its_reason(write, text, overrides, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(write(text), overrides)


def test_an_unknown_recipe_name_offers_the_nearest():
    with pytest.raises(RecipeError, match=r"neither a file nor a shipped recipe .* did you mean 'smarties_tiny'\?"):
        load_recipe("smarties_tinny")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModelRecipe(num_heads=7), r"model\.num_heads 7 does not divide model\.embed_dim 768"),
        (
            lambda: ModelRecipe(embed_dim=30, num_heads=3),
            r"model\.embed_dim must be a multiple of 4, found 30",
        ),
        (lambda: ModelRecipe(mask_ratio=1.0), r"model\.mask_ratio must be over 0 and under 1, found 1"),
        (lambda: ModelRecipe(drop_path=1.0), r"model\.drop_path must be from 0 to under 1, found 1"),
        (lambda: DataRecipe(pairs=()), r"data\.pairs is empty"),
        (
            lambda: DataRecipe(pairs=(("a", "b"),), held_out=("b",)),
            r"sensor 'b' stands in data\.pairs and in",
        ),
        (lambda: OptimRecipe(accumulate=3), r"optim\.accumulate 3 does not divide optim\.batch_size 2048"),
        (lambda: OptimRecipe(steps=0), r"optim\.steps must be at least 1, found 0"),
        (
            lambda: OptimRecipe(warmup_epochs=400.0),
            r"optim\.warmup_epochs must be from 0 to optim\.epochs 300",
        ),
        (lambda: OptimRecipe(base_lr=0.0), r"optim\.base_lr must be over 0, found 0"),
        (lambda: OptimRecipe(betas=(0.9, 1.0)), r"optim\.betas must be over 0 and under 1, found 1"),
        (lambda: OptimRecipe(clip_grad_norm=-1.0), r"optim\.clip_grad_norm must be over 0, found -1"),
        (lambda: RunRecipe(devices=0), r"run\.devices must be at least 1, found 0"),
        (lambda: RunRecipe(workers=0), r"run\.workers must be at least 1, found 0"),
    ],
)
def test_values_that_do_not_go_together_are_refused(make, message):
    with pytest.raises(RecipeError, match=message):
        make()


def test_differences_name_what_makes_another_run_and_nothing_else():
    ours = recipe_to_dict(PretrainRecipe(name="a", seed=1, run=RunRecipe(workers=3)))
    theirs = recipe_to_dict(PretrainRecipe(name="b", seed=2))
    assert recipe_differences(ours, ours) == ()
    assert recipe_differences(ours, theirs) == ("seed: 1, not 2",)


def test_records_work_without_the_parser():
    code = (
        "import sys; sys.modules['jsonargparse'] = None; sys.modules['rasterio'] = None\n"
        "from anyband.tasks.recipe import PretrainRecipe, recipe_to_dict\n"
        "assert recipe_to_dict(PretrainRecipe(name='x'))['optim']['epochs'] == 300"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
