"""The command of forking.py does what Python would do, and its process is not outlived."""

import os
import subprocess
import time
from pathlib import Path

from forking import python


def forked(code, *more, **given):
    return subprocess.run([python(), "-c", code, *more], capture_output=True, text=True, **given)


def test_it_has_what_the_command_has(tmp_path):
    code = "import os, sys; print(sys.argv, os.getcwd(), os.environ['TOLD'], sys.stdin.read()); print('beside', file=sys.stderr)"
    done = forked(code, "a", "b", cwd=tmp_path, env={"TOLD": "c"}, input="d")
    assert (done.stdout, done.stderr, done.returncode) == (f"['-c', 'a', 'b'] {tmp_path} c d\n", "beside\n", 0)
    (tmp_path / "file.py").write_text("import other; print(__name__, other.name)")
    (tmp_path / "other.py").write_text("name = 'here'")
    assert subprocess.run([python(), tmp_path / "file.py"], capture_output=True, text=True).stdout == "__main__ here\n"
    assert "other" not in forked("import sys; print(*sys.modules)").stdout.split()


def test_it_ends_as_its_process_ends():
    codes = {"": 0, "raise SystemExit": 0, "raise SystemExit(7)": 7, "import os; os.kill(os.getpid(), 9)": -9}
    assert {code: forked(code).returncode for code in codes} == codes
    said = forked("raise SystemExit('a sentence')")
    assert (said.returncode, said.stderr) == (1, "a sentence\n")
    failed = forked("import atexit; atexit.register(print, 'at the end'); 1 / 0")
    assert failed.returncode == 1 and failed.stderr.endswith("ZeroDivisionError: division by zero\n")
    assert failed.stdout == "at the end\n"


def test_signals_reach_its_process_and_its_death_ends_it():
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    for strike, ended in (("terminate", -15), ("kill", -9)):
        command = subprocess.Popen([python(), "-c", code], stdout=subprocess.PIPE, text=True)
        there = Path("/proc", command.stdout.readline().strip())
        assert there.is_dir() and there.name != str(command.pid) != str(os.getpid())
        getattr(command, strike)()
        assert command.wait(60) == ended
        command.stdout.close()
        deadline = time.monotonic() + 60
        while there.is_dir():
            assert time.monotonic() < deadline, "it lives on"
            time.sleep(0.02)
