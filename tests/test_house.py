"""The house rules that a machine can check: rooms, directions of imports, budgets, names, and tests that assert."""

import ast
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "anyband"
TREES = {path: ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))

# A room may import the rooms before it and the kernel (the modules at the top of the package).
ROOMS = ["sensors", "rasters", "data", "models", "encode", "labelled", "training", "evaluate", "pretraining"]
ROOMS += ["scenes", "archive", "explore", "adapters", "demo", "cli"]
MAY_IMPORT = {room: {*ROOMS[: index + 1], "report"} for index, room in enumerate(ROOMS)}
MAY_IMPORT["models"] = {"sensors", "models"}
MAY_IMPORT["report"] = {"report"}
MAY_IMPORT["simulate"] = {"sensors", "rasters", "data", "simulate"}
MAY_IMPORT["demo"] |= {"simulate"}
MAY_IMPORT["cli"] |= {"simulate"}

# Budgets: files, lines in all, lines a file.
MOST_FILES, MOST_LINES, LINES_A_FILE = 123, 39_570, 600
LONGER: dict[str, int] = {}
LINES_A_FUNCTION, MEDIAN_LINES_A_FUNCTION = 60, 8
LINES_A_RECORD, RECIPES_AND_RESULTS = 300, 30

ASSERTING = ("Assert(", "'raises'", "assert_", "'fail'", "'check'", "'warns'")
IN_CLI = ("run", "add_arguments")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def _relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _room(path: Path) -> str | None:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else None


def _module(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def _functions(tree: ast.AST) -> list[Function]:
    return [node for node in ast.walk(tree) if isinstance(node, Function)]


def _lines(node: Function) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def _imports() -> dict[Path, set[str]]:
    """Each of our files with those of our modules that it imports, at its top or inside a function."""
    modules = {_module(path) for path in TREES} - {"anyband"}
    graph = {}
    for path, tree in TREES.items():
        found = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
        graph[path] = (found & modules) - {_module(path)}
    return graph


def test_a_room_imports_only_itself_and_rooms_before_it() -> None:
    assert {_room(path) for path in TREES} - {None} <= set(MAY_IMPORT), "docs/design.md lists the rooms"
    wrong = [
        (_relative(path), name)
        for path, imported in _imports().items()
        for name in imported
        if (room := _room(path)) and (other := name.split(".")[1]) in MAY_IMPORT and other not in MAY_IMPORT[room]
    ]
    assert wrong == []


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = {_module(path): imported for path, imported in _imports().items()}
    while free := {name for name, imported in graph.items() if not imported}:
        graph = {name: imported - free for name, imported in graph.items() if name not in free}
    assert graph == {}


def test_files_and_functions_stay_short() -> None:
    limits = {path: LONGER.get(_relative(path), LINES_A_FILE) for path in TREES}
    long = [_relative(path) for path, most in limits.items() if path.read_text().count("\n") > most]
    functions = [(_relative(path), node) for path, tree in TREES.items() for node in _functions(tree)]
    long += [f"{name}: {node.name}" for name, node in functions if _lines(node) > LINES_A_FUNCTION]
    assert long == []
    assert statistics.median(_lines(node) for _, node in functions) <= MEDIAN_LINES_A_FUNCTION


def _records(tree: ast.AST) -> Iterator[ast.ClassDef]:
    """Find the dataclasses, named tuples, typed dictionaries and pydantic models of a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            words = " ".join(map(ast.unparse, [*node.decorator_list, *node.bases]))
            if re.search(r"dataclass|attrs|NamedTuple|TypedDict|BaseModel|\bRecipe\b", words):
                yield node


def _is_dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(one) for one in node.decorator_list)


def test_files_lines_and_records_stay_few() -> None:
    num_lines = sum(path.read_text().count("\n") for path in TREES)
    assert len(TREES) <= MOST_FILES
    assert num_lines <= MOST_LINES
    records = [node for tree in TREES.values() for node in _records(tree)]
    assert len(records) <= num_lines / LINES_A_RECORD + RECIPES_AND_RESULTS
    # The allowance is for recipe models; dataclasses have none.
    assert len([node for node in records if _is_dataclass(node)]) <= num_lines / LINES_A_RECORD


def test_no_keyword_arguments_are_swallowed() -> None:
    swallowing = {
        f"{path.name}: {node.name}" for path, tree in TREES.items() for node in _functions(tree) if node.args.kwarg
    }
    # Those of a recipe are its declared keys, which pydantic checks.
    assert swallowing <= {"recipes.py: __call__", "recipes.py: changed"}


def _public(path: Path) -> list[Function | ast.ClassDef]:
    named = [node for node in TREES[path].body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    entry_points = IN_CLI if _room(path) == "cli" else ()
    return [node for node in named if not node.name.startswith("_") and node.name not in entry_points]


def _declared(tree: ast.Module) -> set[str]:
    lists = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets)
    ]
    return {name for names in lists for name in names}


def test_public_names_are_declared() -> None:
    missing = [
        (_relative(path), node.name)
        for path, tree in TREES.items()
        for node in _public(path)
        if node.name not in _declared(tree)
    ]
    assert missing == []


def test_modules_and_public_things_have_a_docstring() -> None:
    bare = [
        _relative(path) for path, tree in TREES.items() if not ast.get_docstring(tree) and path.name != "__init__.py"
    ]
    bare += [f"{_relative(path)}: {n.name}" for path in TREES for n in _public(path) if not ast.get_docstring(n)]
    assert bare == []


def test_every_file_has_a_purpose_in_its_name() -> None:
    assert [path for path in TREES if re.search(r"(^|/)(utils?|helpers?|misc|common)(\.py|/)", _relative(path))] == []


def test_a_boolean_array_is_never_called_mask() -> None:
    named = [
        (_relative(path), node.name)
        for path, tree in TREES.items()
        for node in _functions(tree)
        if "mask" in {argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)}
    ]
    assert named == []


def test_weights_are_never_unpickled() -> None:
    calls = [(path, node) for path, tree in TREES.items() for node in ast.walk(tree) if isinstance(node, ast.Call)]
    unsafe = [
        (_relative(path), node.lineno)
        for path, node in calls
        if ast.unparse(node.func) in ("torch.load", "pickle.load", "pickle.loads")
        and {word.arg: ast.unparse(word.value) for word in node.keywords}.get("weights_only") != "True"
    ]
    assert unsafe == []


@pytest.mark.parametrize("path", [pytest.param(path, id=_relative(path)) for path in TESTS])
def test_every_test_asserts_something(path: Path) -> None:
    silent = [
        node.name
        for node in _functions(ast.parse(path.read_text()))
        if node.name.startswith("test") and not any(word in ast.dump(node) for word in ASSERTING)
    ]
    assert silent == []


def _modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.split()}


def _all_of(room: str) -> str:
    files = [path for path in TREES if _room(path) == room and path.name != "__init__.py"]
    return "; ".join(f"import {_module(path)}" for path in files)


def test_sensors_import_without_torch() -> None:
    assert "torch" not in _modules_after(_all_of("sensors"))


def test_models_import_without_rasterio() -> None:
    assert "rasterio" not in _modules_after(_all_of("models"))


def test_help_needs_no_torch() -> None:
    assert "torch" not in _modules_after("from anyband.cli import main; main([])")


TRAINING = ["data.store", "data.image_sets", "data.loader", "data.harmonise", "data.resample"]
TRAINING += ["pretraining.recipe", "pretraining.loop"]


def test_training_from_a_store_needs_no_geographic_library() -> None:
    loaded = _modules_after("; ".join(f"import anyband.{name}" for name in TRAINING))
    assert loaded & {"rasterio", "geopandas", "shapely", "pyproj"} == set()
