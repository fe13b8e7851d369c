"""The mixing kinds: keys and values of picture and music by a learned α (MeLFusion, eq. 5-6)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from melfusion.errors import ConfigError
from melfusion.models.synapse.base import AlphaSynapse, make_projections, project, rescale
from melfusion.models.synapse.layers import LayerSpec


class KVMix(AlphaSynapse):
    """The paper's rule (eq. 5-6): no parameters but α. Needs image and music layers of equal width."""

    def __init__(self, specs: list[LayerSpec], match_scale: bool = False, **shared: Any):
        super().__init__(specs, **shared)
        self.match_scale = match_scale
        self._check_widths(specs)

    def _check_widths(self, specs: list[LayerSpec]) -> None:
        for spec in specs:
            if set(spec.widths.values()) != {spec.image_width}:
                music = " and ".join(map(str, dict.fromkeys(spec.widths.values())))
                raise ConfigError(
                    f"synapse.kind=kv_mix mixes equal widths, but {spec.name} has {music} in the music "
                    f"backbone and {spec.image_width} in the image encoder: use kv_mix_proj or other layers."
                )

    def match_image(self, layer: str, features: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Image key and value in the music's width."""
        return features

    def mix(
        self, layer: str, key: Tensor, value: Tensor, mask: Tensor | None, features: tuple[Tensor, Tensor], has_image: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        image_key, image_value = self.match_image(layer, features)
        if self.match_scale:
            image_key, image_value = rescale(image_key, key), rescale(image_value, value)
        # 0 without a picture: exactly the stock keys and values
        key = key + (self.alpha(layer, "key") * has_image[:, None, None]).to(key.dtype) * (image_key - key)
        value = value + (self.alpha(layer) * has_image[:, None, None]).to(value.dtype) * (image_value - value)
        # with a picture every position is visible, or an empty caption would hide it
        return key, value, None if mask is None else mask * (1 - has_image[:, None, None])


class KVMixProj(KVMix):
    """kv_mix after a learned width match of the normalised image features; not the paper's rule."""

    def __init__(self, specs: list[LayerSpec], **options: Any):
        super().__init__(specs, **options)
        self.projections = make_projections(specs)

    def _check_widths(self, specs: list[LayerSpec]) -> None:
        pass

    def match_image(self, layer: str, features: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return project(self.projections, layer, features)
