"""Sets that can't be embedded or evaluated: one message, and everything is as it was."""

from pathlib import Path

import pytest

_EMBED = ("embed", "HERE/set.csv", "--checkpoint", "KIT/model.safetensors", "--overwrite", "--out", "HERE/f.tif")
_EVALUATE = (
    "evaluate", "knn", "--k", "1", "--checkpoint", "KIT/model.safetensors", "--data", "HERE/sets.csv",
    "--fusion", "joint", "--out", "HERE/scores", "--no-results", "--no-cache",
)  # fmt: skip


def _list(folder: Path, kit: Path, *rows: str, header: str = "path,sensor") -> None:
    (folder / "set.csv").write_text("\n".join([header, *(row.replace("KIT", str(kit)) for row in rows)]) + "\n")


@pytest.fixture
def existing(tmp_path: Path) -> Path:
    """Outputs of an earlier run."""
    for name in ("f.tif", "f_pca.png"):
        (tmp_path / name).write_text("an earlier result")
    return tmp_path


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("KIT/other_crs.tif,rgb", "the first image, has EPSG:32632, '"),
        ("KIT/no_crs.tif,rgb", "has no CRS; images of a set must share a CRS: reproject one of them"),
        ("KIT/far.tif,rgb", "they show no common ground; leave it out, or list it in a set of its own"),
        ("KIT/rgb1.tif,rgb", "they show no common ground"),
        ("KIT/half.tif,rgb", "the file is truncated or damaged"),
        ("KIT/missing.tif,rgb", "missing.tif"),
        ("KIT/grey.tif,rgb", "has 1 band, sensor 'maxar-rgb' has 3 (R, G, B); declare `bands`"),
        ("KIT/rgb0.tif,sentinel9", "there is no sensor 'sentinel9' in the catalogue"),
        ("KIT/s1_0.tif,sentinel1-grd,more", "row 2 of "),
    ],
)
def test_embed_says_which_image_of_a_list_can_not_be_used(refused, existing, kit, second: str, message: str) -> None:
    _list(existing, kit, "KIT/rgb0.tif,rgb", second)
    assert message in refused(*_EMBED)


@pytest.mark.parametrize(
    ("date", "message"),
    [
        ("2999-01-01", "lies in the future"),
        ("soon", "datetime 'soon' is not ISO 8601, such as 2020-07-01T10:30:00Z"),
    ],
)
def test_embed_refuses_dates_that_no_image_can_have(refused, existing, kit, date: str, message: str) -> None:
    _list(existing, kit, f"KIT/rgb0.tif,rgb,{date}", header="path,sensor,datetime")
    assert message in refused(*_EMBED)


def test_embed_refuses_images_of_several_places_in_one_list(refused, existing, kit) -> None:
    _list(existing, kit, "KIT/rgb0.tif,rgb,field", "KIT/s1_0.tif,sentinel1-grd,wood", header="path,sensor,place")
    assert "the images are of 2 places (field, wood)" in refused(*_EMBED)


def test_embed_refuses_an_empty_list(refused, existing, kit) -> None:
    _list(existing, kit)
    assert "has no images; give it a row for each" in refused(*_EMBED)


def test_embed_refuses_to_write_over_an_image_of_the_list(refused, existing, kit) -> None:
    _list(existing, kit, "KIT/rgb0.tif,rgb", "KIT/s1_0.tif,sentinel1-grd")
    assert "is the scene itself, which would be lost" in refused(*_EMBED[:-1], "KIT/s1_0.tif")


def test_embed_says_how_much_memory_a_list_needs(refused, existing, kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anyband.encode.encoder.available_bytes", lambda device: 10)
    _list(existing, kit, "KIT/rgb0.tif,rgb", "KIT/s1_0.tif,sentinel1-grd")
    assert "8 tokens that attend to each other) need about 0.0 GB, and 0.0 GB are free on 'cpu'" in refused(*_EMBED)


def _sets(folder: Path, kit: Path, *more: str) -> None:
    rows = ["path,set,label,split,sensor,datetime"]
    for number, part in enumerate(("train", "train", "val", "test")):
        label = "ab"[number % 2]
        rows.append(f"{kit}/rgb{number}.tif,s{number},{label},{part},rgb,2020-06-01")
        rows.append(f"{kit}/s1_{number}.tif,s{number},{label},{part},sentinel1-grd,")
    (folder / "sets.csv").write_text("\n".join([*rows, *(row.replace("KIT", str(kit)) for row in more)]) + "\n")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("KIT/far.tif,s1,b,train,rgb,", "share 0% of the larger one"),
        ("KIT/nodata.tif,s0,a,train,rgb,", "'s0': image 3 (maxar-rgb) has no pixel with data"),
        ("KIT/nan.tif,s9,a,test,sentinel1-grd,", "'s9': image 1 (sentinel1-grd) has no pixel with data"),
        ("KIT/other_crs.tif,s0,a,test,rgb,", "have the split 'train' and 'test'; a set has one split"),
        ("KIT/other_crs.tif,s0,b,train,rgb,", "have the label 'a' and 'b'; a set has one label"),
        ("KIT/other_crs.tif,s0,a,train,,", "row 9 of "),
        ("KIT/other_crs.tif,s0,a,train,rgb,2999-01-01", "lies in the future"),
        ("KIT/rgb0.tif,s0,a,train,rgb,2020-06-01", "rgb0.tif' more than once"),
    ],
)
def test_evaluate_says_what_is_wrong_with_a_set(refused, existing, kit, row: str, message: str) -> None:
    _sets(existing, kit, row)
    assert message in refused(*_EVALUATE)


def test_evaluate_refuses_options_that_each_image_of_a_set_has(refused, existing, kit) -> None:
    _sets(existing, kit)
    assert "name them in the table's column `bands`" in refused(*_EVALUATE, "--bands", "R")
    assert "name them in the table's column `encoding`" in refused(*_EVALUATE, "--encoding", "dn")


def test_evaluate_asks_how_the_images_of_a_set_become_one_feature(refused, existing, kit) -> None:
    _sets(existing, kit)
    message = refused(*(word for word in _EVALUATE if word not in ("--fusion", "joint")))
    assert (
        "samples of 'sets.csv' have 2 images; say with fusion (stack, concat, mixup_concat, joint or ltae)" in message
    )


def test_evaluate_says_how_much_memory_sets_need(refused, existing, kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anyband.encode.encoder.available_bytes", lambda device: 10)
    _sets(existing, kit)
    assert "sets of 2 images with 4 tokens each" in refused(*_EVALUATE)
