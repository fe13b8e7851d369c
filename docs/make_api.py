"""Writes docs/api.md from the docstrings of the public interface: `python docs/make_api.py`. tests/test_api.py runs it."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

HERE = Path(__file__).parent
SOURCE = HERE.parent / "src"
PUBLIC = {  # heading → what is described under it: a function, a class, a class with some methods alone, or a module's functions
    "Loading and generating": (
        "melfusion.load",
        "melfusion.assembly.pipeline.Pipeline: __call__ to save_pretrained",
        "melfusion.assembly.music.Music",
        "melfusion.assembly.film.film",
        "melfusion.assembly.influence.picture_influence",
    ),
    "The four seams": (
        "melfusion.models.image_encoder.ImageEncoder",
        "melfusion.models.denoiser.Denoiser",
        "melfusion.models.conditioner.Conditioner",
        "melfusion.models.codec.MusicCodec",
    ),
    "The synapse": ("melfusion.models.synapse.base.VisualSynapse", "melfusion.models.synapse.base.AlphaSynapse"),
    "Data": ("melfusion.batch.MusicBatch", "melfusion.data.datamodule.MusicDataModule"),
    "Metrics": ("melfusion.metrics.distances", "melfusion.metrics.imsm", "melfusion.metrics.intervals"),
}
FIRST = """# Python interface

This page is made from docstrings by `python docs/make_api.py`: change the docstring and not the page. What is not here may
change at any time. [example.py](example.py) loads the shipped model, generates and plots. Shapes stand in brackets, with the
letters that the class explains.
"""
WIDTH = 100  # characters of a signature in one line
Described = ast.ClassDef | ast.FunctionDef


def page() -> str:
    """The text of api.md."""
    parts = [FIRST]
    for heading, names in PUBLIC.items():
        parts.append(f"## {heading}\n")
        for name in names:
            parts += described(name)
    return "\n".join(parts).rstrip() + "\n"


def described(name: str) -> list[str]:
    """A module with its functions, or one class or function."""
    if file := file_of(name):
        tree, lines = ast.parse(file.read_text()), file.read_text().split("\n")
        return [f"### `{name}`\n", words(tree), *(one(node, lines, "####") for node in shown(tree))]
    name, _, chosen = name.partition(": ")
    module, _, last = name.rpartition(".")
    found = file_of(module)
    assert found, f"there is no module {module}"
    lines = found.read_text().split("\n")
    node = next(n for n in ast.parse(found.read_text()).body if isinstance(n, Described) and n.name == last)
    own = shown(node, chosen.split()) if isinstance(node, ast.ClassDef) else []
    return [one(node, lines, "###", f"{module}."), *(one(method, lines, "####", f"{last}.") for method in own)]


def file_of(module: str) -> Path | None:
    """The source of a module; None where the name is none."""
    path = SOURCE.joinpath(*module.split("."))
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)


def shown(node: ast.Module | ast.ClassDef, chosen: list[str] | None = None) -> list[ast.FunctionDef]:
    """Its functions of these names; without names those with a docstring and no underscore before their own."""
    functions = [n for n in node.body if isinstance(n, ast.FunctionDef) and ast.get_docstring(n)]
    return [n for n in functions if (n.name in chosen if chosen else not n.name.startswith("_"))]


def one(node: Described, lines: list[str], level: str, before: str = "") -> str:
    """Heading, signature and docstring."""
    return f"{level} `{before}{node.name}`\n\n```\n{signature(node, lines)}\n```\n\n{words(node)}"


def signature(node: Described, lines: list[str]) -> str:
    """As it is called: of a class, its __init__; of a dataclass, its fields with their comments."""
    if isinstance(node, ast.FunctionDef):
        decorators = [ast.unparse(d) for d in node.decorator_list if ast.unparse(d) in ("property", "classmethod")]
        returns = f" -> {ast.unparse(node.returns)}".replace("'", "") if node.returns else ""
        return "".join(f"@{d}\n" for d in decorators) + wrapped(node.name, arguments(node), returns)
    if init := next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None):
        return wrapped(node.name, arguments(init), "")
    if node.decorator_list:
        fields = [
            lines[i].rstrip() for n in node.body if isinstance(n, ast.AnnAssign) for i in range(n.lineno - 1, n.end_lineno or 0)
        ]
        return "\n".join([f"{node.name}(", *fields, ")"])
    return wrapped(node.name, [ast.unparse(base) for base in node.bases], "")


def arguments(function: ast.FunctionDef) -> list[str]:
    """Those that a caller gives."""
    given = function.args
    defaults = [None] * (len(given.args) - len(given.defaults)) + list(given.defaults)
    pairs = [*zip(given.args, defaults, strict=True), *zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    found = [ast.unparse(arg) + (f" = {ast.unparse(default)}" if default else "") for arg, default in pairs]
    if given.vararg or given.kwonlyargs:
        found.insert(len(given.args), f"*{ast.unparse(given.vararg) if given.vararg else ''}")
    if given.kwarg:
        found.append(f"**{ast.unparse(given.kwarg)}")
    return found[1:] if found and found[0] in ("self", "cls") else found


def wrapped(name: str, inside: list[str], after: str) -> str:
    """In one line, or one line for each argument."""
    short = f"{name}({', '.join(inside)}){after}"
    return short if len(short) <= WIDTH else "\n".join([f"{name}(", *(f"    {part}," for part in inside), f"){after}"])


def words(node: Described | ast.Module) -> str:
    """The docstring as Markdown: `Args:` and `Attributes:` become lists."""
    lines: list[str] = []
    in_list = False
    for line in inspect.cleandoc(ast.get_docstring(node) or "").split("\n"):
        if line.strip() in ("Args:", "Attributes:"):
            in_list = True
            lines += [f"{line.strip()}", ""]
        elif in_list and (entry := re.match(r"    (\w+): (.*)", line)):
            entries = re.split(r"  (?=\w+: )", f"{entry[1]}: {entry[2]}")  # two of them may share a line
            lines += [re.sub(r"^(\w+):", r"- `\1`:", e) for e in entries]
        else:
            in_list = in_list and line.startswith("    ")
            lines.append(f"  {line.strip()}" if in_list and line.strip() else line)
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    (HERE / "api.md").write_text(page())
