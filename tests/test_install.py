"""The set-up step: several checkouts may share an environment, and each runs its own code."""

import configparser
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import melfusion
from melfusion import install

ROOT = Path(__file__).parents[1]

TESTED = ("sde", "video", "parquet", "app", "adapter")  # extras that the tests use


@pytest.fixture
def shared(tmp_path):
    """Two checkouts, and an environment whose editable install points to the one or the other."""
    for name in ("a", "b"):
        folder = tmp_path / name
        (folder / "src" / "melfusion").mkdir(parents=True)
        for file in ("src/melfusion/install.py", "setup.cfg", "requirements-no-deps.txt"):
            shutil.copy(ROOT / file, folder / file)
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    # prints what importlib.metadata would read, and takes `-m pip install -e FOLDER[dev]` for done
    python.write_text(f"""#!/bin/bash
case "$*" in
  *version_info*) echo 3 11;;
  *importlib.metadata*) cat {tmp_path}/points;;
  *" -e "*) folder="${{@: -1}}"; echo "{{\\"url\\": \\"file://${{folder%%[*}}\\"}}" > {tmp_path}/points
            echo x >> {tmp_path}/calls;;
esac
""")
    python.chmod(0o755)

    def make(name):
        env = {"PYTHON": str(python), "PATH": os.environ["PATH"]}
        call = [sys.executable, "-S", str(tmp_path / name / "src" / "melfusion" / "install.py")]
        done = subprocess.run(call, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        points = json.loads((tmp_path / "points").read_text())["url"].removeprefix("file://")
        return done.stderr, Path(points).name, (tmp_path / "calls").read_text().count("x")

    return make


def test_a_second_checkout_takes_the_command_only_with_its_packages_and_says_so(shared, tmp_path):
    assert shared("a") == ("", "a", 1) and shared("a") == ("", "a", 1)
    told, points, calls = shared("b")  # the same lists of packages: nothing is installed, nothing is taken
    assert (points, calls) == ("a", 1) and told.count("\n") == 1
    assert f"shared with {tmp_path / 'a'}" in told and f"make here runs that of {tmp_path / 'b'}" in told
    assert shared("a") == ("", "a", 1)
    with (tmp_path / "b" / "setup.cfg").open("a") as file:
        file.write("# another list of packages\n")
    told, points, calls = shared("b")
    assert (points, calls) == ("b", 2) and f"now runs {tmp_path / 'b'}; it ran {tmp_path / 'a'} before" in told
    shutil.rmtree(tmp_path / "b")  # a command that runs a folder which is gone is mended
    assert shared("a")[1:] == ("a", 3)


def test_the_checkout_of_an_environment_is_found():
    found = install.checkout(Path(sys.executable))
    assert found is None or (found / "setup.cfg").is_file()  # None where it is no editable install


def test_tests_and_what_they_start_run_this_checkout(tmp_path):
    assert Path(melfusion.__file__).parents[2] == ROOT
    child = subprocess.run(
        [sys.executable, "-c", "import melfusion; print(melfusion.__file__)"], cwd=tmp_path, capture_output=True, text=True
    )
    assert Path(child.stdout.strip()).parents[2] == ROOT


def test_error_messages_name_the_packages_and_versions_of_the_list():
    lines = (ROOT / "requirements-no-deps.txt").read_text().splitlines()
    listed = [line for line in lines if line and not line.startswith("#")]
    assert [f"{name}=={version}" for name, version in install.NO_DEPS.items()] == listed
    assert install.no_deps_command() == f"pip install --no-deps {' '.join(listed)}"
    assert install.no_deps_command("tinysoundfont") == "pip install --no-deps tinysoundfont==0.3.7"


def test_make_install_brings_the_extras_that_the_tests_use():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = {name: set(lines.split("\n")) for name, lines in setup["options.extras_require"].items()}
    assert all(extras[name] <= extras["dev"] for name in TESTED)
