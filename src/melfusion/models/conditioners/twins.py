"""Random-init text networks of the architectures that published music models read their prompts with."""

from __future__ import annotations

from typing import Any

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

from melfusion.models.twins import byte_tokenizer

HEADS = 2


def vocabulary() -> int:
    """Of the byte tokenizer."""
    return len(byte_tokenizer())


def random_t5(width: int) -> T5EncoderModel:
    sizes = {"d_kv": width // HEADS, "d_ff": 2 * width, "num_layers": 2, "num_heads": HEADS}
    return T5EncoderModel(T5Config(vocab_size=vocabulary(), d_model=width, **sizes))


def decoder_sizes(width: int) -> dict[str, Any]:
    """What Gemma's and Qwen's families call their sizes."""
    return {
        "vocab_size": vocabulary(),
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 1,
        "head_dim": width // HEADS,
    }


def random_t5gemma(width: int) -> T5GemmaEncoderModel:
    part = T5GemmaModuleConfig(**decoder_sizes(width), layer_types=["sliding_attention", "full_attention"], sliding_window=64)
    return T5GemmaEncoderModel(T5GemmaConfig(encoder=part, decoder=part, is_encoder_decoder=False, vocab_size=vocabulary()))


def random_qwen3(width: int) -> Qwen3Model:
    return Qwen3Model(Qwen3Config(**decoder_sizes(width)))


def clap_text(width: int) -> dict[str, Any]:
    """Sizes of CLAP's half that reads words."""
    return {
        "vocab_size": vocabulary(),
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "max_position_embeddings": 514,
        "pad_token_id": 0,
    }


def random_clap_text(width: int, out: int) -> ClapTextModelWithProjection:
    """`out`: width of the vector."""
    return ClapTextModelWithProjection(ClapTextConfig(**clap_text(width), projection_dim=out))


def random_clap(width: int) -> ClapModel:
    """Its audio branch, which nobody asks here, is as small as that architecture can be."""
    audio = {
        "hidden_size": 16,
        "patch_embeds_hidden_size": 8,
        "depths": [1, 1],
        "num_attention_heads": [1, 1],
        "num_mel_bins": 16,
        "spec_size": 64,
        "window_size": 4,
        "patch_size": 4,
        "patch_stride": [4, 4],
        "aff_block_r": 1,
    }
    shared = {"projection_dim": width}
    return ClapModel(ClapConfig(text_config=clap_text(width) | shared, audio_config=audio | shared, **shared))


def random_gpt2(width: int, positions: int) -> GPT2Model:
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    return GPT2Model(GPT2Config(vocab_size=1, n_positions=positions, n_embd=width, n_layer=2, n_head=HEADS, **ends))
