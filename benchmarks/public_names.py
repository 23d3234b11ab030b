"""Print what is public: names, signatures, help texts of the verbs, recipe keys with defaults, in a stable form.

    PYTHONPATH=SRC python benchmarks/public_names.py > public.txt

Compare with `diff`. Types of recipe keys are left out (lists may stand for tuples); choices of words are printed.
"""

import contextlib
import dataclasses
import importlib
import inspect
import io
import json
import os
import re
import types
import typing

os.environ["COLUMNS"] = "120"

import anyband

EVALUATE_RECIPES = (
    ("anyband.evaluate.recipe", ("EvaluateRecipe", "EvaluationRecipe", "TransferRecipe", "Recipe")),
    ("anyband.tasks.transfer.recipe", ("TransferRecipe",)),
)


def plain(text):
    """Take modules, addresses and quotes out of annotations."""
    text = re.sub(r"\banyband(?:\.\w+)*\.(?=\w)", "", text)
    text = re.sub(r"\bjaxtyping\.|\btorch\.Tensor\b|\btyping\.|\bcollections\.abc\.|\bpathlib\.", "", text)
    return re.sub(r" at 0x[0-9a-f]+", "", text).replace("'", "")


def signature(value):
    try:
        return plain(str(inspect.signature(value)))
    except (TypeError, ValueError):
        return "(?)"


def members(cls):
    """Give the public members that a class of ours defines, with their signature."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not base.__module__.startswith("anyband"):
            continue
        found |= {name: value for name, value in vars(base).items() if not name.startswith("_")}
        fields = getattr(base, "model_fields", None) or {
            one.name: one for one in getattr(base, "__dataclass_fields__", {}).values()
        }
        found |= {name: None for name in fields if not name.startswith("_")}
    pydantic = {"model_config", "model_fields", "model_computed_fields"}
    for name in sorted(set(found) - pydantic):
        value = inspect.getattr_static(cls, name, None)
        if isinstance(value, property) or type(value).__name__ == "cached_property":
            yield f"    .{name}  (property)"
        elif isinstance(value, classmethod | staticmethod):
            yield f"    .{name}{signature(value.__func__)}  ({type(value).__name__})"
        elif inspect.isfunction(value):
            yield f"    .{name}{signature(value)}"
        else:
            yield f"    .{name}"


def print_names():
    print("# names")
    for name in sorted(anyband.__all__):
        value = getattr(anyband, name)
        if inspect.isclass(value):
            print(f"class {name}{signature(value)}")
            print("\n".join(members(value)))
        elif callable(value):
            print(f"def {name}{signature(value)}")
        else:
            print(f"{name} = {value!r}")


def help_of(*words):
    out = io.StringIO()
    from anyband.cli import main

    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), contextlib.suppress(SystemExit):
        main([*words, "--help"])
    return out.getvalue()


def print_help():
    top = help_of()
    print("# anyband --help")
    print(top)
    verbs = re.findall(r"^ {4}(\w[\w-]*)\s", top, flags=re.M)
    for verb in verbs:
        print(f"# anyband {verb} --help")
        text = help_of(verb)
        print(text)
        if verb == "evaluate":
            found = re.search(r"PROTOCOL\s+(knn.*?)(?:\n {2}\S|\n\n)", text, flags=re.S)
            protocols = re.findall(r"[\w-]+", found.group(1)) if found else []
            for protocol in protocols:
                own = help_of(verb, protocol)
                print(f"# anyband {verb} {protocol} --help" + (": as above" if own == text else ""))
                if own != text:
                    print(own)


def is_record(value):
    return isinstance(value, type) and (dataclasses.is_dataclass(value) or hasattr(value, "model_fields"))


def parts_of(hint):
    """Lay a type out into what stands in it."""
    yield hint
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return
    for inner in typing.get_args(hint):
        if isinstance(inner, list):
            continue
        yield from parts_of(inner)
    if isinstance(hint, types.UnionType) and origin is None:
        for inner in hint.__args__:
            yield from parts_of(inner)


def default_of(cls, name):
    if hasattr(cls, "model_fields"):
        field = cls.model_fields[name]
        return ("required", None) if field.is_required() else ("value", field.get_default(call_default_factory=True))
    field = next(one for one in dataclasses.fields(cls) if one.name == name)
    if field.default is not dataclasses.MISSING:
        return "value", field.default
    if field.default_factory is not dataclasses.MISSING:
        return "value", field.default_factory()
    return "required", None


def names_of(cls):
    return list(cls.model_fields) if hasattr(cls, "model_fields") else [one.name for one in dataclasses.fields(cls)]


def keys_of(cls, prefix=""):
    hints = typing.get_type_hints(cls)
    for name in names_of(cls):
        key = f"{prefix}{name}"
        found = list(parts_of(hints[name]))
        inner = next((one for one in found if is_record(one)), None)
        choices = [word for one in found if typing.get_origin(one) is typing.Literal for word in typing.get_args(one)]
        state, value = default_of(cls, name)
        if inner is not None:
            in_list = any(typing.get_origin(one) in (tuple, list) for one in found)
            shown = "required" if state == "required" else ("keys" if value is not None else "null")
            yield f"{key}{'[]' if in_list else ''}: {shown}"
            yield from keys_of(inner, f"{key}{'[]' if in_list else ''}.")
            continue
        shown = "required" if state == "required" else json.dumps(value, default=str)
        yield f"{key} = {shown}" + (f"  one of {', '.join(map(str, choices))}" if choices else "")


def evaluate_recipe():
    for module, names in EVALUATE_RECIPES:
        try:
            home = importlib.import_module(module)
        except ModuleNotFoundError:
            continue
        for name in names:
            if hasattr(home, name):
                return getattr(home, name)
        for value in vars(home).values():
            if is_record(value) and {"data", "knn", "linear", "fit"} <= set(names_of(value)):
                return value
    raise SystemExit("no recipe of evaluations was found; name its module in EVALUATE_RECIPES")


def print_recipes():
    print("# keys of a recipe of pre-training")
    print("\n".join(keys_of(anyband.PretrainRecipe)))
    print("\n# keys of a recipe of evaluations")
    print("\n".join(keys_of(evaluate_recipe())))


def main():
    print_names()
    print()
    print_help()
    print_recipes()


if __name__ == "__main__":
    main()
