"""The image encoders; the image-diffusion model is also measured and exported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from melfusion.assembly.schema import Config
from melfusion.assembly.weights import weights_folder
from melfusion.files import write_whole
from melfusion.models.diffusion.options import DiffusionConfig
from melfusion.models.diffusion.process import alphas_cumprod
from melfusion.models.image_diffusion import ImageFeatureExtractor
from melfusion.models.image_efficientnet import EfficientNetFeatures, efficientnet
from melfusion.models.image_encoder import ImageEncoder
from melfusion.models.image_vision import Preprocessing, VisionFeatures, preprocessing, vision_network
from melfusion.models.options import EfficientNetConfig, ImageDiffusionConfig, VisionConfig
from melfusion.models.published import check_pipeline, empty_prompt, pretrained, save_network, stored_schedule
from melfusion.models.twins import random_image_vae, random_unet, random_vision

PROMPT_TOKENS = 77  # of Stable Diffusion's empty prompt


def image_features(config: Config) -> ImageFeatureExtractor:
    """The image-diffusion model from a pipeline folder (unet, vae, text_encoder, tokenizer) or random init."""
    c, folder = config.image, weights_folder(config, "image")
    assert isinstance(c, ImageDiffusionConfig)
    alpha_bar, prediction_type = alphas_cumprod(schedule(config)), c.prediction_type
    if folder is None:
        unet = random_unet(c, 4 if c.vae else 3, c.cross_attention_dim)
        vae = random_image_vae(c) if c.vae else None
        prompt = torch.zeros(1, 1 if c.weights is None else PROMPT_TOKENS, c.cross_attention_dim)
    else:
        check_pipeline(folder)
        unet = pretrained(UNet2DConditionModel, folder / "unet")
        vae = pretrained(AutoencoderKL, folder / "vae") if (folder / "vae").is_dir() else None
        prompt = empty_prompt(folder, unet.config.cross_attention_dim)
        alpha_bar, prediction_type = stored_schedule(folder / "scheduler")
    return ImageFeatureExtractor(
        unet,
        vae,
        prompt,
        alpha_bar,
        c.reading,
        c.grid_steps,
        c.fixed_timestep,
        prediction_type,
        config.optim,
        config.trainer.max_steps,
        config.data.val_items,
    )


def schedule(config: Config) -> DiffusionConfig:
    """Of the pictures: the music's, so that a stand-in is read at its noise level; a flow has none, and the default stands in."""
    return config.diffusion if isinstance(config.diffusion, DiffusionConfig) else DiffusionConfig()


def vision_features(config: Config) -> VisionFeatures:
    """A vision transformer from a transformers folder, or a random twin of 8×8 patches."""
    c, folder = config.image, weights_folder(config, "image")
    assert isinstance(c, VisionConfig)
    if folder is None:
        side = config.data.image_size_px
        return VisionFeatures(random_vision(c, side), Preprocessing(side), c.layer)
    network = vision_network(folder)
    return VisionFeatures(network, preprocessing(folder, network.config), c.layer)


def efficientnet_features(config: Config) -> EfficientNetFeatures:
    """EfficientNet-Lite0 with weights of ImageNet, of a file, or random ones."""
    c = config.image
    assert isinstance(c, EfficientNetConfig)
    return EfficientNetFeatures(efficientnet(c.weights, "image.kind"), c.side_px)


def image_noise(config: Config, module: ImageFeatureExtractor) -> dict[str, tuple[int, ...]]:
    side = config.data.image_size_px
    return {"image_noise": module.latent_shape(side, side)}


def export_image_diffusion(module: ImageFeatureExtractor, config: Config, folder: Path) -> None:
    """A pipeline folder: unet, vae where there is one, and the scheduler's configuration."""
    save_network(module.unet, folder / "unet")
    if module.vae is not None:
        save_network(module.vae, folder / "vae")
    (folder / "scheduler").mkdir(exist_ok=True)
    names = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")
    tree = {name: getattr(schedule(config), name) for name in names} | {"prediction_type": module.prediction_type}
    write_whole(folder / "scheduler" / "scheduler_config.json", json.dumps(tree))


BUILD: dict[str, Callable[[Config], ImageEncoder]] = {
    "diffusion": image_features,
    "vision": vision_features,
    "clip": vision_features,
    "efficientnet": efficientnet_features,
}
