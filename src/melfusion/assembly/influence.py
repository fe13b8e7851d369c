"""Where a picture acts on the music, in one of two ways.

- occlusion (Zeiler & Fergus 2014, arXiv 1311.2901, §4.2): how much the denoiser's prediction changes when a patch of the picture
  is hidden. It asks nothing of the synapse, the backbone or the picture encoder.
- attention: the share of the attention that each of the picture's tokens gets, laid over the places that the tokens are of. It is
  there for the synapses that keep tokens of the picture, and costs few passes. What is attended to is not always what acts:
  docs/app.md has measured both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from melfusion.assembly.pipeline import Pipeline
from melfusion.assembly.sound_fields import with_latents
from melfusion.batch import Conditioning
from melfusion.errors import ConfigError
from melfusion.models.placement import Placement
from melfusion.models.synapse.matching import most_square

METHODS = {"occlusion": "change of the prediction, relative", "attention": "attention, relative"}  # method → what its map shows

Progress = Callable[[Iterable[Any]], Iterable[Any]]
State = tuple[Tensor, Tensor, Tensor]  # latents, time, prediction with the whole picture


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
    method: str = "occlusion",
    progress: Progress = iter,
    **fields: Any,
) -> np.ndarray:
    """(patches, patches) ≥ 0: the RMS change of the prediction when that patch has the picture's mean colour, or the share of
    attention that it gets; a mean over noise levels.

    Args:
        image: as the pipeline takes it.
        levels: noise levels, those of a sampler of so many steps; its latents are what the denoiser is given.
        at_once: pictures of a batch.
        method: occlusion or attention.
        fields: what else the model takes of a request.
    Raises ConfigError where the model takes no picture, or has no such method.
    """
    system, place = pipe.system, pipe.placement or Placement()
    check_method(pipe, method)
    pixels = pipe.pixels(image)
    if pixels is None:
        raise ConfigError("There is no picture, so it acted nowhere: give one.")
    hidden = masked(pixels, patches)
    shown = Shown(pipe, prompt, seed, duration_s, fields)
    with place.needed(system.conditioner, system.image_encoder, system.denoiser):
        whole = shown(pixels)
        states = visited(pipe, whole, seed, levels, duration_s)
        if method == "attention":
            heat = attended(pipe, whole, states, patches, progress)
        else:
            heat = torch.cat([changes(pipe, shown(some), states) for some in progress(hidden.split(at_once))])
    return heat.reshape(patches, patches).float().cpu().numpy()


def check_method(pipe: Pipeline, method: str) -> None:
    """ConfigError where there is no such method, or the synapse has no tokens for it."""
    if method not in METHODS:
        raise ConfigError(f"method={method} is neither {' nor '.join(METHODS)}.")
    if method == "attention" and not pipe.system.denoiser.keeps_tokens:
        raise ConfigError(f"synapse.kind={pipe.config.synapse.kind} keeps no tokens of the picture here: give method=occlusion.")


class Shown:
    """One request, conditioned with any pictures, where its parts are placed."""

    def __init__(self, pipe: Pipeline, prompt: str, seed: int, duration_s: float | None, fields: dict[str, Any]):
        self.system, self.prompt, self.seed = pipe.system, prompt, seed
        given = with_latents(pipe.fields(**fields), pipe.config, pipe.system, pipe.placement)
        self.requests = self.system.conditioner.requests([given], duration_s)

    def __call__(self, pictures: Tensor) -> Conditioning:
        """Pictures (B, 3, H, W) → the request with each of them."""
        n = len(pictures)
        said = self.system.encode_captions([self.prompt] * n, None, self.requests * n)
        return self.system.read_once(self.system.see(said, pictures, [self.seed] * n))


def visited(pipe: Pipeline, whole: Conditioning, seed: int, levels: int, duration_s: float | None) -> Sequence[State]:
    """(latents, time, prediction with the whole picture) of each step of a short sampling."""
    system, states = pipe.system, []
    noise = system.draw("noise", [seed], system.latent_shape(duration_s)).to(whole.has_image.device)

    def denoise(latents: Tensor, times: Tensor) -> Tensor:
        output = system.denoise(latents, times.expand(len(latents)), whole)
        states.append((latents, times, output))
        return output

    system.objective.sample(denoise, noise, levels, iter, [seed])
    return states


def changes(pipe: Pipeline, conditioning: Conditioning, states: Sequence[State]) -> Tensor:
    """(B,) RMS differences between the predictions with B other pictures and that with the whole one, a mean over the states."""
    n, found = len(conditioning), []
    for latents, times, whole in states:
        output = pipe.system.denoise(latents.expand(n, *latents.shape[1:]), times.expand(n), conditioning)
        found.append((output - whole).flatten(1).square().mean(1).sqrt())
    return torch.stack(found).mean(0)


def attended(pipe: Pipeline, whole: Conditioning, states: Sequence[State], patches: int, progress: Progress) -> Tensor:
    """(patches, patches) the share of attention that each patch gets, a mean over layers, heads, queries and the states."""
    system, found = pipe.system, []
    for latents, times, _ in progress(states):
        with system.denoiser.measuring_attention() as shares:
            system.denoise(latents, times.expand(1), whole)
        features = system.look(whole, times.expand(1))
        assert features is not None
        found += [on_patches(share[0], patches) for share in system.denoiser.over_picture(shares, features).values()]
    return torch.stack(found).mean(0)


def on_patches(share: Tensor, patches: int) -> Tensor:
    """(N,) of tokens, the picture's rows first → (patches, patches) with the same sum."""
    grid = share.reshape(1, 1, most_square(len(share)), -1)
    heat = F.interpolate(grid, (patches, patches), mode="area")[0, 0]
    return heat * (share.sum() / heat.sum().clamp(min=1e-30))


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
