"""TextEncoder: captions → text_embeds (B, L, D), text_mask (B, L). Frozen; T5, CLIP or BERT-like through transformers."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from melfusion.batch import Prompt
from melfusion.models.conditioner import Conditioner

log = logging.getLogger(__name__)


class TextEncoder(Conditioner):
    """A tokenizer and an encoder. Every caption gets exactly L positions, so shapes never change.

    Captions of more than L tokens are cut and counted in `num_cut`; the first one is logged. Captions of more than `max_words`
    words are cut without a warning, since the configuration asks for it.
    """

    option = "text_encoder.max_length"  # that gives L

    def __init__(self, network: Any, tokenizer: PreTrainedTokenizerBase, max_length: int, max_words: int | None = None):
        super().__init__()
        self.network, self.tokenizer, self.max_length, self.max_words = network, tokenizer, max_length, max_words
        self.num_cut = 0

    @property
    def width(self) -> int:
        """D."""
        return self.network.config.hidden_size

    @property
    def length(self) -> int:
        """L."""
        return self.max_length

    def tokenize(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Captions → token ids and mask, both (B, L), on the encoder's device."""
        captions = [c.encode("utf-8", "replace").decode() for c in captions]  # half a surrogate breaks tokenizers
        if self.max_words is not None:
            captions = [" ".join(c.split()[: self.max_words]) for c in captions]
        lengths = [len(ids) for ids in self.tokenizer(captions, truncation=False, verbose=False)["input_ids"]]
        cut = sum(length > self.max_length for length in lengths)
        if cut and not self.num_cut:
            log.warning("Captions longer than %s=%d tokens are cut (one has %d).", self.option, self.max_length, max(lengths))
        self.num_cut += cut
        tokens = self.tokenizer(captions, padding="max_length", truncation=True, max_length=self.max_length, return_tensors="pt")
        return tokens["input_ids"].to(self.device), tokens["attention_mask"].to(self.device)

    @torch.no_grad()
    def forward(self, captions: list[str], fields: list[dict[str, Any]] | None = None) -> Prompt:
        ids, mask = self.tokenize(captions)
        # bf16 whatever the trainer's precision: FLAN-T5-large overflows in fp16
        with torch.autocast("cuda", torch.bfloat16) if ids.is_cuda else contextlib.nullcontext():
            embeds = self.network(input_ids=ids, attention_mask=mask).last_hidden_state
        return Prompt(embeds.float(), mask.bool())
