"""Fetching the games' Debian packages and unpacking them, without root."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from melfusion.data.games.tuples import GAMES
from melfusion.errors import DataError

ELSEWHERE = "unpack the packages elsewhere with `dpkg-deb -x` and pass their folder as GAMES_DIR="

MOST_GIB = 8  # of one archive's files of use


@dataclass(frozen=True)
class Archives:
    """Zip archives in a package: `globs` below the folder `data` of it, and which of their files are wanted."""

    data: str
    globs: Sequence[str]
    wanted: Callable[[str], bool]


def download(out: Path, packages: Mapping[str, Archives | None] | None = None) -> None:
    """Fetch the packages into `out`/debs and unpack each to `out`/<package>, licences to `out`/licences; needs no root.

    What is there is not fetched or unpacked again: a package's folder appears when it is whole.

    Args:
        packages: name → its zip archives, which are unpacked too; by default those of tuples.GAMES.
    Raises DataError where apt-get or dpkg-deb is missing or fails.
    """
    out, packages = Path(out).resolve(), packages or dict.fromkeys(GAMES)
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise DataError(f"The games come as Debian packages and {tool} is not on this machine: {ELSEWHERE}.")
    for folder in ("debs", "licences"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    missing = [package for package in packages if not (out / package).is_dir()]
    if missing:
        print(f"{len(missing)} of {len(packages)} packages are missing in {out}: {sizes(missing)}", flush=True)
    for number, package in enumerate(missing, 1):
        print(f"{number}/{len(missing)} {package}", flush=True)
        _unpack(_fetch(package, out), package, packages[package], out)


def sizes(packages: Sequence[str]) -> str:
    """In words, how much is downloaded and how much disk it takes, as apt's lists say."""
    command = ["apt-cache", "show", "--no-all-versions", *packages]
    found = shutil.which("apt-cache") and subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if not found or not (fields := re.findall(r"^(Size|Installed-Size): (\d+)$", found.stdout, re.MULTILINE)):
        return "their size is not known, since apt-cache says nothing"
    fetched = sum(int(n) for name, n in fields if name == "Size") / 2**20
    unpacked = sum(int(n) for name, n in fields if name == "Installed-Size") / 2**10
    return f"{fetched:,.0f} MiB to download (less what lies in debs/), {unpacked:,.0f} MiB more when unpacked"


def _fetch(package: str, out: Path) -> Path:
    if not any((out / "debs").glob(f"{package}_*.deb")):
        with tempfile.TemporaryDirectory(dir=out / "debs") as part:  # so that debs/ never holds half a file
            _run(["apt-get", "download", package], Path(part))
            for deb in Path(part).glob(f"{package}_*.deb"):
                deb.replace(out / "debs" / deb.name)
    debs = sorted((out / "debs").glob(f"{package}_*.deb"))
    if not debs:
        raise DataError(f"`apt-get download {package}` left no package in {out / 'debs'}: {ELSEWHERE}.")
    return debs[-1]


def _unpack(deb: Path, package: str, archives: Archives | None, out: Path) -> None:
    with tempfile.TemporaryDirectory(dir=out, prefix=".unpacking-") as part:  # so that a package's folder is never half
        folder = Path(part) / package
        _run(["dpkg-deb", "-x", str(deb), str(folder)], out)
        if archives:
            for archive in sorted(path for pattern in archives.globs for path in (folder / archives.data).glob(pattern)):
                unpack_archive(archive, folder / archives.data, archives.wanted)
        folder.rename(out / package)
    copyright_file = out / package / "usr/share/doc" / package / "copyright"
    if copyright_file.is_file():
        shutil.copyfile(copyright_file, out / "licences" / f"{package}.txt")


def unpack_archive(archive: Path, data: Path, wanted: Callable[[str], bool]) -> None:
    """Put the files of a zip archive that are wanted into `<archive>.d/`, and remove the archive.

    wanted: is asked with the path that a file will have below the folder `data`.
    """
    folder, room = archive.with_name(f"{archive.name}.d"), MOST_GIB << 30
    try:
        with zipfile.ZipFile(archive) as members:
            for member in members.infolist():
                if not member.is_dir() and wanted(f"{folder.relative_to(data).as_posix()}/{member.filename}"):
                    room -= member.file_size
                    if room < 0 or ".." in PurePosixPath(member.filename).parts:
                        raise zipfile.BadZipFile("too large, or a path that leads out of it")
                    members.extract(member, folder)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise DataError(f"{archive.name} cannot be unpacked ({error}): remove its package from debs/ and try again.") from error
    archive.unlink()


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise DataError(f"`{' '.join(command)}` failed ({why}): check apt's lists and the network, or {ELSEWHERE}.")
