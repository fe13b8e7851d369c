"""VGGish (Hershey et al. 2017, arXiv 1609.09430) in the layout of its published PyTorch weights (vggish-10086976.pth)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank

from melfusion.errors import ConfigError

WIDTHS = (64, 0, 128, 0, 256, 256, 0, 512, 512, 0)  # of the convolutions; 0: max-pooling

FRAMES = 96  # of 10 ms, in one example


class VGGish(nn.Module):
    """waveform (B, S) at 16 kHz → (B, K, 128), one embedding for each 0.96 s, before the last ReLU, as FAD uses it.

    Its front end: 25 ms Hann windows, 512-point magnitudes, 64 HTK mel bands of 125-7500 Hz, ln(mel + 0.01).
    """

    sample_rate_hz = 16000
    filters: Tensor
    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 1
        for wider in WIDTHS:
            layers += [nn.Conv2d(width, wider, 3, padding=1), nn.ReLU()] if wider else [nn.MaxPool2d(2)]
            width = wider or width
        self.features = nn.Sequential(*layers)
        self.embeddings = nn.Sequential(
            nn.Linear(512 * 4 * 6, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 128)
        )
        filters = mel_filter_bank(257, 64, 125.0, 7500.0, 16000, mel_scale="htk", triangularize_in_mel_space=True)
        self.register_buffer("filters", torch.from_numpy(filters).double(), persistent=False)
        self.register_buffer("window", torch.hann_window(400, dtype=torch.float64), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        log_mel = self.log_mel(waveform)
        if log_mel.shape[1] < FRAMES:
            raise ConfigError("VGGish needs clips of at least 0.98 s; lengthen audio.clip_duration_s.")
        examples = log_mel.unfold(1, FRAMES, FRAMES).transpose(2, 3)  # (B, K, 96, 64)
        maps = self.features(examples.flatten(0, 1)[:, None])
        return self.embeddings(maps.permute(0, 2, 3, 1).flatten(1)).unflatten(0, examples.shape[:2])

    def log_mel(self, waveform: Tensor) -> Tensor:
        """(B, S) → (B, frames, 64). In float64 up to the logarithm, since the silent bands of a pure tone are very small."""
        frames = waveform.double().unfold(1, 400, 160) * self.window
        return (torch.fft.rfft(frames, 512).abs() @ self.filters + 0.01).log().to(waveform.dtype)

    def load_published(self, state: dict[str, Tensor]) -> None:
        """Load the tensors of the published file, strictly."""
        self.load_state_dict(state)
