"""AudioLDM's published single file (`audioldm-*.ckpt`) → the VAE and the vocoder that lie in it, key by key.

Liu et al. 2023, arXiv 2301.12503. The names of the tensors and the sizes are those of haoheliu/AudioLDM:
audioldm/variational_autoencoder/modules.py and autoencoder.py (VAE), audioldm/hifigan/models.py and utilities.py (vocoder),
audioldm/ldm.py and audioldm/latent_diffusion/ddpm.py (all else), audioldm/utils.py (sizes). Which of diffusers' and
transformers' layers they are stands in huggingface/diffusers, scripts/convert_original_audioldm_to_diffusers.py.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

from melfusion.errors import WeightsError
from melfusion.models.device import only_sizes
from melfusion.models.published_sizes import AUDIOLDM_VOCODER
from melfusion.models.state_dicts import misfits, read_state

log = logging.getLogger(__name__)

VAE, VOCODER, SCALE = "first_stage_model.", "first_stage_model.vocoder.", "scale_factor"

NOT_NEEDED = {  # how names begin → what is called so, and why it stays where it is
    "model.diffusion_model.": "the UNet: it takes the text by FiLM alone, where no picture can enter",
    "model_ema.": "the average of that UNet",
    "cond_stage_model.": "CLAP, which makes what the FiLM gets",
}

SCHEDULE = (  # constants that follow from the noise schedule, which `diffusion` describes
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "lvlb_weights",
    "logvar",
)

WIDTHS, LAYERS, LATENTS, GROUPS = (1, 2, 4), 2, 8, 32  # of the VAE, as all published sizes of AudioLDM have it

VAE_NAMES = (  # diffusers' names → AudioLDM's
    (r"up_blocks\.(\d)", lambda found: f"up.{len(WIDTHS) - 1 - int(found[1])}"),  # counted from the top there
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


def audioldm_vae(file: Path) -> AutoencoderKL:
    """The VAE of the file, float32; WeightsError names what the file lacks or has beside AudioLDM's parts."""
    return _converted(file, VAE)


def audioldm_vocoder(file: Path) -> SpeechT5HifiGan:
    """The vocoder of the file, float32; WeightsError as above."""
    return _converted(file, VOCODER)


def _converted(file: Path, part: str) -> Any:
    """One of the two networks; both are checked, so that no tensor of the file is left out unseen."""
    whole = read_state(file)
    state = {name: tensor for name, tensor in whole.items() if name not in SCHEDULE and not name.startswith(tuple(NOT_NEEDED))}
    if left := [f"{start}* ({why})" for start, why in NOT_NEEDED.items() if any(name.startswith(start) for name in whole)]:
        log.warning("%s: left out are %s; and constants of the noise schedule.", file, ", ".join(left))
    with torch.device("meta"):
        networks: dict[str, nn.Module] = {VAE: _vae(state), VOCODER: _vocoder(state)}
    wanted = {_their_name(p, name): t for p, network in networks.items() for name, t in _stored(network).items()}
    state = {name: _flat(tensor, wanted.get(name)) for name, tensor in state.items()}
    if words := misfits(wanted | {SCALE: torch.zeros(())}, state):
        raise WeightsError(f"{file} is not AudioLDM's published file: {'; '.join(words)}: fetch it again, or give other weights.")
    if only_sizes():
        return networks[part]
    network = networks[part].to_empty(device="cpu")
    constants = {"mean": torch.zeros, "scale": torch.ones}  # of a vocoder that normalises nothing
    given = {name: state[_their_name(part, name)] for name in _stored(network)}
    given |= {name: constants[name](t.shape) for name, t in network.state_dict().items() if name not in given}
    network.load_state_dict(given)
    return network.eval()


def _vae(state: dict[str, Tensor]) -> AutoencoderKL:
    """Of the width in the file."""
    width = _width(state, f"{VAE}encoder.conv_in.weight", 128, GROUPS)
    scale = state.get(SCALE)
    return AutoencoderKL(
        in_channels=1,
        out_channels=1,
        latent_channels=LATENTS,
        block_out_channels=[width * by for by in WIDTHS],
        down_block_types=["DownEncoderBlock2D"] * len(WIDTHS),
        up_block_types=["UpDecoderBlock2D"] * len(WIDTHS),
        layers_per_block=LAYERS,
        norm_num_groups=GROUPS,
        scaling_factor=float(scale) if scale is not None and scale.ndim == 0 else 1.0,
    )


def _vocoder(state: dict[str, Tensor]) -> SpeechT5HifiGan:
    """Of the width in the file; it normalises nothing, so that mean and scale, which the file has not, do nothing."""
    width = _width(state, f"{VOCODER}conv_pre.weight", 1024, 2 ** len(AUDIOLDM_VOCODER["upsample_rates"]))
    return SpeechT5HifiGan(SpeechT5HifiGanConfig(**AUDIOLDM_VOCODER | {"upsample_initial_channel": width}))


def _width(state: dict[str, Tensor], name: str, published: int, of: int) -> int:
    """Channels that a convolution makes; as published where that cannot be, and then its shape is refused."""
    tensor = state.get(name)
    found = tensor.shape[0] if tensor is not None and tensor.ndim else 0
    return found if found and found % of == 0 else published


def _stored(network: nn.Module) -> dict[str, Tensor]:
    """The tensors of a network that the file holds."""
    return {name: tensor for name, tensor in network.state_dict().items() if name not in ("mean", "scale")}


def _their_name(part: str, name: str) -> str:
    """What the file calls a tensor of a network."""
    if part == VOCODER:
        return VOCODER + name.replace("upsampler.", "ups.")
    for ours, theirs in VAE_NAMES:
        name = re.sub(ours, theirs, name)
    return VAE + name


def _flat(tensor: Tensor, wanted: Tensor | None) -> Tensor:
    """A 1×1 convolution (C, C, 1, 1) where a linear layer is wanted, as in the attention of the VAE, as its matrix."""
    linear = wanted is not None and wanted.ndim == 2 and tensor.ndim == 4
    return tensor.flatten(1) if linear else tensor
