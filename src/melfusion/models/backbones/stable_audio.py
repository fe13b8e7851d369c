"""Stable Audio Open's diffusion transformer (Evans et al. 2024, arXiv 2407.14358) with a synapse."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import StableAudioDiTModel
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from torch import Tensor

from melfusion.models.backbones.transformer import Transformer


class StableAudio(Transformer):
    """Latents (B, C, T). Extra `global`: (B, 1, D), the seconds; without it zeros, for a twin that is given none.

    Words that the mask hides are zeros, as in its own pipeline, which gives the network no mask.
    """

    transformer: StableAudioDiTModel

    blocks, attention = "transformer_blocks", "attn2"

    @property
    def text_width(self) -> int:
        return self.transformer.config.cross_attention_input_dim

    @property
    def latent_channels(self) -> int:
        return self.transformer.config.in_channels

    def run(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor,
        text_embeds: Tensor,
        text_mask: Tensor | None,
        extra: dict[str, Tensor],
        more: dict[str, Any],
    ) -> Tensor:
        config, batch = self.transformer.config, len(noisy_latents)
        seconds = extra.get("global")
        if seconds is None:
            seconds = noisy_latents.new_zeros(batch, 1, config.global_states_input_dim)
        text = text_embeds if text_mask is None else text_embeds * text_mask[..., None]
        places: Any = torch.arange(noisy_latents.shape[2] + seconds.shape[1], device=noisy_latents.device)  # no copy
        rotary = get_1d_rotary_pos_embed(config.attention_head_dim // 2, places, use_real=True, repeat_interleave_real=False)
        given = {"encoder_hidden_states": text, "global_hidden_states": seconds, "rotary_embedding": rotary} | more
        # a tuple: the class that it returns else warns when it is made (diffusers 0.42), and a warning breaks a compiled graph
        return self.transformer(noisy_latents, timesteps, **given, return_dict=False)[0]
