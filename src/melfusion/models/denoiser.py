"""Denoiser: noisy latents → model output, under text and picture. The part of the system that trains."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import lightning
from torch import Tensor, nn

from melfusion.batch import VisualFeatures


class Denoiser(lightning.LightningModule):
    """Base of all music backbones with their visual synapses.

    B batch, C channels, T frames, F bins of the latents, L text tokens, D width, N image tokens.
    """

    latent_channels: Any = None  # C of the latents; None: any
    text_width: Any = None  # D of the text; None: any

    def channels_of(self, latent_shape: tuple[int, ...]) -> int:
        """How many of its channels latents of this shape (C, T, F) fill."""
        return latent_shape[0]

    @property
    def frames_multiple(self) -> int:
        """T of the latents must be a multiple of this."""
        return 1

    @property
    def layers(self) -> list[str]:
        """Names of the image encoder's layers that are listened to; empty where there is no synapse."""
        return []

    def prepare(self, features: VisualFeatures, text_length: int) -> VisualFeatures:
        """Features as the encoder gives them → as the layers take them. Idempotent, so that its result can be cached."""
        return features

    def provenance(self, text_length: int) -> dict[str, Any]:
        """Plain values that the result of `prepare` depends on."""
        return {"layers": self.layers}

    def forward(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor,
        text_embeds: Tensor,
        text_mask: Tensor | None = None,
        visual_features: VisualFeatures | None = None,
        has_image: Tensor | None = None,
        extra: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """(B, C, T, F), (B,), (B, L, D), (B, L) bool, layer → (B, N, D) pair, (B,), name → (B, …) → model_output (B, C, T, F).

        `extra` is what a conditioner of this backbone makes beside the text.
        """
        raise NotImplementedError

    def checkpoint_activations(self) -> None:
        """Compute activations twice, for less memory."""
        raise NotImplementedError

    def pieces(self) -> list[nn.Module]:
        """The pieces that run one after the other; where training divides the weights, each is gathered alone."""
        return []

    def export(self, folder: Path) -> None:
        """Write the backbone, without its synapse, as `denoiser.weights` reads it."""
        raise NotImplementedError

    def alphas(self) -> dict[str, nn.Parameter]:
        """Group of layers → its α: a scalar, or one number per head."""
        return {}

    def measuring_attention(self) -> AbstractContextManager[dict[str, Tensor]]:
        """Within it a pass notes layer → (B, M), the share of its attention that each of the picture's tokens gets; nothing without
        such. Where the picture has an attention of its own, the shares are times the |α| of its gate."""
        return nullcontext({})

    @property
    def keeps_tokens(self) -> bool:
        """Are these tokens each of its own place of the picture?"""
        return False

    def over_picture(self, attended: dict[str, Tensor], features: VisualFeatures) -> dict[str, Tensor]:
        """What `measuring_attention` noted, over the image encoder's own tokens: layer → (B, N); where `keeps_tokens`."""
        raise NotImplementedError

    def alpha_parameters(self) -> list[nn.Parameter]:
        """All α. They have a learning rate of their own and no weight decay."""
        return list(self.alphas().values())

    def other_parameters(self) -> list[nn.Parameter]:
        """Everything else that trains."""
        alphas = {id(p) for p in self.alpha_parameters()}
        return [p for p in self.parameters() if p.requires_grad and id(p) not in alphas]

    def frozen_state(self) -> dict[str, Tensor]:
        """What does not train, by name, with stored buffers: checkpoints leave it out and name its digest."""
        stored = self.state_dict().keys()
        buffers = {name: buffer for name, buffer in self.named_buffers() if name in stored}
        return {name: p.detach() for name, p in self.named_parameters() if not p.requires_grad} | buffers
