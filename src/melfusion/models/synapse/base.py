"""VisualSynapse: what every kind shares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from melfusion.batch import VisualFeatures
from melfusion.models.synapse.layers import LayerSpec
from melfusion.models.synapse.matching import MATCHES


class VisualSynapse(nn.Module):
    """Base of all kinds. Holds every parameter that the picture adds; the backbone itself keeps its stock keys.

    Args:
        specs: the chosen layers.  match: key of MATCHES.
    """

    def __init__(self, specs: list[LayerSpec], match: str = "pool"):
        super().__init__()
        self.specs = {spec.name: spec for spec in specs}
        self.match = match
        self.alphas = nn.ParameterDict()

    def grow(self, backbone: Any, text_width: int) -> None:
        """Make the networks that are copies of the backbone or depend on its sizes; its weights are loaded by then."""

    def prepare(self, features: VisualFeatures, text_length: int) -> VisualFeatures:
        """Match tokens: (B, N, D) → (B, M, D) in every chosen layer. Idempotent, so its result may be cached."""
        length = self.matched_length(text_length)
        match = MATCHES[self.match]
        given = {name: features.get(name) or features[spec.image_layer] for name, spec in self.specs.items()}
        return {name: (match(key, length), match(value, length)) for name, (key, value) in given.items()}

    def matched_length(self, text_length: int) -> int:
        """M: how many image tokens the layers get, beside a text of this length."""
        return text_length

    def enter(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor,
        text_embeds: Tensor,
        text_mask: Tensor | None,
        features: VisualFeatures,
        has_image: Tensor,
    ) -> tuple[VisualFeatures, dict[str, Any]]:
        """Once a pass: the backbone's inputs and prepared features → what its layers get, and more arguments for it."""
        return features, {}

    def context(self, layer: str, text_embeds: Tensor, features: tuple[Tensor, Tensor], has_image: Tensor) -> Tensor:
        """Text (B, L, D_text) before the music's key and value are made of it."""
        return text_embeds

    def mix(
        self, layer: str, key: Tensor, value: Tensor, mask: Tensor | None, features: tuple[Tensor, Tensor], has_image: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Music key, value (B, L, ·), additive mask (B, 1, L) or None, prepared features (B, M, D_image) → new ones."""
        return key, value, mask

    beside = False  # does `look` add to the attention?

    def look(self, layer: str, query: Tensor, features: tuple[Tensor, Tensor], has_image: Tensor, heads: int) -> Tensor:
        """Query (B, T, D) by so many heads → what is added to the music's attention (B, T, D), where the kind is `beside`."""
        raise NotImplementedError

    def looked_at(self, layer: str, query: Tensor, features: tuple[Tensor, Tensor], has_image: Tensor, heads: int) -> Tensor:
        """(B, M): the attention that `look` gives to each token, times its |α|."""
        raise NotImplementedError

    keeps_tokens = False  # are the tokens that are attended to those of `prepare`, each from its own place of the picture?

    def over_picture(self, attended: dict[str, Tensor], features: VisualFeatures) -> dict[str, Tensor]:
        """Attention to prepared tokens, layer → (B, M), as attention to the image encoder's own (B, N), with the same sum."""
        found = {}
        for name, share in attended.items():
            own = (features.get(name) or features[self.specs[name].image_layer])[0].shape[1]
            parts = MATCHES[self.match](torch.eye(own, device=share.device)[None], share.shape[1])[0]  # matching is linear
            found[name] = share @ parts
        return found


class AlphaSynapse(VisualSynapse):
    """Base of the kinds with a learned weight α per group of layers.

    Args:
        alpha_share: all, block, layer or head: which layers share an α; `head`: one number per head of each layer.
    """

    def __init__(self, specs: list[LayerSpec], match: str = "pool", alpha_share: str = "block", alpha_init: float = 0.5):
        super().__init__(specs, match)
        self.share = alpha_share
        for spec in specs:
            shape = (spec.heads,) if alpha_share == "head" else ()
            self.alphas[self.group(spec)] = nn.Parameter(torch.full(shape, float(alpha_init)))

    def group(self, spec: LayerSpec) -> str:
        """Name of the α of a layer."""
        group = {"all": "all", "block": spec.block}.get(self.share, spec.name)
        return group.replace(".", "-")  # parameter names may hold no dot

    def alpha(self, layer: str, part: str = "value") -> Tensor:
        """The raw α of eq. 5-6 for the keys or values of a layer: a scalar, or (D,) where each head has its own."""
        spec = self.specs[layer]
        alpha = self.alphas[self.group(spec)]
        if self.share != "head":
            return alpha
        return alpha.repeat_interleave(spec.width // spec.heads).repeat(spec.widths[part] // spec.width)


class NoSynapse(VisualSynapse):
    """The text-only model: no layer is touched."""

    def __init__(self, specs: list[LayerSpec], match: str = "pool"):
        super().__init__([], match)


def last(specs: dict[str, LayerSpec]) -> LayerSpec:
    """The layer that comes last in the forward pass."""
    return list(specs.values())[-1]


def normalised(tokens: Tensor) -> Tensor:
    """(B, N, D), each token with mean 0 and variance 1."""
    return F.layer_norm(tokens.float(), tokens.shape[-1:])


def rescale(image: Tensor, music: Tensor) -> Tensor:
    """Image keys or values at the RMS of the music's, per sample."""
    target, own = (t.detach().float().square().mean((1, 2), keepdim=True).sqrt() for t in (music, image))
    return image * (target / own.clamp(min=1e-6)).to(image.dtype)


def make_projections(specs: list[LayerSpec]) -> nn.ModuleDict:
    """A linear layer from the picture's width to the music's, for key and value of each layer."""
    return nn.ModuleDict(
        {
            f"{spec.name.replace('.', '-')}-{part}": nn.Linear(spec.image_width, width)
            for spec in specs
            for part, width in spec.widths.items()
        }
    )


def project(projections: nn.ModuleDict, layer: str, features: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Normalised image key and value in the music's width."""

    def projected(part: str, tokens: Tensor) -> Tensor:
        linear: Any = projections[f"{layer.replace('.', '-')}-{part}"]
        return linear(normalised(tokens).to(linear.weight.dtype))

    return projected("key", features[0]), projected("value", features[1])


def attention_to(tokens: int, width: int, attend: Callable[[Tensor], Tensor]) -> Tensor:
    """(B, M): the attention that each of M tokens gets, a mean over heads and queries.

    Attention is softmax(QKᵀ/√d) V (Vaswani et al. 2017, arXiv 1706.03762, eq. 1), which is linear in V. So a channel of V that is 1
    at one token and 0 at all others becomes that token's share: as many tokens at once as a head has channels.

    Args:
        width: channels of a head.  attend: V (M, width) of each head → (B, T, heads · width).
    """
    shares = []
    for some in torch.eye(tokens).split(width):
        attended = attend(F.pad(some.T, (0, width - len(some)))).float()
        shares.append(attended.unflatten(2, (-1, width)).mean((1, 2))[:, : len(some)])
    return torch.cat(shares, 1)


def attention(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Query (B, T, D) by so many heads, key and value (B, M, D or less, which groups of heads share) → (B, T, D)."""
    width = query.shape[2] // heads
    query, key, value = (t.unflatten(2, (-1, width)).transpose(1, 2) for t in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, enable_gqa=key.shape[1] != heads).transpose(1, 2).flatten(2)
