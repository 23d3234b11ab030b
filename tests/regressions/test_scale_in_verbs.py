"""`encoding: tags` in every verb, by the decoding that all share; what files say is said by each."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from anyband.cli import main
from anyband.data.manifest import parse_entry
from anyband.encode.encoder import load_encoder
from anyband.evaluate.recipe import KnnRecipe, TransferRecipe
from anyband.evaluate.results import result_rows
from anyband.evaluate.run import evaluate
from anyband.labelled.images import open_images
from anyband.labelled.samples import DataSpec
from anyband.rasters.reader import RasterSource
from anyband.scenes.embed import embed_scene, embed_set, scene_statistics
from anyband.sensors.catalogue import get_sensor

_BANDS = ("B02", "B03", "B04", "B08")
_SENSOR = get_sensor("sentinel2-l2a").select(_BANDS)
_APPLIED = (
    "by its scale and offset tags physical values of B02 and 3 more bands are DN · 0.0001 − 0.1, which is applied"
)


@pytest.fixture(scope="module")
def checkpoint(golden) -> Path:
    return golden / "smarties" / "checkpoint.safetensors"


def _scene(path: Path, *, seed: int = 0, scale: float = 1e-4, offset: float = -0.1) -> Path:
    pixels = np.random.default_rng(seed).integers(1500, 4000, (4, 48, 48)).astype("uint16")
    ground = {"crs": "EPSG:32632", "transform": Affine(10, 0, 500_000, 0, -10, 5_500_000)}
    shape = {"driver": "GTiff", "count": 4, "height": 48, "width": 48, "dtype": "uint16"}
    with rasterio.open(path, "w", **shape, **ground) as file:
        file.write(pixels)
        file.scales, file.offsets = (scale,) * 4, (offset,) * 4
        for number, name in enumerate(_BANDS, 1):
            file.set_band_description(number, name)
    return path


def _features(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read()


def test_a_scene_by_its_tags_has_the_features_of_the_encoding_that_says_the_same(tmp_path, checkpoint) -> None:
    encoder, path = load_encoder(checkpoint), _scene(tmp_path / "scene.tif")
    reports = {}
    for name in ("tags", "baseline_04.00", "dn"):
        source = RasterSource(paths=(path,), encoding=name)
        reports[name] = embed_scene(encoder, source, _SENSOR, tmp_path / f"{name}.tif")

    tags, declared, other = (_features(one.features) for one in reports.values())
    assert np.array_equal(tags, declared)
    assert not np.allclose(tags, other, atol=1e-3)
    assert f"{_APPLIED} ('{path}')" in reports["tags"].notes
    assert any("contradicts encoding 'dn'" in note for note in reports["dn"].notes)
    assert not any("scale and offset" in note for note in reports["baseline_04.00"].notes)


def test_the_statistics_of_a_scene_by_its_tags_are_in_physical_units(tmp_path) -> None:
    source = RasterSource(paths=(_scene(tmp_path / "scene.tif"),))

    tags, declared = (scene_statistics(replace(source, encoding=name), _SENSOR) for name in ("tags", "baseline_04.00"))

    assert tags == declared


def test_a_set_by_its_tags_has_the_features_of_the_encoding_that_says_the_same(tmp_path, checkpoint) -> None:
    encoder, names = load_encoder(checkpoint), ("a.tif", "b.tif")
    for seed, name in enumerate(names):
        _scene(tmp_path / name, seed=seed)
    found = []
    for encoding in ("tags", "baseline_04.00"):
        row = {"sensor": "sentinel2-l2a", "bands": ";".join(_BANDS), "place": "p", "encoding": encoding}
        entries = [parse_entry({"path": name, **row}, folder=tmp_path) for name in names]
        found.append(embed_set(encoder, entries, tmp_path / f"{encoding}_out.tif"))

    assert np.array_equal(*(_features(one.features) for one in found))
    assert f"{_APPLIED} ('a.tif' and 1 more)" in found[0].notes


def _table(folder: Path, encoding: str) -> Path:
    rows = []
    for number in range(12):
        # Half of the files have the same numbers, stored in another scale.
        scale, offset = ((1e-4, -0.1), (2e-4, 0.0))[number % 2]
        _scene(folder / f"{number}.tif", seed=number, scale=scale, offset=offset)
        split = ("train", "train", "val", "test")[number // 3]
        rows.append({"path": f"{number}.tif", "label": "ab"[number % 2], "split": split, "encoding": encoding})
    path = folder / "table.csv"
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


def test_labelled_images_have_the_encodings_of_their_own_files(tmp_path) -> None:
    spec = DataSpec(source=str(_table(tmp_path, "tags")), sensors=("sentinel2-l2a",), bands=(_BANDS,))

    data = open_images(spec, seed=0)

    scales = [sensors[0].bands[0].encoding("tags").scale for sensors in data.sensors]
    assert scales == [1e-4, 2e-4] * 6
    assert data.read(1).images[0].sensor == data.sensors[1][0]


def test_an_evaluation_says_what_files_say_also_with_kept_features(tmp_path, checkpoint) -> None:
    spec = DataSpec(source=str(_table(tmp_path, "dn")), sensors=("sentinel2-l2a",), bands=(_BANDS,))
    recipe = TransferRecipe(name="test", data=spec, checkpoint=str(checkpoint), knn=KnnRecipe(k=1))
    for _ in range(2):
        (row,) = result_rows(*evaluate(recipe, "knn", cache=tmp_path / "cache"))
        assert sum("that contradicts encoding 'dn'" in note for note in row.notes) == 2


def test_a_verb_prints_a_note_once_for_all_files(tmp_path, capsys) -> None:
    names = [_scene(tmp_path / f"{number}.tif", seed=number).name for number in range(3)]
    rows = (f"{name},sentinel2-l2a,{';'.join(_BANDS)}" for name in names)
    (tmp_path / "m.csv").write_text("\n".join(["path,sensor,bands", *rows]))
    store = ["--out", str(tmp_path / "store"), "--workers", "1", "--quiet"]

    assert main(["prepare", str(tmp_path / "m.csv"), *store]) == 0

    (line,) = [line for line in capsys.readouterr().out.splitlines() if "contradicts" in line]
    assert line.startswith("note: by its scale and offset tags")
    assert line.endswith("('0.tif' and 2 more)")
