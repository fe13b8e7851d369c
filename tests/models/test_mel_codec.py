"""Long clips through the mel codec: windows equal to the whole, of VAE, texture and vocoders, in memory that does not grow."""

import building as build
import pytest
import torch
from diffusers import AutoencoderKL
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

from melfusion.media.mel import LogMel
from melfusion.media.options import AudioConfig
from melfusion.models import mel_codec
from melfusion.models.codecs import kl
from melfusion.models.codecs.chunks import windowed
from melfusion.models.frozen import freeze
from melfusion.models.hifigan import HifiGan
from melfusion.models.music_vae import MusicVAE
from melfusion.models.published_sizes import AUDIOLDM_VOCODER
from melfusion.models.texture import Texture
from melfusion.models.vocoder import Vocoder
from melfusion.models.vocos import Vocos

LAYOUTS = {  # channels, channels per level, layers per block, attention in the middle, groups
    "AudioLDM's": (1, (8, 8, 16), 2, True, 4),
    "the shipped one's": (16, (8, 8), 1, False, 4),
}


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def swelling(*shape, seed=0):
    """Noise that becomes louder and louder: what a group norm makes of a window is not what it makes of the whole."""
    return noise(*shape, seed=seed) * torch.linspace(0.1, 3, shape[2])[:, None]


def apart(made, wanted):
    """Largest difference over the RMS of what is wanted."""
    assert made.shape == wanted.shape
    return float((made - wanted).abs().max() / wanted.square().mean().sqrt())


@pytest.fixture(params=LAYOUTS)
def vae(request):
    channels, widths, layers, attention, groups = LAYOUTS[request.param]
    with build.seeded(1):
        network = AutoencoderKL(
            in_channels=channels,
            out_channels=channels,
            latent_channels=4,
            block_out_channels=widths,
            down_block_types=["DownEncoderBlock2D"] * len(widths),
            up_block_types=["UpDecoderBlock2D"] * len(widths),
            layers_per_block=layers,
            norm_num_groups=groups,
            mid_block_add_attention=attention,
        )
        for name, parameter in network.named_parameters():
            if "norm" in name:  # which are 1 and 0 as they start
                torch.nn.init.normal_(parameter, 1.0, 0.3)
    return freeze(network)


def cases(vae, windows):
    """For encoder and decoder: a long clip, what the library makes of it, and what windows do; frames of x and of the result."""
    frames, down = windows * 2 * kl.reach(vae), 2 ** (len(vae.config.block_out_channels) - 1)
    x, z = swelling(1, vae.config.in_channels, frames * down, 8), swelling(1, 4, frames, 4, seed=1)
    yield x, lambda part: vae.encode(part).latent_dist.parameters, kl.encode, (down, 1)
    yield z, lambda part: vae.decode(part).sample, kl.decode, (1, down)


@torch.no_grad()
def test_windows_of_the_vae_are_equal_to_the_whole(vae):
    window = 4 * kl.reach(vae)
    for x, whole, run, frame in cases(vae, 4):
        wanted = whole(x)
        assert apart(run(vae, x, window), wanted) < 1e-4
        assert apart(windowed(whole, x, window, kl.reach(vae), frame, 2), wanted) > 0.05  # an overlap alone does not do it
        short = x[:, :, : window * frame[0]]
        assert torch.equal(run(vae, short, window), whole(short))


@torch.no_grad()
def test_a_smaller_overlap_of_the_vae_is_not_equal_to_the_whole(vae, monkeypatch):
    window = 4 * kl.reach(vae)
    monkeypatch.setattr(kl, "reach", lambda _: 1)
    for x, whole, run, _ in cases(vae, 3 * window // 2):
        assert apart(run(vae, x, window), whole(x)) > 1e-4


@torch.no_grad()
def test_memory_of_the_vaes_levels_does_not_grow_with_the_clip(vae):
    window, seen = 4 * kl.reach(vae), []
    levels = [*vae.encoder.down_blocks, *vae.decoder.up_blocks]
    hooks = [m.register_forward_hook(lambda _, __, out: seen.append(out.numel())) for block in levels for m in block.modules()]
    most = []
    for windows in (3, 6):
        for x, _, run, _ in cases(vae, windows):
            seen.clear()
            run(vae, x, window)
            most.append(max(seen))
    for hook in hooks:
        hook.remove()
    assert most[:2] == most[2:]
    assert not any(m._forward_hooks for m in vae.modules())


@torch.no_grad()
def test_windows_of_vae_and_texture_are_equal_to_the_whole(tiny, vae):
    with build.seeded(2):
        made = MusicVAE(vae, LogMel(tiny().audio), texture=Texture(4, width=16, blocks=2), texture_steps=2).eval()
    window, frames = 4 * kl.reach(vae), 8 * kl.reach(vae)
    latents, log_mel = swelling(2, 4, frames, 2), swelling(2, 1, frames * made.downsampling, 2 * made.downsampling)
    assert apart(made.decode(latents, window), made.decode(latents)) < 1e-4
    assert apart(made.encode_moments(log_mel, window), made.encode_moments(log_mel)) < 1e-4


def hifigan():
    """Of AudioLDM's geometry, narrow."""
    return HifiGan(SpeechT5HifiGan(SpeechT5HifiGanConfig(**AUDIOLDM_VOCODER | {"upsample_initial_channel": 64})), 160)


def vocoder(name):
    audio = AudioConfig(sample_rate_hz=16000, n_fft_samples=1024, hop_length_samples=160, n_mels=64)
    with build.seeded(3):
        network = hifigan() if name == "hifigan" else Vocos(audio, 16, 3)
    for parameter_name, parameter in network.named_parameters():
        if parameter_name.endswith("bias"):  # an offset of the whole sound hides what differs
            torch.nn.init.zeros_(parameter)
    return freeze(Vocoder(network, LogMel(audio), corrections=1 if name == "corrected" else 0))


@pytest.mark.parametrize("name", ["hifigan", "vocos", "corrected"])
@torch.no_grad()
def test_windows_of_a_vocoder_are_equal_to_the_whole(name):
    part = vocoder(name)
    log_mel = noise(1, 1, 8 * part.reach + 3, 64) - 5
    wanted = part.render(log_mel)

    def run(rows):
        return part.render(rows.transpose(2, 3))[:, None, None]

    made = windowed(run, log_mel.transpose(2, 3), 4 * part.reach, part.reach, (1, part.network.hop))[:, 0, 0]
    assert apart(made, wanted) < 1e-4


@pytest.mark.parametrize("name", ["hifigan", "vocos"])
def test_a_vocoder_sees_no_further_than_its_reach_and_not_much_less(name):
    part = vocoder(name).double()
    frames, middle, hop = 2 * part.reach + 21, part.reach + 10, part.network.hop
    log_mel = (noise(1, 1, frames, 64) - 5).double().requires_grad_()
    run = part.network.network if name == "hifigan" else part.network  # which takes no gradient
    made = run(log_mel[:, 0]) if name == "hifigan" else run.spectrum(log_mel).abs()
    taken = made[..., middle * hop : (middle + 1) * hop] if name == "hifigan" else made[..., middle]
    (seen,) = torch.autograd.grad(taken.square().sum(), log_mel)
    far = (seen[0, 0].abs().sum(1).nonzero().flatten() - middle).abs().max()
    assert part.reach / 2 < far <= part.reach


@torch.no_grad()
def test_a_long_clip_of_any_length_comes_out_of_the_codec_as_the_whole(tiny, monkeypatch):
    """The log-mel that is vocoded is cut to what was asked for, which need not be whole latent frames."""
    with build.seeded(4):
        codec = build.mel_codec(tiny("vocoder.kind=vocos")).eval()
    latents = noise(1, *codec.latent_shape(8.0))
    whole, moments = codec.decode(latents), codec.encode_moments(0.1 * noise(1, 64_000))
    log_mel = codec.cut(whole, 7.95)
    assert log_mel.shape[2] % codec.music_vae.downsampling
    sound = codec.vocode(log_mel)
    monkeypatch.setattr(mel_codec, "CHUNK_S", 1.0)
    assert codec.window < latents.shape[2] / 2
    assert apart(codec.decode(latents), whole) < 1e-4 and apart(codec.encode_moments(0.1 * noise(1, 64_000)), moments) < 1e-4
    assert apart(codec.vocode(log_mel), sound) < 1e-4
