"""A training with faults, in a process that may die of them.

`python -m melfusion.torture.child FOLDER:LIFE CONFIG key=value …` starts one in a fresh process, with a Recorder (goodput.py).
`train_with` is called in children that are forked from a process that has imported everything (jobs.py).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from lightning import Callback

from melfusion.assembly.configuration import load_config
from melfusion.errors import reported
from melfusion.torture.faults import Recorder
from melfusion.training.run import train


def train_with(callbacks: Sequence[Callback], config: str, overrides: list[str]) -> int:
    """Train like `melfusion train`, without evaluation; returns its exit code. The sentence of an error is printed."""
    return reported("train", lambda: train(load_config(config, overrides), callbacks=callbacks))


def main(argv: list[str]) -> int:
    recorded, config, *overrides = argv
    folder, _, life = recorded.rpartition(":")
    return train_with([Recorder(Path(folder), int(life))], config, overrides)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
