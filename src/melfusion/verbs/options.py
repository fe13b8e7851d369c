"""Options of a verb: a dataclass gives their names, types, units and defaults; parsing, help and completion read it."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from types import ModuleType, NoneType
from typing import Any, TypeVar

from melfusion.config.check import nearest
from melfusion.errors import ConfigError

T = TypeVar("T")
TRUTHS = {"true": True, "false": False}
MANY = 99  # plain words


def option(
    default: Any,
    about: str,
    *,
    name: str = "",
    variable: str = "",
    words: int = 0,
    least: float | None = None,
    required: bool = False,
    formerly: str = "",
) -> Any:
    """A field of a verb's options.

    Args:
        about: what the option means, with its unit.
        name: its name on the command line, where the field has another one.
        variable: the environment variable by which make passes it; its text is taken verbatim.
        words: how many plain words of the command line may give it; several are joined by commas.
        least: the smallest number that is allowed.
        required: a call without it is refused.
        formerly: its name in an older version; a call that gives it is refused with the new one.
    """
    metadata = {"about": about, "name": name, "variable": variable, "words": words, "least": least}
    return dataclasses.field(default=default, metadata=metadata | {"required": required, "formerly": formerly})


def configuration(default: str) -> Any:
    """The field `config` of a verb that reads a configuration."""
    about = "names of configurations or YAML files, comma-separated; each is laid over the one before"
    return option(default, about, variable="CONFIG", words=MANY)


def named(options: type) -> dict[str, dataclasses.Field[Any]]:
    """Name on the command line → field."""
    return {field.metadata["name"] or field.name: field for field in dataclasses.fields(options)}


def renamed(options: type) -> dict[str, str]:
    """Name in an older version → name now."""
    return {field.metadata["formerly"]: name for name, field in named(options).items() if field.metadata["formerly"]}


def kinds(options: type) -> dict[str, type]:
    """Field name → str, int, float or bool; `| None` is left out."""
    hints = typing.get_type_hints(options)
    return {name: next(k for k in (*typing.get_args(hint), hint) if k is not NoneType) for name, hint in hints.items()}


def for_words(options: type) -> str:
    """The option that plain words give; empty where the verb takes none."""
    return next((name for name, field in named(options).items() if field.metadata["words"]), "")


def divided(options: type, arguments: list[str]) -> tuple[list[str], list[str], list[str]]:
    """Arguments of the command line → plain words, the verb's own `key=value`, and all others in their order."""
    own, words = named(options).keys() | renamed(options), [a for a in arguments if "=" not in a and not a.startswith("--")]
    items = [a for a in arguments if a not in words]
    ours = [item for item in items if item.partition("=")[0] in own]
    return words, ours, [item for item in items if item not in ours]


def read(verb: ModuleType, arguments: list[str], environment: Mapping[str, str]) -> tuple[Any, list[str]]:
    """Arguments of a verb → its Options, and the `key=value` that are none of them; ConfigError says what is wrong."""
    words, own, others = divided(verb.Options, arguments)
    if verb.MORE is None:  # all must be its own
        own, others = own + others, []
    return parse(verb.Options, words, own, environment), others


def parse(options: type[T], words: list[str], items: list[str], environment: Mapping[str, str]) -> T:
    """Plain words, `["seed=3"]` and the environment → the dataclass.

    An item goes before a word, a word before the environment. The text after the first `=` is taken verbatim. ConfigError says
    what is wrong.
    """
    fields, target = named(options), for_words(options)
    given = {name: environment.get(field.metadata["variable"], "") for name, field in fields.items() if field.metadata["variable"]}
    texts = {name: text for name, text in given.items() if text}
    if stray := words[fields[target].metadata["words"] if target else 0 :]:
        raise ConfigError(f"{stray[0]!r} is no key=value; quote values that hold spaces.")
    if words:
        texts[target] = ",".join(words)
    for item in items:
        name, _, text = item.partition("=")
        if now := renamed(options).get(name):
            raise ConfigError(f"`{name}` is now `{now}`: rename it.")
        if name not in fields:
            raise ConfigError(f"There is no option {name!r}{nearest(name, fields)}; known are {', '.join(fields) or 'none'}.")
        texts[name] = text
    for name, field in fields.items():
        if field.metadata["required"] and not texts.get(name):
            make = f" (with make {field.metadata['variable']}=…)" if field.metadata["variable"] else ""
            raise ConfigError(f"This verb needs {field.metadata['about']}: give {name}=…{make}.")
    types = kinds(options)
    return options(**{fields[name].name: value(name, fields[name], types[fields[name].name], text) for name, text in texts.items()})


def value(name: str, field: dataclasses.Field[Any], kind: type, text: str) -> Any:
    """Text → a value of the field's type within its limits; ConfigError where it is none."""
    try:
        given = TRUTHS[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError):
        wanted = "true or false" if kind is bool else f"a valid {kind.__name__}"
        raise ConfigError(f"{name}={text!r} is not {wanted}.") from None
    least = field.metadata["least"]
    if least is not None and not least <= given < math.inf:
        raise ConfigError(f"{name}={text} must be at least {least:g}.")
    if kind is float and not math.isfinite(given):
        raise ConfigError(f"{name}={text} must be a finite number.")
    return given


def given(options: Any) -> dict[str, Any]:
    """Name → value of the options that differ from their default."""
    pairs = {name: (getattr(options, field.name), field.default) for name, field in named(type(options)).items()}
    return {name: value for name, (value, default) in pairs.items() if value != default}
