"""BigEarthNet as distributed: patches of Sentinel-1 and Sentinel-2 with labels in JSON."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from anyband.data.store import SPLITS
from anyband.errors import ManifestError, nearest_name
from anyband.labelled.images import published_data
from anyband.labelled.samples import (
    DataSpec,
    ListSpec,
    TaskData,
    declared_slots,
    known_root,
    options_of,
)
from anyband.labelled.tables import ListedSample, known_entry
from anyband.progress import progress
from anyband.sensors.catalogue import get_sensor
from anyband.sensors.sensor import Sensor

__all__ = ["CLASSES_19", "CLASSES_43", "open_bigearthnet", "to_19_classes"]

CLASSES_19 = (
    "Urban fabric",
    "Industrial or commercial units",
    "Arable land",
    "Permanent crops",
    "Pastures",
    "Complex cultivation patterns",
    "Land principally occupied by agriculture, with significant areas of natural vegetation",
    "Agro-forestry areas",
    "Broad-leaved forest",
    "Coniferous forest",
    "Mixed forest",
    "Natural grassland and sparsely vegetated areas",
    "Moors, heathland and sclerophyllous vegetation",
    "Transitional woodland, shrub",
    "Beaches, dunes, sands",
    "Inland wetlands",
    "Coastal wetlands",
    "Inland waters",
    "Marine waters",
)
"""In their order. Source: Sumbul et al., "BigEarthNet-MM", IEEE GRSM 2021, arXiv:2105.07921, table II."""

# The class of 19 that each of the 43 belongs to; None: the class was left out.
# Source: as above; the names and order of the 43 are level 3 of CORINE Land Cover.
_CLASS_OF: Mapping[str, str | None] = {
    "Continuous urban fabric": "Urban fabric",
    "Discontinuous urban fabric": "Urban fabric",
    "Industrial or commercial units": "Industrial or commercial units",
    "Road and rail networks and associated land": None,
    "Port areas": None,
    "Airports": None,
    "Mineral extraction sites": None,
    "Dump sites": None,
    "Construction sites": None,
    "Green urban areas": None,
    "Sport and leisure facilities": None,
    "Non-irrigated arable land": "Arable land",
    "Permanently irrigated land": "Arable land",
    "Rice fields": "Arable land",
    "Vineyards": "Permanent crops",
    "Fruit trees and berry plantations": "Permanent crops",
    "Olive groves": "Permanent crops",
    "Pastures": "Pastures",
    "Annual crops associated with permanent crops": "Permanent crops",
    "Complex cultivation patterns": "Complex cultivation patterns",
    CLASSES_19[6]: CLASSES_19[6],
    "Agro-forestry areas": "Agro-forestry areas",
    "Broad-leaved forest": "Broad-leaved forest",
    "Coniferous forest": "Coniferous forest",
    "Mixed forest": "Mixed forest",
    "Natural grassland": "Natural grassland and sparsely vegetated areas",
    "Moors and heathland": "Moors, heathland and sclerophyllous vegetation",
    "Sclerophyllous vegetation": "Moors, heathland and sclerophyllous vegetation",
    "Transitional woodland/shrub": "Transitional woodland, shrub",
    "Beaches, dunes, sands": "Beaches, dunes, sands",
    "Bare rock": None,
    "Sparsely vegetated areas": "Natural grassland and sparsely vegetated areas",
    "Burnt areas": None,
    "Inland marshes": "Inland wetlands",
    "Peatbogs": "Inland wetlands",
    "Salt marshes": "Coastal wetlands",
    "Salines": "Coastal wetlands",
    "Intertidal flats": None,
    "Water courses": "Inland waters",
    "Water bodies": "Inland waters",
    "Coastal lagoons": "Marine waters",
    "Estuaries": "Marine waters",
    "Sea and ocean": "Marine waters",
}

CLASSES_43 = tuple(_CLASS_OF)


def to_19_classes(names: Iterable[str], *, patch: str) -> tuple[str, ...]:
    """Turn names of the 43 classes into those of the 19, each once, in their order; some of the 43 have none.
    Names of the 19 stay; `ManifestError` for a name of neither.
    """
    names = list(names)
    _check_labels([name for name in names if name not in CLASSES_19], patch)
    found = {name if name in CLASSES_19 else _CLASS_OF[name] for name in names}
    return tuple(name for name in CLASSES_19 if name in found)


def _check_labels(names: Sequence[str], patch: str) -> None:
    strange = next((name for name in names if name not in _CLASS_OF), None)
    if strange is not None:
        raise ManifestError(
            f"patch '{patch}' has the label '{strange}', which is no class of BigEarthNet"
            f"{nearest_name(strange, CLASSES_43)}"
        )


_SENSORS = {"s1": "sentinel1-grd", "s2": "sentinel2-l2a"}
_STATISTICS = {"s1": "BigEarthNetS1", "s2": "BigEarthNetS2"}
_WANTED = (
    "folders of patches, each with single-band files (…_B02.tif, …_VV.tif) and …_labels_metadata.json or labels.json; "
    "Sentinel-1 in the same folders, or in others whose JSON says `corresponding_s2_patch`; and, where the parts are "
    "not to be drawn, train.csv, val.csv and test.csv (or bigearthnet-train.csv, …) that name the patches"
)


_Folder = tuple[Path, tuple[str, ...], tuple[str, ...]]
"""Path of a folder of a patch, which of `s1` and `s2` are inside, and its labels of the 43 classes."""


def open_bigearthnet(spec: DataSpec, *, seed: int) -> TaskData:
    """Open patches of BigEarthNet. Those whose labels have no class among the 19 are left out, as its publishers do.
    Options are `bands` (all, s1, s2), `num_classes` (19, 43) and `absent` (refuse, leave_out) for lists that name what
    is not there. Raises `ManifestError` where the folder is not as it should be, or a label is unknown.
    """
    known = {"bands": ("all", "s1", "s2"), "num_classes": ("19", "43"), "absent": ("refuse", "leave_out")}
    options = options_of(spec, known)
    root = known_root(spec, wanted=_WANTED)
    bands, only_19 = options["bands"], options["num_classes"] == "19"
    keys = ("s1", "s2") if bands == "all" else (bands,)
    sensors = declared_slots([get_sensor(_SENSORS[key]) for key in keys], spec, name=spec.source)
    patches = sorted(_patches(root).items())
    found = [_sample(name, folders, dict(zip(keys, sensors, strict=True)), only_19) for name, folders in patches]
    complete = [one for one in found if len(one.images) == len(keys)]
    kept = [one for one in complete if one.label or not only_19]
    if not kept:
        raise ManifestError(f"'{root}' has no patches with {' and '.join(keys)}. It wants: {_WANTED}")
    notes = []
    if len(complete) < len(found):
        notes.append(f"{len(found) - len(complete)} patches without {' and '.join(keys)} are left out")
    if len(kept) < len(complete):
        notes.append(f"{len(complete) - len(kept)} patches have none of the 19 classes and are left out")
    return published_data(
        spec,
        kept,
        kind="labels",
        classes=CLASSES_19 if only_19 else CLASSES_43,
        sensors=sensors,
        lists=spec.split.lists or _lists(root),
        statistics=_STATISTICS[keys[0]] if len(keys) == 1 else "BigEarthNet-MM",
        notes=notes,
        seed=seed,
    )


def _patches(root: Path) -> dict[str, list[_Folder]]:
    """Group folders by the patch that they show."""
    found: dict[str, list[_Folder]] = {}
    places = [path.parent for path in _label_files(root)]
    with progress("labels of BigEarthNet", len(places)) as advance:
        for place in places:
            patch, folder = _folder(place)
            found.setdefault(patch, []).append(folder)
            advance(1)
    return found


def _label_files(root: Path) -> Iterator[Path]:
    # A patch lies in the root, or one folder below: those of Sentinel-1 and Sentinel-2.
    for pattern in ("*_labels_metadata.json", "labels.json"):
        for depth in ("*/", "*/*/"):
            yield from sorted(root.glob(depth + pattern))


def _folder(path: Path) -> tuple[str, _Folder]:
    """Read the labels of a folder; gives the Sentinel-2 patch that it belongs to, too."""
    file = next(iter([*path.glob("*_labels_metadata.json"), *path.glob("labels.json")]))
    metadata = _json(file)
    endings = {one.stem.rpartition("_")[2] for one in path.glob("*.tif")}
    holds = tuple(key for key, band in (("s1", "VV"), ("s2", "B02")) if band in endings)
    labels = metadata.get("labels")
    if not isinstance(labels, list):
        raise ManifestError(f"'{file}' has no list `labels`")
    patch = str(metadata.get("corresponding_s2_patch", path.name))
    return patch, (path, holds, tuple(map(str, labels)))


def _json(file: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise ManifestError(f"cannot read '{file}' as JSON: {problem}") from problem
    if not isinstance(found, dict):
        raise ManifestError(f"'{file}' is no JSON object with `labels`")
    return found


def _sample(name: str, folders: Sequence[_Folder], sensors: Mapping[str, Sensor], only_19: bool) -> ListedSample:
    first, _, labels = folders[0]
    other = next((path for path, _, others in folders if set(others) != set(labels)), None)
    if other is not None:
        raise ManifestError(f"'{first}' and '{other}' show one patch, but have other labels")
    holders = {key: next((path for path, holds, _ in folders if key in holds), None) for key in sensors}
    if not only_19:
        _check_labels(labels, name)
    return ListedSample(
        name=name,
        images=tuple(known_entry(name, path, sensors[key]) for key, path in holders.items() if path is not None),
        label=to_19_classes(labels, patch=name) if only_19 else labels,
    )


def _lists(root: Path) -> ListSpec | None:
    """Find the published lists in the folder; None: they are not there."""
    for pattern in ("bigearthnet-{}.csv", "{}.csv"):
        files = {part: root / pattern.format(part) for part in SPLITS}
        if all(file.is_file() for file in files.values()):
            return ListSpec(train=str(files["train"]), val=str(files["val"]), test=str(files["test"]))
    return None
