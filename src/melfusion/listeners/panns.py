"""PANNs' Cnn14 at 16 kHz (Kong et al. 2020, arXiv 1912.10211) in the layout of its published weights (Cnn14_16k_mAP=0.438.pth)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from melfusion.errors import ConfigError

WIDTHS = (64, 128, 256, 512, 1024, 2048)

N_FFT, HOP, MELS, CLASSES = 512, 160, 64, 527

MIN_SAMPLES = 31 * HOP  # 32 frames; one is left after five halvings


class ConvBlock(nn.Module):
    """Two 3×3 convolutions with batch norm."""

    def __init__(self, width_in: int, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class Cnn14(nn.Module):
    """waveform (B, S) at 16 kHz → embedding (B, 1, 2048); `logits` (B, 527) of AudioSet's classes.

    Its front end: centred 512-point Hann windows, power, Slaney mel filters of 50-8000 Hz (from the published file), dB.
    """

    sample_rate_hz = 16000
    filters: Tensor
    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(MELS)
        widths = (1, *WIDTHS)
        for i, width in enumerate(WIDTHS):
            setattr(self, f"conv_block{i + 1}", ConvBlock(widths[i], width))
        self.fc1, self.fc_audioset = nn.Linear(2048, 2048), nn.Linear(2048, CLASSES)
        self.register_buffer("filters", torch.zeros(N_FFT // 2 + 1, MELS))
        self.register_buffer("window", torch.hann_window(N_FFT), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        if waveform.shape[1] < MIN_SAMPLES:
            raise ConfigError("PANNs needs clips of at least 0.31 s; lengthen audio.clip_duration_s.")
        spectrum = torch.stft(waveform, N_FFT, HOP, window=self.window, pad_mode="reflect", return_complex=True)
        mel = spectrum.abs().square().transpose(1, 2) @ self.filters
        x = self.bn0((10 * mel.clamp(min=1e-10).log10())[..., None].transpose(1, 2)).permute(0, 3, 2, 1)
        for i in range(len(WIDTHS)):
            x = getattr(self, f"conv_block{i + 1}")(x)
            if i < len(WIDTHS) - 1:
                x = F.avg_pool2d(x, 2)
        x = x.mean(3)
        return F.relu(self.fc1(x.amax(2) + x.mean(2)))[:, None]

    def logits(self, embedding: Tensor) -> Tensor:
        """(B, 1, 2048) → (B, 527), before the sigmoid."""
        return self.fc_audioset(embedding[:, 0])

    def load_published(self, state: dict[str, Tensor]) -> None:
        """Load the tensors of the published file, strictly. Its Fourier matrices are left out: torch.stft computes the same."""
        state = dict(state.get("model", state))
        for name in ("spectrogram_extractor.stft.conv_real.weight", "spectrogram_extractor.stft.conv_imag.weight"):
            state.pop(name, None)
        state["filters"] = state.pop("logmel_extractor.melW")
        self.load_state_dict(state)
