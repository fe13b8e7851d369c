"""Tell what the right picture is worth to a model on real tuples: by its loss, and by clips that it generates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from melfusion.errors import ConfigError
from melfusion.verbs.checks import check_checkpoint, check_out
from melfusion.verbs.imports import heavy_imports
from melfusion.verbs.options import option


@dataclass
class Options:
    ckpt: str | None = option(None, "checkpoint file, run directory or exported folder", variable="CKPT")
    suite: str | None = option(None, "in place of ckpt: a folder of experiments/, whose rows are trained first", variable="SUITE")
    rows: str | None = option(None, "rows of the suite, comma-separated; null: all")
    publish: bool = option(False, "write the suite's table into experiments/results/, too")
    split: str = option("val", "of the model's data set; ask the test split once, at the end")
    n: int = option(600, "clips for the loss, evenly over the split", least=2)
    clips: int = option(0, "clips to generate of each track, two or more; 0: by the loss alone", least=0)
    words: bool = option(True, "whether the model has the captions; false: the empty caption")
    out: str | None = option(None, "folder of the results; null: CKPT/picture_gain, or the suite's folder of runs", variable="OUT")


MORE = "It also takes every key of the configuration, laid over that of the checkpoint, such as:"
SECTIONS = ("data",)
EXAMPLES = (
    "melfusion picture-gain ckpt=runs/open_games clips=4 words=false",
    "melfusion picture-gain suite=open_games clips=4 publish=true",
)


def run(options: Options, more: list[str]) -> dict[str, Any]:
    """Print the table and write it; returns its numbers."""
    if (options.ckpt is None) == (options.suite is None):
        raise ConfigError("Give ckpt= for one model, or suite= for the rows of a folder of experiments/.")
    if options.clips == 1:
        raise ConfigError("clips=1 is too few for the distance of a track: give 2 or more, or 0 to generate none.")
    if options.clips and options.split == "train":
        raise ConfigError("split=train with clips= would ask the towers about tracks that they are fitted on: give val or test.")
    return _of_suite(options, more) if options.suite else _of_model(options, more)


def _of_model(options: Options, more: list[str]) -> dict[str, Any]:
    check_checkpoint(options.ckpt)
    folder = Path(options.out or Path(str(options.ckpt)) / "picture_gain")
    check_out(folder, options.out)

    with heavy_imports():
        from melfusion.assembly.load import load_system
        from melfusion.lab import picture_gain
        from melfusion.models.device import best_device

    system, config = load_system(options.ckpt, overrides=more)
    if system.image_encoder is None:
        raise ConfigError(f"{options.ckpt} was trained from text alone (synapse.kind=none): no picture is worth anything to it.")
    given = (options.split, options.n, options.clips, folder, options.words)
    found = picture_gain.picture_gain(config, system.to(best_device()), *given)
    picture_gain.write(found, folder)
    print(f"{picture_gain.table(found)}\n\n± is 95 %; above 0 the right picture is better. {folder}")
    return found


def _of_suite(options: Options, more: list[str]) -> dict[str, Any]:
    from melfusion.lab.suite import load_suite

    suite = load_suite(str(options.suite), more)
    rows = options.rows.split(",") if options.rows else list(suite.rows)
    if unknown := [row for row in rows if row not in suite.rows]:
        raise ConfigError(f"rows names {unknown[0]!r}; the rows of {suite.name} are {', '.join(suite.rows)}.")

    with heavy_imports():
        from melfusion.lab import suite_gains

    found = suite_gains.suite_gains(suite, rows, options.split, options.n, options.clips)
    suite_gains.write(found, Path(options.out) if options.out else suite.path)
    if options.publish:
        suite_gains.write(found, suite_gains.RESULTS)
    print(f"{suite_gains.table(found)}\n\n± is 95 %, over tracks; above 0 the right picture is better.")
    return found
