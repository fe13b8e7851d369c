"""`melfusion torture`: all scenarios one after the other, and the table of what they cost."""

from __future__ import annotations

import dataclasses
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from melfusion.assembly.configuration import load_config
from melfusion.data.sources import build_corpus
from melfusion.files import write_json, write_whole
from melfusion.models.device import device_name
from melfusion.torture.goodput import measure, report
from melfusion.torture.jobs import fork, wait
from melfusion.torture.outcome import Outcome
from melfusion.torture.scenarios import SCENARIOS, TortureError, Trial, kills
from melfusion.training.preemption import leaving_on_signal


@leaving_on_signal(lambda: "during torture, which begins anew")
def torture(
    points: int = 200,
    seed: int = 0,
    out: str = "runs/torture",
    scenarios: Sequence[Callable[[Trial], Iterator[Outcome]]] = SCENARIOS,
    goodput: str = "",
) -> bool:
    """Carry out the kills and the other scenarios; returns whether nothing was lost.

    It prints the table and writes torture.md and torture.json beside the jobs.

    Args:
        points: how many kills.
        out: folder of everything; what is in it is removed first.
        goodput: configuration whose training is killed and restarted to measure goodput; "" measures none.
    Raises TortureError where a job cannot even be started.
    """
    torch.set_num_threads(1)
    folder = Path(out).absolute()
    shutil.rmtree(folder, ignore_errors=True)
    draw_corpus(folder / "data")
    trial, started = Trial(folder, random.Random(seed)), time.monotonic()
    outcomes: list[Outcome] = []
    for scenario in (lambda trial: kills(trial, points), *scenarios):
        for outcome in scenario(trial):
            outcomes.append(outcome)
            print(line(outcome), flush=True)
    passed = all(outcome.passed for outcome in outcomes)
    words = [f"{points} kill points, seed {seed}, {time.monotonic() - started:.0f} s on {device_name()}."]
    rows = [dataclasses.asdict(outcome) | {"passed": outcome.passed} for outcome in outcomes]
    tree: dict[str, Any] = {"points": points, "seed": seed, "rows": rows}
    if goodput:
        interval = max(200, load_config(goodput).trainer.checkpoint_every_n_steps)
        tree["goodput"] = measure(goodput, interval, folder)
        words.append(report(goodput, tree["goodput"]))
    text = "\n".join([*HEAD, *map(line, outcomes), "", *words])
    write_whole(folder / "torture.md", text + "\n")
    write_json(folder / "torture.json", tree)
    print(f"\n{text}\n{'Nothing was lost.' if passed else 'Something was lost: see the rows above, and the logs in'} {folder}")
    return passed


def draw_corpus(folder: Path) -> None:
    """The small data set of all jobs, drawn in a child, since this process must not compute anything before it forks."""

    def draw() -> int:
        build_corpus("scenes", load_config("tiny", [f"data.path={folder}", "data.splits.train=40"]))
        return 0

    if wait([fork(draw)]) != [0]:
        raise TortureError("The corpus could not be drawn; run `make data-scenes` to see why.")


HEAD = ("| fault | injected | survived | samples lost | bits differing | |", "|---|---|---|---|---|---|")


def line(outcome: Outcome) -> str:
    return f"| {outcome.fault} | {outcome.injected} | {outcome.survived} | {outcome.lost} | {outcome.bits} | {outcome.words} |"
