"""Manifests, tables of labels, sensors and statistics that people write: each mistake is named with its place."""

import json
from pathlib import Path

import pytest

_MANIFEST = ("prepare", "HERE/{name}", "--out", "HERE/store", "--workers", "1", "--quiet")
_LABELS = (
    "evaluate", "knn", "--k", "1", "--checkpoint", "KIT/model.safetensors", "--sensor", "rgb",
    "--out", "HERE/scores", "--no-results", "--no-cache", "--data", "HERE/{name}",
)  # fmt: skip
_EMBED = ("embed", "KIT/rgb0.tif", "--sensor", "rgb", "--checkpoint", "KIT/model.safetensors", "--out", "HERE/f.tif")


def _words(words: tuple[str, ...], path: Path, kit: Path, content: str | bytes) -> list[str]:
    """Write a table, in which `KIT` stands for the kit, and fill in its name."""
    path.write_bytes(content if isinstance(content, bytes) else content.replace("KIT", str(kit)).encode())
    return [word.format(name=path.name) for word in words]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no images; give it a row for each (columns: path, sensor, "),
        ("path,sensor\n", "has no images"),
        (b"\x89PNG\xff\xfe\x00", "is no CSV text in UTF-8"),
        ("path,senor\na.tif,rgb\n", "column 'senor' is unknown"),
        ("path,senor\na.tif,rgb\n", "did you mean 'sensor'?"),
        ("path,path,sensor\na,b,rgb\n", "has column 'path' twice"),
        ("path,sensor\na,b,c\n", "row 1 of '"),
        ("path,sensor\na,b,c\n", "has 3 cells, the header has 2 columns"),
        ('path,sensor\n"a,rgb\n', "is no CSV text"),
        ("path,sensor\n,rgb\n", "'path' is missing; it is a file"),
        ("path,sensor\nKIT/rgb0.tif,\n", "'sensor' is missing; it is name in the catalogue"),
        ("path,sensor\nKIT/rgb0.tif,maxar-rbg\n", "did you mean 'maxar-rgb'?"),
        ("path,sensor,bands\nKIT/rgb0.tif,rgb,R;NIR\n", "band 'NIR' is not in sensor 'maxar-rgb'"),
        ("path,sensor,bands\nKIT/rgb0.tif,rgb,R=1;G\n", "name some bands of the file and not others"),
        ("path,sensor,bands\nKIT/rgb0.tif,rgb,R=9\n", "band 'R' is declared as '9', which is not in"),
        ("path,sensor,datetime\nKIT/rgb0.tif,rgb,yesterday\n", "datetime 'yesterday' is not ISO 8601"),
        ("path,sensor,datetime\nKIT/rgb0.tif,rgb,0001-01-01T00:00+05:00\n", "is before year 1 or after year 9999"),
        ("path,sensor,datetime\nKIT/rgb0.tif,rgb,2020-13-45\n", "datetime '2020-13-45' is not ISO 8601"),
        ("path,sensor,time\nKIT/rgb0.tif,rgb,7\n", "has no time axis; leave the time out"),
        ("path,sensor,split\nKIT/rgb0.tif,rgb,trian\n", "split 'trian' is unknown (train, val, test)"),
        ("path,sensor,scale\nKIT/rgb0.tif,rgb,0\n", "an encoding needs a scale other than 0"),
        ("path,sensor,scale\nKIT/rgb0.tif,rgb,nan\n", "finite numbers, found scale nan"),
        ("path,sensor,offset\nKIT/rgb0.tif,rgb,much\n", "offset 'much' is not a number"),
        ("path,sensor,valid\nKIT/rgb0.tif,rgb,KIT/missing.tif\n", "missing.tif' does not exist"),
        ("path,sensor,place\nKIT/rgb0.tif,rgb,a\nKIT/rgb0.tif,rgb,b\n", "rows 1 and 2 of '"),
    ],
)  # fmt: skip
def test_a_wrong_manifest_is_refused(refused, kit, tmp_path, content: str | bytes, message: str) -> None:
    assert message in refused(*_words(_MANIFEST, tmp_path / "m.csv", kit, content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no images"),
        ("path: a.tif", "must be a list with a mapping for each image"),
        ("- {path: a.tif", "is not valid YAML"),
        ("- {path: a, path: b, sensor: rgb}", "key 'path' stands twice, on lines 1 and 1"),
        ("- {path: KIT/rgb0.tif, sensor: rgb, scale: .nan}", "finite numbers, found scale nan"),
        ("- {path: KIT/rgb0.tif, sensor: rgb, datetime: 5}", "datetime '5' is not ISO 8601"),
        ("- {path: KIT/rgb0.tif, sensor: rgb, 5: 1}", "column '5' is unknown"),
        ("- {[a]: 1}", "['a'] can't be a key; a key is a text or a number"),
        ("[" * 5000, "is nested too deeply to be read"),
        ("- &a [*a]", "m.yaml"),
        ("- !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        (b"\xff\xfe\x00", "is not a text in UTF-8, so it can't be YAML"),
    ],
)  # fmt: skip
def test_a_wrong_yaml_manifest_is_refused(refused, kit, tmp_path, content: str | bytes, message: str) -> None:
    assert message in refused(*_words(_MANIFEST, tmp_path / "m.yaml", kit, content))


@pytest.mark.parametrize("name", ["m.csv", "m.yaml", "m.parquet"])
def test_a_missing_manifest_is_refused(refused, name: str) -> None:
    assert name in refused(*(word.format(name=name) for word in _MANIFEST))


def test_a_parquet_manifest_that_is_none_is_refused(refused, kit, tmp_path) -> None:
    assert "cannot read manifest" in refused(*_words(_MANIFEST, tmp_path / "m.parquet", kit, b"PAR1 and no more"))


def test_the_demo_refuses_an_empty_manifest(refused, tmp_path) -> None:
    (tmp_path / "m.csv").write_text("path,sensor\n")
    message = refused("demo", "--images", "HERE/m.csv", "--out", "HERE/demo", "--quiet", leaves="demo")
    assert "has no images" in message


_PARTS = ("train", "train", "val", "test")
_ROWS = "".join(f"KIT/rgb{number}.tif,{'ab'[number % 2]},{part}\n" for number, part in enumerate(_PARTS))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "lists no images; give it a row for each"),
        ("path,label\n", "lists no images"),
        ("path,lable\nKIT/rgb0.tif,a\n", "needs a column 'label'; it has path, lable; did you mean 'lable'?"),
        ("label\na\n", "needs a column 'path'; it has label"),
        ("path,label,label\nKIT/rgb0.tif,a,b\n", "has column 'label' twice"),
        ("path,label\nmissing.tif,a\n", "row 1 of '"),
        ("path,label\n,a\n", "has no path"),
        ("path,label\nKIT/rgb0.tif\n", "has 1 cell, the header has 2"),
        ("path,label\nKIT/rgb0.tif,a\nKIT/rgb0.tif,b\n", "more than once; an image in two places would leak"),
        ("path,label\nKIT/rgb0.tif,\nKIT/rgb1.tif,\n", "has no labels"),
        ("path,label\nKIT/rgb0.tif,a;b\nKIT/rgb1.tif,a\n", "say `data.kind=labels` (`--multi-label`)"),
        ("path,label\nKIT/rgb0.tif,a\nKIT/rgb1.tif,b\n", "class 'a' has 1 image, too few for 3 splits"),
        ("path,label,split\nKIT/rgb0.tif,a,trian\n", "did you mean 'train'?"),
        ("path,label,split\n" + _ROWS.replace("train", "test"), "has no sample in split 'train' to learn from"),
        ("path,label,split\n" + _ROWS.replace("test", "train"), "has no sample in split 'test' to report (samples: "),
        ("path,label,split\n" + _ROWS.replace("b,test", "c,test"), "'labels.csv' and not in training: 'c'"),
        (b"\x89PNG\xff\xfe\x00", "is no CSV text in UTF-8"),
    ],
)  # fmt: skip
def test_a_wrong_table_of_labels_is_refused(refused, kit, tmp_path, content: str | bytes, message: str) -> None:
    assert message in refused(*_words(_LABELS, tmp_path / "labels.csv", kit, content))


@pytest.mark.parametrize(("made", "message"), [("", "has no class folders"), ("x", "has no images")])
def test_an_empty_folder_of_labelled_images_is_refused(refused, tmp_path, made: str, message: str) -> None:
    (tmp_path / "images" / made).mkdir(parents=True)
    assert message in refused(*(word.format(name="images") for word in _LABELS))


_SENSOR = """\
mission: Mine
source: me
sensors:
  mine:
    title: Mine
    default_encoding: dn
    encodings: {dn: {scale: 1.0}}
    unit: reflectance
    bands:
      - {name: B1, low_nm: 400, high_nm: 500, gsd_m: 10}
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("mission: Mine", "misson: Mine", "unknown key 'misson'; did you mean 'mission'?"),
        ("low_nm: 400", "low_nm: .nan", "expected a finite number, found nan"),
        ("low_nm: 400", "low_nm: wide", "expected a number, found 'wide'"),
        ("low_nm: 400", "low_nm: 600", "a spectral range needs 0 < low < high in nm, found 600 to 500 nm"),
        ("gsd_m: 10", "gsd_m: -10", "expected a finite number over 0, found -10"),
        ("scale: 1.0", "scale: 0", "an encoding needs a scale other than 0"),
        ("title: Mine", "title: Mine\n    title: Yours", "key 'title' stands twice"),
        ("    bands:\n      - {name: B1, low_nm: 400, high_nm: 500, gsd_m: 10}\n", "    bands: []\n", "at least one"),
        ("  mine:", "  maxar-rgb:", "a name of the catalogue's own sensor"),
    ],
)  # fmt: skip
def test_a_wrong_sensor_file_is_refused(refused, tmp_path, old: str, new: str, message: str) -> None:
    assert old in _SENSOR
    (tmp_path / "mine.yaml").write_text(_SENSOR.replace(old, new))
    assert message in refused("sensors", "--file", "HERE/mine.yaml")


_GOOD = {"p01": 0.0, "p99": 255.0, "mean": 0.4, "std": 0.2}


@pytest.mark.parametrize(
    ("statistics", "message"),
    [
        ({}, "has no statistics of band 'R' of 'maxar-rgb'"),
        ({"R": _GOOD, "G": _GOOD}, "has no statistics of band 'B'"),
        ({"R": 3}, "band 'R' needs the numbers p01, p99, mean and std"),
        ({"maxar-rgb": 3}, "must map bands of 'maxar-rgb' to p01, p99, mean and std"),
        ([1], "must map bands to p01, p99, mean and std; found list"),
        ({"R": _GOOD | {"meen": 1}}, "band 'R' has an unknown key 'meen'; did you mean 'mean'?"),
        ({"R": _GOOD | {"p99": float("nan")}}, "band statistics need p01 < p99 and std > 0, all finite, found p01 0"),
        ({"R": _GOOD | {"mean": float("inf")}}, "all finite"),
        ({"R": _GOOD | {"std": 0}}, "std > 0"),
        ({"R": _GOOD | {"p01": True}}, "needs the numbers"),
        ({"R": _GOOD | {"p99": -1}}, "p01 < p99"),
    ],
)  # fmt: skip
def test_a_wrong_file_of_statistics_is_refused(refused, tmp_path, statistics: object, message: str) -> None:
    (tmp_path / "s.json").write_text(json.dumps(statistics))
    assert message in refused(*_EMBED, "--statistics", "HERE/s.json")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("s.json", "{", "is not valid JSON"),
        ("s.json", "[" * 100_000, "is not valid JSON"),
        ("s.yaml", "R: {1: 2, a: 3}", "unknown key '1'"),
        ("s.yaml", "R: [", "is not valid YAML"),
        ("s.yaml", b"\xff\x00", "statistics are JSON or YAML in UTF-8"),
    ],
)
def test_a_broken_file_of_statistics_is_refused(refused, tmp_path, name: str, content, message: str) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert message in refused(*_EMBED, "--statistics", f"HERE/{name}")


def test_statistics_of_a_scene_without_data_are_refused(refused) -> None:
    words = [word.replace("rgb0", "nodata") for word in _EMBED]
    assert "band 'R' has no valid value; check its nodata value" in refused(*words, "--statistics", "scene")


def test_a_manifest_with_a_byte_order_mark_and_equal_rows_is_read(kit, tmp_path, capsys) -> None:
    from anyband.cli import main

    row = f"{kit / 'rgb0.tif'},rgb\n"
    (tmp_path / "m.csv").write_text("\ufeffpath,sensor\n" + 2 * row, encoding="utf-8")
    words = ["--out", str(tmp_path / "store"), "--workers", "1", "--quiet"]
    assert main(["prepare", str(tmp_path / "m.csv"), *words]) == 0
    assert "rgb0.tif' stands in the list twice" in capsys.readouterr().out
