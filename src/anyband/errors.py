"""Errors that a user can cause: one root, so that a caller can catch all of them, and a builtin beside it."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import SupportsInt

__all__ = [
    "AnybandError",
    "ArchiveError",
    "AssignmentError",
    "CatalogueError",
    "CheckpointError",
    "GeometryError",
    "InputError",
    "ManifestError",
    "OutputError",
    "RasterError",
    "RecipeError",
    "StoreError",
    "TrainingError",
    "WorkerError",
    "agreed",
    "check_text",
    "counted",
    "is_text",
    "nearest_name",
]


class AnybandError(Exception):
    """Root of every error that a user can cause. The command line prints it and exits with code 2."""


class CatalogueError(AnybandError, ValueError):
    """A sensor or band is unknown, or a sensor table is wrong."""


class AssignmentError(AnybandError, ValueError):
    """A band can't be expressed by the trained ranges."""


class RasterError(AnybandError, OSError):
    """A raster file is missing, corrupt, empty, or not what was declared."""


class ArchiveError(AnybandError, OSError):
    """A catalogue of images can't be searched, or an item of it is not what was declared."""


class GeometryError(AnybandError, ValueError):
    """Images do not share a CRS or a footprint, or are too small."""


class ManifestError(AnybandError, ValueError):
    """A list of input files is empty, or a row of it is wrong."""


class StoreError(AnybandError, OSError):
    """A chip store is missing, incomplete, or of another version."""


class RecipeError(AnybandError, ValueError):
    """A recipe has an unknown key, a wrong type, or values that do not go together."""


class CheckpointError(AnybandError, ValueError):
    """A checkpoint is not safetensors, or does not fit the model."""


class InputError(AnybandError, ValueError):
    """An array or tensor has the wrong shape, no data, or values that can't be used."""


class OutputError(AnybandError, OSError):
    """An output can't be written: no permission, no room, or it exists already."""


class TrainingError(AnybandError, RuntimeError):
    """A run can't go on: the loss is not finite."""


class WorkerError(AnybandError, RuntimeError):
    """A worker process was killed; what it was not doing at that moment is as it was."""


def nearest_name(name: str, known: Iterable[str]) -> str:
    """Offer the known name nearest to `name` as the end of a message: `; did you mean 'x'?`, or nothing."""
    by_folded = {candidate.casefold(): candidate for candidate in known}
    close = get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.5)
    return f"; did you mean '{by_folded[close[0]]}'?" if close else ""


# chosen: so much of a text that can't be used is shown.
_SHOWN = 40
_UNUSABLE = re.compile("[\0\ud800-\udfff]")


def is_text(text: str) -> bool:
    """Tell whether a name has no NUL, and no bytes that are no UTF-8."""
    return not _UNUSABLE.search(text)


def check_text(text: str, *, error: type[Exception]) -> None:
    """Raise `error` for what neither a name of a file nor any text of ours can hold: NUL, or bytes that are no UTF-8
    (Python keeps them as halves of pairs)."""
    if _UNUSABLE.search(text):
        raise error(f"{text[:_SHOWN]!r} has a NUL character, or bytes that are not UTF-8; rename it, or write it anew")


_IRREGULAR = {"are": "is", "have": "has", "were": "was", "do": "does"}


def counted(count: SupportsInt, noun: str, verb: str = "") -> str:
    """Write a count with its noun, given as of one, and a verb, given as of several: `1 image is`, `2 images are`."""
    one = int(count) == 1
    ending = "es" if noun.endswith(("s", "x", "tch", "sh")) else "s"
    many = f"{noun[:-1]}ies" if noun.endswith("y") else noun + ending
    return f"{count} {noun if one else many}" + (f" {agreed(count, verb)}" if verb else "")


def agreed(count: SupportsInt, verb: str) -> str:
    """Give a verb, given as of several, as it agrees with a count."""
    return _IRREGULAR.get(verb, f"{verb}s") if int(count) == 1 else verb
