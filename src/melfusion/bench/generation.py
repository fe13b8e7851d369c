"""Generation: one clip and several at once, split by stage, beside a clip as the released code makes it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from torch import Tensor

from melfusion.assembly.schema import Config
from melfusion.bench.counted import of_a_clip
from melfusion.bench.machine import ratio, shares
from melfusion.bench.options import SIZES
from melfusion.bench.setting import built, ours, picture, reference, reference_clip
from melfusion.bench.timing import Figure, alternated, peak_memory, speed, timed
from melfusion.models.system import MeLFusion
from melfusion.training.plan import wait_for_device
from melfusion.training.precision import autocast, resolve_precision


class Clips:
    """Clips of one caption and one picture, by `generate` and `vocode`, and the seconds of their stages.

    Text is timed in a call of its own. What else comes before the first step is the reading of the picture. Where the configuration
    says denoiser.compile, the first call compiles.
    """

    STAGES = ("text", "picture", "denoising", "decode", "vocode")

    def __init__(self, config: Config, model: MeLFusion, n: int, caption: str, image: Tensor):
        self.config, self.model, self.n, self.caption, self.image = config, model.eval(), n, caption, image
        if config.denoiser.compile:
            model.denoiser.compile()
        self.precision = resolve_precision(config.trainer)
        self.seconds: dict[str, list[float]] = {stage: [] for stage in self.STAGES}
        self.marks: list[float] = []

    def __call__(self) -> Tensor:
        """Make them; returns the waveforms (n, S)."""
        s = self.config.sampling
        with autocast(self.precision, self.model.device.type):
            text = timed(lambda: self.model.conditioner([self.caption] * self.n))
            self.marks = []
            self._mark()
            decoded = self.model.generate(
                [self.caption] * self.n,
                self.image,
                num_inference_steps=s.num_inference_steps,
                guidance_scale=s.guidance_scale,
                image_guidance_scale=s.image_guidance_scale,
                progress=self._denoising,
            )
            self._mark()
            waveforms = self.model.vocode(decoded)
            self._mark()
        begun, read, denoised, decode, vocoded = self.marks
        stages = (text, max(0.0, read - begun - text), denoised - read, decode - denoised, vocoded - decode)
        for stage, seconds in zip(self.STAGES, stages, strict=True):
            self.seconds[stage].append(seconds)
        return waveforms

    def _mark(self) -> None:
        wait_for_device()
        self.marks.append(time.perf_counter())

    def _denoising(self, steps: Iterable[Any]) -> Iterator[Any]:
        self._mark()
        yield from steps
        self._mark()

    def total(self) -> list[float]:
        """Seconds of each call."""
        return [sum(parts) for parts in zip(*self.seconds.values(), strict=True)]


def measure(size: str, folder: Path, keys: Sequence[str] = ()) -> dict[str, Figure | float]:
    released = reference(size, folder, keys)
    then = built(released).eval()
    caption, image = picture(released)
    image = image.to(then.device)
    found: dict[str, Figure | float] = {}
    works: dict[str, Any] = {}
    for name, reading, n in (
        ("one clip", "fixed", 1),
        ("one clip, inverted", "inverted", 1),
        ("at once", "fixed", SIZES[size].clips),
    ):
        config = ours(size, folder, [*keys, f"image.reading={reading}"])
        with peak_memory() as peak:
            works[name] = Clips(config, built(config), n, caption, image)
            works[name]()
        found[f"{name}, memory"] = Figure("MiB", [peak.mib])
    spent = alternated({"reference": lambda: reference_clip(then, released, caption, image)} | works, SIZES[size].clip_rounds)
    flops = {name: of_a_clip(clips.config) for name, clips in works.items()}
    floor, precision = flops["one clip"], resolve_precision(released.trainer)
    base = shares(speed(spent["reference"], 1, "clips/s"), of_a_clip(released, read_by_branch=True), floor, precision)
    base.setting |= {"steps": released.sampling.num_inference_steps, "clips": 1}
    rates: dict[str, Figure | float] = {"reference": base}
    for name, clips in works.items():
        rates |= of_clips(name, clips, base, flops[name], floor)
    return rates | found


def of_clips(name: str, clips: Clips, base: Figure, flops: float, floor: float) -> dict[str, Figure | float]:
    """Rate and seconds of each stage of some clips; the first call was to warm up, and compiled where that is asked for."""
    rate = shares(speed(clips.total()[1:], clips.n, "clips/s"), flops, floor, clips.precision)
    rate.setting |= {"steps": clips.config.sampling.num_inference_steps, "clips": clips.n}
    stages = {f"{name}: {stage}": Figure("ms", [1000 * s for s in seconds[1:]]) for stage, seconds in clips.seconds.items()}
    if clips.config.denoiser.compile:
        stages[f"{name}, compilation"] = Figure("s", [clips.total()[0] - median(clips.total()[1:])])
    return {name: ratio(rate, base), f"{name}: all": Figure("ms", [1000 * s for s in clips.total()[1:]]), **stages}
