"""Training, generation and FLOPs are measured on the real code: what is planted to be slow is seen where it is."""

import time

import building as build
import pytest
import torch

from melfusion.assembly.configuration import override
from melfusion.bench import fitting, machine, setting
from melfusion.bench.counted import of_a_clip, of_a_sample
from melfusion.bench.fitting import turns
from melfusion.bench.generation import Clips, of_clips
from melfusion.bench.options import SIZES
from melfusion.bench.report import bench
from melfusion.bench.timing import Figure
from melfusion.bench.training import BareLoop
from melfusion.data.reading import SampleReader
from melfusion.state.checkpoint_store import CheckpointStore
from melfusion.training import scalars


class Quick:
    """A loop that takes so many seconds a step."""

    def __init__(self, clock, seconds=0.01):
        self.clock, self.seconds, self.calls = clock, seconds, []

    def run(self, steps):
        self.calls.append(steps)
        self.clock.sleep(self.seconds * steps)


def test_the_trainer_takes_turns_with_the_loop_and_what_is_planted_is_seen_where_it_is(training, clock, monkeypatch):
    """A step of four samples. The loader takes 0.05 s a sample, what is logged after a step 0.1 s, a checkpoint 7 s."""
    loop = Quick(clock)
    monkeypatch.setattr(SampleReader, "__call__", clock.slowed(SampleReader.__call__, 0.05))
    monkeypatch.setattr(scalars, "alphas", clock.slowed(scalars.alphas, 0.1))
    monkeypatch.setattr(CheckpointStore, "save_checkpoint", clock.slowed(CheckpointStore.save_checkpoint, 7))
    found = turns(training, "tiny", loop, "planted")
    assert loop.calls == [3, 3] and found.others == pytest.approx([0.03] * 2)
    assert found.waited == pytest.approx([3 * 4 * 0.05] * 2)
    assert found.seconds == pytest.approx([3 * 4 * 0.05 + 3 * 0.1] * 2)
    assert len(found.saves) >= fitting.SAVES and found.saves == pytest.approx([7] * len(found.saves))


def test_the_figures_of_the_trainer_follow(training, clock, monkeypatch):
    monkeypatch.setattr(machine, "peaks", lambda: {"fp32": Figure("TFLOP/s", [1.0]), "bf16": Figure("TFLOP/s", [1.0])})
    monkeypatch.setattr(SampleReader, "__call__", clock.slowed(SampleReader.__call__, 0.001))
    monkeypatch.setattr(scalars, "alphas", clock.slowed(scalars.alphas, 0.096))
    bare = Figure("samples/s", [50.0], setting={"TFLOP": 0.001, "precision": "32-true", "batch": 4})
    beside = {
        "reference, batch 1": Figure("samples/s", [5.0]),
        "reference, batch 8": Figure("samples/s", [10.0]),
        "bare loop": bare,
    }
    found = fitting.through_the_trainer("tiny", training, Quick(clock, 0.08), "live", beside, 1e9)
    rate = found["Trainer, batch 4"]
    assert (rate.median, rate.ratio, rate.of_peak) == (pytest.approx(40), pytest.approx(4), pytest.approx(0.04))
    assert found["Trainer, over the bare loop"].values == pytest.approx([25, 25])
    assert found["Trainer, wait for data"].values == pytest.approx([4, 4]) and found["checkpoint, size"].median > 0.01


def test_the_bare_loop_trains_and_its_micro_batches_add_up_to_one_step(training):
    at_once = BareLoop(training, build.system(training), 4)
    in_parts = BareLoop(training, build.system(training), 1)
    assert [len(b) for b in at_once.batches] == [4] and [len(b) for b in in_parts.batches] == [1] * 4
    at_once.run(2), in_parts.run(2)
    pairs = list(zip(at_once.model.denoiser.parameters(), in_parts.model.denoiser.parameters(), strict=True))
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in pairs)
    first = build.system(training).denoiser.parameters()
    assert any(not torch.equal(a, b) for (a, _), b in zip(pairs, first, strict=True))
    assert at_once.steps == at_once.schedule.last_epoch == 2


# --- the reference, and what is counted ----------------------------------------------------------------------------------


def released(config, *more):
    return override(config, [*setting.REFERENCE, "sampling.num_inference_steps=3", *more])


def test_the_reference_runs_the_image_model_in_each_step_for_each_branch(training):
    config = released(training)
    model = build.system(config).eval()
    rows = {"image": [], "music": []}
    for name, unet in (("image", model.image_encoder.unet), ("music", model.denoiser.unet)):
        unet.register_forward_pre_hook(lambda module, args, name=name: rows[name].append(len(args[0])))
    clip = setting.reference_clip(model, config, "a tune", torch.zeros(1, 3, 16, 16))
    assert rows == {"image": [2] * 3, "music": [2] * 3} and clip.shape[0] == 1
    assert config.trainer.precision == "32-true" and config.image.reading == "noised"
    assert "sampling.num_inference_steps=200" in setting.REFERENCE


@pytest.mark.slow  # counts full-scale twins several times
def test_flops_follow_the_setting(training):
    config = released(training)
    live, stored = of_a_sample(config), of_a_sample(override(config, ["data.precompute.enabled=true"]))
    cached = of_a_sample(override(config, ["data.precompute.enabled=true", "image.reading=fixed"]))
    assert live > stored > cached > 0
    ten, twenty = (of_a_clip(override(config, [f"sampling.num_inference_steps={n}"])) for n in (10, 20))
    assert 1.5 * ten < twenty < 2 * ten and of_a_clip(config, read_by_branch=True) > of_a_clip(config)


# --- generation ----------------------------------------------------------------------------------------------------------


def test_the_stages_of_a_clip_add_up_and_a_slow_one_is_seen_where_it_is(training, clock, monkeypatch):
    config = override(training, ["image.reading=fixed"])
    model = build.system(config)
    planted = {
        "text": (type(model.conditioner), "forward", 0.1),
        "picture": (type(model.image_encoder), "encode", 0.2),
        "denoising": (type(model.denoiser), "forward", 0.4),
        "decode": (type(model.codec), "decode", 0.8),
        "vocode": (type(model.codec), "vocode", 1.6),
    }
    for owner, name, seconds in planted.values():
        monkeypatch.setattr(owner, name, clock.slowed(getattr(owner, name), seconds))
    clips = Clips(config, model, 2, "a tune", torch.zeros(1, 3, 16, 16))
    clips(), clips()
    seen = {stage: seconds[1] for stage, seconds in clips.seconds.items()}  # the first call also encodes the empty string
    steps = config.sampling.num_inference_steps
    assert seen == pytest.approx({"text": 0.1, "picture": 0.2, "denoising": steps * 0.4, "decode": 0.8, "vocode": 1.6})
    assert clips.total()[1] == pytest.approx(sum(seen.values()))


def test_a_compiled_denoiser_makes_the_clips_and_its_compilation_stands_apart(training, clock, monkeypatch):
    monkeypatch.setattr(machine, "peaks", lambda: {"fp32": Figure("TFLOP/s", [1.0]), "bf16": Figure("TFLOP/s", [1.0])})
    config = override(training, ["image.reading=fixed", "denoiser.compile=true"])
    model, calls = build.system(config), []

    def compile_slowly(denoiser):
        forward = denoiser.forward
        seconds = iter((9.0,))
        denoiser.forward = lambda *args, **kwargs: [clock.sleep(next(seconds, 0.0)), calls.append(1), forward(*args, **kwargs)][2]

    monkeypatch.setattr(type(model.denoiser), "compile", compile_slowly)
    clips = Clips(config, model, 2, "a tune", torch.zeros(1, 3, 16, 16))
    clips(), clock.sleep(1), clips()
    clips.seconds["denoising"][1] += 2.0
    found = of_clips("at once", clips, Figure("clips/s", [1.0]), 1e9, 1e9)
    assert len(calls) == 2 * config.sampling.num_inference_steps and found["at once, compilation"].values == [pytest.approx(7)]
    assert found["at once"].median == pytest.approx(1) and found["at once, compilation"].unit == "s"


# --- all of it -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow  # a minute and more of all sections at their real sizes
def test_tiny_ends_in_two_minutes_of_two_cores(tmp_path):
    started = time.process_time()
    tree = bench("tiny", ["machine", "training", "generation", "precompute"], str(tmp_path / "a.json"))
    assert time.process_time() - started < 180
    training, generation = tree["sections"]["training"], tree["sections"]["generation"]
    for way in ("live", "cached"):
        assert training[f"{way}: Trainer, batch 32"]["ratio"] > 0
        assert len(training[f"{way}: Trainer, over the bare loop"]["values"]) == SIZES["tiny"].rounds
    assert training["cached: bare loop, batch 32"]["setting"]["TFLOP"] < training["live: bare loop, batch 32"]["setting"]["TFLOP"]
    assert generation["reference"]["setting"]["steps"] == 200 and generation["one clip"]["ratio"] > 1
