"""Predictions of real clips and of their reconstructions are made once and kept beside the shards."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from melfusion.data.dataset import MusicDataset
from melfusion.data.storage import local_name
from melfusion.evaluation.clips import decoder_identity, real_clips, reconstructions
from melfusion.evaluation.scoring import Listeners, Predictions
from melfusion.models.system import MeLFusion


def predict_real(listeners: Listeners, dataset: MusicDataset, size: int) -> Predictions:
    """Predictions of a split's own clips, in batches of `size`."""
    file = cache_file(listeners, dataset)
    if (kept := _load(file, dataset)) is None:
        kept = listeners.predict(real_clips(dataset, size))
        kept.save(file)
    return kept


def predict_reconstructions(listeners: Listeners, system: MeLFusion, dataset: MusicDataset, size: int) -> Predictions:
    """Predictions of the same clips after the system's VAE and vocoder."""
    file = cache_file(listeners, dataset, decoder_identity(system))
    if (kept := _load(file, dataset)) is None:
        kept = listeners.predict(reconstructions(system, dataset, size))
        kept.save(file)
    return kept


def _load(file: Path, dataset: MusicDataset) -> Predictions | None:
    return Predictions.load(file, [entry.key for entry in dataset.entries])


def cache_file(listeners: Listeners, dataset: MusicDataset, decoder: Any = None) -> Path:
    """<data set>-predictions/<hash>.pt. The hash is of shards, clips, audio settings, decoder and listeners: all that counts."""
    reader = dataset.reader
    made_of = {
        "shards": reader.shards.digest(),
        "keys": [entry.key for entry in dataset.entries],
        "decoder": decoder,
        "audio": reader.audio.stated(),
        "crop": [reader.data.crop, dataset.seed],
        "listeners": listeners.digests(),
        "attributes": listeners.attributes,
    }
    name = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:12]
    return Path(f"{local_name(reader.data)}-predictions") / f"{name}.pt"
