"""Tar files from strangers: their ends are checked, their extended headers are bounded, and headers are compared with an index."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from types import ModuleType
from typing import IO, Any, Literal, Self

MAX_HEADER_BYTES = 1 << 20  # of a GNU or PAX extended header, which is read into memory

LEAD_BYTES = 4096  # before a member's bytes: its header, and what of its long name may lie before that

EXTENDED = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)

PLAIN = re.compile(  # name; mode, owner, group; size; time; checksum; type, link, magic, owner, group; device; no prefix
    rb".{100}(?:[0-7]{7}\0){3}(?P<size>[0-7]{11})\0[0-7]{11}\0(?P<checksum>[0-7]{6})\0 0.{172}(?:[0-7]{7}\0|\0{8}){2}\0{155}.{12}",
    re.DOTALL,
)

NAMES = {"encoding": "utf-8", "errors": "replace"}  # how names are read, here and when they are compared

TAR: Any = tarfile  # its type stubs lack some names


def webdataset_secured() -> ModuleType:
    """webdataset with its switch set that forbids pickles and shell commands from data. The switch holds for the whole process."""
    import webdataset

    webdataset.utils.enforce_security = True
    return webdataset


class StrictInfo(tarfile.TarInfo):
    """A header as tarfile reads it, but damage is an error everywhere, and no size leads backwards or fills memory.

    It overrides private methods of tarfile, since a size must be checked before tarfile reads so many bytes, and tarfile offers no
    public place for that. tests/test_security.py fails where Python changes them.
    """

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tar)
        except TAR.EOFHeaderError:  # an empty block: the regular end
            raise
        except tarfile.HeaderError as error:  # tarfile itself would take this for the end
            raise tarfile.ReadError(str(error)) from None

    def _proc_member(self, tar: Any) -> tarfile.TarInfo:
        if self.type in EXTENDED and self.size > MAX_HEADER_BYTES:
            raise tarfile.ReadError("an extended header is too large")
        if self.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError("it holds sparse files")
        start = tar.fileobj.tell()
        plain: Any = super()
        member = plain._proc_member(tar)
        if member.size < 0 or tar.offset < start:
            raise tarfile.ReadError("a member has a negative size")
        return member

    def _proc_gnusparse_10(self, *args: object) -> None:
        raise tarfile.ReadError("it holds sparse files")


class Unbroken:
    """A stream whose end is an error: a tar says itself where it ends, and tarfile would skip past the end without an error."""

    def __init__(self, file: IO[bytes]):
        self.file = file

    def read(self, size: int) -> bytes:
        if not (data := self.file.read(size)):
            raise tarfile.ReadError("unexpected end of data")
        return data


def members(file: IO[bytes], mode: Literal["r:", "r|"] = "r:") -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo, str, str]]:
    """(tar, header, key, extension) of each regular member; hidden files and links are left out.

    Mode `r:` seeks over what it does not read, `r|` reads on. Raises TarError, and any error that hostile bytes provoke.
    """
    source = Unbroken(file) if mode == "r|" else file
    with TAR.open(fileobj=source, mode=mode, tarinfo=StrictInfo, **NAMES) as tar:
        while (member := tar.next()) is not None:
            tar.members = []  # else the TarFile keeps every header in memory
            key, ext = key_and_extension(member.name)
            if member.isreg() and key:
                yield tar, member, key, ext


def key_and_extension(name: str) -> tuple[str, str]:
    """`folder/a.Latents.safetensors` → (`a`, `latents.safetensors`): folders play no part."""
    key, _, ext = PurePosixPath(name).name.partition(".")
    return key, ext.lower()


def names_member(lead: bytes, key: str, ext: str, length: int) -> bool:
    """Do the blocks just before a member say that it is `key.ext` and has `length` bytes?

    lead: at most LEAD_BYTES, a multiple of 512. A long or non-ASCII name has a header before the header.
    """
    if _plainly(lead[-tarfile.BLOCKSIZE :], key, ext, length):
        return True
    for start in range(len(lead) - tarfile.BLOCKSIZE, -1, -tarfile.BLOCKSIZE):
        member = _first(lead[start:])
        if member and member.offset_data == len(lead) - start and key_and_extension(member.name) == (key, ext):
            return member.isreg() and member.size == length
    return False


def _plainly(head: bytes, key: str, ext: str, length: int) -> bool:
    """Is this the header that nearly all members have: a regular file, a short name without folders, octal numbers?

    Reading it with tarfile takes longer than reading a sample's json. What is not plain is left to tarfile.
    """
    name, found = f"{key}.{ext}".encode(errors="replace"), PLAIN.fullmatch(head)
    return (
        found is not None
        and len(name) < 100
        and head.startswith(name + b"\0")
        and int(found["size"], 8) == length
        and int(found["checksum"], 8) == sum(head) - sum(head[148:156]) + 8 * ord(" ")
    )


def _first(blocks: bytes) -> tarfile.TarInfo | None:
    try:
        head = tarfile.TarInfo.frombuf(blocks[: tarfile.BLOCKSIZE], **NAMES)
        if head.type not in EXTENDED:
            head.offset_data = tarfile.BLOCKSIZE
            return head
        with TAR.open(fileobj=io.BytesIO(blocks), mode="r:", tarinfo=StrictInfo, **NAMES) as tar:
            return tar.next()
    except Exception:  # these blocks need not be headers at all
        return None
