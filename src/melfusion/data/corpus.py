"""From a configuration to the shards it names: which source builds them, and what to do where none can."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from melfusion.data.errors import DataError
from melfusion.data.shards import ShardSet, write_shards
from melfusion.data.storage import is_url, local_name
from melfusion.limits import check_scenes
from melfusion.run import locked
from melfusion.schema import Config

HELD_OUT = "data/scenes-held-out"
FITTED = 1024  # real training clips that statistics, such as a PCA, are fitted on


def ensure_corpus(config: Config) -> None:
    """Draw `scenes` where they are missing, and look whether those that are there are the ones; for other sources DataError
    names the command that builds them.
    """
    data = config.data
    if data.stream or is_url(data.path):
        return
    if (Path(local_name(data)) / "index.json").is_file():
        if data.source == "scenes" and (other := _other_than(ShardSet(data.path), config)):
            raise DataError(f"{data.path} holds {other}: give another data.path, or remove that folder.")
        return
    if data.source == "scenes":
        build_scenes(config)
        return
    command = {
        "games": "make data-games",
        "manifest": f"make shards MANIFEST=… AUDIO_DIR=… IMAGE_DIR=… OUT={data.path}",
    }
    raise DataError(f"There is no data set in {data.path}: build it with `{command[data.source]}`.")


def build_scenes(config: Config) -> dict[str, int]:
    """Draw and render the embedded corpus into `data.path`."""
    from rich.progress import track

    from melfusion.data import scenes

    data, audio = config.data, config.audio
    _refuse_another(config, "scenes")
    size = max(128, data.image_size_px)
    drawn = scenes.samples(data.corpus_seed, data.splits, audio.clip_duration_s, audio.sample_rate_hz, size,
                           processes=len(os.sched_getaffinity(0)) if sum(data.splits.values()) > 200 else 1)  # fmt: skip
    shown = track(drawn, description="scenes", total=sum(data.splits.values()))
    info = {"source": "scenes", "seed": data.corpus_seed, "sample_rate_hz": audio.sample_rate_hz,
            "clip_duration_s": audio.clip_duration_s, "image_size_px": size, **scenes.contract()}  # fmt: skip
    return write_shards(shown, data.path, data.samples_per_shard, info)


def _other_than(there: ShardSet, config: Config) -> str:
    """In words, why drawn scenes are not those of a configuration: another seed, too few, or sound and pictures too small."""
    info, held, found = there.info, counts(there), []
    if info.get("source") != "scenes":
        return ""
    if info["seed"] != config.data.corpus_seed:
        found.append(f"scenes of seed {info['seed']}, not data.corpus_seed={config.data.corpus_seed}")
    for split, n in config.data.splits.items():
        if held.get(split, 0) < n:
            found.append(f"{held.get(split, 0)} scenes for {split}, not {n}")
    wanted = {"sample_rate_hz": config.audio.sample_rate_hz, "clip_duration_s": config.audio.clip_duration_s,
              "image_size_px": config.data.image_size_px}  # fmt: skip
    for name, least in wanted.items():
        if info.get(name, least) < least:
            found.append(f"scenes of {name} {info[name]}, less than {least}")
    return " and ".join(found)


def held_out(config: Config, seed: int, n: int) -> str:
    """A folder of freshly drawn scenes of any seed: `test` and `reference` of at least n clips each, `train` for statistics.

    A scene is fixed by its seed and number, so a larger folder begins with what a smaller one held.
    """
    check_scenes(f"seed {seed}, held out,", 2 * n + FITTED, config)
    path = f"{HELD_OUT}-seed{seed}"
    with locked(Path(f"{path}.lock")):
        there = ShardSet(path) if (Path(path) / "index.json").is_file() else None
        n = max(n, counts(there).get("test", 0) if there else 0)
        data = dataclasses.replace(config.data, path=path, corpus_seed=seed, splits={"test": n, "reference": n, "train": FITTED})
        wanted = dataclasses.replace(config, data=data)
        if there is None or _other_than(there, wanted):
            build_scenes(wanted)
    return path


def _refuse_another(config: Config, source: str) -> None:
    """A folder that holds, or should hold, another kind of data set is not built over."""
    if config.data.source != source:
        raise DataError(f"{config.data.path} is a set of data.source={config.data.source}: name a configuration of {source}.")
    if (Path(config.data.path) / "index.json").is_file() and ShardSet(config.data.path).info.get("source") != source:
        raise DataError(f"{config.data.path} holds another data set than {source}: give another data.path, or remove that folder.")


def build_games(config: Config, games_dir: str | None) -> dict[str, int]:
    """Fetch the games' packages where no GAMES_DIR is given, cut their music into clips, and write `data.path`."""
    from rich.progress import track

    from melfusion.data import games

    _refuse_another(config, "games")
    folder = Path(games_dir) if games_dir else Path(f"{config.data.path}-packages")
    if not games_dir:
        games.download(folder)  # what is already there is not fetched again
    clips = games.samples(folder, config.audio.clip_duration_s, config.audio.sample_rate_hz,
                          image_size_px=max(128, config.data.image_size_px))  # fmt: skip
    return write_shards(track(clips, description="games"), config.data.path, config.data.samples_per_shard,
                        {"source": "games"})  # fmt: skip


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
