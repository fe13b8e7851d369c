"""The system: the picture conditions the music, losses and drop-out are right, checkpoints name their frozen parts."""

import contextlib
import copy
import dataclasses
from itertools import product

import building as build
import pytest
import torch

from melfusion.errors import CheckpointError
from melfusion.models.diffusion.samplers import make_scheduler, sample

KINDS = ("kv_mix", "kv_mix_proj", "concat", "decoupled", "context_mix")


def pictures(n, size=16, seed=0):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def open_up(system):
    """Give a random-init system a voice: conv_out starts at random already, α at the config's value."""
    return system.eval()


@pytest.mark.parametrize("reading", ["inverted", "fixed", "noised"])
@pytest.mark.parametrize("kind", KINDS)
def test_another_picture_changes_the_music_and_the_same_gives_the_same_bytes(tiny, kind, reading):
    system = open_up(build.system(tiny(f"synapse.kind={kind}", f"image.reading={reading}")))
    a, b = pictures(1, seed=1), pictures(1, seed=2)

    def make(image):
        return system.generate(["rain"], image, [3], num_inference_steps=2, guidance_scale=2.0)

    assert torch.equal(make(a), make(a))
    assert not torch.equal(make(a), make(b))
    assert not torch.equal(make(a), make(None))


def test_text_changes_the_music_and_image_alone_works(tiny):
    system = open_up(build.system(tiny()))
    image = pictures(1)
    with_text, other, alone = (system.generate([t], image, [0], num_inference_steps=2) for t in ("rain", "sun", ""))
    assert not torch.equal(with_text, other) and not torch.equal(with_text, alone)
    assert torch.isfinite(alone).all()


def test_a_clip_does_not_depend_on_its_batch(tiny):
    system = open_up(build.system(tiny()))
    images = pictures(3)
    joint = system.generate(["a", "b", "c"], images, [5, 6, 7], num_inference_steps=2)
    single = system.generate(["b"], images[1:2], [6], num_inference_steps=2)
    torch.testing.assert_close(joint[1:2], single, rtol=1e-4, atol=1e-4)


def test_guidance_one_is_a_single_conditional_pass(tiny, monkeypatch):
    system = open_up(build.system(tiny()))
    rows = []
    inner = system.denoiser.forward
    monkeypatch.setattr(system.denoiser, "forward", lambda x, *a: rows.append(len(x)) or inner(x, *a))
    system.generate(["rain"], pictures(1), num_inference_steps=2, guidance_scale=1.0)
    assert rows == [1, 1]
    rows.clear()
    system.generate(["rain"], pictures(1), num_inference_steps=2, guidance_scale=3.0)
    assert rows == [2, 2]
    rows.clear()
    system.generate(["rain"], pictures(1), num_inference_steps=2, guidance_scale=3.0, image_guidance_scale=2.0)
    assert rows == [3, 3]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("quadrant", range(4))
def test_with_an_empty_caption_every_region_of_the_picture_matters(tiny, kind, quadrant):
    system = open_up(build.system(tiny(f"synapse.kind={kind}", "image.reading=fixed")))
    image = pictures(1)
    changed, (row, column) = image.clone(), divmod(quadrant, 2)
    changed[:, :, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] *= -1
    first, second = (system.generate([""], i, [0], num_inference_steps=1) for i in (image, changed))
    assert not torch.equal(first, second)


def test_negative_prompt_replaces_only_the_null_text(tiny):
    system = open_up(build.system(tiny()))
    image = pictures(1)
    plain, negative = (
        system.generate(["rain"], image, [0], num_inference_steps=2, guidance_scale=3.0, negative_prompt=p) for p in ("", "drums")
    )
    assert not torch.equal(plain, negative)
    plain, negative = (
        system.generate(["rain"], image, [0], num_inference_steps=2, guidance_scale=1.0, negative_prompt=p) for p in ("", "drums")
    )
    assert torch.equal(plain, negative)


def test_the_loss_of_a_batch_is_the_mean_of_its_samples_losses(tiny, make_batch):
    config = tiny("diffusion.text_drop_prob=0", "diffusion.image_drop_prob=0", "diffusion.both_drop_prob=0")
    system = build.system(config).eval()
    batch = make_batch(config, system, n=3)
    joint = system.training_step(batch, 0)
    singles = []
    for i in range(3):
        one = dataclasses.replace(
            batch,
            keys=[batch.keys[i]],
            captions=[batch.captions[i]],
            position=batch.position[i : i + 1],
            has_image=batch.has_image[i : i + 1],
            waveform=batch.waveform[i : i + 1],
            image=batch.image[i : i + 1],
            draws={k: v[i : i + 1] for k, v in batch.draws.items()},
        )
        singles.append(system.training_step(one, 0)["loss"])
    torch.testing.assert_close(joint["loss"], torch.stack(singles).mean(), rtol=1e-5, atol=1e-6)


def test_at_the_last_timestep_the_network_sees_pure_noise_where_that_is_trained(tiny, make_batch, monkeypatch):
    config = tiny("diffusion.pure_noise_share=0.5")
    system = build.system(config).eval()
    batch = make_batch(config, system, n=3)
    batch.draws["timestep"] = torch.tensor([0.1, 0.7, 0.3])
    seen, passed = [], system.denoise
    monkeypatch.setattr(system, "denoise", lambda x, t, c: seen.append((x, t)) or passed(x, t, c))
    system.training_step(batch, 0)["loss"].backward()
    noisy, timesteps = seen[0]
    assert timesteps.tolist() == [200, 999, 600]
    assert [torch.allclose(x, n, atol=1e-6) for x, n in zip(noisy, batch.draws["noise"], strict=True)] == [False, True, False]


@pytest.mark.parametrize("share", [0, 0.1])
def test_sampling_starts_as_training_ended(tiny, monkeypatch, share):
    system = build.system(tiny(f"diffusion.pure_noise_share={share}")).eval()

    def answer(x, *_):
        return torch.full_like(x, -3.0)

    monkeypatch.setattr(system, "denoise", answer)
    monkeypatch.setattr(system.codec, "decode", lambda latents: latents)
    noise = system.draw("noise", [0], system.latent_shape())
    wanted, other = (
        sample(answer, noise, make_scheduler("dpm", system.diffusion), 2, iter, pure) for pure in (share > 0, share == 0)
    )
    latents = system.generate(["a"], num_inference_steps=2, guidance_scale=1.0)
    assert torch.equal(latents, wanted) and not torch.allclose(wanted, other)


def test_dropped_text_is_the_encoded_empty_string_and_what_sampling_uses(tiny, make_batch):
    config = tiny()
    system = build.system(config).eval()
    conditioning = system.condition(make_batch(config, system, n=4))
    d = config.diffusion
    u = torch.tensor([d.both_drop_prob / 2, d.both_drop_prob + d.text_drop_prob / 2, 0.25, 0.9])
    dropped = system.drop(conditioning, u)
    empty, mask = system.conditioner([""]).said().values()
    for i, kept in enumerate([False, False, True, True]):
        wanted = conditioning.text_embeds[i] if kept else empty[0]
        assert torch.equal(dropped.text_embeds[i], wanted)
    assert torch.equal(dropped.text_mask[0], mask[0]) and dropped.has_image.tolist() == [0, 1, 0, 1]
    assert torch.equal(system.null(conditioning).text_embeds[0], empty[0])


def test_frozen_parts_build_no_graph_and_get_no_gradient(tiny, make_batch):
    config = tiny("diffusion.both_drop_prob=0", "diffusion.text_drop_prob=0", "diffusion.image_drop_prob=0")
    system = build.system(config).train()
    batch = make_batch(config, system)
    conditioning = system.condition(batch)
    features = system.look(conditioning, torch.tensor([0, 300, 600, 900]))
    assert all(t.grad_fn is None for pair in features.values() for t in pair)
    assert system.encode_music(batch).grad_fn is None and conditioning.text_embeds.grad_fn is None
    system.training_step(batch, 0)["loss"].backward()
    frozen = [system.codec, system.conditioner, system.image_encoder]
    assert all(p.grad is None for part in frozen for p in part.parameters())
    assert all(not part.training for part in frozen) and system.denoiser.training
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in system.denoiser.alpha_parameters())


def test_state_dict_holds_only_what_trains_and_loads_strictly(tiny):
    system = build.system(tiny())
    state = system.state_dict()
    assert state and all(key.startswith("denoiser.") for key in state)
    fresh = build.system(tiny("seed=1"))
    fresh.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(fresh.denoiser.parameters(), system.denoiser.parameters(), strict=True))
    state.pop(next(iter(state)))
    with pytest.raises(RuntimeError, match="Missing key"):
        fresh.load_state_dict(state)


def test_a_checkpoint_refuses_other_frozen_parts(tiny):
    system, checkpoint = build.system(tiny()), {}
    system.on_save_checkpoint(checkpoint)
    assert set(checkpoint["frozen"]) == {"codec", "conditioner", "image_encoder"}
    build.system(tiny()).on_load_checkpoint(checkpoint)
    other = build.system(tiny())
    with torch.no_grad():
        next(other.image_encoder.parameters()).add_(1e-3)
    with pytest.raises(CheckpointError, match="another image_encoder"):
        other.on_load_checkpoint(checkpoint)


@pytest.mark.parametrize("network, fits", [("decoder", True), ("post_quant_conv", True), ("encoder", False), ("quant_conv", False)])
def test_another_decoder_may_follow_and_another_encoder_may_not(tiny, network, fits):
    system, checkpoint, other = build.system(tiny()), {}, build.system(tiny())
    system.on_save_checkpoint(checkpoint)
    with torch.no_grad():
        next(getattr(other.codec.music_vae.autoencoder, network).parameters()).add_(1e-3)
    with contextlib.nullcontext() if fits else pytest.raises(CheckpointError, match="another codec"):
        other.on_load_checkpoint(checkpoint)


QUICK = (("kv_mix", "epsilon"),)  # the kind of the paper; the others repeat it
SLOW = pytest.mark.slow  # a short training of each other pair
REST = [pair for pair in product(("none", *KINDS), ("epsilon", "v_prediction")) if pair not in QUICK]


@pytest.mark.parametrize(("kind", "prediction_type"), [*QUICK, *(pytest.param(*pair, marks=SLOW) for pair in REST)])
def test_one_batch_can_be_overfitted(tiny, make_batch, kind, prediction_type):
    config = tiny(f"synapse.kind={kind}", f"diffusion.prediction_type={prediction_type}", "image.reading=fixed")
    system = build.system(config).train()
    batch = make_batch(config, system)
    with torch.no_grad():
        latents, conditioning = system.encode_music(batch), system.condition(batch)
    timesteps = torch.tensor([100, 400, 600, 900])
    optimizer = torch.optim.AdamW(system.denoiser.parameters(), lr=3e-3)
    losses = []
    for _ in range(120):
        loss = system.losses(latents, conditioning, timesteps, batch.draws["noise"]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.45 * losses[0], losses[::20]


def test_validation_uses_the_same_numbers_every_time(tiny, make_batch):
    config = tiny()
    system = build.system(config).eval()
    scores = []
    for _ in range(2):
        system.val_loss.reset()
        system.log = lambda *a, **k: None
        system.val_other.reset()
        batch = make_batch(config, system)
        batch.other = dataclasses.replace(batch, image=batch.image.roll(1, 0))
        assert batch.pictures_differ(batch.other).all() and not batch.pictures_differ(batch).any()
        system.validation_step(batch, 0)
        scores.append(torch.stack([system.val_loss.compute(), system.val_other.compute()]))
    assert torch.equal(*scores) and scores[0][0] != scores[0][1]  # another picture, another loss


def test_latents_have_unit_variance_after_measuring(tiny, make_batch):
    config = tiny()
    vae = build.music_vae(config)
    batch = make_batch(config, build.system(config), n=16)
    vae.measure_latents([batch])
    noise = torch.randn(16, 4, 16, 4, generator=torch.Generator().manual_seed(0))
    latents = vae.sample_latents(vae.encode_moments(vae.log_mel(batch.waveform)), noise)
    assert (latents.std((0, 2, 3)) - 1).abs().max() < 0.05 and latents.mean((0, 2, 3)).abs().max() < 0.1


def test_the_system_can_be_copied(tiny, make_batch):
    config = tiny("image.reading=fixed")
    system = build.system(config).eval()
    twin = copy.deepcopy(system)
    batch = make_batch(config, system)
    with torch.no_grad():
        assert torch.equal(system.training_step(batch, 0)["loss"], twin.training_step(batch, 0)["loss"])
        for p in twin.denoiser.parameters():
            p.zero_()
        assert system.training_step(batch, 0)["loss"] != twin.training_step(batch, 0)["loss"]


def test_a_picture_is_read_without_touching_the_global_generator(tiny):
    system = open_up(build.system(tiny()))
    before = torch.get_rng_state()
    system.generate(["x"], pictures(1), num_inference_steps=1)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_any_picture_trains_like_text_alone_and_leaves_no_parameter_without_gradient(tiny, make_batch, kind):
    config = tiny(f"synapse.kind={kind}", "diffusion.both_drop_prob=0", "diffusion.text_drop_prob=0")
    system = build.system(config).train()
    batch = make_batch(config, system, images=False)
    loss = system.training_step(batch, 0)["loss"]
    loss.backward()
    trained = [p for p in system.denoiser.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in trained)  # or DistributedDataParallel would wait for it
    assert all(p.grad.abs().max() == 0 for p in system.denoiser.synapse.parameters())


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_min_snr_weighs_the_error_of_v_alike_for_either_prediction(tiny, make_batch, prediction):
    """In the space of v the weight is min(SNR, γ)/(SNR + 1) whatever the network predicts."""
    config = tiny("diffusion.loss_space=v", f"diffusion.prediction_type={prediction}")
    system = build.system(config)
    timesteps = torch.tensor([50, 500, 900, 999])
    batch = make_batch(config, system)
    conditioning, latents = system.condition(batch), system.encode_music(batch)
    plain = system.losses(latents, conditioning, timesteps, batch.draws["noise"])
    system.diffusion.min_snr_gamma = 5.0
    weighted = system.losses(latents, conditioning, timesteps, batch.draws["noise"])
    snr = system.objective.alpha_bar[timesteps] / (1 - system.objective.alpha_bar[timesteps])
    torch.testing.assert_close(weighted / plain, snr.clamp(max=5.0) / (snr + 1), rtol=1e-4, atol=1e-6)
