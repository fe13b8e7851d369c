"""Score a checkpoint, the shipped model, or any folder of wav files.

Clips that are missing are made first. scores.json, scores.md and a page to listen to are written into OUT.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from melfusion import DEFAULT_CONFIG
from melfusion.errors import ConfigError
from melfusion.verbs.checks import check_amount, check_checkpoint, check_out
from melfusion.verbs.imports import heavy_imports
from melfusion.verbs.options import configuration, option

NO_SHARE = "0/1"

MOST_CLIPS = 10_000  # of one call that gives no limit=


@dataclass
class Options:
    config: str = configuration(DEFAULT_CONFIG)
    ckpt: str | None = option(None, "checkpoint file, run directory or exported folder; null: the shipped model", variable="CKPT")
    wavs: str | None = option(
        None, "folder of wav files to score in place of a checkpoint; CONFIG names what they are compared with"
    )
    n: int | None = option(None, "clips of the evaluation set; null: evaluation.items", least=1)
    seed: int | None = option(
        None, "seed of newly drawn scenes to test on; null: the test split of the data set", name="data.seed", least=0
    )
    out: str | None = option(None, "folder of the results; null: CKPT/evaluation, or outputs/shipped/evaluation", variable="OUT")
    rows: str | None = option(None, "conditions to generate under, comma-separated, such as right-picture,no-picture; null: all")
    share: str = option(NO_SHARE, "I/N makes the I-th of N shares of the clips and no scores; a last call without it scores them")
    listening: bool = option(False, "write a blind page for a listening study, too")
    limit: int = option(MOST_CLIPS, "largest n that is taken for meant", least=1)


MORE = "It also takes every key of the configuration, laid over that of the checkpoint, such as:"
SECTIONS = ("evaluation", "sampling")
EXAMPLES = (
    "melfusion evaluate ckpt=runs/scenes n=240 data.seed=7 trainer.devices=2",
    "melfusion evaluate games wavs=clips out=scores 'evaluation.embedders={judge: same}'",
)


def run(options: Options, more: list[str]) -> dict[str, Any]:
    """Generate what is missing, score it, and write the results; returns the scores, {} for a share."""
    check(options, more)

    with heavy_imports():
        from melfusion.training.preemption import leaving_on_signal

    with leaving_on_signal(lambda: "during evaluation: clips that are made are kept"):
        return _run(options, more)


def check(options: Options, more: list[str]) -> None:
    """All that can be known of a call before anything slow is imported; raises ConfigError."""
    check_amount(options.n, options.limit)
    read_share(options.share)
    if options.wavs and not Path(options.wavs).is_dir():
        raise ConfigError(f"wavs={options.wavs}: there is no such folder.")
    if not options.wavs:
        check_checkpoint(options.ckpt)
        if options.config != DEFAULT_CONFIG:
            raise ConfigError(
                f"CONFIG={options.config} names what wavs=… are compared with; a checkpoint brings its own configuration: leave "
                "CONFIG out, and give data.path=… or other keys to change it."
            )
    check_out(folder_of(options), options.out)

    from melfusion.assembly.configuration import check_overrides

    check_overrides(more)


def _run(options: Options, more: list[str]) -> dict[str, Any]:
    from melfusion.assembly.configuration import load_config
    from melfusion.assembly.launching import HERE, launched
    from melfusion.assembly.load import load_system
    from melfusion.assembly.memory import keep_freed_memory, telling_memory
    from melfusion.evaluation import scores as scoring
    from melfusion.evaluation.conditions import CONDITIONS
    from melfusion.evaluation.pages import pages
    from melfusion.evaluation.tables import learned, table
    from melfusion.models.device import best_device

    keep_freed_memory()
    system, config, fabric = None, None, None
    if not options.wavs:
        system, config = load_system(options.ckpt, overrides=[*HERE, *more])
        fabric = None if options.share != NO_SHARE else launched(config.trainer)
        system = system.to(fabric.device if fabric else best_device())
    config = config or load_config(options.config, more)
    config.evaluation.items = config.evaluation.items if options.n is None else options.n
    compared, out = scoring.evaluation_set(config, options.seed), folder_of(options)
    names = options.rows.replace("-", " ").split(",") if options.rows else scoring.default_rows(system)
    if unknown := [name for name in names if name not in CONDITIONS]:
        raise ConfigError(f"rows names {unknown[0]!r}; rows are {', '.join(CONDITIONS)}.")
    share = (fabric.global_rank, fabric.world_size) if fabric else read_share(options.share)
    if system is not None:
        scoring.generate_rows(system, config, compared.items, out, names, share)
    if fabric:
        fabric.barrier()
        if not fabric.is_global_zero:
            return {}
    elif share[1] > 1:
        print(f"share {share[0]} of {share[1]} is made; the call without share= scores the clips of all shares.")
        return {}
    folders = {name: out / scoring.folder_name(name) for name in names} if options.wavs is None else {"given": Path(options.wavs)}
    with telling_memory(config, "evaluation", lambda: system):
        scores = scoring.evaluate(config, scoring.load_listeners(config), compared.items, compared, folders, system)
    scoring.write(scores, out)
    pages(config, compared.items, folders, out, options.listening)
    print(f"\n{table(scores)}\n\n{learned(scores)}\nListen: {out / 'index.html'}")
    return scores


def folder_of(options: Options) -> Path:
    """Where the results go: OUT=, else beside what is scored."""
    return Path(options.out or (Path(options.ckpt or options.wavs or "outputs/shipped") / "evaluation"))


def read_share(text: str) -> tuple[int, int]:
    """'2/8' → (2, 8); ConfigError for anything else."""
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and int(part) < int(parts)):
        raise ConfigError(f"share={text!r} must read I/N with I from 0 to N-1, such as share=0/4.")
    return int(part), int(parts)
