"""Stable Audio 3's conditioner: T5Gemma's text and the duration, which also is the last token of the text."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from diffusers.pipelines.stable_audio_3.modeling_stable_audio_3 import StableAudio3DurationEmbedder

from melfusion.batch import Prompt
from melfusion.models.conditioner import number
from melfusion.models.text_encoder import TextEncoder


class StableAudio3Conditioner(TextEncoder):
    """Context: the words, then one token of the duration. Extra `global`: (B, D), that token.

    Args:
        embedder: seconds → (B, D).
        clip_duration_s: of a clip whose request says nothing of it.
    """

    takes = ("duration_s",)
    duration = "duration_s"
    option = "conditioner.max_length"

    def __init__(
        self, network: Any, tokenizer: Any, embedder: StableAudio3DurationEmbedder, max_length: int, clip_duration_s: float
    ):
        super().__init__(network, tokenizer, max_length)
        self.embedder, self.clip_duration_s = embedder, clip_duration_s

    @property
    def width(self) -> int:
        return self.embedder.config.output_dim

    @property
    def length(self) -> int:
        return self.max_length + 1

    @torch.no_grad()
    def forward(self, captions: list[str], fields: list[dict[str, Any]] | None = None) -> Prompt:
        text, requests = super().forward(captions), fields or [{}] * len(captions)
        seconds = [number(request, "duration_s", self.clip_duration_s) for request in requests]
        token = self.embedder(torch.tensor(seconds, device=self.device))
        mask = torch.cat([text.text_mask, text.text_mask.new_ones(len(captions), 1)], 1)
        return Prompt(torch.cat([text.text_embeds, token[:, None]], 1), mask, extra={"global": token})

    def without_text(self, prompt: Prompt) -> Prompt:
        """The encoded empty string; the duration stays, as token and as global."""
        nothing, n = self.nothing(prompt.text_embeds.device), len(prompt)
        embeds = torch.cat([nothing.text_embeds[:, :-1].expand(n, -1, -1), prompt.text_embeds[:, -1:]], 1)
        return dataclasses.replace(prompt, text_embeds=embeds, text_mask=nothing.text_mask.expand(n, -1))
