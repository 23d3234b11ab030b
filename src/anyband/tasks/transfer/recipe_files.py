"""Recipes of downstream evaluations from YAML: a file or a shipped name such as `paper/table2_eurosat_linear`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anyband.tasks.recipe_files import load_record, record_of, shipped_recipes
from anyband.tasks.transfer.recipe import TransferRecipe

__all__ = ["list_transfer_recipes", "load_transfer_recipe", "transfer_recipe"]

_FOLDER = "paper"


def list_transfer_recipes() -> tuple[str, ...]:
    """List the names of the evaluations that come with the package."""
    return tuple(sorted(shipped_recipes(_FOLDER)))


def load_transfer_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> TransferRecipe:
    """Read a recipe of an evaluation and check every key and type of it.

    Args:
        name_or_path: a YAML file, or the name of a shipped recipe such as `paper/table2_eurosat_linear`.
        overrides: `key.key=value`, values in YAML, for example `fit.epochs=5`.

    Raises:
        RecipeError: no such recipe, an unknown or duplicate key, a wrong type, or values that do not go
        together.
    """
    return load_record(TransferRecipe, name_or_path, overrides, shipped=shipped_recipes(_FOLDER))


def transfer_recipe(values: dict[str, Any], overrides: Sequence[str] = ()) -> TransferRecipe:
    """Make a recipe of an evaluation from plain values, checked as a file's are.

    Args:
        values: by key, changed in place; `name` and `data` at least.
        overrides: `key.key=value`, values in YAML.

    Raises:
        RecipeError: as `load_transfer_recipe`.
    """
    return record_of(TransferRecipe, values, overrides, name=str(values.get("name", "evaluation")))
