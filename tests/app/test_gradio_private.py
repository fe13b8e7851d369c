"""What the page takes from gradio's private parts works as assumed: each test fails when gradio changes."""

import asyncio
import re
from pathlib import Path

import gradio as gr
import pytest
from gradio import processing_utils

import melfusion
from melfusion.app.gradio_private import checked_first, read_no_address


def test_an_address_is_not_fetched(monkeypatch):
    """`setattr` fails where a release renames the function."""
    fetched = []

    async def fetch(url, cache_dir):
        fetched.append(url)
        raise OSError

    monkeypatch.setattr(processing_utils, "async_ssrf_protected_download", fetch)
    give = {"path": "http://127.0.0.1:9/a.png", "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(OSError):
        asyncio.run(processing_utils.async_move_files_to_cache(give, gr.Image()))
    assert len(fetched) == 1  # this is the function that fetches
    read_no_address()
    with pytest.raises(gr.Error, match="upload the file itself"):
        asyncio.run(processing_utils.async_move_files_to_cache(give, gr.Image()))


def test_what_a_visitor_gave_is_checked_before_it_is_read():
    def check(payload):
        if payload == "bad":
            raise gr.Error("bad")

    with gr.Blocks() as blocks:
        part = checked_first(gr.Number(), check)
        part.change(lambda value: value, part, part)
    given = asyncio.run(blocks.preprocess_data(next(iter(blocks.fns.values())), [3], None))
    assert given == [3]
    with pytest.raises(gr.Error):
        asyncio.run(blocks.preprocess_data(next(iter(blocks.fns.values())), ["bad"], None))


def test_no_other_file_changes_a_part_of_gradio():
    root = Path(melfusion.__file__).parent
    private = re.compile(r"processing_utils|\.preprocess\s*=|\bgr\.\w+(\.\w+)*\s*=[^=]|\bgradio\._|\bgr\._")
    assert {file.name for file in root.rglob("*.py") if private.search(file.read_text())} == {"gradio_private.py"}
