"""The documents' commands and Python blocks are run, at tiny size, in a folder that has the files which they name.

A command that is only named in a sentence (`make lint`), or has words for the reader to replace (…, FOLDER), is parsed alone.
"""

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import documented as doc
import documented_files
import pytest
import slurm_stubs
from forking import python

from melfusion import install
from melfusion.lab.suite import load_suite
from melfusion.verbs.options import named
from melfusion.verbs.table import VERBS, module_of

pytestmark = pytest.mark.slow  # minutes of commands, each a process

NOT_RUN = {  # what a command begins with → why it is not run here
    "make train CONFIG=own ARGS=name=own-parts": "the stage has 7,000 steps of its own; tests/training/test_train.py has stages"
}
EXTRAS = {"denoiser.lora_rank=16": "peft", "app": "gradio", "film": "av"}  # a word of a command → the package that it needs
STEP = ["num_inference_steps=1"]
SMALL = {  # verb → what makes it small
    "train": ["trainer.max_steps=2", "evaluation.items=0", "trainer.media_items=0"],
    "generate": STEP,
    "film": STEP,
    "measure": [*STEP, "n=2", "strengths=0.5"],
    "evaluate": ["n=12", "sampling.num_inference_steps=1", "evaluation.embedders={}"],
    "picture-test": ["n=12"],
    "precompute": ["trainer.devices=1"],
    "probe": ["permutations=10", "clips=2"],
    "picture-gain": ["n=12", "sampling.num_inference_steps=1"],
    "ablate": ["trainer.max_steps=2", "ablation.items=12"],
    "bench": ["size=tiny", "only=training"],
    "torture": ["points=1", "goodput="],
    "data-games": ["games_dir=packages"],
}
WHOLE = ("data-games", "fetch-weights")  # verbs that train nothing: they take a configuration as it is
DATA = {  # what `tiny` would lay its own drawn scenes over
    "own": ["data.source=manifest", "data.path=data/own"],
    "games": ["data.source=manifest", "data.path=data/tracks"],
}
FIRST = (  # what other commands and blocks need
    "make train",
    "make shards MANIFEST=songs.csv OUT=data/own ARGS='cut=true duration_s=5.12'",
    "make train CONFIG=own",
    "make train CONFIG=games",
    "make train CONFIG=ace_step ARGS=name=ace",
    "make train CONFIG=judge ARGS=name=judge",
    "make export CKPT=runs/own OUT=my-model ARGS='whole=true'",
    "make export CKPT=runs/own OUT=my-synapse",
    "make generate PROMPT='a tune in A minor' OUT=music.wav",
)
SERVERS = {"app": ["host=127.0.0.1", "port={}"], "tensorboard": ["--port={}"]}  # verbs that run until they are stopped


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


def small(words, more=()) -> list[str]:
    """The same command with random twins in place of networks, few steps, and more options."""
    make, verb = words[0] == "make", words[1]
    if verb not in VERBS:
        return words
    items = [word for word in words[2:] if "=" in word and not word.startswith(("CONFIG=", "ARGS="))]
    items += [item for word in words[2:] if word.startswith("ARGS=") for item in shlex.split(word[5:])]
    names = next((word[7:] for word in words if word.startswith("CONFIG=")), "") or ",".join(w for w in words[2:] if "=" not in w)
    options = named(module_of(verb).Options)
    if "config" in options and verb not in WHOLE and (names or verb != "evaluate"):
        names = names or options["config"].default
        own = [f"name={names.replace(',tiny', '')}"] if verb == "train" and "/" not in names else []
        own += DATA.get(names.partition(",")[0], [])
        items += [item for item in own if key(item) not in map(key, items)]
        names += "" if names.endswith("tiny") else ",tiny"
    least = [*SMALL.get(verb, []), *more]
    items = [item for item in items if key(item) not in map(key, least)] + least
    if not make:
        return [*words[:2], *filter(None, names.split(",")), *items]
    plain = [item for item in items if key(item).isupper()]
    items = [item for item in items if item not in plain]
    return [*words[:2], *plain, *([f"CONFIG={names}"] if names else []), *([f"ARGS={shlex.join(items)}"] if items else [])]


def key(item: str) -> str:
    return item.partition("=")[0]


def called(words, interpreter) -> list[str]:
    """The command with this Python."""
    made = [] if words[1] == "install" else ["-o", "install"]
    first = ["make", *made, f"PYTHON={interpreter}"] if words[0] == "make" else [interpreter, "-m", "melfusion"]
    return [*first, *words[1:]]


def execute(words, folder) -> subprocess.CompletedProcess:
    """SLURM's programs are there for those that send jobs, and a hub on this machine for those that fetch."""
    env = dict(os.environ, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    interpreter = python()
    if words[1] == "submit" or "cluster=slurm" in " ".join(words):
        env |= {"PATH": f"{slurm_stubs.write(folder / 'stubs')}:{env['PATH']}", "SLURM_STUBS": str(folder / "stubs")}
    with documented_files.hub() as address:
        if words[1] == "install":
            interpreter = sys.executable  # the one that has the packages
        if words[1] == "fetch-weights":
            env |= {"HF_ENDPOINT": address, "HF_HOME": str(folder / "hub"), "HF_HUB_DISABLE_XET": "1"}
            env |= {"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0"}  # tests/conftest.py forbids the real one
            interpreter = sys.executable  # the hub's client reads these as it is imported
        call = called(words, interpreter)
        return subprocess.run(call, cwd=folder, capture_output=True, text=True, timeout=600, env=env)


def serve(words, folder) -> None:
    """Start a server, wait until it answers, and stop it as Ctrl-C does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = small(words, [item.format(port) for item in SERVERS[words[1]]])
    with (folder / "server.log").open("w") as log:
        call = called(words, sys.executable)
        process = subprocess.Popen(call, cwd=folder, stdout=log, stderr=log, start_new_session=True, preexec_fn=heeding_ctrl_c)
        try:
            end = time.monotonic() + 120
            while not answers(f"http://127.0.0.1:{port}"):
                assert process.poll() is None and time.monotonic() < end, (words, (folder / "server.log").read_text()[-3000:])
                time.sleep(0.2)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            process.wait(60)


def heeding_ctrl_c() -> None:
    """What a shell starts in the background ignores Ctrl-C, and so would all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def answers(url: str) -> bool:
    with contextlib.suppress(OSError):
        return urllib.request.urlopen(url, timeout=10).status == 200
    return False


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the files that the documents name, and runs of `scenes`, `own` and others."""
    folder = tmp_path_factory.mktemp("documented")
    documented_files.files(folder)
    for words in FIRST:
        done = execute(small(shlex.split(words)), folder)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
    for name, run in (("melbench", "scenes"), ("open_games", "games")):
        (folder / "runs" / name).symlink_to(folder / "runs" / run)
    shutil.copytree(folder / "data" / "own", folder / "folder")
    for i in range(12):
        shutil.copy(folder / f"track{i}.wav", folder / "folder")
    return folder


RUN = [pytest.param(words, place, id=f"{place}-{' '.join(words)[:40]}") for words, place in COMMANDS if not reason(words)]


def need(words) -> None:
    """A command that needs a package which is not installed is left out; so is the set-up where it would install some."""
    python = Path(sys.executable)
    if words[1] == "install" and not install.in_place(python, python.parents[1] / ".melfusion-installed"):
        pytest.skip("this environment was not made by make install")
    for word in words:
        if word in EXTRAS:
            pytest.importorskip(EXTRAS[word])


@pytest.mark.parametrize("words, place", [one for one in RUN if one.values[0][1] not in SERVERS])
def test_a_documented_command_works(words, place, folder):
    need(words)
    shutil.rmtree(folder / "theirs", ignore_errors=True)  # a folder of another system's sounds is refused
    if "test_seed" in " ".join(words):  # as the page says
        for old in (folder / "runs" / "kind").glob("*/seed*/test"):
            shutil.rmtree(old)
    if "SUITE=open_games" in words:  # the pages name it with two precisions, and a run is of one
        shutil.rmtree(folder / "runs" / "open_games" / "games", ignore_errors=True)
    done = execute(small(words), folder)
    assert done.returncode == 0, (place, small(words), done.stdout[-2000:], done.stderr[-3000:])


@pytest.mark.parametrize("words, place", [one for one in RUN if one.values[0][1] in SERVERS])
def test_a_documented_server_answers(words, place, folder):
    need(words)
    serve(words, folder)


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
