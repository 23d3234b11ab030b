"""Tables and folders of labelled images as people have them: right, or refused, and what is left out is said."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest
from PIL import Image

from anyband.errors import InputError, ManifestError, RecipeError
from anyband.labelled import open_task_data
from anyband.labelled.samples import DataSpec, SplitSpec, TaskData
from anyband.simulate.archive import simulate
from anyband.simulate.plan import SimulateOptions

_SPLITS = ("train",) * 4 + ("val",) * 2 + ("test",) * 2
_LABELS = ("forest, mixed", "007")


def _picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 8, 3)).astype(np.uint8)).save(path)
    return path


def _rows(folder: Path) -> list[dict[str, str]]:
    """Write eight pictures; give a row of each."""
    for number in range(8):
        _picture(folder / f"p{number}.png", number)
    return [
        {"path": f"p{number}.png", "label": _LABELS[number % 2], "split": split} for number, split in enumerate(_SPLITS)
    ]


def _opened(source: Path, **changes: object) -> TaskData:
    return open_task_data(replace(DataSpec(source=str(source), sensors=("maxar-rgb",)), **changes), seed=0)


# Folders


def test_class_folders_with_litter_and_odd_names(tmp_path: Path) -> None:
    names = ("forest", "water", "1 urban;dense", "NA", "Ä ö")
    for seed, (name, number) in enumerate((name, number) for name in names for number in range(8)):
        _picture(tmp_path / name / f"im {number} [x].jpg", seed)
    for hidden in (".ipynb_checkpoints", "forest/.ipynb_checkpoints", "@eaDir", "__MACOSX/forest"):
        _picture(tmp_path / hidden / "im 0.jpg", 99)
    for litter in ("water/Thumbs.db", ".DS_Store", "forest/._im 1.jpg", "forest/im 0 [x].jpg.aux.xml", "desktop.ini"):
        (tmp_path / litter).write_bytes(b"x")
    data = _opened(tmp_path, split=SplitSpec(val=0.25, test=0.25))
    assert data.classes == tuple(sorted(names))
    assert len(data) == 40
    assert not [note for note in data.notes if "left out" in note]


def test_images_that_lie_in_no_class_folder_or_end_otherwise_are_named(tmp_path: Path) -> None:
    for seed, (name, number) in enumerate((name, number) for name in ("a", "b") for number in range(6)):
        _picture(tmp_path / name / f"{number}.png", seed)
    _picture(tmp_path / "loose.png")
    _picture(tmp_path / "a" / "old.bmp")
    data = _opened(tmp_path)
    assert len(data) == 12
    assert any("in no class folder or have no ending of images: 'loose.png', 'a/old.bmp'" in one for one in data.notes)


@pytest.mark.parametrize(
    "names", [("Forest", "forest"), ("new town", "new  town"), ("\u00e9", "e\u0301"), ("1", "01"), ("2", "2.0")]
)
def test_classes_that_differ_in_case_spaces_or_accents_alone_are_named(tmp_path: Path, names: tuple[str, str]) -> None:
    rows = [row | {"label": names[number % 2]} for number, row in enumerate(_rows(tmp_path))]
    pandas.DataFrame(rows).to_csv(tmp_path / "t.csv", index=False)
    found = _opened(tmp_path / "t.csv")
    assert set(found.classes) == set(names)
    assert any("are different classes, and differ only in how they are written" in note for note in found.notes)


# Tables


def _csv(path: Path, rows: list[dict[str, str]], *, separator: str = ",", end: str = "\n", text: str = "utf-8") -> Path:
    with path.open("w", newline="", encoding=text) as file:
        table = csv.DictWriter(file, list(rows[0]), delimiter=separator, lineterminator=end, quoting=csv.QUOTE_ALL)
        table.writeheader()
        table.writerows(rows)
    return path


@pytest.mark.parametrize("changes", [{"end": "\r\n", "text": "utf-8-sig"}, {"end": "\r"}, {}])
def test_csv_as_programs_write_it_keeps_labels_as_they_are(tmp_path: Path, changes: dict[str, str]) -> None:
    data = _opened(_csv(tmp_path / "t.csv", _rows(tmp_path), **changes))
    assert data.classes == ("007", "forest, mixed")
    assert data.targets is not None
    assert data.targets.tolist() == [1, 0] * 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"separator": ";", "text": "utf-8-sig"}, "separates its columns by semicolons; write it with commas"),
        ({"separator": "\t"}, "separates its columns by tabs; write it with commas"),
        ({"separator": "|"}, "separates its columns by vertical bars; write it with commas"),
        ({"text": "utf-16"}, "is no CSV text in UTF-8: it is UTF-16; save it as `CSV UTF-8`"),
        ({"text": "utf-16-be"}, "t.csv"),
    ],
    ids=["semicolon", "tab", "bar", "utf-16", "utf-16 without mark"],
)
def test_csv_of_other_kinds_is_refused_with_the_reason(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        _opened(_csv(tmp_path / "t.csv", _rows(tmp_path), **changes))


@pytest.mark.parametrize(
    ("labels", "classes"),
    [([3, 1], ("1", "3")), (["b", "a"], ("a", "b")), ([True, False], ("False", "True"))],
)
def test_parquet_columns_of_any_type_are_labels(tmp_path: Path, labels: list[object], classes: tuple[str, ...]) -> None:
    table = pandas.DataFrame(_rows(tmp_path)).assign(label=labels * 4).astype({"label": "category"})
    table.to_parquet(tmp_path / "t.parquet")
    data = _opened(tmp_path / "t.parquet")
    assert data.classes == classes
    assert data.targets is not None
    assert data.targets.tolist() == [1, 0] * 4


def test_a_row_without_label_is_named_and_is_not_many_labels(tmp_path: Path) -> None:
    table = pandas.DataFrame(_rows(tmp_path)).assign(label=pandas.array([None, 1, 2, 1, 2, 1, 2, 1], dtype="Int64"))
    table.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"1 sample of '.*' has no label or several, the first is '.*p0\.png'"):
        _opened(tmp_path / "t.parquet")
    labelled = _opened(tmp_path / "t.parquet", kind="labels")
    assert "1 of 8 samples has no label" in labelled.notes


def test_the_labels_of_a_list_are_whole_whatever_stands_in_them(tmp_path: Path) -> None:
    table = pandas.DataFrame(_rows(tmp_path)).assign(label=[["urban;dense"], ["water", "a|b"]] * 4)
    table.to_parquet(tmp_path / "t.parquet")
    assert _opened(tmp_path / "t.parquet", kind="labels").classes == ("a|b", "urban;dense", "water")


def test_columns_that_are_not_used_are_named(tmp_path: Path) -> None:
    rows = [row | {"splits": "train", "Place": "x"} for row in _rows(tmp_path)]
    data = _opened(_csv(tmp_path / "t.csv", rows))
    assert "columns of 't.csv' that are not used: splits, Place" in data.notes


def test_a_number_with_an_underscore_is_no_number(tmp_path: Path) -> None:
    rows = [row | {"label": "1_000"} for row in _rows(tmp_path)]
    with pytest.raises(ManifestError, match="column 'label' has '1_000', which is no number"):
        _opened(_csv(tmp_path / "t.csv", rows), kind="number")


# Classes


def test_a_class_without_a_sample_in_validation_is_named(tmp_path: Path) -> None:
    rows = _rows(tmp_path)
    rows[4]["label"] = "007"
    notes = _opened(_csv(tmp_path / "t.csv", rows)).notes
    assert "split 'val' has no sample of 'forest, mixed', so it chooses by the others" in notes


def test_shares_of_splits_that_are_declared_are_said_to_have_no_effect(tmp_path: Path) -> None:
    table = _csv(tmp_path / "t.csv", _rows(tmp_path))
    notes = _opened(table, split=SplitSpec(val=0.3, test=0.3)).notes
    assert "splits are declared, so data.split.val and data.split.test had no effect" in notes
    assert _opened(table).notes == ()


@pytest.mark.parametrize("changes", [{"classes": {1: "a"}}, {"ignore": (0,)}, {"tile_px": 4}])
def test_what_is_for_maps_is_refused_for_whole_images(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match=f"data.{next(iter(changes))} is for maps of labels; data.kind is 'class'"):
        _opened(_csv(tmp_path / "t.csv", _rows(tmp_path)), **changes)


def test_a_mask_that_changed_makes_other_data(tmp_path: Path) -> None:
    rows = [row | {"valid": "m.png"} for row in _rows(tmp_path)]
    found = []
    for value in (1, 2):
        Image.fromarray(np.full((8, 8), value, np.uint8)).save(tmp_path / "m.png")
        found.append(_opened(_csv(tmp_path / "t.csv", rows)).fingerprint)
    assert found[0] != found[1]


def test_the_tables_of_labels_that_simulate_writes_are_evaluated_as_they_are(tmp_path: Path) -> None:
    options = SimulateOptions(num_places=8, footprint_m=240.0, sensors=("sentinel2-l2a", "maxar-rgb"), shown=False)
    simulate(tmp_path / "sim", options)
    splits = []
    for sensor in options.sensors:
        spec = DataSpec(source=str(tmp_path / "sim" / f"labels_{sensor}.csv"), split=SplitSpec(val=0.0))
        data = open_task_data(spec, seed=0)
        assert {slots[0].name for slots in data.sensors} == {sensor}
        splits.append(dict(zip(data.places, data.splits, strict=True)))
    assert splits[0] == splits[1]


@pytest.mark.parametrize(("odd", "is_said"), [("-9999", True), ("99999", True), ("-12.5", False), ("65535", True)])
def test_a_number_that_programs_write_where_there_is_none_is_said(tmp_path: Path, odd: str, is_said: bool) -> None:
    rows = [{**row, "label": odd if at == 2 else str(at)} for at, row in enumerate(_rows(tmp_path))]
    pandas.DataFrame(rows).to_csv(tmp_path / "t.csv", index=False)
    said = [note for note in _opened(tmp_path / "t.csv", kind="number").notes if "likely no data" in note]
    assert bool(said) == is_said
    if is_said:
        assert f"the label {float(odd):g} stands at 1 sample, far from all others (0 to 7)" in said[0]
