"""Where a data set's files lie: a local folder, http(s), or any object store that fsspec knows, with a local cache.

Every place answers `read(name, offset, length)`, `size(name)` (None where there is no such file) and `whole(name, limit)`.
A network that fails is not a bad sample: after `data.retries` the run stops with a DataError, and can be resumed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from melfusion.data.options import DataConfig
from melfusion.data.remote import HTTP, Objects
from melfusion.errors import DataError, shown
from melfusion.files import locked, whole_path

log = logging.getLogger(__name__)

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 60.0

SETTLED_S = 1.0  # a file that was written more recently may be written again without a new time of change

FULL = (errno.ENOSPC, errno.EDQUOT)


def is_url(path: str | os.PathLike) -> bool:
    """Does `data.path` name another place than this machine's files?"""
    return "://" in str(path) and not str(path).startswith("file://")


def local_name(data: DataConfig) -> str:
    """Where the paths of files beside the data set begin (locks, precomputed shards); for a URL, in the cache."""
    if not is_url(data.path):
        return data.path.removeprefix("file://")
    return str(Path(data.cache_dir).expanduser() / hashlib.sha256(data.path.encode()).hexdigest()[:16])


def open_storage(path: str | os.PathLike, data: DataConfig) -> Folder | Remote:
    """The place a data set's path or URL names."""
    return Remote(str(path).rstrip("/"), data) if is_url(path) else Folder(str(path).removeprefix("file://"))


class Folder:
    """A local folder."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def size(self, name: str) -> int | None:
        path = self.folder / name
        return path.stat().st_size if path.is_file() else None

    def stamp(self, name: str) -> tuple[int, ...] | None:
        """What differs when the file is another one; None where there is none, or where it was written just now."""
        try:
            found = (self.folder / name).stat()
        except OSError:
            return None
        settled = time.time() - found.st_mtime > SETTLED_S
        return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns) if settled else None

    def read(self, name: str, offset: int, length: int, check: Callable[[bytes], None] | None = None) -> bytes:
        """The bytes, or as many as there are. Bytes of a local disk are not checked."""
        try:
            file = os.open(self.folder / name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return _read(file, offset, length)
            finally:
                os.close(file)
        except OSError as error:
            raise DataError(
                f"{self.folder / name} cannot be read ({error.strerror}): check the disk, then start the same command again."
            ) from error

    def whole(self, name: str, limit: int) -> bytes | None:
        """A small file's bytes, at most limit + 1 of them; None where there is none."""
        size = self.size(name)
        return None if size is None else self.read(name, 0, min(size, limit) + 1)


def _read(file: int, offset: int, length: int) -> bytes:
    data = os.pread(file, length, offset)
    while len(data) < length and (more := os.pread(file, length - len(data), offset + len(data))):
        data += more  # the system returns at most 2 GiB at once, and a network's file system less
    return data


class Remote:
    """A URL. Whole shards are kept in `data.cache_dir` up to `data.cache_gib`; a shard that does not fit is read by byte range.

    Nothing is removed from a full cache, so a random order over all shards never fetches a shard twice.
    """

    def __init__(self, url: str, data: DataConfig):
        self.url, self.shown, self.retries = url, shown(url), data.retries
        kind = HTTP if url.startswith(("http://", "https://")) else Objects
        self.source = kind(url, data.timeout_s, data.min_rate_kib_s)
        self.root, self.limit = Path(data.cache_dir).expanduser(), int(data.cache_gib * 2**30)
        self.folder: Path | None = None
        self.shards: dict[str, tuple[int, str]] = {}
        self.by_range: set[str] = set()

    def keep(self, shards: list[dict[str, Any]], index: bytes) -> None:
        """Cache these shards of the index. Another index, or the same one at another URL, has another folder."""
        digest = hashlib.sha256(self.url.encode() + b"\n" + index).hexdigest()
        self.folder, self.shards = self.root / digest[:16], {s["name"]: (s["bytes"], s["sha256"]) for s in shards}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"data.cache_dir={self.root} cannot be used ({error.strerror}): name another folder.") from error

    def size(self, name: str) -> int | None:
        try:
            return self._retried(name, partial(self.source.size, name))
        except FileNotFoundError:
            return None

    def whole(self, name: str, limit: int) -> bytes | None:
        """A small file's bytes, at most limit + 1 of them; None where there is none."""

        def fetch() -> bytes:
            with self.source.open(name) as file:
                return file.read(limit + 1)

        try:
            return self._retried(name, fetch)
        except FileNotFoundError:
            return None

    def read(self, name: str, offset: int, length: int, check: Callable[[bytes], None] | None = None) -> bytes:
        """The bytes from the shard's copy, which was checked as a whole; or by byte range, and `check` raises for wrong ones."""
        if self.folder and name in self.shards and (copy := self._copy(self.folder / name)):
            return Folder(copy.parent).read(name, offset, length)

        def fetch() -> bytes:
            with self.source.open(name, offset, length) as file:
                data = file.read(length + 1)
            if len(data) != length:
                raise OSError(f"{len(data)} bytes came for {length}")
            if check:
                check(data)
            return data

        try:
            return self._retried(name, fetch) if length else b""
        except FileNotFoundError as error:
            raise DataError(f"{self.url}/{name} is not there, but the index names it: rebuild the index.") from error

    def _copy(self, path: Path) -> Path | None:
        """The shard's copy `path` in the cache, fetched now where there is room; None: it is to be read by range."""
        name, (size, digest) = path.name, self.shards[path.name]

        def there() -> bool:
            return path.is_file() and path.stat().st_size == size

        if there():
            return path
        if name in self.by_range:
            return None
        part = path.with_name(f"{name}.part")
        try:
            with locked(path.with_name(f".{name}.lock")):  # of several processes one fetches, the others wait
                if there():
                    return path
                if self._reserve(part, size):
                    with whole_path(path, part):
                        self._retried(name, partial(self._download, name, part, size, digest))
                    return path
        except FileNotFoundError as error:
            raise DataError(f"{self.url}/{name} is not there, but the index names it: rebuild the index.") from error
        except OSError as error:  # a full disk, or another user's cache
            log.warning("%s/%s cannot be kept in %s (%s).", self.shown, name, self.folder, error.strerror)
        if not self.by_range:
            log.warning(
                "data.cache_dir=%s holds data.cache_gib=%g already, or its disk is full: further shards of %s are read "
                "by byte range.",
                self.root,
                self.limit / 2**30,
                self.shown,
            )
        self.by_range.add(name)
        return None

    def _reserve(self, part: Path, size: int) -> bool:
        """Reserve room for one shard, within the limit for all data sets together: an empty file of its size."""
        with locked(self.root / ".room.lock"):
            part.unlink(missing_ok=True)  # of a process that died
            used = 0
            for kept in self.root.glob("*/*"):
                with contextlib.suppress(OSError):  # another process may have renamed it
                    used += kept.stat().st_size if kept.suffix in (".tar", ".part") else 0
            if used + size > self.limit:
                return False
            with part.open("wb") as file:
                file.truncate(size)
        return True

    def _download(self, name: str, part: Path, size: int, digest: str) -> None:
        found, got = hashlib.sha256(), 0
        with self.source.open(name) as source, part.open("r+b") as file:
            while got <= size and (chunk := source.read(1 << 20)):
                file.write(chunk)
                found.update(chunk)
                got += len(chunk)
            file.flush()
            os.fsync(file.fileno())
        if got != size:
            raise ConnectionError(f"{got} bytes came for {size}" if got < size else f"more than {size} bytes came")
        if found.hexdigest() != digest:
            raise ConnectionError("its SHA-256 is not that of the index")

    def _retried(self, name: str, fetch: Callable[[], Any]) -> Any:
        attempts = 0
        while True:
            try:
                return fetch()
            except (DataError, FileNotFoundError):
                raise
            except Exception as error:  # every client raises its own kinds
                attempts += 1
                code = error.code if isinstance(error, HTTPError) else 0
                if code in (404, 410):
                    raise FileNotFoundError(name) from error
                if isinstance(error, OSError) and error.errno in FULL:
                    raise
                reason = shown(" ".join(f"{type(error).__name__}: {error}".split()), self.url)[:200]
                if attempts > self.retries or (400 <= code < 500 and code not in (408, 425, 429)):
                    raise DataError(
                        f"{self.url}/{name} could not be read in {attempts} attempts ({reason}): check network, "
                        "address and rights, then start the same command again to resume."
                    ) from error
                log.warning("%s/%s: attempt %d of %d failed (%s).", self.shown, name, attempts, self.retries + 1, reason)
            # jitter from the system's entropy: the run's own generators stay as they are
            time.sleep(min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (attempts - 1)) * random.SystemRandom().uniform(0.5, 1.5))
