"""AudioLDM's published single file (`audioldm-*.ckpt`) → the networks that lie in it, key by key.

Liu et al. 2023, arXiv 2301.12503. The names of the tensors and the sizes are those of haoheliu/AudioLDM:
audioldm/variational_autoencoder/modules.py and autoencoder.py (VAE), audioldm/hifigan/models.py and utilities.py (vocoder),
audioldm/latent_diffusion/openaimodel.py (UNet) and ema.py (its average), audioldm/clap/open_clip/model.py (CLAP), audioldm/ldm.py
and audioldm/latent_diffusion/ddpm.py (all else), audioldm/utils.py (sizes). Which of diffusers' and transformers' layers they are
stands in huggingface/diffusers, scripts/convert_original_audioldm_to_diffusers.py; that script leaves the UNet's heads at 8 in
every layer, where the authors have one for each 32 or 64 channels, and so has this file.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import ClapTextConfig, ClapTextModelWithProjection, SpeechT5HifiGan, SpeechT5HifiGanConfig

from melfusion.errors import WeightsError
from melfusion.models.audioldm_names import AVERAGE, LAYERS, LEVELS, TEXT, UNET, VAE, VOCODER, averaged, their_name
from melfusion.models.backbones.unet_options import AudioLDMConfig
from melfusion.models.device import only_sizes
from melfusion.models.published_sizes import AUDIOLDM_VOCODER
from melfusion.models.state_dicts import misfits, read_state
from melfusion.models.twins import random_audioldm

log = logging.getLogger(__name__)

SCALE = "scale_factor"

CLAP = "cond_stage_model."

NOT_NEEDED = {  # how names begin → what is called so, and why it stays where it is
    f"{CLAP}model.audio_": "CLAP's half that hears, which no request asks",
    f"{CLAP}model.text_transform.": "a layer of CLAP that the text does not pass",
    f"{CLAP}model.logit_scale": "CLAP's temperatures",
}

CONSTANTS = (  # that follow from the noise schedule, which `diffusion` describes; and counts
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
    "model_ema.decay",
    "model_ema.num_updates",
    f"{TEXT}branch.embeddings.position_ids",
)

WIDTHS, LATENTS, GROUPS = (1, 2, 4), 8, 32  # of the VAE, as all published sizes of AudioLDM have it

UNET_WIDTHS, TEXT_WIDTH = (1, 2, 3, 5), 512  # of the UNet; of what CLAP gives it

WIDE = 256  # channels at the UNet's top from which its heads have 64 of them; below they have 32


def audioldm_vae(file: Path) -> AutoencoderKL:
    """The VAE of the file, float32; WeightsError names what the file lacks or has beside AudioLDM's parts."""
    return _converted(file, VAE)


def audioldm_vocoder(file: Path) -> SpeechT5HifiGan:
    """The vocoder of the file, float32; WeightsError as above."""
    return _converted(file, VOCODER)


def audioldm_unet(file: Path) -> UNet2DConditionModel:
    """The UNet of the file, float32; its average where the file has it, since AudioLDM samples with that. WeightsError as above."""
    return _converted(file, UNET)


def audioldm_clap(file: Path) -> ClapTextModelWithProjection:
    """CLAP's half that reads words, float32; WeightsError as above."""
    return _converted(file, TEXT)


def _converted(file: Path, part: str) -> Any:
    """One of the networks; all that lie in the file are checked, so that no tensor of it is left out unseen."""
    whole = read_state(file)
    state = {name: tensor for name, tensor in whole.items() if name not in CONSTANTS and not name.startswith(tuple(NOT_NEEDED))}
    with torch.device("meta"):
        make: dict[str, Any] = {VAE: _vae, VOCODER: _vocoder, UNET: _unet, TEXT: _clap}
        networks: dict[str, nn.Module] = {p: make[p](state) for p in make if p in (VAE, VOCODER, part) or _holds(state, p)}
    known = {p: network.state_dict() for p, network in networks.items()}
    sets = {p: _names(p, known[p], state) for p in networks}
    wanted = {theirs: known[p][ours] for p in sets for names in sets[p] for ours, theirs in names.items()}
    state = {name: _flat(tensor, wanted.get(name)) for name, tensor in state.items()}
    if words := misfits(wanted | {SCALE: torch.zeros(())}, state):
        raise WeightsError(f"{file} is not AudioLDM's published file: {'; '.join(words)}: fetch it again, or give other weights.")
    _tell(file, whole, two=len(sets.get(UNET, ())) > 1)
    if only_sizes():
        return networks[part]
    network = networks[part].to_empty(device="cpu")
    network.load_state_dict(_constants(known[part]) | {ours: state[theirs] for ours, theirs in sets[part][0].items()})
    return network.eval()


def _tell(file: Path, whole: dict[str, Tensor], two: bool) -> None:
    """Log what of the file is not used."""
    left = [f"{start}* ({why})" for start, why in NOT_NEEDED.items() if any(name.startswith(start) for name in whole)]
    if two:
        left.insert(0, f"{UNET}* (the UNet of the last step, of which model_ema.* is the average)")
    if left:
        log.warning("%s: left out are %s; and constants.", file, ", ".join(left))


def _holds(state: dict[str, Tensor], part: str) -> bool:
    """Does any tensor of that network lie in the file?"""
    return any(name.startswith((part, AVERAGE) if part == UNET else part) for name in state)


def _names(part: str, known: dict[str, Tensor], state: dict[str, Tensor]) -> list[dict[str, str]]:
    """The ways in which the file holds the tensors of a network, our names → its own: the first is read."""
    plain = {ours: their_name(part, ours) for ours in known.keys() - _constants(known).keys()}
    if part != UNET or not any(name.startswith(AVERAGE) for name in state):
        return [plain]
    mean = {ours: averaged(theirs) for ours, theirs in plain.items()}
    return [mean, plain] if any(name.startswith(UNET) for name in state) else [mean]


def _constants(known: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a network keeps beside what it has learned, and the file does not hold."""
    made: dict[str, Any] = {  # a vocoder that normalises nothing; places and kinds of words
        "mean": torch.zeros,
        "scale": torch.ones,
        "text_model.embeddings.position_ids": lambda shape: torch.arange(shape[-1])[None],
        "text_model.embeddings.token_type_ids": lambda shape: torch.zeros(shape, dtype=torch.long),
    }
    return {name: make(known[name].shape) for name, make in made.items() if name in known}


def _vae(state: dict[str, Tensor]) -> AutoencoderKL:
    """Of the width in the file."""
    width = _size(state, f"{VAE}encoder.conv_in.weight", 128, GROUPS)
    scale = state.get(SCALE)
    return AutoencoderKL(
        in_channels=1,
        out_channels=1,
        latent_channels=LATENTS,
        block_out_channels=[width * by for by in WIDTHS],
        down_block_types=["DownEncoderBlock2D"] * LEVELS,
        up_block_types=["UpDecoderBlock2D"] * LEVELS,
        layers_per_block=LAYERS,
        norm_num_groups=GROUPS,
        scaling_factor=float(scale) if scale is not None and scale.ndim == 0 else 1.0,
    )


def _vocoder(state: dict[str, Tensor]) -> SpeechT5HifiGan:
    """Of the width in the file; it normalises nothing, so that mean and scale, which the file has not, do nothing."""
    width = _size(state, f"{VOCODER}conv_pre.weight", 1024, 2 ** len(AUDIOLDM_VOCODER["upsample_rates"]))
    return SpeechT5HifiGan(SpeechT5HifiGanConfig(**AUDIOLDM_VOCODER | {"upsample_initial_channel": width}))


def _unet(state: dict[str, Tensor]) -> UNet2DConditionModel:
    """Of the width in the file: AudioLDM-S has 128 channels at its top, M 192, L 256."""
    first = "input_blocks.0.0.weight"
    name = next((n for n in (averaged(UNET + first), UNET + first) if n in state), "")
    width = _size(state, name, 128, GROUPS)
    widths, head = [width * by for by in UNET_WIDTHS], 64 if width >= WIDE else 32
    sizes = AudioLDMConfig(block_out_channels=widths, attention_head_dim=[w // head for w in widths], layers_per_block=LAYERS)
    return random_audioldm(sizes, LATENTS, TEXT_WIDTH)


def _clap(state: dict[str, Tensor]) -> ClapTextModelWithProjection:
    """RoBERTa and a projection of the sizes in the file; heads of 64 channels, as in roberta-base."""
    embedded, layers = f"{TEXT}branch.embeddings.", f"{TEXT}branch.encoder.layer."
    width = _size(state, f"{embedded}word_embeddings.weight", 768, 1, dim=1)
    found = [int(name.removeprefix(layers).partition(".")[0]) for name in state if name.startswith(layers)]
    return ClapTextModelWithProjection(
        ClapTextConfig(
            vocab_size=_size(state, f"{embedded}word_embeddings.weight", 50265, 1),
            hidden_size=width,
            num_hidden_layers=1 + max(found, default=11),
            num_attention_heads=max(1, width // 64),
            intermediate_size=_size(state, f"{layers}0.intermediate.dense.weight", 3072, 1),
            max_position_embeddings=_size(state, f"{embedded}position_embeddings.weight", 514, 1),
            projection_dim=_size(state, f"{TEXT}projection.0.weight", TEXT_WIDTH, 1),
            layer_norm_eps=1e-5,
        )
    )


def _size(state: dict[str, Tensor], name: str, published: int, of: int, dim: int = 0) -> int:
    """A size of a tensor, a multiple of `of`; as published where that cannot be, and then its shape is refused."""
    tensor = state.get(name)
    found = tensor.shape[dim] if tensor is not None and tensor.ndim > dim else 0
    return found if found and found % of == 0 else published


def _flat(tensor: Tensor, wanted: Tensor | None) -> Tensor:
    """A 1×1 convolution (C, C, 1, 1) where a linear layer is wanted, as in the attention of the VAE, as its matrix."""
    linear = wanted is not None and wanted.ndim == 2 and tensor.ndim == 4
    return tensor.flatten(1) if linear else tensor
