"""The games corpus: fetching and unpacking the packages, with stand-ins for apt-get and dpkg-deb."""

import os
from pathlib import Path

import pytest

from melfusion.data.games import packages, tuples


def fake_tool(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_download_fetches_unpacks_and_keeps_licences(tmp_path, monkeypatch):
    tools, out = tmp_path / "bin", tmp_path / "out"
    tools.mkdir()
    fake_tool(tools, "apt-get", 'echo "$2" >> "$LOG"; echo deb > "$2_1.0_all.deb"')
    fake_tool(tools, "dpkg-deb", 'd="$3/usr/share/doc/$(basename "$3")"; mkdir -p "$d"; echo "Files: *" > "$d/copyright"')
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    packages.download(out)
    packages.download(out)  # a second call fetches nothing again
    assert (tmp_path / "log").read_text().split() == list(tuples.GAMES)
    assert sorted(p.stem for p in (out / "licences").iterdir()) == sorted(tuples.GAMES)
    assert len(list((out / "debs").iterdir())) == 4


def test_download_says_in_one_sentence_what_is_missing(tmp_path, monkeypatch):
    fake_tool(tmp_path, "apt-get", "echo 'E: Unable to locate package' >&2; exit 100")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="dpkg-deb is not on this machine: .* GAMES_DIR="):
        packages.download(tmp_path / "out")
    fake_tool(tmp_path, "dpkg-deb", "exit 0")
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(RuntimeError, match="Unable to locate package.*GAMES_DIR="):
        packages.download(tmp_path / "out")
