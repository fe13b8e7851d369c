"""Reading the picture: self-attention K and V, the three readings, scaling, no graph and no host copies."""

import copy
import io
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from synapse_fixtures import PROMPT_WIDTH, music_inputs, randn, small_image_unet, small_image_vae, small_unet

from melfusion.batch import MusicBatch
from melfusion.media.pictures import read_image
from melfusion.models.backbones.unet import SynapticUNet
from melfusion.models.diffusion import process as diffusion
from melfusion.models.diffusion.options import DiffusionConfig
from melfusion.models.frozen import freeze
from melfusion.models.image_diffusion import ImageFeatureExtractor, read_self_attention
from melfusion.models.options import OptimConfig
from melfusion.models.synapse.layers import attention_layers

READINGS = ("inverted", "fixed", "noised")
PROMPT = randn(1, 3, PROMPT_WIDTH, seed=40)


def extractor_of(reading="inverted", vae=False, **kwargs):
    unet = small_image_unet(channels=4 if vae else 3)
    alpha_bar = diffusion.alphas_cumprod(DiffusionConfig())
    kwargs = {"grid_steps": 4, "fixed_timestep": 200} | kwargs
    return freeze(
        ImageFeatureExtractor(unet, small_image_vae() if vae else None, PROMPT.clone(), alpha_bar, reading=reading, **kwargs)
    )


def pictures(n=2, seed=11, side=8):
    return randn(n, 3, side, side, seed=seed).tanh()


def noise_of(images):
    return randn(*images.shape, seed=12)


@pytest.fixture
def spy(monkeypatch):
    """spy(extractor) → list of (latents, timesteps, prompt) of each pass of its UNet from now on."""

    def watch(extractor):
        seen, forward = [], extractor.unet.forward

        def spied(latents, timesteps, encoder_hidden_states, **kwargs):
            seen.append((latents, timesteps, encoder_hidden_states))
            return forward(latents, timesteps, encoder_hidden_states=encoder_hidden_states, **kwargs)

        monkeypatch.setattr(extractor.unet, "forward", spied)
        return seen

    return watch


# --- what is read -----------------------------------------------------------------------------------------------------


def test_attention_layers_are_in_forward_order():
    unet, order = small_image_unet(), []
    for layer in attention_layers(unet):
        unet.get_submodule(layer).register_forward_pre_hook(lambda *_, layer=layer: order.append(layer))
    unet(pictures(1), torch.tensor([5]), encoder_hidden_states=PROMPT)
    assert order == attention_layers(unet) and len(order) == 7


@torch.no_grad()
def test_features_are_the_keys_and_values_of_self_attention():
    unet = small_image_unet()
    layers, entering, handles = attention_layers(unet), {}, []

    def keep(layer, module, args):
        entering[layer] = args[0]

    for layer in layers:
        handles.append(unet.get_submodule(f"{layer}.attn1").register_forward_pre_hook(partial(keep, layer)))
    with read_self_attention(unet, layers) as seen:
        unet(pictures(), torch.tensor([5, 600]), encoder_hidden_states=PROMPT.expand(2, -1, -1))
    assert list(seen) == layers
    for layer in layers:
        attention = unet.get_submodule(f"{layer}.attn1")
        key, value = seen[layer]
        assert torch.equal(key, F.linear(entering[layer], attention.to_k.weight, attention.to_k.bias))
        assert torch.equal(value, F.linear(entering[layer], attention.to_v.weight, attention.to_v.bias))
    assert [seen[layer][0].shape[1:] for layer in layers[-4:]] == [(16, 16), (16, 16), (64, 8), (64, 8)]


def hooks(unet):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in unet.modules())


def test_hooks_are_gone_afterwards_even_after_an_error():
    unet = small_image_unet()
    with read_self_attention(unet, attention_layers(unet)):
        assert hooks(unet) == 14
    assert hooks(unet) == 0
    with pytest.raises(RuntimeError, match="stop"), read_self_attention(unet, attention_layers(unet)):
        raise RuntimeError("stop")
    assert hooks(unet) == 0
    missing = [*attention_layers(unet), "up_blocks.9.attentions.0.transformer_blocks.0"]
    with pytest.raises(AttributeError), read_self_attention(unet, missing):
        pytest.fail("a layer that is not there")
    assert hooks(unet) == 0


def test_reading_leaves_the_output_as_it_is():
    unet = small_image_unet().eval()
    args = (pictures(), torch.tensor([5, 600]))
    with read_self_attention(unet, attention_layers(unet)):
        read = unet(*args, encoder_hidden_states=PROMPT.expand(2, -1, -1)).sample
    assert torch.equal(read, unet(*args, encoder_hidden_states=PROMPT.expand(2, -1, -1)).sample)


def test_a_pass_ends_behind_the_last_layer_that_is_read():
    extractor, latents, timesteps = extractor_of("noised"), pictures(), torch.tensor([5, 600])
    layers, blocks, noise = attention_layers(extractor.unet), [], noise_of(latents)
    with read_self_attention(extractor.unet, layers) as whole:
        noisy = diffusion.add_noise(latents, noise, extractor.alpha_bar[timesteps])
        extractor.denoise(noisy, timesteps)
    for name in ("mid_block", "conv_out"):
        extractor.unet.get_submodule(name).register_forward_hook(lambda *args, name=name: blocks.append(name))
    for wanted, passed in ((layers, ["mid_block"]), (layers[:2], [])):
        blocks.clear()
        read = extractor.features(latents[:, None], timesteps, noise, wanted)
        assert blocks == passed and list(read) == wanted
        assert all(torch.equal(a, b) for layer in wanted for a, b in zip(read[layer], whole[layer], strict=True))


def test_only_the_asked_layers_are_read():
    layers = attention_layers(small_image_unet())[-2:]
    extractor = extractor_of()
    kept = extractor.encode(pictures())
    assert list(extractor.features(kept, torch.tensor([5, 600]), layers=layers)) == layers


@pytest.mark.parametrize("reading", READINGS)
def test_the_image_model_is_told_the_empty_prompt(reading, spy):
    extractor, images = extractor_of(reading), pictures()
    seen = spy(extractor)
    extractor(images, torch.tensor([5, 600]), noise_of(images))
    assert len(seen) == {"inverted": 4, "fixed": 5, "noised": 1}[reading]
    for latents, _, prompt in seen:
        assert torch.equal(prompt, PROMPT.expand(len(latents), -1, -1))


# --- readings ---------------------------------------------------------------------------------------------------------


def test_inverted_reads_the_nearest_stored_timestep_at_or_below_and_tells_it(spy):
    extractor = extractor_of("inverted")
    assert extractor.grid.tolist() == [0, 250, 500, 750]
    kept = extractor.encode(pictures(6))
    timesteps = torch.tensor([0, 249, 250, 499, 750, 999])
    seen = spy(extractor)
    extractor.features(kept, timesteps)
    (latents, told, _), nearest = seen[0], [0, 0, 1, 1, 3, 3]
    assert told.tolist() == [0, 0, 250, 250, 750, 750] and len(seen) == 1
    assert torch.equal(latents, torch.stack([kept[b, g] for b, g in enumerate(nearest)]))


@pytest.mark.parametrize("steps", [1, 3, 4, 7, 20, 400, 600, 1000])
def test_every_timestep_has_a_stored_one_at_or_below(steps, spy):
    extractor = extractor_of("inverted", grid_steps=steps)
    grid, timesteps = extractor.grid.tolist(), torch.arange(0, 1000, 37)
    assert len(grid) == steps and grid[0] == 0 and grid == sorted(set(grid)) and grid[-1] < 1000
    assert max(b - a for a, b in zip(grid, [*grid[1:], 1000], strict=True)) <= -(-1000 // steps)  # up to the end, in even moves
    seen = spy(extractor)
    extractor.features(torch.zeros(len(timesteps), steps, 3, 4, 4), timesteps)
    assert seen[0][1].tolist() == [max(g for g in grid if g <= t) for t in timesteps.tolist()]


def test_inverted_keeps_the_clean_picture_first_and_ddim_moves_after_it():
    extractor, images = extractor_of("inverted"), pictures()
    kept = extractor.encode(images)
    assert kept.shape == (2, 4, 3, 8, 8) and torch.equal(kept[:, 0], images)
    with torch.no_grad():
        for i, (t, t_to) in enumerate([(0, 250), (250, 500), (500, 750)]):
            epsilon = extractor.denoise(kept[:, i], torch.full((2,), t))
            a, a_to = extractor.alpha_bar[t], extractor.alpha_bar[t_to]
            clean = (kept[:, i] - (1 - a).sqrt() * epsilon) / a.sqrt()
            torch.testing.assert_close(kept[:, i + 1], a_to.sqrt() * clean + (1 - a_to).sqrt() * epsilon)


@pytest.mark.parametrize(("fixed", "grid"), [(200, [0, 50, 100, 150, 200]), (3, [0, 1, 2, 3]), (0, [0])])
def test_fixed_uses_one_timestep_whatever_the_musics(fixed, grid, spy):
    extractor, images = extractor_of("fixed", fixed_timestep=fixed), pictures()
    assert extractor.grid.tolist() == grid
    kept = extractor.encode(images)
    assert kept.shape[1] == 1 and torch.equal(kept[:, 0], images) == (fixed == 0)
    seen = spy(extractor)
    early, late = extractor.features(kept, torch.tensor([0, 3])), extractor.features(kept, torch.tensor([999, 500]))
    assert [told.tolist() for _, told, _ in seen] == [[fixed, fixed]] * 2
    assert all(torch.equal(a, b) for k in early for a, b in zip(early[k], late[k], strict=True))


def test_noised_adds_noise_up_to_the_musics_timestep(spy):
    extractor, images, timesteps = extractor_of("noised"), pictures(), torch.tensor([0, 600])
    kept, noise = extractor.encode(images), noise_of(images)
    assert kept.shape[1] == 1 and torch.equal(kept[:, 0], images)
    seen = spy(extractor)
    extractor.features(kept, timesteps, noise)
    a = extractor.alpha_bar[timesteps].reshape(2, 1, 1, 1)
    torch.testing.assert_close(seen[0][0], a.sqrt() * images + (1 - a).sqrt() * noise)
    assert torch.equal(seen[0][1], timesteps)


@pytest.mark.parametrize("reading", READINGS)
def test_another_picture_gives_other_features_and_the_same_the_same(reading):
    extractor, images, timesteps = extractor_of(reading), pictures(), torch.tensor([5, 600])
    first, again, other = (extractor(p, timesteps, noise_of(images)) for p in (images, images.clone(), pictures(seed=13)))
    for layer in first:
        for a, b, c in zip(first[layer], again[layer], other[layer], strict=True):
            assert torch.equal(a, b) and (a - c).abs().amax((1, 2)).min() > 1e-3


@pytest.mark.parametrize("reading", READINGS)
def test_a_picture_is_read_alone(reading):
    extractor, images, timesteps = extractor_of(reading), pictures(3), torch.tensor([5, 600, 999])
    joint = extractor(images, timesteps, noise_of(images))
    alone = extractor(images[1:2], timesteps[1:2], noise_of(images)[1:2])
    for layer in joint:
        for a, b in zip(joint[layer], alone[layer], strict=True):
            torch.testing.assert_close(a[1:2], b, rtol=1e-4, atol=1e-5)


# --- no graph, no host copies -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("frozen", [True, False])
def test_features_hold_no_autograd_graph(reading, frozen):
    extractor, images = extractor_of(reading), pictures()
    if not frozen:
        extractor.requires_grad_(True)
    kept = extractor.encode(images.requires_grad_())
    features = extractor.features(kept, torch.tensor([5, 600]), noise_of(images))
    for t in (kept, *(t for pair in features.values() for t in pair)):
        assert not t.requires_grad and t.grad_fn is None
        assert not t.is_inference()  # an inference tensor could not be saved for α's backward pass


def test_the_backward_pass_of_the_music_leaves_the_image_model_alone():
    extractor = extractor_of("fixed")
    extractor.requires_grad_(True)  # even so
    model = SynapticUNet(small_unet(), extractor, "kv_mix")
    features = extractor(pictures(), torch.tensor([5, 600]))
    model(*music_inputs(), None, features, torch.ones(2)).square().mean().backward()
    assert all(p.grad is None for p in extractor.parameters())
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("reading", READINGS)
def test_reading_copies_nothing_to_the_host(reading, monkeypatch):
    extractor, images = extractor_of(reading), pictures()
    kept, forbidden = extractor.encode(images), ("cpu", "numpy", "tolist", "item", "__deepcopy__")
    for name in forbidden:
        monkeypatch.setattr(torch.Tensor, name, lambda *_, name=name: pytest.fail(f"Tensor.{name} while reading"))
    monkeypatch.setattr(copy, "deepcopy", lambda *_: pytest.fail("copy.deepcopy while reading"))
    extractor.features(kept, torch.tensor([5, 600]), noise_of(images))


@pytest.mark.parametrize("reading", READINGS)
def test_features_stay_on_the_device_of_the_model(reading):
    extractor = extractor_of(reading).to("meta")  # a device without bytes: whatever touches the host fails
    kept = torch.empty(2, len(extractor.grid) if reading == "inverted" else 1, 3, 8, 8, device="meta")
    features = extractor.features(kept, torch.empty(2, dtype=torch.long, device="meta"), torch.empty_like(kept[:, 0]))
    assert {t.device.type for pair in features.values() for t in pair} == {"meta"}


# --- pixels and latents -----------------------------------------------------------------------------------------------


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, format="PNG")
    return file.getvalue()


@pytest.mark.parametrize("channels", [None, 1, 3, 4])
def test_every_picture_becomes_rgb_in_minus_one_to_one(channels):
    ramp = np.linspace(0, 255, 64).round().astype(np.uint8).reshape(8, 8)
    array = ramp if channels in (None, 1) else np.stack([ramp] * 3 + [np.full_like(ramp, 255)] * (channels - 3), -1)
    pixels = read_image(png(array), 8)
    assert pixels.shape == (3, 8, 8) and pixels.dtype == np.float32
    assert pixels.min() == -1 and pixels.max() == 1
    np.testing.assert_allclose(pixels, np.stack([ramp] * 3) / 127.5 - 1, atol=1e-6)


def test_latents_are_the_vaes_mean_times_its_scaling_factor():
    extractor, images = extractor_of(vae=True), pictures(side=16)
    with torch.no_grad():
        mean = extractor.vae.encode(images).latent_dist.mean
    latents = extractor.to_latents(images)
    assert torch.equal(latents, mean * 0.18215) and latents.shape == (2, 4, 8, 8)
    assert torch.equal(extractor.encode(images)[:, 0], latents)
    assert torch.equal(extractor.to_latents(images), latents)  # the mean, not a draw


def test_inverted_latents_stay_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        assert extractor_of(vae=True).encode(pictures(side=16)).dtype == torch.float32


def test_inversion_is_measured_against_what_the_vae_alone_gives():
    extractor, images = extractor_of(vae=True), pictures(side=16)
    quality = extractor.inversion_psnr(images, grid_steps=1)  # nothing is inverted, so nothing is lost
    assert quality.shape == (2,) and torch.isinf(quality).all()
    assert torch.isfinite(extractor.inversion_psnr(images, grid_steps=4)).all()


def test_without_a_vae_latents_are_the_pixels():
    images = pictures()
    assert torch.equal(extractor_of().to_latents(images), images)


# --- the stand-in trains itself ---------------------------------------------------------------------------------------


def batch_of(images, has_image):
    n = len(images)
    draws = {"image_noise": noise_of(images), "timestep": torch.linspace(0.1, 0.9, n)}
    return MusicBatch(["k"] * n, [""] * n, torch.arange(n), torch.tensor(has_image), image=images, draws=draws)


def trainable(prediction_type="epsilon"):
    return ImageFeatureExtractor(
        small_image_unet(),
        None,
        PROMPT.clone(),
        diffusion.alphas_cumprod(DiffusionConfig()),
        prediction_type=prediction_type,
        optim=OptimConfig(),
    )


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@torch.no_grad()
def test_the_image_models_loss_is_that_of_the_samples_with_a_picture(prediction_type):
    extractor, images, steps = trainable(prediction_type), pictures(), torch.tensor([100, 900])
    both, first = (extractor._loss(batch_of(images, has), steps) for has in ([1.0, 1.0], [1.0, 0.0]))
    expected = []
    for b, t in enumerate(steps.tolist()):
        a, clean, noise = extractor.alpha_bar[t], images[b], noise_of(images)[b]
        wanted = noise if prediction_type == "epsilon" else a.sqrt() * noise - (1 - a).sqrt() * clean
        output = extractor.denoise((a.sqrt() * clean + (1 - a).sqrt() * noise)[None], steps[b : b + 1])[0]
        expected.append((output - wanted).square().mean().item())
    assert both.item() == pytest.approx(sum(expected) / 2, rel=1e-4)
    assert first.item() == pytest.approx(expected[0], rel=1e-4)
    assert extractor._loss(batch_of(images, [0.0, 0.0]), steps) == 0


def test_only_the_image_unet_trains():
    extractor = trainable()
    assert {id(p) for g in extractor.parameter_groups() for p in g["params"]} == {id(p) for p in extractor.unet.parameters()}
    extractor.log = lambda *args, **kwargs: None
    extractor.training_step(batch_of(pictures(), [1.0, 1.0]), 0).backward()
    assert all(p.grad is not None for p in extractor.unet.parameters())
