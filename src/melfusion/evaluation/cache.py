"""Real clips of a data set, and what VAE and vocoder leave of them, are heard once: what was heard is kept beside the shards."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from melfusion.data.dataset import MusicDataset
from melfusion.data.storage import local_name
from melfusion.evaluation.clips import real_clips, reconstructions, voice
from melfusion.evaluation.scoring import Ears, Heard
from melfusion.models.system import MeLFusion


def hear_real(ears: Ears, dataset: MusicDataset, size: int) -> Heard:
    """What is heard in a split's own clips, `size` of them at a time."""
    file = place(ears, dataset)
    return kept(file, dataset) or ears.listen(real_clips(dataset, size)).keep(file)


def hear_reconstructions(ears: Ears, system: MeLFusion, dataset: MusicDataset, size: int) -> Heard:
    """What is heard in the same clips behind the system's VAE and vocoder."""
    file = place(ears, dataset, voice(system))
    return kept(file, dataset) or ears.listen(reconstructions(system, dataset, size)).keep(file)


def kept(file: Path, dataset: MusicDataset) -> Heard | None:
    return Heard.kept(file, [entry.key for entry in dataset.entries])


def place(ears: Ears, dataset: MusicDataset, behind: Any = None) -> Path:
    """<data set>-heard/<hash>.pt, of all that it depends on: shards, clips, audio contract, and the networks that listen."""
    reader = dataset.reader
    of = {
        "shards": reader.shards.digest(),
        "keys": [entry.key for entry in dataset.entries],
        "behind": behind,
        "audio": dataclasses.asdict(reader.audio),
        "crop": [reader.data.crop, dataset.seed],
        "ears": ears.digests(),
        "attributes": ears.attributes,
    }
    return Path(f"{local_name(reader.data)}-heard") / f"{hashlib.sha256(json.dumps(of).encode()).hexdigest()[:12]}.pt"
