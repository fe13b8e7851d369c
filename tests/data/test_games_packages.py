"""The games corpus: fetching and unpacking the packages, with stand-ins for apt-get and dpkg-deb."""

import os
import zipfile
from pathlib import Path

import pytest

from melfusion.data.games import corpus, packages, tuples


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


def test_packages_of_a_test_from_outside_stay_out():
    wanted = corpus.packages_of(corpus.chosen("all"))
    assert len(wanted) > 50 and not [name for name in wanted if name.startswith(("naev", "supertuxkart", "wesnoth"))]


APT = """
[ "$2" = "$FAIL" ] && { echo 'E: connection broke' >&2; exit 100; }
echo "$2" >> "$LOG"; echo deb > "$2_1.0_all.deb"
"""
DPKG = """
mkdir -p "$3/usr/share/toy" && cp "$ARCHIVE" "$3/usr/share/toy/data.pk3"
[ "$(basename "$3")" = "$FAIL_UNPACK" ] && { echo 'No space left' >&2; exit 2; }
exit 0
"""


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Stand-ins for apt-get, apt-cache and dpkg-deb, which fail for the packages that FAIL and FAIL_UNPACK name."""
    (folder := tmp_path / "bin").mkdir()
    fake_tool(folder, "apt-get", APT)
    fake_tool(folder, "dpkg-deb", DPKG)
    fake_tool(
        folder,
        "apt-cache",
        'shift 2; for p in "$@"; do echo "Package: $p"; echo "Size: 2097152"; echo "Installed-Size: 4096"; done',
    )
    with zipfile.ZipFile(tmp_path / "toy.pk3", "w") as archive:
        for name in ("maps/one.jpg", "models/gun.md3", "../../evil/maps/two.jpg"):
            archive.writestr(name, name)
    for key, value in {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "LOG": "log",
        "ARCHIVE": "toy.pk3",
        "FAIL": "",
        "FAIL_UNPACK": "",
    }.items():
        monkeypatch.setenv(key, str(tmp_path / value) if key in ("LOG", "ARCHIVE") else value)
    return tmp_path


def fetched(tools: Path) -> list[str]:
    return (tools / "log").read_text().split()


def test_a_download_that_was_cut_short_goes_on(tools, monkeypatch, capsys):
    wanted = dict.fromkeys(["a", "b", "c"])
    monkeypatch.setenv("FAIL", "b")
    with pytest.raises(RuntimeError, match="connection broke"):
        packages.download(tools / "out", wanted)
    assert "3 of 3 packages are missing" in (said := capsys.readouterr().out)
    assert "6 MiB to download (less what lies in debs/), 12 MiB more when unpacked" in said and "1/3 a" in said
    monkeypatch.setenv("FAIL", "")
    packages.download(tools / "out", wanted)
    assert fetched(tools) == ["a", "b", "c"] and "2 of 3 packages are missing" in capsys.readouterr().out
    packages.download(tools / "out", wanted)
    assert fetched(tools) == ["a", "b", "c"] and not capsys.readouterr().out


def test_an_unpacking_that_was_cut_short_is_done_again(tools, monkeypatch):
    monkeypatch.setenv("FAIL_UNPACK", "b")
    with pytest.raises(RuntimeError, match="No space left"):
        packages.download(tools / "out", dict.fromkeys(["a", "b"]))
    assert (tools / "out/a").is_dir() and not (tools / "out/b").exists()
    monkeypatch.setenv("FAIL_UNPACK", "")
    packages.download(tools / "out", dict.fromkeys(["a", "b"]))
    assert (tools / "out/b/usr/share/toy/data.pk3").is_file() and fetched(tools) == ["a", "b"]
    assert not list((tools / "out").glob(".unpacking-*"))


def test_of_archives_only_what_is_wanted_is_unpacked(tools):
    asked = []

    def wanted(name: str) -> bool:
        asked.append(name)
        return name.endswith("maps/one.jpg")

    packages.download(tools / "out", {"a": packages.Archives("usr/share/toy", ("*.pk3",), wanted)})
    folder = tools / "out/a/usr/share/toy"
    assert [p.name for p in folder.rglob("*") if p.is_file()] == ["one.jpg"] and "data.pk3.d/models/gun.md3" in asked
    with pytest.raises(RuntimeError, match=r"data.pk3 cannot be unpacked \(.*leads out of it\): remove its package"):
        packages.download(tools / "out", {"b": packages.Archives("usr/share/toy", ("*.pk3",), lambda name: True)})
    assert not (tools / "evil").exists() and not (tools / "out/b").exists()
