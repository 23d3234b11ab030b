"""The user pages: every command parses, every snippet compiles and imports what exists, every link leads somewhere."""

import ast
import importlib
import re
import shlex
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import anyband
from anyband import cli
from anyband.data.manifest import read_manifest
from anyband.labelled.samples import DataSpec
from anyband.labelled.tables import list_samples
from anyband.pretraining.recipe import load_recipe
from anyband.sensors.catalogue import load_sensor_file

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_FILE_NAME = re.compile(r"`([\w.-]+\.(?:yaml|csv))`:$")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_INLINE_VERB = re.compile(r"`anyband ([a-z]\S*)")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block of a page."""

    page: Path
    """Where it stands."""
    line: int
    """Its first line."""
    language: str
    """Word after the fence."""
    text: str
    """What is in it."""
    file_name: str
    """Name that the line before gives the file it shows; empty: none."""


def _blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        before = text[: found.start()].rstrip().rsplit("\n", 1)[-1]
        named = _FILE_NAME.search(before)
        yield Block(
            page=page,
            line=text[: found.start()].count("\n") + 1,
            language=found[1],
            text=found[2],
            file_name=named[1] if named else "",
        )


BLOCKS = [block for page in PAGES for block in _blocks(page)]


def _commands() -> list[tuple[Block, list[str]]]:
    """List the commands of all shell blocks, in words, without variables in front and remarks behind."""
    found = []
    for block in (block for block in BLOCKS if block.language == "sh"):
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            if words:
                found.append((block, words))
    return found


COMMANDS = _commands()
# `torchrun … -m anyband VERB` calls the same command.
ANYBAND = [(block, words[words.index("anyband") + 1 :]) for block, words in COMMANDS if "anyband" in words]


def _id(value: object) -> str | None:
    if isinstance(value, Block):
        return f"{value.page.name}:{value.line}"
    return " ".join(value)[:60] if isinstance(value, list) else None


def _write_files(page: Path, folder: Path) -> None:
    """Write down the files that a page shows, so that its commands find them."""
    for block in _blocks(page):
        if block.file_name:
            (folder / block.file_name).write_text(block.text, encoding="utf-8")


def _file(page: str, name: str, folder: Path) -> Path:
    _write_files(ROOT / "docs" / page, folder)
    return folder / name


@pytest.mark.parametrize(("block", "words"), ANYBAND, ids=_id)
def test_a_command_of_the_pages_parses(
    block: Block,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    parsed_by: Callable[[list[str]], Namespace],
) -> None:
    assert words[0] in cli.VERBS
    parsed = parsed_by(words)
    if words[0] == "pretrain":
        _write_files(block.page, tmp_path)
        monkeypatch.chdir(tmp_path)
        load_recipe(parsed.recipe, parsed.words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_verb_in_the_text_exists(page: Path) -> None:
    named = set(_INLINE_VERB.findall(page.read_text(encoding="utf-8")))
    assert {verb.rstrip("`") for verb in named} <= set(cli.VERBS)


@pytest.mark.parametrize(("block", "words"), COMMANDS, ids=_id)
def test_targets_and_scripts_of_commands_exist(block: Block, words: list[str]) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert words[0] in ("anyband", "make", "python", "torchrun", "pip", "uv")
    if words[0] == "make":
        assert set(words[1:]) <= set(targets)
    scripts = [word for word in words if word.endswith(".py")]
    assert all((ROOT / script).is_file() for script in scripts)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "python"], ids=_id)
def test_a_snippet_compiles_and_imports_what_exists(block: Block) -> None:
    tree = ast.parse(block.text, filename=f"{block.page.name}:{block.line}")
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("anyband"):
            module = importlib.import_module(str(node.module))
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "anyband":
            assert node.attr in anyband.__all__


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_of_a_page_exist(page: Path) -> None:
    links = _LINK.findall(page.read_text(encoding="utf-8"))
    local = [link.partition("#")[0] for link in links if not re.match(r"[a-z]+:|#", link)]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_the_pages_have_commands_and_snippets_to_check() -> None:
    pages = {block.page.stem for block, _ in ANYBAND}
    assert {"sensors", "prepare", "pretrain", "evaluate", "simulate", "real_data"} <= pages
    assert sum(block.language == "python" for block in BLOCKS) >= 8


def test_the_own_sensor_of_the_page_loads(tmp_path: Path) -> None:
    sensor = load_sensor_file(_file("sensors.md", "drone5.yaml", tmp_path))
    assert sensor.band_names == ("B1", "B2", "B3", "B4", "B5")
    assert all(band.statistics is not None for band in sensor.bands)


@pytest.mark.parametrize(
    ("page", "name", "count"),
    [("prepare.md", "manifest.csv", 4), ("prepare.md", "manifest.yaml", 4), ("embed.md", "place.csv", 3)],
)
def test_the_manifests_of_the_pages_are_read(page: str, name: str, count: int, tmp_path: Path) -> None:
    assert len(read_manifest(_file(page, name, tmp_path))) == count


def test_the_labelled_sets_of_the_page_are_read(tmp_path: Path) -> None:
    table = _file("evaluate.md", "fields.csv", tmp_path)
    for row in table.read_text(encoding="utf-8").splitlines()[1:]:
        (tmp_path / row.partition(",")[0]).touch()
    assert [len(one.images) for one in list_samples(DataSpec(source=str(table)))] == [3, 1]


_PINS = re.compile(r"`(tests/\S+\.py)`: ((?:`test_\w+`(?:, )?)+)")


def test_every_row_of_the_parity_page_names_tests_that_exist() -> None:
    page = (ROOT / "docs" / "parity.md").read_text(encoding="utf-8")
    # Rows of bands show numbers, which a test of their own computes.
    others = ("| what", "|---", "| band", "| `")
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith(others)]
    assert rows
    for row in rows:
        pins = _PINS.findall(row.split("|")[-2])
        assert pins, row
        for file, names in pins:
            text = (ROOT / file).read_text(encoding="utf-8")
            assert [name for name in re.findall(r"`(\w+)`", names) if f"def {name}(" not in text] == []
