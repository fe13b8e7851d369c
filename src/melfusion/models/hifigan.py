"""HiFi-GAN as AudioLDM ships it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


class HifiGan(nn.Module):
    """transformers' SpeechT5HifiGan, as AudioLDM ships it."""

    def __init__(self, network: nn.Module, hop_length_samples: int):
        super().__init__()
        self.network, self.hop = network, hop_length_samples

    @property
    def reach(self) -> int:
        """Mel frames to each side that a sample depends on."""
        return seen_by(self.network.config)

    @torch.no_grad()
    def forward(self, log_mel: Tensor) -> Tensor:
        waveform = self.network(log_mel[:, 0])
        wanted = log_mel.shape[2] * self.hop
        return nn.functional.pad(waveform, (0, max(0, wanted - waveform.shape[-1])))[..., :wanted]


def seen_by(config: Any) -> int:
    """Mel frames to each side: convolutions of 7 at both ends; in a stage one that raises the rate, then the widest of the blocks
    that stand side by side, with two convolutions for each dilation."""
    frames, rate = 3.0, 1
    for up, kernel in zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True):
        frames, rate = frames + math.ceil(kernel / up) / rate, rate * up
        sizes = zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True)
        frames += max((size - 1) // 2 * sum(d + 1 for d in dilations) for size, dilations in sizes) / rate
    return math.ceil(frames + 3 / rate)
