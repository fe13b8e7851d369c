"""Fetching the games' Debian packages and unpacking them, without root."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from melfusion.data.games.tuples import GAMES
from melfusion.errors import DataError

ELSEWHERE = "unpack the packages elsewhere with `dpkg-deb -x` and pass their folder as GAMES_DIR="


def download(out: Path) -> None:
    """Fetch the packages into `out`/debs and unpack each to `out`/<package>, licences to `out`/licences; needs no root.

    Raises DataError where apt-get or dpkg-deb is missing or fails. What is already there is not fetched again.
    """
    out = Path(out).resolve()
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise DataError(f"The games come as Debian packages and {tool} is not on this machine: {ELSEWHERE}.")
    for folder in ("debs", "licences"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for package in GAMES:
        if not any((out / "debs").glob(f"{package}_*.deb")):
            with tempfile.TemporaryDirectory(dir=out / "debs") as part:  # so that debs/ never holds half a file
                _run(["apt-get", "download", package], Path(part))
                for deb in Path(part).glob(f"{package}_*.deb"):
                    deb.replace(out / "debs" / deb.name)
        debs = sorted((out / "debs").glob(f"{package}_*.deb"))
        if not debs:
            raise DataError(f"`apt-get download {package}` left no package in {out / 'debs'}: {ELSEWHERE}.")
        _run(["dpkg-deb", "-x", str(debs[-1]), str(out / package)], out)
        copyright_file = out / package / "usr/share/doc" / package / "copyright"
        if copyright_file.is_file():
            shutil.copyfile(copyright_file, out / "licences" / f"{package}.txt")


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise DataError(f"`{' '.join(command)}` failed ({why}): check apt's lists and the network, or {ELSEWHERE}.")
