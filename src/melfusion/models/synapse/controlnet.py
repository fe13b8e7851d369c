"""ControlNet: a copy of the encoder reads the picture."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor

from melfusion.batch import VisualFeatures
from melfusion.errors import ConfigError
from melfusion.models.synapse.base import VisualSynapse, last, normalised
from melfusion.models.synapse.layers import LayerSpec
from melfusion.models.synapse.matching import most_square


class ControlNet(VisualSynapse):
    """A trainable copy of the music UNet's encoder gets the picture as well. It adds to the skip connections through
    convolutions that start at zero; cross-attention stays with the text (Zhang et al. 2023, arXiv 2302.05543).

    The picture is the values of the last chosen layer, stretched over the latents' grid. The copy takes no text mask, so hidden
    words are zeros to it.
    """

    WIDTH = 32  # channels of the first convolution over the picture

    def __init__(self, specs: list[LayerSpec], image_tokens: int = 64, match: str = "pool"):
        super().__init__(specs, match)
        self.image_tokens = image_tokens
        if self.match != "pool_2d":
            raise ConfigError(
                f"synapse.kind=controlnet needs the picture's tokens as a grid, and synapse.match={self.match} does not keep it: "
                "give synapse.match=pool_2d."
            )

    def grow(self, backbone: Any, text_width: int) -> None:
        from diffusers import ControlNetModel  # seconds to import, and rarely wanted

        if not isinstance(backbone, UNet2DConditionModel):
            raise ConfigError(
                f"synapse.kind=controlnet copies the encoder of a UNet, which a {type(backbone).__name__} does not have: "
                "use concat or kv_mix_proj."
            )
        sizes = {"conditioning_embedding_out_channels": (self.WIDTH,), "conditioning_channels": last(self.specs).image_width}
        self.copy = ControlNetModel.from_unet(backbone, **sizes)

    def matched_length(self, text_length: int) -> int:
        return self.image_tokens

    def enter(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor,
        text_embeds: Tensor,
        text_mask: Tensor | None,
        features: VisualFeatures,
        has_image: Tensor,
    ) -> tuple[VisualFeatures, dict[str, Any]]:
        seen = normalised(features[last(self.specs).name][1]).transpose(1, 2)
        seen = F.interpolate(seen.unflatten(2, (most_square(seen.shape[2]), -1)), noisy_latents.shape[2:], mode="bilinear")
        text = text_embeds if text_mask is None else text_embeds * text_mask[..., None]
        skips, mid = self.copy(noisy_latents, timesteps, text, seen, return_dict=False)
        there = has_image[:, None, None, None].to(mid.dtype)
        return features, {
            "down_block_additional_residuals": [skip * there for skip in skips],
            "mid_block_additional_residual": mid * there,
        }
