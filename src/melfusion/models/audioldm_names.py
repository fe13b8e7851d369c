"""What the tensors of AudioLDM's single file are called: the names of diffusers and transformers → its own (audioldm_file.py)."""

from __future__ import annotations

import re
from collections.abc import Callable

VAE, VOCODER = "first_stage_model.", "first_stage_model.vocoder."

UNET, AVERAGE = "model.diffusion_model.", "model_ema.diffusion_model"  # of the average all dots are taken out

TEXT = "cond_stage_model.model.text_"  # CLAP's half that reads words

LEVELS, LAYERS = 3, 2  # of the VAE; ResNet blocks per level, of VAE and UNet

Rule = tuple[str, str | Callable[[re.Match[str]], str]]

VAE_NAMES: tuple[Rule, ...] = (
    (r"up_blocks\.(\d)", lambda found: f"up.{LEVELS - 1 - int(found[1])}"),  # counted from the top there
    (r"down_blocks", "down"),
    (r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}"),
    (r"mid_block\.attentions\.0\.", "mid.attn_1."),
    (r"\.resnets\.", ".block."),
    (r"(down|up)samplers\.0", r"\1sample"),
    (r"conv_norm_out", "norm_out"),
    (r"group_norm", "norm"),
    (r"\.to_([qkv])\.", r".\1."),
    (r"to_out\.0", "proj_out"),
    (r"conv_shortcut", "nin_shortcut"),
)


def _input(found: re.Match[str]) -> str:
    """A level that goes down: its ResNet blocks are counted on, and what halves it comes last; block 0 is the first convolution."""
    return f"input_blocks.{1 + int(found[1]) * (LAYERS + 1) + int(found[3] or LAYERS)}.{int(found[2] == 'attentions')}"


def _output(found: re.Match[str]) -> str:
    """A level that goes up: one ResNet block more, and what doubles it stands behind the attention of the last."""
    place = {"resnets": 0, "attentions": 1, "upsamplers": 2}[found[2]]
    return f"output_blocks.{int(found[1]) * (LAYERS + 1) + int(found[3] if place < 2 else LAYERS)}.{place}"


UNET_NAMES: tuple[Rule, ...] = (
    (r"^conv_in", "input_blocks.0.0"),
    (r"^conv_norm_out", "out.0"),
    (r"^conv_out", "out.2"),
    (r"^time_embedding\.linear_1", "time_embed.0"),
    (r"^time_embedding\.linear_2", "time_embed.2"),
    (r"^class_embedding", "film_emb"),
    (r"resnets(\.\d\.)norm1", r"resnets\1in_layers.0"),
    (r"resnets(\.\d\.)conv1", r"resnets\1in_layers.2"),
    (r"time_emb_proj", "emb_layers.1"),
    (r"resnets(\.\d\.)norm2", r"resnets\1out_layers.0"),
    (r"resnets(\.\d\.)conv2", r"resnets\1out_layers.3"),
    (r"conv_shortcut", "skip_connection"),
    (r"^down_blocks\.(\d)\.(resnets|attentions)\.(\d)", _input),
    (r"^down_blocks\.(\d)\.(downsamplers)()\.0\.conv", lambda found: f"{_input(found)}.op"),
    (r"^mid_block\.attentions\.0", "middle_block.1"),
    (r"^mid_block\.resnets\.(\d)", lambda found: f"middle_block.{2 * int(found[1])}"),
    (r"^up_blocks\.(\d)\.(resnets|attentions|upsamplers)\.(\d)", _output),
)

TEXT_NAMES: tuple[Rule, ...] = (
    (r"^text_model", "branch"),
    (r"^text_projection\.linear(\d)", lambda found: f"projection.{2 * int(found[1]) - 2}"),
)

VOCODER_NAMES: tuple[Rule, ...] = ((r"upsampler\.", "ups."),)

NAMES = {VAE: VAE_NAMES, VOCODER: VOCODER_NAMES, UNET: UNET_NAMES, TEXT: TEXT_NAMES}


def their_name(part: str, name: str) -> str:
    """What the file calls a tensor of a network."""
    for ours, theirs in NAMES[part]:
        name = re.sub(ours, theirs, name)
    return part + name


def averaged(theirs: str) -> str:
    """What it calls the average of a tensor of the UNet."""
    return AVERAGE + theirs.removeprefix(UNET).replace(".", "")
