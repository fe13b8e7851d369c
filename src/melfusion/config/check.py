"""Checks against a schema: keys, words and their nearest neighbours."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
from typing import Any


def valid_keys(schema: Any, prefix: str = "") -> list[str]:
    """All dotted keys of a dataclass, or of an instance, whose sections may be of subclasses with more keys."""
    keys = []
    for f in dataclasses.fields(schema):
        sub = f.default_factory if isinstance(schema, type) else getattr(schema, f.name)
        keys += valid_keys(sub, f"{prefix}{f.name}.") if dataclasses.is_dataclass(sub) else [prefix + f.name]
    return keys


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} → {'a.b': 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat


def nearest(word: str, words: Iterable[str]) -> str:
    """The end of an error about an unknown word: the nearest known one, or nothing."""
    near = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""
