"""A word of a YAML file is what stands there: places called NO, 007 or 1_000 became False, 7 and 1000."""

import datetime as dt
from pathlib import Path

import pytest
import yaml

from anyband.data.manifest import read_manifest, rows_of
from anyband.errors import ManifestError, RecipeError
from anyband.files import parse_yaml, yaml_text
from anyband.sensors.catalogue import get_sensor

WORDS = ["NO", "yes", "on", "off", "y", "007", "1_000", "12:30:45", "0o17", "0x1F", "2020-07-01", "1e3", "1.50", "true"]


@pytest.mark.parametrize("word", WORDS)
def test_places_and_classes_of_tables_are_as_written(tmp_path: Path, word: str) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(f"- {{path: a.tif, sensor: maxar-rgb, place: {word}}}\n- {{path: b.tif, sensor: maxar-rgb}}\n")
    assert [entry.place for entry in read_manifest(path)] == [word, None]
    path.write_text(f"- {{path: a.tif, label: {word}, {word}: null}}\n")
    assert list(rows_of(path)) == [{"path": "a.tif", "label": word, word: None}]


def test_times_and_numbers_of_manifests_are_read(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(
        "- {path: a.tif, sensor: maxar-rgb, datetime: 2020-07-01T23:30:00-05:00, time: 3, nodata: .nan, scale: 1e-4}\n"
        "- {path: b.nc, sensor: maxar-rgb, time: 2020-07-06, bands: {R: 3, G: 2}, nodata: -.inf}\n"
        "- {path: c.tif, sensor: maxar-rgb, place: off, datetime: ~, nodata: 0}\n"
    )
    first, second, third = read_manifest(path)
    assert first.datetime == dt.datetime(2020, 7, 2, 4, 30, tzinfo=dt.UTC)
    assert (first.source.time_index, str(first.source.nodata), first.encoding[0][1].scale) == (3, "nan", 1e-4)
    assert second.source.bands == (("R", "3"), ("G", "2"))
    assert (second.source.time, second.source.nodata) == (dt.datetime(2020, 7, 6, tzinfo=dt.UTC), -float("inf"))
    assert (third.place, third.datetime, third.source.nodata) == ("off", None, 0.0)


def test_a_number_with_a_line_is_no_number(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text("- {path: a.tif, sensor: maxar-rgb, nodata: 1_000}\n")
    with pytest.raises(ManifestError, match="nodata '1_000' is not a number"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[NO, yes, on, Off, n]", ["NO", "yes", "on", "Off", "n"]),
        ("[007, 0o17, 0x1F, 1_000, 12:30:45, 2020-07-01]", ["007", "0o17", "0x1F", "1_000", "12:30:45", "2020-07-01"]),
        ("[1e3, 1e-4, 1., .5, -0.0, +12, 0, -7]", [1000.0, 1e-4, 1.0, 0.5, -0.0, 12, 0, -7]),
        ("[true, False, null, ~, , .inf]", [True, False, None, None, None, float("inf")]),
        ("{NO: 1, 5: 2}", {"NO": 1, 5: 2}),
    ],
)  # fmt: skip
def test_words_are_those_of_yaml_1_2(text: str, value: object) -> None:
    found = parse_yaml(text.replace(", ,", ", null,"), name="x", error=RecipeError)
    assert (found, repr(found)) == (value, repr(value))


@pytest.mark.parametrize("word", WORDS)
def test_texts_that_are_written_are_read_back_by_any_reader(word: str) -> None:
    text = yaml_text({"a": [word, 1e-5, 3]})
    assert parse_yaml(text, name="x", error=RecipeError) == yaml.safe_load(text) == {"a": [word, 1e-5, 3]}


def test_aliases_of_a_sensor_file_are_texts(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "mission: Mine\nsource: a handbook\nsensors:\n  mine:\n"
        "    title: NO\n    aliases: [on, 007]\n    nodata: null\n"
        "    default_encoding: dn\n    encodings: {dn: {scale: 1.0, source: x}}\n    unit: count\n"
        "    bands: [{name: NO, aliases: [yes, 1_000], low_nm: 450, high_nm: 800, gsd_m: 1}]\n"
    )
    sensor = get_sensor(tmp_path / "mine.yaml")
    assert (sensor.aliases, sensor.bands[0].name, sensor.bands[0].aliases) == (("on", "007"), "NO", ("yes", "1_000"))
