"""Errors that a user can correct: one sentence each, and the exit code of the command."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import re
import select
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from melfusion import PREEMPTED

log = logging.getLogger(__name__)

ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)(?:\S*@)?([^\s?#]*)([?#][^\s,;'\")>]+)?")

HIDDEN = "…"


MENDABLE = 2  # exit code of an error that a user can correct


class MelfusionError(Exception):
    """Base of all errors that a user can correct: one sentence, and in `code` the exit code of the process."""

    code = MENDABLE


class ConfigError(MelfusionError, ValueError):
    """What is wrong in a configuration or option, where, and what to write instead."""


class DataError(MelfusionError, RuntimeError):
    """A data set that cannot be used: what is wrong, where, what to do. It never shows the password of an address."""

    def __str__(self) -> str:
        # The process of a data loader sends its error with the traceback before it. The sentence comes last.
        return shown(super().__str__().strip().rpartition(f"{__name__}.DataError: ")[2])


class BadSample(MelfusionError, ValueError):
    """A sample that cannot be used. The message is the reason that is counted and logged."""


class DamagedFile(MelfusionError, ValueError):
    """A file of this project that cannot be read as what it should be: which, why, what to do."""


class WeightsError(MelfusionError, RuntimeError):
    """Weights that are missing or not what they should be: what, where, what to do."""


class CheckpointError(MelfusionError, RuntimeError):
    """A checkpoint that cannot be written or read, or does not belong to these parts: what is wrong, and what to do."""


class RankLost(MelfusionError, RuntimeError):
    """Another rank of this run is gone."""


class Preempted(MelfusionError, RuntimeError):
    """The run was asked to leave, and did."""

    code = PREEMPTED


class Interrupted(BaseException):
    """A signal, raised where it arrives. It is no Exception: code that reads a file would take it for a damaged file."""


def shown(text: object, address: str = "") -> str:
    """Text that may be printed: its addresses lose user, password and query (which may hold a key).

    address: its user and password are hidden everywhere in the text, since clients also quote parts of an address.
    """
    words = ADDRESS.sub(lambda found: found[1] + found[2] + (f"?{HIDDEN}" if found[3] else ""), str(text))
    for secret in secrets(address):
        words = words.replace(secret, HIDDEN)
    return words


def secrets(address: str) -> list[str]:
    """User and password of an address, and the password alone, each as written and with its %xx decoded; [] for none."""
    try:
        user, at, _ = urlsplit(address).netloc.rpartition("@")
    except ValueError:  # it is no address at all
        return []
    password = user.partition(":")[2]
    return [word for word in dict.fromkeys((user, unquote(user), password, unquote(password))) if at and len(word) > 1]


INTERRUPTED = 130  # 128 + SIGINT, as shells count

UNREAD = 141  # 128 + SIGPIPE: the reader of the output has left

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room on the disk, in the quota, or for a file of this size

CURES = {
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "a part of this path is a file, so give another path",
    errno.EISDIR: "it is a folder where a file is wanted",
    errno.EEXIST: "move it away, or give another path",
    errno.EACCES: "give yourself the right to it, or another path",
    errno.EPERM: "give yourself the right to it, or another path",
    errno.EROFS: "give a folder on a disk that may be written (runs_dir=…, out=…, data.path=…)",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EMFILE: "raise `ulimit -n`, or use fewer data.num_workers",
    errno.ENFILE: "close other programs, or use fewer data.num_workers",
    errno.EIO: "the disk or the network drive fails, so look after it",
    errno.ESTALE: "mount that network drive anew",
    errno.ENOMEM: "free memory: fewer data.num_workers or a smaller batch needs less",
}


def explain(error: BaseException) -> tuple[str, int] | None:
    """The sentence and exit code of an error that a user can correct; None for a bug, whose traceback is wanted."""
    if isinstance(error, SystemExit):  # Lightning turns an interrupt into one
        error = error.__context__ if isinstance(error.__context__, KeyboardInterrupt) else error
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; the same command goes on from what was saved.", INTERRUPTED
    if isinstance(error, BrokenPipeError) and _output_is_gone():
        return "", UNREAD
    if isinstance(error, MelfusionError):
        return str(error), error.code
    if isinstance(error, OSError) and (error.errno is not None or error.filename is not None):
        return _of_system(error), MENDABLE
    if isinstance(error, MemoryError):
        return (
            f"the memory of this machine is used up{f' ({_words(error)})' if str(error) else ''}: use a smaller batch "
            "(data.global_batch_size with more trainer.accumulate, evaluation.batch_size) or fewer data.num_workers."
        ), MENDABLE
    return _of_library(error)


def reported(name: str, call: Callable[[], object]) -> int:
    """Run a command; returns its exit code: 0, or that of an error that a user can mend, whose sentence goes to stderr.

    A bug is raised, and so is every error where the environment has MELFUSION_TRACEBACK.
    """
    hook, threading.excepthook = threading.excepthook, thread_failed
    try:
        call()
        sys.stdout.flush()  # here and not at exit, where nobody would say that it cannot be written
    except BaseException as error:
        found = None if os.environ.get("MELFUSION_TRACEBACK") else explain(error)
        if found is None:
            raise
        if found[0]:
            print(f"melfusion {name}: {found[0]}", file=sys.stderr)
        return found[1]
    finally:
        threading.excepthook = hook
    return 0


def thread_failed(args: threading.ExceptHookArgs) -> None:
    """For `threading.excepthook`: an OSError in a library's thread is only logged, since the user of the thread reports it
    (loggers.py). Any other error is shown whole.
    """
    if isinstance(args.exc_value, OSError):
        log.info("%s", _of_system(args.exc_value))
    else:
        threading.__excepthook__(args)


def _of_system(error: OSError) -> str:
    """Which file, what the system says, what to do."""
    given = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
    name = None if given is None else re.sub(r"//[^/@\s]*@", "//", str(given))  # of a URL never the password
    if name is None and _output_is_gone():
        name = "the output of this command"
    if error.errno in FULL:
        full = f"the disk of {name} is full ({error.strerror})" if name else f"a disk is full ({error.strerror}; {_place(error)})"
        return f"{full}: free some space there, and run the same command again."
    if error.errno == errno.ENOENT and name is not None:
        return f"{name}: there is no such file or folder; check the path."
    cure = CURES.get(error.errno or 0, "look after that, and run the same command again")
    return f"{name or f'a file (of {_place(error)})'} cannot be used ({error.strerror or _words(error)}): {cure}."


def _of_library(error: BaseException) -> tuple[str, int] | None:
    """Errors of the libraries for sound, pictures and tensors, where these are loaded."""
    kinds = {
        "soundfile": ("SoundFileError", "a sound file"),
        "PIL": ("UnidentifiedImageError", "a picture"),
        "safetensors": ("SafetensorError", "a safetensors file"),
    }
    for module, (name, what) in kinds.items():
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and isinstance(error, kind):
            full = any(word in str(error) for word in ("StorageFull", "No space left", "os error 28"))
            cure = "free some space on its disk" if full else "check that file, its folder and the room on its disk"
            return f"{what} cannot be read or written ({_words(error)}): {cure}.", MENDABLE
    return None


def _words(error: BaseException) -> str:
    """An error's own words in one line of bounded length."""
    return " ".join(str(error).split())[:300].rstrip(".")


def _place(error: BaseException) -> str:
    """Where an error without a file name was raised: the last file of this package, and its line."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if f"{os.sep}melfusion{os.sep}" in frame.filename] or frames
    return f"{Path(ours[-1].filename).name}, line {ours[-1].lineno}" if ours else "this program"


def _output_is_gone() -> bool:
    """Can the output no longer be written? Then it is closed, so that Python does not fail at exit."""
    try:
        sys.stdout.flush()
        end = select.poll()
        end.register(sys.stdout.fileno(), 0)
        gone = any(event & select.POLLERR for _, event in end.poll(0))  # the reader of a pipe has left
    except io.UnsupportedOperation:  # no file at all
        return False
    except (OSError, ValueError):
        gone = True
    if gone:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return gone
