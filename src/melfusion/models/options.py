"""Options of the models, one dataclass per part or per kind of part. No heavy imports.

TINY: sizes of the random twin, which `twins: true` in a YAML file lays over. The table IMAGE_ENCODERS, and those of
conditioners/, codecs/, backbones/ and diffusion/, say which kinds there are; a kind is built by the line of its name in assembly/.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar


class Kind:
    """Base of the sections that have kinds."""

    kind: str

    TINY: ClassVar[dict[str, Any]] = {}

    def misfit(self, config: Any) -> str | None:
        """What of these options does not fit the whole configuration, as one sentence; None where all does."""
        return None


def levels_misfit(section: str, attention_blocks: list[bool], block_out_channels: list[int]) -> str | None:
    """Said of a UNet whose lists are not of one length."""
    if len(attention_blocks) == len(block_out_channels):
        return None
    return (
        f"{section}.attention_blocks has {len(attention_blocks)} levels and {section}.block_out_channels "
        f"{len(block_out_channels)}: give one word per level."
    )


@dataclass
class MusicVAEConfig:
    # models/weights.py: hub:ID@REVISION | run:NAME | shipped | a folder | AudioLDM's single file | null = random init
    weights: str | None = None
    patch_size: int = 1  # the network sees patches of p×p log-mel bins as p² channels: many times fewer FLOPs at equal r
    block_out_channels: list[int] = field(default_factory=lambda: [128, 256, 512])  # channels per level, top first
    layers_per_block: int = 2  # ResNet blocks per level
    latent_channels: int = 8  # channels of the latents
    norm_num_groups: int = 32  # groups of the group norms
    mid_block_attention: bool = True  # attention at the lowest level
    mel_mean: float = 0.0  # the autoencoder sees (log_mel - mel_mean) / mel_std
    mel_std: float = 1.0  # see mel_mean
    kl_weight: float = 1e-4  # weight of the KL term in the loss
    modulation_weight: float = 0.0  # of the loss that wants each band's trembling; 0: L1 alone, which smooths it away
    trainable: str = "all"  # of the task music_vae: all | decoder | texture, on top of weights, whose latents stay what they are
    texture_steps: int = 6  # in which what the decoder smooths away is drawn, where the weights have a texture; 0: it is not
    texture_width: int = 64  # D of its blocks, where it is trained anew
    texture_blocks: int = 6  # blocks of the texture network
    stats_items: int = 512  # samples of the train split that latent mean and std are measured on

    TINY: ClassVar[dict[str, Any]] = {
        "weights": None,
        "trainable": "all",
        "patch_size": 1,
        "block_out_channels": [8, 8, 16],
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 4,
        "mel_mean": -4.0,
        "mel_std": 3.0,
        "stats_items": 16,
    }

    @property
    def downsampling(self) -> int:
        """r: log-mel frames (and bins) per latent frame (and bin)."""
        return self.patch_size * 2 ** (len(self.block_out_channels) - 1)


@dataclass
class VocoderConfig:
    weights: str | None = None  # SpeechT5HifiGan, AudioLDM's single file, or a Vocos of this project; null: see kind
    kind: str = "griffin_lim"  # without weights: griffin_lim, which needs none | vocos, random init
    griffin_lim_iterations: int = 64  # iterations of Griffin-Lim
    mel_corrections: int = 0  # with weights: how often the sound is brought nearer to the log-mel that was asked for
    width: int = 192  # vocos: D of its ConvNeXt blocks
    blocks: int = 6  # ConvNeXt blocks of vocos
    segment_frames: int = 64  # mel frames it is trained on at a time

    TINY: ClassVar[dict[str, Any]] = {"weights": None, "width": 16, "blocks": 1, "segment_frames": 16, "griffin_lim_iterations": 4}


@dataclass
class TextEncoderConfig:
    weights: str | None = None  # hub:ID@REVISION | shipped | a folder; null: random init
    family: str = "bert"  # bert | t5 | clip: architecture of a random twin
    max_length: int = 77  # L: captions are cut or padded to this many tokens
    max_words: int | None = None  # captions are cut after this many words before that; null: not
    hidden_size: int = 1024  # width of a random twin

    TINY: ClassVar[dict[str, Any]] = {"weights": None, "family": "bert", "max_length": 12, "hidden_size": 16}


@dataclass
class ImageConfig(Kind):
    """The frozen model that reads the picture."""

    kind: str = "diffusion"  # diffusion (the paper) | vision (CLIP, SigLIP 2, DINOv3) | clip (its name of before) | efficientnet
    weights: str | None = None  # hub:ID@REVISION | run:NAME | shipped | a folder; null: random init

    TINY: ClassVar[dict[str, Any]] = {"weights": None}


@dataclass
class VisionConfig(ImageConfig):
    """A vision transformer."""

    layer: int = -2  # hidden state that is read, counted as Python does: -1 is the last
    family: str = "clip"  # clip | siglip | dinov3: architecture of a random twin
    hidden_size: int = 768  # width of a random twin

    TINY: ClassVar[dict[str, Any]] = {"weights": None, "hidden_size": 16}


@dataclass
class EfficientNetConfig(ImageConfig):
    """EfficientNet-Lite0."""

    weights: str | None = "imagenet"  # imagenet, from its package | a file; null: random init
    side_px: int = 224  # to which pictures are resized; a token is 32×32 of these pixels

    TINY: ClassVar[dict[str, Any]] = {"weights": None, "side_px": 64}

    def misfit(self, config: Any) -> str | None:
        return None if self.side_px >= 32 else f"image.side_px={self.side_px} must be at least 32, the pixels of one token."


@dataclass
class ImageDiffusionConfig(ImageConfig):
    """The image-diffusion model, and at which moment it is read."""

    vae: bool = True  # diffuse latents of a VAE; false: diffuse pixels
    vae_block_out_channels: list[int] = field(default_factory=lambda: [128, 256, 512, 512])  # channels per level of that VAE
    block_out_channels: list[int] = field(default_factory=lambda: [320, 640, 1280, 1280])  # channels per level, top first
    layers_per_block: int = 2  # ResNet blocks per level
    cross_attention_dim: int = 768  # width of the empty prompt's tokens
    attention_head_dim: list[int] = field(default_factory=lambda: [8])  # heads per level; one number: of all
    attention_blocks: list[bool] = field(default_factory=lambda: [True, True, True, False])  # per level, top first
    norm_num_groups: int = 32  # groups of the group norms
    prediction_type: str = "epsilon"  # epsilon | v_prediction: what the image model predicts
    reading: str = "inverted"  # inverted (the paper) | fixed | noised (the release)
    grid_steps: int = 20  # timesteps an inverted picture is stored at, t' = 0 included
    fixed_timestep: int = 0  # reading `fixed`: the timestep the picture is inverted to and read at

    TINY: ClassVar[dict[str, Any]] = {
        "weights": None,
        "vae": False,
        "block_out_channels": [8, 16],
        "layers_per_block": 1,
        "cross_attention_dim": 8,
        "attention_head_dim": [2],
        "attention_blocks": [True, True],
        "norm_num_groups": 4,
        "grid_steps": 4,
    }

    def misfit(self, config: Any) -> str | None:
        steps = config.diffusion.num_train_timesteps
        if not 0 <= self.fixed_timestep < steps:
            return f"image.fixed_timestep={self.fixed_timestep} must lie between 0 and {steps - 1}."
        if not 0 < self.grid_steps <= steps:
            return f"image.grid_steps={self.grid_steps} must lie between 1 and diffusion.num_train_timesteps={steps}."
        return levels_misfit("image", self.attention_blocks, self.block_out_channels)


IMAGE_ENCODERS: dict[str, type[ImageConfig]] = {
    "diffusion": ImageDiffusionConfig,
    "vision": VisionConfig,
    "clip": VisionConfig,
    "efficientnet": EfficientNetConfig,
}


@dataclass
class OptimConfig:
    lr: float = 1e-4  # learning rate
    alpha_lr: float = 1e-5  # absolute; the paper's best
    weight_decay: float = 0.01  # of AdamW; α has none
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])  # of AdamW
    warmup_steps: int = 100  # optimizer steps in which the rate grows from 0
    schedule: str = "constant"  # constant | cosine, after the warm-up
    grad_clip_norm: float = 1.0  # largest norm of the gradient
    ema_decay: float = 0.999  # of the conditioned model, parts have none; 0 switches it off


@dataclass
class SamplingConfig:
    # ddim | dpm (DPM-Solver++, 2M) | dpm_sde (of cosine) | euler, ping_pong (of a flow) | published (the scheduler of the weights)
    sampler: str = "dpm"
    num_inference_steps: int = 25  # sampling steps
    guidance_scale: float = 3.0  # s_T
    image_guidance_scale: float | None = None  # s_I; null: the same as guidance_scale (two passes)
    negative_prompt: str = ""  # a sentence on what to avoid
