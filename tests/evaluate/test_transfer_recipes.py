"""Recipes of evaluations: read strictly, with the published numbers, and one command for every row of the paper."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from anyband.errors import RecipeError
from anyband.evaluate.recipe import AugmentRecipe, LinearRecipe, list_transfer_recipes, load_transfer_recipe
from anyband.pretraining.recipe import list_recipes, load_recipe

_ROOT = Path(__file__).resolve().parents[2]
_PAGE = (_ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
_PRETRAINING = ("base_50", "base_50_bigearthnet", "base_50_without_mixup", "large_50")
# Source: arXiv 2506.19585, rows "SMARTIES" of tables 1 to 8.
_PUBLISHED = {
    1: ["78.9", "86.9", "85.4", "80.5", "87.7", "86.7"],
    2: ["98.4", "99.4", "98.9", "99.6"],
    3: ["95.8"],
    4: ["93.7", "80.4", "77.0"],
    5: ["82.8", "38.5", "62.2"],
    6: ["35.4", "55.8", "50.6", "50.2", "75.5", "63.7"],
    7: ["91.0", "91.1", "93.2"],
    8: ["75.9", "83.1", "77.0", "84.7", "79.2", "86.7"],
}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\ndata: {source: images, classes: {1: water}}\n", encoding="utf-8")
    return path


def test_every_table_has_its_recipes():
    names = list_transfer_recipes()
    for table in range(1, 9):
        assert any(name.startswith(f"paper/table{table}_") for name in names)
    others = {"dfc2020", "figure5", "a2mae_classify", "a2mae_segment", "a2mae_change"}
    assert {f"paper/{name}" for name in others} <= set(names)


@pytest.mark.parametrize("name", list_transfer_recipes())
def test_a_shipped_recipe_loads_under_its_own_name(name: str):
    recipe = load_transfer_recipe(name)
    assert f"paper/{recipe.name}" == name
    assert recipe.protocol is not None


@pytest.mark.parametrize("name", list_transfer_recipes())
def test_a_shipped_recipe_shows_what_a_user_might_change(name: str):
    text = (_ROOT / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    keys = set(yaml.safe_load(text))
    maps = {"fit", "head"}
    method = {"knn": {"knn"}, "linear": {"linear"}, "finetune": {"fit"}, "segment": maps, "change": maps}
    assert {"name", "protocol", "checkpoint", "seed", "data", "input", "compare"} <= keys
    assert method[load_transfer_recipe(name).protocol] <= keys


@pytest.mark.parametrize("name", [name for name in list_transfer_recipes() if "a2mae" not in name])
def test_nothing_that_the_published_runs_of_smarties_did_not_have_is_on(name: str):
    fit = load_transfer_recipe(name).fit
    assert (fit.drop_path, fit.layer_decay, fit.label_smoothing, fit.patience) == (0.0, 1.0, 0.0, None)


@pytest.mark.parametrize(
    ("name", "batch_size", "base_lr", "epochs", "augment"),
    [
        (
            "table2_eurosat_finetune",
            256,
            2e-4,
            150,
            AugmentRecipe(flips=True, quarter_turns=True, mixup=0.8, cutmix=1.0),
        ),
        (
            "table3_resisc45_finetune",
            *(64, 6.25e-5, 200),
            AugmentRecipe(flips=True, quarter_turns=True, crop_area=(0.25, 1.0)),
        ),
        ("table1_ben_s2_finetune", 256, 5e-5, 100, AugmentRecipe(flips=True, quarter_turns=True)),
    ],
)
def test_fine_tuning_has_the_published_numbers(
    name: str, batch_size: int, base_lr: float, epochs: int, augment: AugmentRecipe
):
    fit = load_transfer_recipe(f"paper/{name}").fit
    assert (fit.batch_size, fit.base_lr, fit.lr_samples, fit.epochs) == (batch_size, base_lr, 256, epochs)
    assert (fit.weight_decay, fit.betas, fit.warmup_epochs, fit.schedule) == (0.05, (0.9, 0.95), 5, "cosine")
    assert (fit.encoder, fit.positions, fit.augment) == ("trained", "trained", augment)


@pytest.mark.parametrize("name", [name for name in list_transfer_recipes() if "a2mae" in name])
def test_fine_tuning_of_a2mae_has_what_is_published_of_it(name: str):
    recipe = load_transfer_recipe(name)
    fit = recipe.fit
    assert (fit.encoder, fit.epochs, fit.base_lr, fit.lr_samples) == ("trained", 50, 1e-3, 256)
    assert (fit.layer_decay, fit.drop_path, recipe.input.metadata) == (0.75, 0.1, True)


@pytest.mark.parametrize(
    "name", [name for name in list_transfer_recipes() if name.endswith("linear") or "table8" in name]
)
def test_linear_probes_have_the_published_numbers(name: str):
    published = LinearRecipe(solver="adamw", batch_size=1024, base_lr=1e-3, epochs=100, drops=(0.6, 0.8))
    assert load_transfer_recipe(name).linear == published


@pytest.mark.parametrize("name", [name for name in list_transfer_recipes() if "table4" in name])
def test_neighbours_have_the_published_numbers(name: str):
    recipe = load_transfer_recipe(name)
    assert (recipe.knn.k, recipe.knn.temperature) == (20, 0.07)
    assert recipe.input.scales == (0.125, 0.25, 0.5, 1.0)
    expected = {
        "eurosat": ("whole", "bicubic"),
        "whu-rs19": ("whole", "bilinear"),
        "ucmerced": ("short_side", "bicubic"),
    }
    assert (recipe.input.resize, recipe.input.interpolation) == expected[recipe.data.source]


@pytest.mark.parametrize("name", [name for name in list_transfer_recipes() if "table5" in name])
def test_upernet_probing_has_the_numbers_of_its_benchmark(name: str):
    recipe = load_transfer_recipe(name)
    fit, head = recipe.fit, recipe.head
    assert (head.kind, head.channels, head.blocks) == ("pangaea", 512, (3, 5, 7, 11))
    assert (fit.encoder, fit.batch_size, fit.base_lr, fit.lr_samples, fit.epochs) == ("frozen", 8, 1e-4, None, 80)
    assert (fit.weight_decay, fit.betas, fit.schedule, fit.drops) == (0.05, (0.9, 0.999), "steps", (0.6, 0.9))
    assert (recipe.input.resize, recipe.input.unseen) == ("native", "nearest")


def test_the_three_fusions_of_table_8_differ_in_nothing_else():
    recipes = [load_transfer_recipe(f"paper/table8_ben_mm_{name}") for name in ("stack", "concat", "mixup_concat")]
    assert [recipe.fusion for recipe in recipes] == ["stack", "concat", "mixup_concat"]
    assert len({repr((one.data, one.input, one.linear, one.seed)) for one in recipes}) == 1


def test_rows_without_interpolation_differ_in_how_unseen_bands_are_read():
    with_it, without = load_transfer_recipe("paper/table6_sickle"), load_transfer_recipe("paper/table6_sickle_without")
    optical = {"default": "nearest", "prefer": "sentinel2"}
    assert with_it.input.unseen == {**optical, "thermal_infrared_1": "released"}
    assert without.input.unseen == {**optical, "thermal_infrared_1": "refuse"}
    assert without.input.out_of_span == "drop"
    assert (with_it.data, with_it.fit, with_it.head) == (without.data, without.fit, without.head)


@pytest.mark.parametrize("name", _PRETRAINING)
def test_the_pre_training_of_table_7_and_figure_5_is_that_of_the_paper_for_50_epochs(name: str):
    recipe = load_recipe(f"paper/pretraining/{name}")
    whole = load_recipe(f"smarties_{name.partition('_')[0]}")
    assert (recipe.name, recipe.optim.epochs, whole.optim.epochs) == (name, 50, 300)
    assert recipe.optim.batch_size == whole.optim.batch_size
    assert recipe.model.mixup == ("none" if "without" in name else "mirrored")
    pairs = whole.data.pairs if "bigearthnet" not in name else (("sentinel2-l2a", "sentinel1-grd"),)
    assert recipe.data.pairs == pairs


def test_recipes_of_single_experiments_are_not_among_those_to_start_from():
    assert [name for name in list_recipes() if "/" in name or "50" in name] == []


def test_overrides_reach_every_depth_and_tables_by_number(written: Path):
    changes = ["fit.augment.flips=true", "data.classes.2=town", "data.split.lists={train: a.txt, test: b.txt}"]
    recipe = load_transfer_recipe(written, [*changes, "head.blocks=[7,11,15,23]", "data.bands=[[B02, B03], [VV]]"])
    assert recipe.fit.augment.flips
    assert recipe.data.classes == {1: "water", 2: "town"}
    assert recipe.data.split.lists is not None
    assert recipe.data.split.lists.test == "b.txt"
    assert (recipe.head.blocks, recipe.data.bands) == ((7, 11, 15, 23), (("B02", "B03"), ("VV",)))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("fit.epoch=3", r"unknown recipe key 'epoch' in 'fit'; did you mean 'epochs'\?"),
        ("data.split.fration=0.1", r"unknown recipe key 'fration' in 'data\.split'; did you mean 'fraction'\?"),
        ("protocol=kmm", r"key 'protocol': expected one of \['knn', 'linear'"),
        ("knn.k=0", r"knn\.k must be at least 1, found 0"),
        ("data.classes.x=y", r"the keys of 'data\.classes' are whole numbers, found 'x'"),
        ("input.scales=[2]", r"input\.scales\[0\] must be over 0 and at most 1, found 2"),
        ("fit.layer_decay=0", r"fit\.layer_decay must be over 0 and at most 1, found 0"),
        ("fit.warmup_epochs=99", r"fit\.warmup_epochs must be from 0 to fit\.epochs 50, found 99"),
        ("data.split.lists={train: a}", r"key 'data\.split\.lists': missing test"),
        ("head=upernet", r"recipe key 'head' holds keys of its own, found str 'upernet'"),
        ("data.options.num_classes=19", r"key 'data\.options\.num_classes': expected str, found 19"),
    ],
)
def test_an_override_that_can_not_be_is_refused(written: Path, override: str, message: str):
    with pytest.raises(RecipeError, match=message):
        load_transfer_recipe(written, [override])


def test_an_unknown_recipe_offers_the_nearest():
    with pytest.raises(RecipeError, match=r"neither a file nor a shipped recipe .* did you mean 'paper/table2_euro"):
        load_transfer_recipe("paper/table2_eurosat_linaer")


def _rows(section: str) -> list[list[str]]:
    """Give the cells of the rows of a section of the page."""
    text = re.split(rf"^### {section}\b.*$", _PAGE, flags=re.MULTILINE)[1]
    lines = re.split(r"^##", text, flags=re.MULTILINE)[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return [row for row in cells if row[0] != "row"]


_SECTIONS = [*(f"Table {number}" for number in _PUBLISHED), "DFC2020", "Figure 5"]
_ROWS = [row for section in _SECTIONS for row in _rows(section)]


@pytest.mark.parametrize("number", _PUBLISHED)
def test_every_published_number_of_a_table_stands_once_on_the_page(number: int):
    shown = [value for row in _rows(f"Table {number}") for value in row[1].split(", ")]
    assert sorted(shown) == sorted(_PUBLISHED[number])


@pytest.mark.parametrize("row", _ROWS, ids=lambda row: row[0])
def test_a_row_says_that_it_was_not_run(row: list[str]):
    assert row[4] == "not run here"


@pytest.mark.parametrize("row", _ROWS, ids=lambda row: f"{row[0]}, {row[1]}")
def test_the_command_of_a_row_parses_and_its_recipe_is_for_its_protocol(row: list[str], parsed_by):
    words = shlex.split(row[2].strip("`"))
    parsed = parsed_by(words[1:])
    name, *overrides = parsed.words
    recipe = load_transfer_recipe(name, overrides)
    assert recipe.protocol == parsed.protocol
    assert parsed.checkpoint
    assert parsed.data


def test_the_page_names_every_recipe():
    assert [name for name in list_transfer_recipes() if f" {name} " not in _PAGE] == []
    assert [name for name in _PRETRAINING if f"paper/pretraining/{name} " not in _PAGE] == []


@pytest.mark.parametrize(
    "name", ["table4_eurosat_knn", "table4_ucmerced_knn", "table4_whu_rs19_knn", "table7_eurosat_knn"]
)
def test_neighbours_are_all_training_images_for_nothing_is_chosen(name: str):
    assert load_transfer_recipe(f"paper/{name}").data.split.val == 0
