"""TorchGeo's data sets: tables that fit its classes, and real samples laid out as it wants them. No downloads."""

import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
import torchgeo.datasets
from PIL import Image

from anyband.labelled import open_task_data
from anyband.labelled.published import PUBLISHED
from anyband.labelled.samples import DataSpec, SplitSpec, TaskData, TaskKind
from anyband.labelled.torchgeo import TorchgeoSet, find_torchgeo, open_torchgeo, torchgeo_sets, variant_of
from anyband.rasters.formats import QuietReader

_PARTS = ("train", "val", "test")
_SETS = torchgeo_sets()
_USABLE = [name for name in sorted(_SETS) if not _SETS[name].not_mapped]


def _opened(
    name: str, root: Path, *, kind: TaskKind = "class", split: SplitSpec | None = None, **options: str
) -> TaskData:
    spec = DataSpec(
        source=f"torchgeo:{name}",
        root=str(root),
        kind=kind,
        options=options,
        split=split or SplitSpec(val=0.2, test=0.2),
    )
    return open_torchgeo(spec, seed=0, download=False)


def _labels(data: TaskData, sample: int) -> list[str]:
    assert data.targets is not None
    return [data.classes[index] for index in np.flatnonzero(data.targets[sample])]


# The tables


def _torchgeo_classes() -> set[str]:
    base = torchgeo.datasets.NonGeoDataset
    every = ((name, getattr(torchgeo.datasets, name)) for name in dir(torchgeo.datasets))
    return {name for name, one in every if inspect.isclass(one) and issubclass(one, base) and one is not base}


# Classes that only TorchGeo 0.9 or 0.10 has.
_NEWER = {"AirQuality", "ClayEmbeddings", "DLRSD", "DLRSDBase", "DLRSDMultilabel", "EarthEmbeddings"}
_NEWER |= {"EarthIndexEmbeddings", "FLAIRHUB", "FLAIRHUBBase", "FLAIRHUBToy", "MajorTOMEmbeddings", "OSCD100"}
_NEWER |= {"PASTIS100", "S2100k", "WorldStrat", "xBD", "xBDDistShift"}


def test_every_image_data_set_of_torchgeo_is_mapped_or_says_why_not() -> None:
    newer = {name for name in _NEWER if not hasattr(torchgeo.datasets, name)}
    assert set(_SETS) - newer == _torchgeo_classes()


def test_the_named_sets_of_the_issue_can_be_used() -> None:
    named = {"EuroSAT", "BigEarthNet", "UCMerced", "RESISC45", "SEN12MS", "OSCD", "LEVIRCD", "SpaceNet7", "So2Sat"}
    assert named <= set(_USABLE)


@pytest.mark.parametrize("name", _USABLE)
def test_arguments_of_the_table_are_arguments_of_the_class(name: str) -> None:
    one, parameters = find_torchgeo(name), inspect.signature(getattr(torchgeo.datasets, name)).parameters
    used = {*one.arguments, *one.variants, *([one.bands_option] if one.bands_option else [])}
    used |= {one.split_argument} if one.splits else set()
    # An alias of a class that was renamed says nothing of its arguments; TorchGeo 0.10 has one.
    assert used <= set(parameters) or (name == "XView2" and {"args", "kwargs"} <= set(parameters))


@pytest.mark.parametrize("name", _USABLE)
def test_sensors_bands_and_encodings_are_in_the_catalogue(name: str) -> None:
    one = find_torchgeo(name)
    every = [one, *(variant_of(one, {argument: value}) for argument, value in _values(name))]
    known = [slot for version in every for slot in version.images if slot.sensor is not None]
    assert all(slot.described().bands for slot in known)
    assert len(known) > 0 or one.notes  # without a sensor, a note says what to declare


def _values(name: str) -> list[tuple[str, Any]]:
    one = find_torchgeo(name)
    if len(one.variants) > 1:
        return []
    return [(argument, value) for argument, values in one.variants.items() for value in values]


@pytest.mark.parametrize("name", _USABLE)
def test_default_arguments_are_mapped(name: str) -> None:
    one, parameters = find_torchgeo(name), inspect.signature(getattr(torchgeo.datasets, name)).parameters
    defaults = {key: known.default for key, known in parameters.items()} | dict(one.arguments)
    assert variant_of(one, defaults).images


@pytest.mark.parametrize("name", _USABLE)
def test_splits_are_those_that_the_class_declares(name: str) -> None:
    one, made = find_torchgeo(name), getattr(torchgeo.datasets, name)
    declared = getattr(made, "splits", None) or getattr(made, "valid_splits", None)
    if one.split_argument != "split" or not declared:
        assert set(one.splits) <= set(_PARTS)
        return
    used = set(one.splits.values()) | {one.arguments[key] for key in ("split",) if key in one.arguments}
    assert used <= set(declared)


@pytest.mark.parametrize("name", [name for name in _USABLE if find_torchgeo(name).bands_option])
def test_bands_are_those_that_the_class_gives(name: str) -> None:
    one, made = find_torchgeo(name), getattr(torchgeo.datasets, name)
    option = one.bands_option or ""
    given = one.arguments.get(option, inspect.signature(made).parameters[option].default) or made.all_bands
    assert [band for slot in one.images for band in slot.names or slot.bands] == list(given)


def test_methods_that_read_labels_exist() -> None:
    methods = {name: _SETS[name].targets or "" for name in _USABLE}
    assert all(
        callable(getattr(getattr(torchgeo.datasets, name), method))
        for name, method in methods.items()
        if method.startswith("_")
    )


def test_every_mapping_has_a_source_and_says_what_stands_in_the_folder() -> None:
    assert all(_SETS[name].source and _SETS[name].layout for name in _USABLE)


# EuroSAT


@pytest.fixture
def eurosat(tmp_path: Path, real_data: Path) -> Path:
    """Two real images, three times under other numbers: TorchGeo wants each class in each part."""
    images = tmp_path / "ds" / "images" / "remote_sensing" / "otherDatasets" / "sentinel_2" / "tif"
    for number, part in enumerate(_PARTS):
        names = []
        for path in sorted((real_data / "eurosat_ms").glob("*/*.tif")):
            folder, name = images / path.parent.name, f"{path.parent.name}_{number}.tif"
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / name)
            names.append(name.replace(".tif", ".jpg"))  # so do the published lists
        for prefix in ("eurosat", "eurosat-spatial", "eurosat-100"):
            (tmp_path / f"{prefix}-{part}.txt").write_text("\n".join(names))
    return tmp_path


def _stored(folder: Path, name: str) -> np.ndarray:
    with rasterio.open(next(folder.rglob(name))) as file:
        return np.asarray(file.read())


@pytest.mark.real
@pytest.mark.parametrize("name", ["EuroSAT", "EuroSATSpatial", "EuroSAT100"])
def test_eurosat_has_its_parts_and_classes(eurosat: Path, name: str) -> None:
    data = _opened(name, eurosat)
    assert data.splits == ("train", "train", "val", "val", "test", "test")
    assert data.classes == ("AnnualCrop", "Pasture")
    assert data.targets is not None
    assert data.targets.tolist() == [0, 1] * 3


@pytest.mark.real
def test_eurosat_gives_the_digital_numbers(eurosat: Path) -> None:
    sample = _opened("EuroSAT", eurosat).read(1)
    np.testing.assert_array_equal(sample.images[0].dn, _stored(eurosat, "Pasture_0.tif"))


@pytest.mark.real
def test_eurosat_has_the_narrow_infrared_last(eurosat: Path) -> None:
    sensor = _opened("EuroSAT", eurosat).sensors[0][0]
    assert sensor.name == "sentinel2-l1c"
    assert sensor.band_names[-3:] == ("B11", "B12", "B8A")


@pytest.mark.real
def test_eurosats_last_band_is_near_infrared(eurosat: Path) -> None:
    """Of vegetation the narrow infrared is near the broad one, and water vapour and cirrus are far below."""
    image = _opened("EuroSAT", eurosat).read(1).images[0]
    mean = dict(zip(image.sensor.band_names, image.dn.mean(axis=(1, 2)), strict=True))
    assert abs(mean["B8A"] / mean["B08"] - 1) < 0.25
    assert mean["B10"] < 0.05 * mean["B8A"]


@pytest.mark.real
def test_an_option_chooses_bands_in_its_order(eurosat: Path) -> None:
    whole, some = _opened("EuroSAT", eurosat), _opened("EuroSAT", eurosat, bands="[B8A, B02]")
    assert some.sensors[0][0].band_names == ("B8A", "B02")
    np.testing.assert_array_equal(some.read(0).images[0].dn, whole.read(0).images[0].dn[[12, 1]])


@pytest.mark.real
def test_opening_again_gives_the_same_fingerprint_and_other_bands_another(eurosat: Path) -> None:
    first, again = _opened("EuroSAT", eurosat), _opened("EuroSAT", eurosat)
    assert first.fingerprint == again.fingerprint
    assert first.fingerprint != _opened("EuroSAT", eurosat, bands="[B02]").fingerprint


@pytest.mark.real
def test_a_changed_image_changes_the_fingerprint(eurosat: Path) -> None:
    before = _opened("EuroSAT", eurosat).fingerprint
    path = next(eurosat.rglob("Pasture_0.tif"))
    with rasterio.open(path, "r+") as file:
        file.write(file.read() + 1)
    assert _opened("EuroSAT", eurosat).fingerprint != before


@pytest.mark.real
def test_the_way_in_opens_a_torchgeo_set(eurosat: Path) -> None:
    data = open_task_data(DataSpec(source="torchgeo:EuroSAT", root=str(eurosat)), seed=0)
    assert data.num_samples == {"train": 2, "val": 2, "test": 2}
    assert data.statistics == "EuroSAT"


# UC-Merced


@pytest.fixture
def ucmerced(tmp_path: Path, real_data: Path) -> Path:
    images = tmp_path / "UCMerced_LandUse" / "Images"
    for number, part in enumerate(_PARTS):
        names = []
        for name in ("agricultural", "airplane"):
            (images / name).mkdir(parents=True, exist_ok=True)
            path = sorted((real_data / "ucmerced_jpg" / name).glob("*.jpg"))[number]
            Image.open(path).save(images / name / f"{path.stem}.tif")
            names.append(f"{path.stem}.tif")
        (tmp_path / f"uc_merced-{part}.txt").write_text("\n".join(names))
    return tmp_path


@pytest.mark.real
def test_ucmerced_is_rgb_counts(ucmerced: Path) -> None:
    data = _opened("UCMerced", ucmerced)
    image = data.read(0).images[0]
    stored = np.asarray(Image.open(sorted(ucmerced.rglob("agricultural*.tif"))[0])).transpose(2, 0, 1)
    assert image.sensor.name == "maxar-rgb"
    np.testing.assert_array_equal(image.dn, stored)
    assert data.classes == ("agricultural", "airplane")


# BigEarthNet


def _georeferenced(source: Path, target: Path) -> None:
    """Copy a raster as the published ones are: somewhere."""
    with rasterio.Env(), QuietReader(str(source)) as file:
        profile, values = file.profile, file.read()
    profile |= {
        "crs": "EPSG:32633",
        "transform": rasterio.Affine(1200 / values.shape[2], 0, 3e5, 0, -1200 / values.shape[1], 5e6),
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(target, "w", **profile) as file:
        file.write(values)


@pytest.fixture
def bigearthnet(tmp_path: Path, real_data: Path) -> Path:
    """Two real pairs, one of them in two parts, in the folders of version 1."""
    folders = sorted(path for path in (real_data / "bigearthnet_mm_pairs").iterdir() if path.name.startswith("S2A"))
    for number, (part, folder) in enumerate(zip(_PARTS, [*folders, folders[1]], strict=True)):
        s2, s1 = f"S2_{number}", f"S1_{number}"
        places = {"s2": tmp_path / "BigEarthNet-v1.0" / s2, "s1": tmp_path / "BigEarthNet-S1-v1.0" / s1}
        for path in sorted(folder.glob("*.tif")):
            band = path.stem.rpartition("_")[2]
            key = "s1" if band in ("VV", "VH") else "s2"
            _georeferenced(path, places[key] / f"{places[key].name}_{band}.tif")
        labels = json.loads((folder / "labels.json").read_text())["labels"]
        for place in places.values():
            (place / f"{place.name}_labels_metadata.json").write_text(json.dumps({"labels": labels}))
        (tmp_path / f"bigearthnet-{part}.csv").write_text(f"{s2},{s1}\n")
    return tmp_path


@pytest.mark.real
def test_bigearthnet_has_two_images_a_sample(bigearthnet: Path) -> None:
    data = _opened("BigEarthNet", bigearthnet)
    sample = data.read(1)
    assert [image.sensor.name for image in sample.images] == ["sentinel1-grd", "sentinel2-l2a"]
    assert [image.dn.shape for image in sample.images] == [(2, 120, 120), (12, 120, 120)]


@pytest.mark.real
def test_bigearthnets_radar_comes_vh_first_and_rounded(bigearthnet: Path) -> None:
    """TorchGeo documents VV first; its files say otherwise."""
    image = _opened("BigEarthNet", bigearthnet, bands="s1").read(1).images[0]
    vh = _stored(bigearthnet / "BigEarthNet-S1-v1.0", "S1_1_VH.tif")[0]
    assert image.sensor.band_names == ("VH", "VV")
    assert np.abs(image.dn[0] - vh).max() <= 1
    assert (image.dn == np.rint(image.dn)).all()


@pytest.mark.real
def test_bigearthnets_optical_bands_are_in_the_order_of_the_catalogue(bigearthnet: Path) -> None:
    image = _opened("BigEarthNet", bigearthnet, bands="s2").read(1).images[0]
    for band in ("B02", "B08"):
        stored = _stored(bigearthnet / "BigEarthNet-v1.0", f"S2_1_{band}.tif")[0]
        np.testing.assert_array_equal(image.dn[image.sensor.band_index(band)], stored)


@pytest.mark.real
@pytest.mark.parametrize(("num_classes", "first"), [("43", "Non-irrigated arable land"), ("19", "Arable land")])
def test_bigearthnet_has_43_or_19_classes(bigearthnet: Path, num_classes: str, first: str) -> None:
    data = _opened("BigEarthNet", bigearthnet, num_classes=num_classes)
    assert (len(data.classes), data.kind) == (int(num_classes), "labels")
    assert _labels(data, 1)[0] == first
    assert len(_labels(data, 1)) == 4


@pytest.mark.real
def test_bigearthnets_statistics_go_with_one_sensor(bigearthnet: Path) -> None:
    names = [_opened("BigEarthNet", bigearthnet, bands=bands).statistics for bands in ("all", "s1", "s2")]
    assert names == [None, "BigEarthNetS1", "BigEarthNetS2"]


@pytest.fixture
def bigearthnet_v2(tmp_path: Path, real_data: Path) -> Path:
    """Real patches of version 2; they are no pairs, and one map serves for all."""
    source = real_data / "bigearthnet_v2_unpaired"
    s1, s2 = (sorted(source.glob(f"{start}*")) for start in ("S1A", "S2A"))
    world = next((real_data / "bigearthnet_mm_pairs" / "Reference_Maps").rglob("*.tif"))
    rows = []
    for part, radar, optical in zip(("train", "validation", "test"), s1, [*s2, s2[0]], strict=True):
        name = optical.name if part != "test" else f"{optical.name[:-2]}99"
        tile, swath = "_".join(name.split("_")[:-2]), "_".join(radar.name.split("_")[:-3])
        shutil.copytree(optical, tmp_path / "BigEarthNet-S2" / tile / name)
        shutil.copytree(radar, tmp_path / "BigEarthNet-S1" / swath / radar.name)
        target = tmp_path / "Reference_Maps" / tile / name / f"{name}_reference_map.tif"
        target.parent.mkdir(parents=True)
        shutil.copy(world, target)
        rows.append({"patch_id": name, "s1_name": radar.name, "split": part, "labels": ["Arable land", "Mixed forest"]})
    pd.DataFrame(rows).to_parquet(tmp_path / "metadata.parquet")
    return tmp_path


@pytest.mark.real
def test_bigearthnet_v2_has_labels_of_its_table(bigearthnet_v2: Path) -> None:
    data = _opened("BigEarthNetV2", bigearthnet_v2)
    assert data.splits == _PARTS
    assert _labels(data, 2) == ["Arable land", "Mixed forest"]
    assert [image.dn.shape[0] for image in data.read(0).images] == [2, 12]


@pytest.mark.real
def test_bigearthnet_v2_has_maps_where_they_are_asked_for(bigearthnet_v2: Path) -> None:
    data = _opened("BigEarthNetV2", bigearthnet_v2, kind="class_map", bands="s2")
    labels = data.read(0).class_map
    assert data.targets is None
    assert labels is not None
    assert labels.shape == (120, 120)
    assert {data.classes[index] for index in np.unique(labels[labels >= 0])} <= set(data.classes)


def _line(one: TorchgeoSet) -> str:
    """What the page says of a data set."""
    if one.not_mapped:
        return f"| `{one.name}` | {one.not_mapped} |"
    sensors = ", ".join(dict.fromkeys(slot.sensor or "?" for slot in one.images))
    state, splits = "tested" if one.tested else "untested", ", ".join(one.splits) or "drawn"
    return f"| `{one.name}` | {', '.join(one.kinds)} | {sensors} | {splits} | {state} |"


def test_the_page_lists_the_sets_as_the_tables_do() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "datasets.md").read_text(encoding="utf-8")
    assert {_line(one) for one in _SETS.values()} <= set(page.splitlines())
    assert all(f"| `{name}` |" in page for name in PUBLISHED)
