"""Make real tuples of picture, text and music from freely licensed games in Debian's packages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from melfusion.verbs.options import configuration, option


@dataclass
class Options:
    config: str = configuration("games")
    games_dir: str | None = option(
        None, "folder with the packages, already unpacked; without it they are fetched with apt-get download", variable="GAMES_DIR"
    )


MORE = "It also takes every key of the configuration, such as those of the data set and of its audio:"
SECTIONS = ("data", "audio")
EXAMPLES = ("melfusion data-games", "melfusion data-games games_dir=/srv/games data.path=data/games")


def run(options: Options, more: list[str]) -> None:
    """Write the shards, and print how many samples there are."""
    from melfusion.assembly.configuration import load_config

    config = load_config(options.config, more)

    from melfusion.data.sources import build_corpus, describe

    build_corpus("games", config, Path(options.games_dir) if options.games_dir else None)
    print(describe(config.data.path))
