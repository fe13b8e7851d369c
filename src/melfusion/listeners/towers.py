"""Towers: contrastive models of picture and caption, and of clip and caption; they train themselves.

There are two separate spaces, as in CLIP (arXiv 2103.00020) for picture and caption and in CLAP (2206.04769) for audio and
caption. Each has its own linear map of one frozen sentence embedding. They know only the words and pictures of their training.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric

from melfusion.batch import MusicBatch
from melfusion.listeners.judge import augment
from melfusion.models.conditioner import Conditioner
from melfusion.models.trained import TrainedModule

PAIRS = ("image", "audio")

FIRST_TEMPERATURE, LEAST_TEMPERATURE = 0.07, 0.01  # CLIP's

SIDE = 32  # pixels of the image tower's input

ENCODED_AT_ONCE = 32  # captions of a batch


class ImageTower(nn.Module):
    """pixels (B, 3, H, W) in [-1, 1] → (B, D): resized to 32×32, then three convolutions that halve the side."""

    def __init__(self, width: int, embedding: int):
        super().__init__()
        channels = [3, width, 2 * width, 4 * width]
        self.levels = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(c, d, 3, stride=2, padding=1), nn.GroupNorm(8, d), nn.GELU())
                for c, d in zip(channels, channels[1:], strict=False)
            )
        )
        self.embed = nn.Linear(channels[-1] * (SIDE // 8) ** 2, embedding)

    def forward(self, pixels: Tensor) -> Tensor:
        if pixels.shape[2:] != (SIDE, SIDE):
            pixels = F.interpolate(pixels, (SIDE, SIDE), mode="bilinear", antialias=True)
        return self.embed(self.levels(pixels).flatten(1))


class Towers(TrainedModule):
    """Unit vectors (B, D) of pictures, clips and captions, from built networks.

    Args:
        image_tower: pixels (B, 3, H, W) → (B, D).  audio_tower: log_mel (B, 1, T, F) → (B, D).
        text_encoder: frozen; each caption is encoded once and its sentence embedding is kept.

    Every other caption of a micro-batch counts as wrong, even where it means the same: some captions differ in key, beats per
    minute and wording only, and a picture shows none of these. So even perfect towers do not reach retrieval 1.
    """

    def __init__(
        self,
        image_tower: nn.Module,
        audio_tower: nn.Module,
        log_mel: nn.Module,
        text_encoder: Conditioner,
        embedding: int,
        optim: Any = None,
        max_steps: int | None = None,
        sizes: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.sizes = sizes or {}
        self.image_tower, self.audio_tower, self.log_mel, self.text_encoder = image_tower, audio_tower, log_mel, text_encoder
        self.text_maps = nn.ModuleDict({pair: nn.Linear(text_encoder.width, embedding) for pair in PAIRS})
        first = -math.log(FIRST_TEMPERATURE)
        self.log_scales = nn.ParameterDict({pair: nn.Parameter(torch.tensor(first)) for pair in PAIRS})
        self.optim, self.max_steps = optim, max_steps
        self.val_loss = MeanMetric()
        self.retrieval: Any = nn.ModuleDict({pair: MeanMetric() for pair in PAIRS})
        self._sentences: dict[str, Tensor] = {}

    def image(self, pixels: Tensor) -> Tensor:
        """pixels (B, 3, H, W) in [-1, 1] → (B, D), to compare with `text_of_image`."""
        return F.normalize(self.image_tower(pixels.to(self.device)), dim=1)

    def audio(self, waveform: Tensor) -> Tensor:
        """waveform (B, S) → (B, D), to compare with `text_of_audio`."""
        return self._audio(self.log_mel(waveform.to(self.device)))

    def text_of_image(self, captions: list[str]) -> Tensor:
        return F.normalize(self.text_maps["image"](self.sentences(captions)), dim=1)

    def text_of_audio(self, captions: list[str]) -> Tensor:
        return F.normalize(self.text_maps["audio"](self.sentences(captions)), dim=1)

    def temperatures(self) -> dict[str, float]:
        """Pair → the divisor of the cosines before their soft-max."""
        return {pair: 1 / self.scale(pair).item() for pair in PAIRS}

    def scale(self, pair: str) -> Tensor:
        return self.log_scales[pair].clamp(max=-math.log(LEAST_TEMPERATURE)).exp()

    @torch.no_grad()
    def sentences(self, captions: list[str]) -> Tensor:
        """Captions → (B, E): the mean over the token embeddings of each, as all-MiniLM-L6-v2 was trained."""
        new = [caption for caption in dict.fromkeys(captions) if caption not in self._sentences]
        for start in range(0, len(new), ENCODED_AT_ONCE):
            some = new[start : start + ENCODED_AT_ONCE]
            prompt = self.text_encoder(some)
            weights = prompt.text_mask[..., None].float()
            means = (prompt.text_embeds * weights).sum(1) / weights.sum(1).clamp(min=1)
            self._sentences.update(zip(some, means.cpu(), strict=True))
        return torch.stack([self._sentences[caption] for caption in captions]).to(self.device)

    def _audio(self, log_mel: Tensor) -> Tensor:
        return F.normalize(self.audio_tower(log_mel), dim=1)

    def pairs(self, batch: MusicBatch, log_mel: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Pair → embeddings of pictures or clips and of their captions, (n, D) each; of the samples that have both."""
        found = {"audio": (self._audio(log_mel), self.text_of_audio(batch.full_captions))}
        pictured = batch.has_image > 0
        if batch.image is not None and (
            captions := [c for c, has in zip(batch.full_captions, pictured.tolist(), strict=True) if has]
        ):
            found["image"] = (self.image(batch.image[pictured]), self.text_of_image(captions))
        return found

    def training_step(self, batch: MusicBatch, batch_idx: int) -> Tensor:
        log_mel = augment(self.log_mel(batch.waveform), batch.draws["augment"])
        losses = {pair: info_nce(*both, self.scale(pair)) for pair, both in self.pairs(batch, log_mel).items()}
        self.log_dict({f"train/loss/{pair}": loss for pair, loss in losses.items()}, batch_size=len(batch))
        self.log_dict({f"train/temperature/{pair}": t for pair, t in self.temperatures().items()})
        both = list(losses.values())
        return sum(both[1:], both[0]) / len(both)

    def validation_step(self, batch: MusicBatch, batch_idx: int) -> None:
        """`val/retrieval/…`: the share of clips whose own caption is the nearest of their batch; ties count."""
        for pair, (ours, text) in self.pairs(batch, self.log_mel(batch.waveform)).items():
            cosines = ours @ text.T
            self.val_loss.update(info_nce(ours, text, self.scale(pair)), len(ours))
            self.retrieval[pair].update((cosines.diagonal() >= cosines.amax(1) - 1e-6).float())
        self.log("val/loss", self.val_loss, prog_bar=True)
        self.log_dict({f"val/retrieval/{pair}": metric for pair, metric in self.retrieval.items()}, prog_bar=True)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [
            {"params": [*self.image_tower.parameters(), *self.audio_tower.parameters(), *self.text_maps.parameters()]},
            {"params": list(self.log_scales.parameters()), "weight_decay": 0.0},
        ]


def info_nce(a: Tensor, b: Tensor, scale: Tensor | float) -> Tensor:
    """InfoNCE (arXiv 1807.03748) of two sets of unit vectors (n, D) in the same order, averaged over both directions."""
    logits, own = scale * a @ b.T, torch.arange(len(a), device=a.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
