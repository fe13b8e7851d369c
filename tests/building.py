"""Everything that makes objects of a configuration, under one name for tests."""

from melfusion.assembly.codec import mel_codec, music_vae, vocoder
from melfusion.assembly.conditioner import text_encoder
from melfusion.assembly.denoiser import synaptic_unet
from melfusion.assembly.image import image_features, vision_features
from melfusion.assembly.listeners import judge, towers
from melfusion.assembly.parts import export_part, noise_shapes, part
from melfusion.assembly.system import system
from melfusion.assembly.weights import seeded
from melfusion.models.twins import byte_tokenizer, random_unet

__all__ = [
    "byte_tokenizer",
    "mel_codec",
    "export_part",
    "image_features",
    "judge",
    "music_vae",
    "noise_shapes",
    "part",
    "random_unet",
    "seeded",
    "synaptic_unet",
    "system",
    "text_encoder",
    "towers",
    "vision_features",
    "vocoder",
]
