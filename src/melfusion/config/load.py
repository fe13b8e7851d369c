"""YAML files with their `base:` chains, and a dotlist of overrides, laid over a structured tree.

Whatever is wrong is a ConfigError: one sentence that names key, file and the nearest valid key.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from melfusion.config.check import nearest
from melfusion.errors import ConfigError

CONFIG_DIR = Path(__file__).parents[1] / "configs"


def config_path(name: str) -> Path:
    """`scenes`, `configs/scenes.yaml` and `any/where.yaml` → the file; ConfigError names the nearest one."""
    for path in (Path(name), CONFIG_DIR / f"{name}.yaml"):
        if path.is_file() and path.suffix in (".yaml", ".yml"):
            return path
    near = nearest(name, sorted(p.stem for p in CONFIG_DIR.glob("*.yaml")))
    raise ConfigError(f"There is no configuration {name!r}: give a YAML file or a name from configs/{near}.")


def load_plain(cls: type, file: Path, overrides: list[str]) -> Any:
    """A file of the keys of another dataclass than Config, and a dotlist over it: what `melfusion submit` reads."""
    return laid_over(merge(OmegaConf.structured(cls), read_tree(file), str(file)), overrides)


def laid_over(merged: DictConfig, overrides: list[str]) -> Any:
    """A dotlist over a structured tree → its dataclass, unchecked."""
    texts, nullable = {}, text_keys(merged)
    for item in overrides:
        if "=" not in item:
            raise ConfigError(f"The override {item!r} is not of the form key=value.")
        key, value = item.split("=", 1)
        if key in nullable:
            texts[key] = value
        else:
            merged = merge(merged, dotted(key, value), f"override {item!r}")
    config = to_object(merged)
    for key, value in texts.items():
        _set_text(config, key, None if nullable[key] and value in ("null", "~") else value)
    return config


def to_object(merged: DictConfig) -> Any:
    """A structured tree → its dataclass; ConfigError for a key without a value, or an interpolation that leads nowhere."""
    if missing := sorted(OmegaConf.missing_keys(merged)):
        raise ConfigError(f"the key {missing[0]!r} has no value ('???'); give it one.")
    try:
        return OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ConfigError(f"a value refers to a key that does not exist: {str(error).splitlines()[0]}.") from None


def base_chain(path: Path, seen: tuple[Path, ...] = ()) -> list[tuple[Path, DictConfig]]:
    """The file and those that it is laid over, the lowest first, each with its own keys."""
    if path in seen:
        raise ConfigError(f"{path}: its `base:` chain comes back to itself; remove one of {[str(p) for p in seen]}.")
    tree = _load(path)
    base = tree.pop("base", None)
    if base is None:
        return [(path, tree)]
    beside = path.parent / f"{base}.yaml"
    return [*base_chain(beside if beside.is_file() else config_path(str(base)), (*seen, path)), (path, tree)]


def _load(path: Path) -> DictConfig:
    try:
        tree = OmegaConf.load(path)
    except Exception as error:  # yaml's own errors carry line and column
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(tree, DictConfig):
        raise ConfigError(f"{path} must hold a mapping of keys to values.")
    return tree


def read_tree(path: Path) -> DictConfig:
    """A file's own keys, without those of its base."""
    tree = _load(path)
    tree.pop("base", None)
    return tree


def _set_text(config: Any, key: str, value: str | None) -> None:
    """Free text is taken verbatim: no YAML, no interpolation; `null` and `~` are None where the key may be null."""
    *path, last = key.split(".")
    node: Any = config
    for name in path:
        node = getattr(node, name)
    setattr(node, last, value)


def dotted(key: str, value: str) -> DictConfig:
    """One override as a tree, its value read as YAML."""
    tree = OmegaConf.create({})
    try:
        OmegaConf.update(tree, key, yaml.safe_load(value))
    except (yaml.YAMLError, OmegaConfBaseException, TypeError, ValueError) as error:
        raise ConfigError(f"override {key}={value!r} cannot be read: {str(error).splitlines()[0]}.") from None
    return tree


def text_keys(merged: DictConfig, prefix: str = "") -> dict[str, bool]:
    """Dotted keys of a structured tree that hold text → whether they may be null."""
    keys: dict[str, bool] = {}
    schema: Any = OmegaConf.get_type(merged)
    for f in dataclasses.fields(schema):
        if dataclasses.is_dataclass(OmegaConf.get_type(merged, f.name)):
            keys |= text_keys(merged[f.name], f"{prefix}{f.name}.")
        elif f.type in ("str", "str | None"):
            keys[prefix + f.name] = f.type == "str | None"
    return keys


def keys_of(merged: DictConfig, prefix: str = "") -> list[str]:
    """All dotted keys of a structured tree."""
    keys = []
    for name in map(str, merged):
        section = dataclasses.is_dataclass(OmegaConf.get_type(merged, name))
        keys += keys_of(merged[name], f"{prefix}{name}.") if section else [prefix + name]
    return keys


def merge(merged: DictConfig, tree: DictConfig, where: str) -> DictConfig:
    """`tree` laid over `merged`, which must not be used afterwards: OmegaConf takes its nodes, since a copy is slow."""
    try:
        result = OmegaConf.unsafe_merge(merged, tree)
        assert isinstance(result, DictConfig)
        return result
    except ConfigKeyError as error:
        key = str(error.full_key or error.key)
        raise ConfigError(f"{where}: there is no key {key!r}{nearest(key, keys_of(merged))}.") from None
    except MissingMandatoryValue as error:
        raise ConfigError(f"{where}: the key {error.full_key!r} has no value; give it one.") from None
    except (OmegaConfBaseException, TypeError) as error:
        wrong = getattr(error, "full_key", None) or getattr(error, "key", None) or next(iter(tree), "")
        first = str(error).splitlines()[0].split(". ")[0].rstrip(".")
        raise ConfigError(f"{where}: the key {wrong!r} does not take this value: {first}.") from None
