"""The one way to load a configuration: base chain → schema → overrides → checks."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from melfusion.assembly.check import check, check_words
from melfusion.assembly.schema import Config, to_dict
from melfusion.config.check import flatten, valid_keys
from melfusion.config.load import base_chain, config_path, laid_over, merge, read_tree, to_object

log = logging.getLogger(__name__)


def load_config(names: str, overrides: list[str] | None = None) -> Config:
    """Names of configs, comma-separated (each laid over the one before), and a dotlist → a checked Config."""
    parts = [n for n in names.split(",") if n]
    merged = OmegaConf.structured(Config)
    for i, part in enumerate(parts):
        # laid over another, a file brings its own keys only: its base would undo what lies below
        path = config_path(part)
        for file, tree in base_chain(path) if i == 0 else [(path, read_tree(path))]:
            merged = merge(merged, tree, str(file))
    if merged.name is None:
        merged.name = "-".join(Path(p).stem for p in parts)
    return _overridden(merged, overrides or [])


def override(config: Config, overrides: list[str]) -> Config:
    """A dotlist laid over a configuration."""
    return _overridden(OmegaConf.structured(config), overrides)


def _overridden(merged: DictConfig, overrides: list[str]) -> Config:
    path = OmegaConf.select(merged, "data.path", throw_on_resolution_failure=False)
    config = laid_over(merged, overrides)
    if config.data.path != path and not any(item.startswith("data.draw=") for item in overrides):
        config.data.draw = False  # the user names a data set, which a typing error must not fill with drawn scenes
    check(config)
    return config


def from_dict(tree: dict[str, Any]) -> Config:
    """The plain tree a checkpoint or a run directory stores → Config; keys that this version no longer has are logged."""
    known, kept = set(valid_keys(Config)), {}
    for key, value in flatten(tree).items():
        # below a known key lie the entries of a dict, such as data.splits.train
        if key in known or any(key.startswith(f"{k}.") for k in known):
            *path, last = key.split(".")
            functools.reduce(lambda node, name: node.setdefault(name, {}), path, kept)[last] = value
        else:
            log.warning("A stored configuration has %s=%r, which this version does not know; it is left out.", key, value)
    return _checked(merge(OmegaConf.structured(Config), OmegaConf.create(kept), "stored config"))


def overlay(config: Config, name: str, changes: dict[str, Any]) -> Config:
    """The own keys of configs/<name>.yaml, then `changes`, laid over a configuration."""
    path = config_path(name)
    return _checked(merge(merge(OmegaConf.structured(config), read_tree(path), str(path)), OmegaConf.create(changes), name))


def _checked(merged: DictConfig) -> Config:
    config = to_object(merged)
    check(config)
    return config


def check_overrides(overrides: list[str]) -> None:
    """Keys, types and words of a dotlist, whatever configuration it will be laid over; ConfigError names what is wrong."""
    flat = flatten(to_dict(laid_over(OmegaConf.structured(Config), overrides)))
    check_words(flat)
