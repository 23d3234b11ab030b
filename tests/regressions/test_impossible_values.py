"""Values that cannot be what is declared are said by every verb that reads images, once, and change nothing."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from anyband.cli import main
from anyband.data.manifest import ImageEntry, parse_entry
from anyband.data.prepare import prepare
from anyband.encode import input_spec
from anyband.encode.encoder import EncodeOptions, SensorEncoder, load_encoder
from anyband.encode.metadata import SetImage
from anyband.errors import InputError
from anyband.evaluate.recipe import KnnRecipe, TransferRecipe
from anyband.evaluate.results import result_rows
from anyband.evaluate.run import evaluate
from anyband.labelled.samples import DataSpec, SplitSpec
from anyband.sensors.sensor import BandStatistics

_LINEAR = "sentinel1-grd: impossible values: VV, VH are 0."
_MEND = "likely linear power or amplitude; declare `encoding: linear`"


def _decibels(seed: int, size: int = 64) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 2.5, (2, size, size))
    return (np.array([-11.0, -18.0])[:, None, None] + noise).astype(np.float32)


def _write(path: Path, dn: np.ndarray, *, column: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    place = {"crs": "EPSG:32632", "transform": Affine(10, 0, 500_000 + 1e4 * column, 0, -10, 5_500_000)}
    height, width = dn.shape[1:]
    with rasterio.open(path, "w", "GTiff", width, height, len(dn), dtype=str(dn.dtype), **place) as file:
        file.write(dn)
    return path


@pytest.fixture
def radar(tmp_path: Path) -> list[Path]:
    """Three images of power and one of decibels."""
    power = [_write(tmp_path / f"p{one}.tif", 10 ** (_decibels(one) / 10), column=one) for one in range(3)]
    return [*power, _write(tmp_path / "db.tif", _decibels(9), column=9)]


@pytest.fixture(scope="module")
def encoder(golden: Path) -> SensorEncoder:
    return load_encoder(golden / "smarties" / "checkpoint.safetensors")


def _row(path: Path, encoding: str, tmp_path: Path, sensor: str = "sentinel1-grd") -> ImageEntry:
    return parse_entry({"path": str(path), "sensor": sensor, "encoding": encoding}, folder=tmp_path)


def test_prepare_says_it_once_for_all_images_and_keeps_their_numbers(radar: list[Path], tmp_path: Path) -> None:
    entries = [_row(path, "db", tmp_path) for path in radar]
    report = prepare(entries, tmp_path / "store")
    (note,) = [note for note in report.notes if "values" in note]
    assert report.notes[0] == note
    assert note.startswith(_LINEAR)
    assert _MEND in note
    assert note.endswith("p0.tif' and 2 more)")
    assert report.chips == {"sentinel1-grd": 4}
    right = prepare([_row(path, "linear", tmp_path) for path in radar[:3]], tmp_path / "right")
    assert not any("values" in note for note in right.notes)


def test_prepare_says_the_same_of_a_finished_store_and_of_a_second_one(radar: list[Path], tmp_path: Path) -> None:
    entries = [_row(path, "db", tmp_path) for path in radar]
    first = prepare(entries, tmp_path / "store")
    assert prepare(entries, tmp_path / "store").notes == first.notes
    assert prepare(entries, tmp_path / "other").notes == first.notes


def test_prepare_tells_why_an_image_of_decibels_has_no_power(radar: list[Path], tmp_path: Path) -> None:
    report = prepare([_row(radar[0], "linear", tmp_path), _row(radar[3], "linear", tmp_path)], tmp_path / "store")
    ((_, reason),) = report.skipped
    assert "has no data" in reason
    assert "likely dB; declare `encoding: db`" in reason


def test_encode_says_it_first_and_gives_the_features_all_the_same(
    encoder: SensorEncoder, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(input_spec, "_logged", set())
    reflectance = np.random.default_rng(0).uniform(0.02, 0.5, (2, 12, 64, 64)).astype(np.float32)
    with caplog.at_level(logging.WARNING, "anyband"):
        features = [encoder.encode(reflectance, sensor="sentinel2-l2a") for _ in range(3)]
    assert "digital numbers of B01, B02, B03, B04 and 8 more are 0.02" in features[0].notes[0]
    assert "declare `encoding: reflectance` ('image 0' and 1 more)" in features[0].notes[0]
    assert [one.getMessage() for one in caplog.records] == [features[0].notes[0]]
    assert features[2].cls.shape == (2, 64)
    right = encoder.encode(reflectance, sensor="sentinel2-l2a", encoding="reflectance")
    assert not any("values" in note for note in right.notes)


def test_encode_says_that_images_that_differ_have_equal_features(encoder: SensorEncoder) -> None:
    dn = np.random.default_rng(1).integers(300, 3000, (3, 12, 64, 64)).astype(np.uint16)
    names = encoder.input_spec("sentinel2-l2a").sensor.band_names
    far = dict.fromkeys(names, BandStatistics(p01=5.0, p99=6.0, mean=0.5, std=0.2))
    features = encoder.encode(dn, sensor="sentinel2-l2a", options=EncodeOptions(statistics=far))
    assert any("the features of all 3 images are equal" in note for note in features.notes)
    assert any("lies below the 1st percentile of the statistics" in note for note in features.notes)
    assert not any("are equal" in note for note in encoder.encode(dn, sensor="sentinel2-l2a").notes)


def test_encode_set_names_the_image_and_refuses_decibels_as_power_with_the_cause(encoder: SensorEncoder) -> None:
    good = SetImage(array=_decibels(0), sensor="sentinel1-grd", encoding="db")
    found = encoder.encode_set([good, replace(good, array=_decibels(1) * 1e4)])
    assert "VV, VH are about -1" in found.notes[0]
    assert "declare `scale: 0.0001` ('image 1 of the set" in found.notes[0]
    with pytest.raises(InputError, match=r"no pixel with data .* likely dB; declare `encoding: db`"):
        encoder.encode_set([good, replace(good, encoding="linear")])
    with pytest.raises(InputError, match=r"no pixel with data .* likely dB"):
        encoder.encode(_decibels(2), sensor="sentinel1-grd", encoding="linear")


def test_embed_prints_it(radar: list[Path], golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = ["--checkpoint", str(golden / "smarties" / "checkpoint.safetensors"), "--out", str(tmp_path / "f.tif")]
    assert main(["embed", str(radar[0]), "--sensor", "sentinel1-grd", "--encoding", "db", *network]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "values" in line]
    assert len(said) == 1
    assert said[0].startswith(f"note: {_LINEAR}")
    again = [*network, "--overwrite"]
    assert main(["embed", str(radar[3]), "--sensor", "sentinel1-grd", "--encoding", "db", *again]) == 0
    assert "values" not in capsys.readouterr().out


def test_evaluate_says_it_with_and_without_kept_features(golden: Path, tmp_path: Path) -> None:
    for one in range(24):
        name, shift = ("land", 0.0) if one % 2 else ("water", -6.0)
        _write(tmp_path / "classes" / name / f"{one}.tif", 10 ** ((_decibels(one) + shift) / 10), column=one)
    recipe = TransferRecipe(
        name="test",
        data=DataSpec(
            source=str(tmp_path / "classes"), sensors=("sentinel1-grd",), split=SplitSpec(val=0.25, test=0.25)
        ),
        checkpoint=str(golden / "smarties" / "checkpoint.safetensors"),
        knn=KnnRecipe(k=3),
    )
    for end in (" and 23 more)", "')"):
        notes = result_rows(*evaluate(recipe, "knn", cache=tmp_path / "cache"))[0].notes
        (note,) = [note for note in notes if "impossible values" in note]
        assert note.startswith(_LINEAR)
        assert _MEND in note
        assert note.endswith(end)
