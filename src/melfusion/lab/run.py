"""The jobs of a suite: trainings and clips, here, side by side, or on a cluster."""

from __future__ import annotations

import logging
import shlex
import signal
import traceback

from melfusion import PREEMPTED
from melfusion.assembly.schema import Config
from melfusion.cluster.options import ClusterConfig
from melfusion.cluster.submit import Job, send
from melfusion.data.dataset import MusicDataset
from melfusion.errors import Preempted
from melfusion.evaluation.clips import ROWS, claim, make_clips
from melfusion.evaluation.scores import evaluate_run
from melfusion.evaluation.sets import block, suite_bench
from melfusion.lab.guidance import choose_guidance
from melfusion.lab.models import sung, trained
from melfusion.lab.side_by_side import Command, run_side_by_side
from melfusion.lab.suite import Suite
from melfusion.training.run import train

log = logging.getLogger(__name__)


class RowFailed(RuntimeError):
    """A job of a suite failed; of a whole suite the table says so."""


def run_jobs(suite: Suite, jobs: dict[str, list[str]], calls: dict[str, list[str]], n: int) -> list[str]:
    """One job after another here, or `n` side by side; the models whose jobs failed. Preempted where one was."""
    if n > 1:
        beside(suite, calls, n)
    else:
        for row, rows in jobs.items():
            attempt(suite, row, rows)
    return [row for row in jobs if (suite.path / row / "failed.txt").is_file()]


def attempt(suite: Suite, model: str, rows: list[str]) -> None:
    """One job; what goes wrong is kept in failed.txt and told, and the next row runs."""
    note = suite.path / model / "failed.txt"
    note.unlink(missing_ok=True)
    try:
        run_job(suite, model, rows)
    except Preempted:
        raise
    except Exception as error:  # whatever it was: the other rows are independent experiments
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(traceback.format_exc())
        print(f"{suite.name}/{model} failed: {error} ({note} has the whole story)", flush=True)


def run_job(suite: Suite, model: str, rows: list[str]) -> None:
    """Train one model under every seed, choose its guidance, and make the clips of all rows that speak through it."""
    seeds = suite.first(model).ablation.seeds
    for seed in seeds:
        train(suite.config(model, seed), evaluate_run)
    scale = choose_guidance(suite, model)
    for seed in seeds:
        system = trained(suite.config(model, seed))
        for row in rows:
            config, folder = sung(suite, row, seed, scale), suite.clips(row, seed)
            items, says = test_items(config, seed), ROWS[config.ablation.condition]
            claim(folder, system, config, items, says)
            make_clips(system, config, items, says, folder)
    print(f"{suite.name}: clips of {', '.join(rows)} of {len(seeds)} seeds are there", flush=True)


def test_items(config: Config, seed: int) -> MusicDataset:
    """This seed's own share of the held-out items: over all seeds each is used once."""
    items = suite_bench(config).items
    own = set(block(config, items, seed))
    items.entries = [entry for entry in items.entries if entry.key in own]
    return items


def beside(suite: Suite, calls: dict[str, list[str]], n: int) -> None:
    """The jobs in processes of their own, each with its words in runs/<suite>/<row>/log.txt; Preempted where one had to leave."""
    logs = {f"{suite.name}/{row}": suite.path / row / "log.txt" for row in calls}
    commands = [Command(name, call, log) for (name, log), call in zip(logs.items(), calls.values(), strict=True)]
    codes, came = run_side_by_side(commands, n)
    for name, code in codes.items():
        note = logs[name].with_name("failed.txt")
        if code not in (0, PREEMPTED) and not note.is_file():  # it had no time to say why
            note.write_text(f"The job ended with code {code}; {logs[name]} has its last words.\n")
    if came is not None:
        raise Preempted(f"{signal.Signals(came).name} arrived, and the jobs have saved and left: the same command goes on.")
    if PREEMPTED in codes.values():
        raise Preempted("A job was asked to leave, and did: the same command goes on.")


def submit(suite: Suite, calls: dict[str, list[str]], settings: ClusterConfig) -> None:
    """One SLURM job per trained row, as `melfusion submit` sends it; each logs into runs/<suite>/<row>/slurm/."""
    for row, call in calls.items():
        send(Job(f"{suite.name}-{row}", suite.path / row / "slurm", call, {"CONFIG": ""}), settings)
    words = " ".join(["melfusion submit ablate", f"suite={suite.name}", "table=true", *map(shlex.quote, suite.overrides)])
    print(f"{len(calls)} jobs are sent; when they have ended, `{words}` makes the table of what they left.")
