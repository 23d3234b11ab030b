"""Values read out of tables that people write: each checked where it is read, its place named in errors."""

import math
from collections.abc import Collection
from typing import Any

from anyband.errors import CatalogueError, nearest_name

__all__ = ["checked_items", "checked_keys", "choice", "names", "number", "table", "text"]


def checked_keys(
    raw: Any, *, where: str, required: Collection[str] = (), optional: Collection[str] = ()
) -> dict[str, Any]:
    """Check that `raw` is a mapping with all required keys and no unknown ones.

    Args:
        raw: what stands in the table.
        where: its place, for messages.
        required: keys that must stand there.
        optional: keys that may stand there.

    Returns:
        The mapping.

    Raises:
        CatalogueError: a key is unknown (the nearest one is offered) or missing.
    """
    mapping = table(raw, where=where)
    allowed = [*required, *optional]
    for key in mapping:
        if key not in allowed:
            raise CatalogueError(
                f"{where}: unknown key '{key}'{nearest_name(key, allowed)} (allowed: {', '.join(allowed)})"
            )
    missing = [key for key in required if mapping.get(key) is None]
    if missing:
        raise CatalogueError(f"{where}: key '{missing[0]}' is missing (needed: {', '.join(required)})")
    return mapping


def table(raw: Any, *, where: str) -> dict[str, Any]:
    """Check that `raw` is a mapping whose keys are texts. An empty entry counts as an empty mapping."""
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise CatalogueError(f"{where}: expected a mapping of keys to values, found {_shown(raw)}")
    for key in raw:
        text(key, where=f"{where}, key {key!r}")
    return raw


def checked_items(raw: Any, *, where: str) -> list[Any]:
    """Check that `raw` is a list with at least one item."""
    if not isinstance(raw, list) or not raw:
        raise CatalogueError(f"{where}: expected a list with at least one item, found {_shown(raw)}")
    return raw


def text(raw: Any, *, where: str) -> str:
    """Check that `raw` is a text with something in it."""
    if not isinstance(raw, str) or not raw.strip():
        raise CatalogueError(f"{where}: expected a text, found {_shown(raw)}; put it in quotes if it is one")
    return raw


def names(raw: Any, *, where: str) -> tuple[str, ...]:
    """Check that `raw` is a list of texts, maybe empty or absent."""
    if raw is None:
        return ()
    if not isinstance(raw, list):
        raise CatalogueError(f"{where}: expected a list of texts, found {_shown(raw)}")
    return tuple(text(item, where=f"{where}[{index}]") for index, item in enumerate(raw))


def number(raw: Any, *, where: str, above: float = -math.inf) -> float:
    """Check that `raw` is a finite number, and greater than `above`."""
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        raise CatalogueError(f"{where}: expected a number, found {_shown(raw)}")
    if not (math.isfinite(raw) and raw > above):
        bound = f" over {above:g}" if math.isfinite(above) else ""
        raise CatalogueError(f"{where}: expected a finite number{bound}, found {raw:g}")
    return float(raw)


def choice(raw: Any, *, where: str, allowed: Collection[str]) -> str:
    """Check that `raw` is one of the allowed words; else the nearest one is offered."""
    word = text(raw, where=where)
    if word not in allowed:
        raise CatalogueError(f"{where}: '{word}' is not one of {', '.join(allowed)}{nearest_name(word, allowed)}")
    return word


def _shown(raw: Any) -> str:
    return "nothing" if raw is None else f"{raw!r} ({type(raw).__name__})"
