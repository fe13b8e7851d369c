"""Which part of a list this process makes: a job array, the tasks of a job, or torchrun. A function of an environment."""

from __future__ import annotations

from collections.abc import Mapping

from melfusion.cluster.slurm import ranks_from_slurm
from melfusion.errors import ConfigError


def share_of(environment: Mapping[str, str], processes: tuple[int, int] = (0, 1)) -> tuple[int, int]:
    """(number, of how many): the tasks of an array and, in each of them, its processes. (0, 1): this process is alone.

    Args:
        processes: which of how many this one is, where the environment does not say it.
    """
    number, of = started_as(environment) or processes
    if "SLURM_ARRAY_TASK_ID" in environment:
        first, step = (int(environment.get(f"SLURM_ARRAY_TASK_{name}", default)) for name, default in (("MIN", 0), ("STEP", 1)))
        task, tasks = int(environment["SLURM_ARRAY_TASK_ID"]) - first, int(environment.get("SLURM_ARRAY_TASK_COUNT", 1))
        if task % step or not task // step < tasks:
            raise ConfigError(
                "The numbers of this SLURM array are not evenly spaced, so they do not say which share a task makes: give "
                "--array=0-7 or the like, or share=I/N."
            )
        number, of = task // step * of + number, tasks * of
    return number, of


def started_as(environment: Mapping[str, str]) -> tuple[int, int] | None:
    """Which of how many processes srun or torchrun started as this one; None where neither did."""
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return int(environment["RANK"]), int(environment["WORLD_SIZE"])
    if ranks_from_slurm(environment) and "SLURM_STEP_ID" in environment:
        return int(environment.get("SLURM_PROCID", 0)), int(environment["SLURM_NTASKS"])
    return None


def place_of(environment: Mapping[str, str]) -> int:
    """The number of this process on its machine, which is that of its GPU."""
    return int(environment.get("LOCAL_RANK", environment.get("SLURM_LOCALID", 0)))
