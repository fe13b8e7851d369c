"""Scores of clips with their own item: its picture, its caption and its real clip."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from melfusion.evaluation.scoring import Listeners, Predictions
from melfusion.metrics.imsm import imsm, imsm_released
from melfusion.metrics.sets import CLAPScore, ImageMusicSimilarity, KLDivergence, Score

AT_ONCE = 32  # pictures or captions of a batch


class Partners:
    """Pictures, captions and real clips of the items. Each is embedded once for all rows.

    Args:
        real: predictions of the real clips of the items.  captions: `full_caption` of each item, where there is one.
        pictures: item number → (3, H, W) in [-1, 1].  pictured: which items have a picture; IMSM is of these.
    """

    def __init__(
        self, listeners: Listeners, real: Predictions, captions: list[str], pictures: Callable[[int], Tensor], pictured: list[bool]
    ):
        self.listeners, self.real, self.captions, self.pictures = listeners, real, captions, pictures
        self.pictured = torch.tensor(pictured)
        self.number = {key: i for i, key in enumerate(real.keys)}
        self.embedded: dict[str, Tensor] = {}

    def score(self, row: Predictions) -> dict[str, dict[str, Any]]:
        """Name → {"mean", "interval", "n"} or {"why_not"}, of the scores whose networks are configured.

        Empty for clips that belong to no item.
        """
        if not set(row.keys) <= self.number.keys():
            return {}
        items = torch.tensor([self.number[key] for key in row.keys], dtype=torch.long)
        return {name: found for name, score in SCORES.items() if (found := score(self, row, items)) is not None}

    def texts(self, name: str, network: Any) -> Tensor:
        """(N, D): all captions by the network."""
        return self._once(f"text {name}", self.captions, network)

    def images(self, name: str, network: Any) -> Tensor:
        """(N, D): all pictures by the network."""
        return self._once(
            f"image {name}", range(len(self.captions)), lambda items: network(torch.stack([self.pictures(i) for i in items]))
        )

    @torch.no_grad()
    def _once(self, name: str, items: Any, network: Callable[[Any], Tensor]) -> Tensor:
        if name not in self.embedded:
            parts = [items[i : i + AT_ONCE] for i in range(0, len(items), AT_ONCE)]
            self.embedded[name] = torch.cat([network(part).cpu() for part in parts])
        return self.embedded[name]


def _imsm(
    reduction: Callable[..., float], sides: tuple[Tensor, Tensor, Tensor], items: Tensor, audio: Tensor, pictured: Tensor
) -> dict[str, Any]:
    """IMSM of the items with a picture. `sides`: embeddings (N, D) of pictures, and of captions in both spaces."""
    shown = pictured[items]
    if not shown.any():
        return {"why_not": "no item has a picture."}
    metric = ImageMusicSimilarity(reduction)
    image, text_of_image, text_of_audio = (side[items][shown] for side in sides)
    metric.update(image, text_of_image, text_of_audio, audio[shown])
    return metric.result()


def _scenes(released: bool) -> Callable[..., dict[str, Any] | None]:
    """IMSM by the scenes' own towers at their own temperatures. It must not be compared with the paper's."""

    def score(partners: Partners, row: Predictions, items: Tensor) -> dict[str, Any] | None:
        towers = partners.listeners.towers
        if towers is None:
            return None
        learned = towers.temperatures()
        own = functools.partial(imsm, temperatures=(learned["image"], learned["audio"]))
        sides = (
            partners.images("towers", towers.image),
            partners.texts("image tower", towers.text_of_image),
            partners.texts("audio tower", towers.text_of_audio),
        )
        return _imsm(imsm_released if released else own, sides, items, row.towers["audio"], partners.pictured)

    return score


def _papers(reduction: Any) -> Callable[..., dict[str, Any] | None]:
    """IMSM by CLIP and CLAP."""

    def score(partners: Partners, row: Predictions, items: Tensor) -> dict[str, Any] | None:
        clip, clap = partners.listeners.clip, partners.listeners.named("clap")
        if clip is None or clap is None:
            return None
        sides = (
            partners.images("clip", lambda x: clip(x.to(_device(clip)))),
            partners.texts("clip", clip.text),
            partners.texts("clap", clap.network.text),
        )
        return _imsm(reduction, sides, items, _clap_audio(row), partners.pictured)

    return score


def _clap_score(partners: Partners, row: Predictions, items: Tensor) -> dict[str, Any] | None:
    if (clap := partners.listeners.named("clap")) is None:
        return None
    return _mean(CLAPScore(), _clap_audio(row), partners.texts("clap", clap.network.text)[items])


def _kl(partners: Partners, row: Predictions, items: Tensor) -> dict[str, Any] | None:
    """KL of a row against the real clips of its items. Real clips have none: against themselves it is always 0."""
    panns = partners.listeners.named("panns")
    if panns is None or row is partners.real:
        return None
    sides = (partners.real.embeddings["panns"][items], row.embeddings["panns"])
    logits = [panns.network.logits(side.to(_device(panns))) for side in sides]
    return _mean(KLDivergence(), *logits)


def _mean(metric: Score, *sides: Tensor) -> dict[str, Any]:
    metric.update(*(side.cpu() for side in sides))
    return metric.result()


def _clap_audio(row: Predictions) -> Tensor:
    """(N, D): the direction of the sum of a clip's embeddings."""
    return normalize(row.embeddings["clap"].double().mean(1), dim=-1)


def _device(network: torch.nn.Module) -> torch.device:
    return next(network.parameters()).device


SCORES: dict[str, Callable[[Partners, Predictions, Tensor], dict[str, Any] | None]] = {
    "kl": _kl,
    "clap_score": _clap_score,
    "imsm": _papers(imsm),
    "imsm_released": _papers(imsm_released),
    "imsm_scenes": _scenes(False),
    "imsm_scenes_released": _scenes(True),
}
