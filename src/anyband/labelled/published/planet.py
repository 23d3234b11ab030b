"""Published sets of maps on images of Planet: DynamicEarthNet and SpaceNet 7, divided and read as PANGAEA does."""

import datetime as dt
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from anyband.data.manifest import ImageEntry
from anyband.data.store import SPLITS, Split
from anyband.errors import CatalogueError, ManifestError, agreed, counted
from anyband.files import read_yaml
from anyband.labelled.maps import map_data
from anyband.labelled.published.maps import row_of
from anyband.labelled.samples import DataSpec, TaskData, known_root, options_of
from anyband.labelled.tables import LabelFile, ListedSample, make_entry

__all__ = ["open_dynamicearthnet", "open_spacenet7"]

# Tested on small folders laid out so, not on the published files. Sources: `data/utae_dynamicen.py` of
# github.com/aysim/dynnet, and `utae_dynamicen.py`, `spacenet7.py` and their configurations in
# github.com/yurujaja/pangaea-bench (PANGAEA, arXiv 2412.04204).
_DEN_CLASSES = ("impervious surface", "agriculture", "forest & other vegetation", "wetlands", "soil", "water")
_DEN_SNOW = 6
_DEN_DAYS = ("01", "05", "10", "15", "20", "25")
# What lines of the split files begin with, and where the images are in the folder that PANGAEA reads.
_DEN_FOLDERS = ("reprocess-cropped/UTM-24000/", "planet/")
_DEN_WANTED = (
    "`dynnet_training_splits` with train.txt, val.txt and test.txt, each line the folder of a place's images, the file "
    "of its labels and YYYY-MM, and what they name: daily images YYYY-MM-DD.tif (in `planet/…` or `reprocess-cropped/"
    "UTM-24000/…`) and labels of a band for each class"
)
_SN7_CLASSES = {0: "background", 1: "building"}
_SN7_WANTED = (
    "`train/PLACE/images_masked` with `global_monthly_YYYY_MM_mosaic_PLACE.tif` and `train/PLACE/labels_raster` with "
    "`…_Buildings.tif`, and `metadata_train.json` or `train/PLACE/UDM_masks`"
)
_SN7_NAME = re.compile(r"global_monthly_(\d{4})_(\d{2})_mosaic_")


def open_dynamicearthnet(spec: DataSpec, *, seed: int) -> TaskData:
    """Open DynamicEarthNet: a month of a place, 1024 × 1024 pixels of Planet Fusion in four bands, and its land cover.
    Option `dates`: `6` (default) gives the images of days 1, 5, 10, 15, 20 and 25 as one sample, `1` that of day 1.
    Six classes; snow has no label. `ManifestError` where the folder is not as it is published.
    """
    days = _DEN_DAYS[: int(options_of(spec, {"dates": ("6", "1")})["dates"])]
    root = known_root(spec, wanted=_DEN_WANTED)
    samples = []
    for split, folder, label, month in _den_lines(root):
        files = [folder / f"{month}-{day}.tif" for day in days]
        images = tuple(_image(file, "Planet Fusion", file.stem, spec, slot) for slot, file in enumerate(files))
        coded, place = LabelFile(path=label, coded="one_hot"), "/".join(folder.parts[-3:-1])
        samples.append(ListedSample(name="", images=images, label=coded, split=split, place=place))
    classes = spec.classes or dict(enumerate(_DEN_CLASSES))
    declared = replace(spec, kind="class_map", classes=classes, ignore=spec.ignore or (_DEN_SNOW,))
    return replace(map_data(samples, declared, name=spec.source, seed=seed), statistics="DynamicEarthNet")


def _image(path: Path, kind: str, date: str, spec: DataSpec, slot: int = 0) -> ImageEntry:
    time = dt.datetime.fromisoformat(date).replace(tzinfo=dt.UTC)
    return make_entry(row_of(path, kind, spec, slot=slot) | {"datetime": time}, slot, folder=path.parent, spec=spec)


def _den_lines(root: Path) -> Iterator[tuple[Split, Path, Path, str]]:
    for split in SPLITS:
        file = root / "dynnet_training_splits" / f"{split}.txt"
        if not file.is_file():
            raise ManifestError(f"'{root}' has no '{file.relative_to(root)}'. 'dynamicearthnet' wants: {_DEN_WANTED}")
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            words = line.split()
            if not words:
                continue
            if len(words) != 3 or re.fullmatch(r"\d{4}-\d{2}", words[2]) is None:
                raise ManifestError(f"'{file}', line {number}: expected FOLDER LABEL YYYY-MM, found '{line}'")
            yield split, _den_folder(root, words[0]), root / words[1].lstrip("/"), words[2]


def _den_folder(root: Path, named: str) -> Path:
    """Find the images where PANGAEA has them, else where the split files name them."""
    moved = root / named.lstrip("/").replace(*_DEN_FOLDERS)
    return moved if moved.is_dir() else root / named.lstrip("/")


def open_spacenet7(spec: DataSpec, *, seed: int) -> TaskData:
    """Open SpaceNet 7: monthly mosaics of 1024 × 1024 pixels, 8-bit red, green and blue, and buildings.
    Places are divided as PANGAEA does (`spacenet7.yaml`); places of the list that are not in the folder are noted, and
    so are those in the folder that the list lacks. Months with clouds or without labels are left out.
    `ManifestError` where the folder is not as it is published.
    """
    options_of(spec, {})
    root = known_root(spec, wanted=_SN7_WANTED)
    listed = read_yaml(Path(__file__).parent / "spacenet7.yaml", error=CatalogueError)
    there = {folder.name for folder in root.glob("train/*/") if (folder / "images_masked").is_dir()}
    split_of: dict[str, Split] = {place: split for split in SPLITS for place in listed[split] if place in there}
    if not split_of:
        raise ManifestError(f"'{root}' has no place of the published split. '{spec.source}' wants: {_SN7_WANTED}")
    usable = _sn7_usable(root)
    samples = []
    for place, split in split_of.items():
        for image in sorted((root / "train" / place / "images_masked").glob("*.tif")):
            named = _SN7_NAME.match(image.name)
            label = root / "train" / place / "labels_raster" / f"{image.stem}_Buildings.tif"
            if named is None or not label.is_file():
                continue
            year, month = int(named[1]), int(named[2])
            if not _is_usable(image, usable, (place, year, month)):
                continue
            entry = _image(image, "Planet mosaic", f"{year:04d}-{month:02d}-01", spec)
            # Whatever a tag says: 0 is no building.
            coded = LabelFile(path=label, variable="1", nodata=math.nan, coded="non_zero")
            samples.append(ListedSample(name="", images=(entry,), label=coded, split=split, place=place))
    if not samples:
        raise ManifestError(f"'{root}' has no month with labels. '{spec.source}' wants: {_SN7_WANTED}")
    declared = replace(spec, kind="class_map", classes=spec.classes or _SN7_CLASSES)
    data = map_data(samples, declared, name=spec.source, seed=seed)
    notes = _sn7_notes({split: listed[split] for split in SPLITS}, there)
    return replace(data, statistics="SpaceNet7", notes=(*data.notes, *notes))


def _sn7_usable(root: Path) -> Mapping[tuple[str, int, int], bool] | None:
    """Read which months of places have labels and no clouds; None: there is no such file."""
    file = root / "metadata_train.json"
    if not file.is_file():
        return None
    try:
        found: dict[str, list[dict[str, Any]]] = json.loads(file.read_text(encoding="utf-8"))
        return {
            (place, int(one["year"]), int(one["month"])): bool(one["label"]) and not one["mask"]
            for place, months in found.items()
            for one in months
        }
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise ManifestError(f"cannot read '{file}', lists of year, month, mask and label by place: {problem}") from None


def _is_usable(image: Path, usable: Mapping[tuple[str, int, int], bool] | None, month: tuple[str, int, int]) -> bool:
    if usable is not None:
        return usable.get(month, False)
    return not (image.parents[1] / "UDM_masks" / f"{image.stem}_UDM.tif").exists()


def _sn7_notes(listed: Mapping[Split, list[str]], there: set[str]) -> Iterator[str]:
    every = {place for places in listed.values() for place in places}
    if absent := len(every - there):
        yield f"{counted(absent, 'place')} of the published split {agreed(absent, 'are')} not in the folder"
    if extra := len(there - every):
        yield f"{counted(extra, 'place')} in the folder {agreed(extra, 'are')} not in the published split and left out"
