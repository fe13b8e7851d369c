"""ACE-Step 1.5's diffusion transformer, a rectified flow with grouped queries and normed keys, with a synapse."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AceStepTransformer1DModel
from torch import Tensor

from melfusion.models.backbones.transformer import Transformer
from melfusion.models.synapse.processor import GroupedProcessor, Masked


class AceStep(Transformer):
    """Latents (B, C, T), times in [0, 1]. Extra `context`: (B, T, D), what stood there before and which frames are to be made;
    without it nothing stood there, and all are.

    The network attends to no padding, as if each clip were made alone. Its own pipeline gives no mask, so that there a clip changes
    with the longest lyrics beside it.
    """

    transformer: AceStepTransformer1DModel

    blocks, attention = "layers", "cross_attn"
    processor = GroupedProcessor

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        for block in self.transformer.layers:
            block.cross_attn.set_processor(Masked(block.cross_attn.processor, self.sight))

    @property
    def text_width(self) -> int:
        return self.transformer.config.encoder_hidden_size or self.transformer.config.hidden_size

    @property
    def latent_channels(self) -> int:
        return self.transformer.config.audio_acoustic_hidden_dim

    def run(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor,
        text_embeds: Tensor,
        text_mask: Tensor | None,
        extra: dict[str, Tensor],
        more: dict[str, Any],
    ) -> Tensor:
        latents, context = noisy_latents.transpose(1, 2), extra.get("context")
        if context is None:
            width = self.transformer.config.in_channels - 2 * self.latent_channels
            context = torch.cat([torch.zeros_like(latents), latents.new_ones(*latents.shape[:2], width)], 2)
        return self.transformer(latents, timesteps, timesteps, text_embeds, context, **more).sample.transpose(1, 2)
