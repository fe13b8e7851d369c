"""`melfusion evaluate`: scores of a run, of the shipped model, or of any folder of sounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from melfusion import DEFAULT_CONFIG
from melfusion.assembly.configuration import load_config
from melfusion.assembly.load import load_system
from melfusion.assembly.memory import telling_memory
from melfusion.errors import ConfigError
from melfusion.evaluation.clips import ROWS
from melfusion.evaluation.scores import ears, evaluate, folder_name, pages, rows_of, sing, splits, write
from melfusion.evaluation.tables import learned, table
from melfusion.training.preemption import leaving_on_signal
from melfusion.verbs.options import check_evaluate, evaluation_folder, read_share


@leaving_on_signal(lambda: "during evaluation: clips that are made are kept")
def run(config_name: str, options: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """The verb: make what is missing, score it, write scores.json, scores.md and index.html into `out`."""
    check_evaluate(options)
    system, config = None, None
    if not options.get("wavs"):
        if config_name != DEFAULT_CONFIG:
            raise ConfigError(
                f"CONFIG={config_name} says what wavs=… are measured against; a checkpoint brings its own: leave it "
                "out, and give data.path=… or other keys to change that."
            )
        system, config = load_system(options.get("ckpt"), overrides=overrides)
        system = system.to("cuda" if torch.cuda.is_available() else "cpu")
    config = config or load_config(config_name, overrides)
    config.evaluation.items = options.get("n", config.evaluation.items)
    bench = splits(config, options.get("data.seed"))
    items = bench.items
    out = evaluation_folder(options)
    names = options["rows"].replace("-", " ").split(",") if options.get("rows") else rows_of(system)
    if unknown := [name for name in names if name not in ROWS]:
        raise ConfigError(f"rows names {unknown[0]!r}; rows are {', '.join(ROWS)}.")
    share = read_share(options.get("share") or "0/1")
    if system is not None:
        sing(system, config, items, out, names, share)
    if share[1] > 1:
        print(f"share {share[0]} of {share[1]} is made; the call without share= scores what all have made.")
        return {}
    folders = {name: out / folder_name(name) for name in names} if system is not None else {"given": Path(options["wavs"])}
    with telling_memory(config, "evaluation", lambda: system):
        scores = evaluate(config, ears(config), items, bench, folders, system)
    write(scores, out)
    pages(config, items, folders, out, bool(options.get("listening")))
    print(f"\n{table(scores)}\n\n{learned(scores)}\nListen: {out / 'index.html'}")
    return scores
