"""The house rules that a machine can check: rooms, directions of imports, sizes, names, and tests that assert."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "anyband"
SOURCES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))

# A room may import the rooms before it and the kernel (the modules at the top of the package).
ROOMS = ["sensors", "rasters", "data", "models", "encode", "labelled", "training", "evaluate", "pretrain"]
ROOMS += ["scenes", "archive", "explore", "adapters", "demo", "cli"]
MAY_IMPORT = {room: {*ROOMS[:index], "report"} for index, room in enumerate(ROOMS)}
MAY_IMPORT["models"] = {"sensors"}
MAY_IMPORT["report"] = set()
MAY_IMPORT["simulate"] = {"sensors", "rasters", "data"}
MAY_IMPORT["demo"] |= {"simulate"}
MAY_IMPORT["cli"] |= {"simulate"}

# Lines of the longest file.
LINES_A_FILE = 1020

ASSERTING = ("Assert(", "'raises'", "assert_", "'fail'", "'check'", "'warns'")


def _relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _room(path: Path) -> str | None:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else None


def _imported_modules(tree: ast.AST) -> set[str]:
    plain = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    named = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return plain | named


def _functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


@pytest.mark.parametrize("path", [path for path in SOURCES if _room(path)], ids=_relative)
def test_a_room_imports_only_rooms_before_it(path: Path) -> None:
    room = _room(path)
    assert room in MAY_IMPORT, f"{room} is not a room; docs/design.md lists them"
    imported = _imported_modules(ast.parse(path.read_text()))
    rooms = {name.split(".")[1] for name in imported if name.startswith("anyband.")} & set(MAY_IMPORT)
    assert rooms - {room} <= MAY_IMPORT[room]


@pytest.mark.parametrize("path", SOURCES, ids=_relative)
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text()
    long = {
        node.name: node.end_lineno - node.lineno + 1
        for node in _functions(ast.parse(text))
        if node.end_lineno is not None and node.end_lineno - node.lineno + 1 > 60
    }
    assert text.count("\n") <= LINES_A_FILE
    assert not long


def _module(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def _imports_of_modules() -> dict[str, set[str]]:
    """Each of our modules with those that it imports, at its top or inside a function."""
    modules = {_module(path): path for path in SOURCES}
    graph = {}
    for name, path in modules.items():
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
        graph[name] = found & set(modules) - {"anyband", name}
    return graph


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = _imports_of_modules()
    while free := {name for name, imported in graph.items() if not imported}:
        graph = {name: imported - free for name, imported in graph.items() if name not in free}
    assert graph == {}


@pytest.mark.parametrize("path", SOURCES, ids=_relative)
def test_no_keyword_arguments_are_swallowed(path: Path) -> None:
    swallowing = {node.name for node in _functions(ast.parse(path.read_text())) if node.args.kwarg}
    # Those of a recipe are its declared keys, which pydantic checks.
    assert swallowing <= ({"__call__", "changed"} if path.name == "recipes.py" else set())


@pytest.mark.parametrize("path", [path for path in SOURCES if path.name != "__main__.py"], ids=_relative)
def test_public_names_are_declared(path: Path) -> None:
    tree = ast.parse(path.read_text())
    defined = {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    }
    declared: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            declared = set(ast.literal_eval(node.value))
    entry_points = {"run", "add_arguments"} if _room(path) == "cli" else set()
    assert defined - declared - entry_points == set()


@pytest.mark.parametrize("path", SOURCES, ids=_relative)
def test_public_things_have_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text())
    bare = [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
        and not (_room(path) == "cli" and node.name in ("run", "add_arguments"))
        and node in tree.body
    ]
    assert ast.get_docstring(tree) or path.name == "__init__.py"
    assert not bare


@pytest.mark.parametrize("path", SOURCES, ids=_relative)
def test_no_room_lacks_a_purpose_in_its_name(path: Path) -> None:
    assert not re.search(r"(^|/)(utils?|helpers?|misc|common)(\.py|/)", _relative(path))


@pytest.mark.parametrize("path", SOURCES, ids=_relative)
def test_a_boolean_array_is_never_called_mask(path: Path) -> None:
    names = {
        argument.arg
        for node in _functions(ast.parse(path.read_text()))
        for argument in (*node.args.args, *node.args.kwonlyargs)
    }
    assert "mask" not in names


@pytest.mark.parametrize("path", SOURCES, ids=_relative)
def test_weights_are_never_unpickled(path: Path) -> None:
    unsafe = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "torch.load",
            "pickle.load",
            "pickle.loads",
        ):
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if keywords.get("weights_only") != "True":
                unsafe.append(node.lineno)
    assert not unsafe


@pytest.mark.parametrize("path", TESTS, ids=_relative)
def test_every_test_asserts_something(path: Path) -> None:
    silent = [
        node.name
        for node in _functions(ast.parse(path.read_text()))
        if node.name.startswith("test") and not any(word in ast.dump(node) for word in ASSERTING)
    ]
    assert not silent


def _modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.split()}


def _all_of(room: str) -> str:
    names = [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for path in SOURCES
        if _room(path) == room and path.name != "__init__.py"
    ]
    return "; ".join(f"import {name}" for name in names)


def test_sensors_import_without_torch() -> None:
    assert "torch" not in _modules_after(_all_of("sensors"))


def test_models_import_without_rasterio() -> None:
    assert "rasterio" not in _modules_after(_all_of("models"))


def test_help_needs_no_torch() -> None:
    assert "torch" not in _modules_after("from anyband.cli import main; main([])")


TRAINING = [
    "data.store",
    "data.image_sets",
    "data.loader",
    "data.harmonise",
    "data.resample",
    "pretrain.recipe",
    "pretrain.loop",
]


def test_training_from_a_store_needs_no_geographic_library() -> None:
    loaded = _modules_after("; ".join(f"import anyband.{name}" for name in TRAINING))
    assert loaded & {"rasterio", "geopandas", "shapely", "pyproj"} == set()
