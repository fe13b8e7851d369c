"""The text networks of published music models at their published sizes: for counting, where no file is at hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diffusers.pipelines.ace_step.modeling_ace_step import AceStepConditionEncoder
from diffusers.pipelines.audioldm2 import AudioLDM2ProjectionModel
from diffusers.pipelines.stable_audio.modeling_stable_audio import StableAudioProjectionModel
from diffusers.pipelines.stable_audio_3.modeling_stable_audio_3 import StableAudio3DurationEmbedder
from torch import nn
from transformers import (
    ClapConfig,
    ClapModel,
    ClapTextConfig,
    ClapTextModelWithProjection,
    GPT2Config,
    GPT2Model,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5GemmaConfig,
    T5GemmaEncoderModel,
    T5GemmaModuleConfig,
)

from melfusion.models.published_sizes import FLAN_T5_LARGE

T5_BASE: dict[str, Any] = {"vocab_size": 32128, "d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12}

T5GEMMA_B: dict[str, Any] = {  # google/t5gemma-b-b-ul2
    "vocab_size": 256000,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "head_dim": 64,
}

QWEN3_EMBEDDING: dict[str, Any] = {  # Qwen/Qwen3-Embedding-0.6B
    "vocab_size": 151669,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
}


def stable_audio() -> list[nn.Module]:
    return [T5EncoderModel(T5Config(**T5_BASE)), StableAudioProjectionModel(768, 768, 0, 512)]


def stable_audio_3() -> list[nn.Module]:
    part = T5GemmaModuleConfig(**T5GEMMA_B)
    text = T5GemmaEncoderModel(T5GemmaConfig(encoder=part, decoder=part, is_encoder_decoder=False, vocab_size=part.vocab_size))
    return [text, StableAudio3DurationEmbedder(output_dim=768, max_val=384)]


def ace_step() -> list[nn.Module]:
    return [Qwen3Model(Qwen3Config(**QWEN3_EMBEDDING)), AceStepConditionEncoder()]


def audioldm() -> list[nn.Module]:
    return [ClapTextModelWithProjection(ClapTextConfig())]


def audioldm2() -> list[nn.Module]:
    text, clap = T5EncoderModel(T5Config(**FLAN_T5_LARGE)), ClapModel(ClapConfig())
    return [text, clap, AudioLDM2ProjectionModel(512, 1024, 768), GPT2Model(GPT2Config())]


PUBLISHED: dict[str, Callable[[], list[nn.Module]]] = {  # kind → the networks of a pipeline in the order of assembly/conditioner.py
    "stable_audio": stable_audio,
    "stable_audio_3": stable_audio_3,
    "ace_step": ace_step,
    "audioldm": audioldm,
    "audioldm2": audioldm2,
}
