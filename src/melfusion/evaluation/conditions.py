"""What a system is conditioned on for each item of an evaluation set: which picture, and which caption."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.cbook
import numpy as np
import torch
from torch import Tensor

from melfusion.assembly.schema import Config
from melfusion.batch import MusicBatch
from melfusion.data import order
from melfusion.data.collate import collate
from melfusion.data.dataset import MusicDataset
from melfusion.errors import ConfigError, DataError
from melfusion.evaluation.sets import metas_of
from melfusion.media.file_kinds import read_picture


@dataclass(frozen=True)
class Condition:
    """What a system is conditioned on for each item of a split. The noise of an item is the same under every condition."""

    picture: str = "right"  # key of PICTURES
    caption: str = "given"  # given | empty


CONDITIONS = {
    "right picture": Condition(),
    "shuffled picture": Condition("shuffled"),
    "no picture": Condition("none"),
    "outside picture": Condition("outside"),
    "picture alone": Condition("right", "empty"),
    "another game's picture": Condition("another game's"),
    "its game's picture": Condition("its game's"),
}


# Items and their batch → (pictures (B, 3, H, W), has_image (B,)); None for has_image: all have one
Show = Callable[[list[int], MusicBatch], tuple[Tensor | None, Tensor | None]]


def _none(config: Config, dataset: MusicDataset) -> Show:
    return lambda items, batch: (None, None)


def _right(config: Config, dataset: MusicDataset) -> Show:
    return lambda items, batch: (batch.image, batch.has_image)


def _shuffled(config: Config, dataset: MusicDataset) -> Show:
    return _those_of(dataset, order.permutation(config.seed, 0, len(dataset)).tolist())


def _of_a_game(name: str) -> Callable[[Config, MusicDataset], Show]:
    def show(config: Config, dataset: MusicDataset) -> Show:
        labels = [meta["labels"] for meta in metas_of(dataset)]
        chosen = others(labels, config.seed, by_track=True)[name]
        if all(one is None for one in chosen):
            raise DataError(f"{dataset.reader.shards.folder}: no clip can be shown {name} picture, by its labels game and track.")
        return _those_of(dataset, [i if one is None else one for i, one in enumerate(chosen)])

    return show


def _those_of(dataset: MusicDataset, places: Sequence[int]) -> Show:
    """Each item has the picture of the item at its place in `places`."""

    def show(items: list[int], batch: MusicBatch) -> tuple[Tensor | None, Tensor | None]:
        shown = collate([dataset[places[i]] for i in items]).to(batch.has_image.device)
        return shown.image, shown.has_image

    return show


def _outside(config: Config, dataset: MusicDataset) -> Show:
    d = config.data
    pixels = read_picture(
        "evaluation.outside_picture", outside_picture(config), d.image_size_px, d.max_image_pixels, d.max_image_work
    )
    picture = torch.from_numpy(pixels)
    return lambda items, batch: (picture.expand(len(items), -1, -1, -1).to(batch.has_image.device), None)


PICTURES: dict[str, Callable[[Config, MusicDataset], Show]] = {
    "none": _none,
    "right": _right,
    "shuffled": _shuffled,  # the set's pictures, permuted
    "outside": _outside,  # no scene at all
    "another game's": _of_a_game("another game's"),
    "its game's": _of_a_game("its game's"),  # of another track
}


def others(labels: Sequence[dict[str, Any]], seed: int, by_track: bool = False) -> dict[str, list[int | None]]:
    """For each clip the clip whose picture it is given: of another game, and of another track and picture of its own game.

    None where there is no such clip.

    Args:
        by_track: all clips of a track are given pictures of one other track. Then a track's clips differ among themselves as much
            as with their own pictures, which a distance of sets asks for. What is asked of each clip alone is surer without it.
    """
    rng, n = np.random.default_rng(seed), len(labels)
    game, track, image = (np.asarray([str(one.get(name)) for one in labels]) for name in ("game", "track", "image_id"))
    own = game[:, None] == game[None]
    fit = {"another game's": ~own, "its game's": own & (track[:, None] != track[None]) & (image[:, None] != image[None])}
    if not by_track:
        return {
            name: [int(rng.choice(found)) if len(found := np.flatnonzero(who[i])) else None for i in range(n)]
            for name, who in fit.items()
        }
    return {name: _by_track(who, track, rng) for name, who in fit.items()}


def _by_track(fit: np.ndarray, track: np.ndarray, rng: np.random.Generator) -> list[int | None]:
    """fit (N, N) bool: which clips may stand for a clip; track (N,)."""
    found: list[int | None] = [None] * len(track)
    for mine in (np.flatnonzero(track == one) for one in dict.fromkeys(track)):
        theirs = list(dict.fromkeys(track[fit[mine].any(0)]))
        chosen = track == rng.choice(theirs) if theirs else np.zeros(len(track), bool)
        for k, clip in enumerate(mine):
            shown = np.flatnonzero(chosen & fit[clip])
            found[clip] = int(shown[k % len(shown)]) if len(shown) else None
    return found


def outside_picture(config: Config) -> Path:
    """`evaluation.outside_picture`, or the portrait among matplotlib's own sample pictures."""
    given = config.evaluation.outside_picture
    path = Path(given or matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))
    if not path.is_file():
        raise ConfigError(f"evaluation.outside_picture={given!r} is no file: correct the path, or leave it out.")
    return path
