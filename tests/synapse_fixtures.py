"""Tiny random UNets and their inputs, shared by the tests of the denoiser and of what it reads from a picture."""

from contextlib import contextmanager

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from melfusion.models.backbones.unet import SynapticUNet
from melfusion.models.diffusion.options import DiffusionConfig
from melfusion.models.diffusion.process import alphas_cumprod
from melfusion.models.image_diffusion import ImageFeatureExtractor
from melfusion.models.synapse.options import synapse_config

CHANNELS, TEXT_WIDTH, PROMPT_WIDTH, LENGTH = 4, 12, 8, 6


@contextmanager
def seeded(seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def small_unet(seed=0, widths=(8, 16), text_width=TEXT_WIDTH, channels=CHANNELS, heads=2, **kwargs):
    """Stock UNet with cross-attention at every level: 7 transformer blocks, 4 of them in the decoder."""
    with seeded(seed):
        return UNet2DConditionModel(
            in_channels=channels,
            out_channels=channels,
            block_out_channels=widths,
            layers_per_block=1,
            down_block_types=["CrossAttnDownBlock2D"] * len(widths),
            up_block_types=["CrossAttnUpBlock2D"] * len(widths),
            attention_head_dim=heads,
            cross_attention_dim=text_width,
            norm_num_groups=4,
            **kwargs,
        )


def small_image_unet(seed=1, channels=3, widths=(8, 16)):
    return small_unet(seed, widths, PROMPT_WIDTH, channels)


def small_image_vae(seed=2, scaling_factor=0.18215):
    """A VAE that halves the picture once."""
    with seeded(seed):
        return AutoencoderKL(
            latent_channels=4,
            block_out_channels=[4, 8],
            down_block_types=["DownEncoderBlock2D"] * 2,
            up_block_types=["UpDecoderBlock2D"] * 2,
            layers_per_block=1,
            norm_num_groups=4,
            scaling_factor=scaling_factor,
        ).eval()


def encoder_of(image_unet):
    """An image encoder that reads this UNet over pixels."""
    return ImageFeatureExtractor(image_unet, None, torch.zeros(1, 1, PROMPT_WIDTH), alphas_cumprod(DiffusionConfig()))


def synaptic(kind="kv_mix", seed=0, image_widths=(8, 16), layers=("decoder",), trainable="all", **synapse):
    """SynapticUNet of `small_unet(seed)`; options of the synapse that its kind does not have are left out."""
    unet, encoder = small_unet(seed), encoder_of(small_image_unet(widths=image_widths))
    own = {name: value for name, value in synapse.items() if name in synapse_config(kind).own()}
    with seeded(seed + 100):
        return SynapticUNet(unet, encoder, kind, list(layers), trainable, **own).eval()


def stock_of(model):
    """A separately built stock UNet with the same weights and no processors of ours."""
    stock = small_unet(seed=77)
    stock.load_state_dict(model.unet.state_dict())
    return stock.eval()


def call_stock(stock, noisy_latents, timesteps, text_embeds, text_mask=None):
    return stock(noisy_latents, timesteps, encoder_hidden_states=text_embeds, encoder_attention_mask=text_mask).sample


def music_inputs(batch=2, seed=0):
    """(noisy_latents_BCTF, timesteps_B, text_embeds_BLD)."""
    timesteps = torch.tensor([3, 700, 250, 999])[:batch]
    return randn(batch, CHANNELS, 16, 4, seed=seed), timesteps, randn(batch, LENGTH, TEXT_WIDTH, seed=seed + 1)


def random_features(model, batch=2, seed=5, tokens=16):
    """layer → (key, value) of random numbers, one pair of its own for every layer."""
    features = {}
    for i, (name, spec) in enumerate(model.synapse.specs.items()):
        pair = randn(2, batch, tokens, spec.image_width, seed=seed + i)
        features[name] = (pair[0], pair[1])
    return features


def text_masks(batch=2):
    """Name → mask (B, L) or None: every kind of mask a caption can have."""
    partial = torch.arange(LENGTH) < torch.tensor([2, 5, 1, 4])[:batch, None]
    return {"none": None, "partial": partial, "all": torch.ones(batch, LENGTH, dtype=torch.bool)}


def empty_caption(batch=2):
    """One visible token, what the empty string leaves."""
    return (torch.arange(LENGTH) < 1).expand(batch, -1)
