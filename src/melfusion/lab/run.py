"""The jobs of a suite: training and clips, in this process, in several processes, or on a cluster."""

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
from melfusion.errors import MelfusionError, Preempted
from melfusion.evaluation.clips import claim, make_clips
from melfusion.evaluation.scores import evaluate_run
from melfusion.evaluation.sets import block, suite_set
from melfusion.lab.guidance import choose_guidance
from melfusion.lab.models import condition_of, sampling_config, trained
from melfusion.lab.side_by_side import MelfusionCommand, run_side_by_side
from melfusion.lab.stored_scores import FOLDER, StoredScores
from melfusion.lab.suite import Suite
from melfusion.lab.trainings import remember, take_over
from melfusion.training.run import ensure_stages, train

log = logging.getLogger(__name__)


class RowFailed(MelfusionError, RuntimeError):
    """A job of a suite failed. Where the whole suite runs, its table says so instead."""


def run_jobs(suite: Suite, jobs: dict[str, list[str]], calls: dict[str, list[str]], n: int) -> list[str]:
    """Run one job after another in this process, or `n` at a time in others; returns the models whose jobs failed.

    Raises Preempted where a job was interrupted.
    """
    if n > 1:
        run_in_processes(suite, calls, n)
    else:
        for row, rows in jobs.items():
            attempt(suite, row, rows)
    return [row for row in jobs if (suite.path / row / "failed.txt").is_file()]


def attempt(suite: Suite, model: str, rows: list[str]) -> None:
    """Run one job. An error goes into failed.txt and is printed; the next job runs."""
    note = suite.path / model / "failed.txt"
    note.unlink(missing_ok=True)
    try:
        run_job(suite, model, rows)
    except Preempted:
        raise
    except Exception as error:  # of any kind, since the other rows are independent experiments
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(traceback.format_exc())
        print(f"{suite.name}/{model} failed: {error} (see {note})", flush=True)


def run_job(suite: Suite, model: str, rows: list[str]) -> None:
    """Train one model for every seed, choose its guidance scale, and generate the clips of all rows that use its checkpoint.

    Nothing is done for rows whose scores are stored, and no training that this machine has done already is done again.
    """
    seeds, stored = suite.first(model).ablation.seeds, StoredScores(suite)
    ensure_stages(suite.first(model))
    if found := [row for row in rows if stored.has_all(row)]:
        print(f"{suite.name}: the scores of {', '.join(found)} are in {FOLDER}, so nothing is made for them", flush=True)
        if not (rows := [row for row in rows if row not in found]):
            return
    for seed in seeds:
        config, note = suite.config(model, seed), stored.training(model, seed)
        take_over(config, note)
        train(config, evaluate_run)
        remember(config, note)
    scale = choose_guidance(suite, model)
    for seed in seeds:
        system = trained(suite.config(model, seed))
        for row in rows:
            config, folder = sampling_config(suite, row, seed, scale), suite.clips(row, seed)
            items, condition = test_items(config, seed), condition_of(config)
            claim(folder, system, config, items, condition)
            make_clips(system, config, items, condition, folder)
    print(f"{suite.name}: the clips of {', '.join(rows)} of {len(seeds)} seeds are complete", flush=True)


def test_items(config: Config, seed: int) -> MusicDataset:
    """The held-out items of this seed. Each item belongs to one seed."""
    items = suite_set(config).items
    return items.only(set(block(config, items, seed)))


def run_in_processes(suite: Suite, calls: dict[str, list[str]], n: int) -> None:
    """Run each job in a process of its own, `n` at a time. Each writes its output to runs/<suite>/<row>/log.txt.

    Raises Preempted where this process or a job was asked to stop.
    """
    logs = {f"{suite.name}/{row}": suite.path / row / "log.txt" for row in calls}
    commands = [MelfusionCommand(name, call, log) for (name, log), call in zip(logs.items(), calls.values(), strict=True)]
    codes, received = run_side_by_side(commands, n)
    for name, code in codes.items():
        note = logs[name].with_name("failed.txt")
        if code not in (0, PREEMPTED) and not note.is_file():  # it was killed before it could write why
            note.write_text(f"The job ended with code {code}; {logs[name]} has its last lines.\n")
    if received is not None:
        raise Preempted(
            f"{signal.Signals(received).name} arrived, and the jobs have saved their state and ended: the same command goes on."
        )
    if PREEMPTED in codes.values():
        raise Preempted("A job was asked to stop and has saved its state: the same command goes on.")


def submit(suite: Suite, calls: dict[str, list[str]], settings: ClusterConfig) -> None:
    """Send one SLURM job per trained row, as `melfusion submit` does. Each logs into runs/<suite>/<row>/slurm/."""
    for row, call in calls.items():
        send(Job(f"{suite.name}-{row}", suite.path / row / "slurm", call, {"CONFIG": ""}), settings)
    words = " ".join(["melfusion submit ablate", f"suite={suite.name}", "table=true", *map(shlex.quote, suite.overrides)])
    print(f"{len(calls)} jobs are sent; when they have ended, `{words}` makes the table.")
