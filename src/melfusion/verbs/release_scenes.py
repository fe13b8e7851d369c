"""Train every shipped part from nothing, and write it with its model card into weights/.

This takes hours on a CPU. A part whose run is finished is not trained again.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Options:
    pass


MORE = None
SECTIONS = ()
EXAMPLES = ("melfusion release-scenes", "make release-scenes")


def run(options: Options, more: list[str]) -> None:
    """The recipes of melfusion.lab, one after another."""
    from melfusion.lab.recipes import release

    release()
