"""Every knob of melfusion, with its unit, and the one way to load them: base chain → schema → overrides.

`load_config("games,tiny", ["trainer.max_steps=2"])` reads configs/games.yaml with the files its `base:` names,
lays configs/tiny.yaml (its own keys only) over it, checks all of it against the dataclasses below, and applies
the dotlist. Whatever is wrong is a `ConfigError`: one sentence naming key, file and the nearest valid key.
"""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

CONFIG_DIR = Path(__file__).parent / "configs"


class ConfigError(ValueError):
    """What is wrong in a configuration, where, and what to write instead."""


@dataclass
class AudioConfig:
    """From waveform to log-mel. Defaults are AudioLDM's (paper.md §1)."""

    sample_rate_hz: int = 16000
    n_fft_samples: int = 1024  # FFT size and window length
    hop_length_samples: int = 160
    n_mels: int = 64
    f_min_hz: float = 0.0
    f_max_hz: float = 8000.0
    clip_duration_s: float = 10.24
    loudness_dbfs: float = -20.0  # RMS every clip is brought to
    peak_dbfs: float = -1.0  # the gain never lifts a peak above this
    silence_dbfs: float = -55.0  # a clip whose RMS is below this is silent and is replaced
    min_duration_s: float = 1.0  # shorter audio is replaced; between this and the clip it is padded with silence


@dataclass
class PrecomputeConfig:
    """What `melfusion precompute` stores beside the samples, and where."""

    enabled: bool = False  # train from precomputed shards, building them first where they are missing
    path: str | None = None  # default: <data.path>-precomputed/<name>
    batch_size: int = 32
    dtype: str = "float32"  # float32 gives the numbers of live training; float16 halves the shards


@dataclass
class DataConfig:
    source: str = "scenes"  # scenes | games | manifest: who builds `path` when it is missing
    path: str = "data/scenes"  # folder with shards and index.json
    stream: list[str] = field(default_factory=list)  # sequential webdataset URLs (pipe:, http:) instead of `path`; resume is approximate
    global_batch_size: int = 32  # samples per optimizer step over all devices and accumulation
    num_workers: int = 0  # loader processes per device
    crop: str = "random"  # random (drawn from seed, epoch, position) | start
    image_size_px: int = 512
    max_image_pixels: int = 50_000_000  # a larger picture is refused before it is decoded
    max_audio_s: float = 1200.0  # longer audio is refused before it is decoded
    max_bad_ratio: float = 0.2  # above this share of replaced samples the run stops
    val_items: int = 64  # samples of the val split used at each validation
    splits: dict[str, int] = field(default_factory=lambda: {"train": 2048, "val": 128, "test": 128})  # scenes: how many
    samples_per_shard: int = 256
    precompute: PrecomputeConfig = field(default_factory=PrecomputeConfig)


@dataclass
class MusicVAEConfig:
    weights: str | None = None  # see build.py: hub:ID@REVISION | run:NAME | shipped | a folder | null = random init
    block_out_channels: list[int] = field(default_factory=lambda: [128, 256, 512])
    layers_per_block: int = 2
    latent_channels: int = 8
    norm_num_groups: int = 32
    mid_block_attention: bool = True
    mel_mean: float = 0.0  # the autoencoder sees (log_mel - mel_mean) / mel_std
    mel_std: float = 1.0
    kl_weight: float = 1e-4
    stats_items: int = 512  # samples of the train split that latent mean and std are measured on


@dataclass
class VocoderConfig:
    weights: str | None = None  # SpeechT5HifiGan; null = Griffin-Lim, which needs none
    griffin_lim_iterations: int = 64


@dataclass
class TextEncoderConfig:
    weights: str | None = None
    family: str = "bert"  # bert | t5 | clip: architecture of a random twin
    max_length: int = 77  # L: captions are cut or padded to this many tokens
    hidden_size: int = 1024  # width of a random twin


@dataclass
class ImageConfig:
    """The frozen image-diffusion model and how it is read."""

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
    trainable: str = "all"  # all | decoder | cross_attn | synapse


@dataclass
class SynapseConfig:
    kind: str = "kv_mix"  # none | kv_mix (eq. 5-6) | kv_mix_proj | concat
    layers: list[str] = field(default_factory=lambda: ["decoder"])  # decoder | encoder | both | globs over layer names
    alpha_share: str = "block"  # all | block | layer | head
    alpha_init: float = 0.5
    match: str = "pool"  # how N image tokens become M: pool (raster order) | pool_2d
    image_tokens: int = 64  # concat: M; the mixing kinds use the text length L
    match_scale: bool = False  # kv_mix: bring image K and V to the RMS of the music's


@dataclass
class DiffusionConfig:
    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: str = "scaled_linear"
    prediction_type: str = "epsilon"  # epsilon (eq. 7) | v_prediction
    min_snr_gamma: float | None = None  # 5 in the release; null: no weighting
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
    ema_decay: float = 0.999  # 0 switches EMA off


@dataclass
class TrainerConfig:
    max_steps: int = 100_000  # optimizer steps
    accelerator: str = "auto"
    devices: str = "auto"
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "auto"  # auto: bf16-mixed on cuda, 32-true elsewhere
    accumulate: int = 1  # micro-batches per optimizer step
    val_every_n_steps: int = 1000
    checkpoint_every_n_steps: int = 1000
    log_every_n_steps: int = 10
    media_every_n_steps: int = 5000
    media_items: int = 8
    progress_bar: bool = True
    threads: int = 0  # CPU threads of torch; 0 leaves torch's choice


@dataclass
class SamplingConfig:
    sampler: str = "dpm"  # ddim | dpm (DPM-Solver++, 2M)
    num_inference_steps: int = 25
    guidance_scale: float = 3.0  # s_T
    image_guidance_scale: float | None = None  # s_I; null: the same as guidance_scale (two passes)
    negative_prompt: str = ""


@dataclass
class Config:
    name: str | None = None  # of the run directory; default: the configs' stems
    task: str = "melfusion"  # melfusion | music_vae | image_diffusion
    seed: int = 0
    runs_dir: str = "runs"
    stages: list[str] = field(default_factory=list)  # configs laid over this one and trained first where missing
    audio: AudioConfig = field(default_factory=AudioConfig)
    data: DataConfig = field(default_factory=DataConfig)
    music_vae: MusicVAEConfig = field(default_factory=MusicVAEConfig)
    vocoder: VocoderConfig = field(default_factory=VocoderConfig)
    text_encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    image: ImageConfig = field(default_factory=ImageConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    synapse: SynapseConfig = field(default_factory=SynapseConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


# Allowed words of the string keys; registries add their own at build time.
CHOICES = {
    "task": ("melfusion", "music_vae", "image_diffusion"),
    "data.source": ("scenes", "games", "manifest"),
    "data.crop": ("random", "start"),
    "data.precompute.dtype": ("float32", "float16"),
    "text_encoder.family": ("bert", "t5", "clip"),
    "image.prediction_type": ("epsilon", "v_prediction"),
    "image.reading": ("inverted", "fixed", "noised"),
    "synapse.kind": ("none", "kv_mix", "kv_mix_proj", "concat"),
    "synapse.alpha_share": ("all", "block", "layer", "head"),
    "synapse.match": ("pool", "pool_2d"),
    "unet.trainable": ("all", "decoder", "cross_attn", "synapse"),
    "diffusion.prediction_type": ("epsilon", "v_prediction"),
    "optim.schedule": ("constant", "cosine"),
    "sampling.sampler": ("ddim", "dpm"),
}


def valid_keys(cls: type = Config, prefix: str = "") -> list[str]:
    """All dotted keys of the schema."""
    keys = []
    for f in dataclasses.fields(cls):
        sub = f.default_factory if isinstance(f.default_factory, type) else None
        keys += valid_keys(sub, f"{prefix}{f.name}.") if dataclasses.is_dataclass(sub) else [prefix + f.name]
    return keys


def config_path(name: str) -> Path:
    """`scenes`, `configs/scenes.yaml` and `any/where.yaml` → the file; ConfigError names the nearest one."""
    for path in (Path(name), CONFIG_DIR / f"{name}.yaml"):
        if path.is_file() and path.suffix in (".yaml", ".yml"):
            return path
    near = _nearest(name, sorted(p.stem for p in CONFIG_DIR.glob("*.yaml")))
    raise ConfigError(f"There is no configuration {name!r}: give a YAML file or a name from configs/{near}.")


def load_config(names: str, overrides: list[str] | None = None) -> Config:
    """Names of configs, comma-separated (each laid over the one before), and a dotlist → a checked Config."""
    parts = [n for n in names.split(",") if n]
    merged = OmegaConf.structured(Config)
    for i, part in enumerate(parts):
        # laid over another, a file brings its own keys only: its base would undo what lies below
        for path in _base_chain(config_path(part)) if i == 0 else [config_path(part)]:
            merged = _merge(merged, _read(path), str(path))
    for item in overrides or []:
        if "=" not in item:
            raise ConfigError(f"The override {item!r} is not of the form key=value.")
        key, value = item.split("=", 1)
        merged = _merge(merged, _dotted(key, value), f"override {item!r}")
    if merged.name is None:
        merged.name = "-".join(Path(p).stem for p in parts)
    return _checked(merged)


def from_dict(tree: dict[str, Any]) -> Config:
    """The plain tree a checkpoint or a run directory stores → Config."""
    return _checked(_merge(OmegaConf.structured(Config), OmegaConf.create(tree), "stored config"))


def overlay(config: Config, name: str, changes: dict[str, Any]) -> Config:
    """The own keys of configs/<name>.yaml, then `changes`, laid over a configuration."""
    path = config_path(name)
    merged = _merge(OmegaConf.structured(Config), OmegaConf.create(to_dict(config)), "stored config")
    return _checked(_merge(_merge(merged, _read(path), str(path)), OmegaConf.create(changes), name))


def to_dict(config: Config) -> dict[str, Any]:
    """Plain containers only: what `save_hyperparameters` and weights-only loading accept."""
    return dataclasses.asdict(config)


def _checked(merged: DictConfig) -> Config:
    config: Config = OmegaConf.to_object(merged)  # type: ignore[assignment]
    check(config)
    return config


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} → {'a.b': 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {prefix + key: value}
    return flat


def check(config: Config) -> None:
    """Words from fixed lists, sizes that must divide; raises ConfigError."""
    flat = flatten(to_dict(config))
    for key, words in CHOICES.items():
        if flat[key] not in words:
            raise ConfigError(f"{key}={flat[key]!r} is not one of {', '.join(words)}{_nearest(str(flat[key]), words)}.")
    d = config.diffusion
    if min(drops := (d.text_drop_prob, d.image_drop_prob, d.both_drop_prob)) < 0 or sum(drops) > 1:
        raise ConfigError(f"diffusion.*_drop_prob are {drops}: each must be at least 0 and their sum at most 1.")
    samples = config.audio.clip_duration_s * config.audio.sample_rate_hz
    down = 2 ** (len(config.music_vae.block_out_channels) - 1 + len(config.unet.block_out_channels) - 1)
    if samples % (config.audio.hop_length_samples * down):
        raise ConfigError(
            f"audio.clip_duration_s={config.audio.clip_duration_s} is {samples / config.audio.hop_length_samples:g} mel "
            f"frames, which VAE and UNet cannot halve evenly: choose a multiple of "
            f"{config.audio.hop_length_samples * down / config.audio.sample_rate_hz:g} s."
        )
    if config.data.global_batch_size % config.trainer.accumulate:
        raise ConfigError(
            f"data.global_batch_size={config.data.global_batch_size} is not a multiple of "
            f"trainer.accumulate={config.trainer.accumulate}."
        )


def _base_chain(path: Path, seen: tuple[Path, ...] = ()) -> list[Path]:
    if path in seen:
        raise ConfigError(f"{path}: its `base:` chain comes back to itself; remove one of {[str(p) for p in seen]}.")
    base = OmegaConf.select(_load(path), "base")
    if base is None:
        return [path]
    beside = path.parent / f"{base}.yaml"
    return [*_base_chain(beside if beside.is_file() else config_path(str(base)), (*seen, path)), path]


def _load(path: Path) -> DictConfig:
    try:
        tree = OmegaConf.load(path)
    except Exception as error:  # yaml's own errors carry line and column
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(tree, DictConfig):
        raise ConfigError(f"{path} must hold a mapping of keys to values.")
    return tree


def _read(path: Path) -> DictConfig:
    tree = _load(path)
    tree.pop("base", None)
    return tree


def _dotted(key: str, value: str) -> DictConfig:
    """One override as a tree. Free text (a prompt with `: ` or `#`) is kept verbatim where YAML would alter it."""
    import yaml

    try:
        parsed = yaml.safe_load(value) if value.strip() else value
    except yaml.YAMLError:
        parsed = value
    if isinstance(parsed, str) or (isinstance(parsed, dict) and not value.lstrip().startswith("{")):
        parsed = value
    if parsed is None and value.strip().lower() not in ("null", "~", "none"):
        parsed = value
    tree = OmegaConf.create({})
    OmegaConf.update(tree, key, parsed)
    return tree


def _merge(merged: DictConfig, tree: DictConfig, where: str) -> DictConfig:
    try:
        return OmegaConf.merge(merged, tree)  # type: ignore[return-value]
    except ConfigKeyError as error:
        key = str(error.full_key)
        raise ConfigError(f"{where}: there is no key {key!r}{_nearest(key, valid_keys())}.") from None
    except MissingMandatoryValue as error:
        raise ConfigError(f"{where}: the key {error.full_key!r} has no value; give it one.") from None
    except OmegaConfBaseException as error:
        first = str(error).splitlines()[0]
        raise ConfigError(f"{where}: the key {error.full_key!r} does not take this value: {first}.") from None


def _nearest(word: str, words: Any) -> str:
    near = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""
