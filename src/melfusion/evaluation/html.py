"""Pieces of static HTML pages: all text escaped, links relative, style and script within; nothing is loaded from elsewhere."""

from __future__ import annotations

import os
from html import escape
from pathlib import Path
from string import Template
from urllib.parse import quote

from melfusion.files import write_whole

WEB = Path(__file__).parents[1] / "web"


def write(file: Path, title: str, body: str) -> Path:
    """One whole page around `body`, a <body> element."""
    page = fill("page.html", title=escape(title), style=source("pages.css"), body=body)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, page.encode(errors="replace"))  # a file name need not be UTF-8
    return file


def fill(template: str, **values: str) -> str:
    """A file of web/ with its $names replaced by HTML; the values are not searched for names."""
    return Template(source(template)).substitute(values)


def source(name: str) -> str:
    return (WEB / name).read_text(encoding="utf-8")


def player(wav: Path, out: Path, about: str) -> str:
    """Controls for a sound, on a page in the folder `out`."""
    return f'<audio controls preload="none" src="{link(wav, out)}" aria-label="{escape(about)}"></audio>\n'


def image(file: Path | None, out: Path, alt: str, kind: str = "drawn") -> str:
    """A picture, on a page in the folder `out`; nothing for None. `kind` is a class of pages.css: drawn or picture."""
    return f'<img class="{kind}" loading="lazy" src="{link(file, out)}" alt="{escape(alt)}">\n' if file else ""


def link(file: Path, out: Path) -> str:
    return quote(os.fsencode(os.path.relpath(file, out)))


def paragraph(text: str, kind: str = "text") -> str:
    return f'<p class="{kind}">{escape(text)}</p>\n' if text else ""
