"""Kill and disturb small trainings many times, and print a table of what was lost.

The exit code is 0 only where nothing was lost.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from melfusion.verbs.options import option


@dataclass
class Options:
    points: int = option(200, "how many times a training is killed", least=0)
    seed: int = option(0, "seed of the times at which it is killed", least=0)
    out: str = option("runs/torture", "folder of the jobs and of torture.md; it is emptied first")
    goodput: str = option("tiny", "configuration whose useful share of time is measured under kills; empty: none")


MORE = None
SECTIONS = ()
EXAMPLES = ("melfusion torture", "melfusion torture points=20 seed=1 goodput=")


def run(options: Options, more: list[str]) -> None:
    """All scenarios in turn."""
    from melfusion.torture.report import torture
    from melfusion.torture.scenarios import TortureError

    if not torture(**dataclasses.asdict(options)):
        raise TortureError("A fault cost something: see the table.")
