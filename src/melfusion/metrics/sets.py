"""torchmetrics of two sets of clips and of pairs: sums and gathered embeddings in float64, equal for any batches and ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from torchmetrics.utilities.distributed import gather_all_tensors

from melfusion.metrics import imsm
from melfusion.metrics.distances import TooFewSamples


def gather(clips: Tensor, group: Any = None) -> list[Tensor]:
    """Embeddings (n, D) of all ranks, n of each its own; a rank without clips brings an empty tensor of any shape and type."""
    width = clips.new_tensor(clips.shape[1] if clips.ndim == 2 else 0, dtype=torch.int64)
    widest = max(int(w) for w in gather_all_tensors(width, group))
    return gather_all_tensors(clips.double() if len(clips) else clips.new_zeros(0, widest, dtype=torch.float64), group)


class Collected(Metric):
    """Keeps the embeddings of all clips.

    Args:
        names: of the states, each the embeddings (N, D) of one side.
    """

    full_state_update = False

    def __init__(self, *names: str, **kwargs):
        super().__init__(**{"dist_sync_fn": gather} | kwargs)
        self.names = names
        for name in names:
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def keep(self, name: str, embeddings: Tensor) -> None:
        getattr(self, name).append(embeddings.detach().double())

    def sets(self) -> list[Tensor]:
        """(N, D) of each state; (0, 1) where no clip came."""
        kept = [getattr(self, name) for name in self.names]
        return [dim_zero_cat(s) if len(s) else torch.zeros(0, 1, dtype=torch.float64) for s in kept]


class Mean(Metric):
    """A sum over clips by their number, both in float64."""

    full_state_update = False

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def compute(self) -> Tensor:
        if not self.count:
            raise TooFewSamples(f"{type(self).__name__} needs clips, and there are none.")
        return self.total / self.count


class SetDistance(Collected):
    """Distance of real and generated clips by their embeddings (B, D), any function of two (N, D) sets.

    Args:
        distance: `distances.frechet_distance` (FAD, FD), `frechet_infinity`, `kernel_distance` (KAD). Its TooFewSamples
            says in words why a score is not computed.
    """

    def __init__(self, distance: Callable[[Tensor, Tensor], float], **kwargs):
        super().__init__("real", "generated", **kwargs)
        self.distance = distance

    def update(self, embeddings: Tensor, real: bool) -> None:
        self.keep("real" if real else "generated", embeddings)

    def compute(self) -> Tensor:
        return torch.tensor(self.distance(*self.sets()), dtype=torch.float64)


class KLDivergence(Mean):
    """Mean KL(real ‖ generated) of a tagger's class probabilities on paired clips, as AudioLDM's evaluation has it.

    logits (B, classes); `sigmoid` taggers (PANNs) are normalised over the classes by softmax of their logits.
    """

    def update(self, real_logits: Tensor, generated_logits: Tensor) -> None:
        p, q = (t.double().log_softmax(-1) for t in (real_logits, generated_logits))
        self.total += (p.exp() * (p - q)).sum()
        self.count += len(p)


class CLAPScore(Mean):
    """Mean cosine of paired audio and text embeddings (B, D)."""

    def update(self, audio: Tensor, text: Tensor) -> None:
        self.total += torch.cosine_similarity(audio.double(), text.double(), dim=-1).sum()
        self.count += len(audio)


class ImageMusicSimilarity(Collected):
    """IMSM over all clips: picture, two texts' embeddings (CLIP's and CLAP's space) and audio, each (B, D).

    Args:
        reduction: of the N×N matrix, see `imsm.py`.
    """

    def __init__(self, reduction: Callable[..., float] = imsm.imsm, **kwargs):
        super().__init__("image", "text_of_image", "text_of_audio", "audio", **kwargs)
        self.reduction = reduction

    def update(self, image: Tensor, text_of_image: Tensor, text_of_audio: Tensor, audio: Tensor) -> None:
        for name, value in zip(self.names, (image, text_of_image, text_of_audio, audio), strict=True):
            self.keep(name, value)

    def compute(self) -> Tensor:
        return torch.tensor(self.reduction(*self.sets()), dtype=torch.float64)


class AttributeAccuracy(Mean):
    """Share of clips in which a judge hears the intended class."""

    def update(self, logits: Tensor, wanted: Tensor) -> None:
        """logits (B, classes), wanted (B,); -100 marks a clip whose class is not told."""
        told = wanted >= 0
        self.total += (logits.argmax(1) == wanted)[told].sum()
        self.count += told.sum()
