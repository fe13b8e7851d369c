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
        self.empty: dict[torch.device, tuple[set[int], dict[str, Tensor]]] = {}

    @torch.no_grad()
    def forward(self, captions: list[str], fields: list[dict[str, Any]] | None = None) -> Prompt:
        ids, mask = self.tokenize(captions)
        clap = self.clap_embeds(captions)
        rows = [self.read(ids[i, : int(mask[i].sum())], mask[i], clap[i]) for i in range(len(captions))]
        return Prompt.of({name: torch.stack([row[name] for row in rows]) for name in rows[0]})

    def shapes(self, n: int) -> Prompt:
        prompt = super().shapes(n)
        generated = torch.empty(n, self.written, self.writer.config.n_embd, device=self.device)
        return prompt.saying(prompt.said() | {"extra.generated": generated})

    def clap_embeds(self, captions: list[str]) -> Tensor:
        """(B, 1, D) of CLAP."""
        longest = min(self.clap_tokenizer.model_max_length, self.clap.config.text_config.max_position_embeddings - 2)
        tokens = self.clap_tokenizer(captions, padding=True, truncation=True, max_length=longest, return_tensors="pt")
        inputs = {name: tokens[name].to(self.device) for name in ("input_ids", "attention_mask")}
        return self.clap.get_text_features(**inputs).pooler_output.float()[:, None]

    def read(self, ids: Tensor, mask: Tensor, clap: Tensor) -> dict[str, Tensor]:
        """One caption, by the names of Prompt.said.

        Args:
            ids: (n,) tokens without padding.
            mask: (L,).
        """
        seen = torch.ones_like(ids)[None]
        text = self.words(ids[None], seen)
        both = self.projection(clap[None], text, seen[:, :1], seen)
        padding = text.new_zeros(self.max_length - text.shape[1], text.shape[2])
        return {
            "text_embeds": torch.cat([text[0], padding]),
            "text_mask": mask.bool(),
            "extra.generated": self.write([both.hidden_states[0]], [both.attention_mask[0]])[0],
        }

    def words(self, ids: Tensor, seen: Tensor) -> Tensor:
        """(1, n) tokens and which of them are no padding → T5's (1, n, D)."""
        with torch.autocast("cuda", torch.bfloat16) if ids.is_cuda else contextlib.nullcontext():
            return self.network(input_ids=ids, attention_mask=seen).last_hidden_state.float()

    def write(self, rows: list[Tensor], masks: list[Tensor]) -> Tensor:
        """(n, D') each, and their masks → (B, M, D') hidden states, each of which is the next input.

        Rows may differ in length: what is written follows its own row, and the places after it are not seen before they are filled.
        """
        ends = torch.tensor([len(row) for row in rows], device=rows[0].device)
        embeds = rows[0].new_zeros(len(rows), max(map(len, rows)) + self.written, rows[0].shape[1])
        seen = masks[0].new_zeros(embeds.shape[:2])
        for i, (row, mask) in enumerate(zip(rows, masks, strict=True)):
            embeds[i, : len(row)], seen[i, : len(row)] = row, mask
        every = torch.arange(len(rows), device=ends.device)
        for k in range(self.written):
            states = self.writer(inputs_embeds=embeds, attention_mask=seen, use_cache=False).last_hidden_state
            embeds[every, ends + k], seen[every, ends + k] = states[every, ends + k - 1].to(embeds), 1
        return torch.stack([embeds[every, ends + k] for k in range(self.written)], 1)

    def without_text(self, prompt: Prompt) -> Prompt:
        """The encoded empty string, padded to each caption's length, as its own pipeline has it.

        A GPU would be waited for if it were asked how long they are: all lengths are encoded once, and each takes its own.
        """
        lengths = prompt.text_mask.sum(1)
        asked = set(lengths.tolist()) if lengths.device.type == "cpu" else set(range(1, self.max_length + 1))
        nothing = self.nothing_of(asked, lengths.device)
        within = torch.arange(self.max_length, device=lengths.device) < lengths[:, None]
        return prompt.saying(
            {
                "text_embeds": nothing["text_embeds"] * within[..., None],
                "text_mask": nothing["text_mask"].expand(len(lengths), -1),
                "extra.generated": nothing["extra.generated"][lengths],
            }
        )

    @torch.no_grad()
    def nothing_of(self, lengths: set[int], device: torch.device) -> dict[str, Tensor]:
        """The empty string: T5's text (1, L, D), its mask (1, L), and (L + 1, M, D') by the tokens that it is padded to.

        Each length is encoded once. T5 sees no padding, so that a shorter text is the beginning of the longest.
        """
        if device not in self.empty:
            stored = self.shapes(1).to(device).said()
            generated = stored["extra.generated"].new_zeros(self.max_length + 1, *stored["extra.generated"].shape[1:])
            self.empty[device] = (set(), stored | {"extra.generated": generated})
        known, stored = self.empty[device]
        if (new := sorted(lengths - known)) and device.type != "meta":
            ids, mask = self.tokenize([""])
            text, clap = self.words(ids, mask), self.clap_embeds([""])
            parts = [self.projection(clap, text[:, :n], mask[:, :1], mask[:, :n]) for n in new]
            written = self.write([one.hidden_states[0] for one in parts], [one.attention_mask[0] for one in parts])
            stored["extra.generated"][torch.tensor(new, device=device)] = written.to(device)
            stored |= {"text_embeds": text.to(device), "text_mask": mask.bool().to(device)}
        self.empty[device] = (known | lengths, stored)
        return stored
