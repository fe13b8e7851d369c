"""Which attention layers a synapse sits in: diffusers' names, the blocks they belong to, and patterns that choose among them."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from diffusers import UNet2DConditionModel

from melfusion.errors import ConfigError
from melfusion.models.image_encoder import ImageEncoder


def attention_layers(unet: UNet2DConditionModel) -> list[str]:
    """Names of the transformer blocks, without the `.attn1`/`.attn2` that both UNets append, in forward order."""
    names = [name.removesuffix(".attn2") for name, _ in unet.named_modules() if name.endswith(".attn2")]
    return sorted(names, key=lambda name: ("down", "mid", "up").index(name.split("_")[0]))


def is_unet_layer(name: str) -> bool:
    """Does the name follow the UNets, which music and image model share?"""
    return name.startswith(("down_blocks.", "mid_block.", "up_blocks."))


@dataclass(frozen=True)
class Site:
    """A place where a backbone can listen."""

    name: str  # of the layer
    block: str  # "decoder1" = the first decoder block that has cross-attention; "block3" of a transformer
    path: str  # of the stock cross-attention in the backbone
    key_width: int
    value_width: int
    heads: int  # of keys and values


@dataclass(frozen=True)
class LayerSpec:
    """A cross-attention that listens, and the layer of the image encoder that it listens to."""

    name: str
    block: str
    width: int  # of the music's values, and of its keys where those have no width of their own
    heads: int  # of its keys and values
    image_width: int
    attention: str = ""  # name of the stock module in the backbone
    image_layer: str = ""
    key_width: int = 0  # 0: width

    @property
    def widths(self) -> dict[str, int]:
        return {"key": self.key_width or self.width, "value": self.width}


def block_names(layers: list[str]) -> dict[str, str]:
    """Layer → encoder<k> | mid | decoder<k>, counting only blocks that have cross-attention."""
    names: dict[str, str] = {}
    for side, label in (("down_blocks", "encoder"), ("mid_block", "mid"), ("up_blocks", "decoder")):
        members = [layer for layer in layers if layer.startswith(side)]
        blocks = sorted({layer.split(".")[1] for layer in members}, key=int) if side != "mid_block" else []
        for layer in members:
            names[layer] = f"{label}{blocks.index(layer.split('.')[1]) + 1}" if blocks else label
    return names


def choose(sites: list[Site], patterns: list[str]) -> list[int]:
    """Indices of the sites that any of the patterns names.

    A pattern is `all`, a block such as `decoder1`, a kind of blocks (`decoder`, `encoder`, `mid`), `both` (encoder and decoder),
    `first` or `second` (half of a backbone that has no such kinds), or a glob over names.
    """

    def chosen(i: int, pattern: str) -> bool:
        site = sites[i]
        side = site.block.rstrip("0123456789")
        if pattern in ("first", "second") and side == "block":
            return (i < len(sites) / 2) == (pattern == "first")
        if pattern == "both" and side != "block":
            return side != "mid"
        return pattern in ("all", site.block, side) or fnmatchcase(site.name, pattern)

    for pattern in patterns:
        if not any(chosen(i, pattern) for i in range(len(sites))):
            names = ", ".join(site.name for site in sites)
            raise ConfigError(f"synapse.layers: {pattern!r} matches none of the layers {names}.")
    return [i for i in range(len(sites)) if any(chosen(i, pattern) for pattern in patterns)]


def layer_specs(sites: list[Site], image_encoder: ImageEncoder, layers: list[str]) -> list[LayerSpec]:
    """Widths and heads of the layers that the patterns choose, and what each listens to: the image layer of its own name, or the
    one at its relative depth where the backbone has other names than the image model.
    """
    if not sites:
        raise ConfigError("This backbone has no cross-attention that could listen to a picture: give synapse.kind=none.")
    specs = []
    for i in choose(sites, layers):
        site, depth = sites[i], i / max(len(sites) - 1, 1)
        image_layer = image_encoder.layer_for(site.name, depth)
        widths = (site.value_width, site.heads, image_encoder.width_of(image_layer))
        specs.append(LayerSpec(site.name, site.block, *widths, site.path, image_layer, site.key_width))
    return specs
