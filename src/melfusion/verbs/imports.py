"""Importing torch and what stands on it takes most of a short call: this makes it quicker."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def heavy_imports() -> Iterator[None]:
    """Import without garbage collection, which finds nothing here and takes a seventh of the time.

    What was imported lives as long as the process, so later collections leave it out, too (`gc.freeze`). A process that has torch
    already is left as it is: it may hold garbage that must not be frozen.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
