"""The one way to load a configuration: base chain → schema (schema.py) → overrides.

`load_config("games,tiny", ["trainer.max_steps=2"])` reads configs/games.yaml with the files its `base:` names,
lays configs/tiny.yaml (its own keys only) over it, checks all of it against the schema, and applies
the dotlist. Whatever is wrong is a `ConfigError`: one sentence naming key, file and the nearest valid key.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import logging
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from melfusion.errors import ConfigError as ConfigError
from melfusion.limits import check_limits, check_names
from melfusion.schema import CHOICES, REFUSED, Config

log = logging.getLogger(__name__)

CONFIG_DIR = Path(__file__).parent / "configs"


def valid_keys(cls: type = Config, prefix: str = "") -> list[str]:
    """All dotted keys of the schema."""
    keys = []
    for f in dataclasses.fields(cls):
        sub = f.default_factory if isinstance(f.default_factory, type) else None
        keys += valid_keys(sub, f"{prefix}{f.name}.") if dataclasses.is_dataclass(sub) else [prefix + f.name]
    return keys


def config_path(name: str) -> Path:
    """`scenes`, `configs/scenes.yaml` and `any/where.yaml` → the file; ConfigError names the nearest one."""
    for path in (Path(name), CONFIG_DIR / f"{name}.yaml"):
        if path.is_file() and path.suffix in (".yaml", ".yml"):
            return path
    near = _nearest(name, sorted(p.stem for p in CONFIG_DIR.glob("*.yaml")))
    raise ConfigError(f"There is no configuration {name!r}: give a YAML file or a name from configs/{near}.")


def load_config(names: str, overrides: list[str] | None = None) -> Config:
    """Names of configs, comma-separated (each laid over the one before), and a dotlist → a checked Config."""
    parts = [n for n in names.split(",") if n]
    merged = OmegaConf.structured(Config)
    for i, part in enumerate(parts):
        # laid over another, a file brings its own keys only: its base would undo what lies below
        path = config_path(part)
        for file, tree in _base_chain(path) if i == 0 else [(path, _read(path))]:
            merged = _merge(merged, tree, str(file))
    if merged.name is None:
        merged.name = "-".join(Path(p).stem for p in parts)
    return _overridden(merged, overrides or [])


def load_plain(cls: type, file: Path, overrides: list[str]) -> Any:
    """A file of the keys of another dataclass than Config, and a dotlist over it: what `melfusion submit` reads."""
    return _laid_over(_merge(OmegaConf.structured(cls), _read(file), str(file)), overrides)


def override(config: Config, overrides: list[str]) -> Config:
    """A dotlist laid over a configuration."""
    return _overridden(OmegaConf.structured(config), overrides)


def _overridden(merged: DictConfig, overrides: list[str]) -> Config:
    path = OmegaConf.select(merged, "data.path", throw_on_resolution_failure=False)
    config = _laid_over(merged, overrides)
    if config.data.path != path and not any(item.startswith("data.draw=") for item in overrides):
        config.data.draw = False  # the user names a data set, which a typing error must not fill with drawn scenes
    check(config)
    return config


def _laid_over(merged: DictConfig, overrides: list[str]) -> Any:
    """A dotlist over a structured tree → its dataclass, unchecked."""
    texts, nullable = {}, _text_keys(OmegaConf.get_type(merged))
    for item in overrides:
        if "=" not in item:
            raise ConfigError(f"The override {item!r} is not of the form key=value.")
        key, value = item.split("=", 1)
        if key in nullable:
            texts[key] = value
        else:
            merged = _merge(merged, _dotted(key, value), f"override {item!r}")
    config = _object(merged)
    for key, value in texts.items():
        _set_text(config, key, None if nullable[key] and value in ("null", "~") else value)
    return config


def from_dict(tree: dict[str, Any]) -> Config:
    """The plain tree a checkpoint or a run directory stores → Config; keys that this version no longer has are logged."""
    known, kept = set(valid_keys()), {}
    for key, value in flatten(tree).items():
        # below a known key lie the entries of a dict, such as data.splits.train
        if key in known or any(key.startswith(f"{k}.") for k in known):
            *path, last = key.split(".")
            functools.reduce(lambda node, name: node.setdefault(name, {}), path, kept)[last] = value
        else:
            log.warning("A stored configuration has %s=%r, which this version does not know; it is left out.", key, value)
    return _checked(_merge(OmegaConf.structured(Config), OmegaConf.create(kept), "stored config"))


def overlay(config: Config, name: str, changes: dict[str, Any]) -> Config:
    """The own keys of configs/<name>.yaml, then `changes`, laid over a configuration."""
    path = config_path(name)
    return _checked(_merge(_merge(OmegaConf.structured(config), _read(path), str(path)), OmegaConf.create(changes), name))


def to_dict(config: Config) -> dict[str, Any]:
    """Plain containers only: what `save_hyperparameters` and weights-only loading accept."""
    return dataclasses.asdict(config)


def _checked(merged: DictConfig) -> Config:
    config = _object(merged)
    check(config)
    return config


def _object(merged: DictConfig) -> Config:
    if missing := sorted(OmegaConf.missing_keys(merged)):
        raise ConfigError(f"the key {missing[0]!r} has no value ('???'); give it one.")
    try:
        return OmegaConf.to_object(merged)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise ConfigError(f"a value refers to what is not there: {str(error).splitlines()[0]}.") from None


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} → {'a.b': 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {prefix + key: value}
    return flat


def check(config: Config) -> None:
    """Words from fixed lists, names that stay in their folders, sizes that must divide; raises ConfigError."""
    flat = flatten(to_dict(config))
    _check_words(flat)
    check_names(config)
    check_limits(config)
    if unknown := [stage for stage in config.stages if stage not in ("music_vae", "image_diffusion")]:
        raise ConfigError(f"stages names {unknown[0]!r}; stages are music_vae and image_diffusion.")
    if config.image.model != "diffusion" and "image_diffusion" in config.stages:
        raise ConfigError(f"image.model={config.image.model} is not what the stage image_diffusion trains: leave it out of stages.")
    if config.trainer.precision == "16-mixed" and config.trainer.accelerator == "cpu":
        raise ConfigError("trainer.precision=16-mixed needs a GPU, not trainer.accelerator=cpu: give bf16-mixed or 32-true.")
    if len(config.optim.betas) != 2:
        raise ConfigError(f"optim.betas={config.optim.betas} must be two numbers.")
    for part in ("image", "unet"):
        levels = getattr(config, part)
        if len(levels.attention_blocks) != len(levels.block_out_channels):
            raise ConfigError(f"{part}.attention_blocks has {len(levels.attention_blocks)} levels and "
                              f"{part}.block_out_channels {len(levels.block_out_channels)}: give one word per level.")  # fmt: skip
    d = config.diffusion
    if not 0 <= config.image.fixed_timestep < d.num_train_timesteps:
        raise ConfigError(f"image.fixed_timestep={config.image.fixed_timestep} must lie between 0 and "
                          f"{d.num_train_timesteps - 1}.")  # fmt: skip
    if min(drops := (d.text_drop_prob, d.image_drop_prob, d.both_drop_prob)) < 0 or sum(drops) > 1:
        raise ConfigError(f"diffusion.*_drop_prob are {drops}: each must be at least 0 and their sum at most 1.")
    if not 0 <= d.pure_noise_share < 1:
        raise ConfigError(f"diffusion.pure_noise_share={d.pure_noise_share} must be at least 0 and less than 1.")
    positive = ("audio.hop_length_samples", "audio.sample_rate_hz", "audio.clip_duration_s", "data.global_batch_size",
                "trainer.accumulate", "trainer.max_steps", "trainer.val_every_n_steps", "data.samples_per_shard",
                "data.val_items", "sampling.num_inference_steps",
                "trainer.checkpoint_every_n_steps", "trainer.log_every_n_steps", "trainer.media_every_n_steps",
                "trainer.keep_last", "guards.max_bad_steps", "data.precompute.batch_size", "evaluation.batch_size",
                "music_vae.texture_width", "music_vae.texture_blocks",
                *(key for key in flat if key.startswith("data.max_")))  # fmt: skip
    for key in positive:
        if not flat[key] > 0:
            raise ConfigError(f"{key}={flat[key]!r} must be greater than 0.")
    for key in ("seed", "data.corpus_seed", "data.num_workers", "data.retries", "data.cache_gib", "trainer.keep_best",
                "guards.spike_factor", "guards.rollback_after", "music_vae.texture_steps"):
        if not flat[key] >= 0:
            raise ConfigError(f"{key}={flat[key]!r} must be at least 0.")
    if (words := config.text_encoder.max_words) is not None and words < 1:
        raise ConfigError(f"text_encoder.max_words={words} leaves no word of a caption: give 1 or more, or null for all.")
    if config.data.precompute.enabled and config.data.crop == "random":
        raise ConfigError("data.crop=random draws another crop each time, and what is precomputed is of each clip's start: "
                          "give data.crop=start or data.precompute.enabled=false.")  # fmt: skip
    if config.data.stream and config.data.leave_out:
        raise ConfigError("data.leave_out is not looked at in data.stream: leave one of them out.")
    vae_down = config.music_vae.downsampling
    if config.audio.n_mels % vae_down:
        raise ConfigError(f"audio.n_mels={config.audio.n_mels} must be a multiple of {vae_down}, "
                          "since the music VAE shrinks it that much.")  # fmt: skip
    samples = round(config.audio.clip_duration_s * config.audio.sample_rate_hz)
    down = vae_down * 2 ** (len(config.unet.block_out_channels) - 1)
    if samples % (config.audio.hop_length_samples * down):
        raise ConfigError(
            f"audio.clip_duration_s={config.audio.clip_duration_s} is {samples / config.audio.hop_length_samples:g} mel "
            f"frames, which VAE and UNet cannot halve evenly: choose a multiple of "
            f"{config.audio.hop_length_samples * down / config.audio.sample_rate_hz:g} s."
        )
    if not 0 < config.image.grid_steps <= config.diffusion.num_train_timesteps:
        raise ConfigError(f"image.grid_steps={config.image.grid_steps} must lie between 1 and "
                          f"diffusion.num_train_timesteps={config.diffusion.num_train_timesteps}.")  # fmt: skip
    if (most := config.trainer.micro_batch_size) is not None and (most < 1 or config.trainer.accumulate > 1):
        raise ConfigError(f"trainer.micro_batch_size={most} must be 1 or more, and null beside trainer.accumulate="
                          f"{config.trainer.accumulate}, which says how a step is cut, too.")  # fmt: skip
    if config.data.global_batch_size % config.trainer.accumulate:
        raise ConfigError(
            f"data.global_batch_size={config.data.global_batch_size} is not a multiple of "
            f"trainer.accumulate={config.trainer.accumulate}."
        )


def _check_words(flat: dict[str, Any]) -> None:
    for key, words in CHOICES.items():
        if why := REFUSED.get(key, {}).get(flat[key]):
            raise ConfigError(f"{key}={flat[key]} is not offered, since {why}.")
        if flat[key] not in words:
            raise ConfigError(f"{key}={flat[key]!r} is not one of {', '.join(words)}{_nearest(str(flat[key]), words)}.")


def check_overrides(overrides: list[str]) -> None:
    """Keys, types and words of a dotlist, whatever configuration it will be laid over; ConfigError names what is wrong."""
    flat = flatten(to_dict(_laid_over(OmegaConf.structured(Config), overrides)))
    _check_words(flat)


def _base_chain(path: Path, seen: tuple[Path, ...] = ()) -> list[tuple[Path, DictConfig]]:
    """The file and those that it is laid over, the lowest first, each with its own keys."""
    if path in seen:
        raise ConfigError(f"{path}: its `base:` chain comes back to itself; remove one of {[str(p) for p in seen]}.")
    tree = _load(path)
    base = tree.pop("base", None)
    if base is None:
        return [(path, tree)]
    beside = path.parent / f"{base}.yaml"
    return [*_base_chain(beside if beside.is_file() else config_path(str(base)), (*seen, path)), (path, tree)]


def _load(path: Path) -> DictConfig:
    try:
        tree = OmegaConf.load(path)
    except Exception as error:  # yaml's own errors carry line and column
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(tree, DictConfig):
        raise ConfigError(f"{path} must hold a mapping of keys to values.")
    return tree


def _read(path: Path) -> DictConfig:
    tree = _load(path)
    tree.pop("base", None)
    return tree


def _text_keys(cls: type = Config, prefix: str = "") -> dict[str, bool]:
    """Dotted keys that hold text → whether they may be null."""
    keys: dict[str, bool] = {}
    for f in dataclasses.fields(cls):
        sub = f.default_factory if isinstance(f.default_factory, type) else None
        if dataclasses.is_dataclass(sub):
            keys |= _text_keys(sub, f"{prefix}{f.name}.")
        elif f.type in ("str", "str | None"):
            keys[prefix + f.name] = f.type == "str | None"
    return keys


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


def _merge(merged: DictConfig, tree: DictConfig, where: str) -> DictConfig:
    """`tree` laid over `merged`, which becomes the result: copying it each time would take most of the time."""
    try:
        return OmegaConf.unsafe_merge(merged, tree)  # type: ignore[return-value]
    except ConfigKeyError as error:
        key = str(error.full_key or error.key)
        raise ConfigError(f"{where}: there is no key {key!r}{_nearest(key, valid_keys(OmegaConf.get_type(merged)))}.") from None
    except MissingMandatoryValue as error:
        raise ConfigError(f"{where}: the key {error.full_key!r} has no value; give it one.") from None
    except (OmegaConfBaseException, TypeError) as error:
        key = getattr(error, "full_key", None) or getattr(error, "key", None) or next(iter(tree), "")
        first = str(error).splitlines()[0].split(". ")[0].rstrip(".")
        raise ConfigError(f"{where}: the key {key!r} does not take this value: {first}.") from None


def _nearest(word: str, words: Any) -> str:
    near = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""
