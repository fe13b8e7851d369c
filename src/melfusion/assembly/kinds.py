"""Sections whose `kind` decides which options they have: these are composed after the kind is known. No heavy imports."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from omegaconf import DictConfig

from melfusion.assembly.schema import KINDS, Config
from melfusion.config.check import nearest
from melfusion.config.load import dotted
from melfusion.errors import ConfigError

Chosen = dict[str, Any]  # section → its kind
Tree = dict[str, Any] | DictConfig


def names_of(section: str, kind: str) -> set[str]:
    """The options of a kind."""
    return {f.name for f in dataclasses.fields(KINDS[section][kind])}


def kinds_with(key: str) -> list[str]:
    """The kinds that have a dotted key; none for a key outside these sections."""
    section, _, name = key.partition(".")
    return [kind for kind in KINDS.get(section, ()) if name.partition(".")[0] in names_of(section, kind)]


def given(tree: Tree, section: str) -> dict[str, Any]:
    """What a tree says of a section."""
    found = tree.get(section)
    return {str(name): found[name] for name in found} if isinstance(found, dict | DictConfig) else {}


def as_trees(overrides: list[str]) -> list[Tree]:
    """The overrides that concern these sections, each as a tree of text; those of another form are refused elsewhere."""
    pairs = (item.partition("=") for item in overrides)
    parts = ((*key.partition("."), value) for key, equals, value in pairs if equals)
    return [
        {section: {name.partition(".")[0]: value}} if name else dotted(section, value)
        for section, _, name, value in parts
        if section in KINDS
    ]


def chosen(trees: Iterable[Tree], before: Chosen) -> Chosen:
    """The kinds that the last of the trees names, else those before."""
    now = dict(before)
    for tree in trees:
        now |= {section: given(tree, section)["kind"] for section in KINDS if "kind" in given(tree, section)}
    return now


def kinds_of(config: Config) -> Chosen:
    """The kinds of a configuration."""
    return {section: getattr(config, section).kind for section in KINDS}


def fitting(trees: list[Tree]) -> Chosen:
    """For each section a kind that has all options which the trees name; the default where none has."""
    found = {}
    for section, kinds in KINDS.items():
        names = [f"{section}.{name}" for tree in trees for name in given(tree, section)]
        default = kinds_of(Config())[section]
        fits = (kind for kind in (default, *kinds) if all(kind in kinds_with(name) for name in names))
        found[section] = next(fits, default)
    return found


def alike(one: Any, other: Any) -> set[str]:
    """Names of the options that two kinds have with the same type and default."""

    def facts(kind: Any) -> set[tuple[str, Any, str]]:
        plain = kind()
        return {(f.name, f.type, repr(getattr(plain, f.name))) for f in dataclasses.fields(kind) if f.name != "kind"}

    return {name for name, *_ in facts(one) & facts(other)}


def of_kinds(config: Config, chosen: Chosen) -> Config:
    """A copy of the configuration with the options of those kinds: values of options that both kinds have alike stay."""
    sections = {}
    for section, kind in chosen.items():
        if kind not in (kinds := KINDS[section]):
            raise ConfigError(f"{section}.kind={kind!r} is not one of {', '.join(kinds)}{nearest(str(kind), kinds)}.")
        now = getattr(config, section)
        shared = alike(type(now), kinds[kind])
        sections[section] = kinds[kind](kind=kind, **{name: value for name, value in vars(now).items() if name in shared})
    return dataclasses.replace(config, **sections)


def without_other_kinds(tree: Tree, where: str, here: Chosen, final: Chosen) -> None:
    """Take out the options that a final kind does not have: another layer has chosen another kind since.

    ConfigError where the kind that is chosen at this layer does not have them either.
    """
    for section, kinds in KINDS.items():
        now, then = here[section], final[section]
        if now not in kinds:
            continue  # it is refused where the options are composed
        for name in set(given(tree, section)) - {"kind"}:
            having = kinds_with(f"{section}.{name}")
            if now in having and name in alike(kinds[now], kinds[then]):
                continue
            if now in having and now != then:
                del tree[section][name]
            elif having and then not in having:
                raise ConfigError(
                    f"{where}: {section}.{name} is an option of {section}.kind={' | '.join(having)}, and the kind here is "
                    f"{now}: leave it out, or choose one of those."
                )
