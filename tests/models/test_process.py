"""Diffusion mathematics against the papers' formulas, in float64."""

import pytest
import torch

from melfusion.models.diffusion import process as diffusion
from melfusion.models.diffusion.options import DiffusionConfig

TYPES = ("epsilon", "v_prediction")


@pytest.fixture(scope="module")
def tensors():
    """(latents, noise, alpha_bar) in float64, six samples from clean to nearly pure noise."""
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 6, 4, 8, 2, dtype=torch.float64, generator=generator)
    return latents, noise, torch.tensor([0.999, 0.9, 0.6, 0.3, 0.05, 0.004], dtype=torch.float64)


def test_the_schedule_is_stable_diffusions():
    beta = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    torch.testing.assert_close(diffusion.alphas_cumprod(DiffusionConfig()).double(), (1 - beta).cumprod(0), rtol=1e-4, atol=1e-7)


def test_add_noise_is_ddpm_equation_4(tensors):
    latents, noise, alpha_bar = tensors
    noisy = diffusion.add_noise(latents, noise, alpha_bar)
    for i, a in enumerate(alpha_bar.tolist()):
        torch.testing.assert_close(noisy[i], a**0.5 * latents[i] + (1 - a) ** 0.5 * noise[i], rtol=1e-12, atol=1e-12)


def test_targets_are_epsilon_and_v(tensors):
    latents, noise, alpha_bar = tensors
    assert torch.equal(diffusion.target(latents, noise, alpha_bar, "epsilon"), noise)
    v = diffusion.target(latents, noise, alpha_bar, "v_prediction")
    for i, a in enumerate(alpha_bar.tolist()):
        torch.testing.assert_close(v[i], a**0.5 * noise[i] - (1 - a) ** 0.5 * latents[i], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("prediction_type", TYPES)
def test_the_target_leads_back_to_epsilon(tensors, prediction_type):
    latents, noise, alpha_bar = tensors
    noisy = diffusion.add_noise(latents, noise, alpha_bar)
    output = diffusion.target(latents, noise, alpha_bar, prediction_type)
    torch.testing.assert_close(diffusion.to_epsilon(output, noisy, alpha_bar, prediction_type), noise, rtol=0, atol=1e-12)


def test_min_snr_weights_are_those_of_each_prediction_type():
    snr = torch.tensor([0.01, 1.0, 4.99, 5.0, 40.0, 1000.0], dtype=torch.float64)
    alpha_bar = snr / (1 + snr)
    clipped = torch.tensor([0.01, 1.0, 4.99, 5.0, 5.0, 5.0], dtype=torch.float64)
    epsilon = diffusion.min_snr_weight(alpha_bar, 5.0, "epsilon")
    v = diffusion.min_snr_weight(alpha_bar, 5.0, "v_prediction")
    torch.testing.assert_close(epsilon, clipped / snr)
    torch.testing.assert_close(v, clipped / (snr + 1))
    assert (epsilon > 1.02 * v).sum() == 5  # one must not stand for the other


def test_loss_space_v_makes_of_an_epsilon_error_the_same_error_of_v():
    torch.manual_seed(0)
    alpha_bar = torch.tensor([0.9, 0.5, 0.01], dtype=torch.float64)
    clean, noise, error = torch.randn(3, 3, 2, 4, 4, dtype=torch.float64)
    noisy = diffusion.add_noise(clean, noise, alpha_bar)
    a = alpha_bar[:, None, None, None]
    guess = noise + 0.1 * error
    clean_guess = (noisy - (1 - a).sqrt() * guess) / a.sqrt()
    v, v_guess = (diffusion.target(c, n, alpha_bar, "v_prediction") for c, n in ((clean, noise), (clean_guess, guess)))
    weights = diffusion.loss_space_weight(alpha_bar, "v", "epsilon")
    torch.testing.assert_close(
        weights * diffusion.sample_losses(guess, noise).double(), diffusion.sample_losses(v_guess, v).double(), rtol=1e-4, atol=1e-6
    )
    for space, kind in (("output", "epsilon"), ("output", "v_prediction"), ("v", "v_prediction")):
        assert torch.equal(diffusion.loss_space_weight(alpha_bar, space, kind), torch.ones_like(alpha_bar))


@pytest.mark.parametrize("prediction_type", TYPES)
def test_no_gamma_means_no_weighting(prediction_type):
    alpha_bar = torch.tensor([0.1, 0.9])
    assert torch.equal(diffusion.min_snr_weight(alpha_bar, None, prediction_type), torch.ones(2))


def test_either_prediction_type_weighs_the_same_error_of_the_clean_latents(tensors):
    """Both weights come from one: min(SNR, γ) on the error of x_0; the losses of one denoiser must agree."""
    latents, noise, alpha_bar = tensors
    noisy, wrong = diffusion.add_noise(latents, noise, alpha_bar), torch.flip(noise, (1,))
    losses = {}
    for kind in TYPES:
        guess = wrong
        if kind == "v_prediction":  # the v whose ε is `wrong`
            a = alpha_bar.reshape(-1, 1, 1, 1)
            guess = (wrong - (1 - a).sqrt() * noisy) / a.sqrt()
        errors = diffusion.sample_losses(guess, diffusion.target(latents, noise, alpha_bar, kind)).double()
        losses[kind] = errors * diffusion.min_snr_weight(alpha_bar, 5.0, kind)
    torch.testing.assert_close(losses["epsilon"], losses["v_prediction"], rtol=1e-5, atol=0)


def test_opposite_errors_of_two_samples_do_not_cancel():
    wanted = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    error = torch.stack([torch.full((3, 4), 2.0), torch.full((3, 4), -2.0)])
    torch.testing.assert_close(diffusion.sample_losses(wanted + error, wanted), torch.tensor([4.0, 4.0]))


def test_the_loss_of_a_batch_is_the_mean_of_its_samples_losses():
    output, wanted = torch.randn(2, 5, 4, 8, 2, generator=torch.Generator().manual_seed(0))
    alone = [diffusion.sample_losses(output[i : i + 1], wanted[i : i + 1]).item() for i in range(5)]
    joint = diffusion.sample_losses(output, wanted)
    assert joint.tolist() == pytest.approx(alone) and joint.shape == (5,)
    assert joint.mean().item() == pytest.approx(torch.nn.functional.mse_loss(output, wanted).item())


def test_half_precision_outputs_are_compared_in_float32():
    loss = diffusion.sample_losses(torch.full((1, 9), 300.0, dtype=torch.float16), torch.zeros(1, 9))
    assert loss.dtype == torch.float32 and loss.item() == 90000.0  # beyond float16's largest number


def test_drops_cover_every_branch_at_the_asked_rates():
    n = 100_000
    uniform = (torch.arange(n) + 0.5) / n
    keep_text, keep_image = diffusion.drop_masks(uniform, text=0.1, image=0.2, both=0.05)
    branches = [(False, True), (True, False), (False, False), (True, True)]
    shares = [((keep_text == text) & (keep_image == image)).float().mean().item() for text, image in branches]
    assert shares == pytest.approx([0.1, 0.2, 0.05, 0.65], abs=1e-4)


@pytest.mark.parametrize(
    ("rates", "kept"),
    [((0, 0, 0), (True, True)), ((1, 0, 0), (False, True)), ((0, 1, 0), (True, False)), ((0, 0, 1), (False, False))],
)
def test_extreme_drop_rates_are_exact(rates, kept):
    uniform = torch.tensor([0.0, 0.3, 1 - 2**-24])
    keep_text, keep_image = diffusion.drop_masks(uniform, *rates)
    assert (keep_text == kept[0]).all() and (keep_image == kept[1]).all()


@pytest.mark.parametrize("items", [1, 2, 3, 4, 7, 10, 64, 1000])
def test_stratified_timesteps_visit_each_stratum_once(items):
    steps = diffusion.stratified_timesteps(torch.arange(items), items, 1000)
    assert steps.dtype == torch.int64 and (steps >= 0).all() and (steps < 1000).all()
    assert sorted((steps * items // 1000).tolist()) == list(range(items))
    assert torch.equal(diffusion.stratified_timesteps(torch.arange(items)[1:], items, 1000), steps[1:])


def test_uniform_numbers_become_uniform_timesteps():
    uniform = (torch.arange(4000) + 0.5) / 4000
    steps = diffusion.timesteps_from_uniform(uniform, 1000)
    assert torch.equal(steps.bincount(minlength=1000), torch.full((1000,), 4))
    edge = diffusion.timesteps_from_uniform(torch.tensor([0.0, 1 - 2**-24, 1.0]), 1000)
    assert edge.tolist() == [0, 999, 999] and edge.dtype == torch.int64


def test_the_last_timestep_takes_the_share_that_was_asked_for():
    uniform = (torch.arange(10_000) + 0.5) / 10_000
    counts = diffusion.timesteps_from_uniform(uniform, 1000, 0.2).bincount(minlength=1000)
    assert counts[-1] == 2000 + 8 and counts[:-1].min() == counts[:-1].max() == 8


def test_hidden_under_noise_nothing_is_left_of_the_clip_and_the_target_still_leads_to_it(tensors):
    latents, noise, alpha_bar = tensors
    hiding = diffusion.noise_hiding(latents, noise, alpha_bar)
    torch.testing.assert_close(diffusion.add_noise(latents, hiding, alpha_bar), noise, rtol=1e-9, atol=1e-9)
    for kind in TYPES:
        answer = diffusion.target(latents, hiding, alpha_bar, kind)
        torch.testing.assert_close(diffusion.to_clean(answer, noise, alpha_bar, kind), latents, rtol=1e-6, atol=1e-6)


def test_a_ddim_step_with_the_true_noise_moves_along_the_forward_process(tensors):
    latents, noise, alpha_bar = tensors
    to = alpha_bar.flip(0)
    moved = diffusion.ddim_step(diffusion.add_noise(latents, noise, alpha_bar), noise, alpha_bar, to)
    torch.testing.assert_close(moved, diffusion.add_noise(latents, noise, to), rtol=1e-9, atol=1e-9)


def test_a_ddim_step_is_undone_by_the_step_back(tensors):
    noisy, epsilon, alpha_bar = tensors
    to = alpha_bar.flip(0)
    there = diffusion.ddim_step(noisy, epsilon, alpha_bar, to)
    assert not torch.allclose(there, noisy)
    torch.testing.assert_close(diffusion.ddim_step(there, epsilon, to, alpha_bar), noisy, rtol=1e-9, atol=1e-9)
