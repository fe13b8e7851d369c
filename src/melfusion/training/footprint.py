"""Memory of a GPU that training and generation take, counted on the meta device: no weights and no GPU are needed."""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from typing import Any

import torch

from melfusion.assembly.counting import CAPTION, DECODE, PICTURE, SAMPLE, VOCODE, StageWork, tensors
from melfusion.assembly.parts import PARTS
from melfusion.assembly.schema import Config
from melfusion.assembly.torch_private import backward
from melfusion.assembly.tracing import GPUKernels, LiveBytes, Zeros
from melfusion.batch import MusicBatch
from melfusion.models.system import MeLFusion

SHORT = {"bf16-mixed": torch.bfloat16, "bf16-true": torch.bfloat16, "16-mixed": torch.float16}


@dataclass(frozen=True)
class Footprint:
    """Bytes on one device in a training step.

    Attributes:
        weights: of all parts, with buffers.
        gradients, moments, average: of what trains; AdamW's two moments.
        work: alive at once at most beside them: the batch, activations kept for the backward pass, what kernels make.
    """

    weights: int
    gradients: int
    moments: int
    average: int
    work: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.moments + self.average + self.work


def size(module: torch.nn.Module, trained: bool | None = None) -> int:
    """Bytes of a module's parameters; `trained`: of those that train, or that do not."""
    return sum(p.numel() * p.element_size() for p in module.parameters() if trained is None or p.requires_grad is trained)


def training(config: Config, module: Any, batch: MusicBatch, precision: str, accumulates: bool) -> Footprint:
    """Of one micro-batch, forward and backward, after the first optimizer step.

    Args:
        module: of `config.task`, on the meta device, in the types that it is kept in.
        accumulates: the gradients of other micro-batches are there already; else they come to be while activations go.
    """
    module.train()
    trained = [p for p in module.parameters() if p.requires_grad]
    for p in trained:
        p.grad = torch.empty_like(p) if accumulates else None
    live = LiveBytes().hold([*tensors(module), *(p.grad for p in trained if p.grad is not None)])
    before = live.now
    values: list[torch.Tensor] = []
    batch.map_tensors(values.append)
    live.hold(values)
    with warnings.catch_warnings(), Zeros(), live, GPUKernels(SHORT.get(precision)):
        warnings.simplefilter("ignore")  # there is no trainer to log to
        output = module.training_step(batch, 0)
        backward(output["loss"] if isinstance(output, dict) else output)
        del output
    module.zero_grad(set_to_none=True)
    gradients = size(module, True) if accumulates else 0
    average = config.optim.ema_decay > 0 and PARTS[config.task].averaged
    return Footprint(before - gradients, gradients, 2 * size(module, True), average * size(module, True), live.peak - before)


def sharded(whole: Footprint, module: Any, devices: int) -> Footprint:
    """The same under FSDP: what trains and all that comes with it is cut into `devices` pieces; the frozen parts stay whole.

    A block of the denoiser is put together when it is needed, with its gradient; the largest one counts.
    """
    if devices == 1:
        return whole
    own, block = size(module, True), 2 * max((size(b, True) for b in blocks(module)), default=0)
    cut = {name: getattr(whole, name) // devices for name in ("gradients", "moments", "average")}
    return dataclasses.replace(whole, weights=whole.weights - own + own // devices, work=whole.work + block, **cut)


def blocks(module: torch.nn.Module) -> list[torch.nn.Module]:
    """Pieces that are computed one after the other: the items of the outermost lists of modules, and what stands beside them."""
    if isinstance(module, torch.nn.ModuleList):
        return list(module)
    return [piece for child in module.children() for piece in blocks(child)] or [module]


def live_encoding(stages: dict[str, StageWork], n: int) -> int:
    """Bytes that encoding n samples takes before a step, where nothing is precomputed: the stage that needs most."""
    return n * max(work.bytes for name, work in stages.items() if name not in (SAMPLE, DECODE, VOCODE))


def generation(system: MeLFusion, stages: dict[str, StageWork], n: int, offload: bool = False) -> int:
    """Bytes to generate n clips at once for one picture. `offload`: a part is on the device only while it is needed."""
    encoder = system.image_encoder
    looking = encoder is not None and not encoder.reads_once  # at every step, beside the denoiser
    phases: dict[str, tuple[list[Any], int]] = {  # stage → parts that work in it, how often its bytes are there
        CAPTION: ([system.conditioner], n),
        PICTURE: ([encoder], 1),
        SAMPLE: ([system.denoiser, *([encoder] if looking else [])], n),
        DECODE: ([system.codec], n),
        VOCODE: ([system.codec], n),
    }
    work = {stage: times * stages[stage].bytes for stage, (_, times) in phases.items() if stage in stages}
    if not offload:
        return size(system) + max(work.values())
    return max(sum(size(part) for part in phases[stage][0] if part is not None) + taken for stage, taken in work.items())
