"""The whole of MeLFusion; built, measured and exported."""

from __future__ import annotations

import contextlib
from pathlib import Path

from melfusion.assembly import codec, conditioner, denoiser, image, published
from melfusion.assembly.schema import Config, to_dict
from melfusion.assembly.weights import seeded
from melfusion.errors import WeightsError
from melfusion.models.denoiser import Denoiser
from melfusion.models.diffusion.objective import OBJECTIVES
from melfusion.models.frozen import freeze
from melfusion.models.system import MeLFusion


def system(config: Config, seed_parts: bool = True) -> MeLFusion:
    """The whole of MeLFusion. Random twins are drawn from config.seed, the same in every process."""
    with seeded(config.seed) if seed_parts else contextlib.nullcontext():
        text = freeze(conditioner.BUILD[config.conditioner.kind](config))
        encoder = freeze(image.BUILD[config.image.kind](config)) if config.synapse.kind != "none" else None
        backbone = denoiser.BUILD[config.denoiser.kind](config, text.width, encoder)
        music = freeze(codec.BUILD[config.codec.kind](config))
    published.warn(config)
    check_fit(config, backbone, text.width, music.latent_shape(config.audio.clip_duration_s))
    return MeLFusion(
        denoiser=backbone,
        codec=music,
        conditioner=text,
        image_encoder=encoder,
        objective=OBJECTIVES[config.diffusion.kind](config.diffusion, config.sampling.sampler, published.scheduler(config)),
        diffusion=config.diffusion,
        optim=config.optim,
        clip_duration_s=config.audio.clip_duration_s,
        max_steps=config.trainer.max_steps,
        val_items=config.data.val_items,
        config=to_dict(config),
    )


def check_fit(config: Config, backbone: Denoiser, text_width: int, latent_shape: tuple[int, ...]) -> None:
    """WeightsError where the backbone was made for another codec or conditioner."""
    channels = backbone.channels_of(latent_shape)
    name = f"denoiser.weights: {config.denoiser.weights or config.denoiser.kind}"
    if backbone.latent_channels not in (None, channels):
        raise WeightsError(
            f"{name} denoises {backbone.latent_channels} channels, but the codec ({config.codec.kind}) makes {channels}: "
            "choose the codec it was trained with."
        )
    if backbone.text_width not in (None, text_width):
        raise WeightsError(
            f"{name} attends to text of width {backbone.text_width}, but the text encoder gives {text_width}: "
            "choose the encoder it was trained with."
        )


def noise_shapes(config: Config, module: MeLFusion) -> dict[str, tuple[int, ...]]:
    """Of the latents, and of the picture where its encoder reads it with noise."""
    latent, side = module.latent_shape(), config.data.image_size_px
    picture = module.image_encoder and module.image_encoder.noise_shape(side, side)
    return {"vae_noise": latent, "noise": latent} | ({"image_noise": picture} if picture else {})


def export(module: MeLFusion, config: Config, folder: Path) -> None:
    """The backbone without its synapse, which a conditioned model starts from."""
    module.denoiser.export(folder)
