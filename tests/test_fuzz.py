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
    command = [sys.executable, *start, str(count), str(seed), str(folder)]
    environment = os.environ | {"PYTHONPATH": f"{here}:{here.parent / 'src'}"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=7200, env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def check(result, count):
    assert result["broken"] == [] and result["cases"] == count == sum(result["outcomes"].values())
    for target in TARGETS_SEEN_BOTH_WAYS:  # cases that are all refused at the door, or all harmless, would test nothing
        assert len([name for name in result["outcomes"] if name.startswith(f"{target}:")]) >= 2, result["outcomes"]


def test_two_hundred_hostile_files(tmp_path):
    check(fuzzed(200, 0, tmp_path), 200)


@pytest.mark.slow  # fifty times the files of the test above
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


@pytest.mark.slow  # it tests the test above
def test_the_guards_see_what_breaks_the_rules(tmp_path):
    code = ["import fuzz_run, json, sys, pathlib", "kept, seen = dict(vars(fuzz_run)), {}"]
    for kind, plant in PLANTED.items():
        code += [plant, f"seen[{kind!r}] = fuzz_run.run(18, 0, pathlib.Path(sys.argv[3]) / {kind!r})['broken']"]
        code += ["vars(fuzz_run).update(kept)"]
    for name in ("none", *PLANTED):
        (tmp_path / name).mkdir()
    code += ["seen['none'] = fuzz_run.run(18, 0, pathlib.Path(sys.argv[3]) / 'none')['broken']"]
    memory = code.index(PLANTED["memory"])  # last, since the peak stays
    code = [*code[:memory], code[-1], *code[memory:-1], "print(json.dumps(seen))"]
    seen = fuzzed(18, 0, tmp_path, "\n".join(code))
    assert not seen.pop("none") and seen.keys() == PLANTED.keys() and all(seen.values()), seen
    Path("/tmp/melfusion-fuzz-planted").unlink(missing_ok=True)
