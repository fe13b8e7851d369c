"""Which licence a file has, as a Debian copyright file states it."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path


def read_licences(copyright_file: Path) -> list[tuple[str, str]]:
    """(file pattern, licence) of a Debian copyright file, in order: the last match holds. Without a file, none."""
    if not copyright_file.is_file():
        return []
    stanzas = re.split(r"\n[ \t]*\n", copyright_file.read_text(encoding="utf-8", errors="replace"))
    rules = []
    for stanza in stanzas:
        fields = dict(re.findall(r"^(Files|License):\s*(.*(?:\n[ \t].*)*)", stanza, re.MULTILINE))
        if "Files" in fields and fields.get("License", "").strip():
            name = fields["License"].splitlines()[0].strip()
            rules += [(pattern, name) for pattern in fields["Files"].split()]
    return rules


def licence_of(path: str, licences: list[tuple[str, str]]) -> str:
    return next((name for pattern, name in reversed(licences) if fnmatchcase(path, pattern)), "not stated")


KINDS = ("permissive", "copyleft", "any")  # what a filter lets through; each lets through what the one before it does

_PERMISSIVE = re.compile(
    r"(cc0|public[- ]domain|pd\b|expat|mit\b|bsd|zlib|isc\b|apache|cc-by-?(\d|$)|wtfpl|oga-by|permissive|beerware)", re.I
)
_COPYLEFT = re.compile(r"(a?l?gpl|cc-by-sa|gfdl|fdl|lal|free[- ]?art|fal\b|artistic|mpl|battle-tanks)", re.I)


def kind_of(licence: str) -> str:
    """permissive, copyleft, or other (not stated, or not known to this table).

    Of licences that hold together ("music X, picture Y", "X and Y") the strictest counts, of alternatives ("X or Y") the mildest.
    """
    parts = re.split(r",? (?:and|picture|level) ", licence.removeprefix("music "))
    return max((min((_kind(one) for one in part.split(" or ")), key=_ORDER.index) for part in parts), key=_ORDER.index)


_ORDER = ("permissive", "copyleft", "other")


def _kind(name: str) -> str:
    name = name.strip()
    return "permissive" if _PERMISSIVE.match(name) else "copyleft" if _COPYLEFT.match(name) else "other"


def allowed(licence: str, wanted: str) -> bool:
    """Does the filter `wanted` (of KINDS) let this licence through?"""
    return wanted == "any" or _ORDER.index(kind_of(licence)) <= KINDS.index(wanted)
