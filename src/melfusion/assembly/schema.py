"""Every option of a run with its unit and default, composed of the parts' own dataclasses. No heavy imports."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from melfusion.assembly.options import AblationConfig, EvaluationConfig, GuardConfig, TrainerConfig
from melfusion.data.options import DataConfig
from melfusion.data.sources import SOURCES
from melfusion.listeners.options import JudgeConfig, TowersConfig
from melfusion.media.options import AudioConfig
from melfusion.models.backbones.base_options import DenoiserConfig
from melfusion.models.backbones.options import DENOISERS
from melfusion.models.backbones.unet_options import UNetConfig
from melfusion.models.codecs.options import CODECS, CodecConfig, MelCodecConfig
from melfusion.models.conditioners.options import CONDITIONERS, ConditionerConfig
from melfusion.models.diffusion.options import OBJECTIVES, DiffusionConfig, ObjectiveConfig
from melfusion.models.options import (
    IMAGE_ENCODERS,
    ImageConfig,
    ImageDiffusionConfig,
    MusicVAEConfig,
    OptimConfig,
    SamplingConfig,
    TextEncoderConfig,
    VocoderConfig,
)
from melfusion.models.synapse.options import OPTIONS, KVMixConfig, SynapseConfig


def to_dict(config: Config) -> dict[str, Any]:
    """Plain containers only: what `save_hyperparameters` and weights-only loading accept."""
    return dataclasses.asdict(config)


@dataclass
class Config:
    name: str | None = None  # of the run directory; default: the configs' stems
    task: str = "melfusion"  # what is trained: key of PARTS (parts.py)
    seed: int = 0  # of crops, noise and random initial weights
    runs_dir: str = "runs"  # folder of the run directories
    sources: dict[str, str] = field(
        default_factory=dict
    )  # folder of weights → OWNER/NAME[@COMMIT] that `fetch-weights` gets it from
    stages: list[str] = field(default_factory=list)  # parts that are trained first where they are missing
    audio: AudioConfig = field(default_factory=AudioConfig)
    data: DataConfig = field(default_factory=DataConfig)
    codec: CodecConfig = field(default_factory=MelCodecConfig)
    music_vae: MusicVAEConfig = field(default_factory=MusicVAEConfig)
    vocoder: VocoderConfig = field(default_factory=VocoderConfig)
    conditioner: ConditionerConfig = field(default_factory=ConditionerConfig)
    text_encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    image: ImageConfig = field(default_factory=ImageDiffusionConfig)
    denoiser: DenoiserConfig = field(default_factory=UNetConfig)
    synapse: SynapseConfig = field(default_factory=KVMixConfig)
    diffusion: ObjectiveConfig = field(default_factory=DiffusionConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    guards: GuardConfig = field(default_factory=GuardConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    towers: TowersConfig = field(default_factory=TowersConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    ablation: AblationConfig = field(default_factory=AblationConfig)


def twins(config: Config) -> dict[str, dict[str, Any]]:
    """Section → the sizes of its random twin, as each part declares them."""
    parts = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    return {name: part.TINY for name, part in parts.items() if getattr(part, "TINY", None)}


KINDS: dict[str, dict[str, type]] = {  # section → its kinds → their options; the class of a section follows its `kind`
    "codec": CODECS,
    "conditioner": CONDITIONERS,
    "image": IMAGE_ENCODERS,
    "denoiser": DENOISERS,
    "diffusion": OBJECTIVES,
    "synapse": OPTIONS,
}

RENAMED = {"ablation.told": "ablation.condition", "image.model": "image.kind"}  # key of before → key of now

RENAMED_SECTIONS = {"unet": "denoiser"}


def now_named(key: str) -> str:
    """A dotted key of any version → its name in this one."""
    section, dot, name = key.partition(".")
    return RENAMED.get(key, f"{RENAMED_SECTIONS.get(section, section)}{dot}{name}")


# Allowed words of the string keys. Words of a registry whose file imports torch stand here too: a misspelt word is refused
# before that import. A test compares both.
CHOICES: dict[str, Collection[str]] = {f"{section}.kind": kinds for section, kinds in KINDS.items()} | {
    "audio.framing": ("hifigan", "centred"),
    "audio.level": ("rms", "peak"),
    "music_vae.trainable": ("all", "decoder", "texture"),
    "vocoder.kind": ("griffin_lim", "vocos"),
    "data.source": SOURCES,  # the registry itself: a source that someone adds is a word at once
    "data.crop": ("random", "start"),
    "data.precompute.dtype": ("float32", "float16"),
    "text_encoder.family": ("bert", "t5", "clip"),
    "image.family": ("clip", "siglip", "dinov3"),
    "image.prediction_type": ("epsilon", "v_prediction"),
    "image.reading": ("inverted", "fixed", "noised"),
    "synapse.alpha_share": ("all", "block", "layer", "head"),
    "denoiser.trainable": ("auto", "all", "decoder", "cross_attn", "synapse"),
    "diffusion.loss_space": ("output", "v"),
    "diffusion.prediction_type": ("epsilon", "v_prediction"),
    "diffusion.guidance": ("cfg", "apg"),
    "optim.schedule": ("constant", "cosine"),
    "trainer.accelerator": ("auto", "cpu", "gpu", "cuda", "mps"),
    "trainer.precision": ("auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "32"),
    "codec.peak": ("divide", "-1dBFS", "clamp", "none"),
    "synapse.match": ("pool", "pool_2d"),
    "sampling.sampler": list(dict.fromkeys(sampler for objective in OBJECTIVES.values() for sampler in objective.SAMPLERS)),
    "judge.kind": ("conv", "recurrent", "pitch"),
    "ablation.condition": (
        "right picture",
        "shuffled picture",
        "no picture",
        "outside picture",
        "picture alone",
        "another game's picture",
        "its game's picture",
    ),
    "ablation.corpus_test": ("fresh", "split"),
}

REFUSED = {  # words that a reader may expect → why they are not offered, and what to write instead
    "trainer.precision": {
        "16-true": "float16 holds neither AdamW's small steps nor small gradients: give 16-mixed, or bf16-true for less memory",
        "64-true": "the mel front end, losses and what is precomputed are float32: give 32-true",
        "64": "the mel front end, losses and what is precomputed are float32: give 32-true",
    }
}
