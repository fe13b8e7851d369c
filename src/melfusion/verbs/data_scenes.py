"""Draw and render the embedded corpus of scenes."""

from __future__ import annotations

from dataclasses import dataclass

from melfusion import DEFAULT_CONFIG
from melfusion.verbs.options import configuration


@dataclass
class Options:
    config: str = configuration(DEFAULT_CONFIG)


MORE = "It also takes every key of the configuration, such as those of the data set and of its audio:"
SECTIONS = ("data", "audio")
EXAMPLES = ("melfusion data-scenes", "melfusion data-scenes scenes data.path=data/more data.splits.train=8192")


def run(options: Options, more: list[str]) -> None:
    """Write the shards, and print how many samples there are."""
    from melfusion.assembly.configuration import load_config

    config = load_config(options.config, more)

    from melfusion.data.sources import build_corpus, describe

    build_corpus("scenes", config)
    print(describe(config.data.path))
