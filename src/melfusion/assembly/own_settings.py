"""What the folder of a published model says of how it is sampled. No heavy imports: configurations are read with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from melfusion.assembly.schema import Config
from melfusion.errors import WeightsError
from melfusion.models.backbones.made_for import MadeFor

SCHEDULER = Path("scheduler", "scheduler_config.json")  # in the folder of a pipeline

NETWORK = (Path("transformer", "config.json"), Path("config.json"))  # in that of a pipeline, or of the network alone

NO_PATH = ("", "hub", "run", "shipped")  # what stands before the colon of weights that are no path


def local_folder(config: Config) -> Path | None:
    """That of denoiser.weights where it is a path; nothing is fetched, so that a configuration depends on no cache."""
    base, _, sub = (config.denoiser.weights or "").partition(":")
    return None if base in NO_PATH or not Path(base, sub).is_dir() else Path(base, sub)


def own(config: Config, folder: Path | None) -> MadeFor:
    """Dotted key → the value that the model of these weights was made for; and a sentence for each that its folder does not decide.

    Both are empty for a model that is trained from nothing.

    Args:
        folder: of the weights; None where it is not there, and then the values are those of the kind.
    """
    denoiser = config.denoiser
    trained_here = (denoiser.weights or "").startswith(("run:", "shipped"))
    other_kind = denoiser.OWN.get("diffusion.kind") != config.diffusion.kind
    if denoiser.weights is None or (trained_here and other_kind):
        return {}, {}
    return denoiser.made_for(*files_beside(folder))


def files_beside(folder: Path | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """config.json of the network and that of the scheduler; empty where there is none."""
    if folder is None:
        return {}, {}
    files = next((folder / name for name in NETWORK if (folder / name).is_file()), None), folder / SCHEDULER
    network, scheduler = (read(file) if file is not None and file.is_file() else {} for file in files)
    return network, scheduler


def read(file: Path) -> dict[str, Any]:
    try:
        tree = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{file} cannot be read ({type(error).__name__}): copy the folder again.") from error
    return tree if isinstance(tree, dict) else {}
