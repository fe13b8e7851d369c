"""The registry of data sources; from a configuration to the shards that it names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from melfusion.data import replacing
from melfusion.data.games.source import Games
from melfusion.data.manifest.source import Manifest
from melfusion.data.options import DataConfig
from melfusion.data.scenes.source import Scenes
from melfusion.data.source import Corpus, CorpusOptions, Source
from melfusion.data.storage import is_url, local_name
from melfusion.errors import DataError

SOURCES: dict[str, Source] = {source.name: source for source in (Scenes(), Games(), Manifest())}  # the words of data.source

FITTED = 1024  # real training clips that statistics, such as a PCA, are fitted on


def ensure_corpus(config: CorpusOptions) -> None:
    """Check that the data set is there and is what the configuration means; else DataError says what to do.

    A missing set of a source that draws is built, where a configuration file names its folder or with data.draw=true. A set that
    is there is only read: no lock is taken, and nothing is written beside it.
    """
    data, source = config.data, SOURCES[config.data.source]
    if data.stream or is_url(data.path):
        return
    index = Path(local_name(data)) / replacing.INDEX
    replacing.settle(index.parent)
    if not index.is_file():
        if not (source.drawn and data.draw):
            hint = ", or correct data.path, which no configuration file names" if source.drawn else ""
            command = source.command.format(path=data.path)
            raise DataError(f"There is no data set in {data.path}: build it with `{command}`{hint}.")
        build_corpus(source.name, config, unless=index.is_file)  # another process, which was waited for, may have built it
    _refuse_other(config)


def seconds_to_draw(config: CorpusOptions) -> float:
    """About how long `ensure_corpus` will draw on this machine; 0 where the set is there, or is not drawn."""
    data, source = config.data, SOURCES[config.data.source]
    if data.stream or is_url(data.path) or not (source.drawn and data.draw):
        return 0.0
    return 0.0 if (Path(local_name(data)) / replacing.INDEX).is_file() else source.seconds(config)


def build_corpus(
    source: str | Source, config: CorpusOptions, inputs: Path | None = None, unless: Callable[[], bool] = lambda: False
) -> dict[str, int]:
    """Build the set of a source (or of the one with that name) in `data.path`; returns how many samples each split has.

    inputs: as in Source.samples. unless: as in write_shards. DataError where the configuration, or the folder, is another source's.
    """
    from rich.progress import track

    from melfusion.data.writing import write_shards

    source, data = SOURCES[source] if isinstance(source, str) else source, config.data
    _refuse_to_replace(config, source.name)
    samples = track(source.samples(config, inputs), description=source.name, total=source.count(config))
    info = {"source": source.name, **source.info(config)}
    return write_shards(samples, local_name(data), data.samples_per_shard, info, unless, "data.path")


def held_out(config: CorpusOptions, seed: int, n: int) -> str:
    """A folder of freshly drawn samples of any seed: `test` and `reference` of at least n clips each, `train` for statistics.

    A drawn sample is fixed by its seed and number, so a larger folder begins with the samples of a smaller one.
    """
    from melfusion.data.shards import ShardSet

    source = SOURCES[config.data.source]
    source.check_size(f"seed {seed}, held out,", 2 * n + FITTED, config.data)
    path = f"data/{source.name}-held-out-seed{seed}"
    index = Path(path) / replacing.INDEX
    n = max(n, ShardSet(path).counts().get("test", 0) if index.is_file() else 0)
    data = dataclasses.replace(config.data, path=path, corpus_seed=seed, splits={"test": n, "reference": n, "train": FITTED})
    wanted = Corpus(data, config.audio)

    def enough() -> bool:
        return index.is_file() and not source.differs(ShardSet(path), wanted)

    if not enough():
        build_corpus(source.name, wanted, unless=enough)
    return path


def check_size(key: str, n: int, data: DataConfig) -> None:
    """ConfigError where `key` asks for more samples than the source of `data` should make."""
    SOURCES[data.source].check_size(key, n, data)


def describe(path: str) -> str:
    """The counts of a data set in words."""
    from melfusion.data.shards import ShardSet

    return f"{path}: " + ", ".join(f"{n} {split}" for split, n in sorted(ShardSet(path).counts().items()))


def _refuse_other(config: CorpusOptions) -> None:
    """DataError where the set that is there is of another source, or is another set of the same source than is wanted.

    A set that names no source of ours, as others' shards do, is taken for the source of the configuration.
    """
    from melfusion.data.shards import ShardSet

    data, there = config.data, ShardSet(config.data.path)
    named = there.info.get("source")
    if named != data.source and named in SOURCES:
        raise DataError(
            f"{data.path} is a data set of {named}, and the configuration says data.source={data.source}: add "
            f"data.source={named}, or give another data.path."
        )
    if other := SOURCES[data.source].differs(there, config):
        raise DataError(f"{data.path} holds {other}: give another data.path, or remove that folder.")


def _refuse_to_replace(config: CorpusOptions, name: str) -> None:
    """DataError where the configuration, or the set that is there, is of another source than the one to be built."""
    from melfusion.data.shards import ShardSet

    data = config.data
    if data.source != name:
        raise DataError(f"{data.path} is a set of data.source={data.source}: name a configuration of {name}.")
    folder = Path(local_name(data))
    replacing.settle(folder)
    if (folder / replacing.INDEX).is_file() and ShardSet(folder).info.get("source") != name:
        raise DataError(f"{data.path} holds another data set than {name}: give another data.path, or remove that folder.")
