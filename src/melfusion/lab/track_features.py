"""Features of tracks and of their pictures, by networks and rules that were not made for this project's data."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.progress import track as progress
from torch import Tensor

from melfusion.assembly.schema import Config
from melfusion.data.datamodule import MusicDataModule
from melfusion.data.dataset import MusicDataset
from melfusion.data.entries import Entry
from melfusion.errors import BadSample, DataError
from melfusion.media.mel import LogMel
from melfusion.media.pictures import read_image
from melfusion.models.image_efficientnet import EfficientNetFeatures, efficientnet

log = logging.getLogger(__name__)

LEAST = 20  # tracks
AT_ONCE = 16  # pictures
SIDE = 224  # pixels that the network was trained at
LAGS_S = np.geomspace(0.15, 2.0, 24)  # of the autocorrelation of the onset strength: 400 to 30 beats a minute
STRENGTHS = ("level", "theme", "game")  # from near to loose


@dataclass(frozen=True)
class Tracks:
    """One row a track.

    Attributes:
        pictures: (N, 1280), the mean over its pictures.  sounds: (N, P), the mean over some of its clips.
        names, games, components: of each track; components are never divided.
        splits: of each track.
        pairings: how closely its nearest picture belongs to it; "" where the data set says nothing of it.
    """

    pictures: np.ndarray
    sounds: np.ndarray
    names: list[str]
    games: list[str]
    components: list[str]
    splits: list[str]
    pairings: list[str]

    def __len__(self) -> int:
        return len(self.names)


def summary(log_mel: Tensor, frames_per_s: float) -> np.ndarray:
    """log_mel (T, F) → means and deviations of its bins, and the onset strength: mean, deviation, autocorrelation at LAGS_S."""
    mel = log_mel.double().numpy()
    onset = np.maximum(np.diff(mel, axis=0), 0).mean(1)
    centred = onset - onset.mean()
    power = np.fft.irfft(np.abs(np.fft.rfft(centred, 2 * len(centred))) ** 2)[: len(centred)]
    repeats = np.interp(LAGS_S * frames_per_s, np.arange(len(power)), power / max(power[0], 1e-12))
    return np.concatenate([mel.mean(0), mel.std(0), [onset.mean(), onset.std()], repeats])


def read_tracks(config: Config, splits: Sequence[str], clips: int) -> Tracks:
    """Features of every track of these splits with a picture, from at most `clips` of its clips and all their pictures."""
    module = MusicDataModule(config.data, config.audio, config.seed)
    found: dict[str, list[tuple[MusicDataset, Entry, dict[str, Any]]]] = defaultdict(list)
    split_of: dict[str, str] = {}
    for split in splits:
        dataset = module.dataset(split)
        for entry in dataset.entries:
            if dataset.reader.has_picture(entry):
                labels = dataset.reader.meta(entry).get("labels") or {}
                name = str(labels.get("track") or entry.key)
                found[name].append((dataset, entry, labels))
                split_of[name] = split
    if len(found) < LEAST:
        raise DataError(f"{config.data.path} has {len(found)} tracks with a picture; a probe needs {LEAST}.")
    sounds, seen = {}, {}
    front, rate = LogMel(config.audio), config.audio.sample_rate_hz / config.audio.hop_length_samples
    for name, held in progress(found.items(), description="tracks"):
        summaries = [s for one in _spread(held, clips) if (s := _sound(one[0], one[1], front, rate)) is not None]
        if summaries:
            sounds[name] = np.mean(summaries, 0)
            seen[name] = _pictures(held)
    features = picture_features({digest: data for pictures in seen.values() for digest, data in pictures.items()}, config)
    kept = [name for name in sounds if any(digest in features for digest in seen[name])]
    labels = {name: [one[2] for one in found[name]] for name in kept}
    return Tracks(
        np.stack([np.mean([features[d] for d in seen[name] if d in features], 0) for name in kept]),
        np.stack([sounds[name] for name in kept]),
        kept,
        [str(labels[name][0].get("game") or "") for name in kept],
        [str(labels[name][0].get("component") or name) for name in kept],
        [split_of[name] for name in kept],
        [min((str(one.get("pairing") or "") for one in labels[name]), key=_strength) for name in kept],
    )


def _strength(pairing: str) -> int:
    return STRENGTHS.index(pairing) if pairing in STRENGTHS else len(STRENGTHS)


def _spread(held: Sequence[Any], n: int) -> list[Any]:
    return [held[i * len(held) // min(n, len(held))] for i in range(min(n, len(held)))]


def _sound(dataset: MusicDataset, entry: Entry, front: LogMel, rate: float) -> np.ndarray | None:
    try:
        waveform = torch.from_numpy(dataset.reader(entry, 0.0)["waveform"])
    except BadSample as error:
        log.warning("%s is left out: %s", entry.key, error)
        return None
    return summary(front(waveform.mean(0)[None] if waveform.ndim == 2 else waveform[None])[0, 0], rate)


def _pictures(held: Sequence[tuple[MusicDataset, Entry, dict[str, Any]]]) -> dict[str, tuple[MusicDataset, Entry]]:
    """One entry for each picture that the clips of a track show."""
    return {str(labels.get("image_id") or entry.key): (dataset, entry) for dataset, entry, labels in reversed(held)}


@torch.no_grad()
def picture_features(entries: dict[str, tuple[MusicDataset, Entry]], config: Config) -> dict[str, np.ndarray]:
    """Name of a picture → (1280,), the mean over EfficientNet-Lite0's last feature map. What cannot be read is left out."""
    network, names = EfficientNetFeatures(efficientnet("imagenet", "probe")).eval(), list(entries)
    found: dict[str, np.ndarray] = {}
    for start in progress(range(0, len(names), AT_ONCE), description="pictures"):
        pixels = {}
        for name in names[start : start + AT_ONCE]:
            dataset, entry = entries[name]
            try:
                pixels[name] = read_image(dataset.reader.picture(entry) or b"", SIDE)
            except BadSample as error:
                log.warning("the picture of %s is left out: %s", entry.key, error)
        if pixels:
            tokens = network.encode(torch.from_numpy(np.stack(list(pixels.values()))))
            found |= dict(zip(pixels, tokens[:, 0].mean(1).double().numpy(), strict=True))
    return found
