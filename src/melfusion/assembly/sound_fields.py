"""Sounds that a request is conditioned on, such as a timbre: files or samples → the latents that a conditioner takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from melfusion.assembly.edit_sound import gain_of, read_sound
from melfusion.assembly.schema import Config
from melfusion.errors import ConfigError
from melfusion.media.sound_files import sound_seconds
from melfusion.models.conditioner import Conditioner
from melfusion.models.placement import Placement
from melfusion.models.system import MeLFusion
from melfusion.randomness import fixed_generator


def files_of(fields: dict[str, Any], conditioner: Conditioner, config: Config) -> list[Path]:
    """The files among the sounds that the fields name; ConfigError where one is no sound, or too short."""
    found = {name: fields[name] for name in conditioner.sounds if isinstance(fields.get(name), str | Path)}
    for name, file in found.items():
        check_length(f"{name}={file}", sound_seconds(name, file), config)
    return [Path(file) for file in found.values()]


def check_length(said: str, seconds: float, config: Config) -> None:
    """ConfigError where a sound is shorter than the clips of training may be: repeated, it would be a hum."""
    if seconds < (least := config.audio.min_duration_s):
        raise ConfigError(f"{said} lasts {seconds:.2g} s, and at least {least:g} s are wanted: give a longer sound.")


def with_latents(fields: dict[str, Any], config: Config, system: MeLFusion, placement: Placement | None) -> dict[str, Any]:
    """The fields of a request with latents (T, C) in place of each sound.

    A sound is a file, (waveform (S,) or (C, S), rate_hz), or a Music; ConfigError where it is silent or cannot be read.
    """
    files_of(fields, system.conditioner, config)
    sounds = {name: fields[name] for name in system.conditioner.sounds if name in fields}
    return fields | {name: latents_of(name, sound, config, system, placement) for name, sound in sounds.items()}


@torch.no_grad()
def latents_of(name: str, sound: Any, config: Config, system: MeLFusion, placement: Placement | None) -> Tensor:
    """What the conditioner takes of a sound, encoded; the level stays that of the file, as in the model's own pipeline.

    That pipeline draws from the posterior anew in each call. Here the noise is always the same, so that a call can be repeated.
    """
    codec, samples = system.codec, read_sound(sound, config, system, name)
    check_length(name, samples.shape[-1] / codec.sample_rate_hz, config)
    gain_of(samples, samples, config, name)  # silence is refused
    excerpt = system.conditioner.excerpt(samples, codec.sample_rate_hz)
    with (placement or Placement()).needed(codec):
        moments = codec.encode_moments(excerpt[None].to(codec.device))
        shape = codec.sample_latents(moments).shape
        noise = torch.randn(shape, generator=fixed_generator("timbre")).to(moments)
        return codec.sample_latents(moments, noise)[0].transpose(0, 1).float()
