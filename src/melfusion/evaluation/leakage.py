"""Leakage test: does a caption reveal what only the picture should show, or a picture what only the caption should say?

Linear classifiers on frozen features are trained on training scenes and tested on held-out scenes. They are ridge regressions
in closed form. The table has attributes that must stay at chance and attributes that must be above chance, so the test can
fail in both directions. It proves no absence: a leak that no linear classifier finds in these features may exist.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from melfusion.batch import Prompt
from melfusion.data.dataset import MusicDataset
from melfusion.evaluation.sets import metas_of
from melfusion.media.pictures import read_image
from melfusion.metrics.intervals import share

BY_PICTURE, BY_CAPTION = ("place", "time", "weather"), ("tonic", "mode")  # attributes that only the picture, only the caption gives

STRENGTHS = tuple(10.0**k for k in range(-3, 4))  # of the ridge, as shares of the features' mean variance

SIDE = 32  # pixels

AT_ONCE = 64  # items of a batch


class Inputs(NamedTuple):
    """What a model is conditioned on for N scenes, and their labels."""

    captions: list[str]
    pictures: Tensor  # (N, 3, H, W) in [-1, 1]
    labels: list[dict[str, Any]]


def read_inputs(dataset: MusicDataset, side: int) -> Inputs:
    """Captions, pictures (side × side pixels) and labels of a split. All clips need a picture. No audio is read."""
    metas = metas_of(dataset)
    stored = (dataset.reader.picture(entry) or b"" for entry in dataset.entries)
    pictures = [torch.from_numpy(read_image(data, side)) for data in stored]
    return Inputs([meta["caption"] for meta in metas], torch.stack(pictures), [meta["labels"] for meta in metas])


def leakage(
    train: Inputs,
    test: Inputs,
    text_encoder: Callable[[list[str]], Prompt],
    image_embedder: Callable[[Tensor], Tensor] | None = None,
) -> list[dict[str, Any]]:
    """One entry for each source, kind of features and attribute.

    An entry has the accuracy with its interval, the chance level, what is wanted, and whether that `holds`. The intervals hold
    for all entries together (Bonferroni); else one of so many would look like a leak by luck.

    Args:
        text_encoder: captions → embeddings (B, L, D) and mask (B, L).
        image_embedder: pictures (B, 3, H, W) → (B, D), a frozen network; None leaves it out.
    """
    features = _features(train, test, text_encoder, image_embedder)
    z = NormalDist().inv_cdf(1 - 0.025 / (len(features) * len(BY_PICTURE + BY_CAPTION)))
    found = []
    for (source, kind), sides in features.items():
        for attribute in BY_PICTURE + BY_CAPTION:
            above = (attribute in BY_PICTURE) == (source == "picture")
            score = _attribute_score(train, test, attribute, sides, z)
            score |= {"wanted": "above chance" if above else "at chance", "holds": (score["low"] > score["chance"]) == above}
            found.append({"source": source, "features": kind, "attribute": attribute} | score)
    return found


def _attribute_score(train: Inputs, test: Inputs, attribute: str, sides: list[Tensor], z: float) -> dict[str, Any]:
    """Accuracy, its interval of `z` standard errors and the chance level of one attribute by the features of both sides."""
    classes = sorted({label[attribute] for label in train.labels + test.labels})
    learned, tested = (torch.tensor([classes.index(label[attribute]) for label in x.labels]) for x in (train, test))
    hits = int((classify(sides[0], learned, sides[1]) == tested).sum())
    return share(hits, len(tested), z) | {"chance": 1 / len(classes), "n_train": len(learned)}


def _features(
    train: Inputs, test: Inputs, text_encoder: Callable[[list[str]], Prompt], image_embedder: Callable[[Tensor], Tensor] | None
) -> dict[tuple[str, str], list[Tensor]]:
    """(source, kind of features) → the features of both sides."""
    features = {
        ("caption", "words"): bags(train.captions, test.captions),
        ("caption", "text encoder"): [sentences(x.captions, text_encoder) for x in (train, test)],
        ("picture", "pixels"): [pixels(x.pictures) for x in (train, test)],
    }
    if image_embedder is not None:
        features["picture", "EfficientNet"] = [batched(x.pictures, image_embedder) for x in (train, test)]
    return features


def classify(train: Tensor, classes: Tensor, test: Tensor) -> Tensor:
    """Features (N, D), their classes (N,) and test features (M, D) → predicted classes (M,).

    Ridge regression on one-hot classes in float64. It is solved in the dual, so D may exceed N. Of STRENGTHS it takes the one
    with the smallest leave-one-out error on the training features.
    """
    mean, std = train.double().mean(0), train.double().std(0)
    x, y = ((side.double() - mean) / std.clamp(min=1e-6) for side in (train, test))
    wanted = F.one_hot(classes).double()
    prior = wanted.mean(0)
    values, vectors = torch.linalg.eigh(x @ x.T)
    values, rotated = values.clamp(min=0), vectors.T @ (wanted - prior)
    least, best = math.inf, torch.zeros_like(rotated)
    for strength in STRENGTHS:
        shrunk = 1 / (values + strength * values.mean().clamp(min=1e-12))
        dual = vectors @ (shrunk[:, None] * rotated)
        error = (dual / (vectors.square() @ shrunk)[:, None]).square().sum().item()  # leave-one-out residuals
        if error < least:
            least, best = error, dual
    return (y @ x.T @ best + prior).argmax(1)


def bags(train: list[str], test: list[str]) -> list[Tensor]:
    """Bags of words of both sides, (N, words): how often each word of the training captions is in a caption."""
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


def sentences(captions: list[str], text_encoder: Callable[[list[str]], Prompt]) -> Tensor:
    """Captions → (N, D): the mean over the token embeddings of each."""

    def mean(few: list[str]) -> Tensor:
        prompt = text_encoder(few).to("cpu")
        embeds, mask = prompt.text_embeds, prompt.text_mask
        return (embeds * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)

    return batched(captions, mean)


def pixels(pictures: Tensor) -> Tensor:
    """Pictures (N, 3, H, W) → their pixels at 32 × 32, (N, 3·32·32)."""
    return F.interpolate(pictures, (SIDE, SIDE), mode="bilinear", antialias=True).flatten(1)


@torch.no_grad()
def batched(items: Any, network: Callable[[Any], Tensor]) -> Tensor:
    """The network's output of all items, in batches, on the CPU."""
    return torch.cat([network(items[i : i + AT_ONCE]).cpu() for i in range(0, len(items), AT_ONCE)])
