"""Tables of labels, and images with labels from tables and class folders."""

import csv
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from anyband.arrays import Array, Bool, Float, Int
from anyband.data.manifest import COLUMNS, ImageEntry, parse_entry
from anyband.data.store import SPLITS, Split
from anyband.errors import AnybandError, InputError, ManifestError, nearest_name
from anyband.progress import progress
from anyband.randomness import permutation
from anyband.rasters.reader import RasterSource
from anyband.sensors.catalogue import find_sensor_name
from anyband.sensors.sensor import Sensor

__all__ = [
    "IMAGE_ENDINGS",
    "LABEL_TABLE_ENDINGS",
    "SPLITS",
    "EntryMaker",
    "LabelForm",
    "LabelledImages",
    "Slot",
    "Split",
    "balanced_order",
    "check_listed_once",
    "check_places_whole",
    "draw_halves",
    "grouped_rows",
    "labels_in",
    "numbers_in",
    "parts_in",
    "paths_in",
    "places_in",
    "read_class_folders",
    "read_columns",
    "read_label_table",
    "read_labelled",
    "rounds_order",
    "set_entries",
    "split",
    "wanted_column",
]


def draw_halves(
    indices: Int[Array, " sample"], classes: Int[Array, " sample"] | None, *, share: float, seed: int
) -> tuple[Int[Array, " first"], Int[Array, " second"]]:
    """Draw a share of some samples, each class in the same share.

    Args:
        indices: of the samples.
        classes: of each; None: drawn without regard to classes.
        share: from 0 to under 1.
        seed: of the draw.

    Returns:
        Those left, and those drawn.

    Raises:
        InputError: too few samples for the share, or for every class.
    """
    if share == 0:
        return indices, indices[:0]
    from sklearn.model_selection import train_test_split

    try:
        first, second = train_test_split(
            indices, test_size=share, random_state=seed % 2**32, stratify=classes, shuffle=True
        )
    except ValueError as problem:
        of = "" if classes is None else f" of {len(np.unique(classes))} classes"
        raise InputError(
            f"{len(indices)} images{of} can't be split with a share of {share:g}: {problem}; take a larger share, add "
            "images, or declare a column `split`"
        ) from problem
    return first, second


def balanced_order(labels: Bool[Array, "sample label"], *, seed: int, purpose: str, num: int) -> Int[Array, " order"]:
    """Order samples of several labels so that every beginning has the labels in nearly the same shares.

    First comes a sample for each label, from the rarest on, so that none is lost. Then the next sample is always one
    of the label that those before lack most; among its samples the seed draws. A shorter order is the beginning of a
    longer one.

    Args:
        labels: which hold.
        seed: of the draw.
        purpose: of the draw.
        num: how many samples to order; there are more where the labels need more.

    Returns:
        Positions of samples, each at most once.
    """
    classes, counts = _with_unlabelled(labels)
    queues = _Queues(classes, permutation(seed, step=0, purpose=purpose, size=len(labels)))
    for label in np.argsort(counts, kind="stable"):
        if counts[label] and not queues.taken[label]:
            queues.take(int(label))
    shares = counts / max(len(labels), 1)
    while len(queues.order) < min(num, len(labels)):
        lack: Float[Array, " label"] = shares * (len(queues.order) + 1) - queues.taken
        lack[queues.taken == counts] = -np.inf
        queues.take(int(lack.argmax()))
    return np.array(queues.order, dtype=np.int64)


def rounds_order(labels: Bool[Array, "sample label"], *, rounds: int, seed: int, purpose: str) -> Int[Array, " order"]:
    """Draw so many samples of each label, or all that it has. Fewer rounds draw a part of what more rounds draw.

    In each round, from the rarest label on, each that has fewer samples than rounds were gets one; a sample counts
    for all its labels.

    Args:
        labels: which hold; samples without any are not drawn.
        rounds: samples of each label.
        seed: of the draw.
        purpose: of the draw.

    Returns:
        Positions of samples, each at most once.
    """
    counts = labels.sum(axis=0)
    queues = _Queues(labels, permutation(seed, step=0, purpose=purpose, size=len(labels)))
    rarest_first = np.argsort(counts, kind="stable")
    for number in range(1, min(rounds, int(counts.max(initial=0))) + 1):
        for label in rarest_first:
            if queues.taken[label] < min(number, counts[label]):
                queues.take(int(label))
    return np.array(queues.order, dtype=np.int64)


class _Queues:
    """The samples of each label in a drawn order, and which are taken."""

    def __init__(self, labels: Bool[Array, "sample label"], drawn: Int[Array, " sample"]) -> None:
        self._labels = labels
        self._waiting = [drawn[labels[drawn, label]] for label in range(labels.shape[1])]
        self._next = [0] * labels.shape[1]
        self._is_taken = np.zeros(len(labels), dtype=bool)
        self.taken = np.zeros(labels.shape[1], dtype=np.int64)
        self.order: list[int] = []

    def take(self, label: int) -> None:
        """Take the next sample of a label; the caller knows that there is one."""
        waiting = self._waiting[label]
        while self._is_taken[waiting[self._next[label]]]:
            self._next[label] += 1
        sample = int(waiting[self._next[label]])
        self._is_taken[sample] = True
        self.taken += self._labels[sample]
        self.order.append(sample)


def _with_unlabelled(labels: Bool[Array, "sample label"]) -> tuple[Bool[Array, "sample column"], Int[Array, " column"]]:
    """Count samples without any label as a label of their own, so that they keep their share too."""
    with_none = np.column_stack([labels, ~labels.any(axis=1)])
    return with_none, with_none.sum(axis=0)


LABEL_TABLE_ENDINGS = (".csv", ".parquet", ".geoparquet")
"""Of the files that are read as tables."""

_SEPARATORS = (";", "|")


def read_columns(table: Path) -> dict[str, list[str]]:
    """Read all columns of a CSV or Parquet table as text; an empty cell is empty text, a list is joined by `;`.

    Raises:
        ManifestError: the file can't be read, has rows of unequal length, or a column twice.
    """
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


def _check_distinct(names: Sequence[str], table: Path) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ManifestError(f"'{table}' has column '{twice[0]}' twice; keep one of them")


def _text(value: object) -> str:
    if isinstance(value, list):
        return _SEPARATORS[0].join(str(one) for one in value)
    # Tables of data frames hold NaN where nothing stands.
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)


def wanted_column(columns: Mapping[str, Sequence[str]], wanted: Sequence[str], table: Path) -> str:
    """Find the column that has the first of the wanted names that is there.

    Raises:
        ManifestError: none is.
    """
    for name in wanted:
        if name in columns:
            return name
    raise ManifestError(
        f"'{table}' needs a column '{wanted[0]}'; it has {', '.join(columns) or 'none'}"
        f"{nearest_name(wanted[0], columns)}"
    )


def paths_in(texts: Sequence[str], table: Path) -> list[Path]:
    """Resolve paths that are relative to their table.

    Raises:
        ManifestError: a row has none, or names a file that does not exist.
    """
    found = []
    for row, text in enumerate(texts, start=1):
        if not text.strip():
            raise ManifestError(f"row {row} of '{table}' has no path")
        path = table.parent / text.strip()
        if not path.exists():
            raise ManifestError(f"row {row} of '{table}' names '{path}', which does not exist")
        found.append(path)
    return found


def check_listed_once(paths: Sequence[Path], name: str) -> None:
    """Refuse a file that is listed twice, also by another way to it.

    Raises:
        ManifestError: one is.
    """
    folders: dict[str, str] = {}
    seen: set[str] = set()
    for path in map(str, paths):
        # The ways to half a million files go through few folders.
        folder, last = os.path.split(path)
        parent = folders.get(folder)
        if parent is None:
            parent = folders[folder] = os.path.realpath(folder)
        is_plain = last != ".." and not os.path.islink(path)  # noqa: PTH114 (half a million)
        found = os.path.join(parent, last) if is_plain else os.path.realpath(path)  # noqa: PTH118 (half a million)
        if found in seen:
            raise ManifestError(
                f"'{name}' lists '{found}' more than once; an image in two places would leak from one split into "
                "another"
            )
        seen.add(found)


def labels_in(text: str) -> tuple[str, ...]:
    """Take the labels of a cell apart, at `;` and `|`."""
    for separator in _SEPARATORS:
        text = text.replace(separator, _SEPARATORS[0])
    return tuple(name.strip() for name in text.split(_SEPARATORS[0]) if name.strip())


def numbers_in(texts: Sequence[str], *, column: str, table: str | os.PathLike[str]) -> tuple[float, ...]:
    """Read the number of each row.

    Raises:
        ManifestError: a cell is empty, no number, or not finite; its row is named.
    """
    numbers = []
    for row, text in enumerate(texts, start=1):
        try:
            number = float(text)
        except ValueError as problem:
            found = f"'{text.strip()}', which is no number" if text.strip() else "nothing"
            raise ManifestError(
                f"row {row} of '{table}' has {found} in column '{column}'; give every sample a number, "
                "or leave the row out"
            ) from problem
        if not math.isfinite(number):
            raise ManifestError(
                f"row {row} of '{table}' has '{text.strip()}' in column '{column}'; numbers must be finite, "
                "leave the row out"
            )
        numbers.append(number)
    return tuple(numbers)


def parts_in(columns: Mapping[str, Sequence[str]], table: Path) -> tuple[Split, ...]:
    """Read the part that column `split` declares for each row; empty without that column.

    Raises:
        ManifestError: a row has none, or an unknown one.
    """
    known: dict[str, Split] = {name: name for name in SPLITS}
    found: list[Split] = []
    for row, text in enumerate(columns.get("split", ()), start=1):
        match = known.get(text.strip())
        if match is None:
            raise ManifestError(
                f"row {row} of '{table}' has the split '{text}'; it must be one of {', '.join(SPLITS)}"
                f"{nearest_name(text, SPLITS)}"
            )
        found.append(match)
    return tuple(found)


def places_in(columns: Mapping[str, Sequence[str]], parts: Sequence[Split], table: Path) -> tuple[str, ...]:
    """Read the place of each row from column `place`; a row without has one of its own. Empty without that column.

    Args:
        columns: of the table.
        parts: declared for the rows; empty: none are.
        table: for messages.

    Raises:
        ManifestError: images of one place are declared for several parts.
    """
    named = enumerate(columns.get("place", ()), start=1)
    places = tuple(text.strip() or f"row {row}" for row, text in named)
    check_places_whole(places, parts, str(table))
    return places


def check_places_whole(places: Sequence[str], parts: Sequence[Split], name: str) -> None:
    """Refuse places whose images are in several parts.

    Raises:
        ManifestError: there is one.
    """
    part_of: dict[str, Split] = {}
    for place, part in zip(places, parts, strict=False):
        if part_of.setdefault(place, part) != part:
            raise ManifestError(
                f"'{name}' has images of place '{place}' in '{part_of[place]}' and in '{part}'; images of one place "
                "would leak from one split into another: declare one split for each place"
            )


# What a set says as a whole, and what isn't of its images.
_OF_SETS = ("place", "split")
# chosen: fewer rows are read within two seconds.
_SHOWN_FROM = 20_000
_SHOWN_EVERY = 1_000


@dataclass(frozen=True, kw_only=True)
class Slot:
    """How an image is read where its row does not say it."""

    sensor: str
    """Name in the catalogue, or the whole path of a YAML file."""
    bands: tuple[str, ...] = ()
    """In the order of the files; empty: all of the sensor's."""
    encoding: str | None = None
    """How the numbers are stored; None: the sensor's default."""

    @property
    def cells(self) -> dict[str, str]:
        """The same as cells of a manifest."""
        cells = {"sensor": self.sensor, "bands": ";".join(self.bands), "encoding": self.encoding or ""}
        return {name: text for name, text in cells.items() if text}


class EntryMaker:
    """Makes images of a manifest from paths and cells; cells that were seen before are not parsed again."""

    def __init__(self, folder: Path, known: Mapping[str, Sensor] | None = None) -> None:
        """Take what all images share.

        Args:
            folder: that relative paths are relative to.
            known: sensors by name that the catalogue need not have.
        """
        self._folder = folder
        self._known = known
        self._made: dict[object, ImageEntry] = {}

    def entry(self, name: str, path: Path, cells: Mapping[str, str]) -> ImageEntry:
        """Make an image.

        Args:
            name: of its file or folder, as the table writes it.
            path: the same, found.
            cells: other columns of a manifest.

        Raises:
            ManifestError: a cell is wrong.
            CatalogueError: the sensor, a band or the encoding is unknown.
        """
        # Whether bands are found by order or by name depends on the file.
        kind = (path.suffix.casefold(), path.is_dir()) if "bands" in cells else ()
        key = (*cells.items(), *kind)
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = parse_entry({**cells, "path": name}, folder=self._folder, known=self._known)
        return replace(made, name=name, source=replace(made.source, paths=(path,)))


def set_entries(
    columns: Mapping[str, Sequence[str]],
    paths: Sequence[Path],
    *,
    path_column: str,
    table: Path,
    slots: Sequence[Slot] = (),
    sensors: Mapping[str, Sensor] | None = None,
) -> list[tuple[ImageEntry, ...]]:
    """Read each row as an image of a manifest; columns that a manifest doesn't have are left alone.

    A row that names no sensor is read by a slot: the only one; else, in a set, that of its position in the set. A row
    outside of sets is then an image for each slot, from the same file or folder.

    Args:
        columns: of the table.
        paths: found, of each row.
        path_column: which has the paths as written.
        table: for messages, and because paths are relative to it.
        slots: for rows that name no sensor; a row that names a slot's sensor has that slot's bands and encoding,
            where it names none.
        sensors: by name, that the catalogue need not have.

    Raises:
        ManifestError: a row is wrong, or two are of one image.
    """
    known = [name for name in columns if name in COLUMNS and name not in (*_OF_SETS, path_column)]
    maker = EntryMaker(table.parent, sensors)
    positions = _positions(columns["set"]) if "set" in columns else [None] * len(columns[path_column])
    rows = list(zip(columns[path_column], paths, positions, strict=True))
    entries: list[tuple[ImageEntry, ...]] = []
    with progress("read the table", len(rows), shown=len(rows) > _SHOWN_FROM) as advance:
        for number, (name, path, position) in enumerate(rows, start=1):
            cells = {column: text for column in known if (text := columns[column][number - 1].strip())}
            try:
                said = _cells_of_images(cells, slots, position)
                entries.append(tuple(maker.entry(name.strip(), path, one) for one in said))
            except AnybandError as problem:
                raise ManifestError(f"row {number} of '{table}': {problem}") from problem
            if number % _SHOWN_EVERY == 0:
                advance(_SHOWN_EVERY)
    if "set" in columns:
        _check_distinct_labelled_sets(entries, table)
    return entries


def _check_distinct_labelled_sets(entries: Sequence[Sequence[ImageEntry]], table: Path) -> None:
    """Refuse an image that is in two sets, or twice in one. Sensors may share a folder of bands."""
    first_row: dict[tuple[RasterSource, str], int] = {}
    for number, row in enumerate(entries, start=1):
        for entry in row:
            first = first_row.setdefault((entry.source, entry.sensor.name), number)
            if first != number:
                raise ManifestError(
                    f"rows {first} and {number} of '{table}' are of one image, '{entry.name}'; keep one"
                )


def _positions(names: Sequence[str]) -> list[int | None]:
    """Count each row's position in its set; None: it is in none."""
    counts: dict[str, int] = {}
    found: list[int | None] = []
    for text in names:
        name = text.strip()
        found.append(counts.get(name, 0) if name else None)
        counts[name] = counts.get(name, 0) + 1
    return found


def _cells_of_images(cells: dict[str, str], slots: Sequence[Slot], position: int | None) -> list[dict[str, str]]:
    """Fill in what a row leaves open."""
    if "sensor" in cells:
        slot = next((slot for slot in slots if _is_same(slot.sensor, cells["sensor"])), None)
        # A scale or an offset of the row says how numbers are stored, too.
        own = {"encoding"} if {"scale", "offset"} & set(cells) else set()
        filled = {} if slot is None else {name: text for name, text in slot.cells.items() if name not in own}
        return [{**filled, **cells}]
    if not slots:
        raise ManifestError(
            "'sensor' is missing; name it in the table's column `sensor`, or one for all images beside the table"
        )
    if len(slots) == 1:
        return [{**slots[0].cells, **cells}]
    if position is None:
        return [{**slot.cells, **cells} for slot in slots]
    if position >= len(slots):
        raise ManifestError(
            f"it is image {position + 1} of its set and names no sensor; {len(slots)} sensors are declared beside the "
            "table: name one in column `sensor`"
        )
    return [{**slots[position].cells, **cells}]


def _is_same(first: str, second: str) -> bool:
    return (find_sensor_name(first) or first) == (find_sensor_name(second) or second)


def grouped_rows(names: Sequence[str], said: Mapping[str, Sequence[str]], table: Path) -> list[list[int]]:
    """Group rows by the set they name, in the order of its first row; a row that names none is a set of its own.

    Args:
        names: of the set of each row.
        said: by column, what rows say of their set.
        table: for messages.

    Raises:
        ManifestError: rows of one set say different things.
    """
    groups: dict[str | int, list[int]] = {}
    for row, name in enumerate(names):
        groups.setdefault(name.strip() or row, []).append(row)
    for column, values in said.items():
        for rows in groups.values():
            other = next((row for row in rows if values[row].strip() != values[rows[0]].strip()), None)
            if other is not None:
                raise ManifestError(
                    f"rows {rows[0] + 1} and {other + 1} of '{table}' are of set '{names[other]}', but have "
                    f"the {column} '{values[rows[0]]}' and '{values[other]}'; a set has one {column}"
                )
    return list(groups.values())


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
