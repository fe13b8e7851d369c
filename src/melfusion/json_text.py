"""JSON as this project writes it. JSON has no NaN and no infinity: programs other than Python refuse a file that holds one."""

from __future__ import annotations

import json
import math
from typing import Any


def as_json(tree: Any) -> str:
    """A tree as indented text with a newline at its end; numbers that are not finite become null."""
    return json.dumps(finite(tree), indent=1, allow_nan=False) + "\n"


def finite(tree: Any) -> Any:
    """The tree with None in place of each number that is not finite."""
    if isinstance(tree, dict):
        return {key: finite(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
