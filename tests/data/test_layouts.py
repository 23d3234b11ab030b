"""Folders as they are published, with the lists of the released code: one command makes a store of their pairs."""

from pathlib import Path

import numpy as np
import pytest
from published_folders import make_bigearthnet, make_fmow, write_list

from anyband.cli import main
from anyband.data.image_sets import find_pairs
from anyband.data.store import ChipStore
from anyband.rasters.formats import QuietReader

_NUM = 12


@pytest.fixture(scope="module")
def fmow(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("fmow")
    return folder, write_list(folder / "fMoW-train-pairs-nontemporal.txt", make_fmow(folder, num=_NUM))


@pytest.fixture(scope="module")
def bigearthnet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("bigearthnet")
    lines = make_bigearthnet(folder, num=4)
    return folder, write_list(folder / "BigEarthNet-train-pairs-nontemporal.txt", lines)


def _prepare(layout: str, root: Path, pairs: str, out: Path, *words: str, workers: int = 1) -> ChipStore:
    command = ["prepare", "--layout", layout, str(root), pairs, "--out", str(out), "--workers", str(workers), "--quiet"]
    command += words
    assert main(command) == 0
    return ChipStore.open(out)


def test_fmow_becomes_one_array_a_sensor_and_one_kind_of_pairs(fmow, tmp_path, capsys) -> None:
    store = _prepare("fmow-pairs", *fmow, tmp_path / "store")
    shapes = {info.name: (info.num_chips, len(info.bands), info.height) for info in store.arrays.values()}
    assert shapes == {"maxar-rgb_448x448": (_NUM, 3, 448), "sentinel2-l1c_64x64": (_NUM, 12, 64)}
    assert "B10" not in store.arrays["sentinel2-l1c_64x64"].bands
    pairs = find_pairs(store, sensors="any")
    assert (len(pairs), pairs.pair_arrays) == (_NUM, (("maxar-rgb_448x448", "sentinel2-l1c_64x64"),))
    assert set(store.index["place"].to_pylist()) == {f"{('airport', 'zoo')[n % 2]}_{n}" for n in range(_NUM)}
    assert set(store.index["split"].to_pylist()) == {"train"}
    assert "count as showing all the ground of the place" in capsys.readouterr().out


def test_the_released_folders_are_found_from_above_them(fmow, tmp_path) -> None:
    root, pairs = fmow
    data = tmp_path / "data"
    (data / "fMoW-S2").mkdir(parents=True)
    (data / "fMoW").symlink_to(root / "fmow-rgb")
    (data / "fMoW-S2" / "fmow-sentinel").symlink_to(root / "fmow-sentinel")
    store = _prepare("fmow-pairs", data, pairs, tmp_path / "store", "--chip-size", "maxar-rgb=32,sentinel2-l1c=16")
    assert len(find_pairs(store, sensors="any")) == _NUM
    assert sorted(store.arrays) == ["maxar-rgb_32x32", "sentinel2-l1c_16x16"]


def test_bigearthnet_is_kept_pixel_by_pixel(bigearthnet, tmp_path, capsys) -> None:
    store = _prepare("bigearthnet-mm", *bigearthnet, tmp_path / "store")
    shapes = {info.name: (info.num_chips, len(info.bands), info.height) for info in store.arrays.values()}
    assert shapes == {"sentinel2-l2a_120x120": (4, 12, 120), "sentinel1-grd_120x120": (4, 2, 120)}
    assert len(find_pairs(store, sensors="any")) == 4
    assert "were brought" not in capsys.readouterr().out


def test_patches_of_version_2_lie_in_folders_of_their_tiles(bigearthnet, tmp_path) -> None:
    root, pairs = bigearthnet
    for version, cut in (("BigEarthNet-v1.0", 2), ("BigEarthNet-S1-v1.0", 3)):
        for patch in (root / version).iterdir():
            tile = tmp_path / "root" / version.replace("v1.0", "v2") / patch.name.rsplit("_", cut)[0]
            tile.mkdir(parents=True, exist_ok=True)
            (tile / patch.name).symlink_to(patch)
    store = _prepare("bigearthnet-mm", tmp_path / "root", pairs, tmp_path / "store")
    assert len(find_pairs(store, sensors="any")) == 4


def test_both_are_one_store_as_they_were_in_the_published_runs(fmow, bigearthnet, tmp_path) -> None:
    more = ("--layout", "bigearthnet-mm", *map(str, bigearthnet))
    store = _prepare("fmow-pairs", *fmow, tmp_path / "store", *more)
    kinds = find_pairs(store, sensors="any")
    assert sorted(np.bincount(kinds.pair_kind).tolist()) == [4, _NUM]


def test_workers_change_no_byte(fmow, tmp_path) -> None:
    words = ("--chip-size", "maxar-rgb=32,sentinel2-l1c=16")
    stores = [_prepare("fmow-pairs", *fmow, tmp_path / str(count), *words, workers=count).path for count in (1, 2)]
    files = [{file.relative_to(store): file.read_bytes() for file in Path(store).rglob("*.*")} for store in stores]
    assert files[0] == files[1]


@pytest.mark.real
def test_real_patches_are_kept_as_they_are(real_data: Path, tmp_path: Path) -> None:
    """Their radar lies in the folder of the Sentinel-2 patch."""
    root = real_data / "bigearthnet_mm_pairs"
    names = sorted(one.name for one in root.iterdir() if one.name.startswith("S2A"))
    lines = [f"./{name} S1A_IW_GRDH_1SDV_20170613T165043_{name[-4:]}" for name in names]
    store = _prepare("bigearthnet-mm", root, write_list(tmp_path / "pairs.txt", lines), tmp_path / "store")
    assert len(find_pairs(store, sensors="any")) == len(names) == 2
    for row in store.index.to_pylist():
        if row["sensor"] == "sentinel2-l2a":
            (chip,), _ = store.read(row["array"], [row["array_row"]])
            with QuietReader(str(next((root / row["place"]).glob("*_B02.tif")))) as file:
                np.testing.assert_array_equal(chip[1], file.read(1))


@pytest.mark.real
def test_real_patches_that_show_other_ground_are_no_pair(real_data: Path, tmp_path: Path, capsys) -> None:
    root = real_data / "bigearthnet_v2_unpaired"
    names = [sorted(one.name for one in root.iterdir() if one.name.startswith(kind)) for kind in ("S2", "S1")]
    pairs = write_list(tmp_path / "pairs.txt", [f"{optical} {radar}" for optical, radar in zip(*names, strict=False)])
    command = ["prepare", "--layout", "bigearthnet-mm", str(root), pairs, "--out", str(tmp_path / "store"), "--quiet"]
    assert main(command) == 2
    assert f"place '{names[0][0]}': " in (message := capsys.readouterr().err)
    assert "does not overlap any other image of it" in message


def test_splits_are_drawn_by_location_where_they_are_wanted(fmow, tmp_path) -> None:
    words = ("--splits", "0.5,0.5,0", "--chip-size", "maxar-rgb=32,sentinel2-l1c=16")
    store = _prepare("fmow-pairs", *fmow, tmp_path / "store", *words)
    assert set(store.index["split"].to_pylist()) == {"train", "val"}


def test_a_pair_of_which_a_file_is_missing_is_said(fmow, tmp_path, capsys) -> None:
    root, pairs = fmow
    lines = [*Path(pairs).read_text().splitlines(), "train/zoo/zoo_99/zoo_99_5_rgb.jpg train/zoo/zoo_99/zoo_99_5.tif"]
    _prepare("fmow-pairs", root, write_list(tmp_path / "pairs.txt", lines), tmp_path / "store")
    out = capsys.readouterr().out
    assert "skipped 2 images" in out
    assert "zoo_99_5_rgb.jpg" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fmow", "ROOT", "LIST"], "layout 'fmow' is unknown (fmow-pairs, bigearthnet-mm)"),
        (["fmow-pairs", "ROOT", "LIST", "more.csv"], "--layout takes NAME ROOT LIST, which say all, and 'more.csv' is"),
        (["fmow-pairs", "ROOT/no", "LIST"], "is no folder; layout 'fmow-pairs' wants lines `PICTURE SENTINEL-2`"),
        (["bigearthnet-mm", "ROOT", "LIST"], "has none of the first 12 files that"),
        (["fmow-pairs", "ROOT", "ROOT/three.txt"], "three.txt' has 3 names, and a pair has two"),
        (["fmow-pairs", "ROOT", "ROOT/empty.txt"], "empty.txt' is empty; layout"),
        (["fmow-pairs", "ROOT", "ROOT/no.txt"], "cannot read the list of pairs"),
        (["fmow-pairs", "ROOT", "LIST", "--sensor", "rgb"], "which say all, and --sensor is beside them"),
        (["fmow-pairs", "ROOT", "LIST", "--chip-size", "32"], "--chip-size takes SENSOR=VALUE"),
        (["fmow-pairs", "ROOT", "LIST", "--chip-size", "maxar-rgb=a"], "--chip-size takes whole pixels, found 'a'"),
        (["fmow-pairs", "ROOT", "LIST", "--ratio-tolerance", "0"], "has no CRS and"),
    ],
)
def test_what_can_not_be_is_said_in_one_message(fmow, tmp_path, capsys, words: list[str], message: str) -> None:
    root, pairs = fmow
    (root / "three.txt").write_text("a b c\n")
    (root / "empty.txt").write_text("\n")
    filled = [word.replace("ROOT", str(root)).replace("LIST", pairs) for word in words]
    assert main(["prepare", "--layout", *filled, "--out", str(tmp_path / "store"), "--workers", "1", "--quiet"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "store").exists()
