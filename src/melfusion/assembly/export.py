"""A self-trained part → a folder in the layout that build.py reads: diffusers folders, or part.json and safetensors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffusers import ModelMixin

from melfusion.assembly.schema import Config
from melfusion.listeners.judge import Judge
from melfusion.listeners.towers import Towers
from melfusion.models.image_diffusion import ImageFeatureExtractor
from melfusion.models.music_vae import MusicVAE
from melfusion.models.published import write_part
from melfusion.models.system import MeLFusion
from melfusion.models.trained import TrainedModule
from melfusion.models.vocoder import Vocoder

STATISTICS_FILE = "melfusion.json"  # beside exported weights: what diffusers' own config has no key for

STATISTICS = ("mel_mean", "mel_std", "latent_mean", "latent_std")  # all that stands in it

TEXTURE_FOLDER = "texture"  # in that of a music VAE


def export_part(module: TrainedModule, config: Config, folder: Path) -> None:
    """Write a part in the layout of its kind."""
    folder.mkdir(parents=True, exist_ok=True)
    EXPORTS[type(module)](module, config, folder)


def _diffusers(network: ModelMixin, folder: Path) -> None:
    """diffusers' own layout, without the path on this machine that a network was loaded from."""
    network.save_pretrained(folder)
    file = folder / "config.json"
    tree = json.loads(file.read_text())
    tree.pop("_name_or_path", None)
    file.write_text(json.dumps(tree, indent=2, sort_keys=True) + "\n")


def _unet(module: MeLFusion, config: Config, folder: Path) -> None:
    _diffusers(module.unet.unet, folder / "unet")


def _vocoder(module: Vocoder, config: Config, folder: Path) -> None:
    write_part(module.network, folder, config.audio, {"width": config.vocoder.width, "blocks": config.vocoder.blocks})


def _whole(module: Judge | Towers, config: Config, folder: Path) -> None:
    """All but what is frozen in it, with the sizes it was built with."""
    write_part(module, folder, config.audio, module.sizes)


def _music_vae(module: MusicVAE, config: Config, folder: Path) -> None:
    _diffusers(module.autoencoder, folder)
    front_end = {"audio": {"framing": config.audio.framing, "level": config.audio.level}}
    (folder / STATISTICS_FILE).write_text(json.dumps({n: getattr(module, n).tolist() for n in STATISTICS} | front_end))
    if (texture := module.texture) is not None:
        write_part(texture, folder / TEXTURE_FOLDER, config.audio, texture.sizes)


def _image_diffusion(module: ImageFeatureExtractor, config: Config, folder: Path) -> None:
    _diffusers(module.unet, folder / "unet")
    if module.vae is not None:
        _diffusers(module.vae, folder / "vae")
    (folder / "scheduler").mkdir(exist_ok=True)
    d = config.diffusion
    tree = {
        "num_train_timesteps": d.num_train_timesteps,
        "beta_start": d.beta_start,
        "beta_end": d.beta_end,
        "beta_schedule": d.beta_schedule,
        "prediction_type": module.prediction_type,
    }
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(tree))


EXPORTS: dict[type, Callable[[Any, Config, Path], None]] = {
    MeLFusion: _unet,
    Vocoder: _vocoder,
    Judge: _whole,
    Towers: _whole,
    MusicVAE: _music_vae,
    ImageFeatureExtractor: _image_diffusion,
}
