"""Classifier-free guidance over text and picture."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance
from torch import Tensor

from melfusion.batch import Conditioning, join

# (branch → its output, branch → its weight) → the output that the sampler follows
Combine = Callable[[dict[str, Tensor], dict[str, float]], Tensor]


def guidance_weights(s_text: float, s_image: float) -> dict[str, float]:
    """Weights of the branches of ε = ε(∅,∅) + s_T·[ε(T,∅) - ε(∅,∅)] + s_I·[ε(T,I) - ε(T,∅)].

    Branches are "null" (∅,∅), "text" (T,∅), "full" (T,I); those of weight 0 are left out, so one scale is the
    paper's two passes and scale 1 is a single conditional pass.
    """
    weights = {"null": 1 - s_text, "text": s_text - s_image, "full": s_image}
    return {branch: weight for branch, weight in weights.items() if weight != 0}


def weighted(outputs: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """The branches by their weights."""
    total = torch.zeros_like(next(iter(outputs.values())))
    for branch, output in outputs.items():
        total = total + weights[branch] * output
    return total


class Projected:
    """Adaptive projected guidance (Sadat et al. 2024, arXiv 2410.02416) as ACE-Step uses it; one object for one way of sampling.

    What guidance adds to a branch is a difference to a poorer branch. Here each difference is averaged over the steps with a
    negative weight, cut to `longest` over time, and loses what is parallel to the branch. Where nothing of this is done, the sum
    is that of the weights.
    """

    def __init__(self, momentum: float = -0.75, longest: float = 2.5):
        self.momentum, self.longest = momentum, longest
        self.averages: dict[str, MomentumBuffer] = {}

    def __call__(self, outputs: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
        names = [name for name in ("full", "text", "null") if name in outputs]  # from rich to poor
        total, scale = outputs[names[0]], weights[names[0]]
        for rich, poor in zip(names[:-1], names[1:], strict=True):
            average = self.averages.setdefault(rich, MomentumBuffer(self.momentum))
            update = normalized_guidance(
                outputs[rich],
                outputs[poor],
                1.0,
                average,
                eta=0.0,
                norm_threshold=self.longest,
                use_original_formulation=True,
                norm_dim=(2,),  # over time
            )
            total = total + (scale - 1) * (update - outputs[rich])
            scale += weights[poor]
        return total


def guided(
    denoise: Callable[[Tensor, Tensor, Conditioning], Tensor],
    conditioning: Conditioning,
    null: Conditioning,
    s_text: float,
    s_image: float,
    combine: Combine = weighted,
) -> Callable[[Tensor, Tensor], Tensor]:
    """A denoise callable under classifier-free guidance; `null` holds ∅ (or negative) text. One batch for all branches.

    Where no sample has a picture "full" is "text", and where text and ∅ text are equal "text" is "null":
    equal branches run once.
    """
    branches = {"full": conditioning, "text": conditioning.without_image(), "null": null.without_image()}
    weights = guidance_weights(s_text, s_image)
    if not conditioning.has_image.any():
        fold(weights, "full", "text")
    other = null.said()
    if all(torch.equal(tensor, other[name]) for name, tensor in conditioning.said().items()):
        fold(weights, "text", "null")
    joint = join([branches[name] for name in weights])

    def guided_denoise(latents: Tensor, timestep: Tensor) -> Tensor:
        n = len(weights)
        outputs = denoise(torch.cat([latents] * n), timestep.expand(n * len(latents)), joint).chunk(n)
        if n == 1:
            return outputs[0]
        return combine(dict(zip(weights, outputs, strict=True)), weights)

    return guided_denoise


def fold(weights: dict[str, float], branch: str, into: str) -> None:
    """Add the weight of a branch to another that gives the same; a branch whose weights cancel is left out."""
    if branch in weights:
        total = weights.pop(branch) + weights.get(into, 0)
        weights.pop(into, None)
        if total != 0:
            weights[into] = total
