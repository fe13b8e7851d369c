"""Random-init networks of the field's architectures, at any size: where training starts from nothing, and for tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from diffusers import AutoencoderKL, AutoencoderOobleck, AutoencoderSAME, UNet2DConditionModel
from diffusers.pipelines.audioldm2 import AudioLDM2UNet2DConditionModel
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5Config,
    T5EncoderModel,
)

from melfusion.media.options import AudioConfig
from melfusion.models.backbones.unet_options import AudioLDM2Config, AudioLDMConfig, UNetConfig
from melfusion.models.codecs.options import WaveCodecConfig
from melfusion.models.options import ImageDiffusionConfig, MusicVAEConfig, TextEncoderConfig, VisionConfig


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """UTF-8 bytes as tokens, with <pad> and </s>: the tokenizer of random twins."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    vocab = {token: i for i, token in enumerate(["<pad>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>")


def random_unet(
    c: ImageDiffusionConfig | UNetConfig, channels: int, cross_attention_dim: int | tuple[int, ...], **flags: Any
) -> UNet2DConditionModel:
    """Levels from the top; `attention_blocks` says which have attention. The mid block always has."""
    down = ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in c.attention_blocks]
    up = ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(c.attention_blocks)]
    heads = c.attention_head_dim if len(c.attention_head_dim) > 1 else c.attention_head_dim[0]
    return UNet2DConditionModel(
        in_channels=channels,
        out_channels=channels,
        down_block_types=down,
        up_block_types=up,
        block_out_channels=c.block_out_channels,
        layers_per_block=c.layers_per_block,
        attention_head_dim=heads,
        cross_attention_dim=cross_attention_dim,
        norm_num_groups=c.norm_num_groups,
        **flags,
    )


def random_audioldm(c: AudioLDMConfig, channels: int, text_width: int) -> UNet2DConditionModel:
    """The published arrangement: the text goes to the ResNet blocks beside the time, and each layer attends to the sound, twice."""
    levels = len(c.block_out_channels)
    heads = c.attention_head_dim if len(c.attention_head_dim) > 1 else c.attention_head_dim * levels
    film = {"class_embed_type": "simple_projection", "projection_class_embeddings_input_dim": text_width}
    return random_unet(
        replace(c, attention_head_dim=heads), channels, tuple(c.block_out_channels), class_embeddings_concat=True, **film
    )


def random_audioldm2(c: AudioLDM2Config, channels: int, text_width: int) -> AudioLDM2UNet2DConditionModel:
    """The published arrangement: each layer attends to itself, to the GPT-2's tokens, and to the text."""
    down = ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in c.attention_blocks]
    up = ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(c.attention_blocks)]
    levels = len(c.block_out_channels)
    heads = c.attention_head_dim if len(c.attention_head_dim) > 1 else c.attention_head_dim * levels
    return AudioLDM2UNet2DConditionModel(
        in_channels=channels,
        out_channels=channels,
        down_block_types=down,
        up_block_types=up,
        block_out_channels=c.block_out_channels,
        layers_per_block=c.layers_per_block,
        attention_head_dim=tuple(heads),
        cross_attention_dim=[[None, c.generated_width, text_width]] * levels,
        norm_num_groups=c.norm_num_groups,
    )


def random_music_vae(c: MusicVAEConfig) -> AutoencoderKL:
    levels = len(c.block_out_channels)
    return AutoencoderKL(
        in_channels=c.patch_size**2,
        out_channels=c.patch_size**2,
        latent_channels=c.latent_channels,
        block_out_channels=c.block_out_channels,
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        layers_per_block=c.layers_per_block,
        norm_num_groups=c.norm_num_groups,
        scaling_factor=1.0,
        mid_block_add_attention=c.mid_block_attention,
    )


def random_oobleck(c: WaveCodecConfig, audio: AudioConfig) -> AutoencoderOobleck:
    return AutoencoderOobleck(**c.sizes(), sampling_rate=audio.sample_rate_hz, audio_channels=audio.channels)


def random_same(c: WaveCodecConfig, audio: AudioConfig) -> AutoencoderSAME:
    """Its residual branches begin at zero, so that no sound would reach the latents: these are drawn, too."""
    network = AutoencoderSAME(**c.sizes(), sampling_rate=audio.sample_rate_hz, audio_channels=audio.channels)
    for module in network.modules():
        if isinstance(module, nn.Linear) and not module.weight.is_meta and not module.weight.any():
            nn.init.xavier_normal_(module.weight)
    return network


def random_image_vae(c: ImageDiffusionConfig) -> AutoencoderKL:
    levels = len(c.vae_block_out_channels)
    return AutoencoderKL(
        latent_channels=4,
        block_out_channels=c.vae_block_out_channels,
        layers_per_block=2,
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        norm_num_groups=min(32, *c.vae_block_out_channels),
        scaling_factor=0.18215,
    )


def random_vision(c: VisionConfig, image_size: int) -> Any:
    """Sees 8×8 patches."""
    sizes: dict[str, Any] = {
        "hidden_size": c.hidden_size,
        "intermediate_size": 2 * c.hidden_size,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": image_size,
        "patch_size": image_size // 8,
    }
    if c.family == "dinov3":
        return DINOv3ViTModel(DINOv3ViTConfig(**sizes, num_register_tokens=4))
    return SiglipVisionModel(SiglipVisionConfig(**sizes)) if c.family == "siglip" else CLIPVisionModel(CLIPVisionConfig(**sizes))


def random_text_network(c: TextEncoderConfig) -> nn.Module:
    d, vocab = c.hidden_size, len(byte_tokenizer())
    if c.family == "t5":
        return T5EncoderModel(T5Config(vocab_size=vocab, d_model=d, d_kv=d // 4, d_ff=2 * d, num_layers=2, num_heads=4))
    kw: dict[str, Any] = {
        "vocab_size": vocab,
        "hidden_size": d,
        "intermediate_size": 2 * d,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": max(c.max_length, 8),
    }
    return BertModel(BertConfig(**kw)) if c.family == "bert" else CLIPTextModel(CLIPTextConfig(**kw, eos_token_id=1))
