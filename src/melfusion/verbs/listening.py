"""Turn the answers of a listening study into a table of OVL and REL by system, with intervals.

It reads listening-key.json and every answers*.json of the folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from melfusion.verbs.options import option


@dataclass
class Options:
    dir: str = option(
        "", "the folder of a study, which `melfusion evaluate listening=true` writes", variable="DIR", words=1, required=True
    )


MORE = None
SECTIONS = ()
EXAMPLES = ("melfusion listening runs/scenes/evaluation", "make listening DIR=runs/scenes/evaluation")


def run(options: Options, more: list[str]) -> None:
    """Print the table."""
    from melfusion.evaluation.study import report

    report(Path(options.dir))
