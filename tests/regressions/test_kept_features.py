"""Features that are kept go with the images as they are now."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_networks import small_checkpoint

from anyband.evaluate.recipe import KnnRecipe, TransferRecipe
from anyband.evaluate.results import result_rows
from anyband.evaluate.run import evaluate
from anyband.labelled import open_task_data
from anyband.labelled.samples import DataSpec
from anyband.models.checkpoint import save_checkpoint

_SPLITS = ("train",) * 6 + ("val",) * 2 + ("test",) * 2


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "model.safetensors", small_checkpoint())
    return tmp_path / "model.safetensors"


def _pictures(folder: Path, *, told_apart: bool) -> DataSpec:
    """Write pictures of two classes, and a table; they differ, or all look the same."""
    rng, rows = np.random.default_rng(1), ["path,label,split"]
    for number, split in enumerate(_SPLITS):
        pixels = rng.integers(0, 100, (32, 32, 3)) + (150 if told_apart and number % 2 else 50)
        # Not compressed, so that sizes tell nothing.
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.tif")
        rows.append(f"{number}.tif,{'ab'[number % 2]},{split}")
    (folder / "t.csv").write_text("\n".join(rows) + "\n")
    return DataSpec(source=str(folder / "t.csv"), sensors=("maxar-rgb",))


@pytest.mark.parametrize("contents", ["files", "sizes"])
def test_images_that_changed_are_encoded_again(tmp_path: Path, checkpoint: Path, contents: str) -> None:
    scores = []
    for told_apart, cache in ((False, tmp_path / "cache"), (True, tmp_path / "cache"), (True, None)):
        data = _pictures(tmp_path, told_apart=told_apart)
        data.options["contents"] = contents
        recipe = TransferRecipe(name="t", checkpoint=str(checkpoint), data=data, knn=KnnRecipe(k=1))
        context, results = evaluate(recipe, "knn", cache=cache)
        scores.append([one.value for one in result_rows(context, results)[0].scores])
    assert scores[1] == scores[2] != scores[0]


def test_a_change_in_the_midst_of_a_large_file_or_beside_it_is_seen(tmp_path: Path) -> None:
    rows = ["path,label,split"]
    for number, split in enumerate(("train", "train", "val", "test")):
        Image.fromarray(np.full((700, 700, 3), 10 * number, np.uint8)).save(tmp_path / f"{number}.tif")
        rows.append(f"{number}.tif,{'ab'[number % 2]},{split}")
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    spec = DataSpec(source=str(tmp_path / "t.csv"), sensors=("maxar-rgb",))
    first = open_task_data(spec, seed=0)
    assert open_task_data(spec, seed=0).state == first.state
    with (tmp_path / "0.tif").open("r+b") as file:
        file.seek(400_000)
        file.write(b"changed")
    second = open_task_data(spec, seed=0)
    (tmp_path / "1.tif.msk").touch()
    third = open_task_data(spec, seed=0)
    assert first.fingerprint == second.fingerprint
    assert len({first.state, second.state, third.state}) == 3
