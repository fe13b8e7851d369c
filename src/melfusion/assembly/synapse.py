"""The kind of the synapse decides which options `synapse.` has: they are composed after `synapse.kind` is known."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from omegaconf import DictConfig

from melfusion.assembly.schema import Config
from melfusion.config.check import nearest
from melfusion.config.load import dotted
from melfusion.errors import ConfigError
from melfusion.models.synapse.options import OPTIONS, synapse_config


def names_of(kind: str) -> set[str]:
    """The options of a kind."""
    return {f.name for f in dataclasses.fields(OPTIONS[kind])}


def kinds_with(key: str) -> list[str]:
    """The kinds that have a dotted key; none for a key outside `synapse.`."""
    section, _, name = key.partition(".")
    return [kind for kind in OPTIONS if section == "synapse" and name in names_of(kind)]


def given(tree: DictConfig) -> dict[str, Any]:
    """What a tree says of the synapse."""
    section = tree.get("synapse")
    return dict(section) if isinstance(section, DictConfig) else {}


def as_trees(overrides: list[str]) -> list[DictConfig]:
    """The overrides that concern the synapse, each as a tree; those of another form are refused elsewhere."""
    pairs = (item.partition("=") for item in overrides)
    return [dotted(key, value) for key, equals, value in pairs if equals and key.partition(".")[0] == "synapse"]


def chosen_kind(trees: Iterable[DictConfig], before: Any) -> Any:
    """The kind that the last of the trees names, else the one before."""
    for tree in trees:
        before = given(tree).get("kind", before)
    return before


def of_kind(config: Config, kind: Any) -> Config:
    """A copy of the configuration with the options of that kind: values that both kinds have stay."""
    if kind not in OPTIONS:
        raise ConfigError(f"synapse.kind={kind!r} is not one of {', '.join(OPTIONS)}{nearest(str(kind), OPTIONS)}.")
    shared = {name: value for name, value in vars(config.synapse).items() if name in names_of(kind) - {"kind"}}
    return dataclasses.replace(config, synapse=synapse_config(kind, **shared))


def without_other_kinds(tree: DictConfig, where: str, kind: str, final: str) -> None:
    """Take out the options that the final kind does not have: another layer has chosen another kind since.

    ConfigError where the kind that is chosen at this layer does not have them either.
    """
    for name in given(tree):
        kinds = kinds_with(f"synapse.{name}")
        if not kinds or final in kinds:
            continue
        if kind not in kinds:
            raise ConfigError(
                f"{where}: synapse.{name} is an option of synapse.kind={' | '.join(kinds)}, and the kind here is {kind}: "
                "leave it out, or choose one of those."
            )
        del tree["synapse"][name]
