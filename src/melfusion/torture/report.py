"""`melfusion torture`: every scenario in turn, and the table of what they cost."""

from __future__ import annotations

import dataclasses
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from melfusion.assembly.configuration import load_config
from melfusion.data.sources import build_corpus
from melfusion.files import write_json
from melfusion.models.device import device_name
from melfusion.torture.goodput import measure, report
from melfusion.torture.jobs import fork, wait
from melfusion.torture.scenarios import SCENARIOS, Ordeal, Row, TortureError, kills
from melfusion.training.preemption import leaving_on_signal


@leaving_on_signal(lambda: "during torture, which begins anew")
def torture(
    points: int = 200,
    seed: int = 0,
    out: str = "runs/torture",
    scenarios: Sequence[Callable[[Ordeal], Iterator[Row]]] = SCENARIOS,
    goodput: str = "",
) -> bool:
    """Carry out so many kills and the other scenarios: prints the table, writes torture.md and torture.json beside the jobs.

    `goodput` names the configuration whose training is killed and restarted to measure that; none where it is empty.
    Returns whether nothing was lost.
    """
    torch.set_num_threads(1)
    folder = Path(out).absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    ordeal, rows, started = Ordeal(folder, random.Random(seed)), [], time.monotonic()
    tiny = load_config("tiny", [f"data.path={folder / 'data'}", "data.splits.train=40"])
    if wait([fork(lambda: build_corpus("scenes", tiny) and 0)]) != [0]:
        raise TortureError("The corpus could not be drawn; run `make data-scenes` to see why.")
    for scenario in (lambda o: kills(o, points), *scenarios):
        for row in scenario(ordeal):
            rows.append(row)
            print(line(row), flush=True)
    passed = all(row.passed for row in rows)
    words = [f"{points} kill points, seed {seed}, {time.monotonic() - started:.0f} s on {device_name()}."]
    tree = {"points": points, "seed": seed, "rows": [dataclasses.asdict(row) | {"passed": row.passed} for row in rows]}
    if goodput:
        interval = max(200, load_config(goodput).trainer.checkpoint_every_n_steps)
        tree["goodput"] = measure(goodput, interval, folder)
        words.append(report(goodput, tree["goodput"]))
    text = "\n".join([*HEAD, *map(line, rows), "", *words])
    (folder / "torture.md").write_text(text + "\n")
    write_json(folder / "torture.json", tree)
    print(f"\n{text}\n{'Nothing was lost.' if passed else 'Something was lost: see the rows above, and the logs in'} {folder}")
    return passed


HEAD = ("| fault | injected | survived | samples lost | bits differing | |", "|---|---|---|---|---|---|")


def line(row: Row) -> str:
    return f"| {row.fault} | {row.injected} | {row.survived} | {row.lost} | {row.bits} | {row.words} |"
