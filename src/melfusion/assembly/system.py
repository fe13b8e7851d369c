"""The whole of MeLFusion; built, measured and exported."""

from __future__ import annotations

import contextlib
from pathlib import Path

from melfusion.assembly.codec import codec
from melfusion.assembly.denoiser import synaptic_unet
from melfusion.assembly.image import IMAGE_ENCODERS
from melfusion.assembly.schema import Config, to_dict
from melfusion.assembly.text import text_encoder
from melfusion.assembly.weights import TANGO_FRONT_END, check_front_end, seeded, weights_folder
from melfusion.models.diffusion.process import alphas_cumprod
from melfusion.models.diffusion.samplers import make_scheduler
from melfusion.models.frozen import freeze
from melfusion.models.layout_names import TANGO_FILE
from melfusion.models.published import save_network
from melfusion.models.system import MeLFusion


def system(config: Config, seed_parts: bool = True) -> MeLFusion:
    """The whole of MeLFusion. Random twins are drawn from config.seed, the same in every process."""
    if (folder := weights_folder(config, "unet")) and (folder / TANGO_FILE).is_file():
        check_front_end(TANGO_FRONT_END, config, "unet")
    with seeded(config.seed) if seed_parts else contextlib.nullcontext():
        text = freeze(text_encoder(config))
        encoder = freeze(IMAGE_ENCODERS[config.image.model](config)) if config.synapse.kind != "none" else None
        denoiser = synaptic_unet(config, text.width, encoder)
        music = freeze(codec(config))
    return MeLFusion(
        denoiser=denoiser,
        codec=music,
        conditioner=text,
        image_encoder=encoder,
        alpha_bar=alphas_cumprod(config.diffusion),
        diffusion=config.diffusion,
        optim=config.optim,
        clip_duration_s=config.audio.clip_duration_s,
        scheduler=lambda: make_scheduler(config.sampling.sampler, config.diffusion),
        max_steps=config.trainer.max_steps,
        val_items=config.data.val_items,
        config=to_dict(config),
    )


def noise_shapes(config: Config, module: MeLFusion) -> dict[str, tuple[int, ...]]:
    """Of the latents, and of the picture where its encoder reads it with noise."""
    latent, side = module.latent_shape(), config.data.image_size_px
    image = module.image_encoder and module.image_encoder.noise_shape(side, side)
    return {"vae_noise": latent, "noise": latent} | ({"image_noise": image} if image else {})


def export(module: MeLFusion, config: Config, folder: Path) -> None:
    """The music UNet without its synapse, which a conditioned model starts from."""
    save_network(module.denoiser.unet, folder / "unet")
