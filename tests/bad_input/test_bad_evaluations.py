"""Evaluations that would give no honest score, or can't be done: one message with names, and nothing is written."""

import contextlib
import errno
import resource
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib.font_manager  # noqa: F401 (it writes to the user's cache when it is first imported)
import numpy as np
import pytest
import sklearn.model_selection  # noqa: F401 (it writes a file when it is first imported, which must fit)
import torch
from PIL import Image

from anyband.models.checkpoint import load_checkpoint, save_checkpoint

_CHECKPOINT = ("--checkpoint", "KIT/model.safetensors")
_QUICK = ("head.kind=linear", "fit.epochs=1", "fit.warmup_epochs=0", "fit.batch_size=2")
_PARTS = ("train", "train", "train", "train", "val", "val", "test", "test")

Evaluation = Callable[..., str]


@pytest.fixture(autouse=True)
def _at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Results and cache go where the test sees them.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    """Eight pictures in the test's folder, by their names."""
    rng = np.random.default_rng(0)
    names = [f"{number}.png" for number in range(8)]
    for name in names:
        Image.fromarray(rng.integers(0, 255, (24, 24, 3)).astype(np.uint8)).save(tmp_path / name)
    return names


@pytest.fixture
def refused_table(refused: Evaluation, tmp_path: Path) -> Evaluation:
    """Evaluate a table that must be refused: `refused_table(rows, *words, header=, protocol=)`."""

    def run(rows: Sequence[Sequence[str]], *words: str, header: str = "path,label,split", protocol: str = "knn") -> str:
        (tmp_path / "t.csv").write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")
        named = ("--data", "HERE/t.csv", *_CHECKPOINT, "--out", "HERE/out", "--results", "HERE/results.parquet")
        return refused("evaluate", protocol, *named, *words)

    return run


def _rows(names: Sequence[str], labels: str = "abababab", parts: Sequence[str] = _PARTS) -> list[tuple[str, ...]]:
    return list(zip(names, labels, parts, strict=True))


_K = ("--sensor", "rgb", "--k", "2")

# Whole images


def test_a_class_in_test_that_training_lacks(refused_table: Evaluation, images: list[str]) -> None:
    message = refused_table(_rows(images, "abababac"), *_K)
    assert "1 of 3 classes is in split 'test' of 't.csv' and not in training: 'c'" in message


def test_an_empty_part(refused_table: Evaluation, images: list[str]) -> None:
    message = refused_table(_rows(images, parts=("train",) * 6 + ("val",) * 2), *_K)
    assert "'t.csv' has no sample in split 'test' to report (samples: train 6, val 2, test 0)" in message


def test_the_same_file_in_two_parts(refused_table: Evaluation, images: list[str]) -> None:
    message = refused_table(_rows([*images[:7], images[0]]), *_K)
    assert "0.png' more than once; an image in two places would leak from one split into another" in message


def test_the_same_content_in_two_parts(refused_table: Evaluation, images: list[str], tmp_path: Path) -> None:
    shutil.copy(tmp_path / images[1], tmp_path / images[6])
    message = refused_table(_rows(images), *_K)
    assert "1 sample with the same content in two splits: '1.png' (train) and '6.png' (test)" in message


def test_fewer_training_samples_than_neighbours(refused_table: Evaluation, images: list[str]) -> None:
    message = refused_table(_rows(images), "--sensor", "rgb", "--k", "5")
    assert "k is 5 but there are 4 training samples; ask for a smaller k" in message


def test_a_class_with_one_sample_can_not_be_shared_among_parts(refused_table: Evaluation, images: list[str]) -> None:
    rows = list(zip(images, "aaaabbbc", strict=True))
    message = refused_table(rows, *_K, header="path,label")
    assert "class 'c' has 1 image, too few for 3 splits; add images, leave the class out, or declare" in message


def test_several_labels_must_be_declared(refused_table: Evaluation, images: list[str]) -> None:
    rows = [(name, "a;b", part) for name, part in zip(images, _PARTS, strict=True)]
    assert "have no label or several" in refused_table(rows, *_K)


def test_labels_that_are_no_numbers(refused_table: Evaluation, images: list[str]) -> None:
    message = refused_table(_rows(images), "--sensor", "rgb", *_QUICK[1:], protocol="regress")
    assert "row 1 of " in message
    assert "column 'label' has 'a', which is no number" in message


@pytest.mark.parametrize("protocol", ["knn", "linear", "finetune"])
@pytest.mark.parametrize("spoil", ["cut", "text", "gone"])
def test_an_image_that_can_not_be_read_is_named(
    refused_table: Evaluation, images: list[str], tmp_path: Path, protocol: str, spoil: str
) -> None:
    whole = (tmp_path / images[3]).read_bytes()
    if spoil == "gone":
        (tmp_path / images[3]).unlink()
    else:
        (tmp_path / images[3]).write_bytes(whole[: len(whole) // 2] if spoil == "cut" else b"no picture")
    words = _K if protocol == "knn" else ("--sensor", "rgb", *_QUICK[1:])
    assert "3.png'" in refused_table(_rows(images), *words, protocol=protocol)


def test_an_image_without_data_is_named(refused_table: Evaluation, kit: Path, tmp_path: Path) -> None:
    names = ["rgb0.tif", "rgb1.tif", "nodata.tif", "rgb2.tif", "rgb3.tif", "grey.tif"]
    for name in names:
        shutil.copy(kit / name, tmp_path / name)
    rows = list(zip(names[:5], "ababa", ("train", "train", "train", "val", "test"), strict=True))
    message = refused_table(rows, *_K)
    assert "nodata.tif" in message


# Checkpoints


def _spoilt(kit: Path, path: Path, *, factor: float) -> None:
    checkpoint = load_checkpoint(kit / "model.safetensors")
    state = {
        name: value * factor if name.startswith("spectrum_projection") else value
        for name, value in checkpoint.state.items()
    }
    assert all(torch.isfinite(value).all() for value in state.values())
    save_checkpoint(path, replace(checkpoint, state=state))


@pytest.mark.parametrize("words", [("knn", "--k", "2"), ("linear",), ("linear", "--solver", "lbfgs")])
def test_features_that_are_no_finite_numbers(
    refused: Evaluation, images: list[str], kit: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    _spoilt(kit, tmp_path / "huge.safetensors", factor=1e38)
    (tmp_path / "t.csv").write_text("path,label,split\n" + "\n".join(",".join(row) for row in _rows(images)))
    named = ("--data", "HERE/t.csv", "--sensor", "rgb", "--checkpoint", "HERE/huge.safetensors")
    message = refused("evaluate", *words, *named, "--out", "HERE/out")
    assert "the features of '0.png' are no finite numbers (8 of 8 samples of its batch)" in message


def test_a_network_that_knows_no_such_band(refused_table: Evaluation, images: list[str]) -> None:
    words = ("--k", "2", "--sensor", "planetscope-4b", "--bands", "B1,B2,B3", "--unseen", "refuse")
    message = refused_table(_rows(images), *words)
    assert "3 of 3 bands of 'planetscope-4b' can't be expressed by 'smarties_v1'" in message
    assert "green (500 to 590 nm): no trained range is exactly this band, and `unseen: refuse` allows no oth" in message


def test_a_sensor_without_statistics(refused_table: Evaluation, images: list[str]) -> None:
    message = refused_table(_rows(images), "--k", "2", "--sensor", "naip", "--bands", "R,G,B")
    assert "no normalisation statistics for 3 of 3 bands of 'naip' (R, G, B) in the checkpoint or the cata" in message


def test_a_set_without_published_statistics(refused_table: Evaluation, images: list[str]) -> None:
    message = refused_table(_rows(images), *_K, "--statistics", "published")
    assert "'t.csv' has no published normalisation; use input.statistics=data" in message


def test_a_checkpoint_that_is_none(refused: Evaluation, images: list[str]) -> None:
    named = ("--data", "KIT/labelled", "--sensor", "rgb", "--checkpoint", "HERE/0.png", "--out", "HERE/out")
    assert "0.png' is not a whole safetensors file" in refused("evaluate", "knn", *named)


# Maps


@pytest.fixture
def maps(tiff: Callable[..., Path], tmp_path: Path) -> Path:
    """Four images, their labels, and labels that fit none."""
    rng = np.random.default_rng(0)
    for number in range(4):
        east_m = 1e4 * number
        tiff(tmp_path / f"i{number}.tif", rng.integers(1, 255, (3, 32, 32)).astype(np.uint8), east_m=east_m)
        tiff(tmp_path / f"l{number}.tif", rng.integers(1, 3, (1, 32, 32)).astype(np.uint8), east_m=east_m)
    labels = rng.integers(1, 3, (1, 32, 32)).astype(np.uint8)
    tiff(tmp_path / "other_crs.tif", labels, crs="EPSG:32633")
    tiff(tmp_path / "moved.tif", labels, east_m=40.0)
    tiff(tmp_path / "snow.tif", np.where(labels == 1, 8, labels).astype(np.uint8))
    tiff(tmp_path / "ice.tif", np.where(labels == 1, 3, labels).astype(np.uint8), east_m=3e4)
    return tmp_path


_MAP_PARTS = ("train", "train", "val", "test")


def _map_rows(**changed: str) -> list[tuple[str, ...]]:
    rows = [(f"i{number}.tif", f"l{number}.tif", part) for number, part in enumerate(_MAP_PARTS)]
    return [tuple(changed.get(cell.removesuffix(".tif"), cell) for cell in row) for row in rows]


_SEGMENT = ("--sensor", "rgb", *_QUICK, "data.classes={1: field, 2: water}")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"l0": "other_crs.tif"}, "other_crs.tif' and image 'i0.tif' lie on different grids: the labels have EPSG"),
        ({"l0": "moved.tif"}, "moved.tif' and image 'i0.tif' lie on different grids"),
        ({"l0": "snow.tif"}, "snow.tif' has values that are no class: 8 at"),
        ({"l0": "gone.tif"}, "gone.tif' does not exist"),
    ],
)
def test_maps_that_can_not_be_learned_from(
    maps: Path, refused_table: Evaluation, changed: dict[str, str], message: str
) -> None:
    found = refused_table(_map_rows(**changed), *_SEGMENT, header="image,label,split", protocol="segment")
    assert message in found


def test_a_class_of_maps_that_training_lacks(maps: Path, refused_table: Evaluation) -> None:
    words = (*_SEGMENT[:-1], "data.classes={1: field, 2: water, 3: ice}")
    rows = _map_rows(l3="ice.tif")
    message = refused_table(rows, *words, header="image,label,split", protocol="segment")
    assert "1 class is in the labels of split 'test' and not in those of training: 'ice'" in message


def test_change_needs_two_dates(maps: Path, refused_table: Evaluation) -> None:
    message = refused_table(_map_rows(), *_SEGMENT, header="image,label,split", protocol="change")
    assert "change is between images before and as many after, and samples of 't" in message


def test_several_images_of_a_sample_need_a_fusion(maps: Path, refused_table: Evaluation) -> None:
    rows = [(f"i{number}.tif", f"i{number}.tif", f"l{number}.tif", part) for number, part in enumerate(_MAP_PARTS)]
    header = "before,after,label,split"
    message = refused_table(rows, *_SEGMENT, "data.sensors=[rgb, rgb]", header=header, protocol="segment")
    assert (
        "have 2 images; say with fusion (stack, concat, mixup_concat, joint or ltae) how they become one feature"
        in message
    )


# Named sets


def test_a_folder_that_is_not_as_torchgeo_wants_it(refused: Evaluation, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    named = ("--data", "torchgeo:EuroSAT", "--root", "HERE/empty", *_CHECKPOINT, "--out", "HERE/out")
    message = refused("evaluate", "knn", *named)
    assert "does not hold 'EuroSAT' as TorchGeo wants it" in message
    assert "allow the download with `--download`" in message


def test_a_named_set_without_its_folder(refused: Evaluation) -> None:
    message = refused("evaluate", "knn", "paper/table4_eurosat_knn", *_CHECKPOINT, "--out", "HERE/out")
    assert "'eurosat' needs `root`, the folder that holds it. It wants: the folders AnnualCrop, Forest" in message


# Outputs


@contextlib.contextmanager
def _room_for(size: int) -> Iterator[None]:
    """Let the system refuse to make any file larger than this, as a full disk does in the middle of one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


_LABELLED = ("evaluate", "linear", *_CHECKPOINT, "--data", "KIT/labelled", "--sensor", "rgb", "--solver", "lbfgs")
_SPLIT = ("--split", "0.2,0.4")


@pytest.mark.parametrize("size", [10, 1500, 4000])
def test_no_half_written_folder_stays_where_it_does_not_fit(refused: Evaluation, tmp_path: Path, size: int) -> None:
    with _room_for(size):
        message = refused(*_LABELLED, *_SPLIT, "--no-cache", "--no-results", "--out", "HERE/out")
    assert "no room on the disk to write '" in message
    assert ".partial." not in message
    assert list(tmp_path.iterdir()) == []


def test_a_table_that_does_not_fit_stays_as_it_was(refused: Evaluation, kit: Path, tmp_path: Path) -> None:
    from anyband.cli import main

    words = [word.replace("KIT", str(kit)) for word in (*_LABELLED, *_SPLIT, "--no-cache")]
    assert main([*words, "--seed", "7"]) == 0
    with _room_for(1000):
        message = refused(*_LABELLED, *_SPLIT, "--no-cache")
    assert "no room on the disk to write 'results.parquet'" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.parquet"]


def test_the_folder_is_kept_where_only_the_table_does_not_fit(
    refused: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pyarrow.parquet.write_table", full)
    message = refused(*_LABELLED, *_SPLIT, "--no-cache", "--out", "HERE/out", leaves=".")
    assert "no room on the disk to write 'results.parquet'" in message
    assert "out' is written and holds the results" in message


def test_a_cache_that_does_not_fit_is_named(refused: Evaluation) -> None:
    with _room_for(300):
        message = refused(*_LABELLED, *_SPLIT, "--cache", "HERE/kept", leaves="kept")
    assert "no room on the disk to write '" in message
    assert "kept" in message
