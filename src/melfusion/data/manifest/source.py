"""The source `manifest`: the user's own files. `build.build_from_manifest` builds it, since no configuration names them."""

from __future__ import annotations

from melfusion.data.source import Source


class Manifest(Source):
    """The user's own files, MeLBench or MusicCaps."""

    name = "manifest"
    command = "make shards MANIFEST=… AUDIO_DIR=… IMAGE_DIR=… OUT={path}"
