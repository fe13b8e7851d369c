"""The loss of a trained model with one picture and another: each clip has the same noise and the same times under each of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from rich.progress import track as progress
from torch import Tensor

from melfusion.batch import Conditioning, MusicBatch
from melfusion.data.collate import collate
from melfusion.data.dataset import MusicDataset
from melfusion.models.system import MeLFusion

TIMES = 4  # of each clip, from as many strata


@torch.no_grad()
def losses(
    system: MeLFusion, dataset: MusicDataset, pairs: dict[str, list[int | None]], size: int, words: bool = True
) -> dict[str, np.ndarray]:
    """Name of the picture → (N,) mean loss; "right" is its own, "none" is without one. NaN where a clip has no other.

    Args:
        pairs: name → the clip whose picture each clip is shown.
        words: False: all have the empty caption.
    """
    n, found = len(dataset), {name: np.full(len(dataset), np.nan) for name in ("right", *pairs, "none")}
    for start in progress(range(0, n, size), description="losses"):
        some = list(range(start, min(start + size, n)))
        batch = collate([dataset[i] for i in some]).to(system.device)
        still = {name: draw for name, draw in batch.draws.items() if name != "vae_noise"}
        latents, right = system.encode_music(dataclasses.replace(batch, draws=still)), system.condition(batch)
        right = right if words else system.null(right)
        shown: dict[str, Conditioning] = {"right": right, "none": right.without_image()}
        for name, other in pairs.items():
            shown[name] = system.show(right, _pictures(system, dataset, [i if other[i] is None else other[i] for i in some]))
        for name, conditioning in shown.items():
            found[name][some] = _loss(system, latents, conditioning, some, n)
    for name, other in pairs.items():
        found[name][[one is None for one in other]] = np.nan
    return found


def _pictures(system: MeLFusion, dataset: MusicDataset, places: Sequence[int | None]) -> MusicBatch:
    return collate([dataset[place or 0] for place in places]).to(system.device)


def _loss(system: MeLFusion, latents: Tensor, conditioning: Conditioning, some: list[int], n: int) -> np.ndarray:
    """Mean over TIMES; the noise is of the clip and the time alone."""
    total = torch.zeros(len(some), device=latents.device)
    for k in range(TIMES):
        at = torch.tensor([i * TIMES + k for i in some], device=latents.device)
        noise = system.draw("noise", at.tolist(), tuple(latents.shape[1:])).to(latents)
        total += system.losses(latents, conditioning, system.objective.stratified(at, n * TIMES), noise)
    return (total / TIMES).double().cpu().numpy()
