"""`melfusion submit VERB …`: any verb as a SLURM job, one task per GPU, with the settings of configs/cluster/slurm.yaml.

submitit writes the batch script and sends it. What the script starts is not submitit's loader of pickled functions but
`python -m melfusion VERB …` itself, under srun. Each task is then our own process: SIGTERM and SIGUSR1 reach the training's
handlers (submitit's loader ignores SIGTERM), the exit code reaches SLURM, nothing is unpickled, and a container needs no submitit.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from melfusion import PREEMPTED
from melfusion.cluster.options import ClusterConfig
from melfusion.errors import ConfigError
from melfusion.files import one_line

# What the Makefile's variables say, verbatim; PYTHONPATH since `make` gives a relative one
CARRIED = ("CONFIG", "IMAGE", "PROMPT", "OUT", "CKPT", "DIR", "SUITE", "MANIFEST", "AUDIO_DIR", "IMAGE_DIR", "GAMES_DIR")

PARALLEL = ("train",)  # verbs that run as many ranks; any other is one process

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
    """One call of melfusion, the folder for the script and the logs, and environment variables it needs."""

    name: str
    folder: Path
    arguments: list[str]
    variables: dict[str, str]


def check(settings: ClusterConfig) -> None:
    """Sizes, words, the form of the time, and that no text brings a line of its own into the script; raises ConfigError."""
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


def agree(settings: ClusterConfig, given: set[str], options: list[str]) -> list[str]:
    """Make tasks and the trainer's devices the same number; ConfigError where the command line says two."""
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


def alone(verb: str, settings: ClusterConfig, given: set[str]) -> None:
    """A verb of one process takes one task and at most one GPU; ConfigError where the command line asks for more."""
    for own in OWN.values():
        if own in given and getattr(settings, own) > 1:
            raise ConfigError(
                f"cluster.{own}={getattr(settings, own)}: {verb} is one process on one device; "
                f"only {', '.join(PARALLEL)} uses more, so leave it out."
            )
    settings.nodes, settings.gpus_per_node = 1, min(settings.gpus_per_node, 1)


def send(job: Job, settings: ClusterConfig) -> str:
    """Write the batch script through submitit, hand it to sbatch, tell where the log will lie; returns the job's id."""
    try:
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedJobError, FailedSubmissionError
    except ImportError:
        raise ConfigError("Jobs are sent through submitit, which is missing: `pip install 'submitit>=1.5,<1.6'`.") from None
    for program in ("sbatch", "srun"):
        if shutil.which(program) is None:
            raise ConfigError(f"There is no {program} on the PATH: submit on a cluster's login node, or run the verb itself here.")
    job.folder.mkdir(parents=True, exist_ok=True)
    executor = SlurmExecutor(job.folder)
    executor.update_parameters(**parameters(job, settings))
    try:  # its `submit` would send a pickled function: see above
        sent = executor._submit_command(shlex.join(command(job, settings)))
    except (FailedJobError, FailedSubmissionError) as error:
        why = " ".join(str(error).split())
        raise ConfigError(f"sbatch refused the job ({why}): give cluster.KEY=… or edit configs/cluster/slurm.yaml.") from None
    print(f"job {sent.job_id}: {job.name}, log {job.folder}/{sent.job_id}_0_log.out", flush=True)
    return sent.job_id


def parameters(job: Job, settings: ClusterConfig) -> dict[str, Any]:
    """What submitit writes into the script: #SBATCH lines, what comes before srun, srun's own arguments, what comes after."""
    more = {"signal": f"USR1@{settings.signal_s}", "export": "ALL"}
    more |= {"requeue" if settings.requeue else "no-requeue": True}
    if settings.memory:
        more["mem"] = settings.memory
    wishes = {n: getattr(settings, n) for n in ("account", "partition", "qos", "constraint") if getattr(settings, n)}
    if settings.gpus_per_node and "gres" not in settings.extra:
        wishes["gpus_per_node"] = settings.gpus_per_node
    # srun takes the tasks' CPUs and the log's mode from nobody else; the first rank that leaves must not end those that still save
    srun = [f"--cpus-per-task={settings.cpus_per_gpu}", "--open-mode=append", "--kill-on-bad-exit=0"]
    if settings.container and settings.container_runtime == "pyxis":
        here = Path.cwd()
        srun += [
            f"--container-image={settings.container}",
            f"--container-mounts={here}:{here}",
            f"--container-workdir={here}",
            *settings.container_args,
        ]
    return wishes | {
        "job_name": job.name,
        "time": settings.time,
        "nodes": settings.nodes,
        "ntasks_per_node": max(settings.gpus_per_node, 1),
        "cpus_per_task": settings.cpus_per_gpu,
        "wckey": None,
        "stderr_to_stdout": True,
        "additional_parameters": more | settings.extra,
        "srun_args": srun,
        "setup": [*exports(job), *settings.setup],
        "teardown": afterwards(settings),
    }


def exports(job: Job) -> list[str]:
    """Variables, quoted for the shell, whatever the site does to the environment of jobs."""
    variables = job.variables | {"MELFUSION_REQUEUE": "0"}  # the script does it, where scontrol is at hand
    if paths := os.environ.get("PYTHONPATH"):
        variables["PYTHONPATH"] = ":".join(str(Path(p).absolute()) for p in paths.split(":") if p)
    return [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]


def afterwards(settings: ClusterConfig) -> list[str]:
    """Requeue outside any container, when all tasks have left; scancel and SLURM's own requeue end the script before."""
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
