"""Guards: a bad step changes nothing, is told of one step later, and too many of them stop the run; spikes; what it costs."""

import functools
import json
import statistics
import time
from collections import deque
from types import SimpleNamespace

import building as build
import pytest
import torch
from lightning import Callback
from lightning.pytorch.utilities import rank_zero_only
from training_jobs import Run, once

from melfusion import randomness
from melfusion.assembly.configuration import load_config
from melfusion.assembly.options import GuardConfig
from melfusion.assembly.run import run_directory
from melfusion.batch import MusicBatch
from melfusion.data.datamodule import MusicDataModule
from melfusion.models import trained as optim
from melfusion.state.checkpoint_store import CheckpointStore
from melfusion.torture.faults import Recorder
from melfusion.training import guard as guards
from melfusion.training.ema import EMA
from melfusion.training.fit import make_trainer
from melfusion.training.guard import GuardError, StepGuard
from melfusion.training.media_log import Media
from melfusion.training.verdict import VECTOR, not_finite, threshold

# what each planted fault makes not finite
SEEN = {
    "nan-input": ["input", "output", "gradient"],
    "nan-latents": ["output", "gradient"],
    "nan-loss": ["output"],
    "inf-gradient": ["gradient"],
}


@pytest.fixture
def run(tiny_corpus, tmp_path):
    return Run(tmp_path, tiny_corpus)


def changed(run, before, after):
    """Names of the tensors of two checkpoints that differ in any bit."""
    one, two = run.state(before), run.state(after)
    assert one.keys() == two.keys() and any(name.startswith("ema.") for name in one)
    assert any(name.startswith("optimizer.") for name in one)
    return {name for name in one if one[name] != two[name]}


def described(run, step):
    return json.loads((run.path / "guards" / f"step-{step:09d}-rank0.json").read_text())


# --- a step that is not finite --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def struck(tiny_corpus, tmp_path_factory):
    """struck(fault) → the run whose fourth step had it."""

    @functools.cache
    def made(fault):
        run = Run(tmp_path_factory.mktemp(fault), tiny_corpus)
        assert run("optim.warmup_steps=20", plant=[f"{fault}@3"]) == 0
        return run

    return made


@pytest.mark.parametrize("fault", SEEN)
def test_a_bad_step_changes_nothing_and_is_described(struck, tiny, fault):
    run = struck(fault)
    assert not changed(run, 3, 4) and changed(run, 2, 3) and changed(run, 4, 5)
    rates = [run.curve("lr/group0")[step] for step in range(1, 7)]
    assert rates == pytest.approx([1e-3 * k / 20 for k in (1, 2, 3, 4, 4, 5)])  # step 5 has the rate of step 4
    found = described(run, 4)
    assert found["step"] == 4 and found["why"] == SEEN[fault]
    assert [m["positions"] for m in found["micro_batches"]] == [[12, 13, 14, 15]]
    config = tiny(f"data.path={run.data}")
    data = MusicDataModule(config.data, config.audio, config.seed).dataset("train", training=True)
    assert found["micro_batches"][0]["keys"] == [data[p]["key"] for p in range(12, 16)]
    assert found["generator"] == {"kind": "Philox", "key": [0, randomness.KEY], "streams": list(randomness.STREAMS)}
    assert run.curve("guards/skipped_steps") == {4: 1}
    assert (run.curve("train/loss")[4] is None) == (fault != "inf-gradient")  # JSON has no NaN
    assert all(abs(run.curve("train/loss")[step]) < 100 for step in (1, 2, 3, 5, 6))
    assert len(list((run.path / "guards").iterdir())) == 1


def test_rates_go_by_applied_steps_and_steps_by_samples(struck):
    stored = torch.load(struck("nan-loss").file(4), weights_only=True)
    assert stored["lr_schedulers"][0]["last_epoch"] == 3 and stored["global_step"] == 4
    guard = next(v for k, v in stored["callbacks"].items() if "StepGuard" in k)
    assert (guard["applied"], guard["skipped"], guard["in_a_row"], len(guard["usual"])) == (3, 1, 1, 3)


def test_an_optimizer_without_found_inf_is_skipped_as_well(run, monkeypatch):
    original = optim.configure_optimizer
    monkeypatch.setattr(optim, "configure_optimizer", lambda *args, allow_fused: original(*args, allow_fused=False))
    assert run(plant=["inf-gradient@3"]) == 0
    assert not changed(run, 3, 4) and changed(run, 4, 5) and run.curve("guards/skipped_steps") == {4: 1}


@pytest.mark.parametrize("fault", ["nan-input", "nan-loss"])
def test_one_bad_micro_batch_of_two_makes_the_step_bad(run, fault):
    assert run("trainer.accumulate=2", plant=[once(f"{fault}@3")]) == 0
    assert not changed(run, 3, 4) and changed(run, 4, 5)
    assert [m["positions"] for m in described(run, 4)["micro_batches"]] == [[12, 13], [14, 15]]
    assert described(run, 4)["why"] == SEEN[fault]  # of the first micro-batch, too


def test_too_many_in_a_row_are_one_sentence_and_exit_code_2(run, capsys):
    assert run("guards.max_bad_steps=3", plant=["nan-loss@1", "nan-loss@2", "nan-loss@4"], steps=8, every=100) == 0
    assert run.curve("guards/skipped_steps") == {2: 1, 3: 2, 5: 3}  # three, but not in a row
    capsys.readouterr()
    assert run("guards.max_bad_steps=3", plant=["nan-loss@9", "nan-loss@10", "nan-loss@11"], steps=20, every=100) == 2
    words = capsys.readouterr().err.strip().splitlines()[-1]
    assert words.startswith("melfusion train: 3 optimizer steps in a row had an output that is not finite, the last one step 12: ")
    assert str(run.path / "guards" / "step-000000012-rank0.json") in words and words.count(". ") == 0


def test_the_state_of_the_guard_survives_a_resume(run):
    assert run(plant=["nan-loss@1"], steps=3, every=100) == 0
    assert run(plant=["nan-loss@4"], steps=6, every=100) == 0
    assert run.curve("guards/skipped_steps") == {2: 1, 5: 2}
    stored = torch.load(run.file(6), weights_only=True)
    guard = next(v for k, v in stored["callbacks"].items() if "StepGuard" in k)
    assert (guard["applied"], guard["skipped"], len(guard["usual"])) == (4, 2, 4)
    losses = run.curve("train/loss")
    assert guard["usual"] == pytest.approx([losses[s] for s in (1, 3, 4, 6)])


class Draws(Callback):
    """What torch's own generator gives in each step."""

    def __init__(self):
        self.seen = {}

    def on_before_backward(self, trainer, pl_module, loss):
        self.seen[trainer.global_step] = torch.rand(2).tolist()


@pytest.mark.slow  # two trainings for one property; the resume tests are fast
def test_torchs_own_generator_draws_the_same_after_a_resume(run, tiny_corpus, tmp_path):
    whole, parts = Draws(), Draws()
    Run(tmp_path / "whole", tiny_corpus)(plant=[whole], steps=5, every=100)
    run(plant=[parts], steps=2, every=100)
    torch.rand(7)
    run(plant=[parts], steps=5, every=100)
    assert whole.seen == parts.seen and len({tuple(v) for v in whole.seen.values()}) == 5
    assert len({randomness.torch_seed(seed, number) for seed in range(3) for number in range(3)}) == 9


# --- the verdict itself ---------------------------------------------------------------------------------------------


def a_guard(scaler=None, config=None, folder=None, ema=None):
    """A guard in the middle of a run of one parameter, and its optimizer."""
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter], fused=True)
    trainer = SimpleNamespace(
        global_step=0,
        precision_plugin=SimpleNamespace(scaler=scaler),
        accumulate_grad_batches=1,
        world_size=1,
        global_rank=0,
        log_every_n_steps=1,
        loggers=[],
        lr_scheduler_configs=[],
    )
    guard = StepGuard(config or GuardConfig(), folder, 0, ema, folder)
    guard.on_train_start(trainer, SimpleNamespace())
    return guard, optimizer, trainer


def judged(guard, optimizer, trainer, loss, norm):
    guard.on_before_backward(trainer, None, torch.tensor(loss))
    guard.judge(optimizer, torch.tensor(norm))
    trainer.global_step += 1
    guard.settle()


def test_overflows_of_fp16_scaling_do_not_count_but_other_steps_do(tmp_path):
    scaler = SimpleNamespace(get_scale=lambda: 1024.0)
    guard, optimizer, trainer = a_guard(scaler, GuardConfig(max_bad_steps=2), tmp_path)
    logged = []
    guard._log = lambda scalars, step: logged.append(scalars)
    for _ in range(5):
        judged(guard, optimizer, trainer, 2048.0, float("inf"))
    assert (guard.overflows, guard.skipped, guard.in_a_row, guard.applied) == (5, 0, 0, 0)
    assert logged[0]["train/loss"] == 2.0  # unscaled
    judged(guard, optimizer, trainer, float("nan"), float("inf"))
    with pytest.raises(GuardError, match="an output and gradient that is not finite"):
        judged(guard, optimizer, trainer, float("nan"), float("inf"))
    guard, optimizer, trainer = a_guard(None, GuardConfig(), tmp_path)
    judged(guard, optimizer, trainer, 1.0, float("inf"))
    assert (guard.overflows, guard.skipped) == (0, 1)  # without a scaler it is no overflow of one


def a_batch(device="cpu", n=2):

    def zeros(*shape):
        return torch.zeros(n, *shape, device=device)

    return MusicBatch(
        ["a"] * n,
        [""] * n,
        torch.zeros(n, dtype=torch.int64),
        zeros(),
        latent_moments=zeros(16, 8, 8),
        draws={"noise": zeros(8, 8, 8)},
        visual_features={"mid": (zeros(4, 4), zeros(4, 4))},
    )


def test_a_step_is_judged_without_a_look_at_the_device():
    """Tensors of the meta device have no numbers: whoever asks for one on the host fails."""
    guard, _, trainer = a_guard()
    optimizer = SimpleNamespace(defaults={"fused": True})
    guard.on_train_batch_start(trainer, None, a_batch("meta"), 0)
    guard.on_before_backward(trainer, None, torch.zeros((), device="meta"))
    guard.judge(optimizer, torch.zeros((), device="meta"))
    assert optimizer.found_inf.is_meta and optimizer.grad_scale is None and guard.pending.vector.shape == (len(VECTOR),)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("where", ["latent_moments", "draws", "visual_features", "has_image"])
def test_every_floating_tensor_of_a_batch_is_looked_at(where, value):
    batch = a_batch()
    batch.text_embeds = torch.full((2, 3, 4), 6e4, dtype=torch.float16)  # large, of another type, and sound
    assert not not_finite(batch)
    tensor = {"draws": batch.draws["noise"], "visual_features": batch.visual_features["mid"][1]}.get(where)
    (getattr(batch, where) if tensor is None else tensor).view(-1)[-1] = value
    assert not_finite(batch)


def test_rates_and_averages_move_when_the_verdict_is_read():
    ema, rate = EMA(0.9), SimpleNamespace(steps=0)
    ema.update = lambda module, applied: setattr(rate, "average", applied)
    guard, optimizer, trainer = a_guard(ema=ema)
    trainer.lr_scheduler_configs = [SimpleNamespace(scheduler=SimpleNamespace(step=lambda: setattr(rate, "steps", rate.steps + 1)))]
    guard.on_before_backward(trainer, None, torch.tensor(1.0))
    guard.judge(optimizer, torch.tensor(1.0))
    assert rate.steps == 0
    guard.settle()  # whoever needs the average settles first
    guard.settle()
    assert rate.steps == 1 and rate.average == 1


def test_before_media_every_rank_settles_not_only_the_one_that_makes_them(monkeypatch, tmp_path):
    """Else rank 0 knows of a signal a step earlier than the others, and saves alone."""
    asked = []
    media = Media([], None, None, tmp_path, every_n_steps=2, ema=EMA(0.9), settle=lambda: asked.append("settled"))
    media.batch = "something to write"
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    for step in (1, 2, 3, 4):
        media.on_train_batch_end(SimpleNamespace(global_step=step), None)
    assert asked == ["settled", "settled"] and media.written == -1


# --- spikes ---------------------------------------------------------------------------------------------------------


def test_the_threshold_is_median_plus_robust_deviations():
    assert threshold(deque([1.0, 2.0, 3.0, 4.0, 100.0]), 10) == pytest.approx(3 + 10 * 1.4826)
    assert threshold(deque([5.0] * 9), 10) == pytest.approx(5 + 10 * 0.005)  # never nothing


def test_a_spike_is_one_only_after_a_hundred_usual_losses(tmp_path):
    guard, optimizer, trainer = a_guard(folder=tmp_path)
    judged(guard, optimizer, trainer, 50.0, 1.0)
    for k in range(98):
        judged(guard, optimizer, trainer, 1.0 + k % 2 / 10, 1.0)
    judged(guard, optimizer, trainer, 50.0, 1.0)
    assert guard.spikes == 0 and len(guard.usual) == 100
    judged(guard, optimizer, trainer, 60.0, 1.0)
    assert guard.spikes == 1 and 60.0 not in guard.usual and not guard.roll_back  # a spike is not usual
    found = json.loads((tmp_path / "step-000000101-rank0.json").read_text())
    assert found["why"] == ["spike"] and found["seen"]["loss"] == 60.0 and found["seen"]["usual"] == pytest.approx(1.1)
    assert guard.applied == 101  # nothing is skipped
    guard.config.rollback_after = 2
    judged(guard, optimizer, trainer, 50.0, 1.0)
    assert guard.roll_back


SLOW = pytest.mark.slow  # one more training


@pytest.mark.parametrize("rollback", [pytest.param(0, marks=SLOW), 1])
def test_a_rollback_brings_all_of_an_older_state_back(run, monkeypatch, rollback):
    monkeypatch.setattr(guards, "WINDOW", 10)
    inner, after = StepGuard._restore, []

    def restore(self, trainer, module):
        inner(self, trainer, module)
        after.append({"step": trainer.global_step, "applied": self.applied, "rate": trainer.optimizers[0].param_groups[0]["lr"]})
        trainer.save_checkpoint(run.path / "after.ckpt")

    monkeypatch.setattr(StepGuard, "_restore", restore)
    record = Recorder(run.path / "record", 0)
    options = (f"guards.rollback_after={rollback}", "guards.spike_factor=30", "optim.warmup_steps=40")
    assert run(*options, plant=[record, "spike@14"], steps=18) == 0
    assert run.curve("guards/spikes")[15] == 1 and described(run, 15)["why"] == ["spike"]
    assert len(after) == rollback
    positions = [
        int(line.split()[2])
        for line in (run.path / "record" / "life000-rank0.txt").read_text().splitlines()
        if line.startswith("sample")
    ]
    assert positions == list(range(18 * 4))  # the data go on
    if rollback:
        # learnt of at the end of step 16; the loss of 15 was that of the weights after 14, so 13 is the newest before them
        assert after == [{"step": 16, "applied": 13, "rate": pytest.approx(1e-3 * 14 / 40)}]
        (run.path / "after.ckpt").rename(run.file(99))
        assert not changed(run, 13, 99) and changed(run, 15, 99)


def test_without_a_factor_nothing_is_a_spike(run, monkeypatch):
    monkeypatch.setattr(guards, "WINDOW", 5)
    assert run("guards.spike_factor=0", plant=["spike@8"], steps=12, every=100) == 0
    assert run.curve("guards/spikes") == {} and not (run.path / "guards").exists()


def test_what_the_right_picture_is_worth_is_told_at_each_validation(run):
    assert run(steps=4, val=2, every=100) == 0
    gains = run.curve("val/picture_gain")
    assert gains.keys() == {2, 4} and gains == pytest.approx(
        {s: run.curve("val/loss_other_picture")[s] - run.curve("val/loss")[s] for s in (2, 4)}, abs=1e-6
    )


# --- cost -----------------------------------------------------------------------------------------------------------


def full_scale_batch(n=32):
    """As precomputed training of 866 M parameters has it; the gradient's norm is taken for clipping anyway."""
    return MusicBatch(
        [f"key{i}" for i in range(n)],
        [""] * n,
        torch.arange(n),
        torch.ones(n),
        latent_moments=torch.randn(n, 16, 256, 16),
        draws={
            "noise": torch.randn(n, 8, 256, 16),
            "vae_noise": torch.randn(n, 8, 256, 16),
            "timestep": torch.rand(n),
            "drop": torch.rand(n),
        },
        text_embeds=torch.randn(n, 77, 1024),
        text_mask=torch.ones(n, 77, dtype=torch.bool),
        image_latents=torch.randn(n, 4, 64, 64),
    )


class Stopwatch(Callback):
    """Seconds of each step and of the guard within it. A device is waited for around the guard: its kernels count in full."""

    HOOKS = ("on_train_batch_start", "on_before_backward", "judge")

    def __init__(self, guard, device):
        self.steps, self.guards = [], []
        self.wait = torch.cuda.synchronize if device == "cuda" else lambda: None
        for hook in self.HOOKS:
            setattr(guard, hook, self.timed(getattr(guard, hook)))

    def now(self):
        self.wait()
        return time.perf_counter()

    def timed(self, hook):
        def call(*args):
            started = self.now()
            hook(*args)
            self.spent += self.now() - started

        return call

    def on_train_batch_start(self, *args):  # stands before the guard
        self.spent, self.started = 0.0, self.now()

    def on_train_batch_end(self, *args):
        self.guards.append(self.spent)
        self.steps.append(self.now() - self.started)


GPU = pytest.param("cuda", 8, marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))


@pytest.mark.slow  # three minutes and 14 GB
@pytest.mark.parametrize("device, clips", [("cpu", 1), GPU])
def test_the_guard_costs_at_most_half_a_percent_of_a_full_scale_step(tmp_path, device, clips, capsys):
    """The music UNet of configs/melfusion.yaml, 866 M parameters, under fused AdamW: 14 GB of state alone, some three minutes.

    Parts beside it are random twins and no picture is looked at: the step is shorter than a real one, the share larger.
    """
    precision = "bf16-mixed" if device == "cuda" else "32-true"
    parts = ("music_vae", "vocoder", "text_encoder", "image", "denoiser")
    config = load_config(
        "melfusion",
        [
            f"runs_dir={tmp_path}",
            *(f"{part}.weights=null" for part in parts),
            "synapse.kind=none",
            f"trainer.accelerator={device}",
            f"trainer.precision={precision}",
            "trainer.max_steps=4",
            "trainer.log_every_n_steps=1",
            "trainer.progress_bar=false",
        ],
    )
    run = run_directory(config)
    run.prepare()
    system = build.system(config)
    guard = StepGuard(config.guards, tmp_path, 0, None, tmp_path)
    watch = Stopwatch(guard, device)
    trainer = make_trainer(config, run, [watch, guard], CheckpointStore(run.checkpoints), 0)
    trainer.fit(system, torch.utils.data.DataLoader([full_scale_batch(clips)] * 4, batch_size=None))
    assert guard.applied == 4 and guard.skipped == 0
    step, cost = (statistics.median(seconds[1:]) for seconds in (watch.steps, watch.guards))  # the first one warms up
    size = sum(p.numel() for p in system.denoiser.unet.parameters()) / 1e6
    with capsys.disabled():
        print(
            f"\nguard: {1e3 * cost:.2f} ms of a step of {1e3 * step:.0f} ms, {cost / step:.4%} (medians of 3; {size:.0f} M "
            f"parameters, {clips} clips, {precision}, {device}, {torch.get_num_threads()} threads)"
        )
    assert size > 850 and cost / step <= 0.005


def test_a_module_finds_its_guard_among_the_callbacks_and_nobody_sets_it(tmp_path):
    module, guard = optim.TrainedModule(), StepGuard(GuardConfig(), tmp_path, 0, None, tmp_path)
    assert module.guard is None
    module.trainer = SimpleNamespace(callbacks=[Callback(), guard])
    assert module.guard is guard
    with pytest.raises(AttributeError):
        module.guard = guard
