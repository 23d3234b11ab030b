"""One self-contained HTML page: text, tables and pictures, with nothing fetched from elsewhere."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from anyband.errors import InputError
from anyband.files import whole_file

__all__ = ["Page", "Paragraph", "Part", "Picture", "Section", "Table", "page_html", "write_page"]

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, kw_only=True)
class Paragraph:
    """Plain text; signs of HTML in it are shown as they are."""

    text: str
    """The text."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of texts. A column whose cells all start like numbers is set to the right."""

    header: tuple[str, ...]
    """Names of the columns."""
    rows: tuple[tuple[str, ...], ...]
    """Cells, as many in each row as the header has."""
    caption: str = ""
    """What the numbers mean."""
    strong_rows: tuple[int, ...] = ()
    """Positions of rows to stress, from 0."""

    def __post_init__(self) -> None:
        wrong = [row for row in self.rows if len(row) != len(self.header)]
        if wrong:
            raise InputError(f"a row of a table has {len(wrong[0])} cells, its header {len(self.header)}")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG that becomes part of the page."""

    png: bytes
    """The whole file."""
    alt: str
    """What it shows, for readers who can't see it."""
    caption: str = ""
    """What to look at, and what must be known about it."""
    pixels: bool = False
    """Enlarge small pictures with sharp pixels."""
    full_size: bool = False
    """Show it in its own size, to be scrolled; else it is as wide as the page at most."""

    def __post_init__(self) -> None:
        if not self.png.startswith(_PNG_SIGNATURE):
            raise InputError("a picture of a page must be a PNG")
        if not self.alt.strip():
            raise InputError("a picture of a page needs an alternative text that says what it shows")


Part = Paragraph | Table | Picture


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading and what stands under it."""

    title: str
    """The heading."""
    parts: tuple[Part, ...]
    """Paragraphs, tables and pictures, in order."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """A whole report."""

    title: str
    """The first heading."""
    lead: str
    """What was done and what came of it, in a few sentences."""
    sections: tuple[Section, ...]
    """The sections, in order; they are listed at the top."""
    footer: str = ""
    """Version, seed, machine."""


def page_html(page: Page) -> str:
    """Write a page as one HTML document: no script, no link to elsewhere, pictures inside."""
    links = " ".join(
        f'<a href="#section-{index}">{html.escape(section.title)}</a>'
        for index, section in enumerate(page.sections, start=1)
    )
    sections = "\n".join(_section_html(section, index) for index, section in enumerate(page.sections, start=1))
    style = files("anyband.report").joinpath("page.css").read_text(encoding="utf-8")
    footer = f"<footer>{html.escape(page.footer)}</footer>" if page.footer else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(page.title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{html.escape(page.title)}</h1>\n<p class="lead">{html.escape(page.lead)}</p>\n'
        f"<nav>{links}</nav>\n{sections}\n{footer}\n</main>\n</body>\n</html>\n"
    )


def write_page(path: Path, page: Page) -> None:
    """Write a page to a file, whole or not at all."""
    with whole_file(path) as beside:
        beside.write_text(page_html(page), encoding="utf-8")


def _section_html(section: Section, index: int) -> str:
    parts = "\n".join(_part_html(part) for part in section.parts)
    return f'<section>\n<h2 id="section-{index}">{html.escape(section.title)}</h2>\n{parts}\n</section>'


def _part_html(part: Part) -> str:
    match part:
        case Paragraph():
            return f"<p>{html.escape(part.text)}</p>"
        case Table():
            return _table_html(part)
        case Picture():
            return _picture_html(part)


def _picture_html(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode("ascii")
    kind = ' class="pixels"' if picture.pixels else ' class="full"' if picture.full_size else ""
    caption = f"<figcaption>{html.escape(picture.caption)}</figcaption>" if picture.caption else ""
    image = f'<img src="data:image/png;base64,{data}" alt="{html.escape(picture.alt, quote=True)}">'
    return f"<figure{kind}>{image}{caption}</figure>"


def _table_html(table: Table) -> str:
    numeric = [_is_numeric([row[column] for row in table.rows]) for column in range(len(table.header))]
    head = "".join(_cell("th", name, number) for name, number in zip(table.header, numeric, strict=True))
    body = "\n".join(_row(row, numeric, strong=index in table.strong_rows) for index, row in enumerate(table.rows))
    caption = f"<caption>{html.escape(table.caption)}</caption>" if table.caption else ""
    inner = f"{caption}\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>"
    return f'<div class="wide"><table>{inner}</table></div>'


def _row(cells: Sequence[str], numeric: Sequence[bool], *, strong: bool) -> str:
    kind = ' class="strong"' if strong else ""
    inner = "".join(_cell("td", cell, number) for cell, number in zip(cells, numeric, strict=True))
    return f"<tr{kind}>{inner}</tr>"


def _cell(tag: str, text: str, number: bool) -> str:
    kind = ' class="number"' if number else ""
    return f"<{tag}{kind}>{html.escape(text)}</{tag}>"


def _is_numeric(cells: Sequence[str]) -> bool:
    filled = [cell for cell in cells if cell.strip() not in ("", "–", "—")]
    return bool(filled) and all(cell.lstrip("+-−")[:1].isdigit() for cell in filled)
