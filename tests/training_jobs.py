"""Small trainings for the tests of guards, checkpoints, preemption and torture: in this process, or forked from a fresh one."""

import json
import os
import subprocess
from pathlib import Path

from forking import python

from melfusion.assembly.configuration import load_config
from melfusion.errors import reported
from melfusion.evaluation.scores import evaluate_run
from melfusion.torture import faults
from melfusion.torture.jobs import state
from melfusion.training.run import train


class Run:
    """One run directory of the tiny configuration on a data set; each call is one life of it, and gives its exit code."""

    def __init__(self, folder, data):
        self.folder, self.data = Path(folder), data
        self.path = self.folder / "job"

    def __call__(self, *options, plant=(), steps=6, every=1, keep=99, val=100):
        callbacks = [faults.Fault(one) if isinstance(one, str) else one for one in plant]
        overrides = [
            f"runs_dir={self.folder}",
            "name=job",
            f"data.path={self.data}",
            f"trainer.max_steps={steps}",
            f"trainer.checkpoint_every_n_steps={every}",
            f"trainer.keep_last={keep}",
            "trainer.media_items=0",
            f"trainer.val_every_n_steps={val}",
            "image.reading=fixed",  # inversion would be a quarter of the time
            *options,
        ]
        return reported("train", lambda: train(load_config("tiny", overrides), evaluate_run, callbacks))

    def file(self, step):
        return self.path / "checkpoints" / f"step-{step:09d}.ckpt"

    def state(self, step):
        """name → bytes of weights, average and optimizer."""
        return {name: values.tobytes() for name, values in state(self.file(step)).items()}

    def lines(self):
        return [json.loads(line) for line in (self.path / "metrics.jsonl").read_text().splitlines()]

    def curve(self, tag):
        """step → value"""
        return {line["step"]: line[tag] for line in self.lines() if tag in line}


def once(text):
    """A fault that strikes a single micro-batch."""
    fault = faults.Fault(text)
    strike = fault.strike

    def struck(*args):
        fault.step = -1
        strike(*args)

    fault.strike = struck
    return fault


def fresh(code, *args, timeout=300, start=None, **environment):
    """Run Python code, which may fork, in a process that has computed nothing; the last line that it prints, from JSON.

    Args:
        start: the Python to run it; a fork of one that has imported training where none is given.
    """
    env = {"PYTHONPATH": str(Path(faults.__file__).parents[2])} | os.environ | {"OMP_NUM_THREADS": "1"} | environment
    done = subprocess.run(
        [start or python(), "-c", code, *map(str, args)], capture_output=True, text=True, timeout=timeout, env=env
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
