"""What became worse since an older file of `melfusion bench`, beyond the noise of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from melfusion.bench.timing import UNITS
from melfusion.errors import ConfigError, DamagedFile, MelfusionError
from melfusion.files import read_json

DRIFT = 0.1  # share of the median by which two processes differ anyhow: memory lies elsewhere, the machine is warmer

DRIFT_POINTS = 2.0  # the same for a figure in percent, which may be near 0


class Slower(MelfusionError, RuntimeError):
    """A figure is worse than before: which, and by how much."""


def read(file: Path, now: dict[str, Any]) -> dict[str, Any]:
    """An older file of the same size, on the same device, as `now`; ConfigError or DamagedFile where it is none."""
    before = read_json(file, "compare=FILE takes the JSON file of an older `melfusion bench`")
    if not isinstance(before, dict) or not isinstance(before.get("sections"), dict):
        raise DamagedFile(f"{file} holds no figures of `melfusion bench`: give the JSON file that it wrote.")
    for key in ("size", "device"):
        if before.get(key) != now[key]:
            raise ConfigError(
                f"compare={file} was measured with {key} {before.get(key)}, and this is {now[key]}: compare like with like."
            )
    return before


def worse(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """A phrase for each figure of both that is worse now."""
    found = []
    for section, figures in now["sections"].items():
        for label, new in figures.items():
            old = before["sections"].get(section, {}).get(label)
            if old is not None and (words := _worse(old, new)):
                found.append(f"{section} / {label} {words}")
    return found


def _worse(old: dict[str, Any], new: dict[str, Any]) -> str:
    """In words; "" where it is not worse, or by no more than both interquartile ranges and the drift between processes."""
    unit, change = new["unit"], new["median"] - old["median"]
    loss = -change if UNITS[unit] else change
    noise = sum(figure["quartiles"][1] - figure["quartiles"][0] for figure in (old, new))
    drift = DRIFT_POINTS if unit == "%" else DRIFT * abs(old["median"])
    return f"{old['median']:.3g} → {new['median']:.3g} {unit}" if loss > max(noise, drift) else ""
