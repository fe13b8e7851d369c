"""From a configuration to the shards it names: which source builds them, and what to do where none can."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from melfusion.data import replacing
from melfusion.data.options import DataConfig, check_scenes
from melfusion.data.shards import ShardSet, write_shards
from melfusion.data.storage import is_url, local_name
from melfusion.errors import DataError
from melfusion.media.options import AudioConfig

log = logging.getLogger(__name__)


class CorpusOptions(Protocol):
    """What of a configuration says which data set is meant."""

    data: DataConfig
    audio: AudioConfig


@dataclass(frozen=True)
class Corpus:
    """The plainest CorpusOptions."""

    data: DataConfig
    audio: AudioConfig


HELD_OUT = "data/scenes-held-out"

# data.source → the command that builds its shards; the registry of sources
SOURCES = {
    "scenes": 'make data-scenes ARGS="data.path={path}"',
    "games": "make data-games",
    "manifest": "make shards MANIFEST=… AUDIO_DIR=… IMAGE_DIR=… OUT={path}",
}
FITTED = 1024  # real training clips that statistics, such as a PCA, are fitted on


def ensure_corpus(config: CorpusOptions) -> None:
    """Look whether the data set is there and is what the configuration means; scenes that are missing are drawn where a
    configuration file names their folder, or with data.draw=true. DataError says what else to do.

    What is there is only read: no lock is taken, and nothing is written beside it.
    """
    data = config.data
    if data.stream or is_url(data.path):
        return
    folder = Path(local_name(data))
    replacing.settle(folder)
    if (folder / "index.json").is_file():
        _refuse_other(config)
        return
    if data.source == "scenes" and data.draw:
        build_scenes(config, unless=(folder / "index.json").is_file)  # by another process, which was waited for
        _refuse_other(config)
        return
    hint = ", or correct data.path, which no configuration file names" if data.source == "scenes" else ""
    raise DataError(f"There is no data set in {data.path}: build it with `{SOURCES[data.source].format(path=data.path)}`{hint}.")


def build_scenes(config: CorpusOptions, unless: Callable[[], bool] = lambda: False) -> dict[str, int]:
    """Draw and render the embedded corpus into `data.path`; `unless` as in write_shards."""
    from rich.progress import track

    from melfusion.data.scenes import corpus as scenes

    data, audio = config.data, config.audio
    _refuse_another(config, "scenes")
    size = max(128, data.image_size_px)
    drawn = scenes.samples(
        data.corpus_seed,
        data.splits,
        audio.clip_duration_s,
        audio.sample_rate_hz,
        size,
        processes=len(os.sched_getaffinity(0)) if sum(data.splits.values()) > 200 else 1,
    )
    shown = track(drawn, description="scenes", total=sum(data.splits.values()))
    info = {
        "source": "scenes",
        "seed": data.corpus_seed,
        "sample_rate_hz": audio.sample_rate_hz,
        "clip_duration_s": audio.clip_duration_s,
        "image_size_px": size,
        **scenes.contract(),
    }
    return write_shards(shown, local_name(data), data.samples_per_shard, info, unless, "data.path")


def _refuse_other(config: CorpusOptions) -> None:
    """DataError where the set that is there is one of another source, or other scenes than are wanted. A set that names no
    source, as others' shards do, is taken for what the configuration says, with a warning where that is scenes.
    """
    data, there = config.data, ShardSet(config.data.path)
    source = there.info.get("source")
    if source != data.source and source in SOURCES:
        raise DataError(
            f"{data.path} is a data set of {source}, and the configuration says data.source={data.source}: add "
            f"data.source={source}, or give another data.path."
        )
    if data.source != "scenes":
        return
    if source != "scenes":
        log.warning("%s does not say that its samples are drawn scenes: data.source=manifest says that they are others.", data.path)
    if other := _other_than(there, config):
        raise DataError(f"{data.path} holds {other}: give another data.path, or remove that folder.")


def _other_than(there: ShardSet, config: CorpusOptions) -> str:
    """In words, why drawn scenes are not those of a configuration: another seed, too few, or sound and pictures too small."""
    info, held, found = there.info, counts(there), []
    if info.get("source") != "scenes":
        return ""
    if info["seed"] != config.data.corpus_seed:
        found.append(f"scenes of seed {info['seed']}, not data.corpus_seed={config.data.corpus_seed}")
    for split, n in config.data.splits.items():
        if held.get(split, 0) < n:
            found.append(f"{held.get(split, 0)} scenes for {split}, not {n}")
    wanted = {
        "sample_rate_hz": config.audio.sample_rate_hz,
        "clip_duration_s": config.audio.clip_duration_s,
        "image_size_px": config.data.image_size_px,
    }
    for name, least in wanted.items():
        if info.get(name, least) < least:
            found.append(f"scenes of {name} {info[name]}, less than {least}")
    return " and ".join(found)


def held_out(config: CorpusOptions, seed: int, n: int) -> str:
    """A folder of freshly drawn scenes of any seed: `test` and `reference` of at least n clips each, `train` for statistics.

    A scene is fixed by its seed and number, so a larger folder begins with what a smaller one held.
    """
    check_scenes(f"seed {seed}, held out,", 2 * n + FITTED, config.data)
    path = f"{HELD_OUT}-seed{seed}"
    there = ShardSet(path) if (Path(path) / "index.json").is_file() else None
    n = max(n, counts(there).get("test", 0) if there else 0)
    data = dataclasses.replace(config.data, path=path, corpus_seed=seed, splits={"test": n, "reference": n, "train": FITTED})
    wanted = Corpus(data, config.audio)

    def enough() -> bool:
        return (Path(path) / "index.json").is_file() and not _other_than(ShardSet(path), wanted)

    if not enough():
        build_scenes(wanted, unless=enough)
    return path


def _refuse_another(config: CorpusOptions, source: str) -> None:
    """A folder that holds, or should hold, another kind of data set is not built over."""
    if config.data.source != source:
        raise DataError(f"{config.data.path} is a set of data.source={config.data.source}: name a configuration of {source}.")
    folder = Path(local_name(config.data))
    replacing.settle(folder)
    if (folder / "index.json").is_file() and ShardSet(folder).info.get("source") != source:
        raise DataError(f"{config.data.path} holds another data set than {source}: give another data.path, or remove that folder.")


def build_games(config: CorpusOptions, games_dir: str | None) -> dict[str, int]:
    """Fetch the games' packages where no GAMES_DIR is given, cut their music into clips, and write `data.path`."""
    from rich.progress import track

    from melfusion.data.games import clips, packages

    _refuse_another(config, "games")
    folder = Path(games_dir) if games_dir else Path(f"{local_name(config.data)}-packages")
    if not games_dir:
        packages.download(folder)  # what is already there is not fetched again
    made = clips.samples(
        folder, config.audio.clip_duration_s, config.audio.sample_rate_hz, image_size_px=max(128, config.data.image_size_px)
    )
    return write_shards(
        track(made, description="games"),
        local_name(config.data),
        config.data.samples_per_shard,
        {"source": "games"},
        named_by="data.path",
    )


def counts(shards: ShardSet) -> dict[str, int]:
    """Split → how many samples it has."""
    found: dict[str, int] = {}
    for shard in shards.shards:
        split = shard["name"].rsplit("-", 1)[0]
        found[split] = found.get(split, 0) + len(shard["samples"])
    return found


def describe(path: str) -> str:
    """Counts of a data set in words."""
    return f"{path}: " + ", ".join(f"{n} {split}" for split, n in sorted(counts(ShardSet(path)).items()))
