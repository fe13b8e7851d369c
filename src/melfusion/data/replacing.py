"""How a new set of shards takes the place of an old one: whole or not at all, even if the builder is killed again and again.

A set is built in `<folder>/.building`, and its index is written there last. Then it moves:

1. the old `index.json` becomes `.building/replaced.json`;
2. old shards whose names the new set does not use are removed;
3. the new shards move up, over old ones of the same name;
4. the new `index.json` moves up, and `.building` is removed.

So a folder is half moved if it has `.building/index.json` and no `index.json`. Every step can be repeated until the last one is
done. A process that builds in such a folder finishes the move before it touches anything else.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from melfusion.data.options import DataConfig
from melfusion.errors import DataError
from melfusion.files import locked, sync_folder, write_whole

if TYPE_CHECKING:
    from melfusion.data.index import Index

INDEX, BUILDING, REPLACED, LOCK = "index.json", ".building", "replaced.json", ".lock"
RESUMES = "made_from"  # in `.building`: what its shards are made from, where a builder that died may be followed by another


@contextmanager
def held(folder: Path, named_by: str = "") -> Iterator[None]:
    """Make the folder and keep other builders out of it; a half-done move is finished first.

    named_by: the key that names the folder, for errors.
    """
    with ExitStack() as stack:
        with explaining(folder, named_by):
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder / LOCK))
            if halfway(folder):
                move(folder)
        yield
        with suppress(OSError):
            (folder / LOCK).unlink()


def settle(folder: Path) -> None:
    """Finish a half-done move where there is one."""
    if halfway(folder):
        with held(folder):
            pass


def halfway(folder: Path) -> bool:
    """Did a builder die while it moved its new set?"""
    return (folder / BUILDING / INDEX).is_file() and not (folder / INDEX).is_file()


def begin(folder: Path, resumes: str = "") -> Path:
    """`.building`, empty, or as a builder that died left it where it was of the same `resumes`.

    What is removed loses its index first, so that it never looks whole.
    """
    building = folder / BUILDING
    if not resumes or _line(building / RESUMES) != resumes:
        drop(folder)
        building.mkdir()
        if resumes:
            write_whole(building / RESUMES, resumes)
    return building


def _line(file: Path) -> str | None:
    """The text of a small file; None where there is none that can be read."""
    with suppress(OSError, ValueError):
        return file.read_text()
    return None


def drop(folder: Path) -> None:
    """Remove `.building`, as far as that can be done."""
    building = folder / BUILDING
    with suppress(OSError):
        if building.is_symlink() or building.is_file():
            building.unlink()
        (building / INDEX).unlink(missing_ok=True)
    shutil.rmtree(building, ignore_errors=True)


def move(folder: Path) -> None:
    """Move the whole set in `.building` to the place of the one in `folder`; goes on where an earlier call stopped."""
    building, index, replaced = folder / BUILDING, folder / INDEX, folder / BUILDING / REPLACED
    new = {shard["name"]: shard["bytes"] for shard in parsed(building / INDEX).shards}
    for name, size in new.items():
        path = building / name if (building / name).is_file() else folder / name
        if not path.is_file() or path.stat().st_size != size:
            raise DataError(
                f"{building} holds a set that cannot be completed ({name} is missing or damaged): remove that folder "
                f"and the shards in {folder}, then build the set again."
            )
    if index.is_file():
        index.replace(replaced)
    sync_folder(building)
    sync_folder(folder)
    old = {shard["name"] for shard in parsed(replaced).shards} if replaced.is_file() else set()
    for name in sorted(old - new.keys()):
        (folder / name).unlink(missing_ok=True)
    for name in sorted(new):
        if (building / name).is_file():
            (building / name).replace(folder / name)
    sync_folder(folder)
    (building / INDEX).replace(index)
    sync_folder(folder)
    drop(folder)


def parsed(index: Path) -> Index:
    """An index of ours, checked."""
    from melfusion.data.index import parse_index  # numpy, which help does without

    return parse_index(index.read_bytes(), str(index), DataConfig().max_shard_members)


def foreign_or_ours(folder: Path) -> tuple[list[Path], list[Path]]:
    """The *.tar files of a folder: those that its index does not name, and those that it does."""
    index, tars = folder / INDEX, sorted(folder.glob("*.tar"))
    ours = {shard["name"] for shard in parsed(index).shards} if index.is_file() else set()
    return [tar for tar in tars if tar.name not in ours], [tar for tar in tars if tar.name in ours]


@contextmanager
def explaining(folder: Path, named_by: str = "") -> Iterator[None]:
    """An OSError of writing becomes a DataError of one sentence: why, which set stays, and what to do."""
    try:
        yield
    except OSError as error:
        stays = "the next call goes on" if halfway(folder) else "no set is there"
        if (folder / INDEX).is_file():
            stays = "the set that lies there stays as it was"
        other = f"name another folder with {named_by}=…" if named_by else "choose another folder"
        raise DataError(
            f"{folder}: shards cannot be written ({error.strerror or error}: {error.filename or folder}), and {stays}: "
            f"make room or get the right to write there, or {other}, and start the same command again."
        ) from error
