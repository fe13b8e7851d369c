"""A GPT-2 makes tokens of words and picture (AudioLDM 2)."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from melfusion.batch import VisualFeatures
from melfusion.models.synapse.base import last, make_projections, normalised
from melfusion.models.synapse.concat import Concat


class LanguageOfAudio(Concat):
    """A GPT-2 reads text and picture and writes a few tokens, which stand beside the text's (Liu et al. 2023, AudioLDM 2,
    arXiv 2308.05734). Here it starts from nothing, and learns by the music's loss alone.

    The picture is the values of the last chosen layer.
    """

    keeps_tokens = False  # what it writes is of no place
    WRITTEN = 8  # tokens, as in AudioLDM 2
    HEAD_WIDTH = 64  # as in GPT-2, whose layers it has, in the width of the text

    def grow(self, backbone: Any, text_width: int) -> None:
        from diffusers.pipelines.audioldm2.modeling_audioldm2 import AudioLDM2ProjectionModel
        from transformers import GPT2Config, GPT2Model

        width = text_width
        self.read = AudioLDM2ProjectionModel(width, last(self.specs).image_width, width)
        self.gpt2 = GPT2Model(
            GPT2Config(
                vocab_size=1, n_embd=width, n_head=max(1, width // self.HEAD_WIDTH), resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
            )
        )
        self.gpt2.wte.requires_grad_(False)  # it reads no words
        self.projections = make_projections([dataclasses.replace(spec, image_width=width) for spec in self.specs.values()])

    def enter(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor,
        text_embeds: Tensor,
        text_mask: Tensor | None,
        features: VisualFeatures,
        has_image: Tensor,
    ) -> tuple[VisualFeatures, dict[str, Any]]:
        seen = normalised(features[last(self.specs).name][1])
        masks = [
            torch.ones(text_embeds.shape[:2], device=seen.device) if text_mask is None else text_mask,
            has_image[:, None].expand(seen.shape[:2]),
        ]
        prompt = self.read(text_embeds, seen, *(mask.long() for mask in masks))
        new, mask, past = prompt.hidden_states, prompt.attention_mask, None
        made: list[Tensor] = []
        for _ in range(self.WRITTEN):
            out = self.gpt2(inputs_embeds=new, attention_mask=mask, past_key_values=past, use_cache=True)
            new, past, mask = out.last_hidden_state[:, -1:], out.past_key_values, F.pad(mask, (0, 1), value=1)
            made.append(new)
        written = torch.cat(made, 1)
        return dict.fromkeys(self.specs, (written, written)), {}
