"""What looks at the picture."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPVisionModel

from melfusion.assembly.schema import Config
from melfusion.assembly.weights import weights_folder
from melfusion.models.diffusion.process import alphas_cumprod
from melfusion.models.image_clip import ClipFeatures
from melfusion.models.image_diffusion import ImageFeatureExtractor
from melfusion.models.published import check_pipeline, empty_prompt, pretrained, stored_schedule
from melfusion.models.twins import random_clip_vision, random_image_vae, random_unet


def image_features(config: Config, layers: list[str] | None = None) -> ImageFeatureExtractor:
    """The image-diffusion model from a pipeline folder (unet, vae, text_encoder, tokenizer) or random init."""
    c, folder = config.image, weights_folder(config, "image")
    schedule, prediction_type = config.diffusion, c.prediction_type
    if folder is None:
        unet = random_unet(c, 4 if c.vae else 3, c.cross_attention_dim)
        vae = random_image_vae(c) if c.vae else None
        prompt = torch.zeros(1, 1, c.cross_attention_dim)
    else:
        check_pipeline(folder)
        unet = pretrained(UNet2DConditionModel, folder / "unet")
        vae = pretrained(AutoencoderKL, folder / "vae") if (folder / "vae").is_dir() else None
        prompt = empty_prompt(folder, unet.config.cross_attention_dim)
        schedule, prediction_type = stored_schedule(folder / "scheduler" / "scheduler_config.json")
    return ImageFeatureExtractor(
        unet,
        vae,
        prompt,
        alphas_cumprod(schedule),
        layers,
        c.reading,
        c.grid_steps,
        c.fixed_timestep,
        prediction_type,
        config.optim,
        config.trainer.max_steps,
        config.data.val_items,
    )


def clip_features(config: Config) -> ClipFeatures:
    """CLIP's vision transformer from a transformers folder, or a random twin of 8×8 patches."""
    c, folder = config.image, weights_folder(config, "image")
    network = random_clip_vision(c, config.data.image_size_px) if folder is None else pretrained(CLIPVisionModel, folder)
    return ClipFeatures(network)


LOOKS = {"diffusion": image_features, "clip": clip_features}  # what may look at the picture
