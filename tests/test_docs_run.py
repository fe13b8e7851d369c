"""The documents' commands and Python blocks are run, at tiny size, in a folder that has the files which they name.

A command that is only named in a sentence (`make lint`), or has words for the reader to replace (…, FOLDER), is parsed alone.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import documented as doc
import numpy as np
import pytest
from data_fixtures import write_film
from forking import python
from PIL import Image

from melfusion.lab.suite import load_suite
from melfusion.media.sound import write_wav
from melfusion.verbs.options import named
from melfusion.verbs.table import VERBS, module_of

pytestmark = pytest.mark.slow  # minutes of commands, each a process

NOT_RUN = {  # what a command begins with → why it is not run here
    "make install": "it installs packages",
    "make test": "it would run this test within itself",
    "make torture": "nine minutes; tests/torture runs its faults",
    "make data-games": "a download; tests/data/test_games_corpus.py builds from a tree of its own",
    "make probe": "it needs tracks of several games; tests/lab/test_probe.py has them",
    "make picture-gain": "it needs tracks of several games; tests/lab/test_picture_gain.py has them",
    "make fetch-weights": "a download; tests/models/test_fetching.py has a hub of its own",
    "make submit": "SLURM; tests/cluster/test_submit.py has stubs of its commands",
    "melfusion submit": "SLURM; tests/cluster/test_submit.py has stubs of its commands",
    "make ablate SUITE=kind cluster=slurm": "SLURM; tests/cluster/test_submit.py has stubs of its commands",
    "make ablate": "a table needs judges of 512 drawn scenes; tests/lab/test_suites.py runs a suite of twins",
    "make app": "a server for a browser; tests/app/test_app.py starts it",
    "make tensorboard": "a server for a browser",
    "make evaluate ARGS=wavs=": "it needs a split of games; tests/evaluation/test_evaluate.py has a folder of clips",
    "make shards MANIFEST=melbench/": "it needs MeLBench; tests/data/test_manifest.py has rows of it",
    "make shards MANIFEST=extmusiccaps": "it needs Extended MusicCaps; tests/data/test_manifest.py has rows of it",
    "make train CONFIG=own ARGS=name=own-parts": "hours: each stage has steps of its own",
    "make bench": "minutes; tests/bench runs its sections",
}
EXTRAS = {"denoiser.lora_rank=16": "peft"}  # a word of a command → the package that it needs
STEP = ["num_inference_steps=1"]
SMALL = {  # verb → what makes it small
    "train": ["trainer.max_steps=2", "evaluation.items=0", "trainer.media_items=0"],
    "generate": STEP,
    "film": STEP,
    "measure": [*STEP, "n=2", "strengths=0.5"],
    "evaluate": ["n=12", "sampling.num_inference_steps=1", "evaluation.embedders={}"],
    "picture-test": ["n=12"],
    "precompute": ["trainer.devices=1"],
}
OWN_DATA = ["data.source=manifest", "data.path=data/own"]  # which `tiny` would lay its own drawn scenes over
FIRST = (  # what other commands and blocks need
    "make train",
    "make shards MANIFEST=songs.csv OUT=data/own ARGS='cut=true duration_s=5.12'",
    "make train CONFIG=own",
    "make train CONFIG=ace_step ARGS=name=ace",
    "make export CKPT=runs/own OUT=my-model ARGS='whole=true'",
    "make generate PROMPT='a tune in A minor' OUT=music.wav",
)
PROGRAM = """import sys, json, shutil
for line in open(sys.argv[2]) if sys.argv[1] == "--calls" else [json.dumps({"out": sys.argv[-1]})]:
    shutil.copy("song.wav", json.loads(line)["out"])
"""


def documented():
    """(words, place) of each command that stands in a block, or in a sentence with arguments, once."""
    found = {}
    for page in doc.pages():
        for snippet in doc.snippets(page, page.read_text()):
            for words in doc.commands(snippet):
                bare = snippet.language == "inline" and len(words) < 3
                open_ = any("…" in word or word in doc.PLACEHOLDERS or word.endswith(("=FOLDER", "FILE")) for word in words)
                if words[0] in ("make", "melfusion") and not bare and not open_ and "--help" not in words:
                    found.setdefault(tuple(words), f"{snippet.file}:{snippet.line}")
    return [(list(words), place) for words, place in found.items()]


COMMANDS = documented()


def reason(words) -> str:
    """Why a command is not run; empty where it is."""
    return next((why for start, why in NOT_RUN.items() if " ".join(words).startswith(start)), "")


def small(words) -> list[str]:
    """The same command with random twins in place of networks, and few steps."""
    make, verb = words[0] == "make", words[1]
    if verb not in VERBS:
        return words
    items = [word for word in words[2:] if "=" in word and not word.startswith(("CONFIG=", "ARGS="))]
    items += [item for word in words[2:] if word.startswith("ARGS=") for item in shlex.split(word[5:])]
    names = next((word[7:] for word in words if word.startswith("CONFIG=")), "") or ",".join(w for w in words[2:] if "=" not in w)
    options = named(module_of(verb).Options)
    if "config" in options and verb != "evaluate":
        names = names or options["config"].default
        more = [f"name={names.replace(',tiny', '')}"] if verb == "train" and "/" not in names else []
        more += OWN_DATA if names.startswith("own") else []
        items += [item for item in more if key(item) not in map(key, items)]
        names += "" if names.endswith("tiny") else ",tiny"
    least = SMALL.get(verb, [])
    items = [item for item in items if key(item) not in map(key, least)] + least
    if not make:
        return [*words[:2], *filter(None, names.split(",")), *items]
    plain = [item for item in items if key(item).isupper()]
    items = [item for item in items if item not in plain]
    return [*words[:2], *plain, *([f"CONFIG={names}"] if names else []), *([f"ARGS={shlex.join(items)}"] if items else [])]


def key(item: str) -> str:
    return item.partition("=")[0]


def execute(words, folder) -> subprocess.CompletedProcess:
    call = ["make", "-o", "install", f"PYTHON={python()}"] if words[0] == "make" else [python(), "-m", "melfusion"]
    env = dict(os.environ, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    return subprocess.run([*call, *words[1:]], cwd=folder, capture_output=True, text=True, timeout=600, env=env)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The checkout, with the files that the documents name, and runs of `scenes` and `own`."""
    folder, rng = tmp_path_factory.mktemp("documented"), np.random.default_rng(0)
    for name in ("src", "configs", "experiments", "Makefile"):
        (folder / name).symlink_to(doc.ROOT / name)
    shutil.copytree(doc.ROOT / "data" / "examples", folder / "data" / "examples")
    for name in ("sea", "snow", "forest", "rain", "picture", "cat"):
        Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    for name in ("song", "violin", *(f"track{i}" for i in range(10))):
        write_wav(folder / f"{name}.wav", 0.1 * rng.standard_normal(20 * 16000).astype(np.float32), 16000)
        Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    (folder / "songs.csv").write_text("audio,image,caption\n" + "".join(f"track{i}.wav,track{i}.png,tune {i}\n" for i in range(10)))
    shutil.copy(folder / "songs.csv", folder / "mine.csv")
    write_film(folder / "holiday.mp4", np.full((20, 48, 64, 3), 90, np.uint8))
    (folder / "music").mkdir(), (folder / "pictures").mkdir()
    (folder / "walk.yaml").write_text(
        "- {image: sea.png, start_s: 0}\n- {image: forest.png, start_s: 5, prompt: a tune in A minor}\n"
    )
    (folder / "items.jsonl").write_text(json.dumps({"prompt": "a tune in A minor", "image": "sea.png"}) + "\n")
    (folder / "theirs.py").write_text(PROGRAM)
    for words in FIRST:
        done = execute(small(shlex.split(words)), folder)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
    shutil.copytree(folder / "data" / "own", folder / "folder")
    return folder


@pytest.mark.parametrize("words, place", [pytest.param(w, p, id=f"{p}-{' '.join(w)[:40]}") for w, p in COMMANDS if not reason(w)])
def test_a_documented_command_works(words, place, folder):
    for word in words:
        if word in EXTRAS:
            pytest.importorskip(EXTRAS[word])
    shutil.rmtree(folder / "theirs", ignore_errors=True)  # a folder of another system's sounds is refused
    done = execute(small(words), folder)
    assert done.returncode == 0, (place, small(words), done.stdout[-2000:], done.stderr[-3000:])


def test_the_suite_of_the_lab_s_page_loads(tmp_path, monkeypatch):
    page = doc.ROOT / "docs" / "lab.md"
    files = [snippet.text for snippet in doc.snippets(page, page.read_text()) if snippet.language == "yaml"]
    (tmp_path / "experiments" / "room").mkdir(parents=True)
    shutil.copy(doc.ROOT / "experiments" / "_lab.yaml", tmp_path / "experiments")
    for name, text in zip(("_base", "none", "tokens_8"), files, strict=True):
        (tmp_path / "experiments" / "room" / f"{name}.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert list(load_suite("room", []).rows) == ["none", "tokens_8"]


def test_what_is_not_run_is_documented_somewhere():
    lines = [" ".join(words) for words, _ in COMMANDS]
    assert [start for start in NOT_RUN if not any(line.startswith(start) for line in lines)] == []


SOURCES = {
    f"{snippet.file}:{snippet.line}": source
    for page in doc.pages()
    for snippet in doc.snippets(page, page.read_text())
    if (source := doc.python_of(snippet)) and "(...)" not in source
}


@pytest.mark.parametrize("place", SOURCES)
def test_python_runs(place, folder):
    call = [python(), "-c", f"import melfusion\n{SOURCES[place]}"]
    done = subprocess.run(call, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
