"""Images, or sets of images, with labels: class folders, or a table of path and label; split by class, seeded."""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from anyband.data.labelled_sets import grouped_rows, set_entries
from anyband.data.manifest import ImageEntry
from anyband.errors import InputError, ManifestError, nearest_name
from anyband.shapes import Array, Bool, Int

__all__ = [
    "SPLITS",
    "LabelledImages",
    "Split",
    "read_class_folders",
    "read_label_table",
    "read_labelled",
    "split",
]

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
"""Names of the parts: learn, choose, report."""

_IMAGE_ENDINGS = (".tif", ".tiff", ".jp2", ".png", ".jpg", ".jpeg", ".nc", ".h5", ".img")
_PATH_COLUMNS = ("path", "image", "file", "filename")
_LABEL_COLUMNS = ("label", "labels", "class")
_SEPARATORS = (";", "|")


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """Images, or sets of images, and what they show, in a fixed order."""

    paths: tuple[Path, ...]
    """File or folder of each image; of a set, of its first."""
    labels: tuple[tuple[int, ...], ...]
    """Classes of each image, as positions in `classes`, ascending; exactly one where not `multi_label`."""
    classes: tuple[str, ...]
    """Names of the classes, sorted."""
    multi_label: bool
    """Whether an image may have several classes, or none."""
    splits: tuple[Split, ...] = ()
    """Part of each image; empty where none is declared or drawn yet."""
    places: tuple[str, ...] = ()
    """Place that each image shows; images of one place stay in one part. Empty: each has its own."""
    members: tuple[tuple[ImageEntry, ...], ...] = ()
    """Images of each set, where sets have the labels; empty: images have them."""

    def __len__(self) -> int:
        return len(self.paths)

    def part(self, name: Split) -> "LabelledImages":
        """Take the images of one part; all classes stay.

        Raises:
            InputError: no split is there yet.
        """
        if not self.splits:
            raise InputError(f"these {len(self)} images have no split; declare a column `split`, or draw one")
        kept = [index for index, one in enumerate(self.splits) if one == name]
        return replace(
            self,
            paths=tuple(self.paths[index] for index in kept),
            labels=tuple(self.labels[index] for index in kept),
            splits=tuple(self.splits[index] for index in kept),
            places=tuple(self.places[index] for index in kept) if self.places else (),
            members=tuple(self.members[index] for index in kept) if self.members else (),
        )

    def targets(self) -> Int[Array, "sample"] | Bool[Array, "sample class"]:
        """Give the labels as an array: class numbers, or for multi-label which classes hold."""
        if not self.multi_label:
            return np.array([labels[0] for labels in self.labels], dtype=np.int64)
        present = np.zeros((len(self), len(self.classes)), dtype=bool)
        for row, labels in enumerate(self.labels):
            present[row, list(labels)] = True
        return present


def read_labelled(path: Path, *, sensor: str | None = None) -> LabelledImages:
    """Read labelled images from a folder of class folders, or from a CSV or Parquet table.

    Args:
        path: folder or table.
        sensor: of the images of sets whose rows name none.

    Raises:
        ManifestError: there is nothing, or a row is wrong.
    """
    if path.is_dir():
        return read_class_folders(path)
    if path.suffix.lower() in (".csv", ".parquet", ".geoparquet"):
        return read_label_table(path, sensor=sensor)
    found = "is a file of another kind" if path.exists() else "does not exist"
    raise ManifestError(
        f"labelled images come as a folder of class folders, a CSV or a Parquet table; '{path}' {found}"
    )


def read_class_folders(folder: Path) -> LabelledImages:
    """Read images from folders that are named after their class.

    A class folder holds image files, or one folder of single-band files for each image.

    Raises:
        ManifestError: no class folders, an empty one, or a file that stands in two of them.
    """
    if not folder.is_dir():
        raise ManifestError(f"'{folder}' is not a folder of class folders")
    class_folders = sorted(child for child in folder.iterdir() if child.is_dir() and not _is_hidden(child))
    if not class_folders:
        raise ManifestError(f"'{folder}' has no class folders; each class is a folder with its images inside")
    labelled = [(image, child.name) for child in class_folders for image in _images_of(child)]
    _check_listed_once([path for path, _ in labelled], str(folder))
    return _collect([path for path, _ in labelled], [(name,) for _, name in labelled], name=str(folder))


def _images_of(class_folder: Path) -> list[Path]:
    images = sorted(
        child
        for child in class_folder.iterdir()
        if not _is_hidden(child) and (child.is_dir() or child.suffix.lower() in _IMAGE_ENDINGS)
    )
    if not images:
        raise ManifestError(
            f"class folder '{class_folder}' has no images ({' '.join(_IMAGE_ENDINGS)}); fill or remove it"
        )
    return images


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".")


def read_label_table(table: Path, *, sensor: str | None = None) -> LabelledImages:
    """Read a table with the columns `path` and `label`, and optionally `split` (train, val or test) and `place`.

    Paths are relative to the table. Several labels of an image are separated by `;` or `|`; one such row, or
    a row without label, makes the table multi-label. With a column `set`, the rows of one name in it are one sample:
    images of one place, with one label, split and place. Each may have a sensor, date, encoding, … of its own, in the
    columns of a manifest.

    Args:
        table: to read.
        sensor: of the images of sets whose rows name none.

    Raises:
        ManifestError: a column is missing, a row has no path, a file does not exist or stands twice, or the rows of a
            set differ in what they say of it.
    """
    columns = _read_columns(table)
    path_column = _column(columns, _PATH_COLUMNS, table)
    label_column = _column(columns, _LABEL_COLUMNS, table)
    paths = [_resolved(text, table, row) for row, text in enumerate(columns[path_column], start=1)]
    names = [_names_in(text) for text in columns[label_column]]
    images = _collect(paths, names, name=str(table), splits=_splits_in(columns, table))
    images = replace(images, places=_places_in(columns, images.splits, table))
    if "set" not in columns:
        _check_listed_once(paths, str(table))
        return images
    return _as_sets(images, columns, path_column=path_column, table=table, sensor=sensor)


def _as_sets(
    images: LabelledImages,
    columns: Mapping[str, Sequence[str]],
    *,
    path_column: str,
    table: Path,
    sensor: str | None,
) -> LabelledImages:
    entries = set_entries(columns, path_column=path_column, table=table, sensor=sensor)
    said = {
        "label": [";".join(sorted(names)) for names in map(_names_in, columns[_column(columns, _LABEL_COLUMNS, table)])]
    }
    said |= {name: list(columns[name]) for name in ("split", "place") if name in columns}
    groups = grouped_rows(columns["set"], said, table)
    firsts = [rows[0] for rows in groups]
    return replace(
        images,
        paths=tuple(images.paths[row] for row in firsts),
        labels=tuple(images.labels[row] for row in firsts),
        splits=tuple(images.splits[row] for row in firsts) if images.splits else (),
        places=tuple(images.places[row] for row in firsts) if images.places else (),
        members=tuple(tuple(entries[row] for row in rows) for rows in groups),
    )


def _read_columns(table: Path) -> dict[str, list[str]]:
    if table.suffix.lower() == ".csv":
        return _read_csv(table)
    import pyarrow
    import pyarrow.parquet

    try:
        read = pyarrow.parquet.read_table(table)
    except (OSError, pyarrow.ArrowException) as problem:
        raise ManifestError(f"cannot read '{table}' as a Parquet table: {problem}") from problem
    _check_distinct(read.column_names, table)
    return {name: [_text(value) for value in read.column(name).to_pylist()] for name in read.column_names}


def _check_distinct(names: Sequence[str], table: Path) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ManifestError(f"'{table}' has column '{twice[0]}' twice; keep one of them")


def _text(value: object) -> str:
    if isinstance(value, list):
        return _SEPARATORS[0].join(str(one) for one in value)
    return "" if value is None else str(value)


def _read_csv(table: Path) -> dict[str, list[str]]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file, strict=True))
    except OSError as problem:
        raise ManifestError(f"cannot read '{table}': {problem.strerror or problem}") from problem
    except (UnicodeDecodeError, csv.Error) as problem:
        raise ManifestError(f"'{table}' is no CSV text in UTF-8: {problem}") from problem
    rows = [row for row in rows if row]
    if not rows:
        raise ManifestError(f"'{table}' is empty; it needs a header with the columns `path` and `label`")
    for number, row in enumerate(rows[1:], start=1):
        if len(row) != len(rows[0]):
            raise ManifestError(
                f"row {number} of '{table}' has {len(row)} fields, the header has {len(rows[0])}; "
                f"put text with commas in quotes"
            )
    header = [name.strip() for name in rows[0]]
    _check_distinct(header, table)
    return {name: [row[index] for row in rows[1:]] for index, name in enumerate(header)}


def _column(columns: Mapping[str, Sequence[str]], wanted: Sequence[str], table: Path) -> str:
    for name in wanted:
        if name in columns:
            return name
    raise ManifestError(
        f"'{table}' needs a column '{wanted[0]}'; it has {', '.join(columns) or 'none'}"
        f"{nearest_name(wanted[0], columns)}"
    )


def _resolved(text: str, table: Path, row: int) -> Path:
    if not text.strip():
        raise ManifestError(f"row {row} of '{table}' has no path")
    path = table.parent / text.strip()
    if not path.exists():
        raise ManifestError(f"row {row} of '{table}' names '{path}', which does not exist")
    return path


def _names_in(text: str) -> tuple[str, ...]:
    for separator in _SEPARATORS:
        text = text.replace(separator, _SEPARATORS[0])
    return tuple(name.strip() for name in text.split(_SEPARATORS[0]) if name.strip())


def _splits_in(columns: Mapping[str, Sequence[str]], table: Path) -> tuple[Split, ...]:
    found: list[Split] = []
    for row, text in enumerate(columns.get("split", ()), start=1):
        match = next((known for known in SPLITS if known == text.strip()), None)
        if match is None:
            raise ManifestError(
                f"row {row} of '{table}' has the split '{text}'; it must be one of {', '.join(SPLITS)}"
                f"{nearest_name(text, SPLITS)}"
            )
        found.append(match)
    return tuple(found)


def _places_in(columns: Mapping[str, Sequence[str]], splits: Sequence[Split], table: Path) -> tuple[str, ...]:
    # An image without a place has one of its own.
    named = enumerate(columns.get("place", ()), start=1)
    places = tuple(text.strip() or f"row {row}" for row, text in named)
    part_of: dict[str, Split] = {}
    for place, part in zip(places, splits, strict=False):
        if part_of.setdefault(place, part) != part:
            raise ManifestError(
                f"'{table}' has images of place '{place}' in '{part_of[place]}' and in '{part}'; images of one place "
                "would leak from one split into another: declare one split for each place"
            )
    return places


def _collect(
    paths: Sequence[Path], names: Sequence[tuple[str, ...]], *, name: str, splits: tuple[Split, ...] = ()
) -> LabelledImages:
    if not paths:
        raise ManifestError(f"'{name}' lists no images")
    classes = tuple(sorted({one for row in names for one in row}))
    if not classes:
        raise ManifestError(f"'{name}' has no labels")
    number = {one: index for index, one in enumerate(classes)}
    return LabelledImages(
        paths=tuple(paths),
        labels=tuple(tuple(sorted({number[one] for one in row})) for row in names),
        classes=classes,
        multi_label=any(len(row) != 1 for row in names),
        splits=splits,
    )


def _check_listed_once(paths: Sequence[Path], name: str) -> None:
    twice = [path for path, count in Counter(path.resolve() for path in paths).items() if count > 1]
    if twice:
        raise ManifestError(
            f"'{name}' lists '{twice[0]}' more than once; an image in two places would leak from one split into another"
        )


def split(images: LabelledImages, *, val: float, test: float, seed: int) -> LabelledImages:
    """Draw train, val and test, each with the classes in the same shares; equal seeds draw equal splits.

    Places are drawn, so images of one place stay together; without places each image is one. A place counts for the
    class that most of its images have. Multi-label images have no single class to keep in share, so they are drawn
    without regard to labels. A declared split is kept as it is.

    Args:
        images: to split.
        val: share of the validation part, from 0 to under 1.
        test: share of the test part, from 0 to under 1.
        seed: of the draw.

    Raises:
        InputError: shares that leave nothing to learn from, or a class with too few places for every part.
    """
    if images.splits:
        return images
    if not (val >= 0 and test >= 0 and val + test < 1):
        raise InputError(f"shares must be 0 or more and leave some to learn from, found val {val:g}, test {test:g}")
    place_of = _place_numbers(images)
    classes = None if images.multi_label else _classes_of_places(place_of, images.targets())
    if classes is not None:
        _check_class_sizes(classes, images, num_parts=1 + (val > 0) + (test > 0))
    everything = np.arange(place_of.max() + 1)
    rest, in_test = _halves(everything, classes, share=test, seed=seed)
    of_rest = None if classes is None else classes[rest]
    _, in_val = _halves(rest, of_rest, share=val / (1 - test), seed=seed + 1)
    parts = np.full(len(everything), "train", dtype=object)
    parts[in_val], parts[in_test] = "val", "test"
    return replace(images, splits=tuple(parts[place_of].tolist()))


def _place_numbers(images: LabelledImages) -> Int[Array, "sample"]:
    """Number the places in the order of their first images."""
    if not images.places:
        return np.arange(len(images))
    number = {place: index for index, place in enumerate(dict.fromkeys(images.places))}
    return np.array([number[place] for place in images.places], dtype=np.int64)


def _classes_of_places(place_of: Int[Array, "sample"], targets: Int[Array, "sample"]) -> Int[Array, "place"]:
    votes = np.zeros((place_of.max() + 1, targets.max() + 1), dtype=np.int64)
    np.add.at(votes, (place_of, targets), 1)
    most: Int[Array, "place"] = votes.argmax(axis=1)
    return most


def _halves(indices: Array, classes: Array | None, *, share: float, seed: int) -> tuple[Array, Array]:
    if share == 0:
        return indices, indices[:0]
    from sklearn.model_selection import train_test_split

    try:
        first, second = train_test_split(
            indices, test_size=share, random_state=seed % 2**32, stratify=classes, shuffle=True
        )
    except ValueError as problem:
        raise InputError(f"{len(indices)} images can't be split with a share of {share:g}: {problem}") from problem
    return first, second


def _check_class_sizes(classes: Int[Array, "place"], images: LabelledImages, *, num_parts: int) -> None:
    counts = Counter(classes.tolist())
    rare = sorted((count, images.classes[index]) for index, count in counts.items() if count < num_parts)
    if rare:
        count, name = rare[0]
        what = "place" if images.places else "image"
        raise InputError(
            f"class '{name}' has {count} {what}{'' if count == 1 else 's'}, too few for {num_parts} parts; "
            f"add {what}s, leave the class out, or declare a column `split`"
        )
