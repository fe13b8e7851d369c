"""The torture finds nothing lost, finds what is planted to be lost, and counts right; it forks, so it runs in fresh processes."""

import json
import signal
import time

import pytest
import torch
from training_jobs import fresh

from melfusion.__main__ import main
from melfusion.torture import faults, report
from melfusion.torture.jobs import TortureJob, curves, differing_bits, fork, spans, trained_on, wait
from melfusion.torture.outcome import Outcome, killed, saved_by, whole
from melfusion.torture.scenarios import SCENARIOS

SOME = """
import json, sys
exec(sys.argv[3])
from melfusion.torture import report
from melfusion.torture import scenarios
chosen = [getattr(scenarios, name) for name in sys.argv[2].split(",") if name]
print(json.dumps(report.torture(int(sys.argv[1]), int(sys.argv[5]), sys.argv[4], chosen)))
"""

# Pictures are not inverted, which is a quarter of a job's work
QUICKER = """
from melfusion.torture import jobs
work = jobs.workload
jobs.workload = lambda: [*work(), "image.reading=fixed"]
"""


def tortured(points, scenarios, folder, seed=3, code=""):
    assert fresh(SOME, points, ",".join(scenarios), code, folder, seed, timeout=3000) is True
    tree = json.loads((folder / "torture.json").read_text())
    assert sum(row["injected"] for row in tree["rows"] if row["fault"].startswith("kill")) == points
    assert all(row["injected"] == row["survived"] > 0 and not row["lost"] and not row["bits"] for row in tree["rows"])
    # three kinds of kills; what is not finite gives four rows
    assert len(tree["rows"]) == 3 + len(scenarios) + 3 * ("not_finite" in scenarios)
    assert (folder / "torture.md").read_text().count("\n| ") == len(tree["rows"])


def test_a_death_of_each_kind_costs_nothing(tmp_path):
    """Other scenarios have their like in test_checkpoint_store.py, test_preemption.py, test_replacements.py and test_fsdp.py.

    The seed is one whose deaths are of all three kinds.
    """
    tortured(3, (), tmp_path / "t", seed=255, code=QUICKER)


@pytest.mark.slow  # as the test of four deaths, and each more of them is one more life of a job
def test_twenty_deaths_and_another_number_of_ranks_cost_nothing(tmp_path):
    tortured(20, ("changed_world",), tmp_path / "t")


@pytest.mark.slow  # what `make torture` does, some ten minutes
def test_two_hundred_deaths_and_every_other_fault_cost_nothing(tmp_path):
    tortured(200, [scenario.__name__ for scenario in SCENARIOS], tmp_path / "t")


# Each plants a defect into the framework before anything forks, and says which row must show it
DEFECTS = {
    "resume is off by one": (
        0,
        "changed_world",
        "lost",
        """
from melfusion.data import order
begin = order.TrainBatches.__init__
order.TrainBatches.__init__ = lambda self, m, r, w, consumed=0: begin(self, m, r, w, consumed + (1 if consumed else 0))
""",
    ),
    "the guard ignores what is not finite": (
        0,
        "not_finite",
        "bits",
        """
from melfusion.training.guard import StepGuard
judge = StepGuard.judge
StepGuard.judge = lambda self, optimizer, norm: [judge(self, optimizer, norm), setattr(optimizer, "found_inf", None)]
""",
    ),
    "checkpoints are lost": (
        0,
        "damaged_checkpoint",
        "survived",
        """
from melfusion.state.checkpoint_store import CheckpointStore
prune = CheckpointStore.prune
CheckpointStore.prune = lambda self, step: [setattr(self, "keep_last", 1), setattr(self, "keep_best", 0), prune(self, step)]
""",
    ),
    "the average is forgotten": (
        0,
        "foreign_tmpdir",
        "bits",
        """
from melfusion.training.ema import EMA
EMA.on_load_checkpoint = lambda *args: None
""",
    ),
    "nothing is saved at a signal": (
        0,
        "asked_to_leave",
        "survived",
        """
from melfusion.training.checkpoints import SaveCheckpoints
SaveCheckpoints.finish = lambda self, trainer: self.store.wait()
""",
    ),
}

QUICK = "resume is off by one"
SLOW = pytest.mark.slow  # each more defect is a torture of its own


@pytest.mark.parametrize("defect", [QUICK, *(pytest.param(name, marks=SLOW) for name in DEFECTS if name != QUICK)])
def test_a_planted_defect_is_found(tmp_path, defect):
    points, scenarios, shown, code = DEFECTS[defect]
    assert fresh(SOME, points, scenarios, QUICKER + code, tmp_path / "t", 3) is False
    rows = json.loads((tmp_path / "t" / "torture.json").read_text())["rows"]
    failed = [row for row in rows if not row["passed"]]
    assert failed and all(row["survived"] < row["injected"] if shown == "survived" else row[shown] for row in failed)


@pytest.mark.parametrize(("nothing_lost", "code"), [(True, 0), (False, 2)])
def test_the_verb_fails_when_something_was_lost(monkeypatch, nothing_lost, code):
    given = {}
    monkeypatch.setattr(report, "torture", lambda **options: [given.update(options), nothing_lost][1])
    assert main(["torture", "points=3", "seed=5"]) == code and given == {
        "points": 3,
        "seed": 5,
        "out": "runs/torture",
        "goodput": "tiny",
    }


# --- counting -------------------------------------------------------------------------------------------------------


def test_an_outcome_passes_only_when_all_survived_and_nothing_differs():
    assert Outcome("x", 2, 2).passed
    assert not any(Outcome("x", *counts).passed for counts in [(0, 0), (2, 1), (1, 2), (2, 2, 1), (2, 2, 0, 1), (2, 2, -1)])


def test_only_steps_that_count_are_trained_on(tmp_path):
    """What a life takes up again from an earlier step is undone; a torn line tells nothing."""
    job = TortureJob(tmp_path, lives=3)
    (tmp_path / "record").mkdir()

    def write(name, text):
        (tmp_path / "record" / name).write_text(text.replace("; ", "\n"))

    write("life000-rank0.txt", "resume 0 1.0; sample 0 0 a; end 1 1.1; sample 1 2 b; end 2 1.2; sample 2 4 c; ")
    write("life000-rank1.txt", "resume 0 1.0; sample 0 1 d; end 1 1.1; sample 1 3 e; sample 2 5")
    write("life002-rank0.txt", "resume 1 2.0; sample 1 2 f; end 2 2.1; sample 2 4 g; sample 2 5 h; end 3 2.2; ")
    assert trained_on(job) == {0: (0, "a"), 1: (0, "d"), 2: (1, "f"), 4: (2, "g"), 5: (2, "h")}  # 3 is lost
    assert spans(job) == [(0, 2), (1, 3)]


def save(path, w, ema=1.0, moment=2.0):
    t = torch.tensor
    torch.save(
        {
            "state_dict": {"w": t(w)},
            "ema": {"w": t(ema)},
            "optimizer_states": [{"state": {0: {"step": t(1.0), "exp_avg": t([moment])}}}],
        },
        path,
    )


def test_differing_bits_are_counted_over_weights_average_and_optimizer(tmp_path):
    a, b = tmp_path / "a.ckpt", tmp_path / "b.ckpt"
    save(a, [1.0, 2.0])
    for spoiled, bits in (({}, 0), ({"w": [1.0, -2.0]}, 1), ({"ema": -1.0}, 1), ({"moment": -2.0}, 1), ({"w": [1.0]}, 64)):
        save(b, **({"w": [1.0, 2.0]} | spoiled))
        assert differing_bits(a, b) == bits
    assert differing_bits(a, None) == differing_bits(tmp_path / "none", a) == 8 * 4 * 5 and differing_bits(None, None) == 1


def job_of(folder, steps, life=(0,)):
    """A job that trained on so many steps of one sample each, and went on from the steps of `life`."""
    (folder / "record").mkdir(parents=True)
    for number, begin in enumerate(life):
        lines = [f"resume {begin} 0", *(line for s in range(begin, steps) for line in (f"sample {s} {s} k{s}", f"end {s + 1} 0"))]
        (folder / "record" / f"life{number:03d}-rank0.txt").write_text("\n".join([*lines, ""]))
    return TortureJob(folder, lives=len(life))


def test_lost_shifted_and_surplus_samples_are_counted(tmp_path):
    reference = job_of(tmp_path / "a", 6)
    for number, (steps, lost) in enumerate(((6, 0), (4, 2), (7, 1))):
        row = Outcome("x", 1, 1)
        row.compare(job_of(tmp_path / f"b{number}", steps), reference, exact=False)
        assert (row.lost, row.survived) == (lost, 1)
    shifted = job_of(tmp_path / "c", 6)
    file = shifted.folder / "record" / "life000-rank0.txt"
    file.write_text(file.read_text().replace("sample 3 3 k3", "sample 2 3 k3"))  # the same sample in another step
    row = Outcome("x", 1, 1)
    row.compare(shifted, reference, exact=False)
    assert row.lost == 1


def test_steps_that_had_been_saved_and_are_done_again_do_not_pass(tmp_path):
    assert [saved_by(ended) for ended in range(7)] == [0, 0, 0, 2, 2, 4, 4]
    reference = job_of(tmp_path / "a", 6)
    for begin, damaged, survived in ((4, 0, 1), (3, 0, 0), (0, 0, 0), (2, 1, 1), (1, 1, 0)):
        row = Outcome("x", 1, 1)
        job = job_of(tmp_path / f"b{begin}{damaged}", 6, (0, begin))
        row.compare(job, reference, exact=False, damaged=damaged)
        assert row.survived == survived and not row.lost
        assert not whole(job)  # six steps had ended, and there is no checkpoint
    assert whole(job_of(tmp_path / "d", 2))


def test_a_rank_that_outlives_another_is_killed_and_told_apart():
    assert killed([-9]) and killed([-9, 2]) and not killed([2]) and not killed([-9, 1]) and not killed([0, -9])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("melfusion.torture.jobs.DEADLINE_S", 0.3)
        assert wait([fork(lambda: 2), fork(lambda: time.sleep(60) or 0)]) == [2, -signal.SIGKILL]
    assert wait([fork(lambda: time.sleep(60) or 0)], kill_after=0.1) == [-signal.SIGKILL]


def test_every_number_that_was_logged_is_compared_but_speed_and_memory(tmp_path):
    job = TortureJob(tmp_path)
    assert curves(job) == {}
    job.run.mkdir(parents=True)
    lines = [{"step": 1, "lr": 0.1, "train/samples_per_s": 7}, {"step": 2, "val/loss": 1, "epoch": 0, "data/wait_share": 3}]
    (job.run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert curves(job) == {(1, "lr"): 0.1, (2, "val/loss"): 1}


@pytest.mark.parametrize("text", ["nan-loss", "nan@3", "nan-loss@x", "nan-loss@3:", "nan-loss@3:1:2", ""])
def test_what_is_no_fault_is_refused(text):
    with pytest.raises(ValueError, match="is no fault; faults are nan-input, "):
        faults.Fault(text)
