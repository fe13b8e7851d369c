"""The one way to load a configuration: base chain → schema → overrides → checks.

`load_config("games,tiny", ["trainer.max_steps=2"])` reads configs/games.yaml with the files its `base:` names, lays the own
keys of configs/tiny.yaml over it, then the dotlist, and checks the result.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from melfusion.assembly import kinds, own_settings
from melfusion.assembly.check import check, check_words
from melfusion.assembly.schema import Config, now_named, to_dict, twins
from melfusion.config.check import flatten, valid_keys
from melfusion.config.load import base_chain, config_path, laid_over, merge, read_tree, to_object
from melfusion.errors import ConfigError

log = logging.getLogger(__name__)

TWINS = "twins"  # key of a file under which the random twins' sizes are laid

Layer = tuple[str, DictConfig]  # where it comes from, its own keys


def _sampler(config: Config) -> str:
    """The sampler, or the one in its place where it cannot be had."""
    sampler = config.sampling.sampler
    if sampler == "published" and config.denoiser.weights is None:  # a random twin has no scheduler
        return config.diffusion.SAMPLERS[0]
    if sampler == "dpm_sde" and importlib.util.find_spec("torchsde") is None:
        log.warning("sampling.sampler=dpm_sde needs torchsde, so dpm takes its place: run `pip install 'melfusion[sde]'` for it.")
        return "dpm"
    return sampler


def load_config(names: str, overrides: list[str] | None = None) -> Config:
    """Names of configs, comma-separated (each laid over the one before), and a dotlist → a checked Config."""
    parts = [n for n in names.split(",") if n]
    layers: list[Layer] = []
    for i, part in enumerate(parts):
        # a file that is laid over another brings its own keys only: its base would undo what lies below
        path = config_path(part)
        chain = base_chain(path) if i == 0 else [(path, read_tree(path))]
        layers += [(str(file), tree) for file, tree in chain]
    trees: list[Any] = [OmegaConf.to_container(tree) for _, tree in layers]  # before the layers are cut to the kinds
    given = {key for tree in trees for key in flatten(tree)}
    merged = _laid(Config(), layers, overrides or [])
    _as_published(merged, laid_over(merged, overrides or []), given | {item.partition("=")[0] for item in overrides or []})
    if merged.name is None:
        merged.name = "-".join(Path(p).stem for p in parts)
    return _overridden(merged, overrides or [])


def _as_published(merged: DictConfig, asked: Config, given: set[str]) -> None:
    """Lay how a published model is sampled over defaults, where neither a file nor the call names the key.

    Its folder says so where it is there, else its kind.

    Args:
        asked: the configuration with the call's overrides.  given: keys that are named.
    """
    if asked.denoiser.weights is None or asked.denoiser.OWN.get("diffusion.kind") != asked.diffusion.kind:
        return
    known = set(flatten(to_dict(asked)))
    for key, value in own_settings.own(asked, own_settings.local_folder(asked))[0].items():
        if not key.endswith(".kind") and key not in given and key in known:
            OmegaConf.update(merged, key, value)


def override(config: Config, overrides: list[str]) -> Config:
    """A dotlist laid over a configuration."""
    return _overridden(_laid(config, [], overrides), overrides)


def overlay(config: Config, name: str, changes: dict[str, Any]) -> Config:
    """The own keys of configs/<name>.yaml, then `changes`, laid over a configuration."""
    path = config_path(name)
    return _checked(_laid(config, [(str(path), read_tree(path)), (name, OmegaConf.create(changes))], []))


def from_dict(tree: dict[str, Any]) -> Config:
    """The plain tree a checkpoint or a run directory stores → Config; keys that this version no longer has are logged."""
    flat = {now_named(key): value for key, value in flatten(tree).items()}
    stored = {section: flat.get(f"{section}.kind", kind) for section, kind in kinds.kinds_of(Config()).items()}
    config = kinds.of_kinds(Config(), stored)
    known = set(valid_keys(config))
    kept: dict[str, Any] = {}
    for key, value in flat.items():
        # below a known key lie the entries of a dict, such as data.splits.train, whose names may hold dots
        if above := next((k for k in known if key == k or key.startswith(f"{k}.")), ""):
            *path, last = [*above.split("."), *([key[len(above) + 1 :]] if key != above else [])]
            functools.reduce(lambda node, name: node.setdefault(name, {}), path, kept)[last] = value
        elif not kinds.kinds_with(key):  # stored configurations of before had the options of all kinds
            log.warning("A stored configuration has %s=%r, which this version does not know; it is left out.", key, value)
    return _checked(merge(OmegaConf.structured(config), OmegaConf.create(kept), "stored config"))


def check_overrides(overrides: list[str]) -> None:
    """Keys, types and words of a dotlist, whatever configuration it will be laid over; ConfigError names what is wrong."""
    trees = kinds.as_trees(overrides)
    chosen = kinds.chosen(trees, kinds.fitting(trees))
    merged = _laid(kinds.of_kinds(Config(), chosen), [], overrides)
    check_words(flatten(to_dict(laid_over(merged, overrides))))


def _laid(config: Config, layers: list[Layer], overrides: list[str]) -> DictConfig:
    """The layers over a configuration, with the options of the kinds that layers or overrides choose at last."""
    _refuse_renamed([item.partition("=")[0] for item in overrides], "override")
    for where, tree in layers:
        own: Any = OmegaConf.to_container(tree)
        _refuse_renamed(flatten(own), where)
    changes = kinds.as_trees(overrides)
    here = kinds.kinds_of(config)
    final = kinds.chosen([tree for _, tree in layers] + changes, here)
    merged = OmegaConf.structured(kinds.of_kinds(config, final))
    for where, tree in layers:
        if tree.pop(TWINS, False):
            merged = merge(merged, OmegaConf.create(twins(kinds.of_kinds(config, final))), where)
        here = kinds.chosen([tree], here)
        kinds.without_other_kinds(tree, where, here, final)
        merged = merge(merged, tree, where)
    for change in changes:
        kinds.without_other_kinds(change, "override", final, final)
    return merged


def _refuse_renamed(keys: Iterable[str], where: str) -> None:
    for key in keys:
        if (now := now_named(key)) != key:
            raise ConfigError(f"{where}: `{key}` is now `{now}`: rename it.")


def _overridden(merged: DictConfig, overrides: list[str]) -> Config:
    path = OmegaConf.select(merged, "data.path", throw_on_resolution_failure=False)
    config = laid_over(merged, overrides)
    if config.data.path != path and not any(item.startswith("data.draw=") for item in overrides):
        config.data.draw = False  # the user names a data set, and a typing error in it must not draw scenes there
    return _settled(config)


def _checked(merged: DictConfig) -> Config:
    return _settled(to_object(merged))


def _settled(config: Config) -> Config:
    """The layers of the synapse by name, where those of the backbone are meant, and the sampler that can be had: what is stored
    says them. Then all checks."""
    config.synapse.layers = config.synapse.layers or list(config.denoiser.LISTENS)
    config.sampling.sampler = _sampler(config)
    check(config)
    return config
