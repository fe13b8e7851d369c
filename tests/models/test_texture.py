"""The texture: the flow's loss and path against their formulas, that it draws and what it draws by, and its place in the VAE."""

import json
from pathlib import Path

import building as build
import pytest
import torch
from data_fixtures import one_sentence

from melfusion.assembly.codec import export_music_vae
from melfusion.errors import WeightsError
from melfusion.evaluation.clips import decoder_identity
from melfusion.models.frozen import digest, freeze
from melfusion.models.texture import Texture

pytestmark = pytest.mark.filterwarnings("ignore:You are trying to `self.log")


@pytest.fixture
def texture():
    torch.manual_seed(0)
    return Texture(latent_channels=4, width=16, blocks=2, scale=0.5)


@pytest.fixture
def inputs():
    """log_mel and latents of two clips, r = 4."""
    draw = torch.Generator().manual_seed(0)
    return torch.randn(2, 1, 64, 16, generator=draw), torch.randn(2, 4, 16, 4, generator=draw)


@pytest.fixture
def config(tiny):
    return tiny("task=music_vae")


@pytest.fixture
def textured(config, tiny, tmp_path):
    """A configuration whose VAE has a texture, trained for nothing."""
    build.export_part(build.part(config), config, tmp_path / "vae")
    config.music_vae.weights, config.music_vae.trainable = str(tmp_path / "vae"), "texture"
    build.export_part(build.part(config), config, tmp_path / "textured")
    return tiny(f"music_vae.weights={tmp_path / 'textured'}", "music_vae.texture_steps=3")


def test_the_loss_is_that_of_the_direction_at_its_point_of_the_line(texture, inputs, monkeypatch):
    residual, noise = torch.randn(2, 1, 64, 16), torch.randn(2, *texture.noise_shape(64, 16))
    wanted, uniform = torch.nn.functional.pixel_unshuffle(residual / 0.5, 4), torch.tensor([0.5, 0.0])
    seen = []

    def direction(point, t, condition):
        seen.append((point, t))
        return wanted - noise + 2

    monkeypatch.setattr(texture, "direction", direction)
    assert float(texture.loss(residual, *inputs, uniform, noise)) == pytest.approx(4, rel=1e-5)
    ((point, t),) = seen
    assert t.tolist() == [0.5, 0.0]  # the median of the logit-normal, and its end
    torch.testing.assert_close(point, torch.stack([(wanted + noise)[0] / 2, noise[1]]))


@pytest.mark.parametrize("steps", [1, 4])
def test_euler_steps_follow_the_direction_from_noise(texture, inputs, monkeypatch, steps):
    times = []
    monkeypatch.setattr(texture, "direction", lambda point, t, condition: times.append(float(t[0])) or 1 - point)
    drawn = torch.nn.functional.pixel_unshuffle(texture(*inputs, steps), 4) / 0.5
    noise = torch.randn(texture.noise_shape(64, 16), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn, (1 + (noise - 1) * (1 - 1 / steps) ** steps).expand(2, -1, -1, -1))
    assert times == [k / steps for k in range(steps)]


def test_a_clip_sounds_the_same_alone_and_among_others(texture, inputs):
    both = texture(*inputs, 2)
    assert both.shape == (2, 1, 64, 16) and not torch.equal(both[0], both[1])
    torch.testing.assert_close(texture(*(x[1:] for x in inputs), 2), both[1:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(texture(*inputs, 2), both, rtol=0, atol=0)
    assert texture(*(x[:, :, : x.shape[2] // 2] for x in inputs), 2).shape == (2, 1, 32, 16)  # any length


@pytest.mark.parametrize("told", ["latents", "log_mel"])
def test_it_learns_to_draw_what_only_the_deviation_tells(told):
    """A residual of mean 0 whose deviation one half of the condition tells: a mean would be 0 everywhere."""
    torch.manual_seed(0)
    texture = Texture(latent_channels=1, width=32, blocks=1, scale=1.0)
    optimizer, draw = torch.optim.Adam(texture.parameters(), 1e-2), torch.Generator().manual_seed(0)

    def clips():
        loud = (torch.rand(8, 1, 8, 2, generator=draw) < 0.5).float()  # at each position of 4×4 bins
        wide = torch.nn.functional.interpolate(loud, scale_factor=4)
        residual = wide * torch.randn(8, 1, 32, 8, generator=draw)
        return residual, *((wide, torch.zeros_like(loud)) if told == "log_mel" else (torch.zeros_like(wide), loud)), wide > 0

    for _ in range(300):
        residual, log_mel, latents, _ = clips()
        uniform, noise = torch.rand(8, generator=draw), torch.randn(8, *texture.noise_shape(32, 8), generator=draw)
        optimizer.zero_grad()
        texture.loss(residual, log_mel, latents, uniform, noise).backward()
        optimizer.step()
    _, log_mel, latents, loud = clips()
    drawn = texture(log_mel, latents, 8)
    assert 0.5 < float(drawn[loud].std()) < 1.2 and float(drawn[~loud].std()) < 0.3
    assert abs(float(drawn[loud].mean())) < 0.2


def test_decoding_adds_it_in_as_many_steps_as_wanted(textured, inputs):
    vae = freeze(build.system(textured).codec.music_vae)
    latents = inputs[1]
    with_it = vae.decode(latents)
    z = latents * vae.latent_std[:, None, None] + vae.latent_mean[:, None, None]
    made = vae.reconstruct(z)
    wanted = (made + vae.texture(made, latents, 3)) * vae.mel_std + vae.mel_mean
    torch.testing.assert_close(with_it, wanted.clamp(min=float(with_it.min())))
    vae.texture_steps = 0
    without = vae.decode(latents)
    assert (with_it - without).abs().max() > 0.01
    vae.texture = None
    assert torch.equal(vae.decode(latents), without)


def test_training_it_moves_nothing_else(config, textured, make_batch, inputs):
    config.music_vae.weights, config.music_vae.trainable = textured.music_vae.weights, "texture"
    vae = build.part(config)
    others = {n: t.clone() for n, t in vae.state_dict().items() if not n.startswith("texture.")}
    latents, before, batch = digest(vae.latent_state()), digest(vae.texture), make_batch(config, vae)
    (group,) = vae.parameter_groups()
    optimizer = torch.optim.Adam(group["params"], 1e-2)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        losses.append(vae.training_step(batch, 0))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0] and digest(vae.texture) != before
    assert all(torch.equal(vae.state_dict()[n], t) for n, t in others.items()) and digest(vae.latent_state()) == latents
    assert not any(n.startswith("texture.") for n in vae.latent_state())  # models that were trained before it still fit


def test_its_loss_is_of_what_the_decoder_leaves_out(config, textured, make_batch):
    config.music_vae.weights, config.music_vae.trainable = textured.music_vae.weights, "texture"
    vae = build.part(config)
    vae.latent_mean.fill_(0.5)
    vae.latent_std.fill_(2.0)
    batch = make_batch(config, vae)
    wanted = (vae.log_mel(batch.waveform) - vae.mel_mean) / vae.mel_std
    posterior = vae.posterior(wanted)
    z = posterior.mean + posterior.std * batch.draws["vae_noise"]
    made, latents = vae.reconstruct(z), (z - vae.latent_mean[:, None, None]) / vae.latent_std[:, None, None]
    loss = vae.texture.loss(wanted - made, made, latents, batch.draws["timestep"], batch.draws["noise"])
    losses = vae.losses(batch)
    assert losses["loss"].item() == pytest.approx(loss.item(), rel=1e-5)
    assert float(losses["log_mel_l1"]) == pytest.approx(3 * float((wanted - made).abs().mean()), rel=1e-5)  # mel_std = 3


def test_it_is_read_again_as_it_was_written_and_only_for_its_audio(textured, inputs, tmp_path):
    vae = freeze(build.system(textured).codec.music_vae)
    export_music_vae(vae, textured, tmp_path / "again")
    textured.music_vae.weights = str(tmp_path / "again")
    torch.testing.assert_close(
        freeze(build.system(textured).codec.music_vae).decode(inputs[1]), vae.decode(inputs[1]), rtol=0, atol=0
    )
    textured.audio.f_max_hz = 3000
    with pytest.raises(WeightsError, match="trained for audio.f_max_hz=4000.0, but it is 3000 here"):
        build.music_vae(textured)


@pytest.mark.parametrize("sizes", [{"nope": 1}, {"width": "wide"}, {"blocks": -1}, {"width": 10**9}])
def test_sizes_that_make_no_texture_are_one_sentence(textured, sizes):
    file = Path(textured.music_vae.weights) / "texture" / "part.json"
    tree = json.loads(file.read_text())
    file.write_text(json.dumps(tree | {"sizes": tree["sizes"] | sizes}))
    with pytest.raises(WeightsError, match="part.json has sizes that no network can have|does not fit its part.json") as caught:
        build.music_vae(textured)
    assert one_sentence(str(caught.value))


@pytest.mark.parametrize("trainable", ["all", "decoder"])
def test_another_decoder_has_none(config, textured, trainable, tmp_path):
    """It draws what one decoder leaves out: that of another it does not fit."""
    config.music_vae.weights, config.music_vae.trainable = textured.music_vae.weights, trainable
    vae = build.part(config)
    assert vae.texture is None
    build.export_part(vae, config, tmp_path / "other")
    assert not (tmp_path / "other" / "texture").exists()


def test_clips_of_another_texture_or_other_steps_are_other_clips(textured):
    system = build.system(textured)
    first = decoder_identity(system)
    system.codec.music_vae.texture_steps = 2
    assert decoder_identity(system) != first
    system.codec.music_vae.texture_steps = 3
    assert decoder_identity(system) == first
    with torch.no_grad():
        next(system.codec.music_vae.texture.parameters()).add_(0.1)
    assert decoder_identity(system) != first
