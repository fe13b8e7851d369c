"""DDP and FSDP2: the numbers of one process, and checkpoints that any strategy and number of processes goes on from."""

import subprocess

import pytest
import torch
from forking import python
from training_jobs import Run

from melfusion.assembly.configuration import load_config
from melfusion.errors import ConfigError
from melfusion.state.checkpoint_store import newest
from melfusion.training.fsdp import strategy_of

# five validation items: in batches of two, one rank has two batches and the other one; rates at which an error would be seen
OPTIONS = (
    "data.val_items=5",
    "optim.grad_clip_norm=0.05",
    "optim.alpha_lr=0.05",
    "synapse.kind=kv_mix_proj",
    "trainer.media_items=1",
)
EVERY = 2  # steps between two validations


class Ranks(Run):
    """A run whose lives may have several processes."""

    def live(self, strategy, world, steps):
        if world == 1:
            assert self(*OPTIONS, steps=steps, val=EVERY) == 0
            return
        given = (f"trainer.strategy={strategy}", f"trainer.devices={world}", f"trainer.max_steps={steps}")
        fixed = (f"runs_dir={self.folder}", "name=job", f"data.path={self.data}", "image.reading=fixed")
        often = ("trainer.checkpoint_every_n_steps=1", "trainer.keep_last=99", f"trainer.val_every_n_steps={EVERY}")
        command = [python(), "-m", "melfusion", "train", "tiny", *fixed, *often, *OPTIONS, *given]
        done = subprocess.run(command, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def one(tiny_corpus, tmp_path_factory):
    """A run of one process."""
    run = Ranks(tmp_path_factory.mktemp("one"), tiny_corpus)
    run.live("auto", 1, 5)
    return run


def stored(run):
    return torch.load(newest(run.path / "checkpoints"), weights_only=True)


def same(run, other):
    assert run.curve("train/loss").keys() == other.curve("train/loss").keys()
    for tag in ("train/loss", "train/grad_norm", "val/loss"):
        seen, expected = run.curve(tag), other.curve(tag)
        for step in expected:
            assert seen[step] == pytest.approx(expected[step], rel=1e-4)
    a, b = stored(run), stored(other)
    moments = [{str(i): s["exp_avg"] for i, s in x["optimizer_states"][0]["state"].items()} for x in (a, b)]
    for got, expected in ((a["state_dict"], b["state_dict"]), (a["ema"], b["ema"]), moments):
        assert got.keys() == expected.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(got[name], tensor, rtol=1e-4, atol=2e-5)


LIVES = [
    (("auto", 1, 2), ("fsdp2", 2, 4), ("auto", 1, 5)),
    pytest.param((("fsdp2", 2, 2), ("ddp", 2, 3), ("fsdp2", 2, 5)), marks=pytest.mark.slow),  # six more processes on few cores
    pytest.param((("fsdp2", 4, 2), ("ddp", 2, 3), ("fsdp2", 4, 5)), marks=pytest.mark.slow),  # ten more
    pytest.param((("ddp", 2, 2), ("auto", 1, 3), ("ddp", 2, 5)), marks=pytest.mark.slow),  # four more
    pytest.param((("ddp", 4, 2), ("ddp", 2, 3), ("auto", 1, 4), ("ddp", 4, 5)), marks=pytest.mark.slow),  # ten more
    pytest.param((("ddp", 4, 2), ("fsdp2", 4, 3), ("ddp", 4, 5)), marks=pytest.mark.slow),  # twelve more
]


@pytest.mark.parametrize("lives", LIVES)
def test_divided_training_equals_one_process_across_strategies_and_worlds(one, tiny_corpus, tmp_path, lives):
    run = Ranks(tmp_path, tiny_corpus)
    for life in lives:
        run.live(*life)
    same(run, one)
    assert len(list((run.path / "samples").glob("*.wav"))) >= 2


@pytest.mark.parametrize("other", ["task=music_vae", "trainer.precision=16-mixed", "denoiser.compile=true"])
def test_what_does_not_go_with_it_is_refused_in_one_sentence(other):
    config = load_config("tiny", ["trainer.strategy=fsdp2", *([] if "16" in other else [other])])
    if "16" in other:
        config.trainer.precision = "16-mixed"  # which load_config refuses on a CPU
    with pytest.raises(ConfigError, match=rf"^trainer.strategy=fsdp2 does not go with {other}: .*\.$"):
        strategy_of(config)
