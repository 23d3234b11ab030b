"""Published data sets of maps of labels that TorchGeo lacks, read from their own folders by the names of their files.

Tested on small folders laid out so, not on the published files; what is not certain is said where it stands.
"""

import datetime as dt
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from anyband.data.store import Split
from anyband.errors import ManifestError, nearest_name
from anyband.labelled.maps import DenseItem, LabelFile, dense_data, image_entry
from anyband.labelled.published.found import check_options, chosen_option, known_root
from anyband.labelled.published.sickle import open_sickle
from anyband.labelled.samples import DataSpec, TaskData
from anyband.sensors.catalogue import resolve_sensor

__all__ = ["MAP_SETS", "open_map_set"]

# Source: https://huggingface.co/datasets/ibm-nasa-geospatial/hls_burn_scars, band order and values of the masks.
_HLS_BANDS = ("B02", "B03", "B04", "B8A", "B11", "B12")
_HLS_CLASSES = {0: "not burned", 1: "burn scar"}
_HLS_PARTS: dict[str, Split] = {"training": "train", "validation": "test"}
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
_S1_ORDER = ("VV", "VH")
_DFC_WANTED = (
    "folders `ROIs0000_test` and `ROIs0000_validation`, each with folders `s1_*`, `s2_*` and `dfc_*` of files such as "
    "`ROIs0000_test_s2_0_p0.tif`"
)
_DFC_NAME = re.compile(r"_(s2|s1|dfc)_(.*)$")


@dataclass(frozen=True, kw_only=True)
class _Slot:
    """Images of one sensor, as a data set stores them."""

    sensor: str
    """Of the catalogue."""
    order: tuple[str, ...]
    """Bands of a file, in order."""
    used: tuple[str, ...]
    """Bands that are read where none are asked for."""
    encoding: str
    """Of the stored numbers."""


_HLS = _Slot(sensor="hls-s30", order=_HLS_BANDS, used=_HLS_BANDS, encoding="physical")
# B10 sees cirrus and no ground; the published evaluation leaves it out.
_DFC_S2 = _Slot(
    sensor="sentinel2-l1c",
    order=_S2_ORDER,
    used=tuple(band for band in _S2_ORDER if band != "B10"),
    encoding="dn",
)
_DFC_S1 = _Slot(sensor="sentinel1-grd", order=_S1_ORDER, used=_S1_ORDER, encoding="db")


def open_map_set(spec: DataSpec, *, seed: int) -> TaskData:
    """Open a published data set of maps of labels from its folder. Nothing is ever downloaded.

    Args:
        spec: `source` is its name, `root` its folder; `kind` is that of the set.
        seed: of what is drawn.

    Raises:
        ManifestError: there is no such set, or the folder is not as it is published.
    """
    if spec.source not in MAP_SETS:
        raise ManifestError(
            f"there is no published set of maps '{spec.source}' ({', '.join(MAP_SETS)})"
            f"{nearest_name(spec.source, MAP_SETS)}"
        )
    return MAP_SETS[spec.source](spec, seed)


def _open_burn_scars(spec: DataSpec, seed: int) -> TaskData:
    """Open HLS Burn Scars: 512 × 512 pixels of six bands of HLS S30 as reflectance, and masks of −1, 0, 1.

    `validation` is the test part, as in PANGAEA; validation is drawn from `training`.
    """
    check_options(spec, ())
    root = known_root(spec, wanted=_HLS_WANTED)
    items = [
        item
        for folder, part in _HLS_PARTS.items()
        for item in _burn_scars_of(_below(root, folder, wanted=_HLS_WANTED), part, spec)
    ]
    declared = replace(spec, kind="class_map", classes=spec.classes or _HLS_CLASSES, ignore=spec.ignore or (-1,))
    return dense_data(items, declared, name=spec.source, seed=seed)


def _burn_scars_of(folder: Path, part: Split, spec: DataSpec) -> list[DenseItem]:
    items = []
    for image in sorted(folder.glob("*_merged.tif")):
        label = image.with_name(image.name.replace("_merged.tif", ".mask.tif"))
        if not label.exists():
            raise ManifestError(f"'{image}' has no mask '{label.name}'. '{spec.source}' wants: {_HLS_WANTED}")
        named = _HLS_NAME.search(image.name)
        date = None if named is None else dt.datetime.strptime(named[1], "%Y%j").replace(tzinfo=dt.UTC)
        entry = image_entry(_row(image, _HLS, spec, slot=0) | {"datetime": date}, spec, 0, folder=folder)
        items.append(DenseItem(images=(entry,), label=LabelFile(path=label, variable="1"), split=part))
    if not items:
        raise ManifestError(f"'{folder}' has no `*_merged.tif`. '{spec.source}' wants: {_HLS_WANTED}")
    return items


def _open_dfc2020(spec: DataSpec, seed: int) -> TaskData:
    """Open DFC2020: 256 × 256 pixels of Sentinel-2 L1C and Sentinel-1, and land cover of eight classes.

    Option `images`: `S2` (default), `S1` or `S2+S1`. Option `train`: `test` (default) trains on the 5128 patches of
    `ROIs0000_test` and reports on the 986 of `ROIs0000_validation`, as CROMA and those after it do; `validation` is the
    other way round. That the SMARTIES evaluation divides them so is assumed: its files are 8-bit pictures, as theirs.
    Validation is drawn from the training part.
    """
    check_options(spec, ("images", "train"))
    images = chosen_option(spec, "images", ("S2", "S1", "S2+S1"))
    train = chosen_option(spec, "train", ("test", "validation"))
    root = known_root(spec, wanted=_DFC_WANTED)
    test = "validation" if train == "test" else "test"
    parts: list[tuple[str, Split]] = [(train, "train"), (test, "test")]
    items = [
        item
        for name, part in parts
        for item in _dfc_of(_below(root, f"ROIs0000_{name}", wanted=_DFC_WANTED), part, spec, images.split("+"))
    ]
    declared = replace(spec, kind="class_map", classes=spec.classes or _DFC_CLASSES, ignore=spec.ignore or _DFC_IGNORE)
    return dense_data(items, declared, name=spec.source, seed=seed)


def _dfc_of(folder: Path, part: Split, spec: DataSpec, images: Sequence[str]) -> list[DenseItem]:
    slots = {"S2": _DFC_S2, "S1": _DFC_S1}
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
        DenseItem(
            images=tuple(
                image_entry(
                    _row(files[image.casefold()][patch], slots[image], spec, slot=slot), spec, slot, folder=folder
                )
                for slot, image in enumerate(images)
            ),
            label=LabelFile(path=files["dfc"][patch], variable="1"),
            split=part,
        )
        for patch in patches
    ]


def _dfc_files(folder: Path, kind: str) -> dict[str, Path]:
    """Find the files of a kind by the rest of their names, which is that of the patch."""
    found = {}
    for path in sorted(folder.glob(f"{kind}_*/**/*.tif")):
        named = _DFC_NAME.search(path.stem)
        if named is not None and named[1] == kind:
            found[named[2]] = path
    return found


def _below(root: Path, name: str, *, wanted: str) -> Path:
    """Find a folder by its name, in the root or one folder down."""
    found = sorted([*(path for path in (root / name,) if path.is_dir()), *root.glob(f"*/{name}/")])
    if not found:
        raise ManifestError(f"'{root}' has no folder `{name}`. It wants: {wanted}")
    return found[0]


def _row(path: Path, image: _Slot, spec: DataSpec, *, slot: int) -> dict[str, object]:
    """What is known of an image; bands that are asked for are found by their order in the file."""
    sensor = resolve_sensor(image.sensor)
    order = [sensor.band(band).name for band in image.order]
    asked = spec.bands[slot] if slot < len(spec.bands) and spec.bands[slot] else image.used
    names = [sensor.band(band).name for band in asked]
    missing = next((name for name in names if name not in order), None)
    if missing is not None:
        raise ManifestError(f"'{spec.source}' has no band '{missing}' ({', '.join(order)})")
    row: dict[str, object] = {
        "path": str(path.absolute()),
        "bands": {name: str(order.index(name) + 1) for name in names},
    }
    if not spec.sensors:
        row["sensor"] = image.sensor
    if not spec.encodings:
        row["encoding"] = image.encoding
    return row


def _open_sickle(spec: DataSpec, seed: int) -> TaskData:
    return open_sickle(spec, seed=seed)


MAP_SETS: dict[str, Callable[[DataSpec, int], TaskData]] = {
    "dfc2020": _open_dfc2020,
    "hls-burn-scars": _open_burn_scars,
    "sickle": _open_sickle,
}
"""Name of each data set, and what opens it: given what the user says of it, and a seed."""
