"""Inside a SLURM job: whether tasks and devices agree in number, which rank a task is, and how the job is requeued.

These are functions of an environment, so they can be tested without a cluster. submit.py sends jobs.
"""

from __future__ import annotations

import logging
import shutil
import signal
import subprocess
from collections.abc import Mapping
from typing import TYPE_CHECKING

from melfusion.errors import ConfigError

if TYPE_CHECKING:
    from lightning.pytorch.plugins.environments import SLURMEnvironment

log = logging.getLogger(__name__)


def refuse_login_node(env: Mapping[str, str]) -> None:
    """A cluster's login node is not for training: ConfigError where sbatch is found and no job runs."""
    if shutil.which("sbatch", path=env.get("PATH")) and "SLURM_JOB_ID" not in env:
        raise ConfigError(
            "This looks like a cluster's login node (sbatch is found and no job runs here): "
            "send the training there with `make submit`, or start it inside a job."
        )


INTERACTIVE = ("bash", "interactive")  # with these job names Lightning starts the ranks itself


def ranks_from_slurm(environment: Mapping[str, str]) -> bool:
    """Did srun start this process as one of its tasks? (torchrun inside a job starts ranks of its own.)"""
    return (
        "SLURM_NTASKS" in environment
        and environment.get("SLURM_JOB_NAME") not in INTERACTIVE
        and "TORCHELASTIC_RUN_ID" not in environment
    )


def check_tasks(devices: str, nodes: int, environment: Mapping[str, str]) -> str:
    """ConfigError where what SLURM or torchrun started is not devices × nodes; else the devices, `auto` and -1 as those of a node.

    A training with another number of tasks would wait for ranks that nobody starts, or train the same thing twice.
    """
    if {"TORCHELASTIC_RUN_ID", "WORLD_SIZE", "LOCAL_WORLD_SIZE"} <= environment.keys():
        return _check_torchrun(devices, nodes, int(environment["WORLD_SIZE"]), int(environment["LOCAL_WORLD_SIZE"]))
    if not ranks_from_slurm(environment):
        return devices
    tasks, job_nodes = int(environment["SLURM_NTASKS"]), int(environment.get("SLURM_NNODES", nodes))
    per_node = int(environment.get("SLURM_NTASKS_PER_NODE", tasks // job_nodes))
    if tasks > 1 and "SLURM_STEP_ID" not in environment:
        raise ConfigError(
            f"This SLURM job has {tasks} tasks, but only this process was started: put `srun` before the command, "
            "or send it with `melfusion submit train`."
        )
    given = count_devices(devices) or per_node
    if (tasks, job_nodes, per_node) != (given * nodes, nodes, given):
        raise ConfigError(
            f"SLURM started {tasks} tasks ({per_node} on each of {job_nodes} nodes), and the training has "
            f"{given * nodes} devices (trainer.devices={devices} × trainer.num_nodes={nodes}): start the job with "
            f"`--nodes={nodes} --ntasks-per-node={given}`, or give trainer.devices={per_node} "
            f"trainer.num_nodes={job_nodes}."
        )
    if tasks > 1 and "SLURM_NTASKS_PER_NODE" not in environment:
        raise ConfigError(
            f"SLURM started {tasks} tasks without saying how many on a node: start the job with "
            f"`--nodes={nodes} --ntasks-per-node={given}` instead of --ntasks."
        )
    return devices if count_devices(devices) else str(per_node)


def _check_torchrun(devices: str, nodes: int, processes: int, per_node: int) -> str:
    given = count_devices(devices) or per_node
    if (given, given * nodes) != (per_node, processes):
        raise ConfigError(
            f"torchrun started {processes} processes ({per_node} on this machine), and trainer.devices={devices} × "
            f"trainer.num_nodes={nodes} is {given * nodes}: leave trainer.devices out, and give "
            f"trainer.num_nodes={processes // per_node}."
        )
    return devices if count_devices(devices) else str(per_node)


def count_devices(devices: str) -> int | None:
    """How many devices the words of `trainer.devices` name (`2`, `0,3`, `[0, 3]`); None: as many as there are."""
    listed = [word for word in devices.strip("[] ").split(",") if word.strip()]
    if len(listed) == 1 and "," not in devices and "[" not in devices:
        return int(devices) if devices.strip().isdigit() and int(devices) > 0 else None
    return len(listed)


def environment_plugin(environment: Mapping[str, str]) -> SLURMEnvironment | None:
    """Lightning's ranks from srun, without its own saving and requeue at SIGUSR1; None: Lightning finds its ranks itself."""
    from lightning.pytorch.plugins.environments import SLURMEnvironment  # seconds, which a refused login node need not wait

    return SLURMEnvironment(auto_requeue=False) if ranks_from_slurm(environment) else None


def requeue(environment: Mapping[str, str], received: int = signal.SIGUSR1) -> None:
    """Ask SLURM to put this job back into the queue. Only global rank 0 asks; a failure is one logged sentence.

    This is for SIGUSR1, the end of the time limit. SIGTERM comes from a preemption, after which SLURM requeues the job by itself,
    or from scancel, after which nobody may requeue it. With MELFUSION_REQUEUE=0 the batch script requeues the job, or nobody does.
    """
    job = environment.get("SLURM_JOB_ID")
    if "SLURM_ARRAY_JOB_ID" in environment:
        job = f"{environment['SLURM_ARRAY_JOB_ID']}_{environment.get('SLURM_ARRAY_TASK_ID')}"
    rank = environment.get("RANK", environment.get("SLURM_PROCID", "0"))
    if job is None or received != signal.SIGUSR1 or rank != "0" or environment.get("MELFUSION_REQUEUE") == "0":
        return
    again = "the same command goes on from what was saved."
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60, env=dict(environment))
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("SLURM job %s was not requeued (%s): %s", job, " ".join(str(error).split()), again)
        return
    if done.returncode:
        log.warning("SLURM job %s was not requeued (scontrol: %s): %s", job, " ".join(done.stderr.split()), again)
