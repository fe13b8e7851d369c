"""The music VAE: shapes, the latents' normalisation, its own training, and what it exports."""

import json

import building as build
import numpy as np
import pytest
import torch

from melfusion.errors import WeightsError
from melfusion.media.mel import LOG_FLOOR
from melfusion.models.frozen import digest
from melfusion.models.music_vae import MusicVAE, modulation_distance

pytestmark = pytest.mark.filterwarnings("ignore:You are trying to `self.log")


@pytest.fixture
def config(tiny):
    return tiny("task=music_vae")


@pytest.fixture
def vae(config):
    return build.part(config)


@pytest.fixture
def log_mel():
    return torch.randn(2, 1, 64, 16, generator=torch.Generator().manual_seed(0)) - 4


def test_shapes_there_and_back(vae, log_mel):
    moments = vae.encode_moments(log_mel)
    latents = vae.encode(log_mel)
    assert vae.downsampling == 4 and moments.shape == (2, 8, 16, 4) and latents.shape == (2, 4, 16, 4)
    assert vae.decode(latents).shape == (2, 1, 64, 16)
    assert vae.encode(log_mel[:, :, :32]).shape == (2, 4, 8, 4)  # any even length


def test_decoding_never_falls_below_the_front_ends_floor(vae):
    with torch.no_grad():
        vae.autoencoder.decoder.conv_out.bias.fill_(-100)
    assert vae.decode(torch.zeros(1, 4, 16, 4)).unique().tolist() == pytest.approx([np.log(LOG_FLOOR)])


def test_the_network_sees_the_normalised_mel(vae, log_mel):
    seen = []
    vae.autoencoder.encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    vae.encode(log_mel)
    torch.testing.assert_close(seen[0], (log_mel + 4) / 3)


def test_sample_latents_is_its_formula(vae):
    rng = np.random.default_rng(0)
    mean, log_variance, noise = rng.normal(size=(3, 2, 4, 5, 3)).astype(np.float32)
    vae.latent_mean.copy_(torch.tensor([1.0, -2.0, 0.0, 0.5]))
    vae.latent_std.copy_(torch.tensor([0.5, 2.0, 1.0, 3.0]))
    shift, scale = (t.numpy()[:, None, None] for t in (vae.latent_mean, vae.latent_std))
    moments = torch.from_numpy(np.concatenate([mean, log_variance], axis=1))
    drawn = vae.sample_latents(moments, torch.from_numpy(noise)).numpy()
    np.testing.assert_allclose(drawn, (mean + np.exp(log_variance / 2) * noise - shift) / scale, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(vae.sample_latents(moments).numpy(), (mean - shift) / scale, rtol=1e-5, atol=1e-6)
    extreme = torch.cat([torch.zeros(1, 4, 1, 1), torch.full((1, 4, 1, 1), 1e4)], 1)
    assert torch.isfinite(vae.sample_latents(extreme, torch.ones(1, 4, 1, 1))).all()


def test_decode_undoes_the_normalisation(vae, log_mel):
    before = vae.decode(vae.encode(log_mel))
    vae.latent_mean.copy_(torch.tensor([1.0, -2.0, 0.0, 0.5]))
    vae.latent_std.copy_(torch.tensor([0.5, 2.0, 1.0, 3.0]))
    torch.testing.assert_close(vae.decode(vae.encode(log_mel)), before, rtol=1e-3, atol=1e-3)


def test_measured_latents_have_mean_0_and_std_1_per_channel(config, vae, make_batch):
    batches = [make_batch(config, vae, n=8, seed=seed) for seed in range(6)]
    with torch.no_grad():
        vae.autoencoder.quant_conv.bias[:4] += torch.tensor([3.0, -1.0, 0.0, 10.0])  # channels of their own mean …
        vae.autoencoder.quant_conv.weight[:4] *= torch.tensor([1.0, 5.0, 0.2, 2.0])[:, None, None, None]  # … and spread
    vae.measure_latents(batches)
    assert vae.latent_mean[3] > 5
    drawn = torch.cat([vae.encode(vae.log_mel(b.waveform), b.draws["vae_noise"]) for b in batches])
    assert drawn.mean((0, 2, 3)).abs().max() < 0.05
    assert (drawn.std((0, 2, 3)) - 1).abs().max() < 0.05


def test_statistics_do_not_depend_on_the_batch_size(config, vae, make_batch):
    whole = make_batch(config, vae, n=6)
    vae.measure_latents([whole])
    mean, std = vae.latent_mean.clone(), vae.latent_std.clone()
    waveforms = whole.waveform.split([1, 2, 3])
    vae.measure_latents([type(whole)([], [], torch.zeros(0), torch.zeros(0), waveform=w) for w in waveforms])
    torch.testing.assert_close(vae.latent_mean, mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(vae.latent_std, std, rtol=1e-5, atol=1e-6)


def test_losses_are_what_they_say(config, vae, make_batch):
    batch = make_batch(config, vae)
    vae.requires_grad_(False)
    batch.draws["vae_noise"] = torch.zeros_like(batch.draws["vae_noise"])
    l1, kl, nats = (vae.losses(batch)[name] for name in ("l1", "kl", "log_mel_l1"))
    log_mel = vae.log_mel(batch.waveform)
    assert float(nats) == pytest.approx(float((vae.decode(vae.encode(log_mel)) - log_mel).abs().mean()), rel=1e-4)
    assert float(nats) == pytest.approx(3 * float(l1), rel=1e-5)  # mel_std = 3
    mean, log_variance = vae.encode_moments(log_mel).chunk(2, 1)
    assert float(kl) == pytest.approx(float(0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()), rel=1e-4)
    assert float(vae.training_step(batch, 0)) == pytest.approx(float(l1 + 1e-4 * kl), rel=1e-5)
    vae.modulation_weight = 3.0
    losses = vae.losses(batch)
    wanted = (log_mel - vae.mel_mean) / vae.mel_std
    made = vae.reconstruct(vae.posterior(wanted).mean)
    modulation = float(modulation_distance(made, wanted))
    assert modulation > 0 and float(losses["modulation"]) == pytest.approx(modulation, rel=1e-4)
    assert float(losses["loss"]) == pytest.approx(float(l1 + 1e-4 * kl) + 3 * modulation, rel=1e-4)


def trembling(phase, depth=0.5, frames=128):
    """(1, 1, T, 4): bands that tremble every 6 frames."""
    t = torch.arange(frames)[:, None] + torch.tensor([0.0, 1.0, 2.5, 4.0])
    return (depth * torch.sin(2 * torch.pi * t / 6 + phase))[None, None]


def test_a_trembling_band_of_another_phase_is_nearer_than_a_smooth_one():
    """What the L1 says the other way round, so that it teaches a decoder to smooth."""
    wanted, other, smooth = trembling(0.0), trembling(2.0), torch.zeros(1, 1, 128, 4)
    assert modulation_distance(wanted, wanted) == 0
    assert modulation_distance(other, wanted) < 0.3 * modulation_distance(smooth, wanted)
    assert (smooth - wanted).abs().mean() < (other - wanted).abs().mean()
    assert modulation_distance(trembling(2.0, depth=0.25), wanted) > modulation_distance(other, wanted)  # the depth counts


def test_the_modulation_distance_has_a_finite_gradient_at_rest_and_takes_short_clips():
    flat = torch.zeros(1, 1, 16, 4, requires_grad=True)
    modulation_distance(flat, trembling(0.0, frames=16)).backward()
    assert torch.isfinite(flat.grad).all()


def test_a_decoder_trained_alone_leaves_the_latents_what_they_are(config, vae, make_batch, tmp_path, log_mel):
    build.export_part(vae, config, tmp_path)
    config.music_vae.weights, config.music_vae.trainable = str(tmp_path), "decoder"
    again = build.part(config)
    before = again.latent_state()
    assert digest(before) == digest(vae.latent_state()) and all("decoder" not in n for n in before)
    assert any("encoder" in n for n in before) and {"latent_mean", "latent_std", "mel_mean", "mel_std"} < set(before)
    before, encoded, decoded = digest(before), again.encode(log_mel), again.decode(torch.zeros(1, 4, 16, 4))
    (group,) = again.parameter_groups()
    optimizer = torch.optim.Adam(group["params"], 1e-2)
    again.training_step(make_batch(config, again), 0).backward()
    optimizer.step()
    assert digest(again.latent_state()) == before and torch.equal(again.encode(log_mel), encoded)
    assert not torch.equal(again.decode(torch.zeros(1, 4, 16, 4)), decoded)
    config.music_vae.weights = None
    with pytest.raises(WeightsError, match="music_vae.trainable=decoder"):
        build.part(config)


def test_training_uses_the_samples_own_noise(config, vae, make_batch):
    batch = make_batch(config, vae)
    first, again = vae.losses(batch)["l1"], vae.losses(batch)["l1"]
    batch.draws["vae_noise"] = batch.draws["vae_noise"].flip(0)
    assert first == again and first != vae.losses(batch)["l1"]


def test_one_batch_can_be_overfitted(config, vae, make_batch):
    batch = make_batch(config, vae, n=2)
    optimizer = torch.optim.Adam(vae.parameters(), 5e-3)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = vae.training_step(batch, 0)
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.6 * losses[0] and all(np.isfinite(losses))


def test_all_weights_train_and_the_statistics_do_not(vae):
    (group,) = vae.parameter_groups()
    assert {id(p) for p in group["params"]} == {id(p) for p in vae.parameters()}
    assert {"mel_mean", "mel_std", "latent_mean", "latent_std"} <= set(vae.state_dict())


def test_export_comes_back_to_the_bit(config, vae, make_batch, tmp_path, log_mel):
    vae.measure_latents([make_batch(config, vae)])
    vae.mel_mean.fill_(-4.7)
    build.export_part(vae, config, tmp_path / "runs" / "mine" / "export")
    assert sorted(p.name for p in (tmp_path / "runs/mine/export").iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "melfusion.json",
    ]
    config.music_vae.weights, config.runs_dir = "run:mine", str(tmp_path / "runs")
    config.music_vae.mel_mean = 0.0  # what was exported counts
    back = build.music_vae(config)
    assert isinstance(back, MusicVAE) and digest(back) == digest(vae)
    assert torch.equal(back.latent_std, vae.latent_std) and back.mel_mean == vae.mel_mean
    assert torch.equal(back.encode(log_mel), vae.encode(log_mel))
    build.export_part(back, config, tmp_path / "again")  # diffusers would note the folder that it was loaded from
    assert str(tmp_path) not in (tmp_path / "again" / "config.json").read_text()
    statistics = json.loads((tmp_path / "runs/mine/export/melfusion.json").read_text())
    assert set(statistics) == {"mel_mean", "mel_std", "latent_mean", "latent_std", "audio"} and len(statistics["latent_std"]) == 4
    config.audio.framing = "centred"
    with pytest.raises(WeightsError, match="was trained for audio.framing=hifigan, but it is centred here"):
        build.music_vae(config)


def test_a_published_vae_brings_its_scale(config, vae, tmp_path, log_mel):
    vae.autoencoder.register_to_config(scaling_factor=0.92279)
    vae.autoencoder.save_pretrained(tmp_path)
    config.music_vae.weights, config.music_vae.mel_mean, config.music_vae.mel_std = str(tmp_path), 0.0, 1.0
    published = build.music_vae(config)
    assert published.latent_std.tolist() == pytest.approx([1 / 0.92279] * 4) and not published.latent_mean.any()
    z = published.autoencoder.encode(log_mel).latent_dist.mean
    torch.testing.assert_close(published.encode(log_mel), z * 0.92279)
    torch.testing.assert_close(
        published.decode(z * 0.92279), published.autoencoder.decode(z).sample.clamp(min=np.log(1e-5)), rtol=1e-4, atol=1e-4
    )
