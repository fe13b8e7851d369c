"""`trainer.strategy=fsdp2`: weights, gradients, optimizer and average are divided among all devices."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor

from melfusion.assembly.devices import world_size
from melfusion.assembly.launching import known_strategy
from melfusion.assembly.schema import Config
from melfusion.errors import ConfigError
from melfusion.files import mapped
from melfusion.models.sharding import is_divided, like, whole


def strategy_of(config: Config) -> Any:
    """What Lightning's Trainer takes as its strategy. ConfigError where nobody knows it, or fsdp2 does not go with the rest."""
    t = config.trainer
    if t.strategy != "fsdp2":
        return known_strategy(t.strategy)
    refused = {
        f"task={config.task}": config.task != "melfusion",
        "trainer.precision=16-mixed": t.precision.startswith("16"),
        "denoiser.compile=true": config.denoiser.compile,
    }
    if wrong := next((name for name, found in refused.items() if found), None):
        raise ConfigError(f"trainer.strategy=fsdp2 does not go with {wrong}: give trainer.strategy=ddp, or change the other.")
    return FSDP2(world_size(t))


class FSDP2(ModelParallelStrategy):
    """Lightning's strategy, with checkpoints as any other strategy writes them, so that each reads those of the others.

    Rank 0 puts the tensors together one by one; to load, each rank cuts its parts out of the file.
    All ranks have as many batches in a validation (data/order.py), so none waits for a block that others do not gather.
    """

    def __init__(self, world: int):
        super().__init__(data_parallel_size=world, tensor_parallel_size=1, save_distributed_checkpoint=False)

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        return False

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def post_backward(self, closure_loss: Tensor) -> None:
        """Average the gradients of what is not divided. Those of earlier micro-batches are equal already, and stay so."""
        module: Any = self.lightning_module
        grads = [p.grad for p in module.parameters() if p.grad is not None and not is_divided(p.grad)]
        if not grads:
            return
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        dist.all_reduce(flat)
        flat /= self.world_size
        for grad, mean in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(mean.view_as(grad))

    def lightning_module_state_dict(self) -> dict[str, Any]:
        module: Any = self.lightning_module
        return {name: whole(tensor) for name, tensor in module.state_dict().items()}

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        return mapped(whole, optimizer.state_dict())

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        return self.checkpoint_io.load_checkpoint(checkpoint_path, map_location="cpu", weights_only=weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        module: Any = self.lightning_module
        here, stored = module.state_dict(), checkpoint["state_dict"]
        module.load_state_dict({n: like(t, here[n]) if n in here else t for n, t in stored.items()}, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, stored in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            state = {
                i: {name: t if name == "step" else like(t, parameters[i]) for name, t in entry.items()}
                for i, entry in stored["state"].items()
            }
            optimizer.load_state_dict({**stored, "state": state})
