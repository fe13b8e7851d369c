"""The visual synapse: how the picture's self-attention keys and values enter the music UNet's cross-attention.

The file to edit for an ablation: a kind is one class, one line in SYNAPSES, and its word in schema.CHOICES. MeLFusion eq. 5-6:
K ← α·K_image + (1-α)·K_music, V ← α·V_image + (1-α)·V_music, in every decoder layer, α learned.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from melfusion.batch import VisualFeatures
from melfusion.config import ConfigError
from melfusion.layers import LayerSpec

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
    grid = tokens.transpose(1, 2).unflatten(2, (side, side))
    return F.adaptive_avg_pool2d(grid, (_rows(length), length // _rows(length))).flatten(2).transpose(1, 2)


def _rows(cells: int) -> int:
    """Of the most square grid of so many cells, no more than columns."""
    return max(r for r in range(1, math.isqrt(cells) + 1) if cells % r == 0)


MATCHES = {"pool": pool, "pool_2d": pool_2d}


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

    def grow(self, unet: UNet2DConditionModel) -> None:
        """Make what takes after the music UNet itself, whose weights are loaded."""

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

    def enter(self, noisy_latents: Tensor, timesteps: Tensor, text_embeds: Tensor, text_mask: Tensor | None,
              features: VisualFeatures, has_image: Tensor) -> tuple[VisualFeatures, dict[str, Any]]:  # fmt: skip
        """Once a pass: the UNet's own inputs and prepared features → what its layers get, and further arguments of the UNet."""
        return features, {}

    def context(self, layer: str, text_embeds: Tensor, features: tuple[Tensor, Tensor], has_image: Tensor) -> Tensor:
        """Text (B, L, D_text) before the music's key and value are made of it."""
        return text_embeds

    def mix(self, layer: str, key: Tensor, value: Tensor, mask: Tensor | None, features: tuple[Tensor, Tensor],
            has_image: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
        """Music key, value (B, L, D), additive mask (B, 1, L) or None, prepared features (B, M, D_image) → new ones."""
        return key, value, mask

    def attend(self, layer: str, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None,
               features: tuple[Tensor, Tensor], has_image: Tensor) -> Tensor:  # fmt: skip
        """Query (B, T, D) over what `mix` makes of key and value → (B, T, D)."""
        return attention(query, *self.mix(layer, key, value, mask, features, has_image), self.specs[layer].heads)


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


class Decoupled(VisualSynapse):
    """The picture has an attention of its own beside the text's, added through a gate per layer that starts at α.

    After Ye et al. 2023 (IP-Adapter, arXiv 2308.06721), with the gate learned. At α = 0 it equals stock.
    """

    has_alpha = True

    def __init__(self, specs: list[LayerSpec], **kwargs):
        super().__init__(specs, **kwargs)
        self.projections = _projections(specs)

    def matched_length(self, text_length: int) -> int:
        return self.num_tokens

    def attend(self, layer, query, key, value, mask, features, has_image):
        heads = self.specs[layer].heads
        image_key, image_value = (t.to(key.dtype) for t in _project(self.projections, layer, features))
        seen = attention(query, image_key, image_value, None, heads)
        gate = (self.alpha(layer) * has_image[:, None, None]).to(seen.dtype)
        return attention(query, key, value, mask, heads) + gate * seen


class ContextMix(VisualSynapse):
    """The released code's way, for comparison: image values, pooled over tokens and channels to the text's shape, enter the
    text before its projections with weight (2σ(α) - 1) / 5, so within ±0.2 and 0 at α = 0.
    """

    has_alpha = True

    def context(self, layer, text_embeds, features, has_image):
        alpha = self.alphas[self._group(self.specs[layer])].mean()
        weight = ((2 * alpha.sigmoid() - 1) / 5 * has_image[:, None, None]).to(text_embeds.dtype)
        image = F.adaptive_avg_pool1d(features[1], text_embeds.shape[-1]).to(text_embeds.dtype)
        return text_embeds + weight * (image - text_embeds)

    def mix(self, layer, key, value, mask, features, has_image):
        return key, value, None if mask is None else mask * (1 - has_image[:, None, None])


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
            raise ConfigError("synapse.kind=controlnet needs the picture's tokens as a grid, which synapse.match="
                              f"{self.match} does not leave them: give synapse.match=pool_2d.")  # fmt: skip

    def grow(self, unet):
        from diffusers import ControlNetModel  # seconds to import, and rarely wanted

        width = _last(self.specs).image_width
        self.copy = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(self.WIDTH,), conditioning_channels=width)

    def matched_length(self, text_length: int) -> int:
        return self.num_tokens

    def enter(self, noisy_latents, timesteps, text_embeds, text_mask, features, has_image):
        seen = _normalised(features[_last(self.specs).name][1]).transpose(1, 2)
        seen = F.interpolate(seen.unflatten(2, (_rows(seen.shape[2]), -1)), noisy_latents.shape[2:], mode="bilinear")
        text = text_embeds if text_mask is None else text_embeds * text_mask[..., None]
        skips, mid = self.copy(noisy_latents, timesteps, text, seen, return_dict=False)
        there = has_image[:, None, None, None].to(mid.dtype)
        return features, {"down_block_additional_residuals": [skip * there for skip in skips],
                          "mid_block_additional_residual": mid * there}  # fmt: skip


class LanguageOfAudio(Concat):
    """A GPT-2 reads text and picture and writes a few tokens, which stand beside the text's (Liu et al. 2023, AudioLDM 2,
    arXiv 2308.05734). Here it starts from nothing, and learns by the music's loss alone.

    The picture is the values of the last chosen layer.
    """

    WRITTEN = 8  # tokens, as in AudioLDM 2
    HEAD_WIDTH = 64  # as in GPT-2, whose layers it has, in the width of the text

    def grow(self, unet):
        from diffusers.pipelines.audioldm2.modeling_audioldm2 import AudioLDM2ProjectionModel
        from transformers import GPT2Config, GPT2Model

        width = unet.config.cross_attention_dim
        self.read = AudioLDM2ProjectionModel(width, _last(self.specs).image_width, width)
        self.gpt2 = GPT2Model(GPT2Config(vocab_size=1, n_embd=width, n_head=max(1, width // self.HEAD_WIDTH), resid_pdrop=0,
                                         embd_pdrop=0, attn_pdrop=0))  # fmt: skip
        self.gpt2.wte.requires_grad_(False)  # it reads no words
        self.projections = _projections([dataclasses.replace(spec, image_width=width) for spec in self.specs.values()])

    def enter(self, noisy_latents, timesteps, text_embeds, text_mask, features, has_image):
        seen = _normalised(features[_last(self.specs).name][1])
        masks = [torch.ones(text_embeds.shape[:2], device=seen.device) if text_mask is None else text_mask,
                 has_image[:, None].expand(seen.shape[:2])]  # fmt: skip
        prompt = self.read(text_embeds, seen, *(mask.long() for mask in masks))
        new, mask, past, written = prompt.hidden_states, prompt.attention_mask, None, []
        for _ in range(self.WRITTEN):
            out = self.gpt2(inputs_embeds=new, attention_mask=mask, past_key_values=past, use_cache=True)
            new, past, mask = out.last_hidden_state[:, -1:], out.past_key_values, F.pad(mask, (0, 1), value=1)
            written.append(new)
        written = torch.cat(written, 1)
        return dict.fromkeys(self.specs, (written, written)), {}


class NoSynapse(VisualSynapse):
    """The text-only model: no layer is touched."""

    def __init__(self, specs: list[LayerSpec], **kwargs):
        super().__init__([], **kwargs)


SYNAPSES: dict[str, type[VisualSynapse]] = {
    "none": NoSynapse, "kv_mix": KVMix, "kv_mix_proj": KVMixProj, "concat": Concat, "decoupled": Decoupled,
    "context_mix": ContextMix, "controlnet": ControlNet, "language_of_audio": LanguageOfAudio,
}  # fmt: skip


def _last(specs: dict[str, LayerSpec]) -> LayerSpec:
    return list(specs.values())[-1]


def _normalised(tokens: Tensor) -> Tensor:
    """(B, N, D), each token with mean 0 and variance 1."""
    return F.layer_norm(tokens.float(), tokens.shape[-1:])


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
        linear(_normalised(t).to(linear.weight.dtype))
        for linear, t in zip(linears, features, strict=True)
    )


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, heads: int) -> Tensor:
    """Query (B, T, D), key and value (B, M, D), additive mask (B, 1, M) or None → (B, T, D) by `heads` heads."""
    query, key, value = (t.unflatten(2, (heads, -1)).transpose(1, 2) for t in (query, key, value))
    if mask is not None:
        mask = mask[:, None].to(query.dtype).expand(-1, heads, -1, -1)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)
