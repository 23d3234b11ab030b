"""What becomes of a sample of TorchGeo, shown on its own classes' dictionaries made by hand."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from anyband.errors import InputError, RasterError
from anyband.labelled import torchgeo as torchgeo_sets
from anyband.labelled.samples import DataSpec, SplitSpec, TaskData, TaskKind
from anyband.labelled.torchgeo import open_torchgeo


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run where the pretended sets lie."""
    (tmp_path / "nowhere").mkdir()
    monkeypatch.chdir(tmp_path)


def _pretend(
    monkeypatch: pytest.MonkeyPatch, samples: list[dict[str, Any]], *, per_part: Mapping[str, list[int]] | None = None
) -> None:
    """Put a class with these samples in the place of TorchGeo's."""

    class Pretended:
        classes = ("background", "building", "road")

        def __init__(
            self,
            root: str,
            split: str = "train",
            bands: Any = None,
            labels: Any = None,
            version: str = "2",
            mode: Any = 1,
            target: str = "2-class",
            image: str | None = None,
            modalities: Any = None,
            folds: Any = None,
            download: bool = False,
        ) -> None:
            if folds is not None:
                split = {1: "train", 4: "val", 5: "test"}[folds[0]]
            chosen = range(len(samples)) if per_part is None else per_part.get(split, [])
            self._samples = [samples[index] for index in chosen]
            self.files = self.image_paths = [f"{split}/{index}" for index in chosen]
            self.images = [f"{split}/{index}" for index in chosen]
            self.ids = [f"ROIs1158_spring_lc_{index // 2}_p{index}.tif" for index in chosen]
            np.random.seed(0)  # noqa: NPY002 (as some of TorchGeo's classes do)

        def __len__(self) -> int:
            return len(self._samples)

        def __getitem__(self, index: int) -> dict[str, Any]:
            return self._samples[index]

    monkeypatch.setattr(torchgeo_sets, "_class", lambda _name: Pretended)


def _opened(name: str, *, kind: TaskKind = "class", **spec: Any) -> TaskData:
    spec.setdefault("split", SplitSpec(val=0.25, test=0.25))
    return open_torchgeo(DataSpec(source=f"torchgeo:{name}", root="nowhere", kind=kind, **spec), seed=0, download=False)


def _image(*shape: int, start: int = 0) -> torch.Tensor:
    return torch.arange(start, start + int(np.prod(shape))).reshape(shape).float()


def test_two_dates_become_two_images(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = _image(2, 3, 4, 4)
    _pretend(
        monkeypatch, [{"image": pair, "mask": torch.zeros(1, 4, 4)}], per_part={"train": [0], "val": [0], "test": [0]}
    )
    images = _opened("LEVIRCD").read(0).images
    np.testing.assert_array_equal(images[0].dn, pair[0])
    np.testing.assert_array_equal(images[1].dn, pair[1])


def test_dates_of_a_series_are_spread_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    series = _image(11, 10, 2, 2)
    _pretend(
        monkeypatch,
        [{"image": series, "mask": torch.zeros(2, 2)}] * 3,
        per_part={"train": [0], "val": [1], "test": [2]},
    )
    images = _opened("PASTIS", options={"bands": "s2", "mode": "semantic"}).read(0).images
    assert [int(image.dn[0, 0, 0]) // 40 for image in images] == [0, 2, 4, 6, 8, 10]


def test_channels_of_one_tensor_go_to_their_sensors_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    image = _image(15, 2, 2)
    _pretend(
        monkeypatch, [{"image": image, "mask": torch.ones(2, 2)}] * 6, per_part={"train": [0, 1, 2, 3], "test": [4]}
    )
    radar, optical = _opened("SEN12MS").read(0).images
    np.testing.assert_array_equal(radar.dn, image[:2])
    np.testing.assert_array_equal(optical.dn, image[2:])


def test_bands_of_one_sensor_leave_the_other_out(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(
        monkeypatch,
        [{"image": _image(2, 2, 2), "mask": torch.ones(2, 2)}] * 6,
        per_part={"train": [0, 1, 2], "test": [4]},
    )
    data = _opened("SEN12MS", options={"bands": "[B04, B08]"})
    assert [sensor.name for sensor in data.sensors[0]] == ["sentinel2-l1c"]
    assert data.read(0).images[0].sensor.band_names == ("B04", "B08")


def test_channels_that_are_no_bands_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    image = _image(4, 2, 2)
    _pretend(monkeypatch, [{"image": image, "mask": torch.ones(2, 2)}] * 4)
    np.testing.assert_array_equal(_opened("SpaceNet7").read(0).images[0].dn, image[:3])


def test_numbers_that_torchgeo_scales_become_stored_ones_again(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = torch.randint(0, 256, (3, 4, 4), generator=torch.Generator().manual_seed(0))
    sample = {"image": counts / 255, "mask": torch.ones(4, 4)}
    _pretend(monkeypatch, [sample] * 6, per_part={"train": [0, 1, 2], "test": [3]})
    np.testing.assert_array_equal(_opened("GeoNRW", classes={}).read(0).images[0].dn, counts)


def test_ignored_values_are_no_class_and_the_others_count_from_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = torch.tensor([[0, 1], [17, 255]])
    _pretend(monkeypatch, [{"image": _image(15, 2, 2), "mask": mask}] * 4, per_part={"train": [0, 1, 2], "test": [3]})
    data = _opened("SEN12MS")
    assert data.read(0).class_map is not None
    np.testing.assert_array_equal(data.read(0).class_map, [[-1, 0], [16, -1]])
    assert data.classes[16] == "water bodies"


def test_a_value_that_is_no_class_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = torch.tensor([[0, 1], [18, 18]])
    _pretend(monkeypatch, [{"image": _image(15, 2, 2), "mask": mask}] * 4, per_part={"train": [0, 1, 2], "test": [3]})
    with pytest.raises(InputError, match=r"has the value 18 2 times, which is no class of 'SEN12MS'"):
        _opened("SEN12MS").read(0)


def test_a_map_of_another_shape_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, [{"image": _image(3, 4, 4), "mask": torch.zeros(8, 8)}] * 4)
    with pytest.raises(InputError, match=r"a map of shape \(8, 8\) over an image of \(4, 4\)"):
        _opened("SpaceNet8").read(0)


def test_other_channels_than_the_sensor_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, [{"image": _image(4, 4, 4), "mask": torch.zeros(4, 4)}] * 4)
    with pytest.raises(
        InputError, match=r"image of shape \(4, 4, 4\), sensor 'maxar-rgb' has 3 bands here \(R, G, B\)"
    ):
        _opened("SpaceNet8").read(0)


def test_pixels_without_data_are_not_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.ones(15, 1, 3)
    image[0, 0, 0], image[2, 0, 1] = float("nan"), 0
    _pretend(monkeypatch, [{"image": image, "mask": torch.ones(1, 3)}] * 4, per_part={"train": [0, 1, 2], "test": [3]})
    radar, optical = _opened("SEN12MS").read(0).images
    assert radar.valid[0].tolist() == [[False, True, True]]
    assert optical.valid[0].tolist() == [[True, False, True]]


def test_samples_of_one_place_stay_in_one_part(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {"train": list(range(20)), "test": [20]}
    _pretend(monkeypatch, [{"image": _image(15, 2, 2), "mask": torch.ones(2, 2)}] * 21, per_part=parts)
    data = _opened("SEN12MS")
    of_place: dict[str, set[str]] = {}
    for place, part in zip(data.places, data.splits, strict=True):
        of_place.setdefault(place, set()).add(part)
    assert "val" in data.splits
    assert all(len(found) == 1 for found in of_place.values())


def test_parts_that_torchgeo_lacks_are_drawn_and_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, [{"image": _image(3, 2, 2), "mask": torch.ones(2, 2)}] * 8)
    data = _opened("SpaceNet8")
    assert data.num_samples == {"train": 4, "val": 2, "test": 2}
    assert any("train, val and test are drawn (seed 0)" in note for note in data.notes)


def test_labels_are_read_where_torchgeo_lists_none(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [{"image": _image(12, 2, 2), "label": torch.tensor(index % 3)} for index in range(12)]
    _pretend(monkeypatch, samples, per_part={part: list(range(12)) for part in ("train", "validation", "test")})
    data = _opened("So2Sat")
    assert data.targets is not None
    assert data.targets.tolist()[:4] == [0, 1, 2, 0]


def test_a_text_that_looks_like_a_number_stays_one_where_the_class_takes_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [{"image": _image(12, 2, 2), "label": torch.tensor(index % 3)} for index in range(12)]
    _pretend(monkeypatch, samples, per_part={part: list(range(12)) for part in ("train", "validation", "test")})
    assert len(_opened("So2Sat", options={"version": "2"})) == 36


def test_numbers_are_targets_of_regression(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [{"image": _image(4, 2, 2), "labels": torch.tensor([0.5 * index])} for index in range(4)]
    _pretend(monkeypatch, samples, per_part={"train": [0, 1], "val": [2], "test": [3]})
    data = _opened("USAVars", kind="number")
    assert data.targets is not None
    assert data.targets.tolist() == [0.0, 0.5, 1.0, 1.5]


def test_several_numbers_a_sample_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [{"image": _image(4, 2, 2), "labels": torch.tensor([0.5, 1.0])} for _ in range(4)]
    _pretend(monkeypatch, samples, per_part={"train": [0, 1], "val": [2], "test": [3]})
    with pytest.raises(InputError, match=r"gives targets of shape \(2,\); choose one by its options"):
        _opened("USAVars", kind="number")


def test_a_sensor_of_ones_own_replaces_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(
        monkeypatch,
        [{"image": _image(4, 2, 2), "mask": torch.ones(2, 2)}] * 4,
        per_part={"train": [0, 1], "val": [2], "test": [3]},
    )
    bands = (("B04", "B03", "B02", "B08"),)
    data = _opened("SolarPlantsBrazil", sensors=("sentinel2-l2a",), bands=bands, encodings=("reflectance",))
    sensor = data.sensors[0][0]
    assert (sensor.band_names, sensor.default_encoding) == (("B04", "B03", "B02", "B08"), "reflectance")


def test_numpys_global_generator_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, [{"image": _image(3, 2, 2), "mask": torch.ones(2, 2)}] * 8)
    np.random.seed(7)  # noqa: NPY002
    expected = np.random.random(3)  # noqa: NPY002
    np.random.seed(7)  # noqa: NPY002
    _opened("SpaceNet8")
    np.testing.assert_array_equal(np.random.random(3), expected)  # noqa: NPY002


def _change_pair(folder: Path, name: str, *, seed: int) -> None:
    random = np.random.default_rng(seed)
    for kind, shape in (("A", (8, 8, 3)), ("B", (8, 8, 3)), ("label", (8, 8))):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        values = random.integers(0, 256, shape) if kind != "label" else 255 * random.integers(0, 2, shape)
        Image.fromarray(values.astype(np.uint8)).save(folder / kind / f"{name}.png")


def test_torchgeos_own_class_reads_change_pairs(tmp_path: Path) -> None:
    for index in range(6):
        _change_pair(tmp_path / "LEVIR-CD+" / ("train" if index < 4 else "test"), f"{index}", seed=index)
    spec = DataSpec(source="torchgeo:LEVIRCDPlus", root=str(tmp_path), split=SplitSpec(val=0.25, test=0.0))
    data = open_torchgeo(spec, seed=0, download=False)
    sample = data.read(0)
    assert data.num_samples == {"train": 3, "val": 1, "test": 2}
    stored = np.asarray(Image.open(tmp_path / "LEVIR-CD+" / "train" / "B" / "0.png")).transpose(2, 0, 1)
    np.testing.assert_array_equal(sample.images[1].dn, stored)
    assert sample.class_map is not None
    assert set(np.unique(sample.class_map)) == {0, 1}


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    for index in range(6):
        _change_pair(tmp_path / "LEVIR-CD+" / ("train" if index < 4 else "test"), f"{index}", seed=index)
    (tmp_path / "LEVIR-CD+" / "train" / "B" / "0.png").write_bytes(b"no picture")
    spec = DataSpec(source="torchgeo:LEVIRCDPlus", root=str(tmp_path), split=SplitSpec(val=0.25, test=0.0))
    data = open_torchgeo(spec, seed=0, download=False)
    with pytest.raises(RasterError, match=r"TorchGeo can't read sample 'LEVIR-CD\+/train/A/0.png': cannot identify"):
        data.read(0)


def test_a_changed_file_of_all_samples_changes_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [{"image": _image(12, 2, 2), "label": torch.tensor(index % 3)} for index in range(12)]
    _pretend(monkeypatch, samples, per_part={part: list(range(12)) for part in ("train", "validation", "test")})
    file = Path("nowhere") / "training.h5"
    fingerprints = []
    for text in ("first", "other", "first"):
        file.write_text(text)
        fingerprints.append(_opened("So2Sat").fingerprint)
    assert fingerprints[0] == fingerprints[2] != fingerprints[1]
