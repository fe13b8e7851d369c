"""What judges, embedders and towers say of a row of clips, and how often it is right.

A row is a set of clips for the same items: real clips, their reconstructions by VAE and vocoder, or generated clips. All are
brought to one loudness first. Their distance to real clips is in reference.py, their scores with picture and caption in paired.py.
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

from melfusion.files import write_whole
from melfusion.listeners.embedders import MEASURES, ClipImage, Embedder
from melfusion.listeners.judge import Judge
from melfusion.listeners.towers import Towers
from melfusion.media.options import AudioConfig
from melfusion.media.sound import levelled, mono
from melfusion.metrics.intervals import mean_interval
from melfusion.metrics.sets import AttributeAccuracy
from melfusion.models.frozen import digest

log = logging.getLogger(__name__)


@dataclass
class Predictions:
    """What listeners say of the N clips of a row.

    `classes`: attribute → predicted class of each clip.  `embeddings`: embedder → (N, K, D).  `towers`: tower → (N, D).
    """

    keys: list[str] = field(default_factory=list)
    classes: dict[str, list[str]] = field(default_factory=dict)
    embeddings: dict[str, Tensor] = field(default_factory=dict)
    towers: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    def only(self, keys: list[str]) -> Predictions:
        """The clips of these keys, in their order."""
        place = {key: i for i, key in enumerate(self.keys)}
        rows = [place[key] for key in keys]
        parts = ({name: t[rows] for name, t in of.items()} for of in (self.embeddings, self.towers))
        return Predictions(list(keys), {name: [c[i] for i in rows] for name, c in self.classes.items()}, *parts)

    def save(self, file: Path) -> None:
        """Write them for `load`. Where that is not possible a warning says so, once a folder."""
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, lambda part: torch.save(dataclasses.asdict(self), part))
        except (OSError, RuntimeError) as error:  # torch raises the latter where the disk is full
            _not_kept(file.parent, getattr(error, "strerror", None) or type(error).__name__)

    @classmethod
    def load(cls, file: Path, keys: list[str]) -> Predictions | None:
        """What `save` wrote of the clips `keys`; None where there is no file, or one of other clips. Damage is logged."""
        if not file.exists():
            return None
        try:
            found = cls(**torch.load(file, weights_only=True)) if file.is_file() else cls()
            parts = (found.classes, found.embeddings, found.towers)
            whole = all(len(values) == len(found.keys) for part in parts for values in part.values())
        except Exception:  # of a damaged file torch raises many kinds
            whole = False
        if not whole or not file.is_file():
            log.warning("%s is damaged and is not used: the predictions of its clips are made again.", file)
            return None
        return found if found.keys == keys else None


@functools.cache  # one warning a folder, since the same holds for all its files
def _not_kept(folder: Path, reason: str) -> None:
    log.warning("Predictions are not kept in %s (%s), so they will be made again.", folder, reason)


class Listeners:
    """All networks that score clips, and the audio settings of the clips.

    Args:
        judge: predicts what pictures tell; None where clips have no labels.  text_judge: predicts what captions tell.
        towers: for `imsm_scenes`; None leaves it out.  clip: embeds pictures for the paper's IMSM.
    """

    def __init__(
        self,
        audio: AudioConfig,
        judge: Judge | None = None,
        embedders: Iterable[Embedder] = (),
        towers: Towers | None = None,
        text_judge: Judge | None = None,
        clip: ClipImage | None = None,
    ):
        self.audio, self.judge, self.embedders, self.towers = audio, judge, list(embedders), towers
        self.text_judge, self.clip = text_judge, clip
        self.judges = [j for j in (judge, text_judge) if j is not None]

    @property
    def attributes(self) -> dict[str, list[str]]:
        """Every attribute that a judge predicts, with its classes."""
        return {name: classes for judge in self.judges for name, classes in judge.attributes.items()}

    def known_labels(self, labels: dict[str, Any]) -> dict[str, str]:
        """Those of a clip's labels that the judge predicts."""
        return {name: labels[name] for name in (self.judge.attributes if self.judge else {}) if name in labels}

    def digests(self) -> dict[str, str]:
        """Name → first 12 digits of the SHA-256, of each network."""
        named = {e.name: e.digest for e in self.embedders}
        others = {"judge": self.judge, "text_judge": self.text_judge, "towers": self.towers, "clip": self.clip}
        for name, network in others.items():
            if network is not None:
                named.setdefault(name, digest(network))
        return {name: value[:12] for name, value in named.items()}

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next((p.device for network in (*self.judges, *self.embedders) for p in network.parameters()), torch.device("cpu"))

    def named(self, name: str) -> Embedder | None:
        """One of the embedders."""
        return next((e for e in self.embedders if e.name == name), None)

    def about(self) -> dict[str, dict[str, Any]]:
        """Embedder → its hash, the sample rate of its input, and what it measures and what not."""
        return {
            e.name: {"sha256": e.digest[:12], "sample_rate_hz": e.sample_rate_hz, "measures": MEASURES.get(e.name, "")}
            for e in self.embedders
        }

    @torch.no_grad()
    def predict(self, clips: Iterable[tuple[list[str], Tensor]]) -> Predictions:
        """Batches of (keys, waveform (B, S) or (B, 2, S)) → what all networks say of all clips, each in one channel.

        Where both judges predict an attribute, the first one counts.
        """
        found, towers = Predictions(), []
        parts: dict[str, list[Tensor]] = {e.name: [] for e in self.embedders}
        for keys, waveform in clips:
            waveform = levelled(mono(waveform), self.audio).to(self.device)
            found.keys += keys
            for of_judges in zip(*(judge.predict(waveform) for judge in reversed(self.judges)), strict=True):
                for name, value in {k: v for one in of_judges for k, v in one.items()}.items():
                    found.classes.setdefault(name, []).append(value)
            for e in self.embedders:
                parts[e.name].append(e(waveform, self.audio.sample_rate_hz).cpu())
            if self.towers is not None:
                towers.append(self.towers.audio(waveform).cpu())
        embeddings = {name: torch.cat(p) for name, p in parts.items() if p}
        return dataclasses.replace(found, embeddings=embeddings, towers={"audio": torch.cat(towers)} if towers else {})


def accuracy(row: Predictions, wanted: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Attribute → share of clips whose predicted class is the wanted one; clips without that label are left out."""
    scores = {}
    for name, predicted in row.classes.items():
        numbers = {c: i for i, c in enumerate(dict.fromkeys([*predicted, *(label[name] for label in wanted if name in label)]))}
        metric = AttributeAccuracy()
        metric.update(
            torch.tensor([numbers[c] for c in predicted]),
            torch.tensor([numbers[label[name]] if name in label else -100 for label in wanted]),
        )
        if metric.count:
            scores[name] = metric.result()
    return scores


def confusions(row: Predictions, wanted: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, int]]]:
    """Attribute → wanted class → predicted class → number of clips, the most frequent first, where the two differ."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for name, predicted in row.classes.items():
        pairs = Counter((label[name], c) for c, label in zip(predicted, wanted, strict=True) if name in label and label[name] != c)
        found[name] = {}
        for (right, wrong), n in pairs.most_common():
            found[name].setdefault(right, {})[wrong] = n
    return found


def gains(right: Predictions, other: Predictions, wanted: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Attribute → difference in accuracy of two rows, paired by clip, with its interval; left out for fewer than two clips."""
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
