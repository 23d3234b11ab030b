"""YAML read strictly: a key that stands twice is an error, never the last one silently."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from anyband.errors import AnybandError

__all__ = ["parse_yaml", "read_yaml"]


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML that refuses duplicate keys and reads `1e-4` as a number, as YAML 1.2 does."""


def _construct_mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        line = key_node.start_mark.line + 1
        if not isinstance(key, Hashable):
            raise yaml.MarkedYAMLError(
                problem=f"{key!r} can't be a key; a key is a text or a number",
                problem_mark=key_node.start_mark,
            )
        if key in seen:
            raise yaml.MarkedYAMLError(
                problem=f"key '{key}' stands twice, on lines {seen[key]} and {line}",
                problem_mark=key_node.start_mark,
            )
        seen[key] = line
    loader.flatten_mapping(node)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)
_float_words = re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$")
_StrictLoader.add_implicit_resolver("tag:yaml.org,2002:float", _float_words, list("-+0123456789."))


def parse_yaml(text: str, *, name: str, error: type[AnybandError]) -> Any:
    """Parse YAML text; duplicate keys and broken syntax raise `error` with the line.

    Args:
        text: of the document.
        name: of the document in messages.
        error: class to raise.

    Returns:
        Plain Python values.
    """
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as problem:
        raise error(f"'{name}' is not valid YAML: {problem}") from problem
    except RecursionError as problem:
        raise error(f"'{name}' is nested too deeply to be read") from problem


def read_yaml(path: Path, *, error: type[AnybandError]) -> Any:
    """Read a YAML file; see `parse_yaml`. A missing or unreadable file raises `error` too."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as problem:
        raise error(f"cannot read '{path}': {problem.strerror or problem}") from problem
    except ValueError as problem:
        raise error(f"'{path}' is not a text in UTF-8, so it can't be YAML: {problem}") from problem
    return parse_yaml(text, name=str(path), error=error)
