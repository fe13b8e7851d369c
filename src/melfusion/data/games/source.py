"""The source `games`: fetched from Debian's packages."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


class ChosenGames(Games):
    """The same of other games than the small set's: see games/corpus.py."""

    def __init__(self, games: str, licence: str, packages: Path) -> None:
        """games: as corpus.chosen reads it. licence: of licences.KINDS. packages: the folder that they are fetched into."""
        from melfusion.data.games import corpus

        self.chosen, self.licence, self.packages = corpus.chosen(games), licence, packages

    def folder(self, inputs: Path | None) -> Path:
        """The folder of unpacked packages; they are fetched where None is given."""
        from melfusion.data.games import corpus, packages

        if inputs is None:
            packages.download(self.packages, corpus.packages_of(self.chosen))
        return inputs or self.packages

    def samples(self, config: CorpusOptions, inputs: Path | None) -> Iterable[Sample]:
        from melfusion.data.games import corpus

        found, material = corpus.pairs(self.folder(inputs), self.chosen, self.licence)
        return corpus.samples(found, config.audio.clip_duration_s, config.audio.sample_rate_hz, material.skipped)

    def info(self, config: CorpusOptions) -> dict[str, Any]:
        return {"games": self.chosen, "licence": self.licence}
