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
