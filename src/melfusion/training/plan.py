"""How long each stage of a run will take on this machine, printed before it starts: an estimate from a few timed batches."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from melfusion.assembly.devices import accumulation, world_size
from melfusion.assembly.schema import Config
from melfusion.batch import MusicBatch, present
from melfusion.data.collate import collate
from melfusion.data.datamodule import MusicDataModule
from melfusion.data.shards import ShardSet
from melfusion.models.system import MeLFusion
from melfusion.models.trained import TrainedModule
from melfusion.training.precision import autocast, resolve_precision
from melfusion.training.precompute import held, precomputed_path, provenance
from melfusion.training.stored_samples import compute, with_stored

PROBED = 4  # samples of a batch that is not trained on

STEP = 1.2  # a step over its forward and backward passes: clipping, optimizer, average, reading (configs/scenes.yaml, two cores)

SHOWN_S = 1.2  # of an item in TensorBoard beside its two clips: two figures and the map of its picture, on two cores


def plan_part(config: Config, part: TrainedModule, data: MusicDataModule) -> dict[str, float]:
    """Stage → seconds, for a part that is trained on its own."""
    return {"training": micro_batches(config) * seconds_of_a_step(config, part, first_batch(data, config))}


def plan(config: Config, system: MeLFusion, data: MusicDataModule) -> dict[str, float]:
    """Stage → seconds: precompute where it is enabled and nothing is stored yet, training, evaluation.

    It uses the first training samples and changes nothing that training depends on: no weight moves and no number is drawn.
    """
    batch, wanted = first_batch(data, config), {}
    probed = batch.first(PROBED)
    if config.data.precompute.enabled:
        few = batch.first(config.data.precompute.batch_size)  # as many at once as precompute takes, where the batch has them
        with autocast(resolve_precision(config.trainer), system.device.type):
            each = min(seconds(lambda: compute(system, few), warm) for warm in (False, True)) / len(few)
            batch = with_stored(batch, {name: repeated(t, len(batch)) for name, t in compute(system, few).items()})
        made = provenance(config, system)
        if held(precomputed_path(config, made), config) != made:
            wanted["precompute"] = each * sum(ShardSet(config.data.path, config.data).counts().values())
    clip = seconds_of_a_clip(config, system, probed) if config.evaluation.items or config.trainer.media_items else 0.0
    shown = config.trainer.media_items * math.ceil(config.trainer.max_steps / config.trainer.media_every_n_steps)
    wanted["training"] = micro_batches(config) * seconds_of_a_step(config, system, batch) + shown * (2 * clip + SHOWN_S)
    if config.evaluation.items:
        rows = 1 if system.image_encoder is None else 3
        wanted["evaluation"] = config.evaluation.items * (rows * clip + seconds_of_a_reconstruction(system, probed))
    return wanted


def micro_batches(config: Config) -> int:
    """Forward and backward passes of all steps, on one device."""
    return config.trainer.max_steps * accumulation(config)


def first_batch(data: MusicDataModule, config: Config) -> MusicBatch:
    """The micro-batch with which training begins."""
    dataset = data.dataset("train", training=True)
    size = config.data.global_batch_size // (accumulation(config) * world_size(config.trainer))
    return collate([dataset[i] for i in range(max(1, size))])


def seconds_of_a_step(config: Config, module: TrainedModule, batch: MusicBatch) -> float:
    """Seconds of one micro-batch: forward and backward, timed, and what else a step does."""
    batch = batch.to(module.device)

    def step() -> None:
        with autocast(resolve_precision(config.trainer), module.device.type):
            output: Any = module.training_step(batch, 0)
        (output["loss"] if isinstance(output, dict) else output).backward()
        module.zero_grad(set_to_none=True)

    module.train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there is no trainer to log to
        return STEP * seconds(step)


def seconds_of_a_clip(config: Config, system: MeLFusion, batch: MusicBatch) -> float:
    """Seconds of one generated clip: what a clip costs once, and the steps of the sampler."""
    s, batch = config.sampling, batch.to(system.device)

    def generate(steps: int) -> Callable[[], object]:
        return lambda: system.vocode(
            system.generate(batch.captions, batch.image, num_inference_steps=steps, guidance_scale=s.guidance_scale)
        )

    system.eval()
    one, three = seconds(generate(1)), seconds(generate(3), warm=True)
    return (one + (s.num_inference_steps - 1) * max(0.0, three - one) / 2) / len(batch)


@torch.no_grad()
def seconds_of_a_reconstruction(system: MeLFusion, batch: MusicBatch) -> float:
    """Seconds of one real clip through the codec, a row of every evaluation; the system is warm from `seconds_of_a_clip`."""
    waveform = present(batch.waveform).to(system.device)
    return seconds(lambda: system.vocode(system.codec.decode(system.codec.encode(waveform))), warm=True) / len(batch)


def repeated(tensor: Tensor, n: int) -> Tensor:
    """n rows (n, …): the rows of the tensor, repeated in order."""
    return tensor[torch.arange(n, device=tensor.device) % len(tensor)]


def seconds(work: Callable[[], object], warm: bool = False) -> float:
    """Seconds of a call. Another call before it warms up, unless all is warm."""
    for _ in range(1 if warm else 2):
        wait_for_device()
        started = time.perf_counter()
        work()
        wait_for_device()
    return time.perf_counter() - started


def wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def in_words(stages: dict[str, float]) -> str:
    """`precompute 3 min, training 14 min; about 17 min in all`."""
    each = ", ".join(f"{stage} {minutes(s)}" for stage, s in stages.items())
    return each if len(stages) == 1 else f"{each}; about {minutes(sum(stages.values()))} in all"


def minutes(s: float) -> str:
    """A number of seconds in words, in the unit that suits it."""
    return f"{s:.0f} s" if s < 90 else f"{s / 60:.0f} min" if s < 5400 else f"{s / 3600:.1f} h"
