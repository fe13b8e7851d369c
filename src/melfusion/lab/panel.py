"""What scores all rows of a suite alike: one evaluation set, the same listeners, the same reference statistics."""

from __future__ import annotations

import dataclasses
from typing import Any

from melfusion.assembly import system as build
from melfusion.assembly.schema import Config
from melfusion.evaluation.cache import predict_real, predict_reconstructions
from melfusion.evaluation.clips import decoder_identity
from melfusion.evaluation.leakage import BY_CAPTION, BY_PICTURE, leakage, read_inputs
from melfusion.evaluation.memorisation import memorisation
from melfusion.evaluation.scores import fit_reference, load_listeners, partners_of
from melfusion.evaluation.scoring import Listeners, Predictions, accuracy, confusions
from melfusion.evaluation.sets import EvaluationSet, block, metas_of, tracks_of
from melfusion.lab.suite import Suite
from melfusion.models.synapse.options import synapse_config


def table_config(suite: Suite) -> Config:
    """The first row's configuration, with the judge of the table in place of the one that chose."""
    config = suite.first(next(iter(suite.rows)))
    if not config.ablation.test_judge:
        return config
    return dataclasses.replace(config, judge=dataclasses.replace(config.judge, weights=config.ablation.test_judge))


def table_listeners(suite: Suite) -> Listeners:
    """The networks that score all rows."""
    return load_listeners(table_config(suite))


class Panel:
    """The listeners of a suite, with the labels, tracks and seeds of its items.

    `fewest`: keys of the smallest row, which limits the components of the reference statistics.
    """

    def __init__(self, config: Config, clips: EvaluationSet, fewest: list[str], listeners: Listeners):
        self.config, self.clips, self.listeners = config, clips, listeners
        self.keys, self.metas = [e.key for e in clips.items.entries], metas_of(clips.items)
        self.labels = {key: meta["labels"] for key, meta in zip(self.keys, self.metas, strict=True)}
        self.track = dict(zip(self.keys, tracks_of(clips.items), strict=True))
        self.seed = {key: seed for seed in config.ablation.seeds for key in block(config, clips.items, seed)}
        size = config.evaluation.batch_size
        self.real = predict_real(self.listeners, clips.items, size)
        self.reference = fit_reference(self.listeners, clips, self.known(fewest), config)
        self.partners = partners_of(self.listeners, self.real, clips.items, self.metas)
        only = Listeners(self.listeners.audio, None, self.listeners.embedders)
        self.train = predict_real(only, clips.train, size) if clips.of_training else None

    def known(self, keys: list[str]) -> list[dict[str, str]]:
        """The labels of these items that the judge predicts."""
        return [self.listeners.known_labels(self.labels[key]) for key in keys]

    def tracks(self, row: Predictions) -> list[str]:
        return [self.track[key] for key in row.keys]

    def seeds(self, row: Predictions) -> list[int]:
        """The training seeds that a row has clips of."""
        return list(dict.fromkeys(self.seed[key] for key in row.keys))

    def score(self, row: Predictions) -> dict[str, Any]:
        """Accuracy and confusions, distances by embedder, scores with the own item, and where it can be measured, memorisation."""
        labels = [self.labels[key] for key in row.keys]
        entry = {
            "n": len(row),
            "attributes": accuracy(row, labels),
            "confusions": confusions(row, labels),
            "distances": self.reference.score(row, self.known(row.keys), self.tracks(row)),
            "paired": self.partners.score(row),
        }
        if self.train is not None:
            entry["memorisation"] = memorisation(row, self.real, self.reference.real, self.train, self.tracks(row))
        return entry

    def gain(self, base: Predictions, row: Predictions) -> dict[str, dict[str, Any]]:
        """How much nearer to real clips a row is than the baseline, over the clips that both have."""
        both = [key for key in row.keys if key in set(base.keys)]
        tracks, seeds = [self.track[key] for key in both], [self.seed[key] for key in both]
        return self.reference.gains(base.only(both), row.only(both), self.known(both), tracks, seeds)


def floors(panel: Panel) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows `real` and `reconstruction`; and digests of the frozen parts, with the leakage test where the labels allow it."""
    # a synapse that any UNet takes, since the first row may be one that cannot be built
    config = dataclasses.replace(panel.config, synapse=synapse_config("concat"))
    system = build.system(config).eval().to(panel.listeners.device)
    parts: dict[str, Any] = {
        "frozen": {name: value[:12] for name, value in system.frozen_digests().items() if name != "denoiser"},
        "decoder": [decoder_identity(system)[0][:12], decoder_identity(system)[1]],
    }
    if all(set(BY_PICTURE + BY_CAPTION) <= labels.keys() for labels in panel.labels.values()):
        network, side = panel.listeners.named("efficientnet"), config.data.image_size_px
        train, test = (read_inputs(dataset, side) for dataset in (panel.clips.train, panel.clips.items))
        parts["leakage"] = leakage(train, test, system.conditioner, network and network.network.embed_image)
    reconstruction = predict_reconstructions(panel.listeners, system, panel.clips.items, config.evaluation.batch_size)
    rows = {"real": panel.real, "reconstruction": reconstruction}
    return [{"name": name, "floor": True} | panel.score(row) for name, row in rows.items()], parts
