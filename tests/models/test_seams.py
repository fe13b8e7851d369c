"""The four seams: MeLFusion works with any image encoder, denoiser, conditioner and codec, and with names of before."""

import building as build
import pytest
import torch

from melfusion.batch import Prompt
from melfusion.models.codec import MusicCodec
from melfusion.models.conditioner import Conditioner
from melfusion.models.denoiser import Denoiser
from melfusion.models.diffusion.objective import Diffusion
from melfusion.models.diffusion.options import DiffusionConfig
from melfusion.models.frozen import digest, freeze
from melfusion.models.image_encoder import ImageEncoder
from melfusion.models.options import OptimConfig
from melfusion.models.stored_names import rename_stored
from melfusion.models.system import MeLFusion


class Words(Conditioner):
    width = 3

    def forward(self, captions, fields=None):
        embeds = torch.tensor([[[float(len(c))] * 3] * 2 for c in captions])
        return Prompt(embeds, torch.ones(len(captions), 2, dtype=torch.bool))


class Brightness(ImageEncoder):
    reads_once = True

    def __init__(self):
        super().__init__()
        self.read = []

    def encode(self, image):
        return image.mean((1, 2, 3))[:, None, None]

    def features(self, image_latents, timesteps, noise=None, layers=None):
        self.read.append(len(image_latents))
        return dict.fromkeys(layers, (image_latents, image_latents))


class Waves(MusicCodec):
    """A waveform codec: latents are pieces of the waveform, and there is no vocoder."""

    sample_rate_hz = 100

    def latent_shape(self, duration_s, multiple=1):
        return 10, max(multiple, round(duration_s * 10 / multiple) * multiple)

    def duration_s(self, latent_shape):
        return latent_shape[1] / 10

    def encode_moments(self, waveform):
        mean = waveform.unflatten(1, (-1, 10)).transpose(1, 2)
        return torch.cat([mean, torch.full_like(mean, -30.0)], 1)

    def sample_latents(self, moments, noise=None):
        return moments.chunk(2, 1)[0]

    def decode(self, latents):
        return latents.transpose(1, 2).flatten(1)

    def decoder_provenance(self):
        return ["none"]


class Linear(Denoiser):
    frames_multiple, layers = 4, ["only"]

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(10, 10)

    def forward(self, noisy_latents, timesteps, text_embeds, text_mask=None, visual_features=None, has_image=None, extra=None):
        told = text_embeds.mean((1, 2))[:, None, None]
        if visual_features is not None:
            told = told + visual_features["only"][0].mean((1, 2))[:, None, None] * has_image[:, None, None]
        return self.net(noisy_latents.transpose(1, 2)).transpose(1, 2) + told


@pytest.fixture
def other():
    """A system of parts that this project does not have: one-dimensional latents, no log-mel, no UNet."""
    d = DiffusionConfig(pure_noise_share=0.1)
    parts = {"codec": freeze(Waves()), "conditioner": freeze(Words()), "image_encoder": freeze(Brightness())}
    return MeLFusion(
        Linear(), **parts, objective=Diffusion(d, "dpm"), diffusion=d, optim=OptimConfig(), clip_duration_s=1.2, max_steps=1
    )


def test_a_system_of_other_parts_generates_a_waveform(other):
    image = torch.rand(1, 3, 4, 4)
    clips = other.vocode(other.generate(["rain", "sun", ""], image, num_inference_steps=2))
    assert clips.shape == (3, 120) and torch.isfinite(clips).all()
    assert other.image_encoder.read == [1]  # one picture for three captions and all steps: read once
    assert not torch.equal(clips, other.generate(["rain", "sun", ""], None, num_inference_steps=2))


def test_a_system_of_other_parts_has_a_loss(other):
    latents = other.codec.encode(torch.rand(2, 120))
    conditioning = other.see(other.encode_captions(["a", "b"], None), torch.rand(2, 3, 4, 4), [0, 1])
    other.losses(latents, conditioning, torch.tensor([3, 999]), torch.randn(2, 10, 12)).mean().backward()
    assert all(p.grad is not None for p in other.denoiser.parameters())


def test_the_duration_is_an_argument_and_changes_nothing_of_the_system(tiny):
    system = build.system(tiny()).eval()
    before = system.latent_shape()
    longer = system.generate(["a"], num_inference_steps=1, duration_s=2.05)
    assert system.latent_shape() == before == (4, 16, 4) and system.latent_shape(2.05)[1] == 34
    assert longer.shape == (1, 1, 129, 16) and system.codec.duration_s(system.latent_shape(2.05)) == pytest.approx(2.176)
    assert system.latent_shape(0.001)[1] == system.denoiser.frames_multiple == 2


def test_the_codec_goes_from_waveform_to_waveform(tiny):
    codec = build.mel_codec(tiny()).eval()
    waveform = 0.1 * torch.randn(2, 8192, generator=torch.Generator().manual_seed(0))
    latents = codec.encode(waveform)
    assert latents.shape[1:] == codec.latent_shape(1.024) and codec.sample_rate_hz == 8000
    assert torch.equal(latents, codec.music_vae.encode(codec.log_mel(waveform)))
    assert codec.decode(latents).shape == codec.log_mel(waveform).shape
    assert codec.vocode(codec.decode(latents)).shape == waveform.shape


def test_what_a_decoder_makes_is_named_by_all_that_it_depends_on(tiny):
    codec = build.mel_codec(tiny())
    before = codec.decoder_provenance()
    codec.vocoder.network.iterations += 1
    assert codec.decoder_provenance() != before


def test_names_of_before_become_those_of_now():
    stored = {
        "frozen": {"music_vae": "a", "text_encoder": "b", "extractor": "c", "unet": "d"},
        "state_dict": {"unet.unet.conv_in.bias": 1, "denoiser.synapse.x": 2},
        "ema": {"unet.synapse.y": 3},
    }
    rename_stored(stored)
    assert stored["frozen"] == {"codec": "a", "conditioner": "b", "image_encoder": "c", "denoiser": "d"}
    assert stored["state_dict"] == {"denoiser.unet.conv_in.bias": 1, "denoiser.synapse.x": 2}
    assert stored["ema"] == {"denoiser.synapse.y": 3}
    again = {key: dict(value) for key, value in stored.items()}
    rename_stored(again)
    assert again == stored


def test_the_shipped_parts_are_those_of_before():
    from melfusion.assembly.load import load_system

    system, _ = load_system()
    parts = {"denoiser": system.denoiser, "music_vae": system.codec.music_vae, "vocoder": system.codec.vocoder}
    parts |= {"image_encoder": system.image_encoder}
    assert {name: digest(part)[:16] for name, part in parts.items()} == {
        "denoiser": "a2726d89ee6e36db",
        "music_vae": "8fafa62b93b7cd94",
        "vocoder": "5ab8c0df5116fd12",
        "image_encoder": "145861e3d636e604",
    }
