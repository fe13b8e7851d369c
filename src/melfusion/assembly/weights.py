"""Where a configuration's weights lie, and whether they fit its audio."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch

from melfusion.assembly.schema import Config
from melfusion.errors import WeightsError
from melfusion.models.device import only_sizes
from melfusion.models.licences import ALLOWS, PUBLISHED, UNKNOWN
from melfusion.models.weights import resolve

MEL = ("sample_rate_hz", "n_fft_samples", "hop_length_samples", "n_mels", "f_min_hz", "f_max_hz")  # keys of a kind of log-mel


def check_audio(made_for: dict, config: Config, name: str) -> None:
    """A part that reads log-mels fits one kind of them."""
    for key in MEL:
        if made_for[key] != (here := getattr(config.audio, key)):
            raise WeightsError(
                f"{name}.weights={getattr(config, name).weights!r} was trained for audio.{key}="
                f"{made_for[key]}, but it is {here} here: choose another {name} or that audio."
            )
    check_front_end(made_for, config, name)


TANGO_FRONT_END = {"framing": "centred", "level": "peak"}  # of the log-mels that Tango's UNet was trained on (media/sound.py)

FRONT_END = {"framing": "hifigan", "level": "rms"}  # of parts that were written before these keys were there


def check_front_end(made_for: dict, config: Config, name: str) -> None:
    """WeightsError where log-mels are framed or levelled in another way than a part was trained with."""
    for key, before in FRONT_END.items():
        if (was := made_for.get(key, before)) != (here := getattr(config.audio, key)):
            raise WeightsError(
                f"{name}.weights={getattr(config, name).weights!r} was trained for audio.{key}={was}, but it is "
                f"{here} here: choose another {name} or audio.{key}={was}."
            )


def weights_folder(config: Config, name: str) -> Path | None:
    """Where a part's weights lie; None where it has none, or where they are on the hub and only sizes are wanted."""
    weights = getattr(config, name).weights
    if weights is None:
        return None
    folder = weights.partition(":")[0]
    absent = folder in config.sources and not Path(folder).is_dir()
    if only_sizes() and (absent or weights.startswith("hub:")):
        return None
    if absent:
        source = config.sources[folder]
        allows = ALLOWS[PUBLISHED.get(source.partition("@")[0], UNKNOWN)]
        raise WeightsError(
            f"{name}.weights={weights}: there is no folder {folder}, which is {source} of the hub ({allows}): run `melfusion "
            "fetch-weights` with this configuration where there is a network, or copy that repository there."
        )
    return resolve(weights, name, config.runs_dir, getattr(getattr(config, name), "kind", ""))


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random init of all parts from one seed, without touching the caller's generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
