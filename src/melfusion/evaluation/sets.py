"""Evaluation sets: the items to generate clips for, other real clips to measure against, and real clips to fit a PCA on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from melfusion.assembly.schema import Config
from melfusion.data.datamodule import MusicDataModule
from melfusion.data.dataset import MusicDataset
from melfusion.data.sources import FITTED, ensure_corpus, held_out
from melfusion.errors import ConfigError, DataError

MOST_TRAINED = 6000  # training clips that generated ones are compared with, at most

LINKS = ("component", "track", "image_id")  # labels whose values no two splits may share


class EvaluationSet(NamedTuple):
    """Three sets of real clips.

    `against`: what the reference clips are, in words.  `of_training`: `train` are the clips that the scored model was trained
    on, so memorisation can be measured.
    """

    items: MusicDataset
    reference: MusicDataset
    train: MusicDataset
    against: str
    of_training: bool = False


def fresh(config: Config, seed: int, n: int) -> EvaluationSet:
    """`n` newly drawn scenes of a seed. No model was trained on any of them."""
    if config.data.source != "scenes":
        raise ConfigError(f"data.seed={seed} draws fresh scenes, but data.source={config.data.source!r}: leave it out.")
    if seed == config.data.corpus_seed:
        raise ConfigError(f"data.seed={seed} is the seed of the corpus itself, whose scenes are not new: give another.")
    data = dataclasses.replace(config.data, path=held_out(config, seed, n))
    module = MusicDataModule(data, config.audio, config.seed)
    items, reference = module.dataset("test").first(n), module.dataset("reference").first(n)
    return EvaluationSet(items, reference, module.dataset("train"), f"other scenes of seed {seed}")


def own(config: Config, n: int, fitted: int = FITTED) -> EvaluationSet:
    """The test split of the corpus, measured against its val split. At most `n` clips of each, and `fitted` training clips.

    Without a val split every other test clip is measured against those between. Clips that cannot be read are left out.
    """
    ensure_corpus(config)
    module = MusicDataModule(config.data, config.audio, config.seed)
    items, train = module.dataset("test"), module.dataset("train").spread(fitted)
    try:
        reference, against = module.dataset("val"), "the val split"
    except DataError:  # no val split
        whole = module.dataset("test")
        items, reference = whole.pick(range(0, len(whole), 2)), whole.pick(range(1, len(whole), 2))
        against = "the other half of the test split"
    return EvaluationSet(items.spread(n).readable(), reference.spread(n).readable(), train, against, True)


def _fresh_suite(config: Config) -> EvaluationSet:
    n = config.ablation.items // len(config.ablation.seeds) * len(config.ablation.seeds)
    return fresh(config, config.ablation.test_seed, n)


def _split_suite(config: Config) -> EvaluationSet:
    """The corpus's own test split. Its items are dealt out to the seeds in turn, so that each seed has clips of every track."""
    made, seeds = own(config, config.ablation.items, MOST_TRAINED), len(config.ablation.seeds)
    whole = range(len(made.items) // seeds * seeds)
    made = made._replace(items=made.items.pick(place for k in range(seeds) for place in whole[k::seeds]))
    linked(made)
    return made


SUITES: dict[str, Callable[[Config], EvaluationSet]] = {"fresh": _fresh_suite, "split": _split_suite}


def suite_set(config: Config) -> EvaluationSet:
    """The evaluation set of a suite (ablation.corpus_test). The items of its seeds stand in equal blocks, one after another."""
    return SUITES[config.ablation.corpus_test](config)


def block(config: Config, items: MusicDataset, seed: int) -> list[str]:
    """Keys of the items of one seed. Each item belongs to one seed."""
    seeds = config.ablation.seeds
    each = len(items) // len(seeds)
    start = seeds.index(seed) * each
    return [entry.key for entry in items.entries[start : start + each]]


def metas_of(dataset: MusicDataset) -> list[dict[str, Any]]:
    """The JSON of every sample. It has `labels`, empty where the sample has none."""
    metas = (dataset.reader.meta(entry) for entry in dataset.entries)
    return [meta | {"labels": meta.get("labels") or {}} for meta in metas]


def tracks_of(dataset: MusicDataset) -> list[str]:
    """The track that each clip was cut from; its own key where its labels name no track."""
    pairs = zip(metas_of(dataset), dataset.entries, strict=True)
    return [str(meta["labels"].get("track") or entry.key) for meta, entry in pairs]


def linked(clips: EvaluationSet) -> dict[str, int]:
    """Label of LINKS → number of its values in the held-out clips; DataError where a training clip has one of these values."""
    counts = {}
    held, trained = metas_of(clips.items) + metas_of(clips.reference), metas_of(clips.train)
    for name in LINKS:
        ours, theirs = ({str(m["labels"][name]) for m in metas if m["labels"].get(name)} for metas in (held, trained))
        if both := sorted(ours & theirs):
            raise DataError(
                f"{clips.items.reader.shards.folder}: {len(both)} values of {name}, such as {both[0]!r}, are both in "
                "train and in the evaluation set: split by connected component, as `make data-games` does."
            )
        if ours:
            counts[name] = len(ours)
    return counts
