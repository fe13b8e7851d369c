"""Which real clips a row is made for, which others it is measured against, and which a PCA is fitted on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from melfusion.assembly.schema import Config
from melfusion.data.datamodule import MusicDataModule
from melfusion.data.dataset import MusicDataset
from melfusion.data.sources import FITTED, ensure_corpus, held_out
from melfusion.errors import ConfigError, DataError

MOST_TRAINED = 6000  # training clips that generated ones are compared with

LINKS = ("component", "track", "image_id")  # labels that no two splits may share a value of


class Bench(NamedTuple):
    """Three sets of real clips. `against` says in words what the reference is; `of_training`: `train` are the clips that the
    scored model learned from, so that memorisation can be looked for.
    """

    items: MusicDataset
    reference: MusicDataset
    train: MusicDataset
    against: str
    of_training: bool = False


def fresh(config: Config, seed: int, n: int) -> Bench:
    """Newly drawn scenes of any seed, none of them ever trained on."""
    if config.data.source != "scenes":
        raise ConfigError(f"data.seed={seed} draws fresh scenes, but data.source={config.data.source!r}: leave it out.")
    if seed == config.data.corpus_seed:
        raise ConfigError(f"data.seed={seed} is the seed of the corpus itself, whose scenes are not new: give another.")
    data = dataclasses.replace(config.data, path=held_out(config, seed, n))
    module = MusicDataModule(data, config.audio, config.seed)
    items, reference = module.dataset("test").first(n), module.dataset("reference").first(n)
    return Bench(items, reference, module.dataset("train"), f"other scenes of seed {seed}")


def own(config: Config, n: int, fitted: int = FITTED) -> Bench:
    """The corpus's test split against its val split; without one, every other test clip against those between. Unreadable
    items are left out.
    """
    ensure_corpus(config)
    module = MusicDataModule(config.data, config.audio, config.seed)
    items, train = module.dataset("test"), module.dataset("train").spread(fitted)
    try:
        return Bench(items.spread(n).readable(), module.dataset("val").spread(n).readable(), train, "the val split", True)
    except DataError:  # no val split
        between = module.dataset("test")
        items, between = items.pick(range(0, len(items), 2)), between.pick(range(1, len(between), 2))
        return Bench(items.spread(n).readable(), between.spread(n).readable(), train, "the other half of the test split", True)


def _fresh_suite(config: Config) -> Bench:
    n = config.ablation.items // len(config.ablation.seeds) * len(config.ablation.seeds)
    return fresh(config, config.ablation.test_seed, n)


def _split_suite(config: Config) -> Bench:
    """Seeds take turns, so that each has clips of every track."""
    made, seeds = own(config, config.ablation.items, MOST_TRAINED), len(config.ablation.seeds)
    whole = range(len(made.items) // seeds * seeds)
    made = made._replace(items=made.items.pick(place for k in range(seeds) for place in whole[k::seeds]))
    linked(made)
    return made


SUITES: dict[str, Callable[[Config], Bench]] = {"fresh": _fresh_suite, "split": _split_suite}


def suite_bench(config: Config) -> Bench:
    """What a suite is tested on (ablation.corpus_test); the items of its seeds follow each other in equal blocks."""
    return SUITES[config.ablation.corpus_test](config)


def block(config: Config, items: MusicDataset, seed: int) -> list[str]:
    """Keys of one seed's own share of the items: over all seeds each item is used once."""
    seeds = config.ablation.seeds
    each = len(items) // len(seeds)
    start = seeds.index(seed) * each
    return [entry.key for entry in items.entries[start : start + each]]


def metas_of(dataset: MusicDataset) -> list[dict[str, Any]]:
    """The JSON of every sample, with `labels` in any case."""
    metas = (dataset.reader.meta(entry) for entry in dataset.entries)
    return [meta | {"labels": meta.get("labels") or {}} for meta in metas]


def tracks_of(dataset: MusicDataset) -> list[str]:
    """What each clip was cut from: its track where the labels tell it, else itself."""
    pairs = zip(metas_of(dataset), dataset.entries, strict=True)
    return [str(meta["labels"].get("track") or entry.key) for meta, entry in pairs]


def linked(bench: Bench) -> dict[str, int]:
    """Label of LINKS → how many values the held-out clips have; DataError where training clips share one of them."""
    counts = {}
    held, trained = metas_of(bench.items) + metas_of(bench.reference), metas_of(bench.train)
    for name in LINKS:
        ours, theirs = ({str(m["labels"][name]) for m in metas if m["labels"].get(name)} for metas in (held, trained))
        if both := sorted(ours & theirs):
            raise DataError(
                f"{bench.items.reader.shards.folder}: {len(both)} values of {name}, such as {both[0]!r}, are both in "
                "train and in what is tested: split by connected component, as `make data-games` does."
            )
        if ours:
            counts[name] = len(ours)
    return counts
