"""AudioLDM's UNet (Liu et al. 2023, arXiv 2301.12503), which gets the text as one vector, with a synapse."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from melfusion.models.backbones.unet import SynapticUNet
from melfusion.models.synapse.layers import Site
from melfusion.models.synapse.processor import SelfProcessor


class AudioLDM(SynapticUNet):
    """CLAP's vector of the text (text_embeds, (B, 1, D)) goes to all ResNet blocks with the time (FiLM): no layer attends to words.

    Its transformer blocks have the second attention of the other UNets all the same, and what it attends to is the sound. There the
    picture joins: as tokens beside the sound's, or by an attention of its own.
    """

    processor = SelfProcessor

    @property
    def text_width(self) -> int:
        return self.unet.config.projection_class_embeddings_input_dim

    def sites(self) -> list[Site]:
        """Its levels with attention are not those of the image model, so each layer listens at its relative depth."""
        return [replace(site, name=f"sound.{site.name}") for site in super().sites()]

    def run(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor,
        text_embeds: Tensor,
        text_mask: Tensor | None,
        extra: dict[str, Tensor],
        more: dict[str, Any],
    ) -> Tensor:
        return self.unet(noisy_latents, timesteps, None, class_labels=text_embeds[:, 0], **more).sample
