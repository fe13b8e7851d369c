"""Where a picture acts on the music: how much the model's prediction changes when a patch of the picture is hidden.

This is occlusion (Zeiler & Fergus 2014, arXiv 1311.2901, §4.2) of what the denoiser predicts. It asks nothing of the synapse, the
backbone or the picture encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from melfusion.assembly.pipeline import Pipeline
from melfusion.assembly.sound_fields import with_latents
from melfusion.batch import Conditioning
from melfusion.errors import ConfigError
from melfusion.models.placement import Placement


@torch.no_grad()
def picture_influence(
    pipe: Pipeline,
    prompt: str,
    image: Any,
    seed: int = 0,
    patches: int = 8,
    levels: int = 3,
    at_once: int = 16,
    duration_s: float | None = None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
    **fields: Any,
) -> np.ndarray:
    """(patches, patches) ≥ 0: the RMS change of the prediction when that patch has the picture's mean colour, over noise levels.

    Args:
        image: as the pipeline takes it.
        levels: noise levels, those of a sampler of so many steps; its latents are what the denoiser is given.
        at_once: pictures of a batch.
        fields: what else the model takes of a request.
    Raises ConfigError where the model takes no picture.
    """
    system, place = pipe.system, pipe.placement or Placement()
    pixels = pipe.pixels(image)
    if pixels is None:
        raise ConfigError("There is no picture, so it acted nowhere: give one.")
    requests = system.conditioner.requests([with_latents(pipe.fields(**fields), pipe.config, system, pipe.placement)], duration_s)
    with place.needed(system.conditioner):
        said = system.encode_captions([prompt], None, requests)

    def shown(pictures: Tensor) -> Conditioning:
        with place.needed(system.image_encoder):
            many = system.encode_captions([prompt] * len(pictures), None, requests * len(pictures)) if len(pictures) > 1 else said
            return system.read_once(system.see(many, pictures, [seed] * len(pictures)))

    with place.needed(system.conditioner, system.image_encoder, system.denoiser):
        states = visited(pipe, shown(pixels), seed, levels, duration_s)
        hidden, found = masked(pixels, patches), []
        starts = range(0, len(hidden), at_once)
        for start in progress(starts):
            some = hidden[start : start + at_once]
            conditioning = shown(some)
            found.append(torch.stack([change(pipe, conditioning, *state) for state in states]).mean(0))
    return torch.cat(found).reshape(patches, patches).float().cpu().numpy()


def visited(pipe: Pipeline, whole: Conditioning, seed: int, levels: int, duration_s: float | None) -> Sequence[tuple[Tensor, ...]]:
    """(latents, time, prediction with the whole picture) of each step of a short sampling."""
    system, states = pipe.system, []
    noise = system.draw("noise", [seed], system.latent_shape(duration_s)).to(whole.has_image.device)

    def denoise(latents: Tensor, times: Tensor) -> Tensor:
        output = system.denoise(latents, times.expand(len(latents)), whole)
        states.append((latents, times, output))
        return output

    system.objective.sample(denoise, noise, levels, iter, [seed])
    return states


def change(pipe: Pipeline, conditioning: Conditioning, latents: Tensor, times: Tensor, whole: Tensor) -> Tensor:
    """(B,) RMS differences between the predictions with B other pictures and that with the whole one."""
    n = len(conditioning)
    output = pipe.system.denoise(latents.expand(n, *latents.shape[1:]), times.expand(n), conditioning)
    return (output - whole).flatten(1).square().mean(1).sqrt()


def masked(pixels: Tensor, patches: int) -> Tensor:
    """One picture (1, 3, H, W) → (patches², 3, H, W), each with another patch in the picture's mean colour; rows first."""
    many = pixels.repeat(patches**2, 1, 1, 1)
    colour = pixels.mean((2, 3), keepdim=True)[0]
    rows, columns = (edges(size, patches) for size in pixels.shape[2:])
    for i in range(patches):
        for j in range(patches):
            many[i * patches + j, :, rows[i] : rows[i + 1], columns[j] : columns[j + 1]] = colour
    return many


def edges(size: int, patches: int) -> list[int]:
    """Where the patches begin and end, in pixels; ConfigError where there are more patches than pixels."""
    if not 0 < patches <= size:
        raise ConfigError(f"patches={patches} must be from 1 to {size}, the pixels of a side that the model sees.")
    return [round(i * size / patches) for i in range(patches + 1)]
