"""What a published model was made to be sampled with: its scheduler, and settings that its kind and its folder name."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import diffusers

from melfusion.assembly import own_settings
from melfusion.assembly.own_settings import SCHEDULER, read
from melfusion.assembly.schema import Config
from melfusion.assembly.weights import weights_folder
from melfusion.errors import ConfigError, WeightsError
from melfusion.models.backbones.made_for import MadeFor
from melfusion.models.diffusion.options import DiffusionConfig
from melfusion.models.published import loaded

log = logging.getLogger(__name__)


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
    if wrong := {key: own for key, own in noise_schedule(made.config).items() if here(config, key, own) != own}:
        raise ConfigError(f"{folder / SCHEDULER} was made for {listed(wrong)}, and the configuration has others: give these.")
    return made


def noise_schedule(given: Any) -> dict[str, Any]:
    """The options of `diffusion` that a scheduler's configuration decides."""
    names = {f.name for f in dataclasses.fields(DiffusionConfig)} - {"kind"}
    return {f"diffusion.{name}": given[name] for name in sorted(names) if name in given}


def own(config: Config) -> MadeFor:
    """What the model of these weights was made for, and what its folder does not say (own_settings.py)."""
    folder = weights_folder(config, "denoiser")
    return ({}, {}) if folder is None else own_settings.own(config, folder)


def differences(config: Config) -> dict[str, Any]:
    """What of `own` the configuration has otherwise, without what the folder does not say."""
    values, unsaid = own(config)
    return {key: value for key, value in values.items() if key not in unsaid and here(config, key, value) != value}


def warn(config: Config) -> None:
    """Log what differs: a model that is sampled in another way than it was made for sounds worse, and nothing else tells why.

    And what the folder does not say, where the configuration has a default of ours.
    """
    weights, (values, unsaid) = config.denoiser.weights, own(config)
    if found := differences(config):
        log.warning("%s was made for other settings than the configuration's: give %s.", weights, listed(found, " "))
    for words in dict.fromkeys(unsaid.values()):
        keys = [key for key, said in unsaid.items() if said == words]
        if all(here(config, key, None) in (values[key], config.denoiser.OWN[key]) for key in keys):
            log.warning("%s: %s.", weights, words)


def here(config: Config, key: str, default: Any) -> Any:
    """What the configuration has; `default` where its kinds have no such key."""
    section, name = key.split(".")
    return getattr(getattr(config, section), name, default)


def listed(values: dict[str, Any], between: str = ", ") -> str:
    return between.join(f"{key}={value}" for key, value in values.items())
