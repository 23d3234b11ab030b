"""Recipes: strict keys, clear types, values that go together, and the shipped ones."""

from pathlib import Path

import pytest
import yaml

from anyband.data.resample import AugmentOptions
from anyband.errors import RecipeError
from anyband.models.encodings import EncodingConfig
from anyband.pretraining.recipe import (
    DataRecipe,
    ModelRecipe,
    OptimRecipe,
    PretrainRecipe,
    RunRecipe,
    SetRecipe,
    list_recipes,
    load_recipe,
    recipe_differences,
)

_SHIPPED = (
    *(f"a2mae_{size}" for size in ("base", "large", "tiny")),
    *(f"smarties_{size}" for size in ("base", "huge", "large", "small", "tiny")),
    *(f"unified_{size}" for size in ("base", "large", "tiny")),
)


@pytest.fixture
def write(tmp_path: Path):
    def make(text: str) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return path

    return make


def test_shipped_recipes_are_those_of_the_repository():
    assert list_recipes() == _SHIPPED


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


def test_the_huge_recipe_is_the_large_one_with_a_larger_encoder_in_shares():
    huge, large = (load_recipe(f"smarties_{size}") for size in ("huge", "large"))
    model = huge.model
    assert (model.embed_dim, model.depth, model.num_heads, model.patch_size) == (1280, 32, 16, 14)
    assert (huge.run.strategy, huge.run.recompute) == ("fsdp", True)
    differences = recipe_differences(large.model_dump(mode="json"), huge.model_dump(mode="json"))
    named = {one.partition(":")[0] for one in differences}
    assert named == {"model.embed_dim", "model.depth", "model.patch_size"}


def test_the_tiny_recipe_is_the_one_that_was_asked_for():
    model = load_recipe("smarties_tiny").model
    assert model.img_size == 96
    assert (model.embed_dim, model.depth, model.num_heads) == (192, 12, 3)
    assert (model.decoder_embed_dim, model.decoder_depth, model.decoder_num_heads) == (128, 2, 4)
    assert load_recipe("smarties_tiny").optim.precision == "bf16-mixed"


@pytest.mark.parametrize("name", _SHIPPED)
def test_a_shipped_recipe_names_every_key(name):
    file = Path(__file__).resolve().parents[2] / "recipes" / f"{name}.yaml"
    assert _keys(yaml.safe_load(file.read_text())) == _keys(load_recipe(name).model_dump(mode="json"))


def _keys(values: object) -> object:
    """Keep the keys of a tree, whatever they hold."""
    return {key: _keys(inner) for key, inner in values.items()} if isinstance(values, dict) else None


def test_the_recipe_of_a2mae_carries_its_numbers():
    recipe = load_recipe("a2mae_large")
    model, optim = recipe.model, recipe.optim
    assert (model.embed_dim, model.depth, model.num_heads) == (1024, 24, 16)
    assert (model.decoder_embed_dim, model.decoder_depth, model.decoder_num_heads) == (512, 8, 16)
    assert (model.mask_ratio, model.masking, model.sequence, model.mixup) == (0.75, "anchor", "joint", "none")
    assert model.encodings == EncodingConfig(geographic="a2mae")
    assert (optim.batch_size, optim.epochs, optim.warmup_epochs) == (128, 130, 40)
    assert (optim.base_lr, optim.weight_decay, optim.betas) == (1e-5, 0.05, (0.9, 0.95))
    assert (optim.clip_grad_norm, optim.precision) == (1.0, "32-true")
    assert recipe.data.sets == SetRecipe(size=(3, 3))


@pytest.mark.parametrize("size", ["tiny", "base", "large"])
def test_the_unified_recipes_have_the_parts_of_both_methods(size):
    recipe = load_recipe(f"unified_{size}")
    model = recipe.model
    assert (model.mixup, model.masking, model.sequence) == ("mirrored", "anchor", "apart")
    assert model.encodings == EncodingConfig(place=True, resolution=True, date=True, source=True)
    assert (model.levels, model.hidden_image) == (True, 0.25)
    assert recipe.data.sets == SetRecipe(size=(1, 6), metadata_dropout=0.1)


@pytest.mark.parametrize("method", ["a2mae", "unified"])
def test_the_tiny_recipes_of_sets_have_the_sizes_of_the_tiny_recipe_of_pairs(method):
    ours, pairs = (load_recipe(f"{name}_tiny").model for name in (method, "smarties"))
    names = ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "mask_ratio")
    decoder = ("decoder_embed_dim", "decoder_depth", "decoder_num_heads")
    assert all(getattr(ours, name) == getattr(pairs, name) for name in (*names, *decoder))


@pytest.mark.parametrize("size", ["base", "huge", "large", "small", "tiny"])
def test_recipes_of_pairs_leave_what_is_for_sets_at_its_default(size):
    model, plain = load_recipe(f"smarties_{size}").model, ModelRecipe()
    names = ("masking", "sequence", "hidden_image", "encodings", "levels")
    assert all(getattr(model, name) == getattr(plain, name) for name in names)
    assert load_recipe(f"smarties_{size}").data.sets is None


def test_a_recipe_survives_writing_and_reading(write):
    recipe = load_recipe("smarties_tiny", ["data.pairs=[[a, b], [c, d]]", "optim.clip_grad_norm=null"])
    assert load_recipe(write(yaml.safe_dump(recipe.model_dump(mode="json")))) == recipe


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
        ("name: x", ["seed.part=1"], r"override 'seed\.part': 'seed' holds|expected int"),
        ("name: x\nmodel: {depth: 1.5}", [], r"key 'model\.depth': expected int, found 1\.5"),
        (
            "name: x\nmodel: {mixup: mirored}",
            [],
            r"key 'model\.mixup': expected one of \['mirrored', .* found 'mirored'",
        ),
        ("name: x\nmodel: 4", [], r"recipe key 'model' holds keys of its own, found int '4'"),
        ("name: x\nseed: null", [], r"recipe key 'seed' needs a value, found nothing"),
        ("seed: 1", [], r"missing name"),
        ("name: x\nrun: {knn: {labelled: y}}", [], r"key 'run\.knn': missing sensor, every_steps"),
        ("- 1", [], r"must be keys with values, found list"),
        ("name: x\nmodel: {img_size: 90}", [], r"model\.patch_size 16 does not divide model\.img_size 90"),
        ("name: [", [], r"is not valid YAML"),
        (
            "name: x",
            ["data.sets.size=[2, 1]"],
            r"recipe '.*': data\.sets\.size needs 1 <= least <= most, found 2 to 1$",
        ),
        ("name: x", ["data.sets.size=3"], r"key 'data\.sets\.size': expected tuple, found 3"),
        (
            "name: x",
            ["model.encodings.plac=true"],
            r"unknown recipe key 'plac' in 'model\.encodings'; did you mean 'place'\?",
        ),
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
            r"embed_dim must be a multiple of 4, found 30",
        ),
        (lambda: ModelRecipe(mask_ratio=1.0), r"mask_ratio must be over 0 and under 1, found 1"),
        (lambda: ModelRecipe(drop_path=1.0), r"drop_path must be from 0 to under 1, found 1"),
        (lambda: DataRecipe(pairs=()), r"data\.pairs is empty"),
        (
            lambda: DataRecipe(pairs=(("a", "b"),), held_out=("b",)),
            r"sensor 'b' stands in data\.pairs and in",
        ),
        (lambda: OptimRecipe(accumulate=3), r"optim\.accumulate 3 does not divide optim\.batch_size 2048"),
        (lambda: OptimRecipe(steps=0), r"steps must be at least 1, found 0"),
        (
            lambda: OptimRecipe(warmup_epochs=400.0),
            r"optim\.warmup_epochs must be from 0 to optim\.epochs 300",
        ),
        (lambda: OptimRecipe(base_lr=0.0), r"base_lr must be over 0, found 0"),
        (lambda: OptimRecipe(betas=(0.9, 1.0)), r"betas\[1\] must be over 0 and under 1, found 1"),
        (lambda: OptimRecipe(clip_grad_norm=-1.0), r"clip_grad_norm must be over 0, found -1"),
        (lambda: SetRecipe(size=(2, 1)), r"data\.sets\.size needs 1 <= least <= most, found 2 to 1"),
        (lambda: SetRecipe(size=(0, 1)), r"data\.sets\.size needs 1 <= least <= most, found 0 to 1"),
        (lambda: SetRecipe(gap_days=-1.0), r"gap_days must be at least 0, found -1"),
        (lambda: SetRecipe(metadata_dropout=1.0), r"metadata_dropout must be from 0 to under 1, found 1"),
        (lambda: SetRecipe(size=(1, 1), needs_two_sources=True), r"images of two sensors, but .* is at most 1"),
        (lambda: ModelRecipe(hidden_image=1.5), r"hidden_image must be from 0 to 1, found 1\.5"),
        (lambda: RunRecipe(devices=0), r"devices must be at least 1, found 0"),
        (lambda: RunRecipe(workers=0), r"workers must be at least 1, found 0"),
    ],
)
def test_values_that_do_not_go_together_are_refused(make, message):
    with pytest.raises(RecipeError, match=message):
        make()


_GEOGRAPHIC = EncodingConfig(geographic="a2mae")


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        ({}, {"pairs": (("a", "b"),), "sets": SetRecipe()}, r"data\.pairs names pairs and data\.sets asks for sets"),
        ({"encodings": EncodingConfig(date=True)}, {}, r"model\.encodings is for sets .* trains on pairs"),
        ({"masking": "same", "sequence": "apart"}, {}, r"model\.masking and model\.sequence are for sets of images"),
        ({"hidden_image": 0.5}, {}, r"model\.hidden_image is for sets of images"),
        (
            {"encodings": _GEOGRAPHIC},
            {"sets": SetRecipe(size=(1, 4))},
            r"room for the ground resolutions of 3 images, but data\.sets\.size is up to 4",
        ),
        (
            {"encodings": _GEOGRAPHIC, "embed_dim": 48},
            {"sets": SetRecipe()},
            r"'a2mae' needs model\.embed_dim to be a multiple of 32, found 48",
        ),
        ({"mixup": "released"}, {"sets": SetRecipe()}, r"sets have 'mirrored' or 'none'"),
        (
            {"sequence": "apart", "masking": "independent"},
            {"sets": SetRecipe()},
            r"which model\.masking 'independent' does not ensure; take masking 'anchor' or 'same'",
        ),
        (
            {"hidden_image": 0.1},
            {"sets": SetRecipe(size=(1, 1))},
            r"model\.hidden_image 0\.1 hides the last image of a set whole, but data\.sets\.size is at most 1",
        ),
    ],
)
def test_keys_of_pairs_and_of_sets_that_do_not_go_together_are_refused(model, data, message):
    with pytest.raises(RecipeError, match=message):
        PretrainRecipe(name="x", model=ModelRecipe(**model), data=DataRecipe(**data))


def test_a_set_may_be_one_image():
    alone = PretrainRecipe(name="x", data=DataRecipe(sets=SetRecipe(size=(1, 1))))
    assert alone.data.sets is not None
    assert alone.data.sets.size == (1, 1)


def test_differences_name_what_makes_another_run_and_nothing_else():
    ours = PretrainRecipe(name="a", seed=1, run=RunRecipe(workers=3)).model_dump(mode="json")
    theirs = PretrainRecipe(name="b", seed=2).model_dump(mode="json")
    assert recipe_differences(ours, ours) == ()
    assert recipe_differences(ours, theirs) == ("seed: 1, not 2",)


def test_a_changed_recipe_is_checked_as_a_new_one_is():
    optim = OptimRecipe(epochs=20)
    assert optim.changed(epochs=30) == OptimRecipe(epochs=30)
    with pytest.raises(RecipeError, match=r"unknown recipe key 'epoch'; did you mean 'epochs'\?"):
        optim.changed(epoch=30)
    with pytest.raises(RecipeError, match=r"warmup_epochs must be from 0 to optim\.epochs 10, found 20"):
        optim.changed(epochs=10)
