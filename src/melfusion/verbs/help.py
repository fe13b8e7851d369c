"""What `melfusion --help` and `melfusion VERB --help` print; all of it comes from the options dataclasses."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from pathlib import Path
from typing import Any

from melfusion.assembly.schema import Config
from melfusion.cluster.options import ClusterConfig
from melfusion.config.check import nearest
from melfusion.errors import ConfigError
from melfusion.verbs.options import for_words, kinds, named
from melfusion.verbs.table import VERBS, module_of, summary

WIDTH = 118  # characters of a line
FORMS = {str: "TEXT", int: "INT", float: "FLOAT", bool: "true|false"}
GENERAL = "general"  # the name of the section of keys without a dot
ALL = "all"


def of_all() -> str:
    """The verbs with one line each."""
    width = max(map(len, VERBS))
    return "\n".join(
        [
            "usage: melfusion VERB [key=value …]",
            "",
            *(f"  {verb.ljust(width)}  {summary(verb)}" for verb in VERBS),
            "",
            "`melfusion VERB --help` lists the options of a verb; `melfusion train --help` lists all keys of a configuration.",
        ]
    )


def of_verb(verb: str, chosen: list[str]) -> str:
    """Docstring, options, examples and keys of a verb. With `chosen` sections of the configuration: their keys alone."""
    module = module_of(verb)
    if chosen:
        return "\n\n".join(f"{section}:\n{table(keys(section))}" for section in chosen)
    word = for_words(module.Options)
    lines = [f"usage: melfusion {verb}{f' [{word.upper()}]' if word else ''} [key=value …]", "", inspect.getdoc(module) or ""]
    if rows := options_of(module.Options):
        lines += ["", "options:", table(rows)]
    lines += ["", "examples:", *(f"  {example}" for example in module.EXAMPLES)]
    if module.MORE:
        lines += ["", *textwrap.wrap(module.MORE, WIDTH)]
    shown = sections() if ALL in module.SECTIONS else module.SECTIONS
    for section in shown:
        lines += ["", f"{section}:", table(keys(section))]
    if shown and ALL not in module.SECTIONS:
        lines += ["", f"`melfusion {verb} --help SECTION` lists other keys; sections are {', '.join(sections())}."]
    return "\n".join(lines)


def options_of(options: type) -> dict[str, str]:
    """`seed=INT` → its meaning and default, of all options of a verb."""
    types, rows = kinds(options), {}
    for name, field in named(options).items():
        notes = ["needed" if field.metadata["required"] else f"default {shown(field.default)}"]
        if field.metadata["words"]:
            notes.append("a plain word gives it, too")
        if field.metadata["variable"]:
            notes.append(f"with make {field.metadata['variable']}=")
        rows[f"{name}={FORMS[types[field.name]]}"] = f"{field.metadata['about']} ({'; '.join(notes)})"
    return rows


def table(rows: dict[str, str]) -> str:
    """Two columns, the second one wrapped."""
    width = min(max(map(len, rows), default=0), 40)
    lines = []
    for name, about in rows.items():
        first, *others = textwrap.wrap(about, WIDTH - width - 4) or [""]
        lines += [f"  {name.ljust(width)}  {first}", *(" " * (width + 4) + line for line in others)]
    return "\n".join(lines)


def sections() -> list[str]:
    """Names that `--help SECTION` takes."""
    return [GENERAL, *(f.name for f in dataclasses.fields(Config) if section_of(f)), "cluster"]


def keys(section: str) -> dict[str, str]:
    """Dotted key → its meaning and default, of one section; ConfigError where there is none."""
    if section not in sections():
        raise ConfigError(f"There is no section {section!r}{nearest(section, sections())}; sections are {', '.join(sections())}.")
    if section == GENERAL:
        return described(Config, "", deep=False)
    if section == "cluster":
        return described(ClusterConfig, "cluster.")
    field = next(f for f in dataclasses.fields(Config) if f.name == section)
    return described(section_of(field), f"{section}.")


def section_of(field: dataclasses.Field[Any]) -> Any:
    """The dataclass of a field that holds further keys, or None."""
    return field.default_factory if dataclasses.is_dataclass(field.default_factory) else None


def described(options: Any, prefix: str, deep: bool = True) -> dict[str, str]:
    """The same of a dataclass, of the other kinds that share its base, and, where `deep`, of the dataclasses in it."""
    rows: dict[str, str] = {}
    for kind in kinds_of(options):
        said = documented(kind)
        for field in dataclasses.fields(kind):
            if below := section_of(field):
                rows |= described(below, f"{prefix}{field.name}.") if deep else {}
            elif prefix + field.name not in rows:
                default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
                rows[prefix + field.name] = f"{said.get(field.name, '')} (default {shown(default)})".strip()
    return rows


def kinds_of(options: Any) -> list[Any]:
    """A dataclass first, then all that derive from its root: the options of the other kinds of that part."""
    root = [cls for cls in inspect.getmro(options) if dataclasses.is_dataclass(cls)][-1]
    found = [options, root]
    for cls in found:
        found += [below for below in cls.__subclasses__() if below not in found]
    return list(dict.fromkeys(found))


def documented(options: Any) -> dict[str, str]:
    """Field → the comment behind it, or the comment lines above it, in the source of its class and its bases."""
    found: dict[str, str] = {}
    for cls in reversed([c for c in inspect.getmro(options) if dataclasses.is_dataclass(c)]):
        lines, first = inspect.getsourcelines(cls)
        body = ast.parse(textwrap.dedent("".join(lines))).body[0]
        assert isinstance(body, ast.ClassDef)
        for node in body.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found[node.target.id] = comment(lines, node)
    return found


def comment(lines: list[str], node: ast.AnnAssign) -> str:
    """The comment of one field."""
    behind = lines[(node.end_lineno or node.lineno) - 1].partition("  # ")[2].strip()
    above: list[str] = []
    number = node.lineno - 2
    while lines[number].lstrip().startswith("# "):
        above.insert(0, lines[number].strip(" #\n"))
        number -= 1
    return " ".join([*above, *filter(None, [behind])])


def shown(default: Any) -> str:
    """A default as one would write it."""
    if default is None:
        return "null"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, list):
        return f"[{', '.join(map(shown, default))}]"
    if isinstance(default, dict):
        return "{" + ", ".join(f"{key}: {shown(value)}" for key, value in default.items()) + "}"
    return str(default) if default != "" else "empty"


def configurations() -> list[str]:
    """Names that CONFIG takes."""
    from melfusion.config.load import CONFIG_DIR

    return sorted(Path(file).stem for file in CONFIG_DIR.glob("*.yaml"))
