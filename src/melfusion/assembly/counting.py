"""A configuration counted on the meta device, where networks have sizes and no weights: parameters, and FLOPs of each stage."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from melfusion.assembly.parts import PARTS, noise_shapes
from melfusion.assembly.schema import Config
from melfusion.assembly.tracing import GPUKernels, LiveBytes, Zeros
from melfusion.batch import MusicBatch, join, present
from melfusion.media.mel import AudioGeometry
from melfusion.models.diffusion.guidance import guidance_weights
from melfusion.models.system import MeLFusion

META = torch.device("meta")

R = TypeVar("R")

# Stages by their names in the table that `melfusion memory` prints
CAPTION, PICTURE, LOOK, ENCODE = "caption", "picture, once", "picture, at a timestep", "sound to latents"
DENOISE, LEARN, SAMPLE = "denoiser", "denoiser, forward and backward", "a step of the sampler"
DECODE, VOCODE = "latents to what is vocoded", "vocoder"


def on_meta(config: Config) -> Any:
    """The module of `config.task` without bytes, of the sizes that its weights have. Weights on the hub are not fetched."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that copying weights there does nothing
        with META:
            module = PARTS[config.task].build(config)
        return module.to(META)


def parameters(module: nn.Module, trained: bool | None = None) -> int:
    """How many a module has; `trained`: those alone that train, or that do not."""
    return sum(p.numel() for p in module.parameters() if trained is None or p.requires_grad is trained)


def tensors(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers."""
    return [*module.parameters(), *module.buffers()]


def a_batch(config: Config, module: Any, n: int) -> MusicBatch:
    """n samples with sound, caption and picture, as a loader gives them, on the meta device."""

    def some(*shape: int) -> Tensor:
        return torch.empty(n, *shape, device=META)

    draws = {name: some(*shape) for name, shape in noise_shapes(config, module).items()}
    side, channels = config.data.image_size_px, config.audio.channels
    return MusicBatch(
        keys=[str(i) for i in range(n)],
        captions=["a tune"] * n,
        position=some().long(),
        has_image=some(),
        waveform=some(*([] if channels == 1 else [channels]), AudioGeometry(config.audio).num_samples),
        image=some(3, side, side),
        draws=draws | {"timestep": some(), "drop": some()},
        labels=[{}] * n,
    )


def repeated(batch: MusicBatch, n: int) -> MusicBatch:
    """A batch of n samples with tensors of the same shapes, on the meta device."""
    few = batch.map_tensors(lambda t: torch.empty(n, *t.shape[1:], dtype=t.dtype, device=META))
    return dataclasses.replace(few, keys=batch.keys[:1] * n, captions=batch.captions[:1] * n, labels=batch.labels[:1] * n)


def branches(config: Config) -> int:
    """Passes of the denoiser in a step of the sampler for a caption with a picture, by classifier-free guidance."""
    s = config.sampling
    scale = s.image_guidance_scale
    return len(guidance_weights(s.guidance_scale, s.guidance_scale if scale is None else scale))


def guided_pass(system: MeLFusion, batch: MusicBatch, n: int) -> Callable[[], Tensor]:
    """One step of the sampler without its arithmetic: all `n` branches of an encoded batch through the denoiser."""
    conditioning = system.condition(batch)
    joint = join([conditioning] * n)
    latents = torch.empty(len(joint), *system.latent_shape(), device=META)
    timesteps = torch.empty(len(joint), dtype=torch.long, device=META)
    return lambda: system.denoise(latents, timesteps, joint)


@dataclasses.dataclass(frozen=True)
class StageWork:
    """What a stage takes for a batch.

    Attributes:
        flops: floating-point operations, two per multiplication: of matrices, convolutions and attention alone.
        bytes: alive at once at most beside weights and inputs.
    """

    flops: int
    bytes: int


def measured(system: MeLFusion, work: Callable[[], R]) -> tuple[R, StageWork]:
    """Run without gradients, with the kernels of a GPU; returns what comes out and what it took."""
    live = LiveBytes().hold(tensors(system))
    before = live.now
    with Zeros(), FlopCounterMode(display=False) as flops, live, GPUKernels(), torch.no_grad():
        out = work()
    return out, StageWork(flops.get_total_flops(), live.peak - before)


def count(config: Config, system: MeLFusion) -> tuple[dict[str, StageWork], MusicBatch]:
    """Stage → its work for one sample; and that sample as precomputed shards give it."""
    raw = a_batch(config, system, 1)
    found: dict[str, StageWork] = {}
    if system.conditioner.looks_at_values:  # which are not there: its work is left out
        prompt = system.conditioner.shapes(1).to(META)
    else:
        prompt, found[CAPTION] = measured(system, lambda: system.conditioner(raw.captions, raw.labels))
    ready = dataclasses.replace(raw, text_embeds=prompt.text_embeds, text_mask=prompt.text_mask, extra=prompt.extra)
    if (encoder := system.image_encoder) is not None:
        kept, found[PICTURE] = measured(system, lambda: encoder.encode(present(raw.image)))
        ready = dataclasses.replace(ready, image=None, image_latents=kept)
    moments, found[ENCODE] = measured(system, lambda: system.codec.encode_moments(present(raw.waveform)))
    ready = dataclasses.replace(ready, image=None, waveform=None, latent_moments=moments)
    conditioning, timesteps = system.condition(ready), torch.empty(1, dtype=torch.long, device=META)
    if conditioning.image_latents is not None:
        features, found[LOOK] = measured(system, lambda: system.look(conditioning, timesteps))
        conditioning = dataclasses.replace(conditioning, visual_features=features, image_latents=None)
        if encoder is not None and encoder.reads_once and features is not None:
            features = system.denoiser.prepare(features, prompt.text_embeds.shape[1])
            ready = dataclasses.replace(ready, image_latents=None, visual_features=features)
    latents = torch.empty(1, *system.latent_shape(), device=META)
    found[DENOISE] = measured(system, lambda: system.denoise(latents, timesteps, conditioning))[1]
    with Zeros(), FlopCounterMode(display=False) as flops:
        system.denoise(latents, timesteps, conditioning).sum().backward()
    system.zero_grad(set_to_none=True)
    found[LEARN] = StageWork(flops.get_total_flops(), 0)
    found[SAMPLE] = measured(system, guided_pass(system, ready, branches(config)))[1]
    decoded, found[DECODE] = measured(system, lambda: system.codec.decode(latents))
    found[VOCODE] = measured(system, lambda: system.codec.vocode(decoded))[1]
    return found, ready


def clip_flops(config: Config, system: MeLFusion, stages: dict[str, StageWork], read_by_branch: bool = False) -> int:
    """Of one generated clip with caption and picture.

    Args:
        read_by_branch: the picture is read for each branch of guidance, as the released code does; else once for all of them.
    """
    steps, encoder = config.sampling.num_inference_steps, system.image_encoder
    looks = 1 if encoder is not None and encoder.reads_once else steps * (branches(config) if read_by_branch else 1)
    often = {CAPTION: 2, PICTURE: 1, LOOK: looks, DENOISE: steps * branches(config), DECODE: 1, VOCODE: 1}  # ∅ is a caption, too
    return total(stages, often)


def sample_flops(config: Config, system: MeLFusion, stages: dict[str, StageWork]) -> int:
    """Of one sample in a training step, forward and backward, with what is precomputed left out."""
    encoder, stored = system.image_encoder, config.data.precompute.enabled
    live = 0 if stored else 1
    cached = stored and encoder is not None and encoder.reads_once
    return total(stages, {CAPTION: live, PICTURE: live, ENCODE: live, LOOK: 0 if cached else 1, LEARN: 1})


def total(stages: dict[str, StageWork], often: dict[str, int]) -> int:
    """FLOPs of the stages that there are, each so many times."""
    return sum(times * stages[stage].flops for stage, times in often.items() if stage in stages)
