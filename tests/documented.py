"""What the documents tell a reader to type: commands, Python blocks, keys and links, each with its file and line."""

import dataclasses
import functools
import re
import shlex
from pathlib import Path

from melfusion.assembly.configuration import check_overrides
from melfusion.config.load import config_path
from melfusion.errors import MelfusionError
from melfusion.verbs import help as texts
from melfusion.verbs.options import named, read
from melfusion.verbs.submit import load_cluster
from melfusion.verbs.table import VERBS, module_of

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "RESULTS.md", "data/README.md", "data/games.md", "experiments/README.md")
MAKEFILE = (ROOT / "Makefile").read_text()
RECIPES = dict(re.findall(r"^([a-z-]+):.*##.*\n((?:\t.*\n?)+)", MAKEFILE, re.MULTILINE))  # target → its lines
PLACEHOLDERS = ("…", "key=value", "CONFIG", "[CONFIG]", "VERB", "name")  # of a reader's own
OF_RECIPES = {
    "ARGS": "$(ARGS)",
    "DEVICES": "$(DEVICES_AND_SUCH)",
    "NODES": "$(DEVICES_AND_SUCH)",
    "STRATEGY": "$(DEVICES_AND_SUCH)",
}


@dataclasses.dataclass(frozen=True)
class Snippet:
    """Code of a document; `language` is empty for indented code, "inline" for code within a sentence."""

    file: str
    line: int
    text: str
    language: str = ""


@dataclasses.dataclass
class Call:
    verb: str
    arguments: list[str]
    environment: dict[str, str]


def pages() -> list[Path]:
    return [*(ROOT / page for page in PAGES), *sorted((ROOT / "docs").glob("*.md"))]


def snippets(file: Path, text: str) -> list[Snippet]:
    """Fenced blocks, indented lines, and code within sentences, which may go on in the next line."""
    found, prose, fence, name = [], [], None, str(file.relative_to(ROOT)) if file.is_relative_to(ROOT) else str(file)
    for number, line in enumerate([*text.split("\n"), ""], 1):
        if fence is not None and line.strip() == "```":
            found += lines(fence)
            fence = None
        elif fence is not None:
            fence = dataclasses.replace(fence, text=f"{fence.text}{line}\n")
        elif line.startswith("```"):
            fence = Snippet(name, number + 1, "", line[3:].strip() or "text")
        elif line.startswith("    "):
            found.append(Snippet(name, number, line.strip()))
        elif line.strip():
            prose.append((number, line))
            continue
        if prose:
            found += inline(name, prose)
            prose = []
    return found


def inline(name: str, prose: list[tuple[int, str]]) -> list[Snippet]:
    """`code` within the lines of a paragraph."""
    text = "\n".join(line for _, line in prose)
    marks = re.finditer(r"(?<!`)`([^`]+)`(?!`)", text)
    first = prose[0][0]
    return [Snippet(name, first + text.count("\n", 0, m.start()), " ".join(m[1].split()), "inline") for m in marks]


def lines(block: Snippet) -> list[Snippet]:
    """The lines of a block, joined where one ends in a backslash; a block of Python or data as it is."""
    if block.language != "text":
        return [dataclasses.replace(block, text=block.text.strip("\n"))]
    found, number = [], block.line
    for line in re.sub(r"\\\n *", "\0", block.text).split("\n"):
        found.append(Snippet(block.file, number, line.replace("\0", "").strip()))
        number += 1 + line.count("\0")
    return found


def commands(snippet: Snippet) -> list[list[str]]:
    """The words of each command of make or melfusion; comments are left out, `a && b` is two of them."""
    if not re.match(r"(make|melfusion|srun|torchrun|python -m melfusion)( |$)", snippet.text):
        return []
    try:
        words = shlex.split(snippet.text, comments=True)
    except ValueError as error:
        raise MelfusionError(f"{snippet.text!r}: {error}") from None
    found = []
    while words:
        end = next((i for i, word in enumerate(words) if word in ("&&", "|", "\\|")), len(words))
        found.append(words[:end])
        words = words[end + 1 :]
    return [words for words in found if words[0] == "make" or "melfusion" in words]


def python_of(snippet: Snippet) -> str:
    """The Python of a block, of `melfusion.load(…)` within a sentence, or behind `python -c`; else nothing."""
    if snippet.text.startswith("python -c "):
        return shlex.split(snippet.text)[2]
    inline = snippet.language == "inline" and re.match(r"melfusion\.\w+\(", snippet.text)
    return snippet.text.replace("(…)", "(...)") if inline or snippet.language == "python" else ""


def check_command(words: list[str]) -> None:
    """MelfusionError where make or melfusion would refuse the words."""
    call = call_of_make(words[1:]) if words[0] == "make" else call_of(words[words.index("melfusion") + 1 :])
    if call is not None and call.verb not in PLACEHOLDERS:
        check_call(call)


def call_of(words: list[str]) -> Call | None:
    return Call(words[0], words[1:], {}) if words else None


def call_of_make(words: list[str]) -> Call | None:
    """What make hands to melfusion; None where the target is no verb."""
    targets = [word for word in words if "=" not in word and word not in PLACEHOLDERS]
    given = dict(word.split("=", 1) for word in words if "=" in word and word != "key=value")
    if unknown := [target for target in targets if target not in RECIPES]:
        raise MelfusionError(f"make has no target {unknown[0]!r}")
    if not targets:
        return None
    recipe, verb = RECIPES[targets[0]], targets[0]
    upper = {name: given.pop(name) for name in list(given) if name.isupper()}
    extra = [word for name, mark in OF_RECIPES.items() if mark in recipe for word in shlex.split(upper.pop(name, ""))]
    upper.pop("PYTHON", None)
    if verb not in VERBS:
        if upper or given:
            raise MelfusionError(f"make {verb} takes no {', '.join([*upper, *given])}")
        return None
    sent = [upper.pop("VERB", "train")] if verb == "submit" else []
    takes = {f.metadata["variable"] for name in [verb, *sent] if name in VERBS for f in named(module_of(name).Options).values()}
    if stray := set(upper) - takes:
        raise MelfusionError(f"make {' '.join([verb, *sent])} takes no {', '.join(sorted(stray))}")
    extra = [word for word in extra if "=" in word or not word.isdecimal()]  # DEVICES=8
    return Call(
        verb, [*sent, *extra, *(f"{n}={v}" for n, v in given.items())], {n: v for n, v in upper.items() if v not in PLACEHOLDERS}
    )


def check_call(call: Call) -> None:
    """The verb, its options and keys, and what they name: configurations, suites and rows."""
    if call.verb not in VERBS:
        raise MelfusionError(f"there is no verb {call.verb!r}")
    module, words = module_of(call.verb), [word for word in call.arguments if word not in PLACEHOLDERS]
    if "--help" in words:
        for section in [word for word in words if word != "--help"]:
            texts.keys(section)
        return
    if not words and not call.environment:  # only named
        return
    if call.verb == "submit":
        words = words_of_job(words, call.environment)
    options, more = read(module, words, call.environment)
    if call.verb in ("submit", "ablate"):
        more = load_cluster(more)[2]
    for name in filter(None, getattr(options, "config", "").split(",")):
        config_path(name)
    if call.verb == "ablate":
        check_suite(options)
    if call.verb not in ("submit", "tensorboard"):
        check_keys(tuple(more))


def words_of_job(words: list[str], environment: dict[str, str]) -> list[str]:
    """The call that a job makes is checked, too; returns what is submit's own."""
    own = [word for word in words if word.startswith("cluster")]
    verb, *rest = [word for word in words if word not in own]
    check_call(Call(verb, rest, environment))
    return [verb, *own]


def check_suite(options) -> None:
    rows = {file.stem for file in (ROOT / "experiments" / options.suite).glob("*.yaml") if not file.name.startswith("_")}
    if not rows:
        raise MelfusionError(f"there is no suite {options.suite!r}")
    if unknown := set((options.rows or "").split(",")) - rows - {""}:
        raise MelfusionError(f"suite {options.suite} has no row {', '.join(sorted(unknown))}")


@functools.cache
def check_keys(items: tuple[str, ...]) -> None:
    check_overrides(list(items))


def check_key(text: str) -> None:
    """`section.key` or `section.key=value` must name a key, a part of one, or an entry below one."""
    name = text.partition("=")[0].partition(":")[0]
    if not re.fullmatch(r"[a-z_]+(\.[a-z0-9_]+)+", name) or name.split(".")[0] not in texts.sections():
        return
    if not any(key == name or key.startswith(f"{name}.") or name.startswith(f"{key}.") for key in all_keys()):
        raise MelfusionError(f"there is no key {name!r}")


@functools.cache
def all_keys() -> set[str]:
    """Keys of configurations, and options of verbs that look like one (data.seed of evaluate)."""
    return {key for section in texts.sections() for key in texts.keys(section)} | {
        o for v in VERBS for o in named(module_of(v).Options)
    }
