"""Documents say what the code takes: every command, key, link and Python block in them."""

import ast
import importlib
import re
import textwrap

import documented as doc
import pytest

import melfusion
from melfusion.errors import MelfusionError

SNIPPETS = [snippet for page in doc.pages() for snippet in doc.snippets(page, page.read_text())]
EXTRAS = re.findall(r"^(\w+) =$", (doc.ROOT / "setup.cfg").read_text().partition("[options.extras_require]")[2], re.MULTILINE)


@pytest.fixture(autouse=True)
def root(monkeypatch):
    monkeypatch.chdir(doc.ROOT)


def refused(snippets) -> list[str]:
    """`file:line: what is wrong` of each command, key and Python block that would not work."""
    wrong = []
    for snippet in snippets:
        where = f"{snippet.file}:{snippet.line}"
        wrong += said(where, check_commands, snippet)
        if snippet.language == "inline":
            wrong += said(where, doc.check_key, snippet.text)
            wrong += said(where, check_extra, snippet.text)
        if source := doc.python_of(snippet):
            wrong += said(where, check_python, source)
    return wrong


def said(where, check, what) -> list[str]:
    try:
        check(what)
    except (MelfusionError, SyntaxError) as error:
        return [f"{where}: {error}"]
    return []


def check_commands(snippet) -> None:
    for words in doc.commands(snippet):
        doc.check_command(words)


def check_extra(text: str) -> None:
    if text.startswith("pip install") and (found := re.search(r"\[(\w+)\]", text)) and found[1] not in EXTRAS:
        raise MelfusionError(f"setup.cfg has no extra {found[1]!r}")


def check_python(source: str) -> None:
    """It compiles, and what it takes from melfusion is there."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("melfusion"):
            wanted = [(node.module, alias.name) for alias in node.names]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "melfusion":
            wanted = [("melfusion", node.attr)]
        else:
            continue
        for module, name in wanted:
            try:
                found = name == "*" or hasattr(importlib.import_module(module), name) or importlib.import_module(f"{module}.{name}")
            except ImportError:
                found = False
            if not found:
                raise MelfusionError(f"{module} has no {name}")


def test_commands_keys_and_python_in_the_documents_are_those_of_the_code():
    assert refused(SNIPPETS) == []
    assert sum(len(doc.commands(snippet)) for snippet in SNIPPETS) > 80


WRONG = """# A page

Type `make tarin` or `make
train CONFIG=scenez`, set `trainer.max_stepz`, and `pip install 'melfusion[vidio]'`.

    make train CKPT=runs/scenes                       # train reads no checkpoint
    make generate sed=3
    make probe DEVICES=2
    make train && make show FILES=music.wav
    make lint CONFIG=tiny

```
melfusion evaluate ckpt=runs/scenes \\
    evaluation.itemz=3
melfusion ablate suite=kindd
melfusion ablate suite=kind rows=concatt
melfusion trian
srun melfusion train tiny trainer.device=8
melfusion submit trian tiny
make submit VERB=evaluate nn=600
melfusion submit train tiny cluster.partitionn=gpu
melfusion train --help datta
melfusion generate prompt='x
```

```python
from melfusion.media.sound import read_sonud
```

`melfusion.laod("x")`; these are right: `make train CONFIG=games,tiny`, `trainer.max_steps=3`, `melfusion VERB --help`.
"""
SAID = (
    "3: make has no target 'tarin'",
    "3: There is no configuration 'scenez'",
    "4: there is no key 'trainer.max_stepz'",
    "4: setup.cfg has no extra 'vidio'",
    "6: make train takes no CKPT",
    "7: There is no option 'sed'",
    "8: make probe takes no DEVICES",
    "9: make show takes no FILES",
    "10: make lint takes no CONFIG",
    "13: override 'evaluation.itemz=3'",
    "15: there is no suite 'kindd'",
    "16: suite kind has no row concatt",
    "17: there is no verb 'trian'",
    "18: override 'trainer.device=8'",
    "19: there is no verb 'trian'",
    "20: override 'nn=600'",
    "21: override 'partitionn=gpu'",
    "22: There is no section 'datta'",
    "23: \"melfusion generate prompt='x",
    "27: melfusion.media.sound has no read_sonud",
    "30: melfusion has no laod",
)


def test_wrong_commands_are_refused_with_their_file_and_line():
    found = [line for snippet in doc.snippets(doc.ROOT / "docs" / "page.md", WRONG) for line in refused([snippet])]
    assert len(found) == len(SAID), found
    for line, start in zip(found, SAID, strict=True):
        assert line.startswith(f"docs/page.md:{start}"), (line, start)


def test_one_diagram_shows_how_data_flow():
    texts = [(doc.ROOT / name).read_text() for name in ("README.md", "docs/architecture.md")]
    readme, page = (re.search(r"```\n(shards .*?)```", text, re.DOTALL)[1] for text in texts)
    assert page == readme and textwrap.indent(readme, "    ") in melfusion.__doc__


def test_links_lead_to_files_and_headings():
    wrong = []
    for page in doc.pages():
        for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
            path, _, heading = target.partition("#")
            file = (page.parent / path) if path else page
            if not file.exists() or (heading and heading not in headings(file.read_text())):
                wrong.append(f"{page.relative_to(doc.ROOT)}: {target}")
    assert wrong == []


def test_the_list_of_pages_has_all_of_them():
    folder = doc.ROOT / "docs"
    listed = (folder / "index.md").read_text()
    assert [page.name for page in folder.glob("*.md") if page.name != "index.md" and f"({page.name})" not in listed] == []


def headings(text: str) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
