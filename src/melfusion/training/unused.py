"""Precomputed sets and predictions that nothing refers to any more: listed, and removed where that is said.

A set is of use to a configuration with its data set and its settings of audio, sizes, crops, number type and conditioner. Which
networks made it is not asked, since they would have to be loaded: so a set may be kept that no run will read. Folders that a
user named (`data.precompute.path`), data sets and the copies of URLs in data.cache_dir are never touched.
"""

from __future__ import annotations

import dataclasses
import fcntl
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from melfusion.assembly.configuration import from_dict, load_config
from melfusion.assembly.schema import Config
from melfusion.config.load import config_path
from melfusion.data.index import parse_index
from melfusion.data.replacing import INDEX, LOCK
from melfusion.data.storage import local_name
from melfusion.errors import DataError
from melfusion.state.run_directory import stored_tree
from melfusion.training.precompute import of_config

SETS, PREDICTIONS = "-precomputed", "-predictions"  # after a data set's name: training/precompute.py, evaluation/cache.py

DIGEST = re.compile(r"[0-9a-f]{12}")


@dataclasses.dataclass(frozen=True)
class Unused:
    path: Path
    size: int  # bytes


def configurations(config: Config) -> list[Config]:
    """This one, those of configs/, and those of all runs in runs_dir; an error where one of them cannot be read."""
    folder = config_path("base").parent
    named = [load_config(file.stem) for file in sorted(folder.glob("*.yaml"))]
    stored = sorted(Path(config.runs_dir).glob("**/config.yaml"))
    return [config, *named, *(from_dict(stored_tree(file)) for file in stored)]


def unused(config: Config) -> list[Unused]:
    """What lies beside the data sets of all configurations and is of no use to any of them, the largest first."""
    known = configurations(config)
    parents = {Path(local_name(one.data)).resolve().parent for one in known}
    named = {Path(one.data.precompute.path).resolve() for one in known if one.data.precompute.path}
    sets = [path for parent in parents for path in parent.glob(f"*{SETS}/*") if DIGEST.fullmatch(path.name) and path.is_dir()]
    found = [path for path in sets if path not in named and not any(of_use(path, one) for one in known)]
    data_sets = {Path(local_name(one.data)).resolve() for one in known}
    for folder in (path for parent in parents for path in parent.glob(f"*{PREDICTIONS}") if path.is_dir()):
        data_set = folder.with_name(folder.name.removesuffix(PREDICTIONS))
        if data_set not in data_sets and not (data_set / INDEX).is_file():  # held-out sets stand in no configuration
            found.append(folder)
    return sorted((Unused(path, size_of(path)) for path in found), key=lambda one: (-one.size, str(one.path)))


def of_use(path: Path, config: Config) -> bool:
    """May this configuration read the precomputed set? A folder without a whole set is of no use."""
    data = Path(local_name(config.data)).resolve()
    if path.parent != data.with_name(data.name + SETS) or not (path / INDEX).is_file():
        return False
    try:
        made: Any = parse_index((path / INDEX).read_bytes(), str(path / INDEX), config.data.max_shard_members).info["provenance"]
    except (DataError, KeyError):
        return True  # another version's, or damaged: not for us to remove
    return all(made.get(name) == value for name, value in of_config(config).items())


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def remove(some: Iterable[Unused]) -> list[Unused]:
    """Remove them but for those that a process builds or reads; returns what is gone."""
    return [one for one in some if _removed(one.path)]


def _removed(path: Path) -> bool:
    """Both locks are held, the builder's and the readers', while the folder goes; its index goes first, so it never looks whole."""
    handles = []
    try:
        for name in (LOCK, INDEX):
            if name == LOCK or (path / name).is_file():
                handles.append((path / name).open("ab"))
                fcntl.flock(handles[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        (path / INDEX).unlink(missing_ok=True)
        shutil.rmtree(path)
    except BlockingIOError:
        return False
    finally:
        for handle in handles:
            handle.close()
    return True
