"""Conditioner: what the user asks for → what the denoiser attends to."""

from __future__ import annotations

import lightning
from torch import Tensor


class Conditioner(lightning.LightningModule):
    """Base of all encoders of the prompt; frozen in the system. The empty string stands for no text.

    B prompts, L text tokens, D width of a token.
    """

    @property
    def width(self) -> int:
        """D."""
        raise NotImplementedError

    def forward(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Captions → text_embeds (B, L, D) and text_mask (B, L) bool, without a gradient. L is the same for every batch."""
        raise NotImplementedError
