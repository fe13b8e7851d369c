"""The one way to load a configuration: base chain → schema (schema.py) → overrides.

`load_config("games,tiny", ["trainer.max_steps=2"])` reads configs/games.yaml with the files its `base:` names,
lays configs/tiny.yaml (its own keys only) over it, checks all of it against the schema, and applies
the dotlist. Whatever is wrong is a `ConfigError`: one sentence naming key, file and the nearest valid key.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from melfusion.config.check import nearest, text_keys, valid_keys
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
    texts, nullable = {}, text_keys(OmegaConf.get_type(merged))
    for item in overrides:
        if "=" not in item:
            raise ConfigError(f"The override {item!r} is not of the form key=value.")
        key, value = item.split("=", 1)
        if key in nullable:
            texts[key] = value
        else:
            merged = merge(merged, _dotted(key, value), f"override {item!r}")
    config = to_object(merged)
    for key, value in texts.items():
        _set_text(config, key, None if nullable[key] and value in ("null", "~") else value)
    return config


def to_object(merged: DictConfig) -> Any:
    if missing := sorted(OmegaConf.missing_keys(merged)):
        raise ConfigError(f"the key {missing[0]!r} has no value ('???'); give it one.")
    try:
        return OmegaConf.to_object(merged)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise ConfigError(f"a value refers to what is not there: {str(error).splitlines()[0]}.") from None


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


def _dotted(key: str, value: str) -> DictConfig:
    """One override of a key that is no text as a tree."""
    tree = OmegaConf.create({})
    try:
        OmegaConf.update(tree, key, yaml.safe_load(value))
    except (yaml.YAMLError, OmegaConfBaseException, TypeError, ValueError) as error:
        raise ConfigError(f"override {key}={value!r} cannot be read: {str(error).splitlines()[0]}.") from None
    return tree


def merge(merged: DictConfig, tree: DictConfig, where: str) -> DictConfig:
    """`tree` laid over `merged`, which becomes the result: copying it each time would take most of the time."""
    try:
        return OmegaConf.unsafe_merge(merged, tree)  # type: ignore[return-value]
    except ConfigKeyError as error:
        key = str(error.full_key or error.key)
        raise ConfigError(f"{where}: there is no key {key!r}{nearest(key, valid_keys(OmegaConf.get_type(merged)))}.") from None
    except MissingMandatoryValue as error:
        raise ConfigError(f"{where}: the key {error.full_key!r} has no value; give it one.") from None
    except (OmegaConfBaseException, TypeError) as error:
        key = getattr(error, "full_key", None) or getattr(error, "key", None) or next(iter(tree), "")
        first = str(error).splitlines()[0].split(". ")[0].rstrip(".")
        raise ConfigError(f"{where}: the key {key!r} does not take this value: {first}.") from None
