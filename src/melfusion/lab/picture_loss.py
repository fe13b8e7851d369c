"""What the right picture is worth to a trained model on real tuples: the loss with another picture minus that with its own.

Each clip has the same noise and the same times under every picture. Means are of tracks, and of games.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track as progress
from torch import Tensor

from melfusion.assembly.parts import noise_shapes
from melfusion.assembly.schema import Config
from melfusion.batch import Conditioning, MusicBatch
from melfusion.data.collate import collate
from melfusion.data.datamodule import MusicDataModule
from melfusion.data.dataset import MusicDataset
from melfusion.errors import DataError
from melfusion.evaluation.sets import metas_of
from melfusion.files import write_json, write_whole
from melfusion.metrics.intervals import mean_interval
from melfusion.models.system import MeLFusion
from melfusion.training.precompute import ensure_precomputed

TIMES = 4  # of each clip, from as many strata

Labels = Sequence[dict[str, Any]]


def others(labels: Labels, seed: int) -> dict[str, list[int | None]]:
    """For each clip the clip whose picture it is given: of another game, and of another track and picture of its own game.

    None where there is no such clip.
    """
    rng, n = np.random.default_rng(seed), len(labels)
    game, track, image = (np.asarray([str(one.get(name)) for one in labels]) for name in ("game", "track", "image_id"))
    own = game[:, None] == game[None]
    fit = {"another game's": ~own, "its game's": own & (track[:, None] != track[None]) & (image[:, None] != image[None])}
    return {
        name: [int(rng.choice(found)) if len(found := np.flatnonzero(who[i])) else None for i in range(n)]
        for name, who in fit.items()
    }


@torch.no_grad()
def losses(system: MeLFusion, dataset: MusicDataset, pairs: dict[str, list[int | None]], size: int) -> dict[str, np.ndarray]:
    """Name of the picture → (N,) mean loss; "right" is its own, "none" is without one. NaN where a clip has no other."""
    n, found = len(dataset), {name: np.full(len(dataset), np.nan) for name in ("right", *pairs, "none")}
    for start in progress(range(0, n, size), description="losses"):
        some = list(range(start, min(start + size, n)))
        batch = collate([dataset[i] for i in some]).to(system.device)
        still = {name: draw for name, draw in batch.draws.items() if name != "vae_noise"}
        latents, right = system.encode_music(dataclasses.replace(batch, draws=still)), system.condition(batch)
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


def picture_loss(config: Config, system: MeLFusion, split: str, n: int) -> dict[str, Any]:
    """The differences to the right picture, over tracks and over games; of held-out games apart."""
    data = dataclasses.replace(config.data, crop="start")
    provenance = None
    if config.data.precompute.enabled:
        folder, provenance = ensure_precomputed(config, system)
        data = dataclasses.replace(data, path=str(folder))
    module = MusicDataModule(data, config.audio, config.seed, noise_shapes=noise_shapes(config, system), provenance=provenance)
    dataset = module.dataset(split).spread(n)
    labels = [meta["labels"] for meta in metas_of(dataset)]
    if len({str(one.get("game")) for one in labels}) < 2:
        raise DataError(f"{config.data.path}: the clips for {split} are of one game, so no other game's picture can be shown.")
    found = losses(system, dataset, others(labels, config.seed), config.evaluation.batch_size)
    held = np.asarray([bool(one.get("held_out")) for one in labels])
    groups = {"all": np.ones(len(labels), bool)} | ({"games learned from": ~held, "held-out games": held} if held.any() else {})
    rows = {
        f"{name} picture, {group}" if len(groups) > 1 else f"{name} picture": told(values - found["right"], keep, labels)
        for name, values in found.items()
        if name != "right"
        for group, keep in groups.items()
        if keep.any()
    }
    about = {"split": split, "n": len(labels), "seed": config.seed, "times": TIMES, "loss": float(found["right"].mean())}
    return {"rows": rows, "about": about}


def told(differences: np.ndarray, keep: np.ndarray, labels: Labels) -> dict[str, Any]:
    """Mean and half width over tracks and over games, each of which counts once."""
    keep = keep & ~np.isnan(differences)
    told: dict[str, Any] = {"clips": int(keep.sum())}
    for name in ("track", "game"):
        of = np.asarray([str(one.get(name)) for one in labels])[keep]
        means = [float(differences[keep][of == one].mean()) for one in np.unique(of)]
        if means:
            mean, half = mean_interval(means)
            told[f"{name}s"] = {"n": len(means), "mean": mean, "interval": half}
    return told


def table(found: dict[str, Any]) -> str:
    """The differences as a table of Markdown, in thousandths."""
    lines = ["| loss minus that with the right picture, × 1000 | clips | over tracks | over games |", "|---|---|---|---|"]
    for name, row in found["rows"].items():
        cells = [
            f"{1000 * one['mean']:.2f} ± {1000 * one['interval']:.2f} ({one['n']})"
            for key in ("tracks", "games")
            if (one := row.get(key))
        ]
        lines.append(f"| {name} | {row['clips']} | {' | '.join(cells) or '- | -'} |")
    return "\n".join(lines)


def write(found: dict[str, Any], folder: Path) -> None:
    """picture_loss.json and picture_loss.md."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "picture_loss.json", found)
    write_whole(folder / "picture_loss.md", f"{table(found)}\n")
