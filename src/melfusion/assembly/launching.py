"""Several processes for what is no training: precomputing, evaluation, batches of clips."""

from __future__ import annotations

import os
from typing import Any

import torch.distributed as dist
from lightning.fabric import Fabric
from lightning.pytorch.strategies import StrategyRegistry

from melfusion.assembly.devices import device_type, devices_of, world_size
from melfusion.assembly.options import TrainerConfig
from melfusion.cluster.slurm import environment_plugin
from melfusion.config.check import nearest
from melfusion.errors import ConfigError

# Laid over the configuration of a checkpoint, which was trained on another machine: as many processes as this one has devices
HERE = ["trainer.accelerator=auto", "trainer.devices=auto", "trainer.num_nodes=1", "trainer.strategy=auto"]


def launched(trainer: TrainerConfig) -> Fabric | None:
    """Start the processes that trainer.devices and trainer.num_nodes ask for, as training does; None: this one is enough.

    torchrun or srun may have started them. Each of the others runs the same command from its beginning. Nothing is learned here, so
    every strategy is the same; ConfigError for one that training would not know.
    """
    known_strategy(trainer.strategy)
    if world_size(trainer) == 1:
        return None
    slurm = environment_plugin(os.environ)
    fabric = Fabric(
        accelerator=device_type(trainer),
        devices=devices_of(trainer),
        num_nodes=trainer.num_nodes,
        strategy="ddp",
        plugins=[slurm] if slurm else None,
    )
    fabric.launch()
    return fabric


def known_strategy(name: str) -> str:
    """The name of a strategy; ConfigError where neither Lightning nor this project knows it."""
    known = ["auto", "fsdp2", *StrategyRegistry.available_strategies()]
    if name not in known:
        raise ConfigError(
            f"trainer.strategy={name} is no strategy{nearest(name, known)}: give auto, ddp, fsdp2 or one of Lightning's."
        )
    return name


def meeting(value: Any) -> list[Any]:
    """A plain value of each rank → those of all."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
