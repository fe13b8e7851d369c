"""The whole of MeLFusion, and the parts that train themselves."""

from __future__ import annotations

import contextlib

from torch import nn

from melfusion.assembly.codec import music_vae, vocoder
from melfusion.assembly.denoiser import synaptic_unet
from melfusion.assembly.export import export_part as export_part
from melfusion.assembly.image import LOOKS, image_features
from melfusion.assembly.listeners import judge, towers
from melfusion.assembly.schema import Config, to_dict
from melfusion.assembly.text import text_encoder
from melfusion.assembly.weights import TANGO_FRONT_END, check_front_end, seeded, weights_folder
from melfusion.media.mel import AudioGeometry, LogMel
from melfusion.models.diffusion.process import alphas_cumprod
from melfusion.models.diffusion.samplers import make_scheduler
from melfusion.models.frozen import freeze
from melfusion.models.layouts import TANGO_FILE
from melfusion.models.music_vae import MusicVAE
from melfusion.models.system import MeLFusion
from melfusion.models.trained import TrainedModule


def system(config: Config, seed_parts: bool = True) -> MeLFusion:
    """The whole of MeLFusion. Random twins are drawn from config.seed, the same in every process."""
    if (folder := weights_folder(config, "unet")) and (folder / TANGO_FILE).is_file():
        check_front_end(TANGO_FRONT_END, config, "unet")
    with seeded(config.seed) if seed_parts else contextlib.nullcontext():
        text = freeze(text_encoder(config))
        extractor = freeze(LOOKS[config.image.model](config)) if config.synapse.kind != "none" else None
        unet = synaptic_unet(config, text.width, extractor.seen_by if extractor else None)
        vae, sound = freeze(music_vae(config)), freeze(vocoder(config))
    if extractor is not None:
        extractor.layers = list(unet.synapse.specs)
    latent_shape = AudioGeometry(config.audio).latent_shape(config.music_vae.latent_channels, vae.downsampling)
    return MeLFusion(
        unet=unet,
        music_vae=vae,
        text_encoder=text,
        extractor=extractor,
        vocoder=sound,
        log_mel=LogMel(config.audio),
        alpha_bar=alphas_cumprod(config.diffusion),
        diffusion=config.diffusion,
        optim=config.optim,
        latent_shape=latent_shape,
        scheduler=lambda: make_scheduler(config.sampling.sampler, config.diffusion),
        max_steps=config.trainer.max_steps,
        val_items=config.data.val_items,
        config=to_dict(config),
    )


PARTS = {"music_vae": music_vae, "vocoder": vocoder, "image_diffusion": image_features, "judge": judge, "towers": towers}


def part(config: Config) -> TrainedModule:
    """The part that trains itself under the task of its name, on random init or its weights."""
    with seeded(config.seed):
        return PARTS[config.task](config)


def noise_shapes(config: Config, system: nn.Module) -> dict[str, tuple]:
    """Per-sample normal draws that training, precompute and validation of this task need."""
    down = config.music_vae.downsampling
    if isinstance(system, MusicVAE | MeLFusion):
        vae = system if isinstance(system, MusicVAE) else system.music_vae
        down = vae.downsampling
    latent = AudioGeometry(config.audio).latent_shape(config.music_vae.latent_channels, down)
    if config.task == "music_vae":
        drawn = system.texture.noise_shape(latent[1] * down, latent[2] * down) if system.texture else None
        return {"vae_noise": latent} | ({"noise": drawn} if drawn else {})
    if config.task == "vocoder":
        return {}
    if config.task in ("judge", "towers"):
        return {"augment": system.log_mel.shape(AudioGeometry(config.audio).num_samples)}
    side = config.data.image_size_px
    if config.task == "image_diffusion":
        return {"image_noise": system.noise_shape(side, side)}
    shapes, extractor = {"vae_noise": latent, "noise": latent}, system.extractor
    noised = extractor is not None and extractor.reading == "noised"
    return shapes | ({"image_noise": extractor.noise_shape(side, side)} if noised else {})
