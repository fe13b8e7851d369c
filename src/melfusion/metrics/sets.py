"""torchmetrics of two sets of clips and of pairs, in float64. The result is the same for any batches and number of processes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from torchmetrics.utilities.distributed import gather_all_tensors

from melfusion.metrics import imsm
from melfusion.metrics.distances import TooFewSamples, kernel_distance, kernel_distances
from melfusion.metrics.intervals import Draws, Z, jackknife, leave_out, share


def gather(clips: Tensor, group: Any = None) -> list[Tensor]:
    """The embeddings (n, D) of all ranks, where n may differ. A rank without clips gives an empty tensor of any shape and type."""
    width = clips.new_tensor(clips.shape[1] if clips.ndim == 2 else 0, dtype=torch.int64)
    widest = max(int(w) for w in gather_all_tensors(width, group))
    return gather_all_tensors(clips.double() if len(clips) else clips.new_zeros(0, widest, dtype=torch.float64), group)


class Score(Metric):
    """A metric with an interval."""

    full_state_update = False

    def result(self) -> dict[str, Any]:
        """The score of all processes' clips with its 95 % interval and their number, or {"why_not": a sentence}."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            try:
                return self.measured()
            except TooFewSamples as error:
                return {"why_not": str(error)}

    def measured(self) -> dict[str, Any]:
        """The score with its interval; raises TooFewSamples."""
        raise NotImplementedError


class Collected(Score):
    """Base of the metrics that keep the embeddings of all clips. A subclass gives `score`.

    A jackknife calls `part` in place of `score` on the clips that it leaves.

    Args:
        names: of the states; each holds the embeddings (N, D) of one side.
    """

    groups = 20  # of the jackknife

    def __init__(self, *names: str, **kwargs: Any):
        super().__init__(**{"dist_sync_fn": gather} | kwargs)
        self.names = names
        for name in names:
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def keep(self, name: str, embeddings: Tensor) -> None:
        """Append embeddings to a state."""
        getattr(self, name).append(embeddings.detach().double())

    def sets(self) -> list[Tensor]:
        """(N, D) of each state; (0, 1) without clips."""
        kept = [getattr(self, name) for name in self.names]
        return [dim_zero_cat(s) if len(s) else torch.zeros(0, 1, dtype=torch.float64) for s in kept]

    def score(self, sets: list[Tensor]) -> float:
        raise NotImplementedError

    def part(self, sets: list[Tensor]) -> float:
        return self.score(sets)

    def compute(self) -> Tensor:
        return torch.tensor(self.score(self.sets()), dtype=torch.float64)

    def measured(self) -> dict[str, Any]:
        sets = self.sets()
        mean, n = self.score(sets), min(map(len, sets))
        if n < 2:
            raise TooFewSamples(f"{type(self).__name__} of {n} clips has no interval: it needs at least two.")
        half = jackknife(lambda items: self.part([s[list(items)] for s in sets]), n, self.groups)
        return {"mean": mean, "interval": half, "n": n}


class Mean(Score):
    """A mean over clips, from sums in float64."""

    total: Tensor
    squares: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        for name in ("total", "squares", "count"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def add(self, values: Tensor) -> None:
        """Add one value of each clip, (B,)."""
        self.total += values.double().sum()
        self.squares += values.double().square().sum()
        self.count += len(values)

    def compute(self) -> Tensor:
        if not self.count:
            raise TooFewSamples(f"{type(self).__name__} needs clips, and there are none.")
        return self.total / self.count

    def measured(self) -> dict[str, Any]:
        n = int(self.count)
        if n < 2:
            raise TooFewSamples(f"{type(self).__name__} of {n} clips has no interval: it needs at least two.")
        variance = (self.squares - self.total.square() / n).clamp(min=0) / (n - 1)
        return {"mean": (self.total / n).item(), "interval": Z * math.sqrt(variance.item() / n), "n": n}


class SetDistance(Collected):
    """Fréchet distance of real and generated clips by their embeddings (B, D) or (B, K, D).

    Args:
        distance: `distances.frechet_distance` (FAD, FD) or `frechet_infinity`. It raises TooFewSamples with the reason why
            there is no score. The parts of a jackknife are not checked again.
        pieces: K, the embeddings of a clip; all of them count.
    """

    def __init__(self, distance: Callable[..., float], pieces: int = 1, **kwargs: Any):
        super().__init__("real", "generated", **kwargs)
        self.distance, self.pieces = distance, pieces

    def update(self, embeddings: Tensor, real: bool) -> None:
        self.keep("real" if real else "generated", embeddings.flatten(1))

    def score(self, sets: list[Tensor]) -> float:
        return self.distance(*self.embeddings(sets))

    def part(self, sets: list[Tensor]) -> float:
        return self.distance(*self.embeddings(sets), check=False)

    def embeddings(self, sets: list[Tensor]) -> list[Tensor]:
        """The states (N, K·D) → (N·K, D)."""
        return [s.unflatten(1, (self.pieces, -1)).flatten(0, 1) for s in sets]


class KernelDistance(SetDistance):
    """KAD of clips; the embedding of a clip (B, D), or the mean of its embeddings (B, K, D).

    Args:
        draws: the resampling of the interval; None for the jackknife.
    """

    def __init__(self, draws: Draws | None = None, **kwargs: Any):
        super().__init__(kernel_distance, **kwargs)
        self.draws = draws

    def update(self, embeddings: Tensor, real: bool) -> None:
        super().update(embeddings.mean(1) if embeddings.ndim == 3 else embeddings, real)

    def measured(self) -> dict[str, Any]:
        real, generated = self.sets()
        if (fewest := min(len(real), len(generated))) < 3:
            raise TooFewSamples(f"{len(real)} real and {len(generated)} generated clips: KAD and its interval need three of each.")
        draws = self.draws or leave_out(len(real), len(generated))
        if not math.isfinite(draws.point):
            raise TooFewSamples(f"{draws.over}: an interval over tracks needs two of each.")
        mean, again = kernel_distances(real, generated, draws)
        return {"mean": mean, "interval": draws.half_width(again), "over": draws.over, "n": fewest}


class KLDivergence(Mean):
    """Mean KL(real ‖ generated) of a tagger's class probabilities on paired clips, as in AudioLDM's evaluation.

    `update` takes logits (B, classes). The probabilities are their softmax, also for taggers with a sigmoid (PANNs).
    """

    def update(self, real_logits: Tensor, generated_logits: Tensor) -> None:
        p, q = (t.double().log_softmax(-1) for t in (real_logits, generated_logits))
        self.add((p.exp() * (p - q)).sum(-1))


class CLAPScore(Mean):
    """Mean cosine of paired audio and text embeddings (B, D)."""

    def update(self, audio: Tensor, text: Tensor) -> None:
        self.add(torch.cosine_similarity(audio.double(), text.double(), dim=-1))


class ImageMusicSimilarity(Collected):
    """IMSM over all clips, from embeddings (B, D) of picture, of the caption in CLIP's and in CLAP's space, and of audio.

    Args:
        reduction: of the N×N matrix to a number, see `imsm.py`.
    """

    groups = 10

    def __init__(self, reduction: Callable[..., float] = imsm.imsm, **kwargs: Any):
        super().__init__("image", "text_of_image", "text_of_audio", "audio", **kwargs)
        self.reduction = reduction

    def update(self, image: Tensor, text_of_image: Tensor, text_of_audio: Tensor, audio: Tensor) -> None:
        for name, value in zip(self.names, (image, text_of_image, text_of_audio, audio), strict=True):
            self.keep(name, value)

    def score(self, sets: list[Tensor]) -> float:
        return self.reduction(*sets)


class AttributeAccuracy(Mean):
    """Accuracy: the share of clips whose predicted class is the right one, with a Wilson interval."""

    def update(self, predicted: Tensor, wanted: Tensor) -> None:
        """Logits (B, classes) or class indices (B,), and wanted indices (B,); -100 marks a clip without a label."""
        labelled = wanted >= 0
        self.add(((predicted.argmax(1) if predicted.ndim == 2 else predicted) == wanted)[labelled])

    def measured(self) -> dict[str, Any]:
        if not self.count:
            raise TooFewSamples("No clip has a label.")
        return share(int(self.total), int(self.count))
