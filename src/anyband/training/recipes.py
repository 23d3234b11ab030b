"""Recipes from YAML, strictly typed, and what their numbers must satisfy."""

import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeVar

from anyband.errors import InputError, RecipeError, nearest_name
from anyband.files import parse_yaml, read_yaml
from anyband.models.masking import count_visible

__all__ = [
    "load_record",
    "need",
    "need_at_least",
    "need_between",
    "need_divides",
    "need_over_0",
    "need_visible",
    "need_width",
    "record_of",
    "shipped_recipes",
]


def need(holds: bool, message: str) -> None:
    """Refuse a recipe in which something does not hold."""
    if not holds:
        raise RecipeError(message)


def need_at_least(key: str, value: int | float, least: int) -> None:
    """Refuse a number under `least`, or one that is not finite."""
    need(value >= least, f"{key} must be at least {least}, found {value:g}")
    need(value < math.inf, f"{key} must be finite, found {value:g}")


def need_over_0(key: str, value: float) -> None:
    """Refuse a number that is not over 0, or not finite."""
    need(value > 0, f"{key} must be over 0, found {value:g}")
    need(value < math.inf, f"{key} must be finite, found {value:g}")


def need_between(key: str, value: float, low: float, high: float) -> None:
    """Refuse a number outside the open interval."""
    need(low < value < high, f"{key} must be over {low:g} and under {high:g}, found {value:g}")


def need_divides(key: str, divisor: int, of_key: str, value: int) -> None:
    """Refuse a divisor that leaves a rest."""
    need(value % divisor == 0, f"{key} {divisor} does not divide {of_key} {value}")


def need_width(key: str, width: int, heads_key: str, num_heads: int) -> None:
    """Refuse a width that can't be cut into heads, or into quarters for the positions."""
    # Positions take a quarter of the width each for sine and cosine of row and column.
    need(width >= 4 and width % 4 == 0, f"{key} must be a multiple of 4, found {width}")
    need_divides(heads_key, num_heads, key, width)


def need_visible(mask_ratio: float, num_tokens: int) -> None:
    """Refuse a mask ratio that leaves nothing visible or nothing masked."""
    try:
        count_visible(num_tokens, mask_ratio)
    except InputError as problem:
        raise RecipeError(f"model.mask_ratio: {problem}") from problem


_Record = TypeVar("_Record")


def load_record(
    record: type[_Record],
    name_or_path: str | Path,
    overrides: Sequence[str] = (),
    *,
    shipped: Mapping[str, Traversable],
) -> _Record:
    """Read a record of any kind from YAML, as `load_recipe` does.

    Args:
        record: a dataclass whose fields are the keys.
        name_or_path: a YAML file, or a name in `shipped`.
        overrides: `key.key=value`, values in YAML.
        shipped: files by name; see `shipped_recipes`.

    Raises:
        RecipeError: as `load_recipe`.
    """
    return record_of(record, _read(name_or_path, shipped), overrides, name=str(name_or_path))


def record_of(record: type[_Record], values: dict[str, Any], overrides: Sequence[str], *, name: str) -> _Record:
    """Make a record of plain values, as `load_record` does of a file's.

    Args:
        record: a dataclass whose fields are the keys.
        values: by key, changed in place.
        overrides: `key.key=value`, values in YAML.
        name: of the recipe, for messages.

    Raises:
        RecipeError: as `load_recipe`.
    """
    for key, value in _parse_overrides(overrides).items():
        _override(values, key, value)
    _check_keys(values, record, prefix="")
    return _typed(values, record, name=name)


def shipped_recipes(folder: str) -> dict[str, Traversable]:
    """Find the recipes that come with the package, by name.

    Args:
        folder: below the folder of recipes, such as `paper`; names begin with it. Empty: the folder itself.
    """
    packaged = resources.files("anyband") / "recipes"
    # An editable installation has no copy in the package; there the folder stands at the top of the
    # repository.
    top = packaged if packaged.is_dir() else Path(__file__).resolve().parents[3] / "recipes"
    inside = top.joinpath(*folder.split("/")) if folder else top
    if not inside.is_dir():
        return {}
    prefix = f"{folder}/" if folder else ""
    return {f"{prefix}{Path(file.name).stem}": file for file in inside.iterdir() if file.name.endswith(".yaml")}


def _read(name_or_path: str | Path, shipped: Mapping[str, Traversable]) -> dict[str, Any]:
    path = Path(name_or_path)
    if path.is_file():
        values = read_yaml(path, error=RecipeError)
    elif str(name_or_path) in shipped:
        text = shipped[str(name_or_path)].read_text(encoding="utf-8")
        values = parse_yaml(text, name=str(name_or_path), error=RecipeError)
    else:
        known = ", ".join(sorted(shipped, key=lambda name: ("/" in name, name)))
        near = nearest_name(str(name_or_path), shipped)
        raise RecipeError(f"'{name_or_path}' is neither a file nor a shipped recipe ({known}){near}")
    if not isinstance(values, dict):
        raise RecipeError(f"recipe '{name_or_path}' must be keys with values, found {_kind(values)}")
    return values


def _parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    parsed: dict[str, Any] = {}
    for word in overrides:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise RecipeError(f"override '{word}' must read key.key=value, for example optim.epochs=5")
        if key in parsed:
            raise RecipeError(f"key '{key}' is overridden twice")
        parsed[key] = parse_yaml(text, name=word, error=RecipeError)
    return parsed


def _override(values: dict[str, Any], key: str, value: Any) -> None:
    *parts, last = key.split(".")
    inner = values
    for part in parts:
        if inner.get(part) is None:
            inner[part] = {}
        inner = inner[part]
        if not isinstance(inner, dict):
            raise RecipeError(f"override '{key}': '{part}' holds {_kind(inner)}, which has no keys in it")
    inner[last] = value


def _check_keys(values: dict[str, Any], record: type, *, prefix: str) -> None:
    """See that every key exists and that records are records; types inside are the parser's to check."""
    hints = typing.get_type_hints(record)
    for key, value in values.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        if key not in hints:
            where = f" in '{prefix}'" if prefix else ""
            near = nearest_name(str(key), hints)
            raise RecipeError(f"unknown recipe key '{key}'{where}{near} (known: {', '.join(hints)})")
        options = _options(hints[key])
        _check_numbers(value, options, path=path)
        item = _record_in_list(options)
        if item is not None and isinstance(value, list):
            _check_items(value, item, path=path)
        inner = next((option for option in options if dataclasses.is_dataclass(option)), None)
        if value is None and type(None) not in options:
            raise RecipeError(f"recipe key '{path}' needs a value, found nothing")
        if isinstance(inner, type) and isinstance(value, dict):
            _check_keys(value, inner, prefix=path)
        elif inner is not None and value is not None:
            raise RecipeError(f"recipe key '{path}' holds keys of its own, found {_kind(value)}")


def _record_in_list(options: tuple[Any, ...]) -> type | None:
    """Find the record that a list of records holds, as in `data.stages`."""
    inner = [item for option in options if typing.get_origin(option) is tuple for item in typing.get_args(option)]
    return next((item for item in inner if dataclasses.is_dataclass(item) and isinstance(item, type)), None)


def _check_items(values: list[Any], record: type, *, path: str) -> None:
    for number, value in enumerate(values):
        if not isinstance(value, dict):
            raise RecipeError(f"recipe key '{path}' is a list of keys with values, found {_kind(value)}")
        _check_keys(value, record, prefix=f"{path}[{number}]")


def _check_numbers(value: Any, options: tuple[Any, ...], *, path: str) -> None:
    """See that the keys of a table by number, as `data.classes`, are numbers."""
    by_number = any(typing.get_origin(option) is dict and typing.get_args(option)[0] is int for option in options)
    if by_number and isinstance(value, dict):
        # A key of an override is a text.
        wrong = [key for key in value if not (isinstance(key, int) or re.fullmatch(r"-?\d+", str(key)))]
        if wrong:
            raise RecipeError(f"the keys of '{path}' are whole numbers, found '{wrong[0]}'")


def _options(hint: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if is_union else (hint,)


def _typed(values: dict[str, Any], record: type[_Record], *, name: str) -> _Record:
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--recipe", type=record)
    try:
        parsed = parser.parse_object({"recipe": values})
        recipe = parser.instantiate(parsed).recipe
    except RecipeError as problem:
        raise RecipeError(f"recipe '{name}': {problem}") from problem
    except (ArgumentError, ValueError, TypeError) as problem:
        raise RecipeError(f"recipe '{name}': {_reason(str(problem))}") from problem
    assert isinstance(recipe, record)
    return recipe


def _reason(message: str) -> str:
    """Turn the parser's message into one line: the key, what is allowed, what was found."""
    missing = re.search(r"arguments are required: (.*)", message)
    keys = [key for key in re.findall(r'Parser key "([^"]*)"', message) if key]
    where = f"key '{'.'.join(keys).removeprefix('recipe.')}': " if keys else ""
    if missing:
        return f"{where}missing {missing.group(1).replace('recipe.', '')}"
    expected = [line for line in re.findall(r"Expected an? (.*)", message) if "NoneType" not in line]
    if not expected:
        # An optional record is a union to the parser, which then lists why each of its members fails.
        own = [line for line in re.findall(r"^  - (.*)", message, flags=re.MULTILINE) if "NoneType" not in line]
        return "; ".join(own) or message
    allowed = "; or ".join(dict.fromkeys(expected))
    allowed = re.sub(r"<class '(\w+)'>", r"\1", allowed).replace("typing.Literal", "one of ")
    return f"{where}expected {allowed.replace('. Got value: ', ', found ')}"


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__} '{value}'"
