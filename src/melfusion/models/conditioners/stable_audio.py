"""Stable Audio Open's conditioner (Evans et al. 2024, arXiv 2407.14358): T5's text, and where the clip starts and ends."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from diffusers.pipelines.stable_audio.modeling_stable_audio import StableAudioProjectionModel
from torch import Tensor

from melfusion.batch import Prompt
from melfusion.models.conditioner import number
from melfusion.models.text_encoder import TextEncoder


class StableAudioConditioner(TextEncoder):
    """Context: the words, then a token of the first second and one of the last. Extra `global`: (B, 1, 2D), both side by side.

    Args:
        projection: brings words and seconds to width D.
        clip_duration_s: where a clip ends whose request says nothing of it.
    """

    takes = ("seconds_start", "seconds_total")
    duration, start = "seconds_total", "seconds_start"
    option = "conditioner.max_length"

    def __init__(
        self, network: Any, tokenizer: Any, projection: StableAudioProjectionModel, max_length: int, clip_duration_s: float
    ):
        super().__init__(network, tokenizer, max_length)
        self.projection, self.clip_duration_s = projection, clip_duration_s

    @property
    def width(self) -> int:
        return self.projection.config.conditioning_dim

    @property
    def length(self) -> int:
        return self.max_length + 2

    @torch.no_grad()
    def forward(self, captions: list[str], fields: list[dict[str, Any]] | None = None) -> Prompt:
        text, requests = super().forward(captions), fields or [{}] * len(captions)
        embeds = self.projection(text_hidden_states=text.text_embeds).text_hidden_states * text.text_mask[..., None]
        start, end = self.seconds(requests, "seconds_start", 0.0), self.seconds(requests, "seconds_total", self.clip_duration_s)
        times = self.projection(start_seconds=start, end_seconds=end)
        first, last = times.seconds_start_hidden_states, times.seconds_end_hidden_states
        mask = torch.cat([text.text_mask, text.text_mask.new_ones(len(captions), 2)], 1)
        prompt = Prompt(torch.cat([embeds, first, last], 1), mask, extra={"global": torch.cat([first, last], 2)})
        empty = torch.tensor([not caption for caption in captions], device=self.device)
        prompt.text_embeds[empty] = 0  # as without_text has it
        return prompt

    def seconds(self, requests: list[dict[str, Any]], name: str, default: float) -> Tensor:
        """(B,)"""
        return torch.tensor([number(request, name, default) for request in requests], device=self.device)

    def without_text(self, prompt: Prompt) -> Prompt:
        """Zeros for the whole context, as its own pipeline has it; the global seconds stay."""
        return dataclasses.replace(prompt, text_embeds=torch.zeros_like(prompt.text_embeds))
