"""Known latents under every objective and sampler, and starting on the way: on denoisers whose answer is known."""

import importlib.util

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, PNDMScheduler
from synapse_fixtures import randn

from melfusion.models.diffusion.editing import Edit, schedule
from melfusion.models.diffusion.objective import Cosine, Diffusion, RectifiedFlow
from melfusion.models.diffusion.options import CosineConfig, DiffusionConfig, FlowConfig
from melfusion.models.diffusion.process import from_clean, to_clean

SHAPE = (2, 4, 12, 3)
KEPT = torch.tensor([1.0] * 5 + [0.5] + [0.0] * 6)
SETTINGS = {"num_train_timesteps": 1000, "beta_start": 0.0015, "beta_end": 0.0195, "beta_schedule": "scaled_linear"}


def published(cls, **more):
    return Diffusion(DiffusionConfig(), "published", cls(**SETTINGS, **more))


OBJECTIVES = {
    "ddim": lambda: Diffusion(DiffusionConfig(), "ddim"),
    "dpm": lambda: Diffusion(DiffusionConfig(), "dpm"),
    "dpm, v": lambda: Diffusion(DiffusionConfig(prediction_type="v_prediction"), "dpm"),
    "dpm, pure noise": lambda: Diffusion(DiffusionConfig(pure_noise_share=0.1), "dpm"),
    "published ddim": lambda: published(DDIMScheduler, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
    "published ddpm": lambda: published(DDPMScheduler, clip_sample=False, prediction_type="v_prediction"),
    "published pndm": lambda: published(PNDMScheduler, skip_prk_steps=True),
    "published euler": lambda: published(EulerDiscreteScheduler),
    "euler": lambda: RectifiedFlow(FlowConfig(shift=3.0), "euler"),
    "ping_pong": lambda: RectifiedFlow(FlowConfig(logsnr=[-6.2, 2.0]), "ping_pong"),
    "cosine": lambda: Cosine(CosineConfig(), "dpm"),
    "cosine, dpm_sde": lambda: Cosine(CosineConfig(), "dpm_sde"),
}
HERE = [name for name in OBJECTIVES if name != "cosine, dpm_sde" or importlib.util.find_spec("torchsde")]


def network(latents, time):
    """Any smooth function of what it sees, over time too."""
    return torch.tanh(latents + latents.roll(1, 2)) * 0.7 + 0.1


def watched(objective, edit, steps=10):
    """The latents that are made, and those that the network saw at each step."""
    seen = []

    def denoise(latents, time):
        seen.append(latents)
        return network(latents, time)

    return objective.sample(denoise, randn(*SHAPE, seed=1), steps, seeds=[3, 4], edit=edit), seen


@pytest.mark.parametrize("name", HERE)
def test_what_is_known_is_reproduced_and_what_is_not_depends_on_it(name):
    known = randn(1, *SHAPE[1:], seed=2)
    made, seen = watched(OBJECTIVES[name](), Edit(known, KEPT))
    assert torch.isfinite(made).all()
    assert (made - known)[:, :, :5].abs().max() < 1e-4
    other, _ = watched(OBJECTIVES[name](), Edit(known + 1, KEPT))
    assert not torch.allclose(made[:, :, 6:], other[:, :, 6:], atol=1e-3)
    # as noisy as in training: on the last steps the network sees the known latents with little noise
    nearness = [(noisy[:, :, :5] - known[:, :, :5]).square().mean().sqrt() for noisy in seen]
    assert nearness[-1] < 0.5 * nearness[0]


class Unfinished(Edit):
    """Known latents that a sampler is told at each of its steps, but not once more at its end."""

    def keep(self, clean):
        self.__dict__["calls"] = self.__dict__.get("calls", 0) + 1
        return clean if self.__dict__["calls"] == 11 else super().keep(clean)


@pytest.mark.parametrize("name", [n for n in HERE if n not in ("ddim", "published ddim", "published pndm")])  # these leave noise
def test_samplers_lead_to_what_is_known_by_themselves(name):
    known = randn(1, *SHAPE[1:], seed=2)
    made, seen = watched(OBJECTIVES[name](), Unfinished(known, KEPT))
    assert len(seen) == 10 and (made - known)[:, :, :5].abs().max() < 1e-4


@pytest.mark.parametrize("name", HERE)
def test_nothing_known_and_strength_1_is_from_noise_to_the_bit(name):
    known = randn(1, *SHAPE[1:], seed=2)
    plain, _ = watched(OBJECTIVES[name](), None)
    assert torch.equal(watched(OBJECTIVES[name](), Edit(known, torch.zeros(12), 1.0))[0], plain)


@pytest.mark.parametrize("name", HERE)
def test_a_weaker_strength_starts_nearer_and_takes_as_many_steps(name):
    known = randn(1, *SHAPE[1:], seed=2)
    far = {}
    for strength in (0.9, 0.1):
        made, seen = watched(OBJECTIVES[name](), Edit(known, torch.zeros(12), strength))
        far[strength] = (seen[0] / seen[0].std() - known / known.std()).square().mean()
        assert len(seen) in (10, 11) and torch.isfinite(made).all()  # a PNDM has a step more
    assert far[0.1] < 0.5 * far[0.9]


def test_a_perfect_network_leads_back_to_the_latents_from_any_start():
    known = randn(1, *SHAPE[1:], seed=2)
    for strength in (0.2, 0.55):
        flow = RectifiedFlow(FlowConfig(), "euler")

        def answer(latents, time):
            return (latents - known) / time

        made = flow.sample(answer, randn(*SHAPE, seed=1), 4, edit=Edit(known, torch.zeros(12), strength))
        assert torch.allclose(made, known.expand_as(made), atol=1e-5)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_an_output_and_the_clean_latents_that_it_stands_for_go_both_ways(kind):
    noisy, output, alpha_bar = randn(*SHAPE, seed=1), randn(*SHAPE, seed=2), torch.tensor([0.01, 0.9])
    assert torch.allclose(from_clean(to_clean(output, noisy, alpha_bar, kind), noisy, alpha_bar, kind), output, atol=1e-4)


def test_steps_are_gone_through_as_asked_and_no_schedule_is_longer_than_training():
    edit = Edit(torch.zeros(1), torch.zeros(1), 0.4)
    assert schedule(10, edit) == (25, 15) and schedule(10, None) == (10, 0)
    assert schedule(600, edit, 1000) == (1000, 600)
