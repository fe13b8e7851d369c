"""IMSM, the paper's image-music similarity (MeLFusion §5): A_CLIP · A_CLAPᵀ through the same N captions.

The paper does not say how the N×N matrix becomes one number. Rows of A_CLIP are picture → captions, rows of A_CLAP music →
captions. Both are soft-maxed at the temperature of their networks, so entry (i, j) is the probability that picture i and music
j choose the same caption. `imsm` ranks each picture's own music among all; `imsm_released` is the reduction of the released code.
"""

from __future__ import annotations

import torch
from torch import Tensor

from melfusion.metrics.distances import TooFewSamples

TIE = 1e-9  # relative difference below which entries are equal: equal music may differ by rounding

TEMPERATURES = (0.01, 0.01)  # of CLIP and CLAP: the inverse of their logit scales after training, about 100


def matrix(
    image: Tensor, text_of_image: Tensor, text_of_audio: Tensor, audio: Tensor, temperatures: tuple[float, float] = TEMPERATURES
) -> Tensor:
    """Embeddings (N, D) → (N, N): picture i with music j, through all captions; float64."""
    a_clip, a_clap = _cosine(image, text_of_image), _cosine(audio, text_of_audio)
    return (a_clip / temperatures[0]).softmax(1) @ (a_clap / temperatures[1]).softmax(1).T


def imsm(
    image: Tensor, text_of_image: Tensor, text_of_audio: Tensor, audio: Tensor, temperatures: tuple[float, float] = TEMPERATURES
) -> float:
    """Our reduction: the share of other pieces of music that fit a picture less than its own, as a mean over the pictures.

    It is 1 where every picture's own music fits best, and 0.5 at chance, for any N; ties count half. TooFewSamples for N = 1.
    """
    m = matrix(image, text_of_image, text_of_audio, audio, temperatures)
    if len(m) < 2:
        raise TooFewSamples("IMSM compares a picture's own music with others': it needs at least two clips.")
    own = m.diagonal()[:, None].expand_as(m)
    tied = torch.isclose(own, m, rtol=TIE, atol=0)
    wins = torch.where(tied, 0.5, (own > m).double())
    wins.fill_diagonal_(0)
    return (wins.sum(1) / (len(m) - 1)).mean().item()


def imsm_released(image: Tensor, text_of_image: Tensor, text_of_audio: Tensor, audio: Tensor, logit_scale: float = 100.0) -> float:
    """The number of the released code: three soft-maxes, then the mean of the diagonal. For comparison with that code only.

    The last soft-max is of numbers within [0, 1], so the result is at most e/(e + N - 1): .731 at N = 2, .153 at N = 16. It is
    always 1 at N = 1.
    """
    if not len(image):
        raise TooFewSamples("IMSM needs clips, and there are none.")
    a_clip = (logit_scale * _cosine(image, text_of_image)).softmax(-1)
    a_clap = (logit_scale * _cosine(audio, text_of_audio)).softmax(-1)
    return (a_clip @ a_clap.T).softmax(-1).diagonal().mean().item()


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    a, b = (torch.nn.functional.normalize(t.double(), dim=-1) for t in (a, b))
    return a @ b.T
