"""Show curves, pictures and clips of all runs in TensorBoard."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from melfusion.verbs.options import option


@dataclass
class Options:
    runs_dir: str = option("runs", "folder of the runs; that of a suite shows its rows side by side", variable="DIR")


MORE = "All else goes to TensorBoard itself."
SECTIONS = ()
EXAMPLES = ("melfusion tensorboard", "make tensorboard DIR=runs/kind", "melfusion tensorboard --port=6007 --bind_all")


def run(options: Options, more: list[str]) -> None:
    """Become TensorBoard."""
    os.execv(sys.executable, [sys.executable, "-m", "tensorboard.main", "--logdir", options.runs_dir, *more])
