"""Log-mel → waveform: Griffin-Lim without weights, HiFi-GAN from a folder."""

import dataclasses

import building as build
import numpy as np
import pytest
import torch
from data_fixtures import chord, one_sentence
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

from melfusion.errors import WeightsError
from melfusion.media.mel import LogMel
from melfusion.media.options import AudioConfig
from melfusion.models.griffin_lim import GriffinLim
from melfusion.models.hifigan import HifiGan
from melfusion.models.vocoder import Vocoder, corrected


@pytest.fixture
def audio(tiny):
    return tiny().audio


def mel_of(audio, *waveforms):
    return LogMel(audio)(torch.tensor(np.stack(waveforms)).float())


@pytest.mark.parametrize(("batch", "frames"), [(1, 8), (2, 16), (1, 64)])
def test_length_is_frames_times_hop(batch, frames, audio):
    for hop in (128, 64, 80):
        sound = GriffinLim(dataclasses.replace(audio, hop_length_samples=hop), 2)(torch.zeros(batch, 1, frames, 16))
        assert sound.shape == (batch, frames * hop) and torch.isfinite(sound).all()


def test_silence_stays_silent(audio):
    sound = GriffinLim(audio, 8)(torch.full((1, 1, 64, 16), float(np.log(1e-5))))
    assert torch.isfinite(sound).all() and sound.abs().max() < 2e-4


def test_extreme_mels_stay_finite(audio):
    mel = torch.full((1, 1, 16, 16), -11.5)
    mel[..., 3] = 8.0
    for extreme in (mel, torch.full((1, 1, 16, 16), -60.0), mel.bfloat16()):
        sound = Vocoder(GriffinLim(audio, 4), LogMel(audio))(extreme)
        assert torch.isfinite(sound).all() and sound.abs().max() <= 1 and sound.dtype == torch.float32


def test_the_same_mel_gives_the_same_bytes_whatever_is_beside_it(audio):
    a, b = chord(1.024, 8000), chord(1.024, 8000)[::-1].copy()
    network = GriffinLim(audio, 8)
    torch.manual_seed(1)
    first = network(mel_of(audio, a))
    torch.manual_seed(2)
    assert torch.equal(network(mel_of(audio, a)), first)
    assert torch.equal(GriffinLim(audio, 8)(mel_of(audio, b, a))[1:], first)


def test_it_leaves_the_global_generator_alone(audio):
    torch.manual_seed(5)
    GriffinLim(audio, 1)(torch.zeros(1, 1, 8, 16))
    here = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), here)


def test_magnitudes_explain_the_mel(audio):
    network, mel = GriffinLim(audio), mel_of(audio, chord(1.024, 8000))[:, 0].exp()
    magnitudes = network.magnitudes(mel)
    assert magnitudes.shape == (1, 129, 64) and (magnitudes >= 0).all()
    explained = magnitudes.transpose(1, 2) @ network.filters
    loud = mel > mel.max() / 1000
    assert (explained / mel).log()[loud].abs().max() < 0.05


def test_a_chord_keeps_its_spectrum_its_level_and_its_place(audio):
    waveform = np.concatenate([np.zeros(4096), chord(0.5, 8000), np.zeros(4096)])[: 90 * 128]
    sound = GriffinLim(audio, 64)(mel_of(audio, waveform))[0].numpy()

    def spectrogram(x):
        return np.abs(np.fft.rfft(np.lib.stride_tricks.sliding_window_view(x, 256)[::64] * np.hanning(256)))

    wanted, got = spectrogram(waveform), spectrogram(sound)
    assert np.linalg.norm(got - wanted) < 0.56 * np.linalg.norm(wanted)  # measured 0.51: 16 mels stand for 129 bins
    energy = np.square(sound).reshape(-1, 128).sum(1)
    assert 0.7 < energy.sum() / np.square(waveform).sum() < 1.1
    assert energy[:30].sum() < 1e-5 * energy.sum() and energy[66:].sum() < 1e-5 * energy.sum()


def test_more_iterations_come_nearer(audio):
    mel = mel_of(audio, chord(1.024, 8000))
    errors = [(LogMel(audio)(GriffinLim(audio, n)(mel)) - mel)[..., 4:-4, :].abs().mean() for n in (0, 4, 32)]
    assert errors[0] > 2 * errors[1] > 2 * errors[2]


def test_the_seam_limits_the_peak_and_touches_nothing_else():
    class Loud(torch.nn.Module):
        def forward(self, log_mel):
            return torch.tensor([[0.5, -4.0], [0.25, 0.5]])

    assert Vocoder(Loud(), LogMel(AudioConfig()))(torch.zeros(2, 1, 1, 1)).tolist() == [[0.125, -1.0], [0.25, 0.5]]


# --- HiFi-GAN -------------------------------------------------------------------------------------------------------


def hifi_gan(folder, upsample=(8, 8, 2), mels=16):
    torch.manual_seed(0)
    network = SpeechT5HifiGan(
        SpeechT5HifiGanConfig(
            model_in_dim=mels,
            sampling_rate=8000,
            upsample_initial_channel=8,
            upsample_rates=list(upsample),
            upsample_kernel_sizes=[2 * u for u in upsample],
            resblock_kernel_sizes=[3],
            resblock_dilation_sizes=[[1, 3]],
            normalize_before=False,
        )
    )
    network.save_pretrained(folder)
    return network.eval()


def test_hifi_gan_comes_from_its_folder(tiny, tmp_path):
    network = hifi_gan(tmp_path)
    vocoder = build.vocoder(tiny(f"vocoder.weights={tmp_path}")).eval()
    assert isinstance(vocoder.network, HifiGan)
    mel = torch.randn(2, 1, 64, 16, generator=torch.Generator().manual_seed(0))
    sound = vocoder(mel)
    assert sound.shape == (2, 64 * 128) and sound.abs().max() > 0
    torch.testing.assert_close(sound, network(mel[:, 0]).detach())
    assert vocoder(mel[:1]).shape == (1, 64 * 128) and not sound.requires_grad


def test_a_vocoder_for_other_mels_is_one_sentence(tiny, tmp_path):
    hifi_gan(tmp_path, mels=20)
    with pytest.raises(WeightsError) as caught:
        build.vocoder(tiny(f"vocoder.weights={tmp_path}"))
    message = one_sentence(caught.value)
    assert str(tmp_path) in message and "20 mels" in message and "audio.n_mels=16" in message


@pytest.mark.parametrize("upsample", [(8, 8), (8, 8, 4)])
def test_a_vocoder_for_another_hop_is_one_sentence(upsample, tiny, tmp_path):
    hifi_gan(tmp_path, upsample)
    with pytest.raises(WeightsError) as caught:
        build.vocoder(tiny(f"vocoder.weights={tmp_path}"))
    assert "audio.hop_length_samples=128" in one_sentence(caught.value)


@pytest.mark.parametrize(("given", "wanted"), [(130, 128), (126, 128)])
def test_a_few_samples_more_or_less_are_evened(given, wanted):
    class Network(torch.nn.Module):
        def forward(self, spectrogram):
            return torch.ones(len(spectrogram), given)

    sound = HifiGan(Network(), 32)(torch.zeros(2, 1, 4, 16))
    assert sound.shape == (2, wanted) and sound.sum() == 2 * min(given, wanted)


# --- Vocos ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["hifigan", "centred"])
def test_inverse_stft_undoes_the_front_ends_stft(framing):
    from melfusion.models.vocos import inverse_stft

    front = LogMel(AudioConfig(n_fft_samples=256, hop_length_samples=80, framing=framing))
    waveform = torch.randn(2, 20 * 80)
    made = inverse_stft(front.spectrum(waveform), 80, front.window, front.reflected[0])
    torch.testing.assert_close(made, waveform, rtol=1e-4, atol=1e-4)


def test_vocos_trains_is_written_and_comes_back(tiny, make_batch, tmp_path):
    import building as build

    from melfusion.assembly.configuration import load_config
    from melfusion.errors import WeightsError

    config = load_config("vocoder,tiny", [])
    vocoder = build.part(config)
    batch = make_batch(config, vocoder)
    optimizer = torch.optim.AdamW(vocoder.parameters(), 5e-3)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = vocoder.training_step(batch, 0)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    build.export_part(vocoder, config, tmp_path)
    again = build.vocoder(tiny(f"vocoder.weights={tmp_path}"))
    mel = vocoder.log_mel(batch.waveform)
    assert torch.equal(again(mel), vocoder(mel)) and again(mel).shape == batch.waveform.shape
    with pytest.raises(WeightsError, match="hop_length_samples=128, but it is 64"):
        build.vocoder(tiny(f"vocoder.weights={tmp_path}", "audio.hop_length_samples=64"))
    for key, before in {"framing=centred": "hifigan", "level=peak": "rms"}.items():
        with pytest.raises(WeightsError, match=f"was trained for audio.{key.split('=')[0]}={before}"):
            build.vocoder(tiny(f"vocoder.weights={tmp_path}", f"audio.{key}"))


@pytest.mark.parametrize(("frames", "sizes"), [(64, (512, 1024, 2048, 4096)), (8, (512, 1024))])
def test_it_trains_at_every_size_that_its_segments_hold(tiny, make_batch, monkeypatch, frames, sizes):
    config = tiny("task=vocoder", "vocoder.kind=vocos", f"vocoder.segment_frames={frames}")
    part = build.part(config)
    asked, inner = [], part.losses
    monkeypatch.setattr(part, "losses", lambda waves, mels, of: asked.append(of) or inner(waves, mels, of))
    monkeypatch.setattr(part, "log", lambda *args, **kwargs: None)
    monkeypatch.setattr(part, "log_loss", lambda *args, **kwargs: None)
    assert part.training_step(make_batch(config, part), 0).isfinite() and asked == [sizes]


def test_spectral_distance_is_zero_for_the_same_sound_and_grows():
    from melfusion.models.vocoder import spectral_distance

    sound = torch.randn(2, 8192)
    assert spectral_distance(sound, sound).tolist() == [0, 0]
    near, far = (spectral_distance(sound + a * torch.randn(2, 8192), sound) for a in (0.1, 1.0))
    assert (near > 0).all() and (near < far).all()


def test_a_correction_brings_the_sound_nearer_to_the_mel_and_keeps_its_phases(tiny):
    audio = tiny().audio
    front, rng = LogMel(audio), torch.Generator().manual_seed(0)
    wanted = front(0.1 * torch.randn(2, 8192, generator=rng))
    made = 0.02 * torch.randn(2, 8192, generator=rng)  # another sound, much too soft
    once = corrected(made, wanted, front)
    errors = [(front(w) - wanted).abs().mean().item() for w in (made, once, corrected(once, wanted, front))]
    assert errors[1] < 0.35 * errors[0] and errors[2] < errors[1]
    torch.testing.assert_close(corrected(made, front(made), front)[:, 512:-512], made[:, 512:-512], rtol=0, atol=1e-5)
    seam = Vocoder(torch.nn.Identity(), front, corrections=1)
    seam.network.forward = lambda mel: made
    torch.testing.assert_close(seam(wanted), once / once.abs().amax(-1, keepdim=True).clamp(min=1))
