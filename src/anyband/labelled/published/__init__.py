"""Published data sets by name, read from the folders in which they are distributed, and their normalisations."""

import csv
import datetime as dt
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from anyband.data.store import SPLITS, Split
from anyband.errors import CatalogueError, ManifestError, agreed, counted, nearest_name
from anyband.files import read_yaml
from anyband.labelled.images import open_images, published_data
from anyband.labelled.samples import DataSpec, ListSpec, TaskData, declared_slots, known_root, options_of
from anyband.labelled.tables import ListedSample, known_entry
from anyband.progress import progress
from anyband.sensors.catalogue import find_bands, get_sensor
from anyband.sensors.ranges import load_ranges, published_statistics
from anyband.sensors.sensor import BandStatistics, Sensor

__all__ = [
    "CLASSES_19",
    "CLASSES_43",
    "PUBLISHED",
    "are_of_pictures",
    "open_published",
    "published_statistics_of",
    "to_19_classes",
]

_FOLDER = Path(__file__).parent
_INSTEAD = "take `statistics: data` to count them on the training images"


_CLASS_FOLDERS: dict[str, Any] = read_yaml(_FOLDER / "class_folders.yaml", error=CatalogueError)

_MAPS = ("dfc2020", "dynamicearthnet", "hls-burn-scars", "sickle", "spacenet7")
PUBLISHED = tuple(sorted((*_CLASS_FOLDERS, "bigearthnet-mm", "fmow-pairs", *_MAPS)))
"""Names of the data sets, in alphabetic order."""


def open_published(spec: DataSpec, *, seed: int) -> TaskData:
    """Open the published data set that `source` names from its folder, `root`. Nothing is ever downloaded.
    Raises `ManifestError` where there is no such set, or the folder is not as it is published.
    """
    if spec.source in _CLASS_FOLDERS:
        return _open_class_folders(_CLASS_FOLDERS[spec.source], spec, seed=seed)
    if spec.source == "bigearthnet-mm":
        return _open_bigearthnet(spec, seed=seed)
    if spec.source == "fmow-pairs":
        return _open_fmow_pairs(spec, seed=seed)
    if spec.source in _MAPS:
        # Late: maps take libraries that whole images do not.
        from anyband.labelled.published.maps import open_burn_scars, open_dfc2020, open_sickle
        from anyband.labelled.published.planet import open_dynamicearthnet, open_spacenet7

        openers = {"dfc2020": open_dfc2020, "hls-burn-scars": open_burn_scars, "sickle": open_sickle}
        openers |= {"dynamicearthnet": open_dynamicearthnet, "spacenet7": open_spacenet7}
        return openers[spec.source](spec, seed=seed)
    raise ManifestError(
        f"there is no published data set '{spec.source}' (known: {', '.join(PUBLISHED)})"
        f"{nearest_name(spec.source, PUBLISHED)}"
    )


def _open_class_folders(one: Mapping[str, Any], spec: DataSpec, *, seed: int) -> TaskData:
    folder = _class_folder(one, known_root(spec, wanted=_classes_wanted(one)))
    bands = (tuple(one["bands"]),) if "bands" in one and not spec.sensors else ()
    declared = replace(
        spec,
        source=str(folder),
        root=None,
        kind="class",
        sensors=spec.sensors or (one["sensor"],),
        bands=spec.bands or bands,
    )
    data = open_images(declared, seed=seed)
    found, num_classes = len(data.classes), len(one["classes"])
    notes = (f"the folder has {found} of the {num_classes} classes of {one['title']}",) if found < num_classes else ()
    return replace(data, name=spec.source, statistics=one["statistics"], notes=(*data.notes, *notes))


def _class_folder(one: Mapping[str, Any], root: Path) -> Path:
    """Find the folder whose folders are the classes."""
    known = {name.casefold() for name in one["classes"]}
    folders: list[Path] = [root, *(root / place for place in one["places"])]
    for folder in folders:
        names = [child.name for child in folder.iterdir() if child.is_dir()] if folder.is_dir() else []
        strange = [name for name in names if name.casefold() not in known and not name.startswith(".")]
        if not any(name.casefold() in known for name in names):
            continue
        if strange:
            raise ManifestError(
                f"'{folder / strange[0]}' is no class of {one['title']}{nearest_name(strange[0], one['classes'])}; "
                "take it away, or open the folder itself as class folders"
            )
        return folder
    raise ManifestError(f"'{root}' has no class folder of {one['title']}. It wants: {_classes_wanted(one)}")


def _classes_wanted(one: Mapping[str, Any]) -> str:
    endings = " or ".join(f"*{ending}" for ending in one["endings"])
    return (
        f"the folders {', '.join(one['classes'])} with {endings}, in the folder itself or in "
        f"{' or '.join(one['places'])}"
    )


def are_of_pictures(name: str) -> bool:
    """Tell whether a published normalisation is of pictures that were made of the data set, band by band."""
    return "pictures" in _published_set(name)[1]


def _published_set(name: str) -> tuple[str, Mapping[str, Any]]:
    sets = read_yaml(_FOLDER / "statistics.yaml", error=CatalogueError)["sets"]
    known = {_folded(alias): title for title, entry in sets.items() for alias in (title, *entry.get("aliases", ()))}
    if _folded(name) not in known:
        raise CatalogueError(
            f"no normalisation was published for '{name}' (for {', '.join(sets)}){nearest_name(name, sets)}; {_INSTEAD}"
        )
    return known[_folded(name)], sets[known[_folded(name)]]


def published_statistics_of(
    name: str, sensor: Sensor, *, moments: Mapping[str, tuple[float, float]] | None = None
) -> dict[str, BandStatistics]:
    """Give the normalisation published for a data set, by band of the sensor, in the bands' physical units.
    In `name`, such as `EuroSAT`, case and how its parts are joined do not count. One of pictures (`are_of_pictures`)
    takes the data's own mean and deviation of each band, from which pictures were made.
    Raises `CatalogueError` where nothing is published for this data set, sensor, unit or band.
    Source: SMARTIES, arXiv 2506.19585, and the public configuration of its v1 weights.
    """
    title, entry = _published_set(name)
    images = _images_of(title, entry["images"], sensor, any_unit=moments is not None)
    if "moments" in images:
        return _unclipped(title, images, sensor)
    by_range = published_statistics(images["set"], table_name=images["table"])
    table = load_ranges(images["table"])
    ranges = {band: entry.name for entry in table.ranges for of, band in entry.known if of == sensor.name}
    ranges |= {band: range_name for of, band, range_name in table.published if of == sensor.name}
    found = {band.name: by_range[ranges[band.name]] for band in sensor.bands if ranges.get(band.name) in by_range}
    missing = [band.name for band in sensor.bands if band.name not in found]
    if missing:
        raise CatalogueError(
            f"the published normalisation of '{title}' has no band {', '.join(missing)} of '{sensor.name}' "
            f"(it has {', '.join(ranges)}); leave the band out with data.bands, or {_INSTEAD}"
        )
    for band, (mean, std) in () if moments is None else moments.items():
        ends = (mean - entry["pictures"] * std, mean + entry["pictures"] * std)
        found[band] = replace(found[band], p01=ends[0], p99=ends[1])
    return found


def _unclipped(title: str, images: Mapping[str, Any], sensor: Sensor) -> dict[str, BandStatistics]:
    """Give (value − mean) / deviation: p01 and p99 are the ends of what bands hold, so that nothing is clipped."""
    known, scale, (low, high) = images["moments"], images["unit_scale"], images["span"]
    missing = [band.name for band in sensor.bands if band.name not in known]
    if missing:
        raise CatalogueError(
            f"the published normalisation of '{title}' has no band {', '.join(missing)} of '{sensor.name}' "
            f"(it has {', '.join(known)}); leave the band out with data.bands, or {_INSTEAD}"
        )
    moments = {band.name: (known[band.name][0] * scale, known[band.name][1] * scale) for band in sensor.bands}
    return {
        band: BandStatistics(p01=low, p99=high, mean=(mean - low) / (high - low), std=std / (high - low))
        for band, (mean, std) in moments.items()
    }


def _images_of(
    title: str, entries: Sequence[Mapping[str, Any]], sensor: Sensor, *, any_unit: bool
) -> Mapping[str, Any]:
    found = next((entry for entry in entries if entry["sensor"] == sensor.name), None)
    if found is None:
        raise CatalogueError(
            f"the published normalisation of '{title}' is of {' and '.join(entry['sensor'] for entry in entries)}, and "
            f"the images are declared as '{sensor.name}'; {_INSTEAD}"
        )
    other = next((band for band in sensor.bands if band.unit != found["unit"] and not any_unit), None)
    if other is not None:
        raise CatalogueError(
            f"the published normalisation of '{title}' is in the unit '{found['unit']}', and band '{other.name}' of "
            f"'{sensor.name}' is in '{other.unit}'; {_INSTEAD}"
        )
    return found


def _folded(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


# Functional Map of the World: pictures of Maxar satellites beside Sentinel-2 of the same place and time.

# Source: metadata page of fMoW-Sentinel (SatMAE, Cong et al. 2022): 13 bands by wavelength, so B8A follows B08; its
# files of splits; images with a number under 100 are of the time of the fMoW picture with that number.
_FMOW_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
_FMOW_TABLES: dict[Split, tuple[str, ...]] = {
    "train": ("train.csv",),
    "val": ("val.csv",),
    "test": ("test_gt.csv", "test.csv"),
}
_FMOW_COLUMNS = ("category", "location_id", "image_id", "timestamp")
_FIRST_WITHOUT_PICTURE = 100
_FMOW_WANTED = (
    "fmow-sentinel/ with train.csv, val.csv, test_gt.csv (category, location_id, image_id, timestamp) and "
    "<split>/<category>/<category>_<location>/<category>_<location>_<image>.tif, and fmow-rgb/ with the same folders "
    "and …_<image>_rgb.jpg"
)


def _open_fmow_pairs(spec: DataSpec, *, seed: int) -> TaskData:
    """Open pairs of a picture and a Sentinel-2 image; the class is the category of the place.
    Images without a picture, and pairs of which a file is missing, are left out; their number is noted. `root` holds
    `fmow-sentinel` and `fmow-rgb`; options are `images` (all, rgb, s2) and `absent` (refuse, leave_out) for lists that
    name what is not there. Validation is drawn where its table is missing. Raises `ManifestError` where the folder is
    not as it should be.
    """
    images = options_of(spec, {"images": ("all", "rgb", "s2"), "absent": ("refuse", "leave_out")})["images"]
    root = known_root(spec, wanted=_FMOW_WANTED)
    sensors = dict(zip(_kinds(images), declared_slots(_fmow_sensors(images), spec, name=spec.source), strict=True))
    rows = [(split, row) for split in _FMOW_TABLES for row in _fmow_rows(root, split)]
    paired = [(split, row) for split, row in rows if _number(row, split) < _FIRST_WITHOUT_PICTURE]
    samples = [_pair(root, split, row, sensors) for split, row in paired]
    there = [one for one in samples if all(path.is_file() for image in one.images for path in image.source.paths)]
    if not there:
        raise ManifestError(
            f"'{root}' has none of the {counted(len(samples), 'pair')} that its tables name. It wants: {_FMOW_WANTED}"
        )
    notes = ["Sentinel-2 images are composites of 90 days around the time of the picture"]
    if len(there) < len(samples):
        gone = len(samples) - len(there)
        notes.append(f"{counted(gone, 'pair', 'have')} no files in the folder and {agreed(gone, 'are')} left out")
    return published_data(
        spec,
        there,
        kind="class",
        classes=sorted({name for one in there if isinstance(one.label, tuple) for name in one.label}),
        sensors=tuple(sensors.values()),
        lists=spec.split.lists,
        notes=notes,
        seed=seed,
    )


def _kinds(images: str) -> tuple[str, ...]:
    return ("rgb", "s2") if images == "all" else (images,)


def _fmow_sensors(images: str) -> list[Sensor]:
    sensors = {"rgb": get_sensor("maxar-rgb"), "s2": find_bands(_FMOW_BANDS, get_sensor("sentinel2-l1c"))}
    return [sensors[kind] for kind in _kinds(images)]


def _fmow_rows(root: Path, split: Split) -> Iterator[dict[str, str]]:
    table = next((path for name in _FMOW_TABLES[split] if (path := root / "fmow-sentinel" / name).is_file()), None)
    if table is None:
        if split == "val":  # drawn from training
            return
        raise ManifestError(f"'{root}' has no 'fmow-sentinel/{_FMOW_TABLES[split][0]}'. It wants: {_FMOW_WANTED}")
    with table.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        for name in _FMOW_COLUMNS:
            if name not in (reader.fieldnames or ()):
                raise ManifestError(
                    f"'{table}' has no column '{name}' (it has {', '.join(reader.fieldnames or ())})"
                    f"{nearest_name(name, reader.fieldnames or ())}"
                )
        yield from reader


def _number(row: Mapping[str, str], split: Split) -> int:
    try:
        return int(row["image_id"])
    except ValueError:
        raise ManifestError(f"the table of {split} has the image_id '{row['image_id']}', which is no number") from None


def _pair(root: Path, split: Split, row: Mapping[str, str], sensors: Mapping[str, Sensor]) -> ListedSample:
    category, location = row["category"], f"{row['category']}_{row['location_id']}"
    folder = Path("test_gt" if split == "test" else split) / category / location
    stem, time = f"{location}_{row['image_id']}", _time(row["timestamp"])
    rgb, s2 = root / "fmow-rgb" / folder / f"{stem}_rgb.jpg", root / "fmow-sentinel" / folder / f"{stem}.tif"
    files = {"rgb": rgb, "s2": s2}
    images = (replace(known_entry(stem, files[kind], sensor), datetime=time) for kind, sensor in sensors.items())
    return ListedSample(name=stem, images=tuple(images), label=(category,), split=split, place=location)


def _time(text: str) -> dt.datetime | None:
    """Read the middle of the 90 days that a composite is made of."""
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=dt.UTC)).astimezone(dt.UTC)


# BigEarthNet as distributed: patches of Sentinel-1 and Sentinel-2 with labels in JSON.

_BIGEARTHNET: dict[str, Any] = read_yaml(_FOLDER / "bigearthnet.yaml", error=CatalogueError)
CLASSES_19: tuple[str, ...] = tuple(_BIGEARTHNET["classes_19"])
_CLASS_OF: Mapping[str, str | None] = _BIGEARTHNET["class_of"]
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


_BEN_SENSORS = {"s1": "sentinel1-grd", "s2": "sentinel2-l2a"}
_BEN_STATISTICS = {"s1": "BigEarthNetS1", "s2": "BigEarthNetS2"}
_BEN_WANTED = (
    "folders of patches, each with single-band files (…_B02.tif, …_VV.tif) and …_labels_metadata.json or labels.json; "
    "Sentinel-1 in the same folders, or in others whose JSON says `corresponding_s2_patch`; and, where the splits are "
    "not to be drawn, train.csv, val.csv and test.csv (or bigearthnet-train.csv, …) that name the patches"
)


_Folder = tuple[Path, tuple[str, ...], tuple[str, ...]]
"""Path of a folder of a patch, which of `s1` and `s2` are inside, and its labels of the 43 classes."""


def _open_bigearthnet(spec: DataSpec, *, seed: int) -> TaskData:
    """Open patches of BigEarthNet. Those whose labels have no class among the 19 are left out, as its publishers do.
    Options are `bands` (all, s1, s2), `num_classes` (19, 43) and `absent` (refuse, leave_out) for lists that name what
    is not there. Raises `ManifestError` where the folder is not as it should be, or a label is unknown.
    """
    known = {"bands": ("all", "s1", "s2"), "num_classes": ("19", "43"), "absent": ("refuse", "leave_out")}
    options = options_of(spec, known)
    root = known_root(spec, wanted=_BEN_WANTED)
    bands, only_19 = options["bands"], options["num_classes"] == "19"
    keys = ("s1", "s2") if bands == "all" else (bands,)
    sensors = declared_slots([get_sensor(_BEN_SENSORS[key]) for key in keys], spec, name=spec.source)
    patches = sorted(_patches(root).items())
    found = [_patch(name, folders, dict(zip(keys, sensors, strict=True)), only_19) for name, folders in patches]
    complete = [one for one in found if len(one.images) == len(keys)]
    kept = [one for one in complete if one.label or not only_19]
    if not kept:
        raise ManifestError(f"'{root}' has no patches with {' and '.join(keys)}. It wants: {_BEN_WANTED}")
    notes = []
    if gone := len(found) - len(complete):
        notes.append(f"{counted(gone, 'patch')} without {' and '.join(keys)} {agreed(gone, 'are')} left out")
    if gone := len(complete) - len(kept):
        notes.append(f"{counted(gone, 'patch', 'have')} none of the 19 classes and {agreed(gone, 'are')} left out")
    return published_data(
        spec,
        kept,
        kind="labels",
        classes=CLASSES_19 if only_19 else CLASSES_43,
        sensors=sensors,
        lists=spec.split.lists or _lists(root),
        statistics=_BEN_STATISTICS[keys[0]] if len(keys) == 1 else "BigEarthNet-MM",
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


def _patch(name: str, folders: Sequence[_Folder], sensors: Mapping[str, Sensor], only_19: bool) -> ListedSample:
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
        files = {split: root / pattern.format(split) for split in SPLITS}
        if all(file.is_file() for file in files.values()):
            return ListSpec(train=str(files["train"]), val=str(files["val"]), test=str(files["test"]))
    return None
