"""No step of training or sampling waits for the device or copies to it; each network is run as often as it must be."""

import dataclasses
import warnings
from pathlib import Path
from types import SimpleNamespace

import building as build
import pytest
import torch
from transfers import Transfers

from melfusion.assembly.configuration import load_config
from melfusion.assembly.counting import a_batch, count, on_meta
from melfusion.assembly.options import GuardConfig
from melfusion.models.synapse.options import OPTIONS
from melfusion.models.trained import configure_optimizer
from melfusion.training import guard
from melfusion.training.ema import EMA
from melfusion.training.guard import StepGuard

SLOW = pytest.mark.slow  # one more training on the meta device beside one of its kind: seconds each
KINDS = [pytest.param(kind, marks=[] if kind == "kv_mix" else SLOW) for kind in sorted(OPTIONS)]


class Loop:
    """What Lightning does with a step of one micro-batch: the guard, both passes, clipping, the optimizer, the average."""

    def __init__(self, system):
        self.system = system.train()
        made = configure_optimizer(system.parameter_groups(), system.optim, allow_fused=False)  # the meta device knows no other
        self.optimizer = made["optimizer"]
        self.optimizer.defaults["fused"] = True  # as on a GPU, so that the guard need not wait
        ema = EMA(0.999)
        ema.on_fit_start(None, system)
        self.guard = StepGuard(GuardConfig(), Path("guards"), 0, ema, Path("checkpoints"))
        rates = [SimpleNamespace(scheduler=made["lr_scheduler"]["scheduler"])]
        alone = {"world_size": 1, "global_rank": 0, "accumulate_grad_batches": 1, "log_every_n_steps": 10, "global_step": 0}
        known = {"loggers": [], "lr_scheduler_configs": rates, "precision_plugin": None, "callbacks": [self.guard]}
        self.trainer = SimpleNamespace(**alone, **known)
        self.guard.on_train_start(self.trainer, system)

    def step(self, batch):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no trainer is there to log to
            self.guard.on_train_batch_start(self.trainer, self.system, batch, 0)
            loss = self.system.training_step(batch, 0)["loss"]
        self.guard.on_before_backward(self.trainer, self.system, loss)
        loss.backward()
        self.system.trainer = self.trainer  # whose guard judges the gradients
        self.system.configure_gradient_clipping(self.optimizer)
        self.system.trainer = None
        self.optimizer.found_inf = None  # for a fused one alone
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.trainer.global_step += 1


def transfers_of_a_step(system, batch):
    """Of the second step: the first alone encodes the empty caption, and is settled in the second, which moves the average."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guard, "to_host", lambda vector: (torch.zeros(len(vector)), None))  # the late flag: nobody waits for it
        loop = Loop(system)
        with Transfers():
            loop.step(batch)
        with Transfers() as transfers:
            loop.step(batch)
        assert loop.guard.applied == 1 and loop.guard.skipped == 0
    return transfers.seen


@pytest.fixture
def precomputed(tiny):
    """precomputed(overrides…) → a system on the meta device and two samples from precomputed shards."""

    def make(*overrides):
        config = tiny(*overrides)
        system = on_meta(config)
        ready = count(config, system)[1]
        return system, ready

    return make


@pytest.fixture(scope="module")
def ready():
    """The tiny system on the meta device and two samples from precomputed shards, for all plants."""
    config = load_config("tiny")
    system = on_meta(config)
    return system, count(config, system)[1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_on_precomputed_samples_leaves_the_host_alone(precomputed, kind):
    match = ["synapse.match=pool_2d"] if kind == "controlnet" else []
    seen = transfers_of_a_step(*precomputed(f"synapse.kind={kind}", *match))
    # transformers asks its GPT-2's mask once a token whether it hides anything
    assert seen == [] or (kind == "language_of_audio" and set(seen) == {"asked by aten._local_scalar_dense.default"})


@pytest.mark.parametrize("name", [pytest.param("audioldm2", marks=SLOW), "ace_step", "stable_audio_open", "stable_audio_3"])
def test_leaving_the_text_out_leaves_the_host_alone(name):
    """In a step of training, and where a clip is guided, by the conditioner's own way to say nothing."""
    config = load_config(f"{name},tiny", ["synapse.kind=kv_mix_proj"])
    system = on_meta(config)
    batch = count(config, system)[1]
    assert transfers_of_a_step(system, batch) == []
    conditioning = system.condition(batch)
    with Transfers() as transfers:
        null = system.null(conditioning).said()
    assert transfers.seen == [] and {k: t.shape for k, t in null.items()} == {k: t.shape for k, t in conditioning.said().items()}


@pytest.mark.parametrize("reading", ["inverted", "fixed", pytest.param("noised", marks=SLOW)])
def test_reading_sound_and_picture_in_the_step_leaves_the_host_alone(tiny, reading):
    config = tiny(f"image.reading={reading}", "image.fixed_timestep=500")
    system = on_meta(config)
    raw = a_batch(config, system, 2)
    text, mask = torch.empty(2, 12, 16, device="meta"), torch.empty(2, 12, dtype=torch.bool, device="meta")
    assert transfers_of_a_step(system, dataclasses.replace(raw, text_embeds=text, text_mask=mask)) == []


def test_clip_reads_a_picture_without_a_copy_but_for_what_transformers_does(tiny):
    system = on_meta(tiny("image.kind=clip", "synapse.kind=concat"))
    with Transfers() as transfers:
        system.image_encoder.encode(torch.empty(2, 3, 16, 16, device="meta"))
    assert transfers.seen == []


@pytest.mark.parametrize(
    "plant",
    [
        lambda t: t.sum().item(),
        lambda t: t.cpu(),
        pytest.param(lambda t: t[t > 0], marks=SLOW),
        pytest.param(lambda t: t + torch.ones(1).to(t), marks=SLOW),
    ],
)
def test_a_planted_wait_or_copy_is_seen_in_a_step(ready, monkeypatch, plant):
    system, batch = ready
    losses = system.losses

    def planted(latents, *args):
        plant(latents)
        return losses(latents, *args)

    monkeypatch.setattr(system, "losses", planted)
    assert len(transfers_of_a_step(system, batch)) == 1


def waiting(work, tensor_of):
    """The function, which asks a tensor of its arguments for its number first."""
    return lambda *args, **kwargs: [tensor_of(*args).sum().item(), work(*args, **kwargs)][1]


@pytest.mark.parametrize(
    "owner, name, tensor_of",
    [
        (StepGuard, "judge", lambda self, optimizer, norm: norm),
        pytest.param(torch.optim.AdamW, "step", lambda self, *args: self.param_groups[0]["params"][0], marks=SLOW),
        pytest.param(EMA, "update", lambda self, *args: next(iter(self.shadow.values())), marks=SLOW),
    ],
)
def test_a_wait_that_is_planted_after_the_backward_pass_is_seen(ready, monkeypatch, owner, name, tensor_of):
    monkeypatch.setattr(owner, name, waiting(getattr(owner, name), tensor_of))
    assert transfers_of_a_step(*ready) == ["asked by aten._local_scalar_dense.default"]


def transfers_of_a_clip(system, steps):
    image = torch.empty(1, 3, 16, 16, device="meta")
    with Transfers() as transfers:
        system.vocode(system.generate(["a", "b"], image, num_inference_steps=steps))
    return transfers.seen


@pytest.mark.parametrize(
    "overrides", [(), pytest.param(("image.reading=fixed",), marks=SLOW), ("image.reading=noised", "diffusion.loss_space=v")]
)
def test_steps_of_the_sampler_leave_the_host_alone(tiny, overrides):
    pure = ["diffusion.pure_noise_share=0.1"] if "diffusion.loss_space=v" in overrides else []
    system = on_meta(tiny(*overrides, *pure)).eval()
    transfers_of_a_clip(system, 1)
    few, many = (transfers_of_a_clip(system, steps) for steps in (2, 4))
    assert few == many  # what there is belongs to the clip: its caption and its noise, and what guidance has to run


@pytest.mark.parametrize("plant", [lambda t: t.sum().item(), pytest.param(lambda t: t.cpu(), marks=SLOW)])
def test_a_planted_wait_or_copy_is_seen_in_the_sampler(tiny, monkeypatch, plant):
    system = on_meta(tiny("image.reading=fixed")).eval()
    transfers_of_a_clip(system, 1)  # the empty caption is encoded in the first clip alone
    before, denoise = len(transfers_of_a_clip(system, 3)), system.denoise
    monkeypatch.setattr(system, "denoise", lambda latents, *args: (plant(latents), denoise(latents, *args))[1])
    assert len(transfers_of_a_clip(system, 3)) == before + 3


@pytest.mark.parametrize(("reading", "looks"), [("inverted", 4), ("noised", 4), ("fixed", 1)])
def test_a_clip_runs_each_network_as_often_as_it_must(tiny, monkeypatch, reading, looks):
    system = build.system(tiny(f"image.reading={reading}")).eval()
    rows = {}

    def counted(owner, name, method):
        work = getattr(owner, method)

        def wrapped(first, *args, **kwargs):
            rows.setdefault(name, []).append(len(first))
            return work(first, *args, **kwargs)

        monkeypatch.setattr(owner, method, wrapped)

    counted(system.conditioner, "caption", "forward")
    counted(system.image_encoder, "encode", "encode")
    counted(system.image_encoder, "features", "features")
    counted(system.denoiser, "denoiser", "forward")
    counted(system.codec, "decode", "decode")
    system.generate(["a", "b", "c"], torch.zeros(1, 3, 16, 16), num_inference_steps=4)
    pictures = 3 if reading == "noised" else 1  # each clip has its own noise on the picture
    wanted = {"encode": [1], "features": [pictures] * looks, "denoiser": [6] * 4, "decode": [3]}
    assert {name: rows[name] for name in wanted} == wanted and sorted(rows["caption"]) == [1, 3]
