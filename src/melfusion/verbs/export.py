"""Write what a model learned as a folder that others can load.

`melfusion.load(folder)` and `generate ckpt=folder` use it. The folder names the parts that it needs, with their digests and
licences; with whole=true it holds them, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from melfusion.verbs.checks import check_checkpoint, check_out
from melfusion.verbs.imports import heavy_imports
from melfusion.verbs.options import option


@dataclass
class Options:
    ckpt: str | None = option(None, "checkpoint file, run directory or exported folder; null: the shipped model", variable="CKPT")
    out: str = option("", "folder to write", variable="OUT", required=True)
    whole: bool = option(False, "copy the weights of all parts into the folder")
    licence: str | None = option(None, "licence of parts whose own is not known; null: such parts are refused")


MORE = None
SECTIONS = ()
EXAMPLES = ("melfusion export ckpt=runs/scenes out=my-synapse", "melfusion export ckpt=runs/scenes out=my-model whole=true")


def run(options: Options, more: list[str]) -> Path:
    """Returns the folder."""
    check_checkpoint(options.ckpt)
    check_out(Path(options.out), options.out)
    with heavy_imports():
        from melfusion.assembly.export import export
        from melfusion.assembly.load import load_system
    system, config = load_system(options.ckpt or None)
    folder = export(system, config, Path(options.out), options.whole, options.licence)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{folder}: {size / 2**20:.1f} MiB; README.md says what it needs and which licence holds.")
    print(f'Next: `make generate CKPT={folder} PROMPT="a tune in A minor"`, or melfusion.load({str(folder)!r}) in Python.')
    return folder
