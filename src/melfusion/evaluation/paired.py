"""Scores of clips with what they belong to: the item's picture, its caption, and the real clip of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from melfusion.evaluation.scoring import Ears, Heard
from melfusion.metrics.imsm import imsm, imsm_released
from melfusion.metrics.sets import CLAPScore, ImageMusicSimilarity, KLDivergence, Score

SEEN_AT_ONCE = 32  # pictures or captions


class Partners:
    """Pictures, captions and real clips of the items, each embedded once for all rows.

    Args:
        pictures: item number → (3, H, W) in [-1, 1].  captions: what metrics may read, `full_caption` where there is one.
        real: the heard real clips of the items.  pictured: which items have a picture; IMSM is of these.
    """

    def __init__(self, ears: Ears, real: Heard, captions: list[str], pictures: Callable[[int], Tensor], pictured: list[bool]):
        self.ears, self.real, self.captions, self.pictures, self.pictured = ears, real, captions, pictures, torch.tensor(pictured)
        self.number = {key: i for i, key in enumerate(real.keys)}
        self.embedded: dict[str, tuple[Tensor, ...]] = {}

    def score(self, heard: Heard) -> dict[str, dict[str, Any]]:
        """Name → {"mean", "interval", "n"} or {"why_not"}, of the scores whose networks are configured."""
        if not set(heard.keys) <= self.number.keys():
            return {}  # any folder of sounds: its clips belong to no item
        items = torch.tensor([self.number[key] for key in heard.keys], dtype=torch.long)
        return {name: found for name, score in SCORES.items() if (found := score(self, heard, items)) is not None}

    def texts(self, name: str, network: Any) -> Tensor:
        """(N, D) of all captions."""
        return self._once(f"text {name}", self.captions, network)

    def seen(self, name: str, network: Any) -> Tensor:
        """(N, D) of all pictures."""

        def look(items: range) -> Tensor:
            return network(torch.stack([self.pictures(i) for i in items]))

        return self._once(f"image {name}", range(len(self.captions)), look)

    @torch.no_grad()
    def _once(self, name: str, items: Any, network: Callable[[Any], Tensor]) -> Tensor:
        if name not in self.embedded:
            parts = [items[i : i + SEEN_AT_ONCE] for i in range(0, len(items), SEEN_AT_ONCE)]
            self.embedded[name] = torch.cat([network(part).cpu() for part in parts])
        return self.embedded[name]


def _imsm(reduction: Any, sides: tuple[Tensor, ...], items: Tensor, audio: Tensor, pictured: Tensor) -> dict[str, Any]:
    seen = pictured[items]
    if not seen.any():
        return {"why_not": "no item has a picture."}
    metric = ImageMusicSimilarity(reduction)
    metric.update(*(side[items][seen] for side in sides), audio[seen])
    return metric.result()


def _scenes(released: bool) -> Callable[..., dict[str, Any] | None]:
    """IMSM of the scenes' own towers at their own temperatures, never to be compared with the paper's."""

    def score(partners: Partners, heard: Heard, items: Tensor) -> dict[str, Any] | None:
        towers = partners.ears.towers
        if towers is None:
            return None
        learned = towers.temperatures()
        of = imsm_released if released else lambda *sets: imsm(*sets, (learned["image"], learned["audio"]))
        sides = (
            partners.seen("towers", towers.image),
            partners.texts("image tower", towers.text_of_image),
            partners.texts("audio tower", towers.text_of_audio),
        )
        return _imsm(of, sides, items, heard.towers["audio"], partners.pictured)

    return score


def _papers(reduction: Any) -> Callable[..., dict[str, Any] | None]:
    """IMSM by CLIP and CLAP."""

    def score(partners: Partners, heard: Heard, items: Tensor) -> dict[str, Any] | None:
        clip, clap = partners.ears.clip, partners.ears.named("clap")
        if clip is None or clap is None:
            return None
        sides = (
            partners.seen("clip", lambda x: clip(x.to(_device(clip)))),
            partners.texts("clip", clip.text),
            partners.texts("clap", clap.network.text),
        )
        return _imsm(reduction, sides, items, _clap_audio(heard), partners.pictured)

    return score


def _clap_score(partners: Partners, heard: Heard, items: Tensor) -> dict[str, Any] | None:
    if (clap := partners.ears.named("clap")) is None:
        return None
    return _mean(CLAPScore(), _clap_audio(heard), partners.texts("clap", clap.network.text)[items])


def _kl(partners: Partners, heard: Heard, items: Tensor) -> dict[str, Any] | None:
    """Against the real clip of the same item; of real clips against themselves it is 0 and says nothing."""
    panns = partners.ears.named("panns")
    if panns is None or heard is partners.real:
        return None
    sides = (partners.real.embeddings["panns"][items], heard.embeddings["panns"])
    logits = [panns.network.logits(side.to(_device(panns))) for side in sides]
    return _mean(KLDivergence(), *logits)


def _mean(metric: Score, *sides: Tensor) -> dict[str, Any]:
    metric.update(*(side.cpu() for side in sides))
    return metric.result()


def _clap_audio(heard: Heard) -> Tensor:
    """(N, D): the direction of a clip's pieces together."""
    return normalize(heard.embeddings["clap"].double().mean(1), dim=-1)


def _device(network: torch.nn.Module) -> torch.device:
    return next(network.parameters()).device


SCORES: dict[str, Callable[[Partners, Heard, Tensor], dict[str, Any] | None]] = {
    "kl": _kl,
    "clap_score": _clap_score,
    "imsm": _papers(imsm),
    "imsm_released": _papers(imsm_released),
    "imsm_scenes": _scenes(False),
    "imsm_scenes_released": _scenes(True),
}
