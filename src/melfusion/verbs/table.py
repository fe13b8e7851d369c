"""The table of verbs: name → module. A new file in this folder is a new verb; other packages add an entry to VERBS."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from types import ModuleType

OTHERS = ("__init__", "table", "options", "help", "checks", "imports", "editing", "influence", "lists", "names")  # no verbs

VERBS: dict[str, str] = {
    file.stem.replace("_", "-"): f"{__package__}.{file.stem}"
    for file in sorted(Path(__file__).parent.glob("*.py"))
    if file.stem not in OTHERS
}


def module_of(verb: str) -> ModuleType:
    """The verb's file, which imports nothing slow."""
    return importlib.import_module(VERBS[verb])


def summary(verb: str) -> str:
    """What the verb does, in one line."""
    return (inspect.getdoc(module_of(verb)) or "").partition("\n")[0]
