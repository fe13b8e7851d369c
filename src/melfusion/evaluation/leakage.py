"""Does a caption tell what only the picture should, or a picture what only the caption should? Linear classifiers try.

They learn on training scenes, by ridge regression on frozen features in closed form, and are tested on held-out ones. Beside
what must be found at chance only, the table has what must be found: so the check can fail in both directions. What no
linear classifier finds in these features could still be there.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from melfusion.data.dataset import MusicDataset
from melfusion.evaluation.sets import metas_of
from melfusion.media.pictures import read_image
from melfusion.metrics.intervals import share

SEEN, TOLD = ("place", "time", "weather"), ("tonic", "mode")  # by the picture alone, by the caption alone

STRENGTHS = tuple(10.0**k for k in range(-3, 4))  # of the ridge, as shares of the features' mean variance

SIDE = 32  # pixels

AT_ONCE = 64


class Looks(NamedTuple):
    """What a model is shown of N scenes, and their labels."""

    captions: list[str]
    pictures: Tensor  # (N, 3, H, W) in [-1, 1]
    labels: list[dict[str, Any]]


def looks(dataset: MusicDataset, side: int) -> Looks:
    """Captions, pictures and labels of a split; no sound is read."""
    metas = metas_of(dataset)
    pictures = [torch.from_numpy(read_image(dataset.reader.picture(entry), side)) for entry in dataset.entries]
    return Looks([meta["caption"] for meta in metas], torch.stack(pictures), [meta["labels"] for meta in metas])


def leakage(
    train: Looks,
    test: Looks,
    text_encoder: Callable[[list[str]], tuple[Tensor, Tensor]],
    see: Callable[[Tensor], Tensor] | None = None,
) -> list[dict[str, Any]]:
    """One entry a source, kind of feature and attribute: accuracy, interval, chance, what is wanted, and whether that `holds`.

    `see`: pictures (B, 3, H, W) → (B, D), a frozen network that sees; None leaves it out. The intervals hold for all entries
    together (Bonferroni), since among so many one would else look like a leak by luck.
    """
    features = {
        ("caption", "words"): bags(train.captions, test.captions),
        ("caption", "text encoder"): [sentences(x.captions, text_encoder) for x in (train, test)],
        ("picture", "pixels"): [pixels(x.pictures) for x in (train, test)],
    }
    if see is not None:
        features["picture", "EfficientNet"] = [batched(x.pictures, see) for x in (train, test)]
    z = NormalDist().inv_cdf(1 - 0.025 / (len(features) * len(SEEN + TOLD)))
    found = []
    for (source, kind), sides in features.items():
        for attribute in SEEN + TOLD:
            classes = sorted({label[attribute] for label in train.labels + test.labels})
            wanted, told = (torch.tensor([classes.index(label[attribute]) for label in x.labels]) for x in (train, test))
            hits = int((classify(sides[0], wanted, sides[1]) == told).sum())
            score, chance = share(hits, len(told), z), 1 / len(classes)
            should = (attribute in SEEN) == (source == "picture")
            found.append(
                {
                    "source": source,
                    "features": kind,
                    "attribute": attribute,
                    **score,
                    "chance": chance,
                    "n_train": len(wanted),
                    "wanted": "above chance" if should else "at chance",
                    "holds": (score["low"] > chance) == should,
                }
            )
    return found


def classify(train: Tensor, classes: Tensor, test: Tensor) -> Tensor:
    """Features (N, D), their classes (N,) and features (M, D) → classes (M,) by ridge regression on one-hot classes.

    float64, in the dual, so that D may exceed N; the strength is the one with the smallest leave-one-out error of training.
    """
    mean, std = train.double().mean(0), train.double().std(0)
    x, y = ((side.double() - mean) / std.clamp(min=1e-6) for side in (train, test))
    wanted = F.one_hot(classes).double()
    prior = wanted.mean(0)
    values, vectors = torch.linalg.eigh(x @ x.T)
    values, rotated, best = values.clamp(min=0), vectors.T @ (wanted - prior), None
    for strength in STRENGTHS:
        shrunk = 1 / (values + strength * values.mean().clamp(min=1e-12))
        dual = vectors @ (shrunk[:, None] * rotated)
        error = (dual / (vectors.square() @ shrunk)[:, None]).square().sum().item()  # residuals without each clip itself
        if best is None or error < best[0]:
            best = error, dual
    return (y @ x.T @ best[1] + prior).argmax(1)


def bags(train: list[str], test: list[str]) -> list[Tensor]:
    """(N, words): how often each word of the training captions stands in a caption."""
    words = {word: i for i, word in enumerate(sorted({w for caption in train for w in _words(caption)}))}

    def count(captions: list[str]) -> Tensor:
        counts = torch.zeros(len(captions), len(words))
        for row, caption in zip(counts, captions, strict=True):
            for word in filter(words.__contains__, _words(caption)):
                row[words[word]] += 1
        return counts

    return [count(captions) for captions in (train, test)]


def _words(caption: str) -> list[str]:
    return "".join(c if c.isalnum() or c == "#" else " " for c in caption.lower()).split()


def sentences(captions: list[str], text_encoder: Callable[[list[str]], tuple[Tensor, Tensor]]) -> Tensor:
    """(N, D): mean over a caption's tokens."""

    def mean(few: list[str]) -> Tensor:
        embeds, mask = (t.cpu() for t in text_encoder(few))
        return (embeds * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)

    return batched(captions, mean)


def pixels(pictures: Tensor) -> Tensor:
    """(N, 3·32·32)."""
    return F.interpolate(pictures, (SIDE, SIDE), mode="bilinear", antialias=True).flatten(1)


@torch.no_grad()
def batched(items: Any, network: Callable[[Any], Tensor]) -> Tensor:
    return torch.cat([network(items[i : i + AT_ONCE]).cpu() for i in range(0, len(items), AT_ONCE)])
