"""Measure the speed of training, generation, precompute and loading, beside the setting of the released code.

The table has medians with quartiles; a JSON file has every value. With compare=FILE the exit code is 2 where a figure became worse.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from melfusion.bench.options import SIZES
from melfusion.bench.sections import SECTIONS as PARTS
from melfusion.config.check import nearest
from melfusion.errors import ConfigError
from melfusion.verbs.checks import check_out
from melfusion.verbs.imports import heavy_imports
from melfusion.verbs.options import option


@dataclass
class Options:
    size: str = option("tiny", f"{' | '.join(SIZES)}: two minutes, ten minutes on two cores; published sizes on a GPU")
    only: str | None = option(None, f"sections, comma-separated: {', '.join(PARTS)}; null: all")
    out: str = option("runs/bench.json", "the JSON file that is written")
    compare: str | None = option(None, "an older JSON file of the same size and device; null: none")


MORE = "It also takes every key of the configuration, laid over that of the size, such as:"
SECTIONS = ("denoiser", "trainer")
EXAMPLES = ("melfusion bench", "melfusion bench size=small only=training,generation compare=runs/before.json denoiser.compile=true")


def run(options: Options, more: list[str]) -> None:
    """Measure the sections in turn."""
    only = check(options)

    with heavy_imports():
        from melfusion.bench.report import bench

    bench(options.size, only, options.out, options.compare or "", more)


def check(options: Options) -> list[str]:
    """The sections that are asked for; ConfigError for a size, section or file that is none."""
    only = [name for name in (options.only or "").split(",") if name]
    for key, given, known in (("size", [options.size], SIZES), ("only", only, PARTS)):
        for name in given:
            if name not in known:
                raise ConfigError(f"{key}={name} is not one of {', '.join(known)}{nearest(name, known)}.")
    if options.compare and not Path(options.compare).is_file():
        raise ConfigError(f"compare={options.compare} is no file: give the JSON file of an older `melfusion bench`.")
    check_out(Path(options.out).parent, options.out)
    return only
