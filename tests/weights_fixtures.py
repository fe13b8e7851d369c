"""Toy folders of weights in published layouts."""

import json

import pytest
import torch
from data_fixtures import one_sentence
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from melfusion.errors import WeightsError
from melfusion.models import twins

TANGO_AUDIO = ("audio.framing=centred", "audio.level=peak")  # of the log-mels that its UNet was trained on
SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "beta_start": 0.001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "num_train_timesteps": 500,
    "steps_offset": 1,
    "trained_betas": None,
    "prediction_type": "v_prediction",
}


def error_of(call, *args):
    with pytest.raises(WeightsError) as caught:
        call(*args)
    return one_sentence(caught.value)


def clip_text(width=16, positions=12):
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(twins.byte_tokenizer()),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=positions,
            bos_token_id=0,
            pad_token_id=0,
            eos_token_id=1,
        )
    ).eval()


def t5_text(folder):
    model = T5EncoderModel(
        T5Config(vocab_size=len(twins.byte_tokenizer()), d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4)
    ).eval()
    model.save_pretrained(folder)
    twins.byte_tokenizer().save_pretrained(folder)
    return model


def stable_diffusion(folder, scheduler=SCHEDULER):
    """A pipeline folder as diffusers writes it; returns its parts."""
    unet = UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        down_block_types=["CrossAttnDownBlock2D"] * 2,
        up_block_types=["CrossAttnUpBlock2D"] * 2,
        block_out_channels=[8, 16],
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=16,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(
        latent_channels=4,
        block_out_channels=[8, 8],
        layers_per_block=1,
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        norm_num_groups=4,
        scaling_factor=0.18215,
    ).eval()
    text, tokenizer = clip_text(positions=7), twins.byte_tokenizer()
    tokenizer.model_max_length = 7
    for part, model in (("unet", unet), ("vae", vae), ("text_encoder", text), ("tokenizer", tokenizer)):
        model.save_pretrained(folder / part)
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    return unet, vae, text, tokenizer


def music_unet(config, **changes):
    """A UNet of the sizes of `unet` in the config, as its publisher would make it."""
    stock = twins.random_unet(config.denoiser, config.music_vae.latent_channels, config.text_encoder.hidden_size).config
    kwargs = {name: value for name, value in stock.items() if not name.startswith("_")}
    return UNet2DConditionModel(**(kwargs | changes))


def tango(folder, unet, change=lambda state: None):
    state = {f"unet.{k}": v for k, v in unet.state_dict().items()} | {"text_encoder.shared.weight": torch.zeros(3)}
    change(state)
    torch.save(state, folder / "pytorch_model_main.bin")
