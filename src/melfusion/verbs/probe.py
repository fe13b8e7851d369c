"""Ask a data set whether its pictures say anything of their music, without a training.

Ridge regression from ImageNet features of the picture to features of the sound; the right track is ranked among others.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from melfusion.errors import ConfigError
from melfusion.verbs.checks import check_out
from melfusion.verbs.imports import heavy_imports
from melfusion.verbs.options import configuration, option


@dataclass
class Options:
    config: str = configuration("games")
    splits: str = option("train,val", "splits whose tracks are learned from and ranked, comma-separated")
    held_out: str | None = option(None, "splits whose tracks are only ranked, such as test: ask this once, at the end; null: none")
    clips: int = option(6, "clips of a track that its sound is measured on, at most", least=1)
    permutations: int = option(200, "of the music within each game, for the null", least=10)
    out: str | None = option(None, "folder of probe.json and probe.md; null: outputs/probe", variable="OUT")


MORE = "It also takes every key of the configuration, such as those of the data set:"
SECTIONS = ("data",)
EXAMPLES = ("melfusion probe games", "melfusion probe own data.path=data/mine splits=train permutations=1000")


def run(options: Options, more: list[str]) -> dict[str, Any]:
    """Print the table and write it; returns its numbers."""
    from melfusion.assembly.configuration import load_config

    config, folder = load_config(options.config, more), Path(options.out or "outputs/probe")
    if not (splits := [split for split in options.splits.split(",") if split]):
        raise ConfigError("splits= names no split: give train, or train,val.")
    check_out(folder, options.out)

    with heavy_imports():
        from melfusion.lab import probe

    held_out = (options.held_out or "").split(",") if options.held_out else []
    found = probe.probe(config, splits, held_out, options.clips, options.permutations)
    probe.write(found, folder)
    print(
        f"{probe.table(found)}\n\n.5 is chance, 1 is best; ± is 95 % over tracks, of the null its deviation. {folder / 'probe.md'}"
    )
    return found
