"""Scores of sets of clips: what judge, embedders and towers hear in each row, and what that says against real clips.

A row is a set of clips for the same items: real ones, what VAE and vocoder leave of them, or generated ones. All are
brought to one loudness first. Every score comes with its interval, or with the sentence why it was not computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from melfusion.audio import BadSample, normalise_loudness
from melfusion.frozen import digest
from melfusion.judge import Judge
from melfusion.metrics import distances
from melfusion.metrics.distances import Projection, TooFewSamples
from melfusion.metrics.embedders import Embedder
from melfusion.metrics.imsm import imsm, imsm_released
from melfusion.metrics.intervals import jackknife, mean_interval, wilson
from melfusion.schema import AudioConfig

MOST_DIMENSIONS = 32  # of the PCA before a Fréchet distance


@dataclass
class Heard:
    """What was heard in N clips of one row: attribute → class names; embedder → (N, K, D); tower → (N, D)."""

    keys: list[str] = field(default_factory=list)
    classes: dict[str, list[str]] = field(default_factory=dict)
    embeddings: dict[str, Tensor] = field(default_factory=dict)
    towers: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)


class Ears:
    """Everything that listens, with the audio contract it listens under.

    Args:
        judge: hears what pictures tell; None where clips have no labels.  text_judge: what captions tell.
        towers: for `imsm_scenes`; None leaves it out.
    """

    def __init__(self, audio: AudioConfig, judge: Judge | None = None, embedders: Iterable[Embedder] = (), towers: Any = None,
                 text_judge: Judge | None = None):  # fmt: skip
        self.audio, self.judge, self.embedders, self.towers = audio, judge, list(embedders), towers
        self.text_judge = text_judge
        self.judges = [j for j in (judge, text_judge) if j is not None]

    @property
    def attributes(self) -> dict[str, list[str]]:
        """Every attribute that is heard, with its classes."""
        return {name: classes for judge in self.judges for name, classes in judge.attributes.items()}

    def digests(self) -> dict[str, str]:
        """Name → first 12 digits of SHA-256, of each network that listens."""
        named = {e.name: e.digest for e in self.embedders}
        for name in ("judge", "text_judge", "towers"):
            if (network := getattr(self, name)) is not None:
                named.setdefault(name, digest(network))
        return {name: value[:12] for name, value in named.items()}

    @torch.no_grad()
    def listen(self, clips: Iterable[tuple[list[str], Tensor]]) -> Heard:
        """Batches of (keys, waveform (B, S)) → what is heard in all of them."""
        heard, parts, towers = Heard(), {e.name: [] for e in self.embedders}, []
        for keys, waveform in clips:
            waveform = levelled(waveform, self.audio)
            heard.keys += keys
            for judge in self.judges:
                for told in judge.hear(waveform):
                    for name, value in told.items():
                        heard.classes.setdefault(name, []).append(value)
            for e in self.embedders:
                parts[e.name].append(e(waveform, self.audio.sample_rate_hz).cpu())
            if self.towers is not None:
                towers.append(self.towers.audio(waveform).cpu())
        heard.embeddings = {name: torch.cat(p) for name, p in parts.items() if p}
        heard.towers = {"audio": torch.cat(towers)} if towers else {}
        return heard


def levelled(waveform: Tensor, audio: AudioConfig) -> Tensor:
    """Every clip (B, S) at the loudness of the data (audio.loudness_dbfs); silence stays silence."""
    clips = []
    for clip in waveform.float().cpu():
        try:
            clips.append(torch.from_numpy(normalise_loudness(clip.numpy(), audio)))
        except BadSample:
            clips.append(clip)
    return torch.stack(clips).to(waveform.device)


def share(verdicts: list[bool]) -> dict[str, float]:
    """Accuracy with its Wilson interval."""
    low, high = wilson(sum(verdicts), len(verdicts))
    return {"accuracy": sum(verdicts) / len(verdicts), "low": low, "high": high, "n": len(verdicts)}


def accuracy(heard: Heard, wanted: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Attribute → share of clips in which the wanted class is heard; clips that do not tell the attribute are left out."""
    scores = {}
    for name, classes in heard.classes.items():
        verdicts = [told == label[name] for told, label in zip(classes, wanted, strict=True) if name in label]
        if verdicts:
            scores[name] = share(verdicts)
    return scores


def gains(right: Heard, other: Heard, wanted: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Attribute → paired difference in accuracy of two rows, with its interval."""
    found = {}
    for name in right.classes:
        pairs = [(a == label[name]) - (b == label[name])
                 for a, b, label in zip(right.classes[name], other.classes[name], wanted, strict=True)
                 if name in label]  # fmt: skip
        if pairs:
            found[name] = dict(zip(("mean", "interval"), mean_interval(pairs), strict=True))
    return found


@dataclass
class Yardstick:
    """What rows are measured against: heard real clips of the same count, their classes, and a PCA fitted on real train clips.

    The number of components is what every class of the scored items affords, the same for all rows.
    """

    reference: Heard
    classes: list[dict[str, str]]  # of the reference clips, the attributes that a judge knows
    projections: dict[str, Projection]
    dimensions: dict[str, int | str]  # embedder → components for sets, or the sentence why there are none
    class_dimensions: dict[str, int | str]  # likewise within a class

    @classmethod
    def fit(cls, train: Heard, reference: Heard, reference_classes: list[dict], classes: list[dict]) -> Yardstick:
        """PCA from `train`; class sizes from both the reference and the scored items' classes."""
        projections, whole, within = {}, {}, {}
        for name, embeddings in train.embeddings.items():
            flat = embeddings.flatten(0, 1)
            clip = embeddings.shape[1]
            most = min(MOST_DIMENSIONS, flat.shape[1], len(flat) // distances.MIN_PER_DIMENSION)
            projections[name] = Projection(flat, most)
            whole[name] = _afford([clip * len(reference)], most)
            counts = [clip * n for side in (reference_classes, classes) for n in class_sizes(side).values()]
            within[name] = _afford(counts, most) if counts else "these clips have no labels."
        return cls(reference, reference_classes, projections, whole, within)

    def score(self, heard: Heard, classes: list[dict[str, str]]) -> dict[str, dict[str, Any]]:
        """Embedder → fad, fad_inf, kad, fad_conditional: each {"mean", "interval"} or {"why_not"}."""
        return {name: self._score(name, heard, classes) for name in self.projections}

    def _score(self, name: str, heard: Heard, classes: list[dict[str, str]]) -> dict[str, Any]:
        n = min(len(heard), len(self.reference))
        raw = [h.embeddings[name][:n].double() for h in (self.reference, heard)]
        low = [self._low(name, h)[:n] for h in (self.reference, heard)]
        rr, rg, gg = distances.kernel_matrices(*(x.mean(1) for x in raw))
        scores = {"kad": interval(lambda i: distances.KAD_SCALE * distances.mmd(*(_pick(k, i) for k in (rr, rg, gg))).item(), n)}

        def sets(i: Any, d: int) -> list[Tensor]:
            return [x[list(i)].flatten(0, 1)[:, :d] for x in low]

        if isinstance(d := self.dimensions[name], str):
            scores["fad"] = scores["fad_inf"] = {"why_not": d}
        else:
            scores["fad"] = interval(lambda i: distances.frechet_distance(*sets(i, d), check=False), n) | {"dimensions": d}
            scores["fad_inf"] = _or_why(lambda: distances.frechet_infinity(*sets(range(n), d))) | {"dimensions": d}
        conditional = self.conditional(name, heard, classes)
        if conditional is None:
            return scores | {"fad_conditional": {"why_not": self.class_dimensions[name]}}
        return scores | {"fad_conditional": interval(conditional, n) | {"dimensions": self.class_dimensions[name]}}

    def conditional(self, name: str, heard: Heard, classes: list[dict[str, str]]) -> Callable[[Any], float] | None:
        """Class-conditional Fréchet distance by one embedder as a function of item numbers; None where it cannot be had."""
        if isinstance(d := self.class_dimensions[name], str):
            return None
        low = [self._low(name, h)[..., :d] for h in (self.reference, heard)]
        k = low[0].shape[1]

        def score(items: Any) -> float:
            real, ours = ([c[j] for j in items for _ in range(k)] for c in (self.classes, classes))
            return distances.conditional_frechet(*(x[list(items)].flatten(0, 1) for x in low), real, ours, check=False)

        return score

    def _low(self, name: str, heard: Heard) -> Tensor:
        """(N, K, most) principal components of a row."""
        x = heard.embeddings[name]
        return self.projections[name].apply(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def class_sizes(classes: list[dict[str, str]]) -> dict[tuple[str, str], int]:
    """(attribute, class) → how many clips have it."""
    counts: dict[tuple[str, str], int] = {}
    for labels in classes:
        for pair in labels.items():
            counts[pair] = counts.get(pair, 0) + 1
    return counts


def towers_scores(towers: Any, heard: Heard, pictures: Tensor, captions: list[str]) -> dict[str, float]:
    """`imsm_scenes` (see metrics/imsm.py) of the scenes' own towers, never to be compared with the paper's, and the
    released reduction on the same embeddings.
    """
    sets = (towers.image(pictures), towers.text_of_image(captions), towers.text_of_audio(captions), heard.towers["audio"])
    sets = tuple(t.cpu() for t in sets)
    learned = towers.temperatures()
    return {"imsm_scenes": imsm(*sets, (learned["image"], learned["audio"])), "imsm_scenes_released": imsm_released(*sets)}


def interval(score: Any, n: int) -> dict[str, float]:
    """A score over item numbers with its jackknife interval."""
    return dict(zip(("mean", "interval"), jackknife(score, n), strict=True))


def _pick(kernel: Tensor, items: Any) -> Tensor:
    index = torch.as_tensor(list(items))
    return kernel[index][:, index]


def _afford(counts: list[int], most: int) -> int | str:
    try:
        return distances.affordable_dimensions(counts, most)
    except TooFewSamples as error:
        return str(error)


def _or_why(score: Any) -> dict[str, Any]:
    try:
        return {"mean": score()}
    except TooFewSamples as error:
        return {"why_not": str(error)}
