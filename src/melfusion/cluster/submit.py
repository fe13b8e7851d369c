"""`melfusion submit VERB …`: any verb as a SLURM job, one task per GPU, with the settings of configs/cluster/slurm.yaml.

The batch script starts `python -m melfusion VERB …` under srun. So each task is a process of our own: SIGTERM and SIGUSR1 reach the
handlers of the training, and the exit code reaches SLURM.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from melfusion import PREEMPTED
from melfusion.cluster.options import ClusterConfig
from melfusion.errors import ConfigError
from melfusion.files import one_line, write_whole

# The Makefile's variables, which a job gets word for word
CARRIED = ("CONFIG", "IMAGE", "PROMPT", "OUT", "CKPT", "DIR", "SUITE", "MANIFEST", "AUDIO_DIR", "IMAGE_DIR", "GAMES_DIR")

# Verbs that run as many ranks → their options that make a call one process; every other verb is one process
PARALLEL = {"train": (), "precompute": ("prune",), "evaluate": ("wavs", "share"), "generate": ("share",)}

OWN = {"trainer.devices": "gpus_per_node", "trainer.num_nodes": "nodes"}

# Options of sbatch that may not come twice, and the setting that decides each
WRITTEN = {
    "nodes": "nodes",
    "ntasks": "gpus_per_node",
    "ntasks-per-node": "gpus_per_node",
    "gpus-per-node": "gpus_per_node",
    "cpus-per-task": "cpus_per_gpu",
    "mem": "memory",
    "time": "time",
    "signal": "signal_s",
    "requeue": "requeue",
}

RUNTIMES = ("apptainer", "pyxis")


@dataclass(frozen=True)
class Job:
    """One call of melfusion, the folder of its script and logs, and the environment variables that it needs."""

    name: str
    folder: Path
    arguments: list[str]
    variables: dict[str, str]


def check(settings: ClusterConfig) -> None:
    """Sizes, words, the form of the time, and that no text adds a line to the script; raises ConfigError."""
    for key, value in dataclasses.asdict(settings).items():
        one_line(f"cluster.{key}", value)
    for key, value in settings.extra.items():
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", key) or isinstance(value, dict | list):
            raise ConfigError(f"cluster.extra has {key}={value!r}: give an option of sbatch without its dashes, and one value.")
    if not re.fullmatch(r"(\d+-)?\d{1,3}:\d\d:\d\d", settings.time):
        raise ConfigError(
            f'cluster.time={settings.time!r} is no [days-]hours:minutes:seconds: write "24:00:00" or '
            '"2-00:00:00", in quotes where it stands in a file.'
        )
    if settings.container_runtime not in RUNTIMES:
        raise ConfigError(f"cluster.container_runtime={settings.container_runtime!r} is not one of {', '.join(RUNTIMES)}.")
    for key, least in (("nodes", 1), ("gpus_per_node", 0), ("cpus_per_gpu", 1), ("signal_s", 1)):
        if getattr(settings, key) < least:
            raise ConfigError(f"cluster.{key}={getattr(settings, key)} must be at least {least}.")
    if taken := [key for key in settings.extra if key in WRITTEN]:
        raise ConfigError(f"cluster.extra names {taken[0]!r}, which other settings decide: use cluster.{WRITTEN[taken[0]]}.")
    if settings.signal_s >= seconds(settings.time):
        raise ConfigError(f"cluster.signal_s={settings.signal_s} must be less than cluster.time={settings.time}.")


def seconds(time: str) -> int:
    """[days-]hours:minutes:seconds → seconds."""
    days, _, clock = time.rpartition("-")
    hours, minutes, rest = map(int, clock.split(":"))
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + rest


def shares_work(verb: str, options: list[str]) -> bool:
    """Does this call share its work among all tasks of a job? Of `generate`, a list does."""
    keys = {option.partition("=")[0] for option in options}
    return verb in PARALLEL and keys.isdisjoint(PARALLEL[verb]) and (verb != "generate" or "list" in keys)


def agree(settings: ClusterConfig, given: set[str], options: list[str]) -> list[str]:
    """Make tasks and the trainer's devices the same number; ConfigError where the command line names two numbers."""
    words = dict(o.split("=", 1) for o in options if o.partition("=")[0] in OWN)
    for key, own in OWN.items():
        word, size = words.get(key, "auto"), getattr(settings, own)
        if word in ("auto", "-1") or word == str(max(size, 1)):
            continue
        if not word.isdigit() or int(word) < 1:
            raise ConfigError(f"{key}={word} is no number of tasks: a job needs one, such as {key}={max(size, 1)}.")
        if own in given or size == 0:
            raise ConfigError(
                f"{key}={word} and cluster.{own}={size} contradict each other: each GPU has one task, so give one "
                "of them, or the same number."
            )
        setattr(settings, own, int(word))
    kept = [o for o in options if o.partition("=")[0] not in OWN]
    return [*kept, f"trainer.devices={max(settings.gpus_per_node, 1)}", f"trainer.num_nodes={settings.nodes}"]


def alone(verb: str, settings: ClusterConfig, given: set[str], options: list[str]) -> None:
    """A call of one process takes one task and at most one GPU; ConfigError where the command line asks for more."""
    words = dict(o.split("=", 1) for o in options if o.partition("=")[0] in OWN)
    asked = words | {f"cluster.{own}": str(getattr(settings, own)) for own in OWN.values() if own in given}
    for key, word in asked.items():
        if word.isdigit() and int(word) > 1:
            raise ConfigError(
                f"{key}={word}: {verb} is one process on one device; only {', '.join(PARALLEL)} (list=) use more, where "
                "prune=, wavs= and share= are not given: leave it out."
            )
    settings.nodes, settings.gpus_per_node = 1, min(settings.gpus_per_node, 1)


def send(job: Job, settings: ClusterConfig) -> str:
    """Write the batch script, hand it to sbatch, and print where the log will lie; returns the job's id."""
    for program in ("sbatch", "srun"):
        if shutil.which(program) is None:
            raise ConfigError(f"There is no {program} on the PATH: submit on a cluster's login node, or run the verb itself here.")
    job.folder.mkdir(parents=True, exist_ok=True)
    file = job.folder / f"submission{os.getpid()}.sh"  # until its job has a number
    write_whole(file, script(job, settings))
    sent = subprocess.run(["sbatch", str(file)], capture_output=True, text=True, errors="replace")
    number = re.search(r"Submitted batch job (\d+)", sent.stdout)
    if sent.returncode or number is None:
        file.unlink()
        why = " ".join((sent.stderr or sent.stdout).split()) or f"exit status {sent.returncode}"
        raise ConfigError(f"sbatch refused the job ({why}): give cluster.KEY=… or edit configs/cluster/slurm.yaml.")
    file.replace(job.folder / f"{number[1]}_submission.sh")
    print(f"job {number[1]}: {job.name}, log {job.folder}/{number[1]}_0_log.out", flush=True)
    return number[1]


def script(job: Job, settings: ClusterConfig) -> str:
    """The batch script: options of sbatch, variables and set-up lines, one srun for all tasks, and what follows its end."""
    options = [f"#SBATCH --{key}" if value is True else f"#SBATCH --{key}={quoted(value)}" for key, value in wishes(job, settings)]
    log = f"{job.folder.absolute()}/%j_%t_log.out"  # one log for each task; SLURM fills in the numbers of job and task
    start = ["srun", "--unbuffered", "--output", log, *srun_options(settings), *command(job, settings)]
    return "\n".join(["#!/bin/bash", *options, *exports(job), *settings.setup, shlex.join(start), *afterwards(settings), ""])


def quoted(value: Any) -> str:
    return shlex.quote(str(value))


def wishes(job: Job, settings: ClusterConfig) -> list[tuple[str, Any]]:
    """Options of sbatch with their values, in alphabetical order; True is an option without a value."""
    found: dict[str, Any] = {
        "job-name": job.name,
        "time": settings.time,
        "nodes": settings.nodes,
        "ntasks-per-node": max(settings.gpus_per_node, 1),
        "cpus-per-task": settings.cpus_per_gpu,
        "signal": f"USR1@{settings.signal_s}",
        "export": "ALL",
        "open-mode": "append",  # a requeued job goes on in its log
        "output": f"{job.folder.absolute()}/%j_0_log.out",  # errors, too
        "requeue" if settings.requeue else "no-requeue": True,
    }
    found |= {name: getattr(settings, name) for name in ("account", "partition", "qos", "constraint") if getattr(settings, name)}
    if settings.memory:
        found["mem"] = settings.memory
    if settings.gpus_per_node and "gres" not in settings.extra:
        found["gpus-per-node"] = settings.gpus_per_node
    return sorted((found | settings.extra).items())


def srun_options(settings: ClusterConfig) -> list[str]:
    """Options of srun: it takes the CPUs of a task and the log's mode from nobody else.

    A rank that leaves must not end the ranks that still save, so srun waits for all.
    """
    options = [f"--cpus-per-task={settings.cpus_per_gpu}", "--open-mode=append", "--kill-on-bad-exit=0"]
    if settings.container and settings.container_runtime == "pyxis":
        here = Path.cwd()
        options += [
            f"--container-image={settings.container}",
            f"--container-mounts={here}:{here}",
            f"--container-workdir={here}",
            *settings.container_args,
        ]
    return options


def exports(job: Job) -> list[str]:
    """Variables, quoted for the shell. They do not depend on the site's rules for the environment of jobs."""
    variables = job.variables | {"MELFUSION_REQUEUE": "0"}  # the script does it, where scontrol is at hand
    if paths := os.environ.get("PYTHONPATH"):
        variables["PYTHONPATH"] = ":".join(str(Path(p).absolute()) for p in paths.split(":") if p)
    return [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]


def afterwards(settings: ClusterConfig) -> list[str]:
    """Requeue outside of any container, when all tasks have left. scancel and SLURM's own requeue end the script before this."""
    again = f'[ "$status" = {PREEMPTED} ] && scontrol requeue "$SLURM_JOB_ID"'
    return ["status=$?", *([again] if settings.requeue else []), "exit $status"]


def command(job: Job, settings: ClusterConfig) -> list[str]:
    """What every task runs."""
    call = ["-u", "-m", "melfusion", *job.arguments]
    if not settings.container:
        return [sys.executable, *call]
    if settings.container_runtime == "pyxis":
        return ["python", *call]
    here, gpus = str(Path.cwd()), ["--nv"] if settings.gpus_per_node else []
    around = ["apptainer", "exec", *gpus, "--bind", here, "--pwd", here, *settings.container_args, settings.container]
    return [*around, "python", *call]
