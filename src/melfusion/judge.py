"""Judge: waveform → what is heard in it, as logits of each attribute and an embedding; trains itself on labelled clips.

It says whether a picture is heard in generated music (attribute accuracy). It knows only the classes it was taught. What
one kind of network was used to choose, another kind should test: see NETWORKS.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric

from melfusion.audio import LogMel
from melfusion.batch import MusicBatch
from melfusion.optim import TrainedModule
from melfusion.pitch import PitchNetwork, Semitones

MEL_MEAN, MEL_STD = -5.0, 3.0


class JudgeNetwork(nn.Module):
    """log_mel (B, 1, T, F) → embedding (B, D): 4×4 patches, three levels that halve frequency, dilated convolutions in time.

    The time axis stays at 4 mel frames, since tempo is heard in it; mean and deviation over time make one vector.
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

    Unlike JudgeNetwork it sees no neighbourhood of bands and no level of the clip: each frame's spectrum is normalised,
    and its level counts only against the clip's mean. A step is two frames, 40 ms in `scenes`, so that tempo is heard.
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


# kind → (front end, network of its bins)
NETWORKS: dict[str, tuple[type[nn.Module], type[nn.Module]]] = {
    "conv": (LogMel, JudgeNetwork), "recurrent": (LogMel, RecurrentNetwork), "pitch": (Semitones, PitchNetwork),
}  # fmt: skip


class Judge(TrainedModule):
    """Built network and log-mel front end in; `forward` gives logits by attribute.

    Args:
        attributes: name → its classes, as they stand in a sample's `labels`.
    """

    def __init__(self, network: nn.Module, log_mel: nn.Module, attributes: dict[str, list[str]], embedding: int = 128,
                 optim: Any = None, max_steps: int | None = None):  # fmt: skip
        super().__init__()
        self.network, self.log_mel, self.attributes = network, log_mel, attributes
        self.heads = nn.ModuleDict({name: nn.Linear(embedding, len(classes)) for name, classes in attributes.items()})
        self.optim, self.max_steps = optim, max_steps
        self.accuracies = nn.ModuleDict({name: MeanMetric() for name in attributes})
        self.val_loss = MeanMetric()

    def embedding(self, waveform: Tensor) -> Tensor:
        """waveform (B, S) → (B, D)."""
        return self.network(self.log_mel(waveform))

    def forward(self, waveform: Tensor) -> dict[str, Tensor]:
        """waveform (B, S) → attribute → logits (B, classes)."""
        return self._logits(self.log_mel(waveform))

    def _logits(self, log_mel: Tensor) -> dict[str, Tensor]:
        embedded = F.gelu(self.network(log_mel))
        return {name: head(embedded) for name, head in self.heads.items()}

    @torch.no_grad()
    def hear(self, waveform: Tensor) -> list[dict[str, str]]:
        """waveform (B, S) → the most likely class of each attribute, per clip."""
        best = {name: logits.argmax(1).tolist() for name, logits in self(waveform).items()}
        return [{name: self.attributes[name][best[name][i]] for name in best} for i in range(len(waveform))]

    def targets(self, labels: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Class numbers (B,) of each attribute; -100, which no loss counts, where a sample does not tell it."""
        def number(name: str, label: dict[str, Any]) -> int:
            classes = self.attributes[name]
            return classes.index(label[name]) if label.get(name) in classes else -100
        return {name: torch.tensor([number(name, label) for label in labels], device=self.device)
                for name in self.attributes}  # fmt: skip

    def training_step(self, batch: MusicBatch, batch_idx: int) -> Tensor:
        log_mel = augment(self.log_mel(batch.waveform), batch.draws["augment"])
        logits, wanted = self._logits(log_mel), self.targets(batch.labels)
        loss = sum(cross_entropy(logits[name], wanted[name], label_smoothing=0.05) for name in logits) / len(logits)
        self.log_loss(loss, len(batch))
        return loss

    def validation_step(self, batch: MusicBatch, batch_idx: int) -> None:
        logits, wanted = self(batch.waveform), self.targets(batch.labels)
        for name in logits:
            told = wanted[name] >= 0
            self.val_loss.update(cross_entropy(logits[name], wanted[name]), told.sum())
            self.accuracies[name].update((logits[name].argmax(1) == wanted[name])[told].float())
        self.log("val/loss", self.val_loss, prog_bar=True)
        self.log_dict({f"val/accuracy/{name}": metric for name, metric in self.accuracies.items()}, prog_bar=True)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [*self.network.parameters(), *self.heads.parameters()]}]


def cross_entropy(logits: Tensor, wanted: Tensor, **kwargs: float) -> Tensor:
    """Mean over the samples whose class is told (not -100); 0 where none is."""
    return F.cross_entropy(logits, wanted, reduction="sum", **kwargs) / (wanted >= 0).sum().clamp(min=1)


def augment(log_mel: Tensor, noise: Tensor) -> Tensor:
    """What a VAE and a vocoder do to a clip, so that they do not deceive the judge: noise, tilt, gain, and blur.

    `noise` (B, T, F) is the sample's own; its corner values set how much of each.
    """
    amount = noise[:, 0, :4].clamp(-2, 2)[:, :, None, None]  # (B, 4, 1, 1)
    ramp = torch.linspace(-1, 1, log_mel.shape[3], device=log_mel.device)
    blurred = F.avg_pool2d(F.pad(log_mel, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    share = (amount[:, 0:1] / 2).clamp(min=0)
    mixed = log_mel + share * (blurred - log_mel) + 0.25 * amount[:, 1:2] + 0.25 * amount[:, 2:3] * ramp
    return mixed + 0.3 * amount[:, 3:4].clamp(min=0) * noise[:, None]
