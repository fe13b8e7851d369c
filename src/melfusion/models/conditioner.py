"""Conditioner: what the user asks for → what the denoiser attends to."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from torch import Tensor

from melfusion.batch import Prompt
from melfusion.errors import ConfigError, shown


class Conditioner(lightning.LightningModule):
    """Base of all encoders of the prompt; frozen in the system. The empty string stands for no text.

    B prompts, L text tokens, D width of a token.
    """

    takes: tuple[str, ...] = ()  # fields beside the caption that it reads: labels of a sample, options of a request
    sounds: tuple[str, ...] = ()  # of them, those of a request alone that are sounds: latents (T, C) of an `excerpt`
    looks_at_values = False  # does `forward` branch on what it computes, so that it cannot run on the meta device?
    duration = ""  # the one of them that tells how long the clip is, or where the piece ends that it is of, in seconds
    start = ""  # the one that tells where in its piece the clip starts, in seconds; without it each clip is a piece of its own

    @property
    def width(self) -> int:
        """D."""
        raise NotImplementedError

    @property
    def length(self) -> int:
        """L."""
        raise NotImplementedError

    def forward(self, captions: list[str], fields: list[dict[str, Any]] | None = None) -> Prompt:
        """Captions and their fields → Prompt, without a gradient. Shapes are the same for every batch.

        A field that is not there has the default of its model.
        """
        raise NotImplementedError

    def shapes(self, n: int) -> Prompt:
        """What `forward` gives for n requests, without its values, on this module's device."""
        text = torch.empty(n, self.length, self.width, device=self.device)
        return Prompt(text, torch.empty(text.shape[:2], dtype=torch.bool, device=self.device))

    def without_text(self, prompt: Prompt) -> Prompt:
        """The same requests without their text, as the backbone was trained to see none: here the encoded empty string."""
        n, nothing = len(prompt), self.nothing(prompt.text_embeds.device)
        return prompt.saying({name: t.expand(n, *t.shape[1:]) for name, t in nothing.said().items()})

    def nothing(self, device: torch.device) -> Prompt:
        """The empty string, encoded once."""
        if self._nothing is None or self._nothing.text_embeds.device != device:
            self._nothing = self([""])
        return self._nothing

    def frame_context(self, latents: Tensor) -> dict[str, Tensor]:
        """What the backbone takes beside each frame of noisy latents (B, C, T): name → (B, T, …)."""
        return {}

    def fields_of(self, labels: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """What of the labels of some samples it reads; a sound is none of them."""
        read = [name for name in self.takes if name not in self.sounds]
        return [{name: known[name] for name in read if name in known} for known in labels]

    def excerpt(self, waveform: Tensor, rate_hz: int) -> Tensor:
        """What it takes of a sound (S,) or (C, S), of the same shape but for S."""
        raise NotImplementedError

    def requests(
        self, fields: list[dict[str, Any]], duration_s: float | None, start_s: float | None = None
    ) -> list[dict[str, Any]]:
        """The fields of some requests, with duration and start where they name none; ConfigError where one is not taken."""
        for name, value in (pair for request in fields for pair in request.items()):
            if name not in self.takes:
                takes = f"it takes {', '.join(self.takes)}" if self.takes else "it takes the prompt alone"
                raise ConfigError(f"{name}={shown(str(value))} means nothing to this model: {takes}.")
        default = {self.duration: duration_s} if self.duration and duration_s is not None else {}
        default |= {self.start: start_s} if self.start and start_s is not None else {}
        return [default | request for request in fields]

    _nothing: Prompt | None = None


def number(fields: dict[str, Any], name: str, default: Any) -> Any:
    """A field as a number; the default where it is not there or empty. ConfigError where it is none."""
    given = fields.get(name)
    if given is None or given == "":
        return default
    try:
        value = float(given)
    except (TypeError, ValueError):
        value = float("nan")
    if not 0 <= value < float("inf"):
        raise ConfigError(f"{name}={shown(str(given))} is no number: give one that is not negative, or leave it out.")
    return value


def words(fields: dict[str, Any], name: str, default: str = "") -> str:
    """A field as text; the default where it is not there or empty."""
    given = fields.get(name)
    return default if given is None or not str(given).strip() else str(given)
