"""Test whether any system that makes music for a picture and a prompt listens to its picture.

The verdict is one of three: it does not depend on it, depends on it but does not follow it, or follows it. Give a command, a folder
of sounds that was made from a manifest, or a model of this project. Items are drawn scenes, or with data= real tuples.
picture_test.json, picture_test.md (a card) and picture_test.html (a page to listen to) are written into OUT, beside the sounds. The
same command goes on where it was interrupted, and tries again what failed. docs/picture_test.md says more.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from melfusion import DEFAULT_CONFIG
from melfusion.errors import ConfigError
from melfusion.verbs.checks import check_amount, check_checkpoint, check_out
from melfusion.verbs.imports import heavy_imports
from melfusion.verbs.options import option

if TYPE_CHECKING:
    from melfusion.assembly.schema import Config
    from melfusion.evaluation.picture_test.systems import System

MOST_ITEMS = 1000  # of one call that gives no limit=; each has eight sounds


@dataclass
class Options:
    command: str | None = option(
        None, "program to test, with {image} {prompt} {seed} {out}, or {manifest} to be started once for all calls; null: CKPT"
    )
    sounds: str | None = option(None, "folder of sounds that were made from OUT/manifest.jsonl; null: sounds are made here")
    ckpt: str | None = option(None, "checkpoint file, run directory or exported folder; null: the shipped model", variable="CKPT")
    n: int = option(96, "items, with eight sounds each", least=12)
    seed: int = option(90027, "seed of the scenes, and of all that is drawn by chance", least=0)
    data: str | None = option(None, "folder of shards of real tuples; null: drawn scenes")
    split: str = option("test", "of such a folder: one that the system was not trained on")
    only: str | None = option(None, "manifest: write pictures and OUT/manifest.jsonl, and test nothing; null: the whole test")
    limit_s: float = option(600.0, "longest time of a call, s; a program with {manifest} has that for each call together", least=1)
    no_picture: str = option("", "what stands for {image} where there is no picture; empty: an empty argument")
    name: str | None = option(None, "the system's name on card and page; null: its command, folder or checkpoint")
    out: str | None = option(None, "folder of sounds and results; null: outputs/picture-test", variable="OUT")
    limit: int = option(MOST_ITEMS, "largest n that is taken for meant", least=1)


MORE = "It also takes every key of the configuration of the networks that listen, such as:"
SECTIONS = ("evaluation",)
EXAMPLES = (
    "melfusion picture-test command='python theirs.py --image {image} --prompt {prompt} --seed {seed} --out {out}' out=theirs",
    "melfusion picture-test ckpt=runs/scenes n=96 out=runs/scenes/picture-test",
)


def run(options: Options, more: list[str]) -> dict[str, Any]:
    """Make what is missing, listen, and write the results; returns them, {} where only the manifest is wanted."""
    check(options, more)

    with heavy_imports():
        from melfusion.training.preemption import leaving_on_signal

    with leaving_on_signal(lambda: "during the picture test: sounds that are made are kept"):
        return _run(options, more)


def check(options: Options, more: list[str]) -> None:
    """All that can be known of a call before anything slow is imported; raises ConfigError."""
    given = [name for name in ("command", "sounds", "ckpt") if getattr(options, name)]
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(f'{name}=' for name in given)} name different systems: give one of them.")
    if options.only not in (None, "", "manifest"):
        raise ConfigError(f"only={options.only} is not known: give only=manifest, or leave it out.")
    if options.only and given:
        raise ConfigError(f"only=manifest tests no system: leave {given[0]}= out.")
    if options.sounds and not Path(options.sounds).is_dir():
        raise ConfigError(f"sounds={options.sounds}: there is no such folder.")
    if options.data and not Path(options.data).is_dir():
        raise ConfigError(f"data={options.data}: there is no such folder; build one with `make data-games` or `make shards`.")
    check_amount(options.n, options.limit)
    check_checkpoint(options.ckpt)
    check_out(folder_of(options), options.out)

    from melfusion.assembly.configuration import check_overrides

    check_overrides(more)


def folder_of(options: Options) -> Path:
    """Where everything goes."""
    return Path(options.out or "outputs/picture-test")


def _run(options: Options, more: list[str]) -> dict[str, Any]:
    from melfusion.assembly.memory import telling_memory
    from melfusion.evaluation.picture_test.report import CARD, PAGE, meaning
    from melfusion.evaluation.picture_test.run import MANIFEST, Asked, check_manifest, claim, picture_test, prepare
    from melfusion.evaluation.scores import load_listeners

    folder, config = folder_of(options), listening(options, more)
    system, made_by = (None, {}) if options.only else tested(options)
    test = prepare(Asked(options.seed, options.n, options.data or "", options.split), config, folder)
    if options.only:
        print(f"{folder / MANIFEST}: {len(test.calls)} calls, one a line. Then give sounds=FOLDER out={folder} n={options.n}.")
        return {}
    if options.sounds:
        check_manifest(test, Path(options.sounds))
    else:
        claim(folder, made_by)
    name = options.name or options.command or options.sounds or options.ckpt or "the shipped model of melfusion"
    with telling_memory(config, "evaluation"):
        results = picture_test(name, test, load_listeners(config), system, Path(options.sounds) if options.sounds else None)
    failed = f" {results['about']['failed']} calls failed." if results["about"]["failed"] else ""
    print(f"The system {results['verdict']}. {meaning(results)}{failed}\nCard: {folder / CARD}\nListen: {folder / PAGE}")
    return results


def listening(options: Options, more: list[str]) -> Config:
    """The configuration of the networks that listen: the judges of the scenes know nothing of real tuples."""
    from melfusion.assembly.configuration import load_config

    config = load_config(DEFAULT_CONFIG, more)
    config.towers.weights = None
    if options.data:
        config.data.path, config.judge.weights, config.evaluation.text_judge = options.data, None, None
    return config


def tested(options: Options) -> tuple[System | None, dict[str, Any]]:
    """The system that makes the sounds, and what tells it from others; None for sounds that are there."""
    from melfusion.evaluation.picture_test.systems import Command, OwnModel

    if options.sounds:
        return None, {}
    if options.command:
        return Command(options.command, options.limit_s, options.no_picture), {
            "command": options.command,
            "no_picture": options.no_picture,
        }

    from melfusion.assembly.load import load_system
    from melfusion.evaluation.clips import identity
    from melfusion.models.device import best_device

    system, config = load_system(options.ckpt)
    made_by = identity(system) | {"sampling": dataclasses.asdict(config.sampling)}
    return OwnModel(system.to(best_device()), config), made_by
