"""The self-contained page."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from anyband.errors import InputError
from anyband.report.figures import picture_png
from anyband.report.page import page_html, paragraph, picture, table, write_page

_PNG = picture_png(np.zeros((1, 2, 2)))


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def _page(*parts: str) -> str:
    return page_html("A & B", "x < y", [("Scores", parts), ("Nothing", ())], footer="seed 0")


def _read(*parts: str) -> _Reader:
    reader = _Reader()
    reader.feed(_page(*parts))
    assert reader.open == []
    return reader


def test_every_element_is_closed_and_text_is_shown_as_it_is() -> None:
    reader = _read(paragraph("<script>alert('x')</script> & more"))
    assert "<script>alert('x')</script> & more" in reader.text
    assert "script" not in [tag for tag, _ in reader.tags]


def test_a_picture_stands_inside_the_page_with_its_alternative_text() -> None:
    reader = _read(picture(_PNG, alt='a "map"', caption="Look."))
    image = next(attributes for tag, attributes in reader.tags if tag == "img")
    kind, data = (image["src"] or "").split(",", 1)
    assert (kind, base64.b64decode(data)) == ("data:image/png;base64", _PNG)
    assert image["alt"] == 'a "map"'


def test_nothing_is_fetched_from_elsewhere() -> None:
    text = _page(picture(_PNG, alt="map"), table(("a",), [("1",)]))
    assert not re.search(r"https?:|url\(|@import|<link|<script", text)


def test_every_section_is_linked_from_the_top() -> None:
    reader = _read(paragraph("x"))
    assert "Nothing" not in reader.text
    targets = {attributes["href"] for tag, attributes in reader.tags if tag == "a"}
    assert targets == {f"#{attributes['id']}" for tag, attributes in reader.tags if tag == "h2"}


def test_columns_of_numbers_are_set_to_the_right_and_stressed_rows_marked() -> None:
    made = table(("sensor", "accuracy"), [("S2", "61.2 %"), ("S1", "–")], strong_rows=(1,))
    tags = _read(made).tags
    assert [one.get("class") for tag, one in tags if tag == "td"] == [None, "number", None, "number"]
    assert [one.get("class") for tag, one in tags if tag == "tr"] == [None, None, "strong"]


def test_a_row_with_too_few_cells_is_refused() -> None:
    with pytest.raises(InputError, match="has 1 cells, its header 2"):
        table(("a", "b"), [("1",)])


def test_a_picture_without_alternative_text_is_refused() -> None:
    with pytest.raises(InputError, match="alternative text"):
        picture(_PNG, alt=" ")


def test_a_picture_that_is_no_png_is_refused() -> None:
    with pytest.raises(InputError, match="must be a PNG"):
        picture(b"GIF89a", alt="x")


def test_a_page_is_written_whole(tmp_path: Path) -> None:
    write_page(tmp_path / "report.html", "A", "b", [("C", [paragraph("x")])])
    assert (tmp_path / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
