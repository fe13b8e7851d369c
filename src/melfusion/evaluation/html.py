"""Static HTML pages from the templates of web/: jinja2 escapes all text; style and script are part of the page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

from melfusion.files import write_whole

WEB = Path(__file__).parents[1] / "web"

TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(WEB), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


def write(file: Path, **values: Any) -> Path:
    """Write the page of web/'s template of the same name, filled with `values`; returns the file."""
    page = TEMPLATES.get_template(file.name).render(values)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, page.encode(errors="replace"))  # a file name need not be UTF-8
    return file


def link(file: Path | None, page: Path) -> str:
    """The relative URL of a file on a page in the folder `page`; empty for None."""
    return quote(os.fsencode(os.path.relpath(file, page))) if file else ""
