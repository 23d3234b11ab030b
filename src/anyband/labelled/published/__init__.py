"""Published data sets by name, read from the folders in which they are distributed, and their normalisations."""

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from anyband.data.store import Split
from anyband.errors import CatalogueError, ManifestError, nearest_name
from anyband.files import read_yaml
from anyband.labelled.samples import DataSpec, TaskData, known_root, options_of
from anyband.labelled.tables import LabelFile, ListedSample, make_entry
from anyband.sensors.catalogue import resolve_sensor
from anyband.sensors.ranges import load_ranges, published_statistics
from anyband.sensors.sensor import BandStatistics, Sensor

__all__ = ["PUBLISHED", "open_published", "published_statistics_of"]

_FOLDER = Path(__file__).parent
_INSTEAD = "take `statistics: data` to count them on the training images"


_CLASS_FOLDERS: dict[str, Any] = read_yaml(_FOLDER / "class_folders.yaml", error=CatalogueError)

PUBLISHED = tuple(sorted((*_CLASS_FOLDERS, "bigearthnet-mm", "dfc2020", "fmow-pairs", "hls-burn-scars", "sickle")))
"""Names of the data sets, in alphabetic order."""


def open_published(spec: DataSpec, *, seed: int) -> TaskData:
    """Open the published data set that `source` names from its folder, `root`. Nothing is ever downloaded.
    Raises `ManifestError` where there is no such set, or the folder is not as it is published.
    """
    # Late: each set has libraries of its own.
    if spec.source in _CLASS_FOLDERS:
        return _open_class_folders(_CLASS_FOLDERS[spec.source], spec, seed=seed)
    if spec.source == "bigearthnet-mm":
        from anyband.labelled.published.bigearthnet import open_bigearthnet

        return open_bigearthnet(spec, seed=seed)
    if spec.source == "fmow-pairs":
        from anyband.labelled.published.fmow import open_fmow_pairs

        return open_fmow_pairs(spec, seed=seed)
    if spec.source == "sickle":
        from anyband.labelled.published.sickle import open_sickle

        return open_sickle(spec, seed=seed)
    if spec.source == "hls-burn-scars":
        return _open_burn_scars(spec, seed=seed)
    if spec.source == "dfc2020":
        return _open_dfc2020(spec, seed=seed)
    raise ManifestError(
        f"there is no published data set '{spec.source}' (known: {', '.join(PUBLISHED)})"
        f"{nearest_name(spec.source, PUBLISHED)}"
    )


def _open_class_folders(one: Mapping[str, Any], spec: DataSpec, *, seed: int) -> TaskData:
    from anyband.labelled.images import open_images

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


# Maps of labels that TorchGeo lacks, read by the names of their files. Tested on small folders laid out so, not on the
# published files; what is not certain is said where it stands.

# Source: https://huggingface.co/datasets/ibm-nasa-geospatial/hls_burn_scars, band order and values of the masks.
_HLS_BANDS = ("B02", "B03", "B04", "B8A", "B11", "B12")
_HLS_CLASSES = {0: "not burned", 1: "burn scar"}
_HLS_SPLITS: dict[str, Split] = {"training": "train", "validation": "test"}
_HLS_WANTED = (
    "folders `training` and `validation` with `subsetted_512x512_HLS.S30.TILE.DATE.v1.4_merged.tif` and "
    "`subsetted_512x512_HLS.S30.TILE.DATE.v1.4.mask.tif`"
)
_HLS_NAME = re.compile(r"HLS\.[SL]30\.T\w{5}\.(\d{7})\.")

# Source: Yokoya et al., "2020 IEEE GRSS Data Fusion Contest", IEEE GRSM 8(1), 2020: simplified IGBP classes. Savanna
# and snow are not in its labels, so eight classes are.
_DFC_CLASSES = {
    1: "forest",
    2: "shrubland",
    4: "grassland",
    5: "wetlands",
    6: "croplands",
    7: "urban/built-up",
    9: "barren",
    10: "water",
}
_DFC_IGNORE = (0, 3, 8, 255)
# Order in the files, as in SEN12MS, whose Sentinel-2 images are of level 1C.
# Source: Schmitt et al., "SEN12MS", ISPRS Annals IV-2/W7, 2019.
_S2_ORDER = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
_DFC_WANTED = (
    "folders `ROIs0000_test` and `ROIs0000_validation`, each with folders `s1_*`, `s2_*` and `dfc_*` of files such as "
    "`ROIs0000_test_s2_0_p0.tif`"
)
_DFC_NAME = re.compile(r"_(s2|s1|dfc)_(.*)$")

# Sensor, encoding, and bands of a file in their order, of each kind of image.
_SLOTS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "HLS": ("hls-s30", "physical", _HLS_BANDS),
    "S2": ("sentinel2-l1c", "dn", _S2_ORDER),
    "S1": ("sentinel1-grd", "db", ("VV", "VH")),
}
# It sees cirrus and no ground; the published evaluation of DFC2020 leaves it out.
_LEFT_OUT = "B10"


def _open_burn_scars(spec: DataSpec, *, seed: int) -> TaskData:
    """Open HLS Burn Scars: 512 × 512 pixels of six bands of HLS S30 as reflectance, and masks of −1, 0, 1.
    `validation` is the test split, as in PANGAEA; validation is drawn from `training`.
    """
    from anyband.labelled.maps import map_data

    options_of(spec, {})
    root = known_root(spec, wanted=_HLS_WANTED)
    folders = {_below(root, name, wanted=_HLS_WANTED): split for name, split in _HLS_SPLITS.items()}
    samples = [one for folder, split in folders.items() for one in _burn_scars_of(folder, split, spec)]
    declared = replace(spec, kind="class_map", classes=spec.classes or _HLS_CLASSES, ignore=spec.ignore or (-1,))
    return map_data(samples, declared, name=spec.source, seed=seed)


def _burn_scars_of(folder: Path, split: Split, spec: DataSpec) -> list[ListedSample]:
    samples = []
    for image in sorted(folder.glob("*_merged.tif")):
        label = image.with_name(image.name.replace("_merged.tif", ".mask.tif"))
        if not label.exists():
            raise ManifestError(f"'{image}' has no mask '{label.name}'. '{spec.source}' wants: {_HLS_WANTED}")
        named = _HLS_NAME.search(image.name)
        date = None if named is None else dt.datetime.strptime(named[1], "%Y%j").replace(tzinfo=dt.UTC)
        entry = make_entry(_row(image, "HLS", spec, slot=0) | {"datetime": date}, 0, folder=folder, spec=spec)
        samples.append(ListedSample(name="", images=(entry,), label=LabelFile(path=label, variable="1"), split=split))
    if not samples:
        raise ManifestError(f"'{folder}' has no `*_merged.tif`. '{spec.source}' wants: {_HLS_WANTED}")
    return samples


def _open_dfc2020(spec: DataSpec, *, seed: int) -> TaskData:
    """Open DFC2020: 256 × 256 pixels of Sentinel-2 L1C and Sentinel-1, and land cover of eight classes.
    Option `images`: `S2` (default), `S1` or `S2+S1`. Option `train`: `test` (default) trains on the 5128 patches of
    `ROIs0000_test` and reports on the 986 of `ROIs0000_validation`, as CROMA and those after it do; `validation` is the
    other way round. That the SMARTIES evaluation divides them so is assumed: its files are 8-bit pictures, as theirs.
    Validation is drawn from the training split.
    """
    from anyband.labelled.maps import map_data

    options = options_of(spec, {"images": ("S2", "S1", "S2+S1"), "train": ("test", "validation")})
    images, train = options["images"].split("+"), options["train"]
    root = known_root(spec, wanted=_DFC_WANTED)
    splits: dict[str, Split] = {train: "train", "validation" if train == "test" else "test": "test"}
    folders = {_below(root, f"ROIs0000_{name}", wanted=_DFC_WANTED): split for name, split in splits.items()}
    samples = [one for folder, split in folders.items() for one in _dfc_of(folder, split, spec, images)]
    declared = replace(spec, kind="class_map", classes=spec.classes or _DFC_CLASSES, ignore=spec.ignore or _DFC_IGNORE)
    return map_data(samples, declared, name=spec.source, seed=seed)


def _dfc_of(folder: Path, split: Split, spec: DataSpec, images: Sequence[str]) -> list[ListedSample]:
    files = {kind: _dfc_files(folder, kind) for kind in ("dfc", *(image.casefold() for image in images))}
    patches = sorted(files["dfc"])
    if not patches:
        raise ManifestError(f"'{folder}' has no labels. '{spec.source}' wants: {_DFC_WANTED}")
    for kind, found in files.items():
        missing = sorted(set(patches) ^ set(found))
        if missing:
            raise ManifestError(
                f"'{folder}' has {len(missing)} patches that are not there in both `{kind}` and `dfc`, such as "
                f"'{missing[0]}'. '{spec.source}' wants: {_DFC_WANTED}"
            )
    return [
        ListedSample(
            name="",
            images=tuple(
                make_entry(_row(files[image.casefold()][patch], image, spec, slot=slot), slot, folder=folder, spec=spec)
                for slot, image in enumerate(images)
            ),
            label=LabelFile(path=files["dfc"][patch], variable="1"),
            split=split,
        )
        for patch in patches
    ]


def _dfc_files(folder: Path, kind: str) -> dict[str, Path]:
    """Find the files of a kind by the rest of their names, which is that of the patch."""
    named = {path: _DFC_NAME.search(path.stem) for path in sorted(folder.glob(f"{kind}_*/**/*.tif"))}
    return {found[2]: path for path, found in named.items() if found is not None and found[1] == kind}


def _below(root: Path, name: str, *, wanted: str) -> Path:
    """Find a folder by its name, in the root or one folder down."""
    found = sorted([*(path for path in (root / name,) if path.is_dir()), *root.glob(f"*/{name}/")])
    if not found:
        raise ManifestError(f"'{root}' has no folder `{name}`. It wants: {wanted}")
    return found[0]


def _row(path: Path, image: str, spec: DataSpec, *, slot: int) -> dict[str, object]:
    """What is known of an image; bands that are requested are found by their order in the file."""
    name, encoding, order = _SLOTS[image]
    sensor = resolve_sensor(name)
    known = [sensor.band(band).name for band in order]
    requested = spec.bands[slot] if slot < len(spec.bands) else ()
    bands = [sensor.band(band).name for band in requested] or [band for band in known if band != _LEFT_OUT]
    missing = next((band for band in bands if band not in known), None)
    if missing is not None:
        raise ManifestError(f"'{spec.source}' has no band '{missing}' ({', '.join(known)})")
    row: dict[str, object] = {
        "path": [str(path.absolute())],
        "bands": {band: str(known.index(band) + 1) for band in bands},
    }
    if not spec.sensors:
        row["sensor"] = name
    if not spec.encodings:
        row["encoding"] = encoding
    return row


def published_statistics_of(name: str, sensor: Sensor) -> dict[str, BandStatistics]:
    """Give the normalisation published for a data set, by band of the sensor, in the bands' physical units.
    In `name`, such as `EuroSAT`, case and how its parts are joined do not count.
    Raises `CatalogueError` where nothing is published for this data set, sensor, unit or band.
    Source: SMARTIES, arXiv 2506.19585, and the public configuration of its v1 weights.
    """
    sets = read_yaml(_FOLDER / "statistics.yaml", error=CatalogueError)["sets"]
    known = {_folded(alias): title for title, entry in sets.items() for alias in (title, *entry.get("aliases", ()))}
    if _folded(name) not in known:
        raise CatalogueError(
            f"no normalisation was published for '{name}' (for {', '.join(sets)}){nearest_name(name, sets)}; {_INSTEAD}"
        )
    title = known[_folded(name)]
    images = _images_of(title, sets[title]["images"], sensor)
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
    return found


def _images_of(title: str, entries: Sequence[Mapping[str, str]], sensor: Sensor) -> Mapping[str, str]:
    found = next((entry for entry in entries if entry["sensor"] == sensor.name), None)
    if found is None:
        raise CatalogueError(
            f"the published normalisation of '{title}' is of {' and '.join(entry['sensor'] for entry in entries)}, and "
            f"the images are declared as '{sensor.name}'; {_INSTEAD}"
        )
    other = next((band for band in sensor.bands if band.unit != found["unit"]), None)
    if other is not None:
        raise CatalogueError(
            f"the published normalisation of '{title}' is in the unit '{found['unit']}', and band '{other.name}' of "
            f"'{sensor.name}' is in '{other.unit}'; {_INSTEAD}"
        )
    return found


def _folded(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())
