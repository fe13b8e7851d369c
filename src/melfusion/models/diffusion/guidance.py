"""Classifier-free guidance over text and picture."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from melfusion.batch import Conditioning, join


def guidance_weights(s_text: float, s_image: float) -> dict[str, float]:
    """Weights of the branches of ε = ε(∅,∅) + s_T·[ε(T,∅) - ε(∅,∅)] + s_I·[ε(T,I) - ε(T,∅)].

    Branches are "null" (∅,∅), "text" (T,∅), "full" (T,I); those of weight 0 are left out, so one scale is the
    paper's two passes and scale 1 is a single conditional pass.
    """
    weights = {"null": 1 - s_text, "text": s_text - s_image, "full": s_image}
    return {branch: weight for branch, weight in weights.items() if weight != 0}


def guided(
    denoise: Callable[[Tensor, Tensor, Conditioning], Tensor],
    conditioning: Conditioning,
    null: Conditioning,
    s_text: float,
    s_image: float,
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
        total = torch.zeros_like(outputs[0])
        for weight, output in zip(weights.values(), outputs, strict=True):
            total = total + weight * output
        return total

    return guided_denoise


def fold(weights: dict[str, float], branch: str, into: str) -> None:
    """Add the weight of a branch to another that gives the same; a branch whose weights cancel is left out."""
    if branch in weights:
        total = weights.pop(branch) + weights.get(into, 0)
        weights.pop(into, None)
        if total != 0:
            weights[into] = total
