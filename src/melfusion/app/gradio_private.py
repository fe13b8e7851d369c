"""What gradio offers no public way for. Nothing else in this package changes a part of gradio.

Each function has a test in tests/app/test_gradio_private.py that fails when gradio changes what it relies on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
from gradio import processing_utils


def read_no_address() -> None:
    """gradio fetches the files whose address a visitor gives in place of a file (since 3.40): this process does not any more.

    No option turns that off; its own guard refuses only the addresses of this network.
    """

    async def refused(url: str, cache_dir: str) -> str:
        raise gr.Error("An address is not read here: upload the file itself.", print_exception=False)

    processing_utils.async_ssrf_protected_download = refused


def checked_first(component: Any, check: Callable[[Any], None]) -> Any:
    """Let `check(payload)` raise before the component reads what a visitor gave; returns the component.

    A subclass could say the same, but beside the file of one gradio writes another file (since 3.18), and a subclass has a name of
    its own on the page.
    """
    read = component.preprocess

    def checked(payload: Any) -> Any:
        check(payload)
        return read(payload)

    component.preprocess = checked
    return component
