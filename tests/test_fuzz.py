"""Hostile files by the thousand: only the errors that are meant come out, no code runs, nothing is written, memory is bounded."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fuzz_cases import TARGETS_SEEN_BOTH_WAYS, damaged, pictures


def fuzzed(count, seed, folder, code=None):
    """What `fuzz_run.py` says of so many cases, run in a process of its own; `code` runs before them."""
    here = Path(__file__).parent
    start = [str(here / "fuzz_run.py")] if code is None else ["-c", code]
    done = subprocess.run([sys.executable, *start, str(count), str(seed), str(folder)], capture_output=True, text=True, timeout=7200,
                          env=os.environ | {"PYTHONPATH": f"{here}:{here.parent / 'src'}"}, cwd=folder)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def check(result, count):
    assert result["broken"] == [] and result["cases"] == count == sum(result["outcomes"].values())
    for target in TARGETS_SEEN_BOTH_WAYS:  # cases that are all refused at the door, or all harmless, would test nothing
        assert len([name for name in result["outcomes"] if name.startswith(f"{target}:")]) >= 2, result["outcomes"]


def test_five_hundred_hostile_files(tmp_path):
    check(fuzzed(500, 0, tmp_path), 500)


@pytest.mark.slow
def test_ten_thousand_hostile_files(tmp_path):
    check(fuzzed(10_008, 1, tmp_path), 10_008)


def test_the_same_seed_makes_the_same_files():
    whole = pictures()
    one, two = ([damaged(np.random.default_rng([3, i]), whole[0], whole) for i in range(20)] for _ in range(2))
    assert one == two and len(set(one)) > 15


PLANTED = {
    "code": "fuzz_run.load_part = lambda *args: eval('1 + 1')",
    "a pickle": "import pickle; fuzz_run.tango_state = lambda path: pickle.loads(b'cos\\nsystem\\n(Vtrue\\ntR.')",
    "a file elsewhere": "fuzz_run.load_part = lambda *args: open('/tmp/melfusion-fuzz-planted', 'w').close()",
    "another error": "fuzz_run.read_part = lambda path: {}['x']",
    "memory": "import numpy; fuzz_run.load_part = lambda *args: numpy.ones(80_000_000).sum()",
}


@pytest.mark.parametrize("kind", PLANTED)
def test_the_guards_see_what_breaks_the_rules(kind, tmp_path):
    code = f"import fuzz_run, json, sys, pathlib\n{PLANTED[kind]}\nprint(json.dumps(fuzz_run.run(18, 0, pathlib.Path(sys.argv[3]))))"
    assert fuzzed(18, 0, tmp_path, code)["broken"]
    Path("/tmp/melfusion-fuzz-planted").unlink(missing_ok=True)
