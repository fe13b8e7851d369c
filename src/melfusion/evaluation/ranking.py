"""Which of several clips for the same request fits it best, by networks that listen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from melfusion.assembly.batches import ListClip
from melfusion.assembly.music import Music
from melfusion.assembly.pipeline import Pipeline
from melfusion.errors import ConfigError
from melfusion.evaluation.scoring import Listeners
from melfusion.media.sound import levelled, mono
from melfusion.metrics.imsm import TEMPERATURES, matrix


@dataclass(frozen=True)
class RankScore:
    """A way to score a clip.

    Attributes:
        of: (listeners, captions of the whole list, what the clip was asked for, pixels, waveform (1, S)) → the larger, the better.
        needs: listeners → why they cannot do it, or "".
        asks: what an item must have.
    """

    of: Callable[[Listeners, list[str], ListClip, Tensor | None, Tensor], float]
    needs: Callable[[Listeners], str]
    asks: tuple[str, ...]


class Ranking:
    """Scores clips by one of SCORES. ConfigError where its networks are not configured, or an item lacks what it asks for."""

    def __init__(self, name: str, pipe: Pipeline, listeners: Listeners, clips: list[ListClip]):
        if name not in SCORES:
            raise ConfigError(f"rank_by={name} is none of {', '.join(SCORES)}: give one of these.")
        self.name, self.score, self.pipe, self.listeners = name, SCORES[name], pipe, listeners
        if why := self.score.needs(listeners):
            raise ConfigError(f"rank_by={name} is not available for this model: {why}.")
        self.captions = list(dict.fromkeys(clip.prompt for clip in clips))
        if name.startswith("imsm") and len(self.captions) < 2:
            raise ConfigError(f"rank_by={name} compares captions, and all items of this list have the same: give rank_by=towers.")

    def lacking(self, clip: ListClip) -> str:
        """What the clip's item would have to have, or ""."""
        missing = [field for field in self.score.asks if not getattr(clip, field)]
        return f"rank_by={self.name} needs {missing[0]} in this item" if missing else ""

    @torch.no_grad()
    def __call__(self, clip: ListClip, music: Music, row: int) -> float:
        waveform = mono(torch.from_numpy(music.audios[row : row + 1]))
        waveform = levelled(waveform, self.listeners.audio).to(self.listeners.device)
        return self.score.of(self.listeners, self.captions, clip, self.pipe.pixels(clip.image), waveform)


def _judge(listeners: Listeners, captions: list[str], clip: ListClip, pixels: Tensor | None, waveform: Tensor) -> float:
    """The mean log-probability of the labels that the item names."""
    found: dict[str, float] = {}
    for judge in listeners.judges:
        for name, logits in judge(waveform).items():
            if (wanted := clip.labels.get(name)) in judge.attributes[name]:
                found.setdefault(name, logits.log_softmax(1)[0, judge.attributes[name].index(str(wanted))].item())
    if not found:
        raise ConfigError(f"rank_by=judge needs a label of {', '.join(listeners.attributes)} in this item")
    return sum(found.values()) / len(found)


def _towers(listeners: Listeners, captions: list[str], clip: ListClip, pixels: Tensor | None, waveform: Tensor) -> float:
    """The cosine of clip and caption."""
    towers: Any = listeners.towers
    return (towers.audio(waveform) * towers.text_of_audio([clip.prompt])).sum().item()


def _imsm_scenes(listeners: Listeners, captions: list[str], clip: ListClip, pixels: Tensor | None, waveform: Tensor) -> float:
    """The probability that picture and clip choose the same of the list's captions, by the towers."""
    towers: Any = listeners.towers
    learned = towers.temperatures()
    sides = (towers.image(pixels), towers.text_of_image(captions), towers.text_of_audio(captions), towers.audio(waveform))
    image, text_of_image, text_of_audio, audio = (side.cpu() for side in sides)
    return matrix(image, text_of_image, text_of_audio, audio, (learned["image"], learned["audio"])).item()


def _clap_audio(listeners: Listeners, waveform: Tensor) -> Tensor:
    clap: Any = listeners.named("clap")
    return normalize(clap(waveform, listeners.audio.sample_rate_hz).double().mean(1), dim=-1).cpu()


def _clap(listeners: Listeners, captions: list[str], clip: ListClip, pixels: Tensor | None, waveform: Tensor) -> float:
    """The cosine of clip and caption."""
    clap: Any = listeners.named("clap")
    text = normalize(clap.network.text([clip.prompt]).double(), dim=-1).cpu()
    return (_clap_audio(listeners, waveform) * text).sum().item()


def _imsm(listeners: Listeners, captions: list[str], clip: ListClip, pixels: Tensor | None, waveform: Tensor) -> float:
    """The same as `_imsm_scenes` by CLIP and CLAP."""
    images, clap = listeners.clip, listeners.named("clap")
    assert images is not None and clap is not None and pixels is not None
    image = images(pixels.to(next(images.parameters()).device)).cpu()
    text_of_image, text_of_audio = images.text(captions).cpu(), clap.network.text(captions).cpu()
    return matrix(image, text_of_image, text_of_audio, _clap_audio(listeners, waveform), TEMPERATURES).item()


def _without(what: str, there: Callable[[Listeners], bool]) -> Callable[[Listeners], str]:
    return lambda listeners: "" if there(listeners) else what


NO_TOWERS = _without("its configuration names no towers (towers.weights)", lambda found: found.towers is not None)
NO_CLAP = _without("its configuration names no CLAP (evaluation.embedders)", lambda found: found.named("clap") is not None)
NO_CLIP = _without("its configuration names no CLIP (evaluation.clip)", lambda found: found.clip is not None)

SCORES = {
    "judge": RankScore(
        _judge, _without("its configuration names no judge (judge.weights)", lambda found: bool(found.judges)), ("labels",)
    ),
    "towers": RankScore(_towers, NO_TOWERS, ("prompt",)),
    "clap": RankScore(_clap, NO_CLAP, ("prompt",)),
    "imsm": RankScore(_imsm, lambda found: NO_CLIP(found) or NO_CLAP(found), ("prompt", "image")),
    "imsm_scenes": RankScore(_imsm_scenes, NO_TOWERS, ("prompt", "image")),
}
