"""What a published model was made to be sampled with: its scheduler, and settings that its kind and its folder name."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import diffusers

from melfusion.assembly.schema import Config
from melfusion.assembly.weights import weights_folder
from melfusion.errors import ConfigError, WeightsError
from melfusion.models.diffusion.options import DiffusionConfig
from melfusion.models.published import loaded

log = logging.getLogger(__name__)

SCHEDULER = Path("scheduler", "scheduler_config.json")  # in the folder of a pipeline


def scheduler(config: Config) -> Any:
    """The scheduler that came with denoiser.weights, where sampling.sampler asks for it; else None.

    ConfigError or WeightsError where there is none, or where it was made for another noise schedule than the configuration's.
    """
    if config.sampling.sampler != "published":
        return None
    folder = weights_folder(config, "denoiser")
    if folder is None and config.denoiser.weights is not None:  # sizes alone are wanted
        return None
    if folder is None or not (folder / SCHEDULER).is_file():
        raise ConfigError(
            f"sampling.sampler=published needs {SCHEDULER} in the folder of denoiser.weights={config.denoiser.weights}: give the "
            "folder of a whole pipeline, or another sampler."
        )
    name = str(read(folder / SCHEDULER).get("_class_name"))
    cls: Any = getattr(diffusers, name, None) if name.endswith("Scheduler") else None
    if cls is None:
        raise WeightsError(f"{folder / SCHEDULER} names {name}, which is no scheduler of diffusers: give another sampling.sampler.")
    made = loaded(cls, folder / SCHEDULER.parent)
    if wrong := {key: own for key, own in noise_schedule(made.config).items() if different(config, key, own)}:
        raise ConfigError(f"{folder / SCHEDULER} was made for {listed(wrong)}, and the configuration has others: give these.")
    return made


def noise_schedule(given: Any) -> dict[str, Any]:
    """The options of `diffusion` that a scheduler's configuration decides."""
    names = {f.name for f in dataclasses.fields(DiffusionConfig)} - {"kind"}
    return {f"diffusion.{name}": given[name] for name in sorted(names) if name in given}


def own(config: Config) -> dict[str, Any]:
    """Dotted key → the value that the model of these weights was made for; empty for a model that is trained from nothing."""
    if config.denoiser.weights is None or (folder := weights_folder(config, "denoiser")) is None:
        return {}
    values = dict(config.denoiser.OWN)
    given = read(folder / SCHEDULER) if (folder / SCHEDULER).is_file() else {}
    if config.denoiser.kind == "stable_audio_3" and given.get("stochastic_sampling") is False:  # not distilled
        values |= {"sampling.sampler": "euler", "sampling.num_inference_steps": 100}
        values.pop("sampling.guidance_scale")
    transformer = folder / "transformer" / "config.json"
    network = read(transformer) if transformer.is_file() else {}
    if network.get("is_turbo") or network.get("model_version") == "turbo":  # guidance is in its weights
        values |= {"sampling.guidance_scale": 1.0}
    return values


def differences(config: Config) -> dict[str, Any]:
    """What of `own` the configuration has otherwise."""
    return {key: value for key, value in own(config).items() if different(config, key, value)}


def warn(config: Config) -> None:
    """Log what differs: a model that is sampled in another way than it was made for sounds worse, and nothing else tells why."""
    if found := differences(config):
        log.warning("%s was made for other settings than the configuration's: %s.", config.denoiser.weights, listed(found))


def different(config: Config, key: str, value: Any) -> bool:
    section, name = key.split(".")
    here = getattr(getattr(config, section), name, None)
    return here is not None and here != value


def listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items())


def read(file: Path) -> dict[str, Any]:
    try:
        tree = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{file} cannot be read ({type(error).__name__}): copy the folder again.") from error
    return tree if isinstance(tree, dict) else {}
