"""Tables and folders of labelled images: the one reader of both."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from anyband.data.manifest import COLUMNS, MANIFEST_ENDINGS, ImageEntry, parse_entry, rows_of
from anyband.data.store import SPLITS, Split
from anyband.errors import AnybandError, ManifestError, agreed, nearest_name
from anyband.labelled.samples import DENSE_KINDS, IMAGE_ENDINGS, DataSpec
from anyband.progress import progress
from anyband.rasters.reader import RasterSource
from anyband.sensors.catalogue import find_sensor_name
from anyband.sensors.sensor import Sensor, stored_encoding

__all__ = ["VECTOR_ENDINGS", "LabelFile", "ListedSample", "known_entry", "list_samples", "make_entry"]

VECTOR_ENDINGS = (".gpkg", ".geojson", ".json", ".shp", ".fgb", ".parquet", ".geoparquet")
"""Of files of polygons."""

_RASTER_ENDINGS = (".tif", ".tiff", ".jp2", ".png", ".jpg", ".jpeg", ".bmp", ".nc", ".h5", ".img")
_PATH_COLUMNS = ("path", "image", "file", "filename")
_LABEL_COLUMNS = ("label", "labels", "class")
_NUMBER_COLUMNS = ("label", "number", "value", "target")
# Of tables of maps, beside the columns of a manifest.
_MAP_COLUMNS = ("image", "before", "after", "label", "label_variable", "label_nodata", "set")
# What is of a sample as a whole; the rest of a manifest's columns is of each image.
_OF_SAMPLES = ("label", "label_variable", "label_nodata", "split", "place")
_PAIR = ("before", "after")
# A GeoParquet file has these.
_IGNORED = ("geometry", "bbox")
# What data sets call the folders of their splits.
_SPLIT_FOLDERS: dict[str, Split] = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
# chosen: fewer rows are read within two seconds.
_SHOWN_FROM = 20_000
_SHOWN_EVERY = 1_000
# chosen: as many names in a message as one reads.
_NAMED = 5
# Source: what Windows, macOS, Synology and Jupyter write into folders; names that begin with a dot are hidden.
_LITTER = ("thumbs.db", "desktop.ini", "@eadir", "__macosx", "$recycle.bin", "system volume information", "lost+found")

_Maker = Callable[[Mapping[str, Any], int | None], ImageEntry]


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelFile:
    """Where the labels of pixels come from."""

    path: Path
    variable: str = ""
    """Variable, band name or number from 1 of a raster, or layer of a file of polygons; empty: its only one."""
    nodata: float | None = None
    """Value of a raster that means "no label", instead of its own; NaN: none does."""
    by_tags: bool = False
    """Whether the scale and offset that tags of a raster say are applied."""
    coded: Literal["values", "one_hot", "non_zero"] = "values"
    """How a raster holds classes: as its values; a band for each, not 0 where it is (pixels that are 0 in all have no
    label); or one class where the value is not 0, numbered 1, and 0 elsewhere."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedSample:
    """One sample as a table, a folder or a published data set lists it; nothing is opened yet."""

    name: str
    images: tuple[ImageEntry, ...]
    """One for each slot."""
    label: tuple[str, ...] | float | LabelFile
    """Classes, a number, or where the labels of pixels are."""
    split: Split | None = None
    """None: not declared."""
    place: str | None = None
    """None: not declared."""


def make_entry(
    row: Mapping[str, Any], slot: int | None, *, folder: Path, spec: DataSpec, known: Mapping[str, Sensor] | None = None
) -> ImageEntry:
    """Make an image from the columns of a manifest; None or empty text: not given.
    Sensor, bands and encoding are those that the recipe declares of the slot, where the row does not give them.
    `slot` is the position among the images of a sample, None where the row gives all; paths are relative to `folder`;
    `known` are sensors that the catalogue need not have.
    """
    given = {column: value for column, value in row.items() if value not in (None, "")}
    if "path" not in given:
        raise ManifestError("it has no path")
    declared: dict[str, Sequence[Any]] = {"sensor": spec.sensors, "bands": spec.bands, "encoding": spec.encodings}
    for column, values in declared.items():
        if slot is None or not values:
            continue
        if 1 < len(values) <= slot:
            what = "bands" if column == "bands" else f"{column}s"
            raise ManifestError(f"`{what}` declares {len(values)} images a sample, but this is image {slot + 1} of one")
        # What is declared once is of all slots. A scale or an offset says how numbers are stored, too.
        value = values[min(slot, len(values) - 1)]
        if value and not {column, *(("scale", "offset") if column == "encoding" else ())} & set(given):
            # A YAML file that a recipe names is relative to where the command runs, one of a table to the table.
            is_file = column == "sensor" and value.casefold().endswith((".yaml", ".yml"))
            given[column] = str(Path(value).absolute()) if is_file else value
    if "sensor" not in given:
        raise ManifestError(
            f"nothing says which sensor took '{given['path']}'; name it by `--sensor` (data.sensors=[NAME]) or in a "
            "column `sensor`"
        )
    entry = parse_entry(given, folder=folder, known=known)
    missing = next((path for path in entry.source.paths if not path.exists()), None)
    if missing is not None:
        raise ManifestError(f"'{missing}' does not exist")
    return entry


def known_entry(name: str, path: Path, sensor: Sensor) -> ImageEntry:
    """Make an image of which the whole sensor is known, its numbers stored as the sensor's default says."""
    source, encoding = RasterSource(paths=(path,)), stored_encoding(sensor)
    return ImageEntry(name=name, source=source, sensor=sensor, product=sensor, encoding=encoding)


def list_samples(
    spec: DataSpec, *, sensors: Mapping[str, Sensor] | None = None, notes: list[str] | None = None
) -> list[ListedSample]:
    """List the samples of a table or folder, of whole images or of maps; no image is opened.
    A table (CSV, YAML, Parquet) has a row for each image: its path, its label, optionally `split` and `place`, and the
    columns of a manifest. Rows of one name in a column `set` are one sample. A folder has class folders, or for maps
    `images` (or `before` and `after`) and `labels`; itself or in `train`, `val` and `test`. `sensors` are known beside
    those of the catalogue. What is left out is added to `notes`. Raises `ManifestError` where there is nothing, or a
    row or file is wrong.
    """
    source, dense, notes = Path(spec.source), spec.kind in DENSE_KINDS, [] if notes is None else notes
    make = partial(make_entry, folder=source if source.is_dir() else source.parent, spec=spec, known=sensors)
    if source.is_dir():
        samples = _map_folder(source, spec, make) if dense else _class_folders(source, spec, make, notes)
    elif source.suffix.casefold() in MANIFEST_ENDINGS and source.exists():
        samples = _table(source, spec, make, notes)
    else:
        found = "is a file of another kind" if source.exists() else "does not exist"
        known = "labelled images come as a folder of class folders, a CSV or a Parquet table"
        if dense:
            known = (
                f"images with maps of labels come as a table ({', '.join(MANIFEST_ENDINGS)}), or as a folder with "
                "`images` and `labels`"
            )
        raise ManifestError(f"{known}; '{source}' {found}")
    declared = sum(one.split is not None for one in samples)
    if 0 < declared < len(samples):
        raise ManifestError(
            f"{len(samples) - declared} of the {len(samples)} samples of '{source}' "
            f"{agreed(len(samples) - declared, 'have')} no `split`; declare it for "
            "all, or for none to have it drawn"
        )
    return samples


def _table(table: Path, spec: DataSpec, make: _Maker, notes: list[str]) -> list[ListedSample]:
    rows = list(rows_of(table))
    if not rows:
        raise ManifestError(f"'{table}' lists no images; give it a row for each")
    columns = list(dict.fromkeys(column for row in rows for column in row))
    path_column, label_column = _columns(columns, spec, table)
    unused = [name for name in columns if name not in {*COLUMNS, *_MAP_COLUMNS, *_IGNORED, path_column, label_column}]
    # Of maps an unknown column is refused, or is of one of two dates.
    if any(unused) and spec.kind not in DENSE_KINDS:
        notes.append(f"columns of '{table.name}' that are not used: {', '.join(filter(None, unused))}")
    names = [_text(row.get("set")) for row in rows]
    images = _row_images(rows, names, path_column, table=table, spec=spec, make=make)
    labels = [_text(row.get(label_column)) for row in rows]
    given = {column: [_text(row.get(column)) for row in rows] for column in _OF_SAMPLES if column in columns}
    # The names of a list are whole, whatever stands in them.
    lists = [value if isinstance(value := row.get(label_column), list) else None for row in rows]
    pieces = [
        text.replace("|", ";").split(";") if names is None else list(map(str, names))
        for text, names in zip(labels, lists, strict=True)
    ]
    classes = [tuple(name.strip() for name in one if name.strip()) for one in pieces]
    if spec.kind not in DENSE_KINDS:
        given["label"] = [";".join(sorted(one)) for one in classes]
    # A row that names no set is a set of its own.
    groups: dict[str | int, list[int]] = {}
    for number, name in enumerate(names):
        groups.setdefault(name or number, []).append(number)
    samples = []
    for group in groups.values():
        row, first = rows[group[0]], group[0]
        for column, values in given.items():
            other = next((number for number in group[1:] if values[number] != values[first]), None)
            if other is not None:
                raise ManifestError(
                    f"rows {first + 1} and {other + 1} of '{table}' are of set '{names[other]}', but have "
                    f"the {column} '{values[first]}' and '{values[other]}'; a set has one {column}"
                )
        split, label = _text(row.get("split")), labels[first]
        try:
            if split and split not in SPLITS:
                raise ManifestError(f"split '{split}' is unknown ({', '.join(SPLITS)}){nearest_name(split, SPLITS)}")
            is_class = spec.kind in ("class", "labels")
            samples.append(
                ListedSample(
                    name=names[first],
                    images=tuple(image for index in group for image in images[index]),
                    label=classes[first] if is_class else _label(label, row, label_column, spec, table.parent),
                    split=next((known for known in SPLITS if known == split), None),
                    place=_text(row.get("place")) or None,
                )
            )
        except AnybandError as problem:
            raise ManifestError(f"row {first + 1} of '{table}': {problem}") from problem
    return samples


def _columns(columns: Sequence[str], spec: DataSpec, table: Path) -> tuple[str, str]:
    """Find the columns with the paths and with the labels; of maps none may be unknown."""
    if spec.kind not in DENSE_KINDS:
        usual = _NUMBER_COLUMNS if spec.kind == "number" else _LABEL_COLUMNS
        wanted = _PATH_COLUMNS, (spec.label_column,) if spec.label_column else usual
        found = [next((name for name in names if name in columns), None) for names in wanted]
        lacks = next((names[0] for names, name in zip(wanted, found, strict=True) if name is None), None)
        if lacks is not None:
            raise ManifestError(
                f"'{table}' needs a column '{lacks}'; it has {', '.join(columns) or 'none'}"
                f"{nearest_name(lacks, columns)}"
            )
        return str(found[0]), str(found[1])
    known, is_pair = {*COLUMNS, *_MAP_COLUMNS}, all(name in columns for name in _PAIR)
    if is_pair:
        known |= {f"{when}_{name}" for when in _PAIR for name in COLUMNS}
    for name in columns:
        if name not in known | {*_IGNORED}:
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
    return "image", "label"


def _row_images(
    rows: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    path_column: str,
    *,
    table: Path,
    spec: DataSpec,
    make: _Maker,
) -> list[tuple[ImageEntry, ...]]:
    """Make the images of each row: one, both of a pair, or one for each slot where a row stands for all of them."""
    dense = spec.kind in DENSE_KINDS
    is_pair = dense and all(when in rows[0] for when in _PAIR)
    counts: Counter[str] = Counter()
    found: list[tuple[ImageEntry, ...]] = []
    with progress("read the table", len(rows), shown=len(rows) > _SHOWN_FROM) as advance:
        for number, (row, name) in enumerate(zip(rows, names, strict=True), start=1):
            position = counts[name] if name else None
            counts[name] += 1
            shared = {key: value for key, value in row.items() if key in COLUMNS and key not in ("split", "place")}
            slots: list[int | None] = [0, 1] if is_pair else [position or 0]
            try:
                if is_pair:
                    images = [shared | _own(row, when) | {"path": row.get(when)} for when in _PAIR]
                else:
                    shared |= {"path": row[path_column]} if _text(row.get(path_column)) else {}
                    slots = slots if dense else _slots(shared, spec, position)
                    images = [shared] * len(slots)
                found.append(tuple(map(make, images, slots)))
            except AnybandError as problem:
                raise ManifestError(f"row {number} of '{table}': {problem}") from problem
            if number % _SHOWN_EVERY == 0:
                advance(_SHOWN_EVERY)
    return found


def _own(row: Mapping[str, Any], when: str) -> dict[str, Any]:
    """What is given of one of two images: `before_datetime` goes before `datetime`, which is of both."""
    own = {column.removeprefix(f"{when}_"): value for column, value in row.items() if column.startswith(f"{when}_")}
    return {column: value for column, value in own.items() if value not in (None, "")}


def _slots(row: Mapping[str, Any], spec: DataSpec, position: int | None) -> list[int | None]:
    """Find the slots of the recipe that a row of whole images is read by."""
    if _text(row.get("sensor")):
        known = [find_sensor_name(name) or name for name in (_text(row["sensor"]), *spec.sensors)]
        return [known.index(known[0], 1) - 1 if known[0] in known[1:] else None]
    if len(spec.sensors) < 2:
        return [0]
    if position is None:
        return list(range(len(spec.sensors)))
    if position >= len(spec.sensors):
        raise ManifestError(
            f"it is image {position + 1} of its set and names no sensor; {len(spec.sensors)} sensors are declared "
            "beside the table: name one in column `sensor`"
        )
    return [position]


def _label(text: str, row: Mapping[str, Any], column: str, spec: DataSpec, folder: Path) -> float | LabelFile:
    """Read the number of a sample, or where the labels of its pixels are."""
    if spec.kind == "number":
        return _number(text, column)
    if not text:
        raise ManifestError("it has no label; name the raster of labels or the polygons, or leave the row out")
    if not (folder / text).exists():
        raise ManifestError(f"label '{folder / text}' does not exist")
    return _label_file(folder / text, spec, _text(row.get("label_variable")), _text(row.get("label_nodata")))


def _label_file(path: Path, spec: DataSpec, variable: str = "", nodata: str = "") -> LabelFile:
    """Tell where labels are; what is not said of the file is as the options of the data say."""
    if path.suffix.casefold() not in VECTOR_ENDINGS:
        value = _no_label(said) if (said := nodata or spec.options.get("label_nodata", "")) else None
        return LabelFile(path=path, variable=variable, nodata=value, by_tags=spec.options.get("label_scale") == "tags")
    if nodata:
        raise ManifestError(f"label_nodata is of rasters, and '{path}' has polygons; leave it out")
    return LabelFile(path=path, variable=variable or spec.options.get("layer", ""))


def _no_label(text: str) -> float:
    """Read the value that means "no label": NaN where none does."""
    try:
        return math.nan if text.casefold() == "none" else float(text.replace("_", "?"))
    except ValueError as problem:
        what = f"label_nodata '{text}' is no number; give the value that means no label, or `none`"
        raise ManifestError(what) from problem


def _number(text: str, column: str) -> float:
    try:
        # Python reads `1_000`, which is a name.
        number = float(text.replace("_", "?"))
    except ValueError as problem:
        found = f"'{text}', which is no number" if text else "nothing"
        raise ManifestError(
            f"column '{column}' has {found}; give every sample a number, or leave the row out"
        ) from problem
    if not math.isfinite(number):
        raise ManifestError(f"column '{column}' has '{text}'; numbers must be finite, leave the row out")
    return number


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ";".join(str(one) for one in value)
    return "" if value is None else str(value).strip()


def _class_folders(folder: Path, spec: DataSpec, make: _Maker, notes: list[str]) -> list[ListedSample]:
    """List images in folders that are named after their class: files, or folders of single-band files."""
    if spec.kind == "number":
        raise ManifestError(f"'{folder}' is a folder, whose names are classes; numbers come from a table")
    children = _folders_in(folder)
    splits = {one: _SPLIT_FOLDERS[one.name.casefold()] for one in children if one.name.casefold() in _SPLIT_FOLDERS}
    # A class may be called `test`.
    if not (len(splits) == len(children) > 1 and "train" in splits.values()):
        splits = {}
    if not spec.sensors:
        raise ManifestError(
            f"nothing says which sensor the images in '{folder}' are of; name it in the recipe, `data.sensors`"
        )
    left_out = [one for parent in (folder, *splits) for one in _shown(parent) if not one.is_dir()]
    samples = [
        ListedSample(
            name="",
            # A list, for a semicolon in a name joins no paths.
            images=tuple(
                make({"path": [image.relative_to(folder).as_posix()]}, slot) for slot in range(len(spec.sensors))
            ),
            label=(child.name,),
            split=splits.get(child.parent),
        )
        for child in ([one for part in children for one in _folders_in(part)] if splits else children)
        for image in _images_of(child, left_out)
    ]
    if left_out:
        named = ", ".join(f"'{one.relative_to(folder).as_posix()}'" for one in left_out[:_NAMED])
        more = f" and {len(left_out) - _NAMED} more" if len(left_out) > _NAMED else ""
        notes.append(
            f"files of '{folder.name}' that are left out, since they lie in no class folder or have no ending of "
            f"images: {named}{more}"
        )
    return samples


def _shown(folder: Path) -> list[Path]:
    """List what is in a folder, in order, but for what systems and editors leave there."""
    return sorted(
        child
        for child in folder.iterdir()
        if not child.name.startswith((".", "~$")) and child.name.casefold() not in _LITTER
    )


def _folders_in(folder: Path) -> list[Path]:
    found = [child for child in _shown(folder) if child.is_dir()]
    if not found:
        raise ManifestError(f"'{folder}' has no class folders; each class is a folder with its images inside")
    return found


def _images_of(folder: Path, left_out: list[Path]) -> list[Path]:
    """List the images of a class; other files are added to `left_out`, but for those that belong to an image."""
    shown = _shown(folder)
    images = [one for one in shown if one.suffix.lower() in IMAGE_ENDINGS or one.is_dir()]
    if not images:
        raise ManifestError(f"class folder '{folder}' has no images ({' '.join(IMAGE_ENDINGS)}); fill or remove it")
    left_out += [] if len(images) == len(shown) else _others(shown, images)
    return images


def _others(shown: Sequence[Path], images: Sequence[Path]) -> list[Path]:
    belong = {name for one in images for name in (one.name, one.stem)}
    others = sorted({*shown} - {*images})
    return [one for one in others if not {one.stem, one.stem.rpartition(".")[0]} & belong]


def _map_folder(folder: Path, spec: DataSpec, make: _Maker) -> list[ListedSample]:
    splits = [(split, folder / split) for split in SPLITS if (folder / split).is_dir()]
    if not splits:
        return _maps_of_split(folder, None, spec, make)
    return [one for split, inside in splits for one in _maps_of_split(inside, split, spec, make)]


def _maps_of_split(folder: Path, split: Split | None, spec: DataSpec, make: _Maker) -> list[ListedSample]:
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
        without = sorted(set(found) ^ set(labels))
        if without:
            stem = without[0]
            has, lacks = (found[stem], "label") if stem in found else (labels[stem], f"image in '{slot}'")
            more = f", like {len(without) - 1} more" if len(without) > 1 else ""
            raise ManifestError(
                f"'{has}' has no {lacks}{more}; images and labels are equal but for the ending of their names, so "
                "rename, add or remove one, or list them in a table"
            )
    return [
        ListedSample(
            name="",
            images=tuple(make({"path": [str(found[stem].absolute())]}, slot) for slot, found in enumerate(images)),
            label=_label_file(label, spec),
            split=split,
        )
        for stem, label in labels.items()
    ]


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
