"""Random twins of the backbones beside the paper's UNet, and what they are called with."""

import copy
import dataclasses

import torch
from diffusers import AceStepTransformer1DModel, StableAudio3DiTModel, StableAudioDiTModel
from diffusers.pipelines.audioldm2 import AudioLDM2UNet2DConditionModel
from synapse_fixtures import randn, seeded

from melfusion.assembly.denoiser import BUILD
from melfusion.models.backbones.options import DENOISERS
from melfusion.models.image_encoder import ImageEncoder

CLASSES = {
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
    if name == "audioldm2":
        return randn(2, 4, 16, 4), torch.tensor([3, 700]), text, mask, {"generated": randn(2, 5, 8, seed=2)}
    return randn(2, 16, 10), torch.tensor([0.2, 0.9]), text, mask, {}


def forward(model, name, has_image=(1.0, 1.0), shown=True, features=None):
    latents, times, text, mask, extra = inputs(name)
    seen = features or {
        layer: (randn(2, 9, IMAGE_WIDTH, seed=7 + i), randn(2, 9, IMAGE_WIDTH, seed=70 + i)) for i, layer in enumerate(model.layers)
    }
    return model(latents, times, text, mask, seen if shown else None, torch.tensor(has_image), extra)


def stock(model, name):
    """A stock network with the same weights, called through a backbone without a synapse."""
    twin = type(model)(copy.deepcopy(type(model.network).from_config(model.network.config)))
    twin.network.load_state_dict(model.network.state_dict(), strict=True)
    return forward(twin.eval(), name, shown=False)
