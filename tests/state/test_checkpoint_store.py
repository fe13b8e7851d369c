"""Checkpoints on disk: whole or not at all, streamed, checked, kept and passed over; what a full disk and a death leave."""

import errno
import hashlib
import json
import os
import re
import threading
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from training_jobs import Run, fresh

from melfusion.errors import CheckpointError
from melfusion.files import mapped
from melfusion.state import checkpoint_store
from melfusion.state.checkpoint_store import CheckpointStore, newest, read_index, write_index
from melfusion.torture.jobs import fork, wait
from melfusion.training import checkpoints
from melfusion.training.checkpoints import SaveCheckpoints


def stored(step, value=None, size=4000):
    """What a run of one tensor would save."""
    return {"global_step": step, "state_dict": {"w": torch.full((size,), float(step if value is None else value))}}


def save(store, step, **kwargs):
    store.save_checkpoint(stored(step, **kwargs), store.path(step))
    assert store.failure is None


def loaded(path):
    tree = torch.load(path, weights_only=True)
    return tree["global_step"], tree["state_dict"]["w"].unique().tolist()


def names(folder):
    return sorted(p.name for p in Path(folder).iterdir())


# --- writing --------------------------------------------------------------------------------------------------------


def test_a_tree_is_rebuilt_with_its_own_kinds():
    tree = {"a": [1, (2, OrderedDict(b=3))], "c": Path("p")}
    made = mapped(lambda leaf: leaf * 2 if isinstance(leaf, int) else leaf, tree)
    assert made == {"a": [2, (4, OrderedDict(b=6))], "c": Path("p")} and type(made["a"][1][1]) is OrderedDict
    assert tree["a"][0] == 1


def test_the_index_holds_step_size_and_the_digest_of_the_file(tmp_path):
    store = CheckpointStore(tmp_path)
    save(store, 3)
    path = tmp_path / "step-000000003.ckpt"
    assert newest(tmp_path) == path and loaded(path) == (3, [3.0]) and names(tmp_path) == ["index.json", path.name]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_index(tmp_path) == {path.name: {"step": 3, "bytes": path.stat().st_size, "sha256": digest}}


GROWTH = """
import json, resource, sys, torch
from pathlib import Path
from melfusion.state.checkpoint_store import CheckpointStore
from melfusion.state.checkpoint_store import newest
def peak():  # in MiB; ru_maxrss would be that of the parent where it was larger
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) / 1024
store = CheckpointStore(Path(sys.argv[1]), asynchronous=sys.argv[2] == "async")
state = {"global_step": 1, "state_dict": {str(i): torch.rand(2**20) for i in range(75)}}  # of 4 MiB each
before = peak()
store.save_checkpoint(state, store.path(1))
store.wait()
print(json.dumps([peak() - before, newest(store.folder).stat().st_size / 2**20, store.failure]))
"""


@pytest.mark.slow  # a state of hundreds of MiB
def test_tensors_stream_without_a_second_copy_of_the_state(tmp_path):
    grown, size, failure = fresh(GROWTH, tmp_path, "here")
    assert failure is None and size > 299 and grown < 30
    grown, size, failure = fresh(GROWTH, tmp_path / "b", "async")  # one copy is what that costs
    assert failure is None and size > 299 and 290 < grown < 340


def test_each_file_and_name_is_synced_before_the_next(tmp_path, monkeypatch):
    events, fsync, replace = [], os.fsync, Path.replace

    def name(handle):
        return Path(f"/proc/self/fd/{handle}").readlink().name

    monkeypatch.setattr(os, "fsync", lambda handle: [events.append(f"sync {name(handle)}"), fsync(handle)][1])
    monkeypatch.setattr(Path, "replace", lambda a, b: [events.append(f"name {Path(b).name}"), replace(a, b)][1])
    save(CheckpointStore(tmp_path / "c"), 3)
    file = "step-000000003.ckpt"
    part = f"sync .{file}.part{os.getpid()}"
    assert events == [part, f"sync .index.json.part{os.getpid()}", "name index.json", "sync c", part, f"name {file}", "sync c"]


def dies(folder, at):
    """Save step 2 in a child that dies: at a share of the file's bytes, or at `index`, `rename` or `done`."""

    def live():
        store, written = CheckpointStore(folder), [0]
        write, replace = checkpoint_store.Digesting.write, Path.replace

        def counted(self, data):
            written[0] += len(data)
            if not isinstance(at, str) and written[0] > at * 17_000:
                self.file.write(data[: len(data) // 2])
                self.file.flush()
                os._exit(9)
            return write(self, data)

        def renamed(self, target):
            kind = "rename" if str(target).endswith(".ckpt") else "index"
            if at == kind:
                os._exit(9)
            made = replace(self, target)
            if at == "done" and kind == "rename":
                os._exit(9)
            return made

        checkpoint_store.Digesting.write, Path.replace = counted, renamed
        store.save_checkpoint(stored(2), store.path(2))
        return 0

    return wait([fork(live)]) == [9]


@pytest.mark.parametrize("at", [0, 0.01, 0.3, 0.6, 0.9, 0.97, "index", "rename", "done"])
def test_a_death_at_any_point_leaves_a_whole_checkpoint(tmp_path, at):
    save(CheckpointStore(tmp_path), 1)
    assert dies(tmp_path, at)
    step = 2 if at == "done" else 1
    assert loaded(newest(tmp_path)) == (step, [float(step)])
    store = CheckpointStore(tmp_path)
    store.clean()
    assert not list(tmp_path.glob(".*.part*"))
    save(store, 2)
    assert loaded(newest(tmp_path)) == (2, [2.0])


def test_the_temporary_directory_plays_no_part(tmp_path, monkeypatch):
    for folder in ("/nowhere", str(tmp_path / "other")):
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr("tempfile.tempdir", None)
        save(CheckpointStore(tmp_path / "c"), 1)
    assert names(tmp_path) == ["c"] and loaded(newest(tmp_path / "c")) == (1, [1.0])


# --- a full disk ----------------------------------------------------------------------------------------------------

FULL = """
import json, resource, sys
from pathlib import Path
import torch
from melfusion.state.checkpoint_store import CheckpointStore
from melfusion.state.checkpoint_store import newest
store = CheckpointStore(Path(sys.argv[1]))
make = lambda step: {"global_step": step, "state_dict": {"w": torch.full((4000,), float(step))}}
store.save_checkpoint(make(1), store.path(1))
size = store.path(1).stat().st_size
limit = int(float(sys.argv[2]) * size)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
store.save_checkpoint(make(2), store.path(2))
print(json.dumps([store.failure, newest(store.folder).name]))
"""


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.99])
def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path, share):
    failure, name = fresh(FULL, tmp_path, share)
    assert name == "step-000000001.ckpt" and loaded(tmp_path / name) == (1, [1.0])
    assert names(tmp_path) == ["index.json", name]  # no part of anything is left
    assert failure == (
        f"{tmp_path}/step-000000002.ckpt could not be written (the disk is full): the checkpoints before it are "
        "whole; free some space and run the same command again, which goes on from the newest of them."
    )


def test_a_disk_that_fills_between_file_and_index_is_told_as_well(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path, keep_last=1, keep_best=0)
    save(store, 1)
    real, calls, failing = checkpoint_store.write_index, [], [1]

    def full(folder, index):
        calls.append(1)
        if len(calls) == failing[0]:
            (folder / ".index.json.part1").touch()
            raise OSError(errno.ENOSPC, "No space left on device")
        real(folder, index)

    monkeypatch.setattr(checkpoint_store, "write_index", full)
    for failing[0] in (1, 2):  # the entry's, and that after pruning
        calls.clear()
        store.failure = None
        store.save_checkpoint(stored(2), store.path(2))
        assert "the disk is full" in store.failure and not list(tmp_path.glob(".*.part*")) and newest(tmp_path)
    calls.clear()
    failing[0], store.failure = 1, None
    store.score(2, 0.5)
    assert "index.json could not be written (the disk is full)" in store.failure and newest(tmp_path) == store.path(2)


RANKS = """
import json, resource, sys
from pathlib import Path
from melfusion.torture.jobs import TortureJob
job = TortureJob(Path(sys.argv[1]), (f"data.path={sys.argv[2]}", "data.splits.train=16", "image.reading=fixed"), world=2)
codes = job.start(before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000)))
print(json.dumps([codes, job.log]))
"""


@pytest.mark.slow  # two processes that wait for one another
def test_what_rank_0_cannot_write_ends_every_rank_with_that_sentence(tmp_path, tiny_corpus):
    codes, log = fresh(RANKS, tmp_path, tiny_corpus)
    assert codes == [2, 2] and log.count("step-000000002.ckpt could not be written (the disk is full)") == 2


# --- what is kept ---------------------------------------------------------------------------------------------------


def test_the_last_and_the_best_are_kept(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=2, keep_best=2)

    def steps():
        return sorted(entry["step"] for entry in read_index(tmp_path).values())

    for step, loss in enumerate([5.0, 1.0, None, 2.0, 3.0, 4.0, None], 1):
        save(store, step)
        if loss is not None:
            store.score(step, loss)
    assert steps() == [2, 4, 6, 7] and store.best_loss() == 1.0  # losses 1 and 2, and the newest two
    assert names(tmp_path) == ["index.json", *(f"step-{s:09d}.ckpt" for s in steps())]
    store.score(7, 0.5)
    assert steps() == [2, 6, 7] and store.best_loss() == 0.5


def test_what_lies_after_the_step_of_the_run_does_not_push_out_what_is_whole(tmp_path):
    """After a fall back to step 2, damaged files of later steps are not the newest ones to keep."""
    store = CheckpointStore(tmp_path, keep_last=2, keep_best=0)
    for step in (2, 4, 6):
        save(store, step)
    for step in (4, 6):
        store.path(step).write_bytes(b"damaged")
    save(CheckpointStore(tmp_path, keep_last=2, keep_best=0), 3)
    assert newest(tmp_path) == store.path(3) and [e["step"] for e in read_index(tmp_path).values()] == [3]


# --- which one is taken up ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda data: data[:-1], "it has .* bytes of"),
        (lambda data: data[: len(data) // 2], "it has .* bytes of"),
        (lambda data: data[:5000] + bytes([data[5000] ^ 4]) + data[5001:], "its SHA-256 is not"),
        (lambda data: b"", "it has 0 bytes of"),
    ],
)
def test_a_damaged_newest_is_named_and_passed_over(tmp_path, caplog, spoil, reason):
    store = CheckpointStore(tmp_path)
    for step in (1, 2):
        save(store, step)
    store.path(2).write_bytes(spoil(store.path(2).read_bytes()))
    assert newest(tmp_path) == store.path(1) and newest(tmp_path, before=2) == store.path(1)
    assert re.search(f"{store.path(2)} is passed over: {reason}", caplog.text)
    store.path(1).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"holds no checkpoint that is whole \(step-000000002.ckpt, step-000000001.ckpt are"):
        newest(tmp_path)


def test_before_looks_at_steps_and_an_empty_folder_has_none(tmp_path):
    assert newest(tmp_path / "none") is None
    store = CheckpointStore(tmp_path, keep_last=9)
    for step in (2, 4, 10):
        save(store, step)
    assert [newest(tmp_path, before=b) for b in (11, 10, 4, 2)] == [store.path(10), store.path(4), store.path(2), None]


@pytest.mark.parametrize("index", [None, "{", "[]", '{"last.ckpt": {}}'])
def test_files_without_an_index_are_taken_by_their_age(tmp_path, index):
    for age, name in enumerate(("first.ckpt", "last.ckpt")):
        torch.save(stored(age), tmp_path / name)
        os.utime(tmp_path / name, (age, age))
    if index:
        (tmp_path / "index.json").write_text(index)
    assert newest(tmp_path) == tmp_path / "last.ckpt"
    (tmp_path / "last.ckpt").write_bytes((tmp_path / "last.ckpt").read_bytes()[:-30])
    assert newest(tmp_path) == tmp_path / "first.ckpt"
    save(CheckpointStore(tmp_path), 1)
    assert newest(tmp_path).name == "step-000000001.ckpt"


def test_an_entry_without_its_file_is_no_checkpoint(tmp_path):
    store = CheckpointStore(tmp_path)
    save(store, 1)
    write_index(tmp_path, read_index(tmp_path) | {"step-000000002.ckpt": {"step": 2, "bytes": 1, "sha256": ""}})
    assert newest(tmp_path) == store.path(1)


# --- asynchronous ---------------------------------------------------------------------------------------------------


@pytest.fixture
def slow(monkeypatch):
    """Writes wait until the returned event is set."""
    go, inner = threading.Event(), CheckpointStore._write
    monkeypatch.setattr(CheckpointStore, "_write", lambda self, *args: (go.wait(20), inner(self, *args))[1])
    return go


def test_training_goes_on_while_a_copy_is_written(tmp_path, slow):
    store = CheckpointStore(tmp_path, asynchronous=True)
    state = stored(1) | {"callbacks": {"losses": [1.0]}}
    store.save_checkpoint(state, store.path(1))
    state["state_dict"]["w"].fill_(-1)
    state["callbacks"]["losses"].append(2.0)
    assert newest(tmp_path) is None
    slow.set()
    store.teardown()
    assert loaded(newest(tmp_path)) == (1, [1.0])
    assert torch.load(newest(tmp_path), weights_only=True)["callbacks"] == {"losses": [1.0]}


def broken(self, data):
    raise OSError(errno.EIO, "I/O error")


def test_an_error_of_the_thread_is_the_same_sentence(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path, asynchronous=True)
    saver = SaveCheckpoints(store, 1, 100)
    trainer = SimpleNamespace(
        global_step=1,
        strategy=SimpleNamespace(broadcast=lambda x: x),
        save_checkpoint=lambda path: store.save_checkpoint(stored(trainer.global_step), path),
    )
    monkeypatch.setattr(checkpoint_store.Digesting, "write", broken)
    with pytest.raises(CheckpointError, match=r"step-000000001.ckpt could not be written \(.*I/O error\): .*correct that"):
        saver.save(trainer)  # which may learn of it already
        saver.finish(trainer)
    assert names(tmp_path) == []


def test_an_asynchronous_run_is_the_same_to_the_bit(tiny_corpus, tmp_path):
    runs = [Run(tmp_path / name, tiny_corpus) for name in ("here", "thread")]
    for run, option in zip(runs, ("false", "true"), strict=True):
        assert run(f"trainer.async_checkpoints={option}", steps=4, every=1) == 0
    assert all(runs[0].state(step) == runs[1].state(step) for step in range(1, 5))


# --- when ----------------------------------------------------------------------------------------------------------


def test_a_validated_step_is_saved_after_its_validation_and_the_best_is_kept(tiny_corpus, tmp_path, monkeypatch):
    run, order = Run(tmp_path, tiny_corpus), []
    write, log = CheckpointStore._write, checkpoints.SaveCheckpoints.on_validation_end
    monkeypatch.setattr(CheckpointStore, "_write", lambda s, c, p: [order.append(f"save {c['global_step']}"), write(s, c, p)][1])
    monkeypatch.setattr(
        SaveCheckpoints, "on_validation_end", lambda s, t, m: [order.append(f"validated {t.global_step}"), log(s, t, m)][1]
    )
    assert run(steps=6, every=2, val=3, keep=1) == 0
    # 3 is saved as the best so far though it is not due; 6 is due and validated, and validated once more at the end
    assert order == ["save 2", "validated 3", "save 3", "save 4", "validated 6", "save 6", "validated 6"]
    losses, index = run.curve("val/loss"), json.loads((run.path / "checkpoints" / "index.json").read_text())
    best = min((3, 6), key=losses.get)
    assert {entry["step"] for entry in index.values()} == {best, 6}
    assert {e["step"]: e["loss"] for e in index.values()} == pytest.approx({s: losses[s] for s in {best, 6}})
