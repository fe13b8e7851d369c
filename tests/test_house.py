"""The house: which room may import which, and no circles."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

import melfusion

ROOT = Path(melfusion.__file__).parent
FLOORS = (
    {""},
    {"config", "state", "media", "metrics", "cluster"},
    {"data"},
    {"models"},
    {"listeners"},
    {"assembly"},
    {"training", "evaluation"},
    {"lab", "torture", "bench", "app"},
    {"verbs"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
TOP = 8  # Python files beside the rooms
LONGEST = {"function": 40, "file": 250}  # lines


def module_of(file: Path) -> str:
    parts = ["melfusion", *file.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(file): file for file in sorted(ROOT.rglob("*.py")) if "configs" not in file.parts}


def names_in(source: str) -> set[str]:
    """Modules that a file imports, within functions too, or names in strings."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= {node.value} if re.fullmatch(r"melfusion(\.\w+)+", node.value) else set()
    return {name for name in found if name in FILES}


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and (ROOT / parts[1]).is_dir() else ""


def forbidden(importer: str, imported: str) -> bool:
    here, there = room_of(importer), room_of(imported)
    if importer in ("melfusion", "melfusion.__main__"):
        return False
    return here != there and FLOOR[there] >= FLOOR[here]


def imports() -> dict[str, set[str]]:
    return {module: names_in(file.read_text()) - {module} for module, file in FILES.items()}


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Every group of modules that import each other (Tarjan 1972)."""
    index, low, stack, found = {}, {}, [], []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in arrows.get(module, ()):
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            group = [stack.pop()]
            while group[-1] != module:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for module in arrows:
        if module not in index:
            visit(module)
    return found


def test_no_import_points_upwards():
    wrong = [f"{a} imports {b}" for a, names in imports().items() for b in sorted(names) if forbidden(a, b)]
    assert not wrong, "; ".join(wrong)


def test_no_circles():
    assert circles(imports() | {"melfusion": set()}) == []  # but for `melfusion.load`, which imports when it is called


def test_every_room_has_a_floor_and_few_files_stand_beside_the_rooms():
    rooms = {path.name for path in ROOT.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert rooms == set(FLOOR) - {""}
    assert len(list(ROOT.glob("*.py"))) <= TOP
    assert all(len(file.relative_to(ROOT).parts) <= 3 for file in FILES.values())  # two levels below the package


def class_names(sources: dict[str, str]) -> dict[str, list[str]]:
    """Name of a class → the modules that define one."""
    found = defaultdict(list)
    for module, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(module)
    return dict(found)


def too_long(sources: dict[str, str]) -> list[str]:
    """Every file and function with more lines than LONGEST allows."""
    found = []
    for module, source in sources.items():
        lines = {module: len(source.splitlines())} if len(source.splitlines()) > LONGEST["file"] else {}
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                length = node.end_lineno - node.lineno + 1
                lines |= {f"{module}.{node.name}": length} if length > LONGEST["function"] else {}
        found += [f"{name} has {length} lines" for name, length in lines.items()]
    return found


def test_functions_and_files_are_short():
    assert too_long({module: file.read_text() for module, file in FILES.items()}) == []
    long = "def f():\n" + "    pass\n" * 40 + "class A:\n    async def g():\n" + "        pass\n" * 215
    assert too_long({"a": long}) == ["a has 258 lines", "a.f has 41 lines", "a.g has 216 lines"]
    assert too_long({"a": "def f():\n" + "    pass\n" * 39}) == []


def test_no_two_classes_have_one_name():
    found = class_names({module: file.read_text() for module, file in FILES.items()})
    assert all(module.startswith("melfusion.verbs.") for module in found.pop("Options"))  # of each verb its own
    assert {name: modules for name, modules in found.items() if len(modules) > 1} == {}
    assert class_names({"a": "class Row: ...", "b": "def f():\n    class Row: ..."}) == {"Row": ["a", "b"]}


@pytest.mark.parametrize("folder", ["src", "tests", "docs"])
def test_no_comment_exempts_a_line_from_a_tool(folder):
    words = re.compile(r"#\s*(noqa|type:\s*ignore|mypy:|ruff:|isort:|pyright:|pylint:|fmt:\s*(off|skip)|pragma)", re.IGNORECASE)
    files = sorted((Path(__file__).parents[1] / folder).rglob("*.py"))
    assert [f"{file}: {found[0]}" for file in files for found in words.finditer(file.read_text())] == []
    assert all(words.search(f"x = 1  # {word}: E1") for word in ("noqa", "type: ignore", "fmt: off", "pragma"))


def test_each_slow_test_says_why():
    lines = [(file.name, line) for file in Path(__file__).parent.rglob("*.py") for line in file.read_text().splitlines()]
    marked = [(name, line) for name, line in lines if re.search(r"pytest\.mark\.slow\b(?!\\)", line)]
    assert len(marked) > 30
    assert [f"{name}: {line.strip()}" for name, line in marked if not re.search(r"  # \w", line)] == []


@pytest.mark.parametrize(
    "source, names",
    [
        ("from melfusion.data import order", {"melfusion.data", "melfusion.data.order"}),
        ("def f():\n    import melfusion.verbs.train", {"melfusion.verbs.train"}),
        ("MODULE = 'melfusion.verbs.train'", {"melfusion.verbs.train"}),
    ],
)
def test_an_import_is_seen_wherever_it_stands(source, names):
    assert names_in(source) == names


def test_what_is_forbidden():
    assert forbidden("melfusion.data.order", "melfusion.models.unet")
    assert forbidden("melfusion.config.load", "melfusion.state.run_directory")
    assert not forbidden("melfusion.models.unet", "melfusion.data.order")
    assert not forbidden("melfusion.__main__", "melfusion.verbs.train")
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
