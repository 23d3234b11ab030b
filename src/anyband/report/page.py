"""One self-contained HTML page: text, tables and pictures, with nothing fetched from elsewhere.

The parts of a page are texts of HTML, made by `paragraph`, `table` and `picture`.
"""

import base64
from collections.abc import Collection, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from anyband.errors import InputError
from anyband.files import whole_file

__all__ = ["page_html", "paragraph", "picture", "table", "write_page"]

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def paragraph(text: str) -> str:
    """Write plain text; signs of HTML in it are shown as they are."""
    return f"<p>{escape(text)}</p>"


def picture(png: bytes, *, alt: str, caption: str = "", pixels: bool = False, full_size: bool = False) -> str:
    """Make a PNG part of the page; `alt` says what it shows to readers who can't see it.
    `pixels` enlarges a small picture with sharp pixels. `full_size` shows it in its own size, to be scrolled; else it
    is as wide as the page at most.
    """
    if not png.startswith(_PNG_SIGNATURE):
        raise InputError("a picture of a page must be a PNG")
    if not alt.strip():
        raise InputError("a picture of a page needs an alternative text that says what it shows")
    kind = ' class="pixels"' if pixels else ' class="full"' if full_size else ""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    data = base64.b64encode(png).decode("ascii")
    return f'<figure{kind}><img src="data:image/png;base64,{data}" alt="{escape(alt, quote=True)}">{below}</figure>'


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str = "", strong_rows: Collection[int] = ()
) -> str:
    """Write a table of texts; columns whose cells all start like numbers are set to the right.
    `strong_rows` are positions from 0, to be stressed.
    """
    wrong = [row for row in rows if len(row) != len(header)]
    if wrong:
        raise InputError(f"a row of a table has {len(wrong[0])} cells, its header {len(header)}")
    numeric = [_is_numeric([row[column] for row in rows]) for column in range(len(header))]
    starts = ['<tr class="strong">' if index in strong_rows else "<tr>" for index in range(len(rows))]
    body = "\n".join(f"{start}{_cells('td', row, numeric)}</tr>" for start, row in zip(starts, rows, strict=True))
    above = f"<caption>{escape(caption)}</caption>" if caption else ""
    inner = f"{above}\n<thead><tr>{_cells('th', header, numeric)}</tr></thead>\n<tbody>\n{body}\n</tbody>"
    return f'<div class="wide"><table>{inner}</table></div>'


def _cells(tag: str, texts: Sequence[str], numeric: Sequence[bool]) -> str:
    kinds = [' class="number"' if number else "" for number in numeric]
    return "".join(f"<{tag}{kind}>{escape(text)}</{tag}>" for text, kind in zip(texts, kinds, strict=True))


def _is_numeric(cells: Sequence[str]) -> bool:
    filled = [cell for cell in cells if cell.strip() not in ("", "–", "—")]
    return bool(filled) and all(cell.lstrip("+-−")[:1].isdigit() for cell in filled)


def page_html(title: str, lead: str, sections: Sequence[tuple[str, Sequence[str]]], *, footer: str = "") -> str:
    """Write a page as one HTML document: no script, no link to elsewhere, pictures inside.
    `sections` are heading and parts of each, listed at the top; those without parts are left out.
    """
    filled = [(heading, parts) for heading, parts in sections if parts]
    links = " ".join(f'<a href="#section-{index}">{escape(one)}</a>' for index, (one, _) in enumerate(filled, 1))
    body = "\n".join(
        "\n".join(["<section>", f'<h2 id="section-{index}">{escape(heading)}</h2>', *parts, "</section>"])
        for index, (heading, parts) in enumerate(filled, 1)
    )
    style = files("anyband.report").joinpath("page.css").read_text(encoding="utf-8")
    below = f"<footer>{escape(footer)}</footer>" if footer else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{escape(title)}</h1>\n<p class="lead">{escape(lead)}</p>\n'
        f"<nav>{links}</nav>\n{body}\n{below}\n</main>\n</body>\n</html>\n"
    )


def write_page(
    path: Path, title: str, lead: str, sections: Sequence[tuple[str, Sequence[str]]], *, footer: str = ""
) -> None:
    """Write a page to a file, whole or not at all; see `page_html`."""
    with whole_file(path) as beside:
        beside.write_text(page_html(title, lead, sections, footer=footer), encoding="utf-8")
