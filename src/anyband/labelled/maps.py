"""Labels of pixels: tables, scenes and samples of them."""

import datetime as dt
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from anyband.arrays import Array, Bool, Num
from anyband.data.manifest import COLUMNS, MANIFEST_ENDINGS, ImageEntry, entry_sensor, parse_entry, read_rows
from anyband.data.places import PlacedImage, find_places
from anyband.data.store import SPLITS, Split
from anyband.errors import AnybandError, InputError, ManifestError, nearest_name
from anyband.labelled.blocks import blocked
from anyband.labelled.images import PARTIAL, contents_of, fingerprint_of
from anyband.labelled.label_rasters import (
    ClassTable,
    LabelPixels,
    LabelRaster,
    Labels,
    check_values,
    class_table,
    read_polygons,
    to_class_map,
    to_number_map,
    whole_values,
)
from anyband.labelled.published.found import check_options
from anyband.labelled.samples import DENSE_KINDS, DataSpec, Sample, SampleImage, SplitSpec, TaskData, keep_samples
from anyband.labelled.splits import parts_from_lists
from anyband.labelled.tables import grouped_rows
from anyband.progress import progress
from anyband.randomness import permutation
from anyband.rasters.grid import Grid, Tile, Window, check_same_ground, matching_window, tiles_of
from anyband.rasters.reader import open_raster
from anyband.sensors.sensor import Sensor

__all__ = [
    "SHOWN_FROM",
    "VECTOR_ENDINGS",
    "DenseItem",
    "DenseParts",
    "LabelFile",
    "Scene",
    "dense_data",
    "dense_items",
    "image_entry",
    "open_dense",
    "open_scenes",
    "parts_of",
    "read_image",
]

VECTOR_ENDINGS = (".gpkg", ".geojson", ".json", ".shp", ".fgb", ".parquet", ".geoparquet")
"""Of files of polygons."""

_RASTER_ENDINGS = (".tif", ".tiff", ".jp2", ".png", ".jpg", ".jpeg", ".bmp", ".nc", ".h5", ".img")
_OWN_COLUMNS = {
    "image": "the image, instead of `path`",
    "before": "the earlier image",
    "after": "the later image",
    "label": "raster of labels, or polygons",
    "label_variable": "variable or band of the raster of labels",
    "label_nodata": "value of the raster that means no label",
    "set": "rows of one name in it are the images of one sample, in their order",
}
# What a sample says as a whole; the rest of a manifest's columns are said of each image.
_OF_SAMPLES = ("label", "label_variable", "label_nodata", "split", "place")
_PAIR = ("before", "after")

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class LabelFile:
    """Where labels come from, before polygons are read."""

    path: Path
    """Raster or polygons."""
    variable: str = ""
    """Of a raster with several bands."""
    nodata: float | None = None
    """Of a raster, instead of its own."""

    @property
    def is_polygons(self) -> bool:
        """Whether it is a file of polygons."""
        return self.path.suffix.casefold() in VECTOR_ENDINGS

    def raster(self) -> LabelRaster:
        """Take it as a raster."""
        return LabelRaster(path=self.path, variable=self.variable, nodata=self.nodata)


@dataclass(frozen=True, kw_only=True)
class DenseItem:
    """Images of one piece of ground, and its labels."""

    images: tuple[ImageEntry, ...]
    """One for each slot."""
    label: LabelFile
    """Its labels, on the first image's grid."""
    split: Split | None = None
    """Declared part; None: drawn."""
    place: str | None = None
    """Declared place; None: found by overlap."""


def image_entry(row: Mapping[str, Any], spec: DataSpec, slot: int, *, folder: Path) -> ImageEntry:
    """Check what is said of an image; sensor, bands and encoding are those of its slot where its row says nothing.

    Args:
        row: columns of a manifest.
        spec: says the rest.
        slot: of the image.
        folder: that relative paths are relative to.

    Raises:
        ManifestError: a value is wrong, or no sensor is said.
    """
    row = {key: value for key, value in row.items() if value not in (None, "")}
    sensor = _of_slot(spec.sensors, slot, what="sensors")
    if sensor is not None and "sensor" not in row:
        # A YAML file that a recipe names is relative to where the command runs, one of a table to the table.
        is_file = sensor.casefold().endswith((".yaml", ".yml"))
        row["sensor"] = str(Path(sensor).absolute()) if is_file else sensor
    bands = _of_slot(spec.bands, slot, what="bands")
    if bands and "bands" not in row:
        row["bands"] = list(bands)
    encoding = _of_slot(spec.encodings, slot, what="encodings")
    if encoding and not {"encoding", "scale", "offset"} & set(row):
        row["encoding"] = encoding
    if "sensor" not in row:
        raise ManifestError(
            f"nothing says which sensor took '{row.get('path', '')}'; give a column `sensor`, or `sensors` of the data"
        )
    entry = parse_entry(row, folder=folder)
    missing = next((path for path in entry.source.paths if not path.exists()), None)
    if missing is not None:
        raise ManifestError(f"'{missing}' does not exist")
    return entry


def _of_slot(values: Sequence[_T], slot: int, *, what: str) -> _T | None:
    """Take what is declared of a slot; what is declared once is of all slots."""
    if not values:
        return None
    if len(values) == 1:
        return values[0]
    if slot >= len(values):
        raise ManifestError(f"`{what}` declares {len(values)} images a sample, but this is image {slot + 1} of one")
    return values[slot]


def dense_items(source: Path, spec: DataSpec) -> list[DenseItem]:
    """List the samples of a table, or of a folder with `images` (or `before` and `after`) and `labels`.

    Raises:
        ManifestError: neither, or a row or file is wrong.
    """
    if source.is_dir():
        items = _folder_items(source, spec)
    elif source.suffix.casefold() in MANIFEST_ENDINGS and source.exists():
        items = _table_items(source, spec)
    else:
        found = "is a file of another kind" if source.exists() else "does not exist"
        raise ManifestError(
            f"images with maps of labels come as a table ({', '.join(MANIFEST_ENDINGS)}), or as a folder with "
            f"`images` and `labels`; '{source}' {found}"
        )
    if len(spec.sensors) > 1:
        wrong = next((item for item in items if len(item.images) != len(spec.sensors)), None)
        if wrong is not None:
            raise ManifestError(
                f"`sensors` declares {len(spec.sensors)} images a sample, '{wrong.images[0].name}' of '{source}' "
                f"has {len(wrong.images)}"
            )
    _check_parts(items, source)
    return items


def _check_parts(items: Sequence[DenseItem], source: Path) -> None:
    declared = sum(item.split is not None for item in items)
    if 0 < declared < len(items):
        raise ManifestError(
            f"{len(items) - declared} of the {len(items)} samples of '{source}' have no `split`; declare it for all, "
            "or for none to have it drawn"
        )


def _table_items(table: Path, spec: DataSpec) -> list[DenseItem]:
    rows = read_rows(table)
    if not rows:
        raise ManifestError(f"'{table}' lists no images; give it a row for each")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    is_pair = all(name in columns for name in _PAIR)
    _check_columns(columns, table, is_pair=is_pair)
    groups = [[index] for index in range(len(rows))]
    if "set" in columns:
        said = {name: [_text(row.get(name)) for row in rows] for name in _OF_SAMPLES if name in columns}
        groups = grouped_rows([_text(row.get("set")) for row in rows], said, table)
    return [_item([rows[index] for index in group], group[0] + 1, table, spec, is_pair=is_pair) for group in groups]


def _check_columns(columns: Sequence[str], table: Path, *, is_pair: bool) -> None:
    known = {*COLUMNS, *_OWN_COLUMNS}
    if is_pair:
        known |= {f"{when}_{name}" for when in _PAIR for name in COLUMNS}
    for name in columns:
        if name not in known | {"geometry", "bbox"}:
            raise ManifestError(f"'{table}' has an unknown column '{name}'{nearest_name(name, known)}")
    if "label" not in columns:
        raise ManifestError(
            f"'{table}' needs a column `label` with the raster of labels, or the polygons, of each image; it has "
            f"{', '.join(columns)}{nearest_name('label', columns)}"
        )
    if not is_pair and not {"image", "path"} & set(columns):
        raise ManifestError(
            f"'{table}' needs a column `image`, or `before` and `after`; it has {', '.join(columns)}"
            f"{nearest_name('image', columns)}"
        )


def _item(rows: Sequence[Mapping[str, Any]], number: int, table: Path, spec: DataSpec, *, is_pair: bool) -> DenseItem:
    first = rows[0]
    try:
        images = [_pair_row(first, when) for when in _PAIR] if is_pair else [_image_row(row) for row in rows]
        return DenseItem(
            images=tuple(image_entry(row, spec, slot, folder=table.parent) for slot, row in enumerate(images)),
            label=_label(first, table.parent),
            split=_split(_text(first.get("split"))),
            place=_text(first.get("place")) or None,
        )
    except AnybandError as problem:
        raise ManifestError(f"row {number} of '{table}': {problem}") from problem


def _image_row(row: Mapping[str, Any]) -> dict[str, Any]:
    known = {key: value for key, value in row.items() if key in COLUMNS and key not in ("split", "place")}
    return known | ({"path": row["image"]} if _text(row.get("image")) else {})


def _pair_row(row: Mapping[str, Any], when: str) -> dict[str, Any]:
    """What is said of one of two images: `before_datetime` goes before `datetime`, which is of both."""
    own = {key.removeprefix(f"{when}_"): value for key, value in row.items() if key.startswith(f"{when}_")}
    own = {key: value for key, value in own.items() if value not in (None, "")}
    return _image_row(row) | own | {"path": row.get(when)}


def _label(row: Mapping[str, Any], folder: Path) -> LabelFile:
    name = _text(row.get("label"))
    if not name:
        raise ManifestError("it has no label; name the raster of labels or the polygons, or leave the row out")
    path = folder / name
    if not path.exists():
        raise ManifestError(f"label '{path}' does not exist")
    nodata = _text(row.get("label_nodata"))
    try:
        value = float(nodata) if nodata else None
    except ValueError as problem:
        raise ManifestError(f"label_nodata '{nodata}' is no number") from problem
    return LabelFile(path=path, variable=_text(row.get("label_variable")), nodata=value)


def _split(name: str) -> Split | None:
    match = next((known for known in SPLITS if known == name), None)
    if name and match is None:
        raise ManifestError(f"split '{name}' is unknown ({', '.join(SPLITS)}){nearest_name(name, SPLITS)}")
    return match


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _folder_items(folder: Path, spec: DataSpec) -> list[DenseItem]:
    parts = [(part, folder / part) for part in SPLITS if (folder / part).is_dir()]
    if not parts:
        return _items_of_part(folder, None, spec)
    return [item for part, inside in parts for item in _items_of_part(inside, part, spec)]


def _items_of_part(folder: Path, part: Split | None, spec: DataSpec) -> list[DenseItem]:
    slots = [folder / name for name in (("images",) if (folder / "images").is_dir() else _PAIR)]
    missing = [path.name for path in (*slots, folder / "labels") if not path.is_dir()]
    if missing:
        raise ManifestError(
            f"'{folder}' has no folder {' or '.join(repr(name) for name in missing)}; images with maps of labels are "
            "in `images` (or `before` and `after`) and `labels`, equal but for the ending of their names, in the "
            "folder itself or in `train`, `val` and `test`"
        )
    labels = _by_stem(folder / "labels", (*_RASTER_ENDINGS, *VECTOR_ENDINGS), folders=False)
    images = [_by_stem(slot, _RASTER_ENDINGS, folders=True) for slot in slots]
    for found, slot in zip(images, slots, strict=True):
        _check_pairs(found, labels, slot)
    items = []
    for stem, label in labels.items():
        rows = [{"path": str(found[stem].absolute())} for found in images]
        entries = tuple(image_entry(row, spec, slot, folder=folder) for slot, row in enumerate(rows))
        items.append(DenseItem(images=entries, label=LabelFile(path=label), split=part))
    return items


def _by_stem(folder: Path, endings: Sequence[str], *, folders: bool) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not ((path.is_dir() and folders) or path.suffix.casefold() in endings):
            continue
        stem = path.name if path.is_dir() else path.stem
        if stem in found:
            raise ManifestError(f"'{found[stem]}' and '{path}' have one name; images and labels are paired by it")
        found[stem] = path
    if not found:
        raise ManifestError(f"'{folder}' has no files ({' '.join(endings)}); fill or remove it")
    return found


def _check_pairs(images: Mapping[str, Path], labels: Mapping[str, Path], folder: Path) -> None:
    without = sorted(set(images) ^ set(labels))
    if without:
        stem = without[0]
        has, lacks = (images[stem], "label") if stem in images else (labels[stem], f"image in '{folder}'")
        more = f", like {len(without) - 1} more" if len(without) > 1 else ""
        raise ManifestError(
            f"'{has}' has no {lacks}{more}; images and labels are equal but for the ending of their names, so rename, "
            "add or remove one, or list them in a table"
        )


SHOWN_FROM = 20
"""A bar is shown for so many images. chosen: opening one takes a tenth of a second where it has many variables."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """Images of one piece of ground, and its labels."""

    name: str
    """Path below the folder that all share; no two scenes have one."""
    images: tuple[ImageEntry, ...]
    """One for each slot."""
    sensors: tuple[Sensor, ...]
    """Of the images, as stored."""
    grids: tuple[Grid, ...]
    """Of the images."""
    times: tuple[dt.datetime | None, ...]
    """When they were taken; None: not known."""
    labels: Labels
    """On the first image."""
    split: Split | None
    """Declared part."""
    place: str | None
    """Declared place."""

    @property
    def files(self) -> list[Path]:
        """All files of the images."""
        return [path for entry in self.images for path in (*entry.source.paths, *entry.source.valid_paths)]


def open_scenes(items: Sequence[DenseItem], spec: DataSpec) -> tuple[list[Scene], dict[int, str]]:
    """Open all images for what their headers say, and read the polygons.

    Args:
        items: of a table or folder.
        spec: says what labels mean.

    Returns:
        The scenes, and the name of each value where polygons have names as labels.

    Raises:
        AnybandError: an image can't be opened, or images of one sample show different ground.
    """
    files = [item.label.path for item in items if item.label.is_polygons]
    polygons, classes = read_polygons(
        files, column=spec.label_column, classes=spec.classes, outside=spec.options.get("outside")
    )
    scenes = []
    with progress("open images", len(items), shown=len(items) > SHOWN_FROM) as advance:
        for item, name in zip(items, _names(items), strict=True):
            labels = polygons[item.label.path] if item.label.is_polygons else item.label.raster()
            scenes.append(_scene(item, name, labels))
            advance(1)
    return scenes, classes


def _scene(item: DenseItem, name: str, labels: Labels) -> Scene:
    grids, times = [], []
    for entry in item.images:
        with open_raster(entry.source, entry.sensor) as reader:
            grids.append(reader.grid)
            times.append(entry.datetime or reader.datetime)
    for grid, entry in zip(grids[1:], item.images[1:], strict=True):
        check_same_ground(grids[0], grid, names=(item.images[0].name, entry.name))
    return Scene(
        name=name,
        images=item.images,
        sensors=tuple(entry_sensor(entry) for entry in item.images),
        grids=tuple(grids),
        times=tuple(times),
        labels=labels,
        split=item.split,
        place=item.place,
    )


def read_image(scene: Scene, slot: int, window: Window) -> SampleImage:
    """Read a window of an image of a scene."""
    entry = scene.images[slot]
    with open_raster(entry.source, entry.sensor) as reader:
        raster = reader.read(window)
    return SampleImage(
        dn=raster.dn, valid=raster.valid, sensor=scene.sensors[slot], grid=raster.grid, datetime=scene.times[slot]
    )


def _names(items: Sequence[DenseItem]) -> list[str]:
    """Name each sample by its first image, or by all where that is not enough: the same on every machine."""
    paths = [os.path.abspath(entry.source.paths[0]) for item in items for entry in item.images]  # noqa: PTH100
    common = Path(os.path.commonpath([str(Path(path).parent) for path in paths]))
    every = [[_image_name(entry, common) for entry in item.images] for item in items]
    firsts = Counter(names[0] for names in every)
    found = [names[0] if firsts[names[0]] == 1 else " + ".join(names) for names in every]
    twice = next((name for name, count in Counter(found).items() if count > 1), None)
    if twice is not None:
        raise ManifestError(f"'{twice}' stands {found.count(twice)} times with labels; keep one of them")
    return found


def _image_name(entry: ImageEntry, common: Path) -> str:
    path = Path(os.path.abspath(entry.source.paths[0])).relative_to(common).as_posix()  # noqa: PTH100
    source = entry.source
    if source.time is not None:
        return f"{path} @{source.time:%Y-%m-%d}"
    return path if source.time_index is None else f"{path} @{source.time_index}"


@dataclass(frozen=True, kw_only=True)
class DenseParts:
    """Where each scene belongs."""

    splits: tuple[Split | None, ...]
    """Part of each; None: left out."""
    places: tuple[str, ...]
    """Place of each."""
    notes: tuple[str, ...] = ()
    """What a reader of the results should know."""


def parts_of(scenes: Sequence[Scene], spec: DataSpec, *, seed: int) -> DenseParts:
    """Find the part and place of each scene.

    Parts are those of lists, or declared; else places are drawn, so that images of one ground stay together: images
    without a declared place that overlap are of one. Where validation is not declared it is drawn from training. With
    blocks every scene is `train`, to be divided later.

    Args:
        scenes: opened.
        spec: says lists, blocks and shares.
        seed: of the draw.

    Raises:
        ManifestError: lists that do not fit, or parts declared together with blocks.
        InputError: too few places for the parts.
    """
    shares = spec.split
    if shares.blocks is not None:
        _check_undeclared(scenes, shares, spec.source)
        places, notes = _places_by_ground(scenes)
        return DenseParts(splits=_all_training(scenes), places=places, notes=notes)
    if shares.lists is not None:
        names = [scene.name for scene in scenes]
        absent = spec.options.get("absent", "refuse")
        listed = parts_from_lists(shares.lists, names, source=spec.source, absent=absent)
        parts = DenseParts(splits=listed.parts, places=_own_places(scenes), notes=listed.notes)
        return _with_validation(parts, shares, seed=seed)
    declared = tuple(scene.split for scene in scenes)
    if all(part is not None for part in declared):
        return _with_validation(DenseParts(splits=declared, places=_own_places(scenes)), shares, seed=seed)
    places, notes = _places_by_ground(scenes)
    parts = DenseParts(splits=_all_training(scenes), places=places, notes=notes)
    return _drawn(parts, val=shares.val, test=shares.test, seed=seed)


def _check_undeclared(scenes: Sequence[Scene], shares: SplitSpec, source: str) -> None:
    if shares.lists is not None or any(scene.split is not None for scene in scenes):
        raise ManifestError(
            f"'{source}' declares parts, and `split.blocks` would draw them; take out the column `split` (or the "
            "folders `train`, `val`, `test`, or `split.lists`), or the blocks"
        )


def _all_training(scenes: Sequence[Scene]) -> tuple[Split | None, ...]:
    everything: list[Split | None] = ["train" for _ in scenes]
    return tuple(everything)


def _own_places(scenes: Sequence[Scene]) -> tuple[str, ...]:
    return tuple(scene.place or scene.name for scene in scenes)


def _places_by_ground(scenes: Sequence[Scene]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Take declared places as they are, and join the other scenes that overlap."""
    free = [index for index, scene in enumerate(scenes) if scene.place is None]
    images = [
        PlacedImage(name=scenes[index].name, grid=scenes[index].grids[0], place=None, split=None) for index in free
    ]
    if not images:
        return _own_places(scenes), ()
    found, notes = find_places(images)
    names = {free[member]: place.name for place in found for member in place.members}
    declared = {scene.place for scene in scenes}
    # A place that is found must not be taken for a declared one of its name.
    return (
        tuple(
            scene.place if scene.place is not None else names[index] + " (found)" * (names[index] in declared)
            for index, scene in enumerate(scenes)
        ),
        tuple(notes),
    )


def _with_validation(parts: DenseParts, shares: SplitSpec, *, seed: int) -> DenseParts:
    """Draw validation from training where there is none."""
    if "val" in parts.splits or shares.val == 0:
        return parts
    drawn = _drawn(parts, val=shares.val, test=0.0, seed=seed)
    note = f"{drawn.splits.count('val')} of {parts.splits.count('train')} training images are drawn for validation"
    return DenseParts(splits=drawn.splits, places=parts.places, notes=(*parts.notes, note))


def _drawn(parts: DenseParts, *, val: float, test: float, seed: int) -> DenseParts:
    """Draw places of the training part for validation and test."""
    if not (val >= 0 and test >= 0 and val + test < 1):
        raise InputError(f"shares must be 0 or more and leave some to learn from, found val {val:g}, test {test:g}")
    pool = sorted({place for place, part in zip(parts.places, parts.splits, strict=True) if part == "train"})
    num_val, num_test = (max(1, round(share * len(pool))) if share else 0 for share in (val, test))
    if num_val + num_test >= len(pool):
        raise InputError(
            f"{len(pool)} place{'s' * (len(pool) != 1)} can't be divided into {1 + (val > 0) + (test > 0)} parts; add "
            "some, declare a column `split`, or divide the ground of each image by `split.blocks`"
        )
    order = [pool[index] for index in permutation(seed, step=0, purpose="parts of places", size=len(pool))]
    part_of: dict[str, Split] = dict.fromkeys(order[:num_test], SPLITS[2])
    part_of |= dict.fromkeys(order[num_test : num_test + num_val], SPLITS[1])
    splits = tuple(
        part_of.get(place, part) if part == "train" else part
        for place, part in zip(parts.places, parts.splits, strict=True)
    )
    return DenseParts(splits=splits, places=parts.places, notes=parts.notes)


# chosen: more values than any map of classes has; a raster of numbers has more.
_MOST_CLASSES = 256


class _LabelReader:
    """Reads labels, and keeps the last: many dates of a place share one file of them."""

    def __init__(self) -> None:
        self._last: tuple[tuple[Labels, Grid, Window], LabelPixels] | None = None

    def read(self, scene: Scene, window: Window) -> LabelPixels:
        """Read a window of the labels of a scene. What is given must not be changed."""
        key, last = (scene.labels, scene.grids[0], window), self._last
        if last is None or last[0] != key:
            last = key, scene.labels.read(scene.grids[0], window, image=scene.name)
            self._last = last
        return last[1]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Piece:
    """One sample: a scene, or a square of it."""

    scene: Scene
    """What it is cut from."""
    tile: Tile
    """Which pixels."""
    split: Split
    """Its part."""
    place: str
    """Its place."""
    label_reader: "_LabelReader"
    """Reads its labels."""

    @property
    def name(self) -> str:
        """Of the sample."""
        whole = self.tile.window == self.scene.grids[0].whole
        return self.scene.name if whole else f"{self.scene.name} ({self.tile.window})"

    @property
    def where(self) -> str:
        """Of its labels, for messages."""
        return f"label '{self.scene.labels.path}'"

    def labels(self) -> LabelPixels:
        """Read its labels, as stored."""
        return self.label_reader.read(self.scene, self.tile.window)

    def windows(self) -> list[Window]:
        """Find its pixels in each image."""
        first, names = self.scene.grids[0], [entry.name for entry in self.scene.images]
        return [
            matching_window(self.tile.window, first, grid, names=(names[0], name))
            for grid, name in zip(self.scene.grids, names, strict=True)
        ]


def open_dense(spec: DataSpec, *, seed: int) -> TaskData:
    """Find images with maps of labels in a table or a folder.

    A table (CSV, YAML, Parquet) has the columns `image` and `label` (a raster on the image's grid, or polygons), or
    `before`, `after` and `label`, or `path`, `set` and `label` with a row for each image of a sample. It may have
    `split`, `place` and the columns of a manifest (`anyband.data.manifest.COLUMNS`); of pairs, `before_datetime` and
    the like speak of one image. `label_variable` names the band of a label raster with several, `label_nodata` its
    value for "no label". A folder has `images` (or `before` and `after`) and `labels`, itself or in `train`, `val` and
    `test`.

    Pixels have no label where the raster says no data or `ignore`, where no polygon lies (unless the option `outside`
    says what that is), and where no image of the sample shows anything. Samples without any label are left out.
    Where `classes` is empty, the values that occur in training are the classes, ascending.

    Args:
        spec: which data.
        seed: of parts that are drawn.

    Raises:
        ManifestError: there is nothing, or a row is wrong.
        GeometryError: labels on another grid than their image, or images of one sample on different ground.
        InputError: labels that are no class, no labels at all, or a class that training lacks.
    """
    source = Path(spec.source)
    check_options(spec, ("outside",))
    return dense_data(dense_items(source, spec), spec, name=source.stem if source.is_file() else source.name, seed=seed)


def dense_data(items: Sequence[DenseItem], spec: DataSpec, *, name: str, seed: int) -> TaskData:
    """Make samples of images with maps of labels. Every label is read once, to be checked and counted.

    Args:
        items: of one data set.
        spec: says what labels mean, how large images are cut, and how parts are drawn.
        name: of the data, for people.
        seed: of the draw.

    Raises:
        GeometryError: labels on another grid than their image, or images of one sample on different ground.
        InputError: labels that are no class, no labels at all, or a class that training lacks.
    """
    if spec.kind not in DENSE_KINDS:
        raise InputError(f"'{name}' has maps of labels; `kind` must be {' or '.join(DENSE_KINDS)}, found '{spec.kind}'")
    scenes, named = open_scenes(items, spec)
    parts = parts_of(scenes, spec, seed=seed)
    pieces = _pieces(scenes, parts, spec.tile_px)
    counts = _counted(pieces, spec)
    kept = [index for index, found in enumerate(counts) if found]
    if not kept:
        raise InputError(f"'{name}' has no labels: every pixel of its {len(pieces)} samples is no data or ignored")
    left_out = len(pieces) - len(kept)
    notes = (*parts.notes, *((f"{left_out} samples without labels are left out",) if left_out else ()))
    pieces, counts = [pieces[index] for index in kept], [counts[index] for index in kept]
    table = _table(pieces, counts, spec, named) if spec.kind == "class_map" else None
    data = _task_data(pieces, spec, table, name=name)
    data = replace(data, notes=notes)
    if spec.split.blocks is None:
        return data
    return blocked(
        data,
        spec.split.blocks,
        val=spec.split.val,
        test=spec.split.test,
        seed=seed,
        labels=lambda index: _labels(pieces[index], spec, table),
    )


def _pieces(scenes: Sequence[Scene], parts: DenseParts, tile_px: int | None) -> list[_Piece]:
    if tile_px is not None and tile_px < 1:
        raise InputError(f"tile_px must be at least 1, found {tile_px}")
    reader = _LabelReader()
    found = [
        _Piece(scene=scene, tile=tile, split=split, place=place, label_reader=reader)
        for scene, split, place in zip(scenes, parts.splits, parts.places, strict=True)
        if split is not None
        for tile in tiles_of(scene.grids[0], tile_px)
    ]
    for piece in found:
        piece.windows()
    return found


def _counted(pieces: Sequence[_Piece], spec: DataSpec) -> list[Counter[int]]:
    """Count the pixels of each value of each sample, without those to be ignored; of numbers, all as value 0."""
    found = []
    with progress("check labels", len(pieces), shown=len(pieces) > SHOWN_FROM) as advance:
        for piece in pieces:
            pixels = piece.labels()
            known = pixels.known & piece.tile.is_own()
            if spec.kind == "number_map":
                numbers = to_number_map(pixels, ignore=spec.ignore)[known]
                counts = Counter({0: int(np.isfinite(numbers).sum())})
            else:
                values, sizes = np.unique(whole_values(pixels, where=piece.where)[known], return_counts=True)
                counts = Counter(dict(zip(values.tolist(), sizes.tolist(), strict=True)))
            found.append(Counter({value: size for value, size in counts.items() if size and value not in spec.ignore}))
            advance(1)
    return found


def _table(
    pieces: Sequence[_Piece], counts: Sequence[Counter[int]], spec: DataSpec, named: Mapping[int, str]
) -> ClassTable:
    """Name the classes, and see that every label is one and that training has it."""
    by_part = {part: Counter[int]() for part in SPLITS}
    for piece, found in zip(pieces, counts, strict=True):
        by_part[piece.split].update(found)
    classes = dict(spec.classes) or dict(named) or _found_classes(by_part["train"], pieces)
    table = class_table(classes, ignore=spec.ignore)
    if len(table.names) < 2:
        only = f"only '{table.names[0]}'" if table.names else "none"
        raise InputError(f"maps of classes need two classes at least, found {only}; name them in `classes`")
    declared = bool(spec.classes) or bool(named)
    for piece, found in zip(pieces, counts, strict=True):
        if declared or piece.split == "train":
            check_values(found, table, where=piece.where)
    for part in SPLITS[1:]:
        _check_learned(part, by_part, table)
    return table


def _found_classes(counts: Counter[int], pieces: Sequence[_Piece]) -> dict[int, str]:
    values = sorted(counts)
    if len(values) > _MOST_CLASSES:
        raise InputError(
            f"{pieces[0].where} and others have {len(values)} different values, which is no map of classes; use "
            "`kind: number_map`, or name the classes in `classes`"
        )
    if values and values[0] < 0:
        raise InputError(
            f"{pieces[0].where} or others have the value {values[0]} at {counts[values[0]]} pixels, which is seldom a "
            "class; list it in `ignore`, or name all classes in `classes`"
        )
    return {value: str(value) for value in values}


def _check_learned(part: Split, by_part: Mapping[Split, Counter[int]], table: ClassTable) -> None:
    """Refuse a class that is asked for and was never shown."""

    def classes(of: Split) -> Counter[str]:
        found = Counter[str]()
        for value, count in by_part[of].items():
            found[table.names[table.positions[value]] if value in table.positions else str(value)] += count
        return found

    shown, asked = classes("train"), classes(part)
    lacking = [name for name in asked if not shown[name]]
    if lacking:
        pixels = ", ".join(f"'{name}' ({asked[name]} pixels)" for name in lacking[:8])
        raise InputError(
            f"{len(lacking)} class{'es are' if len(lacking) > 1 else ' is'} in the labels of part '{part}' and not in "
            f"those of training: {pixels}; divide the data so that training has each class, or list the value in "
            "`ignore`"
        )


def _task_data(pieces: Sequence[_Piece], spec: DataSpec, table: ClassTable | None, *, name: str) -> TaskData:
    names, splits = tuple(piece.name for piece in pieces), tuple(piece.split for piece in pieces)
    contents, labels = _contents(pieces), _label_hashes(pieces, spec, table)
    classes = () if table is None else table.names
    return TaskData(
        name=name,
        kind=spec.kind,
        classes=classes,
        names=names,
        splits=splits,
        places=tuple(piece.place for piece in pieces),
        sensors=tuple(piece.scene.sensors for piece in pieces),
        read=keep_samples(lambda index: _sample(pieces[index], spec, table)),
        fingerprint=fingerprint_of(names, contents, labels, splits, classes=classes),
        contents=contents,
    )


def _contents(pieces: Sequence[_Piece]) -> tuple[str, ...]:
    """Hash the images of each sample; other times, bands or windows of one file are other contents."""
    scenes = list(dict.fromkeys(piece.scene for piece in pieces))
    files = dict.fromkeys(tuple(scene.files) for scene in scenes)
    hashes = dict(zip(files, contents_of(list(files)), strict=True))
    found = []
    for piece in pieces:
        content = hashes[tuple(piece.scene.files)]
        sources = [entry.source for entry in piece.scene.images]
        chosen = [(one.bands, one.time_index, one.time, one.valid_values, one.valid_variable) for one in sources]
        state = blake2b(f"{content} {chosen!r} {piece.tile.window}".encode(), digest_size=16)
        found.append((PARTIAL if content.startswith(PARTIAL) else "") + state.hexdigest())
    return tuple(found)


def _label_hashes(pieces: Sequence[_Piece], spec: DataSpec, table: ClassTable | None) -> list[str]:
    """Hash the labels of each sample with what is said of them and of its images' numbers."""
    files = dict.fromkeys(piece.scene.labels.path for piece in pieces)
    hashes = dict(zip(files, contents_of([[path] for path in files]), strict=True))
    values = () if table is None else sorted(table.positions.items())
    meaning = (spec.ignore, spec.label_column, spec.options.get("outside"), values)
    return [
        repr((hashes[piece.scene.labels.path], piece.scene.labels.settings, meaning, _said(piece.scene)))
        for piece in pieces
    ]


def _said(scene: Scene) -> list[tuple[object, ...]]:
    return [(entry.sensor.name, entry.sensor.band_names, entry.encoding, entry.source.nodata) for entry in scene.images]


def _sample(piece: _Piece, spec: DataSpec, table: ClassTable | None) -> Sample:
    images = tuple(read_image(piece.scene, slot, window) for slot, window in enumerate(piece.windows()))
    found, _ = _labels(piece, spec, table)
    hidden = ~_shown(images)
    if table is None:
        return Sample(images=images, number_map=np.where(hidden, np.nan, found))
    return Sample(images=images, class_map=np.where(hidden, -1, found).astype(np.int64))


def _labels(piece: _Piece, spec: DataSpec, table: ClassTable | None) -> tuple[Num[Array, "row col"], Grid]:
    """Read the labels of a sample alone, and where they lie."""
    grid = piece.scene.grids[0]
    pixels, own = piece.labels(), piece.tile.is_own()
    if table is None:
        return np.where(own, to_number_map(pixels, ignore=spec.ignore), np.nan), grid.part(piece.tile.window)
    return np.where(own, to_class_map(pixels, table, where=piece.where), -1), grid.part(piece.tile.window)


def _shown(images: Sequence[SampleImage]) -> Bool[Array, "row col"]:
    """Tell where at least one image of the first one's size has data in a band."""
    size = images[0].dn.shape[1:]
    seen = [image.valid.any(axis=0) for image in images if image.dn.shape[1:] == size]
    return np.asarray(np.any(seen, axis=0))
