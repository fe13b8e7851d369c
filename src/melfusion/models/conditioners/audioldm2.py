"""AudioLDM 2's conditioner (Liu et al. 2023, arXiv 2308.05734): T5's text, and what a GPT-2 writes after CLAP's and T5's."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from diffusers.pipelines.audioldm2 import AudioLDM2ProjectionModel
from torch import Tensor

from melfusion.batch import Prompt
from melfusion.models.text_encoder import TextEncoder


class AudioLDM2Conditioner(TextEncoder):
    """Context: T5's text. Extra `generated`: (B, M, D'), the GPT-2's tokens.

    The GPT-2 counts its positions over the padding, so that a clip would change with the longest caption beside it. Here each
    caption is read at its own length, as in a batch of its own.

    Args:
        network, tokenizer: T5.
        clap, clap_tokenizer: a ClapModel, of which the text branch is used.
        projection: brings both to the width of the GPT-2.
        writer: the GPT-2, without a head. It writes hidden states and no words.
        written: M.
    """

    option = "conditioner.max_length"
    looks_at_values = True

    def __init__(
        self,
        network: Any,
        tokenizer: Any,
        clap: Any,
        clap_tokenizer: Any,
        projection: AudioLDM2ProjectionModel,
        writer: Any,
        max_length: int,
        written: int = 8,
    ):
        super().__init__(network, tokenizer, max_length)
        self.clap, self.clap_tokenizer = clap, clap_tokenizer
        self.projection, self.writer, self.written = projection, writer, written
        self.empty: dict[tuple[int, torch.device], dict[str, Tensor]] = {}

    @torch.no_grad()
    def forward(self, captions: list[str], fields: list[dict[str, Any]] | None = None) -> Prompt:
        ids, mask = self.tokenize(captions)
        heard = self.heard(captions)
        rows = [self.read(ids[i, : int(mask[i].sum())], mask[i], heard[i]) for i in range(len(captions))]
        return Prompt.of({name: torch.stack([row[name] for row in rows]) for name in rows[0]})

    def shapes(self, n: int) -> Prompt:
        prompt = super().shapes(n)
        generated = torch.empty(n, self.written, self.writer.config.n_embd, device=self.device)
        return prompt.saying(prompt.said() | {"extra.generated": generated})

    def heard(self, captions: list[str]) -> Tensor:
        """(B, 1, D) of CLAP."""
        longest = min(self.clap_tokenizer.model_max_length, self.clap.config.text_config.max_position_embeddings - 2)
        tokens = self.clap_tokenizer(captions, padding=True, truncation=True, max_length=longest, return_tensors="pt")
        told = {name: tokens[name].to(self.device) for name in ("input_ids", "attention_mask")}
        return self.clap.get_text_features(**told).pooler_output.float()[:, None]

    def read(self, ids: Tensor, mask: Tensor, heard: Tensor, seen: Tensor | None = None) -> dict[str, Tensor]:
        """One caption, by the names of Prompt.said.

        Args:
            ids: (n,) tokens without padding. With `seen`, (n,) bool, some of them are padding.
            mask: (L,).
        """
        seen = torch.ones_like(ids) if seen is None else seen.long()
        with torch.autocast("cuda", torch.bfloat16) if ids.is_cuda else contextlib.nullcontext():
            text = self.network(input_ids=ids[None], attention_mask=seen[None]).last_hidden_state
        text = text.float()
        both = self.projection(heard[None], text, torch.ones_like(seen[None, :1]), seen[None])
        padding = text.new_zeros(self.max_length - text.shape[1], text.shape[2])
        return {
            "text_embeds": torch.cat([text[0], padding]),
            "text_mask": mask.bool(),
            "extra.generated": self.write(both.hidden_states, both.attention_mask)[0],
        }

    def write(self, embeds: Tensor, mask: Tensor) -> Tensor:
        """(1, n, D'), (1, n) → (1, M, D') hidden states, each of which is the next input."""
        for _ in range(self.written):
            states = self.writer(inputs_embeds=embeds, attention_mask=mask, use_cache=False).last_hidden_state
            embeds, mask = torch.cat([embeds, states[:, -1:]], 1), torch.cat([mask, mask.new_ones(1, 1)], 1)
        return embeds[:, -self.written :]

    def without_text(self, prompt: Prompt) -> Prompt:
        """The encoded empty string, padded to each caption's length, as its own pipeline has it."""
        lengths = prompt.text_mask.sum(1).tolist()
        rows = [self.nothing_of(length, prompt.text_embeds.device) for length in lengths]
        return prompt.saying({name: torch.stack([row[name] for row in rows]) for name in rows[0]})

    @torch.no_grad()
    def nothing_of(self, length: int, device: torch.device) -> dict[str, Tensor]:
        """The empty string, padded to this many tokens; each length is encoded once."""
        if (length, device) not in self.empty:
            ids, mask = self.tokenize([""])
            self.empty[length, device] = self.read(ids[0, :length], mask[0], self.heard([""])[0], mask[0, :length])
        return self.empty[length, device]
