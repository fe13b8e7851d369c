"""SynapticUNet: diffusers' text-to-music UNet2DConditionModel (the paper's, Tango's) with a synapse."""

from __future__ import annotations

from typing import Any

from diffusers import UNet2DConditionModel
from torch import Tensor

from melfusion.models.backbones.base import Backbone, separate
from melfusion.models.backbones.unet_options import UNetConfig
from melfusion.models.synapse.layers import Site, attention_layers, block_names


def unet_sites(unet: UNet2DConditionModel) -> list[Site]:
    """The cross-attentions of a UNet, by the names of their transformer blocks."""
    names = attention_layers(unet)
    blocks, paths = block_names(names), {name: f"{name}.attn2" for name in names}
    return [Site(name, blocks[name], path, *separate(unet.get_submodule(path))) for name, path in paths.items()]


class SynapticUNet(Backbone):
    """By default the decoder's layers listen, as in the paper."""

    unet: Any  # UNet2DConditionModel, or one of its family

    attribute = "unet"
    default_layers = UNetConfig.LISTENS

    @property
    def text_width(self) -> int:
        return self.unet.config.cross_attention_dim

    @property
    def latent_channels(self) -> int:
        return self.unet.config.in_channels

    def sites(self) -> list[Site]:
        return unet_sites(self.unet)

    def trains(self, name: str) -> bool:
        decoder = name.startswith("up_blocks")
        return {"all": True, "decoder": decoder, "cross_attn": decoder and ".attn2." in name, "synapse": False}[self.trainable]

    @property
    def frames_multiple(self) -> int:
        """Every level below the first halves the frames."""
        return 2 ** (len(self.unet.config.block_out_channels) - 1)

    def run(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor,
        text_embeds: Tensor,
        text_mask: Tensor | None,
        extra: dict[str, Tensor],
        more: dict[str, Any],
    ) -> Tensor:
        text = {"encoder_hidden_states": text_embeds, "encoder_attention_mask": text_mask}
        return self.unet(noisy_latents, timesteps, **text, **more).sample
