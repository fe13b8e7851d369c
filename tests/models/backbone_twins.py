"""Random twins of all backbones, what they are called with, and how diffusers' own pipelines call theirs."""

import dataclasses

import torch
from diffusers import AceStepTransformer1DModel, StableAudio3DiTModel, StableAudioDiTModel, UNet2DConditionModel
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from diffusers.pipelines.audioldm2 import AudioLDM2UNet2DConditionModel
from synapse_fixtures import randn, seeded

from melfusion.assembly.denoiser import BUILD
from melfusion.models.backbones.options import DENOISERS
from melfusion.models.image_encoder import ImageEncoder

CLASSES = {
    "unet": UNet2DConditionModel,
    "audioldm": UNet2DConditionModel,
    "audioldm2": AudioLDM2UNet2DConditionModel,
    "stable_audio": StableAudioDiTModel,
    "stable_audio_3": StableAudio3DiTModel,
    "ace_step": AceStepTransformer1DModel,
}
LENGTH, WIDTH, IMAGE_WIDTH = 6, 16, 12


class Tokens(ImageEncoder):
    """One layer of tokens for all."""

    def width_of(self, layer):
        return IMAGE_WIDTH


def build(tiny, name, kind="concat", *overrides):
    """A backbone of its random twin."""
    own = [f"synapse.kind={kind}", "synapse.layers=[all]", f"denoiser.kind={name}", *overrides]
    config = tiny(*own, "denoiser.weights=null")
    config = dataclasses.replace(config, denoiser=DENOISERS[name](**{"kind": name, **DENOISERS[name].TINY}))
    config.denoiser.trainable = next((o.partition("=")[2] for o in overrides if o.startswith("denoiser.trainable=")), "all")
    with seeded(3):
        return BUILD[name](config, WIDTH, Tokens() if kind != "none" else None)


def inputs(name):
    """noisy_latents, times, text_embeds, text_mask, extra, as the backbone takes them."""
    text, mask = randn(2, LENGTH, WIDTH, seed=1), torch.arange(LENGTH) < torch.tensor([[3], [6]])
    if name == "audioldm":  # one vector
        return randn(2, 4, 16, 4), torch.tensor([3, 700]), text[:, :1], torch.ones(2, 1, dtype=torch.bool), {}
    if name in ("unet", "audioldm2"):
        extra = {"generated": randn(2, 5, 8, seed=2)} if name == "audioldm2" else {}
        return randn(2, 4, 16, 4), torch.tensor([3, 700]), text, mask, extra
    # the stock ACE-Step takes no mask, and attends to all words
    return randn(2, 16, 10), torch.tensor([0.2, 0.9]), text, None if name == "ace_step" else mask, {}


def forward(model, name, has_image=(1.0, 1.0), shown=True, features=None):
    latents, times, text, mask, extra = inputs(name)
    seen = features or {
        layer: (randn(2, 9, IMAGE_WIDTH, seed=7 + i), randn(2, 9, IMAGE_WIDTH, seed=70 + i)) for i, layer in enumerate(model.layers)
    }
    return model(latents, times, text, mask, seen if shown else None, torch.tensor(has_image), extra)


def call_unet(network, latents, times, text, mask, extra):
    return network(latents, times, encoder_hidden_states=text, encoder_attention_mask=mask).sample


def call_audioldm(network, latents, times, text, mask, extra):
    return network(latents, times, encoder_hidden_states=None, class_labels=text[:, 0]).sample


def call_audioldm2(network, latents, times, text, mask, extra):
    texts = {"encoder_hidden_states": extra["generated"], "encoder_hidden_states_1": text, "encoder_attention_mask_1": mask}
    return network(latents, times, **texts).sample


def call_stable_audio(network, latents, times, text, mask, extra):
    """Its pipeline zeroes hidden words; one place of the rotary embedding more is for the seconds, which are zeros here."""
    rotary = get_1d_rotary_pos_embed(8 // 2, 10 + 1, use_real=True, repeat_interleave_real=False)
    return network(latents, times, text * mask[..., None], torch.zeros(2, 1, 32), rotary).sample


def call_stable_audio_3(network, latents, times, text, mask, extra):
    return network(latents, times, text, torch.zeros(2, 16), encoder_attention_mask=mask).sample


def call_ace_step(network, latents, times, text, mask, extra):
    """Nothing stood there before (16 channels of zeros), and all frames are to be made (16 of ones)."""
    context = torch.cat([torch.zeros(2, 10, 16), torch.ones(2, 10, 16)], 2)
    return network(latents.transpose(1, 2), times, times, text, context).sample.transpose(1, 2)


CALLS = {  # kind → how diffusers' own pipeline calls its network, without a line of ours
    "unet": call_unet,
    "audioldm": call_audioldm,
    "audioldm2": call_audioldm2,
    "stable_audio": call_stable_audio,
    "stable_audio_3": call_stable_audio_3,
    "ace_step": call_ace_step,
}


def stock(model, name):
    """What diffusers' own class makes with the same weights."""
    bare = CLASSES[name].from_config(model.network.config).eval()
    bare.load_state_dict(model.network.state_dict(), strict=True)
    assert not [type(module) for module in bare.modules() if type(module).__module__.startswith("melfusion")]
    return CALLS[name](bare, *inputs(name))
