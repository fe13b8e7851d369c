"""A request to leave: the state is saved, nothing is lost, the code is 75; and the lock that keeps two jobs apart."""

import contextlib
import json
import os
import signal
import subprocess
import time

import pytest
import torch
from forking import python
from lightning import Callback
from slurm_stubs import install
from training_jobs import Run, fresh

from melfusion import PREEMPTED
from melfusion.__main__ import main
from melfusion.assembly.configuration import load_config
from melfusion.assembly.run import run_directory
from melfusion.data.datamodule import MusicDataModule
from melfusion.errors import CheckpointError, ConfigError, Preempted, RankLost
from melfusion.media import pictures as image
from melfusion.state.run_directory import RunDirectory
from melfusion.training import fit
from melfusion.training import run as training_run
from melfusion.training.fit import naming_lost_ranks
from melfusion.training.loggers import JSONLines
from melfusion.training.preemption import leaving_on_signal
from melfusion.training.scalars import OF_THE_MACHINE


@pytest.fixture
def runs(tiny_corpus, tmp_path):
    """runs(name) → Run"""
    return lambda name: Run(tmp_path / name, tiny_corpus)


@pytest.fixture(scope="module")
def whole(tiny_corpus, tmp_path_factory):
    """A run of seven steps that no signal came to."""
    run = Run(tmp_path_factory.mktemp("whole"), tiny_corpus)
    assert run(steps=7, val=3, every=100) == 0
    return run


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """What was asked of `scontrol` by job 4242 of a stub SLURM whose batch script does not requeue."""
    folder = install(tmp_path / "slurm", monkeypatch)
    monkeypatch.setenv("SLURM_JOB_ID", "4242")
    return lambda: (folder / "scontrol").read_text().split() if (folder / "scontrol").is_file() else []


def numbers(run):
    return {(line["step"], tag): v for line in run.lines() for tag, v in line.items() if tag not in ("epoch", *OF_THE_MACHINE)}


QUICK = [("sigterm@2", 3, 1), ("sigterm@2", 3, 100), ("sigusr1@3", 4, 100)]
SLOW = pytest.mark.slow  # each more is two more lives of a run, by the same code as the quick ones
REST = [("sigusr1@3", 4, 1), *((f"sigterm@{saved - 1}", saved, every) for saved in (2, 5) for every in (1, 100))]


@pytest.mark.parametrize(("fault", "saved", "every"), [*QUICK, *(pytest.param(*case, marks=SLOW) for case in REST)])
def test_a_signalled_run_saves_and_goes_on_to_the_same_bits(whole, runs, capsys, scontrol, fault, saved, every):
    """The signal is read one step later, or where a checkpoint or a validation (of steps 3 and 6) wants to know at once."""
    parts = runs("parts")
    capsys.readouterr()
    # no best is kept, so that nobody else saves a validated step
    assert parts("trainer.keep_best=0", steps=7, val=3, every=every, plant=[fault]) == PREEMPTED == 75
    words = capsys.readouterr().err.strip().splitlines()[-1]
    step = saved if every == 1 or saved % 3 == 0 else saved + 1
    assert words == f"melfusion train: The run was asked to leave and has saved step {step}: the same command goes on."
    assert parts.file(step).is_file() and not parts.file(step + 1).exists()
    assert scontrol() == (["requeue", "4242"] if "usr1" in fault else [])
    assert parts(steps=7, val=3, every=every) == 0
    assert parts.state(7) == whole.state(7)
    assert numbers(parts) == numbers(whole)  # no log line is lost, of validations either
    assert len(scontrol()) == 2 * ("usr1" in fault)


class Fails(Callback):
    """An end of the run in the validation of step 3."""

    def on_validation_start(self, trainer, pl_module):
        if trainer.global_step == 3:
            raise CheckpointError("planted")


def test_a_validation_that_did_not_end_is_made_up_for(runs):
    whole, parts = runs("whole"), runs("parts")
    assert whole(steps=5, val=3) == 0
    assert parts(steps=5, val=3, every=100, plant=["sigterm@1", Fails()]) == 2
    assert parts(steps=5, val=3) == 0 and numbers(parts) == numbers(whole)


@pytest.mark.parametrize("fault", ["sigterm@2", pytest.param("sigusr1@2", marks=SLOW)])
def test_a_signal_of_the_last_step_is_obeyed_when_it_is_saved(runs, capsys, scontrol, fault):
    run = runs("job")
    assert run(steps=3, every=100, plant=[fault]) == PREEMPTED
    assert run.file(3).is_file() and not (run.path / "results.json").exists()
    assert "was asked to leave and has saved all its 3 steps: the same command goes on" in capsys.readouterr().err
    assert scontrol() == (["requeue", "4242"] if "usr1" in fault else [])
    assert run(steps=3) == 0 and (run.path / "results.json").is_file()
    assert "Resuming from step 3 of 3\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("number", "where", "words"),
    [
        (signal.SIGTERM, "ensure_corpus", "during corpus of {}: no step is saved yet, and the data set is built anew"),
        (
            signal.SIGUSR1,
            "ensure_precomputed",
            "during precompute of {}: no step is saved yet, and precomputing goes on after its last whole shard",
        ),
        (signal.SIGTERM, "evaluate_run", "during evaluation of {}: step 1 of 1 is saved, and clips that are made are kept"),
    ],
)
def test_a_signal_while_nothing_trains_ends_the_process_and_says_what_is_kept(runs, monkeypatch, capsys, number, where, words):
    module = {"ensure_corpus": training_run, "ensure_precomputed": fit}.get(where)
    if module is None:
        monkeypatch.setattr("training_jobs.evaluate_run", lambda *_: os.kill(os.getpid(), number))
    else:
        monkeypatch.setattr(module, where, lambda *_: os.kill(os.getpid(), number))
    run = runs("job")
    before = signal.getsignal(number)
    assert run("data.crop=start", "data.precompute.enabled=true", "evaluation.items=2", "judge.weights=null", steps=1) == PREEMPTED
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == f"melfusion train: {number.name} arrived {words.format(run.path)}; the same command goes on."
    assert signal.getsignal(number) is before  # all as it was


def test_a_signal_is_not_taken_for_damage_of_what_is_being_read(runs, monkeypatch):
    opened = image.Image.open

    def strike(*args, **given):
        os.kill(os.getpid(), signal.SIGTERM)
        return opened(*args, **given)

    monkeypatch.setattr(image.Image, "open", strike)
    run = runs("job")
    assert run("data.crop=start", "data.precompute.enabled=true", f"data.precompute.path={run.folder}/cache") == PREEMPTED


def test_a_second_signal_on_the_way_out_changes_nothing():
    with pytest.raises(Preempted, match="SIGTERM arrived here"), leaving_on_signal(lambda: "here"):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGUSR1)


def test_a_signal_while_the_trainer_sets_up_is_no_success(runs, monkeypatch):
    setup = MusicDataModule.setup
    monkeypatch.setattr(MusicDataModule, "setup", lambda self, stage: [setup(self, stage), os.kill(os.getpid(), signal.SIGTERM)][0])
    assert runs("job")() == PREEMPTED


def test_handlers_are_put_back_whatever_happens():
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1)]
    with pytest.raises(Preempted), leaving_on_signal(lambda: "here"):
        os.kill(os.getpid(), signal.SIGUSR1)
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1)] == before


TWO = """
import json, sys
from pathlib import Path
from melfusion.torture.faults import Fault
from melfusion.torture.jobs import TortureJob, spans
options = (f"data.path={sys.argv[2]}", "data.splits.train=16", "image.reading=fixed", "trainer.max_steps=8")
job = TortureJob(Path(sys.argv[1]), options, world=2)
codes = job.start([Fault("sigusr1@5:1")])
codes += job.start()
print(json.dumps([codes, spans(job), job.log]))
"""


def test_a_signal_to_rank_1_of_two_saves_one_step_on_both(tmp_path, tiny_corpus, scontrol):
    codes, spans, log = fresh(TWO, tmp_path / "two", tiny_corpus)
    assert codes == [75, 75, 0, 0]
    assert spans[0][1] == spans[1][0] and log.count(f"has saved step {spans[0][1]}:") == 2
    assert scontrol() == ["requeue", "4242"]  # once, by rank 0, though rank 1 had the signal


# --- the loaders of a signalled job ---------------------------------------------------------------------------------


TOLD = "import os, sys; print(os.getpid(), flush=True); from melfusion.__main__ import main; sys.exit(main(sys.argv[1:]))"


@contextlib.contextmanager
def started(folder, data, *options):
    """(the command, its process) of an endless training in a process group of its own, at work: some steps are logged."""
    endless = ("trainer.max_steps=1000000", "trainer.val_every_n_steps=100000", "trainer.checkpoint_every_n_steps=100000")
    run = (f"runs_dir={folder}", "name=job", f"data.path={data}", "trainer.media_items=0")
    call = [python(), "-c", TOLD, "train", "tiny", *run, *endless, *options]
    process = subprocess.Popen(call, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    number = int(process.stdout.readline())
    try:
        deadline, lines = time.monotonic() + 120, folder / "job" / "metrics.jsonl"
        while not (lines.is_file() and lines.read_text().count("\n") > 4):
            assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
            time.sleep(0.05)
        yield process, number
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(number, signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=SLOW)])
def test_a_signal_to_the_whole_group_leaves_the_loaders_to_the_run(tmp_path, tiny_corpus, number):
    with started(tmp_path, tiny_corpus, "data.num_workers=2") as (process, leader):
        os.killpg(leader, number)
        words = process.communicate(timeout=120)[1]
        assert process.returncode == PREEMPTED and "has saved step" in words and "DataLoader worker" not in words
        with pytest.raises(ProcessLookupError):  # nobody of the group is left
            os.killpg(leader, 0)


def test_the_loader_itself_can_still_end_its_processes(tiny, tiny_corpus):
    config = tiny(f"data.path={tiny_corpus}", "data.num_workers=1")
    loader = MusicDataModule(config.data, config.audio).spread_dataloader("val", 4)
    next(iter(loader))
    worker = loader._iterator._workers[0]
    subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)  # by anyone else
    subprocess.run(["kill", "-USR1", str(worker.pid)], check=True)
    worker.join(0.5)
    assert worker.is_alive() and len(list(loader)) == 1
    worker.terminate()
    worker.join(5)
    assert worker.exitcode == 0


# --- the lock -------------------------------------------------------------------------------------------------------


def test_a_second_job_gets_a_sentence_and_a_killed_one_frees_the_lock(tmp_path, tiny_corpus, monkeypatch, capsys):
    options = (f"runs_dir={tmp_path}", "name=job", f"data.path={tiny_corpus}", "trainer.media_items=0", "trainer.max_steps=1000000")
    monkeypatch.setattr(RunDirectory.hold.__wrapped__, "__defaults__", (0.5,))
    with started(tmp_path, tiny_corpus) as (process, holder):
        assert main(["train", "tiny", *options]) == 2
        words = capsys.readouterr().err.strip().splitlines()[-1]
        assert words.startswith(f"melfusion train: {tmp_path}/job is in use by process {holder} on ")
        assert words.endswith(": wait for it, stop it, or choose another name=….")
        os.kill(holder, signal.SIGKILL)
        process.communicate()
        with run_directory(load_config("tiny", list(options))).hold(wait_s=0.5):
            assert f"process {os.getpid()} on " in (tmp_path / "job" / ".lock").read_text()


def test_the_lock_names_the_job_and_is_free_after_it(tmp_path, tiny, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    run = run_directory(tiny(f"runs_dir={tmp_path}", "name=a"))
    with run.hold():
        with pytest.raises(ConfigError, match="in use by process .*, job 77: wait"), run.hold(wait_s=0):
            pytest.fail("two hold it")
        with run_directory(tiny(f"runs_dir={tmp_path}", "name=b")).hold(wait_s=0):
            pass
    with run.hold(wait_s=0):
        pass


def test_a_lost_rank_becomes_a_sentence_and_other_errors_stay_what_they_are(tiny, tmp_path):
    run = run_directory(tiny(f"runs_dir={tmp_path}", "name=gloom"))
    with pytest.raises(RankLost, match="lost another rank of .*gloom"), naming_lost_ranks(run):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:537] Connection reset by peer")
    with pytest.raises(RankLost), naming_lost_ranks(run):
        raise torch.distributed.DistBackendError("NCCL error")
    for error in (RuntimeError("out of memory"), Preempted("gloomy"), ConfigError("igloo.wav")):
        with pytest.raises(type(error), match=str(error)), naming_lost_ranks(run):
            raise error


# --- what was logged ------------------------------------------------------------------------------------------------


def test_lines_after_the_resumed_step_and_torn_ones_are_forgotten(tmp_path):
    file = tmp_path / "metrics.jsonl"
    log = JSONLines(file)
    for step in (None, 0, 1, 2, 3, 2):
        log.log_metrics({"a": step or 0, "b": float("nan"), "c": torch.tensor(float("inf"))}, step)
    with file.open("a") as out:
        out.write('{"step": 1, "a"')
    JSONLines(file, 2)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["step"] for line in lines] == [None, 0, 1, 2, 2] and all(line["b"] is line["c"] is None for line in lines)
    JSONLines(file)
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [None, 0]
