"""Options of the models, one dataclass per part. TINY: sizes of its random twin, which `twins: true` in a YAML file lays over."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass
class MusicVAEConfig:
    weights: str | None = None  # models/weights.py: hub:ID@REVISION | run:NAME | shipped | a folder | null = random init
    patch_size: int = 1  # the network sees patches of p×p log-mel bins as p² channels: many times fewer FLOPs at equal r
    block_out_channels: list[int] = field(default_factory=lambda: [128, 256, 512])
    layers_per_block: int = 2
    latent_channels: int = 8
    norm_num_groups: int = 32
    mid_block_attention: bool = True
    mel_mean: float = 0.0  # the autoencoder sees (log_mel - mel_mean) / mel_std
    mel_std: float = 1.0
    kl_weight: float = 1e-4
    modulation_weight: float = 0.0  # of the loss that wants each band's trembling; 0: L1 alone, which smooths it away
    trainable: str = "all"  # of the task music_vae: all | decoder | texture, on top of weights, whose latents stay what they are
    texture_steps: int = 6  # in which what the decoder smooths away is drawn, where the weights have a texture; 0: it is not
    texture_width: int = 64  # D of its blocks, where it is trained anew
    texture_blocks: int = 6
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
    weights: str | None = None  # SpeechT5HifiGan, or a Vocos of this project; null: see kind
    kind: str = "griffin_lim"  # without weights: griffin_lim, which needs none | vocos, random init
    griffin_lim_iterations: int = 64
    mel_corrections: int = 0  # with weights: how often the sound is brought nearer to the log-mel that was asked for
    width: int = 192  # vocos: D of its ConvNeXt blocks
    blocks: int = 6
    segment_frames: int = 64  # mel frames it is trained on at a time

    TINY: ClassVar[dict[str, Any]] = {"weights": None, "width": 16, "blocks": 1, "segment_frames": 16, "griffin_lim_iterations": 4}


@dataclass
class TextEncoderConfig:
    weights: str | None = None
    family: str = "bert"  # bert | t5 | clip: architecture of a random twin
    max_length: int = 77  # L: captions are cut or padded to this many tokens
    max_words: int | None = None  # captions are cut after this many words before that; null: not
    hidden_size: int = 1024  # width of a random twin

    TINY: ClassVar[dict[str, Any]] = {"weights": None, "family": "bert", "max_length": 12, "hidden_size": 16}


@dataclass
class ImageConfig:
    """The frozen model that reads the picture, and at which moment."""

    model: str = "diffusion"  # diffusion (the paper) | clip (its vision transformer, to which the knobs below mean nothing)
    weights: str | None = None
    vae: bool = True  # diffuse latents of a VAE; false: diffuse pixels
    vae_block_out_channels: list[int] = field(default_factory=lambda: [128, 256, 512, 512])
    block_out_channels: list[int] = field(default_factory=lambda: [320, 640, 1280, 1280])
    layers_per_block: int = 2
    cross_attention_dim: int = 768
    attention_head_dim: list[int] = field(default_factory=lambda: [8])
    attention_blocks: list[bool] = field(default_factory=lambda: [True, True, True, False])  # per level, top first
    norm_num_groups: int = 32
    prediction_type: str = "epsilon"
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


@dataclass
class UNetConfig:
    weights: str | None = None
    block_out_channels: list[int] = field(default_factory=lambda: [320, 640, 1280, 1280])
    layers_per_block: int = 2
    attention_head_dim: list[int] = field(default_factory=lambda: [5, 10, 20, 20])
    attention_blocks: list[bool] = field(default_factory=lambda: [True, True, True, False])  # per level, top first
    norm_num_groups: int = 32
    gradient_checkpointing: bool = False
    compile: bool = False
    trainable: str = "auto"  # auto: decoder on top of `weights`, else all | all | decoder | cross_attn (the decoder's) | synapse

    TINY: ClassVar[dict[str, Any]] = {
        "weights": None,
        "block_out_channels": [8, 16],
        "layers_per_block": 1,
        "attention_head_dim": [2],
        "attention_blocks": [True, True],
        "norm_num_groups": 4,
        "gradient_checkpointing": False,
        "compile": False,
    }

    @property
    def frames_multiple(self) -> int:
        """The latents' frames must be a multiple of this: each level below the first halves them."""
        return 2 ** (len(self.block_out_channels) - 1)


@dataclass
class DiffusionConfig:
    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: str = "scaled_linear"
    prediction_type: str = "epsilon"  # epsilon (eq. 7) | v_prediction
    loss_space: str = "output"  # output: the error of what is predicted (eq. 7) | v: the same error as one of v
    min_snr_gamma: float | None = None  # 5 in the release; null: no weighting
    pure_noise_share: float = 0.0  # of samples seen as pure noise at the last timestep, as in sampling; with loss_space v
    text_drop_prob: float = 0.1  # text alone
    image_drop_prob: float = 0.1  # picture alone
    both_drop_prob: float = 0.1


@dataclass
class OptimConfig:
    lr: float = 1e-4
    alpha_lr: float = 1e-5  # absolute; the paper's best
    weight_decay: float = 0.01
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    warmup_steps: int = 100
    schedule: str = "constant"  # constant | cosine, after the warm-up
    grad_clip_norm: float = 1.0
    ema_decay: float = 0.999  # of the conditioned model, parts have none; 0 switches it off


@dataclass
class SamplingConfig:
    sampler: str = "dpm"  # ddim | dpm (DPM-Solver++, 2M)
    num_inference_steps: int = 25
    guidance_scale: float = 3.0  # s_T
    image_guidance_scale: float | None = None  # s_I; null: the same as guidance_scale (two passes)
    negative_prompt: str = ""
