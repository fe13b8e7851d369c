"""With random weights and the synapse off, a published model's own pipeline and ours make the same of the same noise."""

import importlib.util
from types import SimpleNamespace

import numpy as np
import pipelines
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_oobleck import OobleckDiagonalGaussianDistribution

from melfusion.assembly.sound_fields import latents_of
from melfusion.media.mel import LogMel
from melfusion.models.codecs.oobleck import Oobleck
from melfusion.models.mel_codec import MelCodec
from melfusion.randomness import fixed_generator, torch_generators

SEEDS = [3, 4]
needs_torchsde = pytest.mark.skipif(importlib.util.find_spec("torchsde") is None, reason="torchsde is an extra (sde)")


def compared(pipe, system, captions, ours, theirs, transposed=False):
    """(our latents, those of the pipeline) from the same noise; the waveforms that both make of them lie as near to each other.

    A VAE over waveforms is made so loud that the largest peak is 2: what is done to peaks is heard.
    """
    noise = system.draw("noise", SEEDS[: len(captions)], system.latent_shape())
    made = system.generate(captions, seeds=SEEDS[: len(captions)], **ours)
    pipe.set_progress_bar_config(disable=True)
    codec, decode, decoded = pipelines.codec_of(pipe), pipe.vae.decode, []
    gain = 1.0 if isinstance(codec, MelCodec) else 2 / decode(made).sample.abs().max().item()

    def loud(latents, **more):
        decoded.append((latents, gain * decode(latents, **more).sample))
        return SimpleNamespace(sample=decoded[-1][1])

    pipe.vae.decode = loud
    drawn = torch_generators(SEEDS[: len(captions)], "sampler")
    audios = pipe(captions, latents=noise.transpose(1, 2) if transposed else noise, generator=drawn, **theirs).audios
    first, length = round(theirs.get("audio_start_in_s", 0) * codec.sample_rate_hz), audios.shape[-1]
    near(codec.vocode(codec.decode(made))[..., first : first + length], torch.as_tensor(audios))
    (latents, sound), (same, again) = decoded
    pipe.vae.decode = decode
    near(same, latents)
    near(again, sound)
    return made, latents * getattr(pipe.vae.config, "scaling_factor", 1.0)


def near(ours, theirs, most=1e-4):
    """At most this share of the reference's RMS, at the largest difference."""
    assert ours.shape == theirs.shape and torch.isfinite(theirs).all()
    assert share(ours, theirs) <= most


def share(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.square().mean().sqrt()).item()


def changes(made, other):
    """What was asked for otherwise changes the music, beyond what counts as the same."""
    assert share(other, made) > 3e-4


def default(steps):
    """Few steps, and those that the pipeline takes by default."""
    return pytest.mark.parametrize("steps", [4, pytest.param(steps, marks=pytest.mark.slow)])  # minutes on a slow core


@needs_torchsde
@default(100)
def test_stable_audio_open(steps):
    pipe, system = pipelines.stable_audio()
    captions, asked = ["rain", "a long calm tune"], [{"seconds_start": 0.1, "seconds_total": 0.7}] * 2
    ours = {"num_inference_steps": steps, "guidance_scale": 7.0, "fields": asked}  # 7 is its default
    theirs = {"num_inference_steps": steps, "audio_start_in_s": 0.1, "audio_end_in_s": 0.7}
    compared(pipe, system, captions, ours | {"negative_prompt": "noise"}, theirs | {"negative_prompt": ["noise"] * 2})
    made, _ = compared(pipe, system, captions, ours, theirs)
    near(system.generate(captions[1:], seeds=SEEDS[1:], **ours | {"fields": asked[1:]}), made[1:])  # each has its own noise
    changes(made, system.generate(captions, seeds=SEEDS, **ours | {"fields": [{"seconds_total": 400}] * 2}))
    changes(made, system.generate(["sun", "drums"], seeds=SEEDS, **ours))


def test_stable_audio_3_as_it_is_distilled():
    pipe, system = pipelines.stable_audio_3()
    ours, captions = {"num_inference_steps": 8, "guidance_scale": 1.0}, ["rain", "a long calm tune"]  # its defaults
    made, _ = compared(pipe, system, captions, ours | {"fields": [{"duration_s": 0.8}] * 2}, {"duration": 0.8})
    changes(made, system.generate(captions, seeds=SEEDS, **ours, fields=[{"duration_s": 300}] * 2))
    near(system.generate(captions[1:], seeds=SEEDS[1:], **ours), made[1:])  # each has its own noise


@default(100)
def test_stable_audio_3_as_its_base_is_sampled_with_guidance(steps):
    pipe, system = pipelines.stable_audio_3("sampling.sampler=euler", stochastic=False)
    ours, captions = {"num_inference_steps": steps, "guidance_scale": 5.0}, ["rain", "a long calm tune"]
    theirs = {"num_inference_steps": steps, "duration": pipelines.SECONDS, "guidance_scale": 5.0}
    made, _ = compared(pipe, system, captions, ours, theirs)
    changes(made, system.generate(captions, seeds=SEEDS, **ours | {"guidance_scale": 2.0}))


ASKED = {"lyrics": "la la", "bpm": 120, "key": "C major", "timesignature": "3", "language": "de", "duration_s": 0.8}
OTHERS = {"lyrics": "oh", "bpm": 60, "key": "A minor", "timesignature": "4", "language": "en", "duration_s": 9}


def test_ace_step():
    """One clip: with several its pipeline lets each attend to the padding that the longest brings."""
    pipe, system = pipelines.ace_step()
    ours = {"num_inference_steps": 8, "guidance_scale": 7.0, "fields": [ASKED]}  # its defaults, as is the shift of 3
    names = {"bpm": "bpm", "keyscale": "key", "timesignature": "timesignature", "vocal_language": "language"}
    theirs = {name: ASKED[field] for name, field in names.items()} | {"audio_duration": 0.8, "lyrics": ["la la"]}
    made, _ = compared(pipe, system, ["rain"], ours, theirs, transposed=True)
    both = system.generate(["rain", "much longer"], seeds=SEEDS, **ours | {"fields": [ASKED, ASKED | {"lyrics": "la " * 9}]})
    near(both[:1], made)
    for name, other in OTHERS.items():
        changes(made, system.generate(["rain"], seeds=SEEDS[:1], **ours | {"fields": [ASKED | {name: other}]}))


@pytest.mark.parametrize("seconds", [1.7, 41.3])  # repeated until it is long enough; three excerpts of it
def test_ace_steps_timbre(seconds, monkeypatch):
    """Its pipeline draws from the posterior by torch's own generator: here both draw the same."""
    pipe, system = pipelines.ace_step()
    samples = np.random.default_rng(1).standard_normal(round(seconds * pipelines.RATE)).astype(np.float32).cumsum() / 40
    config = pipelines.config_of("ace_step")
    parts = SimpleNamespace(codec=Oobleck(pipe.vae, LogMel(config.audio), 30.0), conditioner=system.conditioner)
    timbre = latents_of("timbre", (samples, pipelines.RATE), config, parts, None)

    def drawn(self):
        return self.mean + self.std * torch.randn(self.mean.shape, generator=fixed_generator("timbre"))

    monkeypatch.setattr(OobleckDiagonalGaussianDistribution, "sample", drawn)
    acoustic, _ = pipe.prepare_reference_audio_latents(
        torch.from_numpy(samples).expand(2, -1), 1, torch.device("cpu"), torch.float32
    )
    near(timbre, acoustic[0])
    ours, theirs = (
        {"num_inference_steps": 4, "guidance_scale": 7.0},
        {"num_inference_steps": 4, "audio_duration": 0.8, "lyrics": [""]},
    )
    asked, theirs = {"duration_s": 0.8}, theirs | {"reference_audio": torch.from_numpy(samples).expand(2, -1)}
    timbred = asked | {"timbre": timbre}
    made, _ = compared(pipe, system, ["rain"], ours | {"fields": [timbred]}, theirs, transposed=True)
    changes(made, system.generate(["rain"], seeds=SEEDS[:1], **ours, fields=[asked]))
    both = system.generate(["rain", "sun"], seeds=SEEDS, **ours, fields=[timbred, asked])
    near(both[:1], made)  # a clip beside it may have no timbre
    near(both[1:], system.generate(["sun"], seeds=SEEDS[1:], **ours, fields=[asked]))


@default(200)
def test_audioldm2(steps):
    """One clip: with several the GPT-2 of its pipeline counts the padding that the longest brings."""
    pipe, system = pipelines.audioldm2()
    ours, captions = {"num_inference_steps": steps, "guidance_scale": 3.5}, ["calm rain"]  # 3.5 is its default
    theirs = {"num_inference_steps": steps, "audio_length_in_s": pipelines.FRAMES * 4 * 8 / 1280, "transcription": captions}
    made, _ = compared(pipe, system, captions, ours, theirs)
    near(system.generate(["calm rain", "a long sunny tune"], seeds=SEEDS, **ours)[:1], made)
    changes(made, system.generate(["sun"], seeds=SEEDS[:1], **ours))


@default(200)  # as its authors have it
def test_audioldm(steps):
    pipe, system = pipelines.audioldm()
    ours, captions = {"num_inference_steps": steps, "guidance_scale": 2.5}, ["rain", "a long sunny tune"]  # 2.5 is its default
    theirs = {"num_inference_steps": steps, "audio_length_in_s": pipelines.FRAMES * 4 * 8 / 1280}
    compared(pipe, system, captions, ours | {"negative_prompt": "noise"}, theirs | {"negative_prompt": ["noise"] * 2})
    made, _ = compared(pipe, system, captions, ours, theirs)
    near(system.generate(captions[:1], seeds=SEEDS[:1], **ours), made[:1])
    changes(made, system.generate(["sun", "drums"], seeds=SEEDS, **ours))
