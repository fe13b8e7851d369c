"""Samplers, guidance and DDIM inversion, on denoisers whose answer is known in closed form."""

import itertools

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance
from synapse_fixtures import PROMPT_WIDTH, empty_caption, randn, seeded

from melfusion.batch import Conditioning
from melfusion.errors import ConfigError
from melfusion.models.diffusion import process as diffusion
from melfusion.models.diffusion.guidance import Projected, guidance_weights, guided
from melfusion.models.diffusion.inversion import ddim_invert, ddim_reverse
from melfusion.models.diffusion.objective import Cosine, RectifiedFlow
from melfusion.models.diffusion.options import CosineConfig, DiffusionConfig, FlowConfig
from melfusion.models.diffusion.samplers import SAMPLERS, flow_times, make_scheduler, sample, sample_flow
from melfusion.models.image_diffusion import ImageFeatureExtractor
from melfusion.randomness import torch_generators

TYPES = ("epsilon", "v_prediction")


# --- guidance ---------------------------------------------------------------------------------------------------------


class Recorder:
    """A denoiser that answers with a number made of what it was told, and keeps what that was."""

    def __init__(self):
        self.calls = []

    def __call__(self, latents, timesteps, conditioning):
        assert len(latents) == len(timesteps) == len(conditioning)
        self.calls.append(conditioning)
        text = conditioning.text_embeds.mean((1, 2)) + 0.01 * conditioning.text_mask.sum(1)
        told = text + 7 * conditioning.has_image * (1 + text)
        return torch.sin(latents * told[:, None, None, None]) + 0.001 * timesteps[:, None, None, None]

    @property
    def rows(self):
        return [len(c) for c in self.calls]


def conditioning(seed=1, has_image=(1.0, 1.0)):
    """Two samples with a text of their own and a picture."""
    mask = torch.arange(6) < torch.tensor([4, 6])[:, None]
    return Conditioning(randn(2, 6, 12, seed=seed), mask, torch.tensor(has_image), image_latents=randn(2, 1, 3, 4, 4))


def null_of(c, seed=2):
    """The encoded empty string, with `c`'s pictures."""
    return Conditioning(randn(1, 6, 12, seed=seed).expand(2, -1, -1), empty_caption(), c.has_image, c.image_latents)


def branch(c, text_of, has_image):
    return Conditioning(text_of.text_embeds, text_of.text_mask, c.has_image * has_image, c.image_latents)


LATENTS, TIMESTEP = randn(2, 4, 8, 2, seed=3), torch.tensor(321)


def explicit(c, null, s_text, s_image):
    """The three-branch formula, each branch in a pass of its own."""
    passes = (branch(c, null, 0), branch(c, c, 0), branch(c, c, 1))
    e_null, e_text, e_full = (Recorder()(LATENTS, TIMESTEP.expand(2), conditions) for conditions in passes)
    return e_null + s_text * (e_text - e_null) + s_image * (e_full - e_text)


SCALES = [0.0, 1.0, 2.5, 7.0]


@pytest.mark.parametrize(("s_text", "s_image"), itertools.product(SCALES, SCALES))
def test_weights_are_those_of_the_three_branch_formula(s_text, s_image):
    e = {"null": 0.3, "text": -1.1, "full": 2.0}
    weights = guidance_weights(s_text, s_image)
    formula = e["null"] + s_text * (e["text"] - e["null"]) + s_image * (e["full"] - e["text"])
    assert sum(w * e[name] for name, w in weights.items()) == pytest.approx(formula)
    assert sum(weights.values()) == pytest.approx(1) and 0 not in weights.values()


@pytest.mark.parametrize(("s_text", "s_image"), itertools.product(SCALES, SCALES))
@pytest.mark.parametrize("has_image", [(1.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
def test_guidance_is_the_three_branch_formula(s_text, s_image, has_image):
    c = conditioning(has_image=has_image)
    out = guided(Recorder(), c, null_of(c), s_text, s_image)(LATENTS, TIMESTEP)
    torch.testing.assert_close(out, explicit(c, null_of(c), s_text, s_image), rtol=1e-4, atol=1e-5)


def rows(c, null, s_text, s_image):
    recorder = Recorder()
    denoise = guided(recorder, c, null, s_text, s_image)
    denoise(LATENTS, TIMESTEP)
    denoise(LATENTS, TIMESTEP)
    return recorder.rows


@pytest.mark.parametrize(
    ("s_text", "s_image", "passes"), [(3.0, 3.0, 2), (3.0, 7.0, 3), (1.0, 1.0, 1), (1.0, 5.0, 2), (0.0, 0.0, 1), (2.0, 0.0, 2)]
)
def test_one_call_holds_only_the_branches_that_count(s_text, s_image, passes):
    c = conditioning()
    assert rows(c, null_of(c), s_text, s_image) == [2 * passes, 2 * passes]


def test_one_scale_is_the_papers_two_passes():
    c = conditioning()
    recorder = Recorder()
    out = guided(recorder, c, null_of(c), 4.0, 4.0)(LATENTS, TIMESTEP)
    without, with_all = (Recorder()(LATENTS, TIMESTEP.expand(2), b) for b in (branch(c, null_of(c), 0), branch(c, c, 1)))
    torch.testing.assert_close(out, without + 4 * (with_all - without), rtol=1e-4, atol=1e-5)
    assert sorted(recorder.calls[0].has_image.tolist()) == [0, 0, 1, 1]


@pytest.mark.parametrize("has_image", [(1.0, 1.0), (0.0, 0.0)])
def test_scale_one_is_the_conditional_pass_to_the_bit(has_image):
    c = conditioning(has_image=has_image)
    recorder = Recorder()
    out = guided(recorder, c, null_of(c), 1.0, 1.0)(LATENTS, TIMESTEP)
    assert recorder.rows == [2]
    assert torch.equal(out, Recorder()(LATENTS, TIMESTEP.expand(2), c))


def test_a_negative_prompt_replaces_only_the_empty_text():
    c, recorder = conditioning(), Recorder()
    negative = null_of(c, seed=9)
    out = guided(recorder, c, negative, 3.0, 5.0)(LATENTS, TIMESTEP)
    torch.testing.assert_close(out, explicit(c, negative, 3.0, 5.0), rtol=1e-4, atol=1e-5)
    told = recorder.calls[0]
    is_negative = [torch.equal(t, negative.text_embeds[0]) for t in told.text_embeds]
    assert sum(is_negative) == 2
    assert all(not has for has, text in zip(told.has_image.bool(), is_negative, strict=True) if text)


def test_image_only_is_two_branches_with_the_empty_text():
    c = conditioning()
    image_only = branch(c, null_of(c), 1)
    recorder = Recorder()
    out = guided(recorder, image_only, null_of(c), 3.0, 5.0)(LATENTS, TIMESTEP)
    assert recorder.rows == [4] and sorted(recorder.calls[0].has_image.tolist()) == [0, 0, 1, 1]
    without, with_image = (Recorder()(LATENTS, TIMESTEP.expand(2), branch(c, null_of(c), i)) for i in (0, 1))
    torch.testing.assert_close(out, without + 5 * (with_image - without), rtol=1e-4, atol=1e-5)


def test_image_only_under_a_negative_prompt_keeps_the_empty_text_beside_the_picture():
    c = conditioning()
    image_only, negative = branch(c, null_of(c), 1), null_of(c, seed=9)
    recorder = Recorder()
    out = guided(recorder, image_only, negative, 3.0, 3.0)(LATENTS, TIMESTEP)
    assert recorder.rows == [4]
    torch.testing.assert_close(out, explicit(image_only, negative, 3.0, 3.0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("s_image", [3.0, 7.0, 0.0])
def test_without_pictures_the_image_scale_says_nothing(s_image):
    c = conditioning(has_image=(0.0, 0.0))
    out = guided(Recorder(), c, null_of(c), 3.0, s_image)(LATENTS, TIMESTEP)
    assert rows(c, null_of(c), 3.0, s_image) == [4, 4]
    torch.testing.assert_close(out, explicit(c, null_of(c), 3.0, 3.0), rtol=1e-4, atol=1e-5)


def test_with_neither_text_nor_picture_one_pass_is_left():
    c = conditioning(has_image=(0.0, 0.0))
    nothing = branch(c, null_of(c), 0)
    assert rows(nothing, null_of(c), 3.0, 7.0) == [2, 2]
    out = guided(Recorder(), nothing, null_of(c), 3.0, 7.0)(LATENTS, TIMESTEP)
    assert torch.equal(out, Recorder()(LATENTS, TIMESTEP.expand(2), nothing))


def test_branches_share_the_pictures_of_the_batch():
    c, recorder = conditioning(), Recorder()
    guided(recorder, c, null_of(c), 3.0, 7.0)(LATENTS, TIMESTEP)
    assert recorder.rows == [6] and torch.equal(recorder.calls[0].image_latents, c.image_latents)


# --- samplers on Gaussian data, whose ε is known ----------------------------------------------------------------------


def gaussian_denoiser(mean, std, alpha_bar, prediction_type="epsilon"):
    """E[ε | x_t], or v, for data N(mean, std²): (1-ᾱ)^½ (x_t - ᾱ^½ mean) / (ᾱ std² + 1 - ᾱ)."""

    def denoise(noisy, timestep):
        a = alpha_bar[timestep].to(noisy).reshape(-1, *[1] * (noisy.ndim - 1))
        epsilon = (1 - a).sqrt() * (noisy - a.sqrt() * mean) / (a * std**2 + 1 - a)
        clean = (noisy - (1 - a).sqrt() * epsilon) / a.sqrt()
        return epsilon if prediction_type == "epsilon" else a.sqrt() * epsilon - (1 - a).sqrt() * clean

    return denoise


def sampled_moments(sampler, steps, prediction_type="epsilon", mean=2.0, std=0.5):
    config = DiffusionConfig(prediction_type=prediction_type)
    denoise = gaussian_denoiser(mean, std, diffusion.alphas_cumprod(config), prediction_type)
    latents = sample(denoise, randn(1, 4, 64, 64, seed=4), make_scheduler(sampler, config), steps)
    return latents.mean().item(), latents.std().item()


@pytest.mark.parametrize("prediction_type", TYPES)
@pytest.mark.parametrize("sampler", ["ddim", "dpm"])
def test_fifty_steps_reach_the_data_distribution(sampler, prediction_type, record_property):
    mean, std = sampled_moments(sampler, 50, prediction_type)
    record_property("mean_std", (mean, std))
    assert mean == pytest.approx(2.0, rel=0.05)  # 3.6 % stay: the schedule ends at ᾱ = 0.005, sampling starts at 0
    assert std == pytest.approx(0.5, rel=0.06)


@pytest.mark.parametrize(
    ("sampler", "steps"),
    [*[("ddim", n) for n in (300, 400, 501, 800, 1000)], *[("dpm", n) for n in (25, 100, 300, 400, 501, 800, 1000)]],
)
def test_any_number_of_steps_reaches_the_data_distribution(sampler, steps):
    mean, std = sampled_moments(sampler, steps)
    assert mean == pytest.approx(2.0, rel=0.05) and std == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize("prediction_type", TYPES)
@pytest.mark.parametrize("sampler", ["ddim", "dpm"])
def test_from_pure_noise_the_level_of_the_data_is_reached_exactly(sampler, prediction_type):
    """A network trained on pure noise at the last timestep knows nothing there but the data's mean."""
    config = DiffusionConfig(prediction_type=prediction_type)
    alpha_bar = diffusion.alphas_cumprod(config)
    denoise = gaussian_denoiser(2.0, 0.5, alpha_bar, prediction_type)

    def trained(noisy, timestep):
        a = alpha_bar[timestep].expand(len(noisy))
        mean = torch.full_like(noisy, 2.0)
        if timestep < 999:
            return denoise(noisy, timestep)
        return diffusion.target(mean, diffusion.noise_hiding(mean, noisy, a), a, prediction_type)

    noise = randn(1, 4, 64, 64, seed=4)
    reached = [sample(trained, noise, make_scheduler(sampler, config), 50, from_pure_noise=pure) for pure in (True, False)]
    assert reached[0].mean().item() == pytest.approx(2.0, rel=0.005) and reached[0].std().item() == pytest.approx(0.5, rel=0.06)
    assert reached[1].mean().item() < 1.95  # the solver takes all of it for noise


@pytest.mark.parametrize("sampler", ["ddim", "dpm"])
def test_sampling_is_a_function_of_the_noise(sampler):
    assert sampled_moments(sampler, 5) == sampled_moments(sampler, 5)


@pytest.mark.parametrize("sampler", ["ddim", "dpm"])
def test_the_denoiser_is_called_once_a_step_with_falling_timesteps(sampler):
    seen = []
    config = DiffusionConfig()

    def denoise(noisy, timestep):
        seen.append(int(timestep))
        return torch.zeros_like(noisy)

    progressed = []
    sample(denoise, randn(1, 1, 2, 2), make_scheduler(sampler, config), 10, lambda ts: progressed.append(len(ts)) or ts)
    assert len(seen) == 10 and seen == sorted(seen, reverse=True) and seen[0] >= 900 and progressed == [10]


# --- DDIM inversion ---------------------------------------------------------------------------------------------------


def psnr(a, b):
    """In dB, for pictures in [-1, 1]."""
    return (10 * torch.log10(4 / (a - b).square().mean())).item()


def grid_of(steps, num_train_timesteps=1000):
    return torch.arange(steps) * (num_train_timesteps // steps)


def smooth_pictures(n, seed=0, side=8):
    """(n, 3, side, side) in [-1, 1]: a colour gradient each."""
    slope = torch.rand(n, 3, 3, 1, 1, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    ramp = torch.linspace(-1, 1, side)
    return (slope[:, 0] * ramp[:, None] + slope[:, 1] * ramp + slope[:, 2]) / 3


@pytest.mark.parametrize("prediction_type", TYPES)
def test_inversion_and_back_reconstructs_with_an_analytic_denoiser(prediction_type, record_property):
    pictures, alpha_bar = smooth_pictures(3), diffusion.alphas_cumprod(DiffusionConfig())
    denoise = gaussian_denoiser(pictures.mean(0), 0.3, alpha_bar, prediction_type)
    quality = []
    for steps in (5, 20, 100):
        grid = grid_of(steps)
        path = ddim_invert(denoise, pictures, grid, alpha_bar, prediction_type)
        assert path.shape == (3, steps, 3, 8, 8) and torch.equal(path[:, 0], pictures)
        quality.append(psnr(ddim_reverse(denoise, path[:, -1], grid, alpha_bar, prediction_type), pictures))
    record_property("psnr_db", quality)
    assert quality[0] < quality[1] < quality[2] and quality[1] > 30


def test_inversion_by_many_small_moves_is_the_exact_flow():
    """For N(m, s²) data the probability-flow ODE keeps (x_t - ᾱ^½ m) / (ᾱ s² + 1 - ᾱ)^½ constant."""
    pictures, alpha_bar = smooth_pictures(3), diffusion.alphas_cumprod(DiffusionConfig())
    mean, std, grid = pictures.mean(0), 0.3, torch.arange(1000)
    path = ddim_invert(gaussian_denoiser(mean, std, alpha_bar), pictures, grid, alpha_bar)
    scale = (alpha_bar * std**2 + 1 - alpha_bar).sqrt()
    constant = (pictures - alpha_bar[0].sqrt() * mean) / scale[0]
    for t in (100, 500, 999):
        expected = alpha_bar[t].sqrt() * mean + scale[t] * constant
        torch.testing.assert_close(path[:, t], expected, rtol=0.03, atol=0.01)


def test_inversion_tells_the_denoiser_where_it_is():
    alpha_bar, grid, told = diffusion.alphas_cumprod(DiffusionConfig()), torch.tensor([0, 300, 900]), []

    def denoise(latents, timesteps):
        told.append(timesteps.tolist())
        return torch.zeros_like(latents)

    path = ddim_invert(denoise, smooth_pictures(2), grid, alpha_bar)
    assert told == [[0, 0], [300, 300]]
    told.clear()
    ddim_reverse(denoise, path[:, -1], grid, alpha_bar)
    assert told == [[900, 900], [300, 300]]


def test_a_grid_of_one_timestep_keeps_the_picture():
    pictures, alpha_bar = smooth_pictures(2), diffusion.alphas_cumprod(DiffusionConfig())

    def denoise(*_):
        pytest.fail("nothing to invert")

    assert torch.equal(ddim_invert(denoise, pictures, torch.tensor([0]), alpha_bar), pictures[:, None])
    assert torch.equal(ddim_reverse(denoise, pictures, torch.tensor([0]), alpha_bar), pictures)


@pytest.fixture(scope="module")
def trained_extractor():
    """A one-level image UNet trained for a second on smooth pictures: far from good, but its ε is one."""
    with seeded(0):
        unet = UNet2DConditionModel(
            in_channels=3,
            out_channels=3,
            block_out_channels=[8],
            layers_per_block=1,
            norm_num_groups=4,
            down_block_types=["DownBlock2D"],
            up_block_types=["UpBlock2D"],
            mid_block_type=None,
            cross_attention_dim=PROMPT_WIDTH,
        )
        alpha_bar = diffusion.alphas_cumprod(DiffusionConfig())
        extractor = ImageFeatureExtractor(unet, None, torch.zeros(1, 1, PROMPT_WIDTH), alpha_bar)
        optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-2)
        for step in range(60):
            clean, timesteps = smooth_pictures(16, seed=step), torch.randint(0, 1000, (16,))
            noise = torch.randn_like(clean)
            output = extractor.denoise(diffusion.add_noise(clean, noise, alpha_bar[timesteps]), timesteps)
            optimizer.zero_grad()
            diffusion.sample_losses(output, noise).mean().backward()
            optimizer.step()
    return extractor.eval()


@torch.no_grad()
def test_inversion_and_back_reconstructs_with_a_trained_unet(trained_extractor, record_property):
    pictures, alpha_bar = smooth_pictures(4, seed=999), trained_extractor.alpha_bar
    quality = []
    for steps in (10, 20, 50):
        trained_extractor.grid = grid_of(steps)
        path = trained_extractor.encode(pictures)
        back = ddim_reverse(trained_extractor.denoise, path[:, -1], trained_extractor.grid, alpha_bar)
        quality.append(psnr(back, pictures))
    record_property("psnr_db", quality)
    assert quality[0] < quality[1] < quality[2] and quality[1] > 22 and quality[2] > 30


def test_the_extractor_measures_its_own_inversion(trained_extractor):
    pictures, alpha_bar, grid = smooth_pictures(3, seed=999), trained_extractor.alpha_bar, grid_of(20)
    with torch.no_grad():
        path = ddim_invert(trained_extractor.denoise, pictures, grid, alpha_bar)
        back = ddim_reverse(trained_extractor.denoise, path[:, -1], grid, alpha_bar)
    expected = [psnr(a, b) for a, b in zip(back, pictures, strict=True)]
    assert trained_extractor.inversion_psnr(pictures, 20).tolist() == pytest.approx(expected, abs=0.01)


@torch.no_grad()
def test_noise_instead_of_an_inversion_does_not_reconstruct(trained_extractor):
    pictures, alpha_bar, grid = smooth_pictures(4, seed=999), trained_extractor.alpha_bar, grid_of(20)
    noisy = diffusion.add_noise(pictures, randn(*pictures.shape), alpha_bar[grid[-1:]].expand(4))
    assert psnr(ddim_reverse(trained_extractor.denoise, noisy, grid, alpha_bar), pictures) < 20


# --- rectified flow ---------------------------------------------------------------------------------------------------


def test_diffusions_samplers_are_those_that_its_options_name():
    assert tuple(SAMPLERS) == DiffusionConfig.SAMPLERS


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_flow_of_known_velocity_is_followed_to_its_end(shift):
    """Where x_0 is a point, the velocity (x_t - x_0) / t leads there from any noise, by Euler steps of any number."""
    goal, noise, seen = torch.tensor([[[1.5, -0.5]]]), randn(1, 1, 2, seed=3), []

    def denoise(latents, time):
        seen.append(float(time))
        return (latents - goal) / time

    torch.testing.assert_close(sample_flow(denoise, noise, 4, shift), goal)
    plain = [1.0, 0.75, 0.5, 0.25]
    assert seen == pytest.approx([shift * t / (1 + (shift - 1) * t) for t in plain])


def test_the_flow_is_trained_on_its_velocity_at_shifted_times():
    flow = RectifiedFlow(FlowConfig(kind="flow", shift=2.0), "euler")
    latents, noise, uniform = randn(4, 2, 3, seed=1), randn(4, 2, 3, seed=2), torch.tensor([0.0, 0.25, 0.5, 0.999])
    times = flow.times(uniform)
    assert times.tolist() == pytest.approx([1.0, 1.5 / 1.75, 1 / 1.5, 0.002 / 1.001], rel=1e-4)
    shown = []
    losses = flow.losses(lambda x, t: shown.append(x) or torch.zeros_like(x), latents, noise, times)
    torch.testing.assert_close(losses, (noise - latents).square().mean((1, 2)))
    torch.testing.assert_close(shown[0], latents + times[:, None, None] * (noise - latents))
    perfect = flow.losses(lambda x, t: noise - latents, latents, noise, times)
    assert perfect.max() == 0
    strata = flow.stratified(torch.arange(8), 8)
    assert len(set(strata.tolist())) == 8 and strata.min() > 0 and strata.max() < 1
    assert flow.steps(torch.tensor([0.0, 0.5, 1.0])).tolist() == [0, 500, 999]


def test_a_ping_pong_step_goes_to_the_end_and_back_with_noise_of_the_samples_own():
    goal, noise = torch.tensor([[[1.5, -0.5]]]), randn(2, 1, 2, seed=3)
    seen = []

    def denoise(latents, time):
        seen.append(latents)
        return (latents - goal) / time

    made = sample_flow(denoise, noise, 2, 1.0, generators=torch_generators([5, 6], "sampler"))
    torch.testing.assert_close(made, goal.expand(2, 1, 2))
    fresh = [torch.randn(1, 2, generator=g) for g in torch_generators([5, 6], "sampler")]
    torch.testing.assert_close(seen[1], 0.5 * goal + 0.5 * torch.stack(fresh))


def test_times_even_in_log_snr():
    times = flow_times(4, 1.0, [-6.2, 2.0])
    assert times[0] == 1 and times[-1] == 0
    assert torch.logit(times[1:-1]).tolist() == pytest.approx([4.15, 2.1, 0.05], abs=1e-4)


# --- the cosine schedule ----------------------------------------------------------------------------------------------


def cosine(sampler="dpm", **options):
    return Cosine(CosineConfig(kind="cosine", **options), sampler)


def test_the_cosine_objective_is_trained_on_its_v():
    latents, noise, uniform = randn(3, 2, 4, seed=1), randn(3, 2, 4, seed=2), torch.tensor([0.0, 0.5, 0.9])
    times = cosine().times(uniform)
    angle = (times * torch.pi / 2)[:, None, None]
    seen = []

    def perfect(noisy, time):
        seen.append(noisy)
        return angle.cos() * noise - angle.sin() * latents

    assert cosine().losses(perfect, latents, noise, times).max() < 1e-9
    torch.testing.assert_close(seen[0], angle.cos() * latents + angle.sin() * noise)
    strata = cosine().stratified(torch.arange(8), 8)
    assert len(set(strata.tolist())) == 8 and strata.min() > 0 and strata.max() < 1
    assert cosine().steps(torch.tensor([0.1, 1.0])).tolist() == [100, 999]


def test_the_cosine_schedule_is_sampled_without_new_noise():
    """Data of one normal distribution: v is known in closed form."""
    mean, std = 2.0, 0.5

    def denoise(noisy, time):
        alpha, sigma = (time * torch.pi / 2).cos(), (time * torch.pi / 2).sin()
        clean = mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (noisy - alpha * mean)
        return alpha * (noisy - alpha * clean) / sigma - sigma * clean

    made = cosine(sigma_min=0.01).sample(denoise, randn(1, 4, 4096, seed=4), 60)
    assert made.mean().item() == pytest.approx(mean, rel=0.01) and made.std().item() == pytest.approx(std, rel=0.05)


def test_a_missing_package_is_said_in_one_sentence(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="dpm_sde needs the package torchsde: run `pip install torchsde`, or give dpm"):
        cosine("dpm_sde")


# --- projected guidance -----------------------------------------------------------------------------------------------


def test_projected_guidance_of_three_branches_adds_both_differences():
    outputs = {name: randn(2, 3, 8, seed=i) for i, name in enumerate(("null", "text", "full"))}
    guide, first = Projected(), None
    for _ in range(2):  # the second step feels the first
        made = guide(outputs, guidance_weights(4.0, 2.0))
        if first is None:
            first, buffers = made, [MomentumBuffer(-0.75), MomentumBuffer(-0.75)]
        more = {"eta": 0.0, "norm_threshold": 2.5, "use_original_formulation": True, "norm_dim": (2,)}
        picture = normalized_guidance(outputs["full"], outputs["text"], 1.0, buffers[0], **more) - outputs["full"]
        text = normalized_guidance(outputs["text"], outputs["null"], 1.0, buffers[1], **more) - outputs["text"]
        torch.testing.assert_close(made, outputs["full"] + picture + 3 * text)
    assert not torch.allclose(made, first)
    assert torch.equal(guide({"full": outputs["full"]}, {"full": 1.0}), outputs["full"])
