"""Options of the conditioners. No heavy imports.

A new one is a dataclass and a line of CONDITIONERS here, its class in a file beside this one, and one of BUILD
(assembly/conditioner.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from melfusion.models.options import Kind


@dataclass
class ConditionerConfig(Kind):
    """What turns the request into what the denoiser attends to."""

    kind: str = "text"  # text (the section text_encoder) | audioldm | audioldm2 | stable_audio | stable_audio_3 | ace_step


@dataclass
class PublishedConfig(ConditionerConfig):
    """Of a model that came with more than one text network."""

    weights: str | None = None  # its whole pipeline: hub:ID@REVISION | a folder; null: random init, at the widths below
    max_length: int = 128  # tokens that a caption is cut or padded to
    hidden_size: int = 768  # width of a random text network
    width: int = 768  # width of a random twin's text, as the backbone attends to it

    TINY: ClassVar[dict[str, Any]] = {"weights": None, "max_length": 24, "hidden_size": 16, "width": 16}


@dataclass
class StableAudioConditionerConfig(PublishedConfig):
    """Stable Audio Open: T5, and two seconds."""

    longest_s: float = 512.0  # largest number of seconds that a random twin tells apart


@dataclass
class StableAudio3ConditionerConfig(PublishedConfig):
    """Stable Audio 3: T5Gemma, and the duration."""

    max_length: int = 256  # tokens that a caption is cut or padded to
    longest_s: float = 384.0  # largest number of seconds that a random twin tells apart


@dataclass
class AceStepConditionerConfig(PublishedConfig):
    """ACE-Step 1.5: caption and tempo, key, metre, duration in one text; lyrics; a timbre."""

    max_length: int = 256  # tokens that the caption with tempo, key and so on is cut to
    lyrics_length: int = 512  # tokens that lyrics are cut to; the model reads up to 2048, and memory grows with them
    hidden_size: int = 1024  # width of a random text network
    width: int = 2048  # width of a random twin's text, as the backbone attends to it
    latent_channels: int = 64  # channels of a random twin's timbre, which are those of the latents
    frames_per_s: float = 25.0  # latent frames in a second, of the timbre
    seconds_of_timbre: float = 30.0  # of a sound whose timbre is wanted, and of the silence that stands for none

    TINY: ClassVar[dict[str, Any]] = PublishedConfig.TINY | {"max_length": 256, "lyrics_length": 64, "latent_channels": 16}


@dataclass
class AudioLDMConditionerConfig(PublishedConfig):
    """AudioLDM: CLAP's vector of the text."""

    max_length: int = 512  # tokens that a caption is cut or padded to
    width: int = 512  # of the vector of a random CLAP
    tokenizer: str | None = None  # folder of roberta-base's tokenizer, where weights are the authors' file, which has none


@dataclass
class AudioLDM2ConditionerConfig(PublishedConfig):
    """AudioLDM 2: CLAP and T5, and what a GPT-2 writes after them."""

    hidden_size: int = 512  # width of a random CLAP
    width: int = 1024  # width of a random T5
    generated_width: int = 768  # width of a random GPT-2
    generated_length: int = 8  # tokens that it writes

    TINY: ClassVar[dict[str, Any]] = PublishedConfig.TINY | {"generated_width": 8}


CONDITIONERS: dict[str, type[ConditionerConfig]] = {
    "text": ConditionerConfig,
    "audioldm": AudioLDMConditionerConfig,
    "audioldm2": AudioLDM2ConditionerConfig,
    "stable_audio": StableAudioConditionerConfig,
    "stable_audio_3": StableAudio3ConditionerConfig,
    "ace_step": AceStepConditionerConfig,
}
