"""HiFi-GAN as AudioLDM ships it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class HifiGan(nn.Module):
    """transformers' SpeechT5HifiGan, as AudioLDM ships it."""

    def __init__(self, network: nn.Module, hop_length_samples: int):
        super().__init__()
        self.network, self.hop = network, hop_length_samples

    @torch.no_grad()
    def forward(self, log_mel: Tensor) -> Tensor:
        waveform = self.network(log_mel[:, 0])
        wanted = log_mel.shape[2] * self.hop
        return nn.functional.pad(waveform, (0, max(0, wanted - waveform.shape[-1])))[..., :wanted]
