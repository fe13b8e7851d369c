"""The music backbones, each with its synapse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from diffusers import UNet2DConditionModel

from melfusion.assembly.schema import Config
from melfusion.assembly.weights import TANGO_FRONT_END, check_front_end, weights_folder
from melfusion.errors import WeightsError
from melfusion.models.backbones.unet import SynapticUNet
from melfusion.models.denoiser import Denoiser
from melfusion.models.image_encoder import ImageEncoder
from melfusion.models.layout_names import TANGO_FILE
from melfusion.models.options import UNetConfig
from melfusion.models.published import load_tango, pretrained, tango_state
from melfusion.models.twins import random_unet


def synaptic_unet(config: Config, text_width: int, image_encoder: ImageEncoder | None) -> SynapticUNet:
    """The music UNet with its synapse, from a diffusers folder, Tango's published file, or random init."""
    c, s, folder = config.denoiser, config.synapse, weights_folder(config, "denoiser")
    assert isinstance(c, UNetConfig)
    if folder is None:
        unet = random_unet(c, config.music_vae.latent_channels, text_width)
    elif (folder / TANGO_FILE).is_file():
        state = tango_state(folder / TANGO_FILE)
        check_front_end(TANGO_FRONT_END, config, "denoiser")
        # the published UNet has linear layers around its transformer blocks, where the default are 1×1 convolutions
        linear = any(k.endswith("proj_in.weight") and v.ndim == 2 for k, v in state.items())
        flags = {"use_linear_projection": linear, "upcast_attention": linear}
        # drawn at random first, for some seconds at full size, so that the parts after it draw the same numbers as ever
        unet = random_unet(c, config.music_vae.latent_channels, text_width, **flags)
        load_tango(unet, state, folder / TANGO_FILE)
    else:
        unet = pretrained(UNet2DConditionModel, folder / "unet" if (folder / "unet").is_dir() else folder)
    if unet.config.in_channels != config.music_vae.latent_channels:
        raise WeightsError(
            f"denoiser.weights: {folder} denoises {unet.config.in_channels} channels, but "
            f"music_vae.latent_channels={config.music_vae.latent_channels}."
        )
    if unet.config.cross_attention_dim != text_width:
        raise WeightsError(
            f"denoiser.weights: {folder} attends to text of width {unet.config.cross_attention_dim}, but the "
            f"text encoder gives {text_width}: choose the encoder it was trained with."
        )
    made = SynapticUNet(unet, image_encoder, s.kind, s.layers, trainable(config, folder), **s.own())
    if c.gradient_checkpointing:
        made.checkpoint_activations()
    return made


def trainable(config: Config, folder: Path | None) -> str:
    """What of the backbone trains: `auto` is the decoder on top of weights, and everything without weights or pictures."""
    chosen, all_of_it = config.denoiser.trainable, folder is None or config.synapse.kind == "none"
    return ("all" if all_of_it else "decoder") if chosen == "auto" else chosen


BUILD: dict[str, Callable[[Config, int, ImageEncoder | None], Denoiser]] = {"unet": synaptic_unet}
