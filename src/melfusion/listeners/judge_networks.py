"""The networks of judges, by kind."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from melfusion.listeners.pitch import PitchNetwork, Semitones
from melfusion.media.mel import LogMel

MEL_MEAN, MEL_STD = -5.0, 3.0


class JudgeNetwork(nn.Module):
    """log_mel (B, 1, T, F) → embedding (B, D): 4×4 patches, three levels that halve frequency, dilated convolutions in time.

    A step in time is 4 mel frames, fine enough for tempo. The mean and the deviation over time are concatenated.
    """

    def __init__(self, n_mels: int, width: int = 64, embedding: int = 128):
        super().__init__()
        self.patches = nn.Conv2d(1, width, 4, stride=4)
        self.levels = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(8, width), nn.GELU(), nn.AvgPool2d((1, 2)))
            for _ in range(2)
        )
        flat = width * (n_mels // 16)
        self.join = nn.Conv1d(flat, 2 * width, 1)
        self.time = nn.ModuleList(
            nn.Sequential(nn.Conv1d(2 * width, 2 * width, 3, padding=d, dilation=d), nn.GroupNorm(8, 2 * width), nn.GELU())
            for d in (1, 2, 4, 8)
        )
        self.embed = nn.Linear(4 * width, embedding)

    def forward(self, log_mel: Tensor) -> Tensor:
        h = F.gelu(self.patches((log_mel - MEL_MEAN) / MEL_STD))
        for level in self.levels:
            h = level(h)
        h = self.join(h.permute(0, 1, 3, 2).flatten(1, 2))
        for block in self.time:
            h = h + block(h)
        return self.embed(torch.cat([h.mean(2), h.std(2)], 1))


class RecurrentNetwork(nn.Module):
    """log_mel (B, 1, T, F) → embedding (B, D): frames as vectors, a bidirectional GRU over time, attention over its states.

    Unlike JudgeNetwork it does not use the order of the mel bands or the level of the clip: each frame's spectrum is
    normalised, and its level is taken relative to the clip's mean. A step is two frames, 40 ms in `scenes`, fine enough for tempo.
    """

    HEADS = 4

    def __init__(self, n_mels: int, width: int = 64, embedding: int = 128):
        super().__init__()
        self.steps = nn.Conv1d(n_mels + 1, width, 2, stride=2)
        self.gru = nn.GRU(width, width, batch_first=True, bidirectional=True)
        self.attention = nn.Linear(2 * width, self.HEADS)
        self.embed = nn.Linear(self.HEADS * 2 * width, embedding)

    def forward(self, log_mel: Tensor) -> Tensor:
        mel = (log_mel[:, 0] - MEL_MEAN) / MEL_STD
        level = mel.mean(2, keepdim=True)
        # the large eps keeps silent frames, nearly constant, from becoming loud noise
        shape = F.layer_norm(mel, mel.shape[2:], eps=0.1)
        frames = torch.cat([shape, level - level.mean(1, keepdim=True)], 2)
        h = F.gelu(self.steps(frames.transpose(1, 2))).transpose(1, 2)
        states = h.repeat(1, 1, 2) + self.gru(h)[0]
        weights = self.attention(states).softmax(1)  # (B, T/2, heads)
        return self.embed(torch.einsum("bth,btd->bhd", weights, states).flatten(1))


# kind → (front end, network that takes the number of its bins)
NETWORKS: dict[str, tuple[type[nn.Module], type[nn.Module]]] = {
    "conv": (LogMel, JudgeNetwork),
    "recurrent": (LogMel, RecurrentNetwork),
    "pitch": (Semitones, PitchNetwork),
}
