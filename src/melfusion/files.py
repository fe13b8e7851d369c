"""Files that are whole or not there, and locks between processes.

The locks are the system's own (flock). filelock's would not do: it needs the right to write a lock file, and a data set or a cache
may belong to another user, whose lock file we may only read.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
import stat
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from melfusion.errors import ConfigError, DamagedFile

LONGEST_NAME = 200  # bytes: locks and half-written files add to a name, and 255 is the limit


def one_name(key: str, name: str) -> str:
    """`name`, if it is one component of a path, so that its files stay in their folder; else ConfigError."""
    one_line(key, name)
    if not name.strip() or name.startswith(".") or "/" in name or "\\" in name or len(name.encode(errors="replace")) > LONGEST_NAME:
        raise ConfigError(
            f"{key}={name[:LONGEST_NAME]!r} is no name of a folder: give one without slashes that does not begin "
            f"with a dot, of at most {LONGEST_NAME} bytes."
        )
    return name


def one_line(key: str, value: Any) -> None:
    """ConfigError where a text, or a text in a list or dict, holds a line break or another control character."""
    if isinstance(value, dict | list):
        for item in [*value, *value.values()] if isinstance(value, dict) else value:
            one_line(key, item)
    elif isinstance(value, str) and (bad := [c for c in value if unicodedata.category(c) in ("Cc", "Zl", "Zp")]):
        raise ConfigError(f"{key}={value[:80]!r} holds the control character {bad[0]!r}: leave it out.")


def try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def shared(path: Path) -> IO[bytes]:
    """An open file that is locked, together with other readers, until it is closed; not locked where the file system cannot."""
    file = path.open("rb")
    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return file


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock file. Of several processes that would build the same thing, one builds it and the others wait.

    The holder may remove the file at the end. A process that waited for the removed file then locks the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        handle = _lock_file(path)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if path.is_file() and os.path.samestat(path.stat(), os.fstat(handle)):
                yield
                return
        finally:
            os.close(handle)


def _lock_file(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:  # it may be another user's file: flock needs no right to write
        if not path.is_file():
            raise
        return os.open(path, os.O_RDONLY)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


MAX_JSON_BYTES = 64 << 20  # limit of our own files, which are read whole


def write_whole(path: Path, content: bytes | str | Callable[[IO[bytes]], Any], lasting: bool = False) -> None:
    """Write beside `path`, then rename. So a file of that name is whole at every moment, and after a crash, too.

    Args:
        content: bytes, text (stored as UTF-8), or what writes into the open file it is given.
        lasting: wait until file and name would outlive a power cut.
    Raises OSError that names `path`. The half-written file is removed.
    """
    with whole_path(path) as part, part.open("wb") as file:
        if callable(content):
            content(file)
        else:
            file.write(content.encode() if isinstance(content, str) else content)
        if lasting:
            file.flush()
            os.fsync(file.fileno())
    if lasting:
        sync_folder(path.parent)


@contextlib.contextmanager
def whole_path(path: Path, part: Path | None = None) -> Iterator[Path]:
    """A place beside `path` for a file or folder, which gets that name where the block ends well and is removed otherwise.

    part: this place; None: a name of this process. Raises OSError that names `path`.
    """
    part = part or path.with_name(f".{path.name}.part{os.getpid()}")
    try:
        yield part
        part.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            error.filename, error.filename2 = str(path), None  # not the name of the half-written one
        raise


def write_json(path: Path, tree: Any) -> None:
    """A tree as `as_json` has it, whole or not at all."""
    write_whole(path, as_json(tree))


def as_json(tree: Any) -> str:
    """A tree as indented text with a newline at its end; numbers that are not finite become null."""
    return json.dumps(finite(tree), indent=1, allow_nan=False) + "\n"


def finite(tree: Any) -> Any:
    """The tree with None in place of each number that is not finite."""
    if isinstance(tree, dict):
        return {key: finite(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def mapped(change: Callable[[Any], Any], tree: Any) -> Any:
    """The tree of dicts, lists and tuples with `change(leaf)` in place of each leaf; what is of another class is a leaf."""
    if type(tree) in (dict, OrderedDict):
        return type(tree)((key, mapped(change, value)) for key, value in tree.items())
    if type(tree) in (list, tuple):
        return type(tree)(mapped(change, value) for value in tree)
    return change(tree)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder last through a power cut, where its file system can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)


def require_writable(folder: Path) -> None:
    """Make a folder, and a file in it for a moment; OSError where one of them cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None
    probe = folder / f".writable.part{os.getpid()}"
    try:
        probe.touch()
    except OSError as error:
        error.filename = str(folder)
        raise
    probe.unlink()


def read_regular(path: Path, cure: str, most: int = MAX_JSON_BYTES) -> bytes:
    """The bytes of a regular file. A pipe or device is refused, since reading it may never end.

    DamagedFile for any other file, and for more than `most` bytes; `cure` says what to do.
    """
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise DamagedFile(f"{path} is no regular file: {cure}.")
        if about.st_size > most:
            raise DamagedFile(f"{path} has {about.st_size / (1 << 20):.0f} MiB, more than {most >> 20}: {cure}.")
        return path.read_bytes()
    except OSError as error:
        raise DamagedFile(f"{path} cannot be read ({error.strerror}): {cure}.") from error


def read_json(path: Path, cure: str, most: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The object that a JSON file holds; DamagedFile where it holds none; `cure` says what to do."""
    data = read_regular(path, cure, most)
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:100] if data.strip() else "it is empty"
        raise DamagedFile(f"{path} cannot be read as JSON ({reason}): {cure}.") from None
    if not isinstance(tree, dict):
        raise DamagedFile(f"{path} holds a {type(tree).__name__} where an object is wanted: {cure}.")
    return tree
