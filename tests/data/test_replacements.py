"""Counts of what was replaced: by shard and reason, over ranks, across resumes; and how two ranks end when there is too much."""

import contextlib
import json
import subprocess
import time
from pathlib import Path

import pytest
import torch
from data_fixtures import data_set, make_sample
from forking import python
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from melfusion.data.datamodule import MusicDataModule
from melfusion.data.replacements import SHOWN, Replacements
from melfusion.training.run import train

PAIRS = [("train-000000.tar:a", "silent"), ("train-000001.tar:b:c", "silent"), ("train-000000.tar:d", "too long")]


def counted(*pairs, seen=4):
    made = Replacements()
    made.add(list(pairs), seen)
    return made


def test_counts_are_kept_by_shard_and_reason():
    made = counted(*PAIRS, PAIRS[0])
    assert made.by_reason == {"silent": 3, "too long": 1} and made.bad == 4 and made.seen == 4
    assert made.scalars() == {
        "data/replaced/silent": 3,
        "data/replaced/too long": 1,
        "data/replaced_by_shard/train-000000.tar/silent": 2,
        "data/replaced_by_shard/train-000001.tar/silent": 1,
        "data/replaced_by_shard/train-000000.tar/too long": 1,
    }


def test_a_thousand_bad_shards_do_not_make_a_thousand_curves():
    made = counted(*((f"train-{i:06d}.tar:k", "silent") for i in range(1000)), ("train-000007.tar:l", "silent"))
    shown = made.scalars()
    assert len(shown) == SHOWN + 1 and shown["data/replaced_by_shard/train-000007.tar/silent"] == 2


def test_the_counts_outlive_a_checkpoint_in_plain_containers(tmp_path):
    made = counted(*PAIRS)
    made.gather()
    torch.save(made.state(), tmp_path / "state")
    other = counted(PAIRS[0])
    other.load(torch.load(tmp_path / "state", weights_only=True))
    assert other.by_shard == made.by_shard and other.seen == 4
    other.add([PAIRS[0]], 4)
    other.gather()
    assert other.by_shard[("train-000000.tar", "silent")] == 2 and other.seen == 8 and other.bad == 4


def test_ranks_add_up_and_any_number_of_them_goes_on(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)

    def gathered(ranks):
        """What each rank holds after all have come by."""
        parts = [(r.mine, r.mine_seen) for r in ranks]
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: len(ranks))
        monkeypatch.setattr(torch.distributed, "all_gather_object", lambda out, mine: out.__setitem__(slice(None), parts))
        for rank in ranks:
            rank.gather()
        return ranks

    four = gathered([counted(PAIRS[i % 3]) for i in range(4)])
    assert all(rank.state() == four[0].state() for rank in four) and four[0].bad == 4 and four[0].seen == 16
    for world in (1, 2, 8):
        ranks = [Replacements() for _ in range(world)]
        for rank in ranks:
            rank.load(four[0].state())
            rank.add([PAIRS[1]], 4)
        assert all(rank.bad == 4 + world for rank in gathered(ranks))


@pytest.fixture
def bad_set(tmp_path):
    """16 training samples of which each fourth cannot be read, two to a shard, and four for validation."""
    samples = [make_sample(f"s{i:02d}", audio=b"junk" if i % 4 == 1 else None) for i in range(16)]
    return data_set(tmp_path / "data", [*samples, *(make_sample(f"v{i}", "val") for i in range(4))], per_shard=2)


def lines(path):
    return [json.loads(line) for line in (Path(path) / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow  # two trainings
def test_a_resumed_run_counts_on_in_tensorboard_and_metrics(bad_set, tiny, tmp_path):
    options = (
        f"data.path={bad_set}",
        f"runs_dir={tmp_path}",
        "trainer.media_items=0",
        "trainer.val_every_n_steps=4",
        "trainer.checkpoint_every_n_steps=100",
        "image.reading=fixed",
        "data.max_bad_ratio=0.9",
    )
    whole = train(tiny(*options, "name=whole", "trainer.max_steps=8"))["replaced"]
    train(tiny(*options, "name=parts", "trainer.max_steps=3"))
    assert train(tiny(*options, "name=parts", "trainer.max_steps=8"))["replaced"] == whole
    assert whole["unreadable audio"] >= 8  # two epochs of 16
    for name in ("whole", "parts"):
        last = [line for line in lines(tmp_path / name) if "data/replaced/unreadable audio" in line][-1]
        assert last["data/replaced/unreadable audio"] == whole["unreadable audio"]
        shards = {k.split("/")[2]: v for k, v in last.items() if k.startswith("data/replaced_by_shard/")}
        assert sum(shards.values()) == whole["unreadable audio"] and set(shards) == {f"train-00000{i}.tar" for i in (0, 2, 4, 6)}
        board = EventAccumulator(str(tmp_path / name / "tensorboard"))
        board.Reload()
        assert "data/replaced_by_shard/train-000002.tar/unreadable audio" in board.Tags()["scalars"]


def test_validation_counts_nothing(tmp_path, tiny):
    samples = [make_sample("t"), make_sample("v", "val", audio=b"junk"), make_sample("w", "val")]
    config = tiny(f"data.path={data_set(tmp_path / 'data', samples)}", f"runs_dir={tmp_path}", "trainer.media_items=0")
    assert train(config)["replaced"] == {}


ONE_COUNTS = """
import os, sys
from melfusion.data.replacements import Replacements
add, counting = Replacements.add, {rank}
Replacements.add = lambda self, pairs, seen: add(self, pairs if int(os.environ.get("LOCAL_RANK", 0)) == counting else [], seen)
from melfusion.__main__ import main
sys.exit(main())
"""


def two_ranks(start, bad_set, tmp_path, *options):
    """A run on two gloo ranks → (its exit status, seconds, what it said)."""
    command = [
        python(),
        *start,
        "train",
        "tiny",
        f"data.path={bad_set}",
        f"runs_dir={tmp_path}",
        "name=two",
        "trainer.devices=2",
        "trainer.strategy=ddp",
        "trainer.media_items=0",
        *options,
    ]
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, cwd=tmp_path)
    return done.returncode, time.monotonic() - started, done.stdout + done.stderr


@pytest.mark.slow  # two trainings, one of two processes
def test_two_ranks_count_what_one_counts(bad_set, tiny, tmp_path):
    options = ("data.max_bad_ratio=0.9", "trainer.max_steps=8", "trainer.checkpoint_every_n_steps=100", "image.reading=fixed")
    assert two_ranks(["-m", "melfusion"], bad_set, tmp_path, *options)[0] == 0
    config = tiny(f"data.path={bad_set}", f"runs_dir={tmp_path}", "name=one", "trainer.media_items=0", *options)
    one, two = train(config)["replaced"], json.loads((tmp_path / "two" / "results.json").read_text())["replaced"]
    assert one == two and one["unreadable audio"] >= 8


SLOW = pytest.mark.slow  # two more processes


@pytest.mark.parametrize("rank", [pytest.param(0, marks=SLOW), 1])
def test_where_one_rank_stops_above_the_ratio_the_other_ends_too(rank, bad_set, tmp_path):
    """It must not wait for ever in its next collective."""
    (tmp_path / "start.py").write_text(ONE_COUNTS.format(rank=rank))
    options = (
        "data.max_bad_ratio=0.1",
        "trainer.max_steps=100000",
        "trainer.val_every_n_steps=90000",
        "trainer.checkpoint_every_n_steps=90000",
    )
    status, seconds, said = two_ranks([str(tmp_path / "start.py")], bad_set, tmp_path, *options)
    assert status != 0 and seconds < 60 and "data.max_bad_ratio=0.1" in said and "unreadable audio" in said
    assert not at_work_in(tmp_path)


def at_work_in(folder):
    """Numbers of the processes whose working folder it is."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):  # it has ended
            found += [link.parent.name] if link.readlink() == folder else []
    return found


def test_a_warning_names_each_reason_once(bad_set, tiny, caplog):
    config = tiny(f"data.path={bad_set}", "data.max_bad_ratio=0.9")
    module = MusicDataModule(config.data, config.audio)
    for batch, _ in zip(module.train_dataloader(), range(8), strict=False):
        module.on_after_batch_transfer(batch, 0)
    assert [r.message for r in caplog.records if "is replaced" in r.message] == caplog.messages[:1]
