"""Where a training computes, on how many devices, and how a step's samples are cut so that they fit."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch

from melfusion.assembly.options import TrainerConfig
from melfusion.assembly.schema import Config
from melfusion.cluster.slurm import check_tasks, count_devices
from melfusion.models.device import best_device


def device_type(trainer: TrainerConfig) -> str:
    """cuda, mps or cpu: where the Trainer computes."""
    return best_device(trainer.accelerator)


def world_size(trainer: TrainerConfig, environment: Mapping[str, str] = os.environ) -> int:
    """How many devices train together."""
    here = torch.cuda.device_count() if device_type(trainer) == "cuda" else 1
    return (count_devices(check_tasks(trainer.devices, trainer.num_nodes, environment)) or here) * trainer.num_nodes


def devices_of(trainer: TrainerConfig, environment: Mapping[str, str] = os.environ) -> int | str:
    """What Lightning takes as its devices. ConfigError where SLURM started another number of tasks."""
    devices = check_tasks(trainer.devices, trainer.num_nodes, environment)
    return int(devices) if devices.lstrip("-").isdigit() else devices


def accumulation(config: Config, world: int | None = None) -> int:
    """Micro-batches of a step: trainer.accumulate, or the fewest for which none is above trainer.micro_batch_size.

    The global batch stays what it is, whatever the number of devices (`world`). Where it does not divide by that, 1.
    """
    most = config.trainer.micro_batch_size
    if most is None:
        return config.trainer.accumulate
    each, rest = divmod(config.data.global_batch_size, world_size(config.trainer) if world is None else world)
    return 1 if rest else next(n for n in range(1, each + 1) if each % n == 0 and each // n <= most)
