"""What judge, embedders and towers hear in a row of clips, and how often that is right.

A row is a set of clips for the same items: real ones, what VAE and vocoder leave of them, or generated ones. All are
brought to one loudness first. Its distance to real clips: yardstick.py; what it has of its picture and caption: pairs.py.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from melfusion.errors import BadSample
from melfusion.files import write_whole
from melfusion.listeners.embedders import HEARS, ClipImage, Embedder
from melfusion.listeners.judge import Judge
from melfusion.media.options import AudioConfig
from melfusion.media.sound import normalise_level
from melfusion.metrics.intervals import mean_interval
from melfusion.metrics.sets import AttributeAccuracy
from melfusion.models.frozen import digest

log = logging.getLogger(__name__)


@dataclass
class Heard:
    """What was heard in N clips of one row: attribute → class names; embedder → (N, K, D); tower → (N, D)."""

    keys: list[str] = field(default_factory=list)
    classes: dict[str, list[str]] = field(default_factory=dict)
    embeddings: dict[str, Tensor] = field(default_factory=dict)
    towers: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    def only(self, keys: list[str]) -> Heard:
        """The clips of these keys, in their order."""
        place = {key: i for i, key in enumerate(self.keys)}
        rows = [place[key] for key in keys]
        parts = ({name: t[rows] for name, t in of.items()} for of in (self.embeddings, self.towers))
        return Heard(list(keys), {name: [c[i] for i in rows] for name, c in self.classes.items()}, *parts)

    def keep(self, file: Path) -> Heard:
        """Write it whole for `kept`, where there is room and leave to write; returns itself."""
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, lambda part: torch.save(dataclasses.asdict(self), part))
        except (OSError, RuntimeError) as error:  # of a full disk torch raises the latter
            _not_kept(file.parent, getattr(error, "strerror", None) or type(error).__name__)
        return self

    @classmethod
    def kept(cls, file: Path, keys: list[str]) -> Heard | None:
        """What `keep` wrote of these clips; None where there is nothing, something else, or a damaged file, which is logged."""
        if not file.exists():
            return None
        try:
            heard = cls(**torch.load(file, weights_only=True)) if file.is_file() else cls()
            parts = (heard.classes, heard.embeddings, heard.towers)
            whole = all(len(values) == len(heard.keys) for part in parts for values in part.values())
        except Exception:  # of a damaged file torch raises many kinds
            whole = False
        if not whole or not file.is_file():
            log.warning("%s is damaged and passed over: its clips are heard again.", file)
            return None
        return heard if heard.keys == keys else None


@functools.cache  # once for each folder: the same holds for all that is heard
def _not_kept(folder: Path, reason: str) -> None:
    log.warning("What was heard is not kept in %s (%s), so it will be heard again.", folder, reason)


class Ears:
    """Everything that listens, with the audio contract it listens under.

    Args:
        judge: hears what pictures tell; None where clips have no labels.  text_judge: what captions tell.
        towers: for `imsm_scenes`; None leaves it out.  clip: sees pictures for the paper's IMSM.
    """

    def __init__(
        self,
        audio: AudioConfig,
        judge: Judge | None = None,
        embedders: Iterable[Embedder] = (),
        towers: Any = None,
        text_judge: Judge | None = None,
        clip: ClipImage | None = None,
    ):
        self.audio, self.judge, self.embedders, self.towers = audio, judge, list(embedders), towers
        self.text_judge, self.clip = text_judge, clip
        self.judges = [j for j in (judge, text_judge) if j is not None]

    @property
    def attributes(self) -> dict[str, list[str]]:
        """Every attribute that is heard, with its classes."""
        return {name: classes for judge in self.judges for name, classes in judge.attributes.items()}

    def digests(self) -> dict[str, str]:
        """Name → first 12 digits of SHA-256, of each network that listens."""
        named = {e.name: e.digest for e in self.embedders}
        for name in ("judge", "text_judge", "towers", "clip"):
            if (network := getattr(self, name)) is not None:
                named.setdefault(name, digest(network))
        return {name: value[:12] for name, value in named.items()}

    @property
    def device(self) -> torch.device:
        """Where all that listens lies."""
        return next((p.device for network in (*self.judges, *self.embedders) for p in network.parameters()), torch.device("cpu"))

    def named(self, name: str) -> Embedder | None:
        """One of the embedders."""
        return next((e for e in self.embedders if e.name == name), None)

    def about(self) -> dict[str, dict[str, Any]]:
        """Embedder → its hash, the rate it hears at, and what it can and cannot hear."""
        return {
            e.name: {"sha256": e.digest[:12], "sample_rate_hz": e.sample_rate_hz, "hears": HEARS.get(e.name, "")}
            for e in self.embedders
        }

    @torch.no_grad()
    def listen(self, clips: Iterable[tuple[list[str], Tensor]]) -> Heard:
        """Batches of (keys, waveform (B, S)) → what is heard in all of them."""
        heard, parts, towers = Heard(), {e.name: [] for e in self.embedders}, []
        for keys, waveform in clips:
            waveform = levelled(waveform, self.audio).to(self.device)
            heard.keys += keys
            for told in zip(*(judge.hear(waveform) for judge in reversed(self.judges)), strict=True):
                for name, value in {k: v for one in told for k, v in one.items()}.items():  # where two hear it, the first's word
                    heard.classes.setdefault(name, []).append(value)
            for e in self.embedders:
                parts[e.name].append(e(waveform, self.audio.sample_rate_hz).cpu())
            if self.towers is not None:
                towers.append(self.towers.audio(waveform).cpu())
        heard.embeddings = {name: torch.cat(p) for name, p in parts.items() if p}
        heard.towers = {"audio": torch.cat(towers)} if towers else {}
        return heard


def levelled(waveform: Tensor, audio: AudioConfig) -> Tensor:
    """Every clip (B, S) at the level of the data (audio.level); silence stays silence."""
    clips = []
    for clip in waveform.float().cpu():
        try:
            clips.append(torch.from_numpy(normalise_level(clip.numpy(), audio)))
        except BadSample:
            clips.append(clip)
    return torch.stack(clips).to(waveform.device)


def accuracy(heard: Heard, wanted: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Attribute → share of clips in which the wanted class is heard; clips that do not tell the attribute are left out."""
    scores = {}
    for name, told in heard.classes.items():
        numbers = {c: i for i, c in enumerate(dict.fromkeys([*told, *(label[name] for label in wanted if name in label)]))}
        metric = AttributeAccuracy()
        metric.update(
            torch.tensor([numbers[c] for c in told]),
            torch.tensor([numbers[label[name]] if name in label else -100 for label in wanted]),
        )
        if metric.count:
            scores[name] = metric.result()
    return scores


def confusions(heard: Heard, wanted: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, int]]]:
    """Attribute → wanted class → class that was heard instead → in how many clips, the most frequent first; right ones left out."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for name, told in heard.classes.items():
        pairs = Counter((label[name], c) for c, label in zip(told, wanted, strict=True) if name in label and label[name] != c)
        found[name] = {}
        for (right, wrong), n in pairs.most_common():
            found[name].setdefault(right, {})[wrong] = n
    return found


def gains(right: Heard, other: Heard, wanted: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Attribute → paired difference in accuracy of two rows, with its interval, of two clips or more."""
    found = {}
    for name in right.classes:
        pairs = [
            (a == label[name]) - (b == label[name])
            for a, b, label in zip(right.classes[name], other.classes[name], wanted, strict=True)
            if name in label
        ]
        if len(pairs) > 1:
            found[name] = dict(zip(("mean", "interval"), mean_interval(pairs), strict=True))
    return found
