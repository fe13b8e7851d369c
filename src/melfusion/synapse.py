"""The visual synapse: how the picture's self-attention keys and values enter the music UNet's cross-attention.

The file to edit for an ablation: a kind is one class and one line in SYNAPSES. MeLFusion eq. 5-6:
K ← α·K_image + (1-α)·K_music, V ← α·V_image + (1-α)·V_music, in every decoder layer, α learned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from melfusion.batch import VisualFeatures
from melfusion.config import ConfigError

# --- token matching: N image tokens → M (the paper is silent) -------------------------------------------------------


def pool(tokens: Tensor, length: int) -> Tensor:
    """(B, N, D) → (B, M, D): mean over M stretches of the raster order; every image token is in one or more of them."""
    return F.adaptive_avg_pool1d(tokens.transpose(1, 2), length).transpose(1, 2)


def pool_2d(tokens: Tensor, length: int) -> Tensor:
    """(B, N, D) → (B, M, D): mean over a rows × columns grid of cells, the most square one with M cells."""
    side = math.isqrt(tokens.shape[1])
    if tokens.shape[1] == length:
        return tokens
    if side * side != tokens.shape[1]:
        raise ConfigError(f"synapse.match=pool_2d needs a square picture, but got {tokens.shape[1]} image tokens.")
    rows = max(r for r in range(1, math.isqrt(length) + 1) if length % r == 0)
    grid = tokens.transpose(1, 2).unflatten(2, (side, side))
    return F.adaptive_avg_pool2d(grid, (rows, length // rows)).flatten(2).transpose(1, 2)


MATCHES = {"pool": pool, "pool_2d": pool_2d}


# --- layer choice ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerSpec:
    """A cross-attention layer of the music UNet and the image layer of the same name."""

    name: str
    block: str  # "decoder1" = the first decoder block that has cross-attention
    width: int  # of the music's keys and values
    heads: int
    image_width: int


def block_names(layers: list[str]) -> dict[str, str]:
    """Layer → encoder<k> | mid | decoder<k>, counting only blocks that have cross-attention."""
    names: dict[str, str] = {}
    for side, label in (("down_blocks", "encoder"), ("mid_block", "mid"), ("up_blocks", "decoder")):
        members = [layer for layer in layers if layer.startswith(side)]
        blocks = sorted({layer.split(".")[1] for layer in members}, key=int) if side != "mid_block" else []
        for layer in members:
            names[layer] = f"{label}{blocks.index(layer.split('.')[1]) + 1}" if blocks else label
    return names


def choose_layers(layers: list[str], patterns: list[str]) -> list[str]:
    """Layers that any of `decoder`, `encoder`, `both`, a block name like `decoder1`, or a glob pattern names."""
    blocks = block_names(layers)

    def chosen(layer: str, pattern: str) -> bool:
        if pattern == "both":
            return not layer.startswith("mid_block")
        return blocks[layer] == pattern or blocks[layer].rstrip("0123456789") == pattern or fnmatchcase(layer, pattern)

    for pattern in patterns:
        if not any(chosen(layer, pattern) for layer in layers):
            raise ConfigError(f"synapse.layers: {pattern!r} matches none of the layers {', '.join(layers)}.")
    return [layer for layer in layers if any(chosen(layer, pattern) for pattern in patterns)]


# --- kinds ----------------------------------------------------------------------------------------------------------


class VisualSynapse(nn.Module):
    """Base of all kinds. Holds every parameter that the picture adds; the UNet itself keeps its stock keys.

    Args:
        specs: the chosen layers.
        match: key of MATCHES.  num_tokens: M for `concat`; the mixing kinds match to the text length.
    """

    has_alpha = False

    def __init__(self, specs: list[LayerSpec], alpha_share: str = "block", alpha_init: float = 0.5,
                 match: str = "pool", num_tokens: int = 64, match_scale: bool = False):  # fmt: skip
        super().__init__()
        self.specs = {spec.name: spec for spec in specs}
        self.match, self.num_tokens, self.match_scale, self.share = match, num_tokens, match_scale, alpha_share
        self.alphas = nn.ParameterDict()
        if self.has_alpha:
            for spec in specs:
                shape = (spec.heads,) if alpha_share == "head" else ()
                self.alphas[self._group(spec)] = nn.Parameter(torch.full(shape, float(alpha_init)))

    def _group(self, spec: LayerSpec) -> str:
        group = {"all": "all", "block": spec.block}.get(self.share, spec.name)
        return group.replace(".", "-")  # parameter names may hold no dot

    def alpha(self, layer: str) -> Tensor:
        """The raw α of eq. 5-6 for a layer: a scalar, or (D,) where each head has its own."""
        spec = self.specs[layer]
        alpha = self.alphas[self._group(spec)]
        return alpha.repeat_interleave(spec.width // spec.heads) if self.share == "head" else alpha

    def prepare(self, features: VisualFeatures, text_length: int) -> VisualFeatures:
        """Match tokens: (B, N, D) → (B, M, D) in every chosen layer. Idempotent, so its result may be cached."""
        length = self.matched_length(text_length)
        return {layer: tuple(MATCHES[self.match](t, length) for t in features[layer]) for layer in self.specs}

    def matched_length(self, text_length: int) -> int:
        return text_length

    def mix(self, layer: str, key: Tensor, value: Tensor, mask: Tensor | None, features: tuple[Tensor, Tensor],
            has_image: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
        """Music key, value (B, L, D), additive mask (B, 1, L) or None, prepared features (B, M, D_image) → new ones."""
        raise NotImplementedError


class KVMix(VisualSynapse):
    """The paper's rule (eq. 5-6): no parameters but α. Needs image and music layers of equal width."""

    has_alpha = True

    def __init__(self, specs: list[LayerSpec], **kwargs):
        super().__init__(specs, **kwargs)
        self._check_widths(specs)

    def _check_widths(self, specs: list[LayerSpec]) -> None:
        for spec in specs:
            if spec.width != spec.image_width:
                raise ConfigError(f"synapse.kind=kv_mix mixes equal widths, but {spec.name} has {spec.width} in the music "
                                 f"UNet and {spec.image_width} in the image UNet: use kv_mix_proj or other layers.")  # fmt: skip

    def match_image(self, layer: str, features: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Image key and value in the music's width."""
        return features

    def mix(self, layer, key, value, mask, features, has_image):
        image_key, image_value = self.match_image(layer, features)
        if self.match_scale:
            image_key, image_value = _rescale(image_key, key), _rescale(image_value, value)
        weight = (self.alpha(layer) * has_image[:, None, None]).to(
            key.dtype
        )  # 0 without a picture: exactly the stock keys and values
        key = key + weight * (image_key - key)
        value = value + weight * (image_value - value)
        # with a picture every position speaks, or an empty caption would hide it
        return key, value, None if mask is None else mask * (1 - has_image[:, None, None])


class KVMixProj(KVMix):
    """kv_mix after a learned width match of the normalised image features; not the paper's rule."""

    def __init__(self, specs: list[LayerSpec], **kwargs):
        super().__init__(specs, **kwargs)
        self.projections = _projections(specs)

    def _check_widths(self, specs: list[LayerSpec]) -> None:
        pass

    def match_image(self, layer, features):
        return _project(self.projections, layer, features)


class Concat(VisualSynapse):
    """Image tokens, normalised and projected, stand beside the text tokens as extra keys and values; no α."""

    def __init__(self, specs: list[LayerSpec], **kwargs):
        super().__init__(specs, **kwargs)
        self.projections = _projections(specs)

    def matched_length(self, text_length: int) -> int:
        return self.num_tokens

    def mix(self, layer, key, value, mask, features, has_image):
        image_key, image_value = _project(self.projections, layer, features)
        batch, tokens = image_key.shape[:2]
        if mask is None:
            mask = key.new_zeros(batch, 1, key.shape[1])
        # -inf, since a caption that hides all its tokens gives them the same finite bias
        image_mask = torch.where(has_image > 0, 0.0, -torch.inf)[:, None, None].to(mask.dtype).expand(-1, 1, tokens)
        return (torch.cat([key, image_key.to(key.dtype)], 1), torch.cat([value, image_value.to(value.dtype)], 1),
                torch.cat([mask, image_mask], 2))  # fmt: skip


class NoSynapse(VisualSynapse):
    """The text-only model: no layer is touched."""

    def __init__(self, specs: list[LayerSpec], **kwargs):
        super().__init__([], **kwargs)


SYNAPSES: dict[str, type[VisualSynapse]] = {
    "none": NoSynapse, "kv_mix": KVMix, "kv_mix_proj": KVMixProj, "concat": Concat,
}  # fmt: skip


def _rescale(image: Tensor, music: Tensor) -> Tensor:
    """Image keys or values at the RMS of the music's, per sample."""
    rms = lambda t: t.detach().float().square().mean((1, 2), keepdim=True).sqrt()  # noqa: E731
    return image * (rms(music) / rms(image).clamp(min=1e-6)).to(image.dtype)


def _projections(specs: list[LayerSpec]) -> nn.ModuleDict:
    return nn.ModuleDict(
        {f"{spec.name.replace('.', '-')}-{part}": nn.Linear(spec.image_width, spec.width)
         for spec in specs for part in ("key", "value")}
    )  # fmt: skip


def _project(projections: nn.ModuleDict, layer: str, features: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    linears = [projections[f"{layer.replace('.', '-')}-{part}"] for part in ("key", "value")]
    return tuple(
        linear(F.layer_norm(t.float(), t.shape[-1:]).to(linear.weight.dtype))
        for linear, t in zip(linears, features, strict=True)
    )


# --- the attention processor ----------------------------------------------------------------------------------------


class SynapseProcessor:
    """Wraps diffusers' processor on every attention layer; a layer without a synapse calls the stock one.

    A plain object, not an nn.Module: the UNet's state_dict keeps its stock keys. Features come with each forward pass
    through `cross_attention_kwargs`, keyed by layer, so recomputation under activation checkpointing sees the same.
    """

    def __init__(self, stock, layer: str, synapse: VisualSynapse | None):
        self.stock, self.layer, self.synapse = stock, layer, synapse

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None,
                 visual_features: VisualFeatures | None = None, has_image: Tensor | None = None):  # fmt: skip
        if self.synapse is None or visual_features is None:
            return self.stock(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        query, key, value = (
            attn.to_q(hidden_states),
            attn.to_k(encoder_hidden_states),
            attn.to_v(encoder_hidden_states),
        )
        key, value, mask = self.synapse.mix(self.layer, key, value, attention_mask, visual_features[self.layer],
                                            has_image.to(key.dtype))  # fmt: skip
        query, key, value = (t.unflatten(2, (attn.heads, -1)).transpose(1, 2) for t in (query, key, value))
        if mask is not None:
            mask = mask[:, None].to(query.dtype).expand(-1, attn.heads, -1, -1)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return attn.to_out[1](attn.to_out[0](out.transpose(1, 2).flatten(2)))


def attach(unet: nn.Module, synapse: VisualSynapse) -> None:
    """Put a SynapseProcessor on every attention layer of a diffusers UNet."""
    processors = {}
    for name, stock in unet.attn_processors.items():
        layer, _, kind = name.removesuffix(".processor").rpartition(".")
        chosen = synapse if kind == "attn2" and layer in synapse.specs else None
        processors[name] = SynapseProcessor(stock, layer, chosen)
    unet.set_attn_processor(processors)
