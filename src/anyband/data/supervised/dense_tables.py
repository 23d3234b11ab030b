"""Tables and folders of images with maps of labels, as a list of items; nothing is opened yet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from anyband.data.chip_index import SPLITS, Split
from anyband.data.labelled_sets import grouped_rows
from anyband.data.manifest import COLUMNS, ImageEntry, parse_entry
from anyband.data.manifest_rows import MANIFEST_ENDINGS, read_rows
from anyband.data.supervised.label_rasters import LabelRaster
from anyband.data.supervised.records import DataSpec
from anyband.errors import AnybandError, ManifestError, nearest_name

__all__ = ["VECTOR_ENDINGS", "DenseItem", "LabelFile", "dense_items", "image_entry"]

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
