"""Stable Audio 3's diffusion transformer, a rectified flow with differential attention, with a synapse."""

from __future__ import annotations

from typing import Any

from diffusers import StableAudio3DiTModel
from torch import Tensor

from melfusion.models.backbones.transformer import Transformer
from melfusion.models.synapse.processor import DifferentialProcessor


class StableAudio3(Transformer):
    """Latents (B, C, T), times in [0, 1]. Extra `global`: (B, D), the seconds; without it zeros.

    Its cross-attention is the difference of two, with keys k1 and k2 and one value. Each key gets image keys of its own.
    """

    transformer: StableAudio3DiTModel

    blocks, attention = "transformer_blocks", "cross_attn"
    processor = DifferentialProcessor

    @property
    def text_width(self) -> int:
        return self.transformer.config.cond_token_dim

    @property
    def latent_channels(self) -> int:
        return self.transformer.config.io_channels

    @property
    def frames_multiple(self) -> int:
        return self.transformer.config.patch_size

    def widths_of(self, attention: Any) -> tuple[int, int, int]:
        width = attention.heads * attention.dim_heads
        return attention.to_kv.out_features - width, width, attention.heads

    def run(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor,
        text_embeds: Tensor,
        text_mask: Tensor | None,
        extra: dict[str, Tensor],
        more: dict[str, Any],
    ) -> Tensor:
        seconds = extra.get("global")
        if seconds is None:
            seconds = noisy_latents.new_zeros(len(noisy_latents), self.transformer.config.global_cond_dim)
        return self.transformer(noisy_latents, timesteps, text_embeds, seconds, encoder_attention_mask=text_mask, **more).sample
