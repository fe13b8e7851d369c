"""Names that stay in their folders, text that stays in its line, and amounts that would run for years. No heavy imports."""

from __future__ import annotations

import unicodedata
from typing import Any

from melfusion.errors import ConfigError
from melfusion.schema import Config

LONGEST_NAME = 200  # bytes: room is left for what locks and half-written files add to it


def check_names(config: Config) -> None:
    """The run's name and folder; raises ConfigError."""
    if config.name is not None:
        one_name("name", config.name)
    if not config.runs_dir:
        raise ConfigError("runs_dir is empty: name a folder, such as runs_dir=runs.")
    one_line("runs_dir", config.runs_dir)
    for name in config.stages:
        one_name("stages", name)


def check_limits(config: Config) -> None:
    """Steps that no schedule has, and corpora too large to be meant; raises ConfigError."""
    steps, most = config.sampling.num_inference_steps, config.diffusion.num_train_timesteps
    if steps > most:
        raise ConfigError(f"sampling.num_inference_steps={steps} must be at most diffusion.num_train_timesteps={most}.")
    if (few := min(config.data.splits.values(), default=0)) < 0:
        raise ConfigError(f"data.splits holds {few}: a number of scenes is at least 0.")
    if config.data.source == "scenes":
        check_scenes("data.splits", sum(config.data.splits.values()), config)
    if config.ablation.corpus_test == "fresh":  # now, and not when all rows are trained
        check_scenes("ablation.items", 2 * config.ablation.items, config)


def check_scenes(key: str, n: int, config: Config) -> None:
    """Refuse to draw more scenes than `data.max_scenes`."""
    if n > (most := config.data.max_scenes):
        raise ConfigError(f"{key} asks for {n} scenes, more than data.max_scenes={most}: give fewer, or data.max_scenes={n} where "
                          "they are really wanted.")  # fmt: skip


def one_name(key: str, name: str) -> str:
    """`name` where it is one component of a path, so that what is made under it stays in its folder; else ConfigError."""
    one_line(key, name)
    if not name.strip() or name.startswith(".") or "/" in name or "\\" in name or len(name.encode(errors="replace")) > LONGEST_NAME:
        raise ConfigError(f"{key}={name[:LONGEST_NAME]!r} is no name of a folder: give one without slashes that does not begin "
                          f"with a dot, of at most {LONGEST_NAME} bytes.")  # fmt: skip
    return name


def one_line(key: str, value: Any) -> None:
    """ConfigError where a text, or one inside a list or dict, holds a line break or another control character."""
    if isinstance(value, dict | list):
        for item in [*value, *value.values()] if isinstance(value, dict) else value:
            one_line(key, item)
    elif isinstance(value, str) and (bad := [c for c in value if unicodedata.category(c) in ("Cc", "Zl", "Zp")]):
        raise ConfigError(f"{key}={value[:80]!r} holds the control character {bad[0]!r}: leave it out.")
