"""Recipes: pydantic models read from YAML with dotted overrides, and the sentence that each refusal is."""

import dataclasses
import json
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial, reduce
from importlib import resources
from importlib.resources.abc import Traversable
from operator import getitem
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from pydantic._internal._model_construction import ModelMetaclass
from pydantic_core import ErrorDetails, PydanticCustomError

from anyband.errors import RecipeError, nearest_name
from anyband.files import parse_yaml, read_yaml

__all__ = [
    "Below1",
    "Between0And1",
    "Count",
    "CountOr0",
    "From0",
    "From0To1",
    "Over0",
    "Over0To1",
    "Recipe",
    "bounded",
    "load_recipe_as",
    "need",
    "recipe_of",
    "shipped_recipes",
]


def bounded(allowed: str, holds: Callable[[Any], bool]) -> AfterValidator:
    """Make the check of a number, with the words that follow `must be` in what it is refused with."""
    return AfterValidator(partial(_bounded, allowed, holds))


def _bounded(allowed: str, holds: Callable[[Any], bool], value: Any) -> Any:
    if not holds(value):
        raise PydanticCustomError("bound", allowed)
    return value


_FINITE = bounded("finite", lambda value: value < math.inf)
Count = Annotated[int, bounded("at least 1", lambda value: value >= 1)]
CountOr0 = Annotated[int, bounded("at least 0", lambda value: value >= 0)]
From0 = Annotated[float, bounded("at least 0", lambda value: value >= 0), _FINITE]
Over0 = Annotated[float, bounded("over 0", lambda value: value > 0), _FINITE]
Over0To1 = Annotated[float, bounded("over 0 and at most 1", lambda value: 0 < value <= 1)]
From0To1 = Annotated[float, bounded("from 0 to 1", lambda value: 0 <= value <= 1)]
Below1 = Annotated[float, bounded("from 0 to under 1", lambda value: 0 <= value < 1)]
Between0And1 = Annotated[float, bounded("over 0 and under 1", lambda value: 0 < value < 1)]


class _Refusing(ModelMetaclass):
    """What a recipe's constructor refuses is an error of ours, as what a file's reader refuses."""

    if not TYPE_CHECKING:

        def __call__(self, *args, **values):
            try:
                return super().__call__(*args, **values)
            except ValidationError as problem:
                raise RecipeError(_sentence(problem, self, values)) from problem


RecipeT = TypeVar("RecipeT", bound="Recipe")


class Recipe(BaseModel, metaclass=_Refusing):
    """Some options. Types are strict, names are checked, values do not change."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def changed(self: "RecipeT", **values: Any) -> "RecipeT":
        """Give a copy with other values, checked as new ones are."""
        return type(self)(**{**dict(self), **values})


def need(holds: bool, message: str) -> None:
    """Refuse a recipe in which something does not hold."""
    if not holds:
        raise RecipeError(message)


def load_recipe_as(
    model: type[RecipeT], name_or_path: str | Path, overrides: Sequence[str], *, shipped: Mapping[str, Traversable]
) -> RecipeT:
    """Read a recipe of any kind from YAML: a file, or one of `shipped` by its name. `RecipeError`: no such recipe, an
    unknown or duplicate key, a wrong type, or values that do not go together."""
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
    return recipe_of(model, values, overrides, name=str(name_or_path))


def recipe_of(model: type[RecipeT], values: dict[Any, Any], overrides: Sequence[str], *, name: str) -> RecipeT:
    """Make a recipe of plain values, changed in place; overrides are `key.key=value`; errors as `load_recipe_as`."""
    seen = set()
    for word in overrides:
        key, equals, text = word.partition("=")
        need(bool(equals and key), f"override '{word}' must read key.key=value, for example optim.epochs=5")
        need(key not in seen, f"key '{key}' is overridden twice")
        seen.add(key)
        value, inside = parse_yaml(text, name=word, error=RecipeError), values
        *parents, last = key.split(".")
        for parent in parents:
            outer = inside
            inside = outer[parent] = {} if outer.get(parent) is None else outer[parent]
            if not isinstance(inside, dict):
                raise RecipeError(f"override '{key}': '{parent}' holds {_kind(inside)}, which has no keys in it")
        inside[last] = value
    try:
        # Through JSON, in which a list may stand for a tuple and a text for a path, and nothing else for another.
        plain = json.loads(json.dumps(values, default=lambda one: {type(one).__name__: str(one)}))
    except TypeError as problem:
        raise RecipeError(f"recipe '{name}': a key is neither a text nor a number: {problem}") from problem
    except ValueError as problem:
        raise RecipeError(f"recipe '{name}': a number is too long: {problem}") from problem
    while True:
        try:
            return model.model_validate_json(json.dumps(plain))
        except ValidationError as problem:
            if not _read_texts(plain, problem):
                raise RecipeError(f"recipe '{name}': {_sentence(problem, model, plain)}") from problem


def shipped_recipes(folder: str) -> dict[str, Traversable]:
    """Find the recipes that come with the package, by name, which begins with `folder` where it is not empty."""
    packaged = resources.files("anyband") / "recipes"
    # An editable installation has none in the package; there they stand at the top of the repository.
    top = packaged if packaged.is_dir() else Path(__file__).resolve().parents[3] / "recipes"
    inside = top.joinpath(*folder.split("/")) if folder else top
    files = [file for file in inside.iterdir() if file.name.endswith(".yaml")] if inside.is_dir() else []
    return {f"{folder}/{Path(file.name).stem}".removeprefix("/"): file for file in files}


_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
_SWITCHES = {"yes": True, "on": True, "no": False, "off": False}
_TYPES = {"int": "int", "float": "float", "bool": "bool", "string": "str", "tuple": "tuple", "dict": "dict"}


def _sentence(problem: ValidationError, model: type, values: Any) -> str:
    """Say in one line what is wrong: the key, what is allowed, what was found; unknown keys before all else."""
    errors = problem.errors(include_url=False)
    unknown = [error for error in errors if error["type"] in _UNKNOWN]
    if unknown:
        return "; ".join(_unknown_key(_steps(error["loc"], values), model) for error in unknown)
    sentences: list[str] = []
    missing: dict[str, list[str]] = {}
    # Each member of a union refuses a value for a reason of its own, under one key.
    expected: dict[str, tuple[list[str], Any]] = {}
    for error in errors:
        location, kind, found = error["loc"], error["type"], error["input"]
        key = _key(location, values)
        if kind == "value_error":
            sentences.append(str(error["ctx"]["error"]))
        elif kind == "bound":
            sentences.append(f"{key} must be {error['msg']}, found {found:g}")
        elif kind == "missing" and isinstance(location[-1], str):
            missing.setdefault(key, []).append(location[-1])
        elif found is None:
            sentences.append(f"recipe key '{key}' needs a value, found nothing")
        elif kind in ("model_type", "dataclass_type"):
            sentences.append(f"recipe key '{key}' holds keys of its own, found {_kind(found)}")
        elif location[-1] == "[key]":
            sentences.append(f"the keys of '{key}' are whole numbers, found '{found}'")
        else:
            expected.setdefault(key, ([], found))[0].append(_expected(error))
    sentences += [f"{f'key {key!r}: ' if key else ''}missing {', '.join(names)}" for key, names in missing.items()]
    for key, (allowed, found) in expected.items():
        sentences.append(f"key '{key}': expected {'; or '.join(dict.fromkeys(allowed))}, found {found!r}")
    return "; ".join(dict.fromkeys(sentences))


def _expected(error: ErrorDetails) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "literal_error":
        return f"one of [{context['expected'].replace(' or ', ', ')}]"
    if kind in ("too_long", "missing"):
        return f"tuple with {context.get('max_length', 'more')} elements"
    return _TYPES.get(kind.removesuffix("_type"), error["msg"])


def _read_texts(values: dict[str, Any], problem: ValidationError) -> bool:
    """Read a text that stands where a number or a switch belongs, as in `epochs: "5"` or `enabled: off`."""
    changed = False
    for error in problem.errors():
        if error["type"] in ("int_type", "float_type", "bool_type") and isinstance(error["input"], str):
            *outer, last = _steps(error["loc"], values)
            again = _switch_or_number(error["input"], error["type"], str(last))
            if not isinstance(again, str):
                reduce(getitem, outer, values)[last] = again
                changed = True
    return changed


def _switch_or_number(text: str, kind: str, name: str) -> Any:
    """Read a text as what belongs there: also as YAML 1.1 or Python write it, where only one meaning is possible."""
    if kind == "bool_type" and text.casefold() in _SWITCHES:
        return _SWITCHES[text.casefold()]
    if kind != "bool_type" and any(map(str.isdecimal, text)):
        with suppress(ValueError):
            return float(text) if kind == "float_type" else int(text, 0)
    return parse_yaml(text, name=name, error=RecipeError)


def _key(location: tuple[int | str, ...], values: Any) -> str:
    steps = _steps(location, values)
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".")


def _steps(location: tuple[int | str, ...], values: Any) -> list[Any]:
    """Tell where an error is, without the marks by which pydantic tells the members of a union apart."""
    steps: list[Any] = []
    for number, step in enumerate(location):
        if isinstance(step, int):
            if not isinstance(values, Sequence) or step >= len(values):
                break
            values = values[step]
        else:
            fields = values if isinstance(values, Mapping) else getattr(values, "__dict__", {})
            if step not in fields or location[number + 1 :] == ("[key]",):
                continue
            values = fields[step]
        steps.append(step)
    return steps


def _unknown_key(steps: Sequence[Any], model: type) -> str:
    *parents, last = map(str, steps)
    for parent in parents:
        # A number is a place in a list.
        model = _inner_model(typing.get_type_hints(model).get(parent)) or model
    known = [name for name in typing.get_type_hints(model) if not name.startswith(("model_", "_"))]
    where = f" in '{'.'.join(parents)}'" if parents else ""
    return f"unknown recipe key '{last}'{where}{nearest_name(last, known)} (known: {', '.join(known)})"


def _inner_model(hint: Any) -> type | None:
    """Find the record that a field holds, alone, in a list or as one of several kinds."""
    if isinstance(hint, type) and (issubclass(hint, BaseModel) or dataclasses.is_dataclass(hint)):
        return hint
    return next((found for inner in typing.get_args(hint) if (found := _inner_model(inner)) is not None), None)


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__} '{value}'"
