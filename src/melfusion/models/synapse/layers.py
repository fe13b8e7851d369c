"""Which attention layers a synapse sits in: diffusers' names, the blocks they belong to, and patterns that choose among them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from diffusers import UNet2DConditionModel

from melfusion.errors import ConfigError


def attention_layers(unet: UNet2DConditionModel) -> list[str]:
    """Names of the transformer blocks, without the `.attn1`/`.attn2` that both UNets append, in forward order."""
    names = [name.removesuffix(".attn2") for name, _ in unet.named_modules() if name.endswith(".attn2")]
    return sorted(names, key=lambda name: ("down", "mid", "up").index(name.split("_")[0]))


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


def layer_specs(unet: UNet2DConditionModel, width_of: Callable[[str], int], layers: list[str]) -> list[LayerSpec]:
    """Widths and heads of the layers that the patterns choose. `width_of`: layer → width of the picture's features for it."""
    names = attention_layers(unet)
    blocks, specs = block_names(names), []
    for name in choose_layers(names, layers):
        music = unet.get_submodule(f"{name}.attn2")
        specs.append(LayerSpec(name, blocks[name], music.to_k.out_features, music.heads, width_of(name)))
    return specs
