"""Judge: a classifier of clips. waveform → logits of each attribute, and an embedding; it trains itself on labelled clips.

Its accuracy on generated clips says whether the picture is used. It knows only the classes it was trained on. Where one kind
of network chose something, another kind should test it: see NETWORKS.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric

from melfusion.batch import MusicBatch
from melfusion.models.trained import TrainedModule


class Judge(TrainedModule):
    """Classifier of a built network and its front end; `forward` gives logits by attribute.

    Args:
        network: features → embedding (B, D).  log_mel: waveform (B, S) → features, such as the log-mel.
        attributes: name → its classes, as they stand in the `labels` of a sample.
        sizes: what an export stores, so that the same networks can be built again.
    """

    def __init__(
        self,
        network: nn.Module,
        log_mel: nn.Module,
        attributes: dict[str, list[str]],
        embedding: int = 128,
        optim: Any = None,
        max_steps: int | None = None,
        sizes: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.sizes = sizes or {}
        self.network, self.log_mel, self.attributes = network, log_mel, attributes
        self.heads = nn.ModuleDict({name: nn.Linear(embedding, len(classes)) for name, classes in attributes.items()})
        self.optim, self.max_steps = optim, max_steps
        self.accuracies: Any = nn.ModuleDict({name: MeanMetric() for name in attributes})
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
    def predict(self, waveform: Tensor) -> list[dict[str, str]]:
        """waveform (B, S) → per clip: attribute → predicted class, the one with the largest logit."""
        best = {name: logits.argmax(1).tolist() for name, logits in self(waveform).items()}
        return [{name: self.attributes[name][best[name][i]] for name in best} for i in range(len(waveform))]

    def targets(self, labels: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Class indices (B,) of each attribute; -100, which no loss counts, where a sample has no such label."""

        def number(name: str, label: dict[str, Any]) -> int:
            classes = self.attributes[name]
            return classes.index(label[name]) if label.get(name) in classes else -100

        return {name: torch.tensor([number(name, label) for label in labels], device=self.device) for name in self.attributes}

    def training_step(self, batch: MusicBatch, batch_idx: int) -> Tensor:
        log_mel = augment(self.log_mel(batch.waveform), batch.draws["augment"])
        logits, wanted = self._logits(log_mel), self.targets(batch.labels)
        losses = [cross_entropy(logits[name], wanted[name], label_smoothing=0.05) for name in logits]
        loss = sum(losses[1:], losses[0]) / len(losses)
        self.log_loss(loss, len(batch))
        return loss

    def validation_step(self, batch: MusicBatch, batch_idx: int) -> None:
        logits, wanted = self(batch.waveform), self.targets(batch.labels)
        for name in logits:
            labelled = wanted[name] >= 0
            self.val_loss.update(cross_entropy(logits[name], wanted[name]), labelled.sum())
            self.accuracies[name].update((logits[name].argmax(1) == wanted[name])[labelled].float())
        self.log("val/loss", self.val_loss, prog_bar=True)
        self.log_dict({f"val/accuracy/{name}": metric for name, metric in self.accuracies.items()}, prog_bar=True)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [*self.network.parameters(), *self.heads.parameters()]}]


def cross_entropy(logits: Tensor, wanted: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean over the samples that have a label (not -100); 0 where none has."""
    return F.cross_entropy(logits, wanted, reduction="sum", label_smoothing=label_smoothing) / (wanted >= 0).sum().clamp(min=1)


def augment(log_mel: Tensor, noise: Tensor) -> Tensor:
    """Log-mel (B, 1, T, F) with noise, tilt, gain and blur, so that the judge is robust to what VAE and vocoder do to a clip.

    `noise` (B, T, F) is drawn for each sample; its first four values set the amount of each.
    """
    amount = noise[:, 0, :4].clamp(-2, 2)[:, :, None, None]  # (B, 4, 1, 1)
    ramp = torch.linspace(-1, 1, log_mel.shape[3], device=log_mel.device)
    blurred = F.avg_pool2d(F.pad(log_mel, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    share = (amount[:, 0:1] / 2).clamp(min=0)
    mixed = log_mel + share * (blurred - log_mel) + 0.25 * amount[:, 1:2] + 0.25 * amount[:, 2:3] * ramp
    return mixed + 0.3 * amount[:, 3:4].clamp(min=0) * noise[:, None]
