"""Codecs over waveforms: the library's own numbers, any length, windows equal to the whole, and sentences for what does not fit."""

import dataclasses

import building as build
import pytest
import torch
from data_fixtures import one_sentence

from melfusion.assembly.codec import BUILD
from melfusion.assembly.configuration import load_config
from melfusion.errors import ConfigError, WeightsError
from melfusion.models.codecs.chunks import windowed
from melfusion.models.codecs.wave import PEAKS
from melfusion.models.frozen import digest
from melfusion.models.published import save_network

KINDS = {"oobleck": "stable_audio", "same": "stable_audio_3"}
STEREO = ("audio.channels=2", "audio.clip_duration_s=1.0", "codec.chunk_s=0.4", "synapse.kind=concat", "synapse.layers=[all]")
RATE = 8000


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def config_of(tiny, kind, *more):
    return tiny(f"codec.kind={kind}", f"denoiser.kind={KINDS[kind]}", *STEREO, *more)


@pytest.fixture
def codec(tiny, kind):
    with build.seeded(5):
        return BUILD[kind](config_of(tiny, kind)).eval().requires_grad_(False)


def noise(*shape, seed=0):
    return 0.3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rms(x):
    return float(x.square().mean().sqrt())


def apart(made, wanted):
    """RMS of the difference over that of what is wanted, without its mean over time: a random SAME gives much that is constant."""
    return rms(made - wanted) / rms(wanted - wanted.mean(-1, keepdim=True))


def whole(codec):
    """The same codec for which every clip is short."""
    network = type(codec.network).from_config(codec.network.config).requires_grad_(False)
    network.load_state_dict(codec.network.state_dict())
    return type(codec)(network, codec.front_end, chunk_s=1e6).eval()


# --- the library's own numbers, at any length ------------------------------------------------------------------------


def test_latents_and_sound_are_those_of_the_librarys_own_calls(codec, kind):
    waveform = noise(2, 2, 20 * codec.hop)
    latents, network = codec.encode(waveform), codec.network
    if kind == "oobleck":
        posterior, drawn = network.encode(waveform).latent_dist, noise(*latents.shape, seed=3)
        assert torch.equal(latents, posterior.mean)
        with_noise = codec.encode(waveform, drawn)
        torch.testing.assert_close(with_noise, posterior.mean + posterior.std * drawn, rtol=1e-5, atol=1e-6)
        assert not torch.equal(with_noise, latents)
    else:
        assert torch.equal(latents, network.encode(waveform).latents)
    assert rms(latents - latents.mean(2, keepdim=True)) > 1e-3  # the twin's latents are of the sound
    assert torch.equal(codec.decode(latents), network.decode(latents).sample)


def test_a_length_that_is_no_multiple_of_the_hop_is_filled_with_silence_and_cut_again(codec):
    samples = 20 * codec.hop - 37
    waveform = noise(1, 2, samples)
    latents = codec.encode(waveform)
    assert latents.shape[1:] == codec.latent_shape(samples / RATE) == (16, 20)
    assert torch.equal(latents, codec.encode(torch.nn.functional.pad(waveform, (0, 37))))
    assert codec.latent_shape(samples / RATE, 8) == (16, 24) and codec.duration_s((16, 20)) == 20 * codec.hop / RATE
    decoded = codec.decode(latents)
    assert decoded.shape == (1, 2, 20 * codec.hop)
    assert torch.equal(codec.cut(decoded, samples / RATE), decoded[..., :samples])


def stereo():
    return torch.stack([noise(2, 4096), noise(2, 4096, seed=1)], 1)


def test_figures_show_the_mean_of_the_channels(codec):
    waveform = stereo()
    assert torch.equal(codec.log_mel(waveform), codec.front_end(waveform.mean(1)))
    assert torch.equal(codec.spectrogram(waveform), codec.log_mel(waveform))


@pytest.mark.parametrize("rule", PEAKS)
def test_a_peak_is_what_the_published_pipeline_makes_of_it(tiny, kind, rule):
    codec = BUILD[kind](config_of(tiny, kind, f"codec.peak={rule}"))
    loud = stereo() * torch.tensor([20.0, 0.1])[:, None, None]
    peak = loud.abs().amax((1, 2), keepdim=True)
    divided, clamped = torch.stack([loud[0] / peak[0], loud[1]]), loud.clamp(-1, 1)
    wanted = {"divide": divided, "-1dBFS": loud / peak * 10**-0.05, "clamp": clamped, "none": loud}[rule]
    torch.testing.assert_close(codec.vocode(loud), wanted)
    torch.testing.assert_close(codec.vocode(loud, keep_level=True), divided)  # of a sound that is edited
    assert (rule in codec.decoder_provenance()) == (rule != "divide")  # what was stored before goes on to fit


@pytest.mark.parametrize("name", ["stable_audio_open", "stable_audio_3", "ace_step"])
def test_configurations_name_the_rule_of_their_model(name):
    config = load_config(name)
    assert config.codec.peak == config.denoiser.OWN["codec.peak"]


def test_one_channel_is_no_dimension(tiny, kind):
    mono = BUILD[kind](config_of(tiny, kind, "audio.channels=1")).eval()
    assert mono.channels == 1 and mono.decode(mono.encode(noise(2, 640))).shape == (2, 640)


def test_what_latents_depend_on_is_the_encoder_alone(codec):
    encoder, provenance = digest(codec.latent_state()), codec.decoder_provenance()
    next(codec.network.decoder.parameters()).add_(1)
    assert digest(codec.latent_state()) == encoder and codec.decoder_provenance() != provenance
    next(codec.network.encoder.parameters()).add_(1)
    assert digest(codec.latent_state()) != encoder


def test_it_works_in_float32_whatever_surrounds_it(codec):
    """In bfloat16 latents and sound have errors of some per cent, and windows are no longer equal to the whole."""
    waveform, latents = noise(1, 2, 9000), noise(1, 16, 150, seed=2)
    wanted = codec.encode_moments(waveform), codec.decode(latents)
    with torch.autocast("cpu", torch.bfloat16):
        made = codec.encode_moments(waveform), codec.decode(latents.bfloat16().float())
        half = codec.decode(latents.bfloat16())
    assert all(t.dtype == torch.float32 for t in (*made, half)) and torch.equal(made[0], wanted[0])
    assert torch.equal(made[1], half) and torch.equal(half, codec.decode(latents.bfloat16().float()))
    assert apart(half, wanted[1]) < 1e-2


# --- windows ---------------------------------------------------------------------------------------------------------


def largest(module, call):
    """Elements of the largest tensor that a layer of the module gives within a call."""
    seen = []
    hooks = [m.register_forward_hook(lambda _, __, out: seen.append(out.numel())) for m in module.modules() if m is not module]
    call()
    for hook in hooks:
        hook.remove()
    return max(seen)


def test_windows_are_equal_to_the_whole_and_memory_does_not_grow(codec):
    waveform, at_once = noise(1, 2, 20_000), whole(codec)
    latents = at_once.encode(waveform)
    wanted = at_once.decode(latents)
    assert apart(codec.encode(waveform), latents) < 1e-5
    assert codec.decode(latents).shape == wanted.shape and apart(codec.decode(latents), wanted) < 1e-5
    for part, x in (("encoder", waveform), ("decoder", latents)):

        def most(of, some, part=part):
            run = of.encode if part == "encoder" else of.decode
            return largest(of.network.get_submodule(part), lambda: run(some))

        half = x[..., : 10_000 if part == "encoder" else 156]
        assert most(codec, half) == most(codec, x) < most(at_once, x) / 4


def test_a_smaller_overlap_is_not_equal_to_the_whole(codec, kind):
    waveform, hop = noise(1, 2, 200 * codec.hop), codec.hop
    run = (lambda x: codec.network.encoder(x)) if kind == "oobleck" else (lambda x: codec.network.encode(x).latents)
    wanted = run(waveform)
    for overlap, equal in ((codec.encoder_reach, True), (codec.encoder_reach // 2, False)):
        made = windowed(run, waveform, 6 * codec.encoder_reach, overlap, (hop, 1))
        assert (apart(made, wanted) < 1e-5) == equal
    with pytest.raises(ValueError, match="nothing left"):
        windowed(run, waveform, 4, 2, (hop, 1))


def test_the_library_tiles_out_of_step_by_sizes_that_are_no_whole_frames(tiny):
    """Why the codec sets them: the library's own steps, of 26 s at 44.1 kHz, are 559.86 latent frames."""
    codec, waveform = BUILD["oobleck"](config_of(tiny, "oobleck")).eval().requires_grad_(False), noise(1, 2, 20_000)
    wanted = whole(codec).encode(waveform)
    codec.network.tile_sample_min_length += codec.hop // 2
    made = codec.encode(waveform)
    assert made.shape != wanted.shape or apart(made, wanted) > 1e-2


def test_the_reach_is_how_far_a_frame_depends_and_no_further(codec):
    frames, middle, hop = 61, 30, codec.hop
    codec = whole(codec).double()
    waveform = noise(1, 2, frames * hop).double().requires_grad_()
    (seen,) = torch.autograd.grad(codec.encode_moments(waveform)[..., middle].square().sum(), waveform)
    frames_seen = seen.abs().sum((0, 1)).unflatten(0, (-1, hop)).amax(1).nonzero().flatten() - middle
    assert max(-frames_seen.min(), frames_seen.max()) == codec.encoder_reach
    latents = noise(1, 16, frames, seed=1).double().requires_grad_()
    (seen,) = torch.autograd.grad(codec.decode(latents)[..., middle * hop : (middle + 1) * hop].square().sum(), latents)
    frames_seen = seen.abs().sum((0, 1)).nonzero().flatten() - middle
    assert max(-frames_seen.min(), frames_seen.max()) == codec.decoder_reach


# --- weights and what does not fit -----------------------------------------------------------------------------------


def test_weights_come_from_the_folder_of_the_vae_or_of_its_pipeline(codec, tiny, kind, tmp_path):
    save_network(codec.network, tmp_path / "vae")
    for folder in (tmp_path, tmp_path / "vae"):
        assert digest(BUILD[kind](config_of(tiny, kind, f"codec.weights={folder}")).network) == digest(codec.network)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ("audio.sample_rate_hz=16000", "is of audio.sample_rate_hz=8000, but here it is 16000"),
        ("audio.channels=1", "is of audio.channels=2, but here it is 1"),
    ],
)
def test_a_codec_of_another_rate_or_channel_count_is_refused_before_weights_are_read(codec, tiny, kind, tmp_path, change, wanted):
    save_network(codec.network, tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"never read")
    with pytest.raises(WeightsError) as error:
        build.system(config_of(tiny, kind, f"codec.weights={tmp_path}", change))
    assert wanted in one_sentence(error.value)


def test_another_autoencoder_is_refused_by_name(codec, tiny, kind, tmp_path):
    save_network(codec.network, tmp_path)
    other = next(name for name in KINDS if name != kind)
    with pytest.raises(WeightsError, match=f"is an {type(codec.network).__name__} of diffusers") as error:
        BUILD[other](config_of(tiny, other, f"codec.weights={tmp_path}"))
    one_sentence(error.value)


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (["audio.channels=2"], "audio.channels=2 needs codec.kind=oobleck or same"),
        (["codec.kind=oobleck", "audio.channels=3", "denoiser.kind=ace_step"], "audio.channels=3 must be 1 or 2"),
        (["codec.kind=same", "denoiser.kind=ace_step", "codec.chunk_s=0"], "codec.chunk_s=0.0 must be greater than 0"),
        (["codec.kind=same"], "which denoiser.kind=unet cannot read"),
        (
            ["codec.kind=oobleck", "denoiser.kind=ace_step", "codec.channel_multiples=[1]"],
            "has 3 levels and codec.channel_multiples 1",
        ),
        (["codec.kind=oobleck", "denoiser.kind=ace_step", "codec.encoder_hidden_size=4"], "must be twice"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_sentence(tiny, overrides, wanted):
    with pytest.raises(ConfigError) as error:
        tiny(*overrides)
    assert wanted in one_sentence(error.value)


def test_a_clip_whose_frames_the_denoiser_cannot_take_is_refused(tiny, kind):
    config = config_of(tiny, kind, "audio.clip_duration_s=1.03")
    assert BUILD[kind](config).latent_shape(1.03) == (16, 129)
    config.denoiser = dataclasses.make_dataclass("Halving", [], namespace={"frames_multiple": 4})()
    with pytest.raises(ConfigError, match="is 129 latent frames, and the denoiser takes multiples of 4: give 1.056 s"):
        BUILD[kind](config)
