"""Rows of a table of labels as images of a manifest, and rows that belong together: images of one place, one label."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from anyband.data.manifest import COLUMNS, ImageEntry, parse_entry
from anyband.data.rasters.records import RasterSource
from anyband.errors import AnybandError, ManifestError
from anyband.progress import progress
from anyband.sensors.catalogue import find_sensor_name
from anyband.sensors.sensor import Sensor

__all__ = ["EntryMaker", "Slot", "grouped_rows", "set_entries"]

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
        _check_distinct(entries, table)
    return entries


def _check_distinct(entries: Sequence[Sequence[ImageEntry]], table: Path) -> None:
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
