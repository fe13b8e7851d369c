"""What is asked of the system beside its fixed clips: where each picture acted, and what a judge predicts of the clips."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from melfusion.assembly.influence import picture_influence
from melfusion.assembly.listeners import frozen_judge
from melfusion.assembly.pipeline import Pipeline
from melfusion.assembly.schema import Config
from melfusion.batch import MusicBatch
from melfusion.errors import WeightsError
from melfusion.listeners.judge import Judge
from melfusion.media.figures import as_array, influence_figure
from melfusion.media.sound import levelled, mono

MAP_LEVELS = 2  # noise levels of a map


class PictureMaps:
    """For each item with a picture, where the picture acts on the denoiser's prediction (assembly/influence.py).

    Args:
        patches: of a side; a map takes patches² pictures through the encoder and the denoiser.
    """

    def __init__(self, config: Config, patches: int):
        self.config, self.patches = config, patches

    def __call__(self, system: Any, batch: MusicBatch) -> dict[int, np.ndarray]:
        """Number of an item → a figure (H, W, 3) uint8: the picture, and the map over it."""
        if system.image_encoder is None or batch.image is None:
            return {}
        pipe, images = Pipeline(system, self.config), batch.image
        return {i: self._map(pipe, batch.captions[i], images[i], i, len(batch)) for i in range(len(batch)) if batch.has_image[i]}

    def _map(self, pipe: Pipeline, caption: str, image: Tensor, seed: int, at_once: int) -> np.ndarray:
        """image (3, H, W) in [-1, 1]. `at_once`: as many as there are clips, so that it takes no more memory than they do."""
        here, patches = image[None].to(pipe.system.device), min(self.patches, *image.shape[1:])
        heat = picture_influence(pipe, caption, here, seed, patches, MAP_LEVELS, at_once)
        picture = ((image + 1) / 2).clamp(0, 1).permute(1, 2, 0).numpy()
        return as_array(influence_figure(picture, heat, caption))


class ListeningRows:
    """How often judges predict of the clips what their pictures and captions say, with the right picture and with another's."""

    def __init__(self, config: Config, judges: list[Judge]):
        self.audio, self.judges = config.audio, judges

    @staticmethod
    def of(config: Config) -> ListeningRows | None:
        """With the judges that the configuration names for evaluation; None where it names none."""
        judges = []
        for weights in (config.judge.weights, config.evaluation.text_judge):
            with contextlib.suppress(WeightsError):  # none for such sound; the evaluation says it in words
                judges.append(frozen_judge(config, weights))
        there = [judge for judge in judges if judge is not None]
        return ListeningRows(config, there) if there else None

    def __call__(self, batch: MusicBatch, right: Tensor, generate: Callable[[Tensor, Tensor], Tensor]) -> dict[str, float]:
        """Tag `listening/<row>/<attribute>` → share of the items with that label whose clip is predicted to have it.

        Args:
            right: (B, S) or (B, 2, S), the clips.
            generate: pictures (B, 3, H, W) and has_image (B,) → clips.
        """
        rows = {"right picture": right}
        if not any(self.wanted(batch)) or batch.image is None:
            return {}
        if (half := len(batch) // 2) and bool(batch.has_image.any()):
            rows["shuffled picture"] = generate(batch.image.roll(-half, 0), batch.has_image.roll(-half, 0))
        return {
            f"listening/{row}/{name}": share for row, clips in rows.items() for name, share in self.shares(batch, clips).items()
        }

    def wanted(self, batch: MusicBatch) -> list[dict[str, Any]]:
        """Of each item those of its labels that a judge knows."""
        known = {name: classes for judge in self.judges for name, classes in judge.attributes.items()}
        return [{n: label[n] for n in known if label.get(n) in known[n]} for label in batch.labels]

    @torch.no_grad()
    def shares(self, batch: MusicBatch, clips: Tensor) -> dict[str, float]:
        """Attribute → share of right answers. Where both judges predict an attribute, the first one counts."""
        predicted: list[dict[str, str]] = [{} for _ in clips]
        for judge in reversed(self.judges):
            waveform = levelled(mono(clips), self.audio).to(judge.device)
            predicted = [{**one, **said} for one, said in zip(predicted, judge.predict(waveform), strict=True)]
        found: dict[str, list[bool]] = {}
        for said, label in zip(predicted, self.wanted(batch), strict=True):
            for name, value in label.items():
                found.setdefault(name, []).append(said[name] == value)
        return {name: sum(right) / len(right) for name, right in found.items()}
