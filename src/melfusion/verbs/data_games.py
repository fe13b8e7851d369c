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

    games: str = option("small", "small (four games), all, or names of games with commas between them")
    licence: str = option("any", "keep only tracks and pictures that are permissive, or permissive or copyleft, or any")
    card: str | None = option(None, "write the data card of the chosen games to this file, and build no shards")


MORE = "It also takes every key of the configuration, such as those of the data set and of its audio:"
SECTIONS = ("data", "audio")
EXAMPLES = ("melfusion data-games", "melfusion data-games games=all licence=copyleft games_dir=/srv/games")


def run(options: Options, more: list[str]) -> None:
    """Write the shards, and print how many samples there are."""
    from melfusion.assembly.configuration import load_config
    from melfusion.data.games.licences import KINDS
    from melfusion.data.storage import local_name
    from melfusion.errors import ConfigError

    if options.licence not in KINDS:
        raise ConfigError(f"licence={options.licence} is none of {', '.join(KINDS)}.")
    config = load_config(options.config, more)
    small = options.games == "small" and options.licence == "any" and not options.card
    chosen = options.games.replace(",", "-") + ("" if options.licence == "any" else f"-{options.licence}")
    packages = Path(f"{local_name(config.data)}-packages")
    if not small and not any(item.startswith("data.path=") for item in more):  # the small set keeps its folder
        config = load_config(options.config, [*more, f"data.path={config.data.path}-{chosen}"])

    from melfusion.data.games.source import ChosenGames, Games
    from melfusion.data.sources import build_corpus, describe

    inputs = Path(options.games_dir) if options.games_dir else None
    source = Games() if small else ChosenGames(options.games, options.licence, packages)
    if options.card and isinstance(source, ChosenGames):
        from melfusion.data.games.card import write_card

        write_card(Path(options.card), source.folder(inputs), source.chosen, options.licence)
        return
    build_corpus(source, config, inputs)
    print(describe(config.data.path))
