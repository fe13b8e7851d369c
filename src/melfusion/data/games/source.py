"""The source `games`: fetched from Debian's packages."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from melfusion.data.source import CorpusOptions, Source
from melfusion.data.storage import local_name

if TYPE_CHECKING:
    from melfusion.data.shards import Sample

LEAST_IMAGE_PX = 128  # pictures are stored at least this large, whatever size a training reads


class Games(Source):
    """Pictures, texts and music of freely licensed games, each track cut into clips."""

    name = "games"
    command = "make data-games"

    def samples(self, config: CorpusOptions, inputs: Path | None) -> Iterable[Sample]:
        """inputs: the unpacked packages, one folder each (GAMES_DIR); None: they are fetched with `apt-get download`."""
        from melfusion.data.games import clips, packages

        folder = inputs or Path(f"{local_name(config.data)}-packages")
        if inputs is None:
            packages.download(folder)  # packages that are already there are not fetched again
        size = max(LEAST_IMAGE_PX, config.data.image_size_px)
        return clips.samples(folder, config.audio.clip_duration_s, config.audio.sample_rate_hz, image_size_px=size)
