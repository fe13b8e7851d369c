"""Training: samples/s with the image model live and with its features cached, beside the setting of the released code.

The reference, ours in a bare loop, and then ours through the real Trainer and in a bare loop, take turns on one device.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from melfusion.assembly.memory import micro_batch
from melfusion.assembly.schema import Config
from melfusion.bench.counted import of_a_sample
from melfusion.bench.fitting import through_the_trainer
from melfusion.bench.machine import ratio, shares
from melfusion.bench.options import SIZES
from melfusion.bench.setting import READINGS, batches, built, ours, reference
from melfusion.bench.timing import Figure, alternated, peak_memory, speed, timed
from melfusion.models.system import MeLFusion
from melfusion.training.ema import EMA
from melfusion.training.precision import autocast, resolve_precision


class BareLoop:
    """What a step has to do and nothing else: forward, backward, clipping, AdamW, the average; its batches lie on the device.

    Args:
        size: samples at once; the gradients of a step's micro-batches are added up.
    """

    def __init__(self, config: Config, model: MeLFusion, size: int):
        self.model, self.config, self.batches = model.train(), config, batches(config, model, size)
        self.precision = resolve_precision(config.trainer)
        made = model.configure_optimizers()
        self.optimizer, self.schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
        self.ema = EMA(config.optim.ema_decay) if config.optim.ema_decay else None
        if self.ema is not None:
            trainer: Any = None  # the average needs none
            self.ema.on_fit_start(trainer, model)
        self.steps = 0

    def step(self) -> None:
        for batch in self.batches:
            with autocast(self.precision, self.model.device.type):
                loss = self.model.training_step(batch, 0)["loss"]
            (loss / len(self.batches)).backward()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, self.config.optim.grad_clip_norm or float("inf"))
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        if self.ema is not None:
            self.ema.update(self.model, self.steps)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()


def measure(size: str, folder: Path, keys: Sequence[str] = ()) -> dict[str, Figure | float]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*self.log.*")  # a bare loop has no Trainer to log to
        return _measure(size, folder, keys)


def _measure(size: str, folder: Path, keys: Sequence[str]) -> dict[str, Figure | float]:
    found: dict[str, Figure | float] = {}
    configs = {way: ours(size, folder, [*keys, f"image.reading={reading}"]) for way, reading in READINGS.items()}
    floor = min(of_a_sample(config) for config in configs.values())
    for way, config in configs.items():
        bare, figures = beside_reference(size, config, reference(size, folder, keys), floor)
        figures |= through_the_trainer(size, config, bare, way, figures, floor)
        found |= {f"{way}: {name}": value for name, value in figures.items()}
        del bare
        free()
    return found


def loop_of(config: Config, size: int, figures: dict[str, Figure | float], name: str) -> BareLoop:
    """A warm bare loop. Adds its peak memory to the figures and, where the UNet is compiled, the seconds that this took."""
    with peak_memory() as peak:
        model = built(config)
        if config.denoiser.compile:
            model.denoiser.compile()
        loop = BareLoop(config, model, size)
        first, second = timed(loop.step), timed(loop.step)
    figures[f"{name}, memory"] = Figure("MiB", [peak.mib])
    if config.denoiser.compile:
        figures[f"{name}, compilation"] = Figure("s", [first - second])
    return loop


def beside_reference(size: str, config: Config, released: Config, floor: float) -> tuple[BareLoop, dict[str, Figure | float]]:
    """The bare loop of ours, and the figures of both: samples/s and memory."""
    figures: dict[str, Figure | float] = {}
    micro, at_once = micro_batch(config), SIZES[size].steps
    whole = loop_of(released, 8, figures, "reference, batch 8")
    single = BareLoop(released, whole.model, 1)  # the same networks take the same samples one at a time
    single.step()
    loops = {"reference, batch 1": single, "reference, batch 8": whole}
    bare = loop_of(config, micro, figures, f"bare loop, batch {micro}")
    loops[f"bare loop, batch {micro}"] = bare
    seconds = alternated({name: partial(loop.run, at_once) for name, loop in loops.items()}, SIZES[size].rounds)
    rates: dict[str, Figure] = {}
    for name, loop in loops.items():
        counted = of_a_sample(loop.config)
        rate = speed(seconds[name], at_once * loop.config.data.global_batch_size)
        rates[name] = shares(rate, counted, floor, loop.precision)
        rate.setting |= {"batch": len(loop.batches[0]), "a step": loop.config.data.global_batch_size}
    references = [rate for name, rate in rates.items() if name.startswith("reference")]
    ratio(rates[f"bare loop, batch {micro}"], *references)
    return bare, rates | figures


def free() -> None:
    """Give back what is no longer used."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
