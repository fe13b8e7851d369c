"""How long each stage of a run will take on this machine: told before it starts, from a few batches that are timed."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import torch

from melfusion.batch import MusicBatch
from melfusion.data.corpus import counts
from melfusion.data.datamodule import MusicDataModule, collate
from melfusion.melfusion import MeLFusion
from melfusion.optim import TrainedModule
from melfusion.precompute import as_in_training, compute, with_stored
from melfusion.schema import Config

TIMED = 3  # repetitions, the first of which warms up
PROBED = 8  # samples of a batch that is not trained on


def plan_part(config: Config, part: TrainedModule, data: MusicDataModule) -> dict[str, float]:
    """Stage → seconds, of a part that trains itself."""
    batch = first_batch(data, config)
    return {"training": config.trainer.max_steps * config.trainer.accumulate * seconds_of_a_step(config, part, batch)}


def plan(config: Config, system: MeLFusion, data: MusicDataModule, stored: bool) -> dict[str, float]:
    """Stage → seconds: precompute where it is enabled and nothing is `stored` yet, training, evaluation.

    Uses the first training samples. Nothing that a training depends on changes: no weight moves and no number is drawn.
    """
    batch, wanted = first_batch(data, config), {}
    if config.data.precompute.enabled:
        few = batch.first(PROBED)
        with as_in_training(config, system.device):
            each = seconds(lambda: compute(system, few)) / len(few)
            batch = with_stored(batch, compute(system, batch))
        if not stored:
            wanted["precompute"] = each * sum(counts(data.shards).values())
    steps = config.trainer.max_steps * config.trainer.accumulate
    wanted["training"] = steps * seconds_of_a_step(config, system, batch)
    if config.evaluation.items:
        rows = 1 if system.extractor is None else 3
        wanted["evaluation"] = rows * config.evaluation.items * seconds_of_a_clip(config, system, batch.first(PROBED))
    return wanted


def first_batch(data: MusicDataModule, config: Config) -> MusicBatch:
    """The micro-batch that training begins with."""
    dataset = data.dataset("train", training=True)
    return collate([dataset[i] for i in range(data.micro_batch_size())])


def seconds_of_a_step(config: Config, module: TrainedModule, batch: MusicBatch) -> float:
    """Of one micro-batch, forward and backward."""
    batch = batch.to(module.device)

    def step() -> None:
        with as_in_training(config, module.device):
            loss = module.training_step(batch, 0)
        (loss["loss"] if isinstance(loss, dict) else loss).backward()
        module.zero_grad(set_to_none=True)

    module.train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there is no trainer to log to
        return seconds(step)


def seconds_of_a_clip(config: Config, system: MeLFusion, batch: MusicBatch) -> float:
    """Of one generated clip among several: what every clip costs once, and each sampler step."""
    s, image = config.sampling, batch.image

    def generate(steps: int) -> Callable[[], object]:
        return lambda: system.vocode(system.generate(batch.captions, image, num_inference_steps=steps,
                                                     guidance_scale=s.guidance_scale))  # fmt: skip

    system.eval()
    one, two = seconds(generate(1)), seconds(generate(2))
    return (one + (s.num_inference_steps - 1) * max(0.0, two - one)) / len(batch)


def seconds(work: Callable[[], object]) -> float:
    """The least of a few repetitions after the first."""
    took = []
    for _ in range(TIMED):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        took.append(time.perf_counter() - started)
    return min(took[1:])


def in_words(stages: dict[str, float]) -> str:
    """`precompute 3 min, training 14 min: about 17 min on this machine`."""
    each = ", ".join(f"{stage} {minutes(s)}" for stage, s in stages.items())
    return each if len(stages) == 1 else f"{each}; about {minutes(sum(stages.values()))} in all"


def minutes(s: float) -> str:
    """Seconds in the unit that a reader wants."""
    return f"{s:.0f} s" if s < 90 else f"{s / 60:.0f} min" if s < 5400 else f"{s / 3600:.1f} h"
