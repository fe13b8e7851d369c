"""A copy of the encoder is shown the picture (ControlNet)."""

from __future__ import annotations

import torch.nn.functional as F

from melfusion.errors import ConfigError
from melfusion.models.synapse.base import VisualSynapse, last, normalised
from melfusion.models.synapse.layers import LayerSpec
from melfusion.models.synapse.matching import most_square


class ControlNet(VisualSynapse):
    """A trainable copy of the music UNet's encoder is shown the picture, and adds to the skip connections through convolutions
    that start at zero; cross-attention stays the text's (Zhang et al. 2023, arXiv 2302.05543).

    The picture is the values of the last chosen layer, stretched over the latents' grid. The copy knows no text mask: what
    is hidden is zeros to it.
    """

    WIDTH = 32  # of the first look at the picture

    def __init__(self, specs: list[LayerSpec], **kwargs):
        super().__init__(specs, **kwargs)
        if self.match != "pool_2d":
            raise ConfigError(
                "synapse.kind=controlnet needs the picture's tokens as a grid, which synapse.match="
                f"{self.match} does not leave them: give synapse.match=pool_2d."
            )

    def grow(self, unet):
        from diffusers import ControlNetModel  # seconds to import, and rarely wanted

        width = last(self.specs).image_width
        self.copy = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(self.WIDTH,), conditioning_channels=width)

    def matched_length(self, text_length: int) -> int:
        return self.num_tokens

    def enter(self, noisy_latents, timesteps, text_embeds, text_mask, features, has_image):
        seen = normalised(features[last(self.specs).name][1]).transpose(1, 2)
        seen = F.interpolate(seen.unflatten(2, (most_square(seen.shape[2]), -1)), noisy_latents.shape[2:], mode="bilinear")
        text = text_embeds if text_mask is None else text_embeds * text_mask[..., None]
        skips, mid = self.copy(noisy_latents, timesteps, text, seen, return_dict=False)
        there = has_image[:, None, None, None].to(mid.dtype)
        return features, {
            "down_block_additional_residuals": [skip * there for skip in skips],
            "mid_block_additional_residual": mid * there,
        }
