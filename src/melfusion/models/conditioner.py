"""Conditioner: what the user asks for → what the denoiser attends to."""

from __future__ import annotations

from typing import Any

import lightning

from melfusion.batch import Prompt


class Conditioner(lightning.LightningModule):
    """Base of all encoders of the prompt; frozen in the system. The empty string stands for no text.

    B prompts, L text tokens, D width of a token.
    """

    @property
    def width(self) -> int:
        """D."""
        raise NotImplementedError

    takes: tuple[str, ...] = ()  # fields beside the caption that it reads: labels of a sample, options of a request

    def forward(self, captions: list[str], fields: list[dict[str, Any]] | None = None) -> Prompt:
        """Captions and their fields → Prompt, without a gradient. Shapes are the same for every batch.

        A field that is not there has the default of its model.
        """
        raise NotImplementedError

    def without_text(self, prompt: Prompt) -> Prompt:
        """The same requests without their text, as the backbone was trained to see none: here the encoded empty string."""
        if self._nothing is None or self._nothing.text_embeds.device != prompt.text_embeds.device:
            self._nothing = self([""])
        n = len(prompt)
        return prompt.saying({name: t.expand(n, *t.shape[1:]) for name, t in self._nothing.said().items()})

    _nothing: Prompt | None = None
