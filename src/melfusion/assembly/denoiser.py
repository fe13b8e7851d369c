"""The music backbones, each with its synapse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffusers import AceStepTransformer1DModel, StableAudio3DiTModel, StableAudioDiTModel, UNet2DConditionModel
from diffusers.pipelines.audioldm2 import AudioLDM2UNet2DConditionModel

from melfusion.assembly.schema import Config
from melfusion.assembly.weights import TANGO_FRONT_END, check_front_end, weights_folder
from melfusion.models.audioldm_file import audioldm_unet
from melfusion.models.backbones.ace_step import AceStep
from melfusion.models.backbones.audioldm import AudioLDM
from melfusion.models.backbones.audioldm2 import AudioLDM2
from melfusion.models.backbones.base import Backbone
from melfusion.models.backbones.options import TransformerConfig
from melfusion.models.backbones.stable_audio import StableAudio
from melfusion.models.backbones.stable_audio_3 import StableAudio3
from melfusion.models.backbones.unet import SynapticUNet
from melfusion.models.backbones.unet_options import AudioLDM2Config, AudioLDMConfig, UNetConfig
from melfusion.models.denoiser import Denoiser
from melfusion.models.image_encoder import ImageEncoder
from melfusion.models.layout_names import FILM_UNET, TANGO_FILE
from melfusion.models.published import load_tango, pretrained, tango_state
from melfusion.models.twins import random_audioldm, random_audioldm2, random_unet


def synaptic_unet(config: Config, text_width: int, image_encoder: ImageEncoder | None) -> SynapticUNet:
    """The music UNet with its synapse, from a diffusers folder, Tango's published file, or random init."""
    c, folder = config.denoiser, weights_folder(config, "denoiser")
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
        unet = stored(UNet2DConditionModel, folder, "unet")
    return listening(SynapticUNet, unet, config, folder, image_encoder)


def audioldm(config: Config, text_width: int, image_encoder: ImageEncoder | None) -> AudioLDM:
    """AudioLDM's UNet from a diffusers folder, its authors' single file, or random init."""
    c, channels = config.denoiser, config.music_vae.latent_channels
    assert isinstance(c, AudioLDMConfig)
    folder = weights_folder(config, "denoiser")
    if folder is None:
        network = random_audioldm(c, channels, text_width)
    else:
        network = audioldm_unet(folder) if folder.is_file() else stored(UNet2DConditionModel, folder, "unet", FILM_UNET)
    return listening(AudioLDM, network, config, folder, image_encoder)


def audioldm2(config: Config, text_width: int, image_encoder: ImageEncoder | None) -> AudioLDM2:
    """AudioLDM 2's UNet from a diffusers folder, or random init."""
    c, channels = config.denoiser, config.music_vae.latent_channels
    assert isinstance(c, AudioLDM2Config)
    folder = weights_folder(config, "denoiser")
    network = random_audioldm2(c, channels, text_width) if folder is None else stored(AudioLDM2UNet2DConditionModel, folder, "unet")
    return listening(AudioLDM2, network, config, folder, image_encoder)


def transformer(cls: type[Backbone], network: Any, config: Config, image_encoder: ImageEncoder | None) -> Backbone:
    """A diffusion transformer from a diffusers folder, or random init of the sizes in the configuration."""
    c, folder = config.denoiser, weights_folder(config, "denoiser")
    assert isinstance(c, TransformerConfig)
    made = network(**c.sizes()) if folder is None else stored(network, folder, "transformer")
    return listening(cls, made, config, folder, image_encoder)


def stored(network: Any, folder: Path, name: str, wanted: str | None = None) -> Any:
    """The network of a folder, or of a pipeline's folder where it stands under its name. `wanted`: as for `loaded`."""
    return pretrained(network, folder / name if (folder / name).is_dir() else folder, wanted)


def listening(cls: type[Backbone], network: Any, config: Config, folder: Path | None, image_encoder: ImageEncoder | None) -> Any:
    """A network with the synapse of the configuration."""
    s = config.synapse
    made = cls(network, image_encoder, s.kind, s.layers, trainable(config, folder), **s.own())
    if config.denoiser.lora_rank:
        made.adapt(config.denoiser.lora_rank, config.denoiser.lora_targets)
    if config.denoiser.gradient_checkpointing:
        made.checkpoint_activations()
    return made


def trainable(config: Config, folder: Path | None) -> str:
    """What of the backbone trains: `auto` is AUTO of its options on top of weights, and everything without weights or pictures.

    Beside a LoRA nothing does.
    """
    if config.denoiser.lora_rank:
        return "synapse"
    chosen, all_of_it = config.denoiser.trainable, folder is None or config.synapse.kind == "none"
    return ("all" if all_of_it else config.denoiser.AUTO) if chosen == "auto" else chosen


BUILD: dict[str, Callable[[Config, int, ImageEncoder | None], Denoiser]] = {
    "unet": synaptic_unet,
    "audioldm": audioldm,
    "audioldm2": audioldm2,
    "stable_audio": lambda config, _, encoder: transformer(StableAudio, StableAudioDiTModel, config, encoder),
    "stable_audio_3": lambda config, _, encoder: transformer(StableAudio3, StableAudio3DiTModel, config, encoder),
    "ace_step": lambda config, _, encoder: transformer(AceStep, AceStepTransformer1DModel, config, encoder),
}
