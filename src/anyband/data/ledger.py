"""The sqlite file of a store under construction: its images, their surveys, what was cut, and the index rows."""

import datetime as dt
import json
import math
import os
import shutil
import sqlite3
import sys
import zlib
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from anyband.arrays import Array, Int
from anyband.data.cutting import PIECES_PER_IMAGE, Cut, ImageSurvey, Piece, SurveyedImage, chip_bytes, storage_of
from anyband.data.manifest import ImageEntry, identity
from anyband.data.places import PlacedImage
from anyband.data.store import partial_path
from anyband.errors import AnybandError, OutputError, WorkerError
from anyband.files import check_target, held, sync, whole_file
from anyband.rasters.grid import Grid
from anyband.rasters.reader import RasterSource
from anyband.sensors.sensor import Encoding, Sensor

__all__ = ["Ledger", "PlacedImages", "WaitingChip", "open_ledger", "publish", "remove_leftover"]

_VERSION = 6
# The store that is being replaced, for as long as neither is at its place.
_REPLACED = "replaced"
# The file by which a later run knows that such a folder is ours, and what it says.
_MARK, _MARK_TEXT = "anyband", b"a chip store under construction\n"

# Images and what follows from them are written anew by each run; surveys, cuts and shards are what a killed run leaves.
_KEPT = """
CREATE TABLE inputs (digest TEXT NOT NULL);
CREATE TABLE surveys (image INTEGER PRIMARY KEY, problem TEXT, dtype TEXT, nodata REAL, datetime TEXT, height INTEGER,
    width INTEGER, transform TEXT, crs TEXT, gsd_m REAL, notes TEXT, encoding TEXT, checksum INTEGER);
CREATE TABLE cuts (piece INTEGER PRIMARY KEY, problem TEXT, best REAL, chips TEXT, said TEXT, content BLOB,
    checksum INTEGER);
CREATE TABLE shards (array TEXT, shard INTEGER, digest TEXT, partial INTEGER, checksum INTEGER,
    PRIMARY KEY (array, shard));
"""
# How many columns, from the first, the checksum of a row is of; the chips themselves have checksums of their own.
_CHECKED = {"surveys": 12, "cuts": 5, "shards": 4}
_ANEW = """
DROP TABLE IF EXISTS images;
DROP TABLE IF EXISTS skipped;
CREATE TABLE images (number INTEGER PRIMARY KEY, identity BLOB, name TEXT, source TEXT, kind INTEGER, place TEXT,
    datetime TEXT, split TEXT);
CREATE TABLE skipped (image INTEGER PRIMARY KEY, reason TEXT NOT NULL);
"""
# chosen: rows that are Python objects together, some kilobytes each.
_ROWS_TOGETHER = 512

_GRID = "height, width, transform, crs, gsd_m"
_SURVEY = f"problem, dtype, nodata, surveys.datetime, notes, encoding, {_GRID}"


class Ledger:
    """The file that a run notes its work in. What was noted survives the end of the process at any moment."""

    def __init__(self, path: Path) -> None:
        """Open the file, or begin one; `OutputError` where it can't be written."""
        self.path = path
        # (bands asked for, whole sensor, encoding): thousands of images share a few.
        self._kinds: list[tuple[Sensor, Sensor, tuple[tuple[str, Encoding], ...]]] = []
        with self._writing():
            self.database = sqlite3.connect(path, isolation_level=None)
            self.database.create_function("checksum", -1, _checksum)
            self.database.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL")

    def begin(self, inputs: str) -> None:
        """Note for which images and options the work is; finished work for others, or that is damaged, is forgotten."""
        with self._writing():
            if inputs == _inputs_of(self.database):
                self._forget_damaged()
                return
            with self._transaction():
                for (table,) in self.database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                    self.database.execute(f"DROP TABLE {table}")
                for statement in _KEPT.split(";"):
                    self.database.execute(statement)
                self.database.execute("INSERT INTO inputs VALUES (?)", [inputs])
                self.database.execute(f"PRAGMA user_version = {_VERSION}")

    def _forget_damaged(self) -> None:
        for table, count in _CHECKED.items():
            columns = [column for _, column, *_ in self.database.execute(f"PRAGMA table_info({table})")][:count]
            self.database.execute(f"DELETE FROM {table} WHERE checksum({', '.join(columns)}) IS NOT checksum")

    def fill(self, entries: Iterable[ImageEntry]) -> None:
        """Write the images down, and which of them stand in the list again."""
        kinds: dict[tuple[int, int, int], int] = {}

        def row(number: int, entry: ImageEntry) -> tuple[Any, ...]:
            kind = (entry.sensor, entry.product, entry.encoding)
            ids = (id(kind[0]), id(kind[1]), id(kind[2]))
            if ids not in kinds:
                kinds[ids] = len(self._kinds)
                self._kinds.append(kind)
            time = entry.datetime and entry.datetime.isoformat()
            source = _source_text(entry.source)
            return number, identity(entry), entry.name, source, kinds[ids], entry.place, time, entry.split

        with self._writing(), self._transaction():
            for statement in _ANEW.split(";"):
                self.database.execute(statement)
            rows = (row(number, entry) for number, entry in enumerate(entries))
            self.database.executemany("INSERT INTO images VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
            self.database.execute("CREATE INDEX again ON images (identity)")
            self.database.execute(
                "INSERT INTO skipped SELECT again.number, '''' || again.name || ''' stands in the list twice' || "
                "iif(again.name = one.name, '', ', first as ''' || one.name || '''') FROM images AS again "
                "JOIN images AS one ON one.number = (SELECT min(number) FROM images WHERE identity = again.identity) "
                "WHERE one.number < again.number"
            )

    def num_images(self) -> int:
        """Count the images that are not skipped."""
        return int(self._one("SELECT (SELECT count(*) FROM images) - (SELECT count(*) FROM skipped)")[0])

    def numbers(self) -> Int[Array, " image"]:
        """Numbers of the images that are not skipped, ascending."""
        rows = self.database.execute(
            "SELECT number FROM images WHERE number NOT IN (SELECT image FROM skipped) ORDER BY 1"
        )
        return np.fromiter((number for (number,) in rows), dtype=np.int64)

    def all_declared(self) -> bool:
        """Tell whether every image says its place."""
        return self._one("SELECT 1 FROM images WHERE place IS NULL LIMIT 1") is None

    def declared(self) -> Iterator[list[int]]:
        """Give the numbers of the images of each declared place that are not skipped now, by the first of them."""
        rows = self.database.execute(
            "WITH used AS (SELECT number, place FROM images WHERE number NOT IN (SELECT image FROM skipped)) "
            "SELECT number, first FROM used JOIN (SELECT place, min(number) AS first FROM used GROUP BY place) "
            "USING (place) ORDER BY first, number"
        )
        numbers = np.fromiter(rows, dtype=np.dtype((np.int64, 2)))
        starts = np.flatnonzero(np.diff(numbers[:, 1], prepend=-1)).tolist()
        for start, end in zip(starts, [*starts[1:], len(numbers)], strict=True):
            yield numbers[start:end, 0].tolist()

    def entry(self, number: int) -> ImageEntry:
        name, source, kind, place, time, split = self._one(
            "SELECT name, source, kind, place, datetime, split FROM images WHERE number = ?", number
        )
        sensor, product, encoding = self._kinds[kind]
        return ImageEntry(
            name=name, source=_source_of(source), sensor=sensor, product=product, encoding=encoding, place=place,
            datetime=_time(time), split=split,
        )  # fmt: skip

    def placed(self, number: int) -> PlacedImage:
        """Read what decides the place of an image."""
        name, place, split, *grid = self._one(
            f"SELECT name, place, split, {_GRID} FROM images JOIN surveys ON image = number WHERE number = ?", number
        )
        return PlacedImage(name=name, grid=_grid(*grid), place=place, split=split)

    def skip(self, image: int, reason: str) -> None:
        """Note why an image is not used; the first reason stays."""
        self._note("INSERT OR IGNORE INTO skipped VALUES (?, ?)", image, reason)

    def skipped(self) -> Iterator[tuple[str, str]]:
        """Give (name, reason) of each image that is not used."""
        yield from self.database.execute(
            "SELECT name, reason FROM skipped JOIN images ON number = image ORDER BY image"
        )

    def survey(self, image: int) -> ImageSurvey | str | None:
        """Read what an image says, or why it can't be used; None: it was not looked at yet."""
        row = self.database.execute(f"SELECT {_SURVEY} FROM surveys WHERE image = ?", [image]).fetchone()
        if row is None or row[0] is not None:
            return row and str(row[0])
        _, dtype, nodata, time, notes, encoding, *grid = row
        return ImageSurvey(
            grid=_grid(*grid), dtype=sys.intern(dtype), nodata=nodata, datetime=_time(time),
            encoding=_encoding(encoding), notes=tuple(json.loads(notes or "[]")),
        )  # fmt: skip

    def notes(self) -> Iterator[tuple[str, list[str]]]:
        """Give (name, what is said of it) of each image that is used and of which something is said."""
        rows = self.database.execute(
            "SELECT name, notes FROM surveys JOIN images ON image = number "
            "WHERE notes IS NOT NULL AND number NOT IN (SELECT image FROM skipped) ORDER BY number"
        )
        return ((name, json.loads(notes)) for name, notes in rows)

    def keep_survey(self, image: int, survey: ImageSurvey | str) -> None:
        """Note what an image says, or why it can't be used."""
        if isinstance(survey, str):
            self._keep("surveys", image, survey, *[None] * 10)
            return
        grid, time = survey.grid, survey.datetime and survey.datetime.isoformat()
        numbers = (grid.height, grid.width, json.dumps(grid.transform), grid.crs, grid.gsd_m)
        notes = json.dumps(survey.notes) if survey.notes else None
        encoding = json.dumps([(band, asdict(one)) for band, one in survey.encoding]) if survey.encoding else None
        self._keep("surveys", image, None, survey.dtype, survey.nodata, time, *numbers, notes, encoding)

    def keep_place(self, surveys: Iterable[SurveyedImage]) -> None:
        """Note all that is known of the images of a place, or nothing of it."""
        with self._writing(), self._transaction():
            for number, survey, cuts in surveys:
                self.keep_survey(number, survey)
                for piece, cut in cuts:
                    self.keep_cut(piece, cut)

    def cut(self, piece: int) -> Cut | str | None:
        """Read what was cut of a piece, or why it can't be; None: it was not cut yet."""
        row = self.database.execute("SELECT problem, best, chips, said FROM cuts WHERE piece = ?", [piece]).fetchone()
        if row is None or row[0] is not None:
            return row and str(row[0])
        return [tuple(chip) for chip in json.loads(row[2])], row[1], None, json.loads(row[3] or "{}")

    def doubts(self) -> Iterator[tuple[str, Mapping[str, str]]]:
        """Give (name, kind → sentence) of each image that is used and has values that cannot be."""
        rows = self.database.execute(
            f"SELECT number, name, said FROM cuts JOIN images ON number = piece / {PIECES_PER_IMAGE} "
            "WHERE said IS NOT NULL AND number NOT IN (SELECT image FROM skipped) ORDER BY piece"
        )
        for (_, name), pieces in groupby(rows, key=itemgetter(0, 1)):
            yield name, ChainMap(*(json.loads(said) for _, _, said in pieces))

    def keep_cut(self, piece: int, cut: Cut | str) -> None:
        """Note what was cut of a piece, or why it can't be."""
        if isinstance(cut, str):
            self._keep("cuts", piece, cut, None, None, None, None)
        else:
            chips, best, content, said = cut
            self._keep("cuts", piece, None, best, json.dumps(chips), json.dumps(said) if said else None, content)

    def content(self, piece: int, start: int, size: int) -> bytes | None:
        """Read some bytes of the chips of a small piece; None: they are in its file."""
        row = self._one("SELECT substr(content, ?, ?) FROM cuts WHERE piece = ?", start + 1, size, piece)
        content: bytes | None = row and row[0]
        return content

    def drop_content(self, piece: int) -> None:
        """Forget the chips of a piece, which are safe in the store."""
        self._note("UPDATE cuts SET content = NULL WHERE piece = ?", piece)

    def shards(self) -> dict[tuple[str, int], tuple[str, bool]]:
        """Read the shards that are on the disk: (array, number) → (hash, whether some value is not data)."""
        rows = self.database.execute("SELECT array, shard, digest, partial FROM shards").fetchall()
        return {(array, shard): (digest, bool(partial)) for array, shard, digest, partial in rows}

    def keep_shard(self, array: str, shard: int, digest: str, partial: bool) -> None:
        self._keep("shards", array, shard, digest, int(partial))

    def close(self) -> None:
        self.database.close()

    def _one(self, query: str, *values: Any) -> Any:
        return self.database.execute(query, values).fetchone()

    def _keep(self, table: str, *values: Any) -> None:
        row = *values, _checksum(*values[: _CHECKED[table]])
        self._note(f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * len(row))})", *row)

    def _note(self, statement: str, *values: Any) -> None:
        with self._writing():
            self.database.execute(statement, values)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self.database.execute("BEGIN")
        try:
            yield
        except BaseException:
            self.database.execute("ROLLBACK")
            raise
        self.database.execute("COMMIT")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as problem:
            raise OutputError(
                f"cannot write the ledger '{self.path}': {problem}; what is finished is kept: "
                "free some room and run the same command again"
            ) from problem
        except sqlite3.Error as problem:
            raise _damaged(self.path, self.path.parent, f" ({problem})") from problem


def _checksum(*values: Any) -> int:
    return zlib.crc32(repr([float(value) if isinstance(value, float) else value for value in values]).encode())


def _inputs_of(database: sqlite3.Connection) -> str | None:
    """Read what the work of a file is for; None where the file is new or of another version."""
    if database.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
        return None
    return str(database.execute("SELECT digest FROM inputs").fetchone()[0])


@lru_cache(maxsize=64)
def _encoding(text: str | None) -> tuple[tuple[str, Encoding], ...]:
    return tuple((band, Encoding(**numbers)) for band, numbers in json.loads(text or "[]"))


def _grid(height: int, width: int, transform: str, crs: str | None, gsd_m: float) -> Grid:
    # Names come anew with each row; thousands of images share a few of them.
    shared = crs and sys.intern(crs)
    return Grid(height=height, width=width, transform=tuple(json.loads(transform)), crs=shared, gsd_m=gsd_m)


def _source_text(source: RasterSource) -> str:
    return json.dumps({name: getattr(source, name) for name in RasterSource.__slots__}, default=str)


def _source_of(text: str) -> RasterSource:
    given = json.loads(text)
    lists = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    paths = {name: tuple(map(Path, given[name])) for name in ("paths", "valid_paths")}
    bands = tuple((band, name) for band, name in given["bands"])
    times = {name: _time(given[name]) for name in ("time", "acquired")}
    return RasterSource(**{**given, **lists, **paths, "bands": bands, **times})


def _time(text: str | None) -> dt.datetime | None:
    return None if text is None else dt.datetime.fromisoformat(text)


def _damaged(path: Path, folder: Path, reason: str = "") -> OutputError:
    found = f"'{path}', which an earlier run wrote, is damaged{reason}"
    return OutputError(f"{found}; remove its folder '{folder}' and prepare again")


class PlacedImages(Sequence[PlacedImage]):
    """What decides the places of the images that are used, in the order of their numbers, read when asked for."""

    def __init__(self, ledger: Ledger) -> None:
        """Take the images that are not skipped now."""
        self._ledger = ledger
        self.numbers = ledger.numbers()

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, position: Any) -> Any:
        return self._ledger.placed(int(self.numbers[position]))


class WaitingChip:
    """A chip that waits for its shard, in the ledger or in the file of its piece; the last one released removes it."""

    def __init__(self, ledger: Ledger, piece: Piece, chip: tuple[int, float, bool, int], start: int, waiting: set[int]):
        """Say where the chip is: `chip` as in `Cut`, `start` its first byte among the chips of the piece; `waiting`,
        shared by them, has the numbers still needed."""
        self._ledger, self._piece, self._start, self._waiting = ledger, piece, start, waiting
        self._number, _, self._partial, self._checksum = chip

    def load(self) -> tuple[Array, Array | None]:
        """Read the chip back; `OutputError` where it was lost or damaged since it was written."""
        piece, size = self._piece, chip_bytes(self._piece, self._number, self._partial)
        content = self._ledger.content(piece.number, self._start, size)
        if content is None:
            with suppress(OSError), piece.spool.open("rb") as file:
                file.seek(self._start)
                content = file.read(size)
        if content is None or zlib.crc32(content) != self._checksum:
            raise _damaged(piece.spool, piece.spool.parent.parent)
        _, view, _ = piece.chips[self._number]
        shape = (len(piece.entry.sensor.bands), view.height, view.width)
        dtype, _, _ = storage_of(piece.entry, piece.survey)
        pixels = np.frombuffer(content, dtype, count=math.prod(shape)).reshape(shape)
        valid = np.frombuffer(content, bool, offset=pixels.nbytes).reshape(shape) if self._partial else None
        return pixels, valid

    def release(self) -> None:
        """Say that the chip is safe in the store."""
        self._waiting.discard(self._number)
        if not self._waiting:
            try:
                self._piece.spool.unlink()
            except FileNotFoundError:
                self._ledger.drop_content(self._piece.number)


@contextmanager
def open_ledger(out: Path) -> Iterator[Ledger]:
    """Hold the folder of a store under construction that becomes `out`, and open its ledger. After an error of the
    inputs the folder is removed, because other inputs can't use it; after any other it stays for the next run.
    `OutputError` where it can't be written, or another run holds it."""
    folder = partial_path(out)
    check_target(out.parent, is_folder=True)
    with _taken(folder):
        replaced = folder / _REPLACED
        if replaced.exists():
            # A run was killed while it published.
            shutil.rmtree(replaced) if out.exists() else replaced.replace(out)
        ledger = Ledger(folder / "ledger.sqlite")
        try:
            yield ledger
        except (OutputError, WorkerError):
            raise
        except sqlite3.Error as problem:
            raise _damaged(ledger.path, folder, f" ({problem})") from problem
        except AnybandError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            ledger.close()


def publish(out: Path) -> None:
    """Make a finished store `out`; an existing one is replaced, and the rest of its folder removed."""
    replaced, store = partial_path(out) / _REPLACED, partial_path(out) / "store"
    try:
        for file in store.rglob("*"):
            sync(file)
        if out.exists():
            out.replace(replaced)
        store.replace(out)
        sync(out.parent)
    except OSError as problem:
        raise OutputError(f"cannot write '{out}': {problem.strerror or problem}") from problem
    shutil.rmtree(partial_path(out), ignore_errors=True)


def remove_leftover(out: Path, *, inputs: str) -> None:
    """Remove the folder that a run leaves which is killed after its store was published."""
    folder = partial_path(out)
    path = folder / "ledger.sqlite"
    if not (path.is_file() and _is_ours(folder)):
        return
    with suppress(sqlite3.Error, OutputError), _taken(folder):
        database = sqlite3.connect(path)
        if _inputs_of(database) == inputs:
            shutil.rmtree(folder, ignore_errors=True)
        database.close()


@contextmanager
def _taken(folder: Path) -> Iterator[None]:
    """Hold the folder of a store under construction, which is made where there is none; `OutputError` where it is not
    ours, or another run holds it."""
    is_new = not os.path.lexists(folder)
    if not is_new and not _is_ours(folder):
        raise OutputError(
            f"'{folder}' is in the way: unfinished work is kept under this name, and anyband did not make this one; "
            "move it away, or name another output"
        )
    with held(folder / "lock"):
        if is_new:
            with whole_file(folder / _MARK) as mark:
                mark.write_bytes(_MARK_TEXT)
        yield


def _is_ours(folder: Path) -> bool:
    """Tell whether a folder is one that a run made for its work: a link is not, nor one that holds links."""
    try:
        if folder.is_symlink() or any(entry.is_symlink() for entry in folder.iterdir()):
            return False
        return (folder / _MARK).is_file() and (folder / _MARK).read_bytes() == _MARK_TEXT
    except OSError:
        return False
