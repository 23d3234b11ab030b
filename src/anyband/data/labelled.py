"""Images, or sets of images, with labels: class folders, or a table of path and label; split by class, seeded."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from anyband.data.chip_index import SPLITS, Split
from anyband.data.label_draws import balanced_order, draw_halves
from anyband.data.label_tables import (
    LABEL_TABLE_ENDINGS,
    check_listed_once,
    labels_in,
    numbers_in,
    parts_in,
    paths_in,
    places_in,
    read_columns,
    wanted_column,
)
from anyband.data.labelled_sets import EntryMaker, Slot, grouped_rows, set_entries
from anyband.data.manifest import ImageEntry
from anyband.errors import InputError, ManifestError
from anyband.sensors.sensor import Sensor
from anyband.shapes import Array, Bool, Float, Int

__all__ = [
    "IMAGE_ENDINGS",
    "SPLITS",
    "LabelForm",
    "LabelledImages",
    "Split",
    "read_class_folders",
    "read_label_table",
    "read_labelled",
    "split",
]

IMAGE_ENDINGS = (".tif", ".tiff", ".jp2", ".png", ".jpg", ".jpeg", ".nc", ".h5", ".img")
"""Of the files in class folders that are images."""

_PATH_COLUMNS = ("path", "image", "file", "filename")
_LABEL_COLUMNS = ("label", "labels", "class")
_NUMBER_COLUMNS = ("label", "number", "value", "target")
# What data sets call the folders of their parts.
_PART_FOLDERS: dict[str, Split] = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


@dataclass(frozen=True, kw_only=True)
class LabelForm:
    """What labels are, and how images are read where the data do not say it."""

    numbers: bool = False
    """Whether labels are numbers and not classes."""
    column: str | None = None
    """Of the labels; None: one of the usual names."""
    slots: tuple[Slot, ...] = ()
    """Sensors of the images."""
    sensors: Mapping[str, Sensor] = field(default_factory=dict)
    """By name, beside those of the catalogue."""
    entries: bool = False
    """Whether every image becomes that of a manifest, with a sensor, and not only those of sets."""


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """Images, or sets of images, and what they show, in a fixed order."""

    paths: tuple[Path, ...]
    """File or folder of each image; of a set, of its first."""
    labels: tuple[tuple[int, ...], ...]
    """Classes of each image, as positions in `classes`, ascending; exactly one where not `multi_label`."""
    classes: tuple[str, ...]
    """Names of the classes, sorted; empty where labels are numbers."""
    multi_label: bool
    """Whether an image may have several classes, or none."""
    numbers: tuple[float, ...] = ()
    """Number of each image, where labels are numbers; else empty."""
    splits: tuple[Split, ...] = ()
    """Part of each image; empty where none is declared or drawn yet."""
    places: tuple[str, ...] = ()
    """Place that each image shows; images of one place stay in one part. Empty: each has its own."""
    members: tuple[tuple[ImageEntry, ...], ...] = ()
    """Images of each set, where sets have the labels or entries were asked for; empty: files have them."""
    sets: tuple[str, ...] = ()
    """Name of each set; empty text: its only row names none. Empty: there are no sets."""

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, kept: Sequence[int] | Int[Array, " sample"]) -> "LabelledImages":
        """Keep some images, in the order given; all classes stay."""
        return replace(
            self,
            paths=tuple(self.paths[index] for index in kept),
            labels=tuple(self.labels[index] for index in kept),
            numbers=tuple(self.numbers[index] for index in kept) if self.numbers else (),
            splits=tuple(self.splits[index] for index in kept) if self.splits else (),
            places=tuple(self.places[index] for index in kept) if self.places else (),
            members=tuple(self.members[index] for index in kept) if self.members else (),
            sets=tuple(self.sets[index] for index in kept) if self.sets else (),
        )

    def targets(self) -> Int[Array, "sample"] | Bool[Array, "sample class"] | Float[Array, "sample"]:
        """Give the labels as an array: class numbers, for multi-label which classes hold, or numbers."""
        if self.numbers:
            return np.array(self.numbers, dtype=np.float64)
        if not self.multi_label:
            return np.array([labels[0] for labels in self.labels], dtype=np.int64)
        present = np.zeros((len(self), len(self.classes)), dtype=bool)
        for row, labels in enumerate(self.labels):
            present[row, list(labels)] = True
        return present


def read_labelled(path: Path, *, form: LabelForm | None = None) -> LabelledImages:
    """Read labelled images from a folder of class folders, or from a CSV or Parquet table.

    Args:
        path: folder or table.
        form: what labels are, and how images are read.

    Raises:
        ManifestError: there is nothing, or a row is wrong.
    """
    form = form or LabelForm()
    if path.is_dir():
        return read_class_folders(path, form=form)
    if path.suffix.lower() in LABEL_TABLE_ENDINGS:
        return read_label_table(path, form=form)
    found = "is a file of another kind" if path.exists() else "does not exist"
    raise ManifestError(
        f"labelled images come as a folder of class folders, a CSV or a Parquet table; '{path}' {found}"
    )


def read_class_folders(folder: Path, *, form: LabelForm | None = None) -> LabelledImages:
    """Read images from folders that are named after their class, or from such folders in `train`, `val` and `test`.

    A class folder holds image files, or one folder of single-band files for each image.

    Raises:
        ManifestError: no class folders, an empty one, a file that stands in two of them, or numbers are asked for.
    """
    form = form or LabelForm()
    if form.numbers:
        raise ManifestError(f"'{folder}' is a folder, whose names are classes; numbers come from a table")
    children = _folders_in(folder)
    parts = _part_folders(children)
    class_folders = [one for child in children for one in _folders_in(child)] if parts else children
    labelled = [(image, child) for child in class_folders for image in _images_of(child)]
    paths = [path for path, _ in labelled]
    check_listed_once(paths, str(folder))
    images = _collect(paths, [(child.name,) for _, child in labelled], name=str(folder))
    if parts:
        images = replace(images, splits=tuple(parts[child.parent] for _, child in labelled))
    return _with_entries(images, form, folder=folder) if form.entries else images


def _folders_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ManifestError(f"'{folder}' is not a folder of class folders")
    found = sorted(child for child in folder.iterdir() if child.is_dir() and not _is_hidden(child))
    if not found:
        raise ManifestError(f"'{folder}' has no class folders; each class is a folder with its images inside")
    return found


def _part_folders(children: Sequence[Path]) -> dict[Path, Split]:
    """Tell which part each folder is, where all are named after parts and one is training."""
    parts = {
        child: _PART_FOLDERS[child.name.casefold()] for child in children if child.name.casefold() in _PART_FOLDERS
    }
    is_layout = len(parts) == len(children) > 1 and "train" in parts.values()
    return parts if is_layout else {}


def _with_entries(images: LabelledImages, form: LabelForm, *, folder: Path) -> LabelledImages:
    if not form.slots:
        raise ManifestError(
            f"nothing says which sensor the images in '{folder}' are of; name it in the recipe, `data.sensors`"
        )
    maker, cells = EntryMaker(folder, form.sensors), [slot.cells for slot in form.slots]
    start = len(str(folder / "x")) - 1
    members = (tuple(maker.entry(str(path)[start:], path, one) for one in cells) for path in images.paths)
    return replace(images, members=tuple(members))


def _images_of(class_folder: Path) -> list[Path]:
    images = sorted(
        child
        for child in class_folder.iterdir()
        if not _is_hidden(child) and (child.suffix.lower() in IMAGE_ENDINGS or child.is_dir())
    )
    if not images:
        raise ManifestError(
            f"class folder '{class_folder}' has no images ({' '.join(IMAGE_ENDINGS)}); fill or remove it"
        )
    return images


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".")


def read_label_table(table: Path, *, form: LabelForm | None = None) -> LabelledImages:
    """Read a table with the columns `path` and `label`, and optionally `split` (train, val or test) and `place`.

    Paths are relative to the table. Several labels of an image are separated by `;` or `|`; one such row, or
    a row without label, makes the table multi-label. With a column `set`, the rows of one name in it are one sample:
    images of one place, with one label, split and place. Each may have a sensor, date, encoding, … of its own, in the
    columns of a manifest.

    Args:
        table: to read.
        form: what labels are, and how images are read where rows do not say it.

    Raises:
        ManifestError: a column is missing, a row has no path, a file does not exist or stands twice, a number is
            none, or the rows of a set differ in what they say of it.
    """
    form = form or LabelForm()
    columns = read_columns(table)
    path_column = wanted_column(columns, _PATH_COLUMNS, table)
    usual = _NUMBER_COLUMNS if form.numbers else _LABEL_COLUMNS
    label_column = wanted_column(columns, (form.column,) if form.column else usual, table)
    paths, parts = paths_in(columns[path_column], table), parts_in(columns, table)
    names = [() if form.numbers else labels_in(text) for text in columns[label_column]]
    if form.numbers:
        numbers = numbers_in(columns[label_column], column=label_column, table=table)
        images = _collect(paths, names, name=str(table), numbers=numbers)
    else:
        images = _collect(paths, names, name=str(table))
    images = replace(images, splits=parts, places=places_in(columns, parts, table))
    if "set" in columns:
        return _as_sets(images, columns, table=table, form=form, columns_of=(path_column, label_column))
    check_listed_once(paths, str(table))
    if not form.entries:
        return images
    return replace(images, members=tuple(_entries(images, columns, path_column, table=table, form=form)))


def _entries(
    images: LabelledImages, columns: Mapping[str, Sequence[str]], path_column: str, *, table: Path, form: LabelForm
) -> list[tuple[ImageEntry, ...]]:
    return set_entries(
        columns, images.paths, path_column=path_column, table=table, slots=form.slots, sensors=form.sensors
    )


def _as_sets(
    images: LabelledImages,
    columns: Mapping[str, Sequence[str]],
    *,
    table: Path,
    form: LabelForm,
    columns_of: tuple[str, str],
) -> LabelledImages:
    path_column, label_column = columns_of
    entries = _entries(images, columns, path_column, table=table, form=form)
    labels = [";".join(sorted(names)) for names in map(labels_in, columns[label_column])]
    said = {"label": labels} | {name: list(columns[name]) for name in ("split", "place") if name in columns}
    groups = grouped_rows(columns["set"], said, table)
    members = tuple(tuple(entry for row in rows for entry in entries[row]) for rows in groups)
    firsts = [rows[0] for rows in groups]
    names = tuple(columns["set"][row].strip() for row in firsts)
    return replace(images.take(firsts), members=members, sets=names)


def _collect(
    paths: Sequence[Path], names: Sequence[tuple[str, ...]], *, name: str, numbers: tuple[float, ...] = ()
) -> LabelledImages:
    if not paths:
        raise ManifestError(f"'{name}' lists no images")
    classes = tuple(sorted({one for row in names for one in row}))
    if not classes and not numbers:
        raise ManifestError(f"'{name}' has no labels")
    number = {one: index for index, one in enumerate(classes)}
    return LabelledImages(
        paths=tuple(paths),
        labels=tuple(tuple(sorted({number[one] for one in row})) for row in names),
        classes=classes,
        multi_label=not numbers and any(len(row) != 1 for row in names),
        numbers=numbers,
    )


def split(images: LabelledImages, *, val: float, test: float, seed: int) -> LabelledImages:
    """Draw train, val and test, each with the classes in the same shares; equal seeds draw equal splits.

    Places are drawn, so images of one place stay together; without places each image is one. A place counts for the
    class that most of its images have. Multi-label images are ordered so that training has every label and each part
    has them in nearly the same shares (`balanced_order`); numbers are drawn without regard to them. A declared split
    is kept as it is.

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
    everything = np.arange(place_of.max() + 1)
    if images.multi_label:
        in_val, in_test = _balanced_halves(_labels_of_places(place_of, images.targets()), val=val, test=test, seed=seed)
    else:
        classes = None if images.numbers else _classes_of_places(place_of, images.targets())
        if classes is not None:
            _check_class_sizes(classes, images, num_parts=1 + (val > 0) + (test > 0))
        rest, in_test = draw_halves(everything, classes, share=test, seed=seed)
        of_rest = None if classes is None else classes[rest]
        _, in_val = draw_halves(rest, of_rest, share=val / (1 - test), seed=seed + 1)
    parts = np.full(len(everything), "train", dtype=object)
    parts[in_val], parts[in_test] = "val", "test"
    return replace(images, splits=tuple(parts[place_of].tolist()))


def _balanced_halves(
    labels: Bool[Array, "place class"], *, val: float, test: float, seed: int
) -> tuple[Int[Array, " val"], Int[Array, " test"]]:
    """Draw validation and test from what training leaves."""
    num_val, num_test = round(len(labels) * val), round(len(labels) * test)
    num_train = len(labels) - num_val - num_test
    order = balanced_order(labels, seed=seed, purpose="training part", num=num_train)
    left = np.setdiff1d(np.arange(len(labels)), order)
    # Training may need more than its share to have every label.
    num_test = min(num_test, round(len(left) * test / (val + test))) if val + test > 0 else 0
    in_test = left[balanced_order(labels[left], seed=seed, purpose="test part", num=num_test)]
    if len(in_test) > num_test:
        in_test = in_test[:num_test]
    return np.setdiff1d(left, in_test), in_test


def _place_numbers(images: LabelledImages) -> Int[Array, "sample"]:
    """Number the places in the order of their first images."""
    if not images.places:
        return np.arange(len(images))
    number = {place: index for index, place in enumerate(dict.fromkeys(images.places))}
    return np.array([number[place] for place in images.places], dtype=np.int64)


def _labels_of_places(
    place_of: Int[Array, "sample"], targets: Bool[Array, "sample class"]
) -> Bool[Array, "place class"]:
    found = np.zeros((place_of.max() + 1, targets.shape[1]), dtype=bool)
    np.logical_or.at(found, place_of, targets)
    return found


def _classes_of_places(place_of: Int[Array, "sample"], targets: Int[Array, "sample"]) -> Int[Array, "place"]:
    votes = np.zeros((place_of.max() + 1, targets.max() + 1), dtype=np.int64)
    np.add.at(votes, (place_of, targets), 1)
    most: Int[Array, "place"] = votes.argmax(axis=1)
    return most


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
