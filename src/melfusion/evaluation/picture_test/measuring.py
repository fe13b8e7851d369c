"""Sounds → numbers: predicted classes, distances between the sounds of an item, features for a probe, nearness to real tracks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from melfusion.data.tempo import estimate_tempo
from melfusion.errors import BadSample
from melfusion.evaluation.picture_test.items import Call, Item
from melfusion.evaluation.picture_test.making import read_sound, sound_file
from melfusion.evaluation.scoring import Listeners
from melfusion.media.mel import LogMel
from melfusion.media.options import AudioConfig

AT_ONCE = 16  # sounds of a batch

DB = 20 / np.log(10)  # of a natural logarithm of magnitude

ONSET_LAGS = 100  # frames of the onset strength's autocorrelation

LOG_MEL = "log-mel"


@dataclass
class Measured:
    """What is known of the sounds that can be used, row by row: row → item number → value.

    `classes`: by attribute first.  `vectors`: by measure first, each (D,); unit vectors, but for LOG_MEL.  `features`: (D,).
    `tracks`: measure → item number → (D,) of the item's own music.  `silent`: call name → why a sound cannot be used.
    """

    classes: dict[str, dict[str, dict[int, str]]] = field(default_factory=dict)
    vectors: dict[str, dict[str, dict[int, Tensor]]] = field(default_factory=dict)
    features: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    tracks: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)

    def distances(self, measure: str, row: str) -> dict[int, float]:
        """Item → distance of its sound in this row from that with the right picture, where both are there."""
        rows = self.vectors[measure]
        ours, theirs = rows.get("right", {}), rows.get(row, {})
        return {i: distance(measure, ours[i], theirs[i]) for i in ours if i in theirs}

    def to_tracks(self, measure: str, row: str) -> dict[int, float]:
        """Item → distance of its sound in this row from its own music."""
        tracks = self.tracks.get(measure, {})
        return {i: distance(measure, v, tracks[i]) for i, v in self.vectors[measure].get(row, {}).items() if i in tracks}


def distance(measure: str, a: Tensor, b: Tensor) -> float:
    """Mean absolute difference of two log-mels in dB, or 1 - cosine of two embeddings."""
    return DB * (a - b).abs().mean().item() if measure == LOG_MEL else max(0.0, 1 - (a @ b).item())


def measured(listeners: Listeners, items: list[Item], calls: list[Call], sounds: Path, folder: Path) -> Measured:
    """All sounds by all networks. `folder` holds the items' own tracks, where they are real."""
    made, tempo = Measured(), any("tempo" in item.labels for item in items)
    for some, waveform in _sounds(calls, sounds, listeners.audio, made.unusable):
        classes, vectors, features = _numbers(listeners, waveform)
        if tempo:
            rate = listeners.audio.sample_rate_hz
            classes["tempo"] = [str(estimate_tempo(clip.numpy(), rate) or "") for clip in waveform]
        for k, call in enumerate(some):
            for name, values in classes.items():
                made.classes.setdefault(name, {}).setdefault(call.row, {})[call.item] = values[k]
            for name, found in vectors.items():
                made.vectors.setdefault(name, {}).setdefault(call.row, {})[call.item] = found[k]
            made.features.setdefault(call.row, {})[call.item] = features[k]
    for i, item in enumerate(items):
        if item.track:
            _, vectors, _ = _numbers(listeners, torch.from_numpy(read_sound(folder / item.track, listeners.audio))[None])
            for name, found in vectors.items():
                made.tracks.setdefault(name, {})[i] = found[0]
    return made


def _sounds(calls: list[Call], sounds: Path, audio: AudioConfig, unusable: dict[str, str]) -> Iterator[tuple[list[Call], Tensor]]:
    """Batches of calls with their sounds (B, S). Why a sound cannot be used is written into `unusable`."""
    some: list[Call] = []
    clips: list[Tensor] = []
    for call in calls:
        try:
            clips.append(torch.from_numpy(read_sound(sound_file(sounds, call), audio)))
            some.append(call)
        except BadSample as error:
            unusable[call.name] = str(error)
        if len(some) == AT_ONCE:
            yield some, torch.stack(clips)
            some, clips = [], []
    if some:
        yield some, torch.stack(clips)


@torch.no_grad()
def _numbers(listeners: Listeners, waveform: Tensor) -> tuple[dict[str, list[str]], dict[str, Tensor], Tensor]:
    """(B, S) → classes by attribute, vectors (B, D) by measure, features (B, D)."""
    found = listeners.predict([([str(i) for i in range(len(waveform))], waveform)])
    log_mel = LogMel(listeners.audio)(waveform)[:, 0]
    vectors = {name: normalize(e.double().mean(1), dim=-1) for name, e in found.embeddings.items()}
    return found.classes, {LOG_MEL: log_mel.flatten(1), **vectors}, summary(log_mel)


def summary(log_mel: Tensor) -> Tensor:
    """Log-mels (B, T, F) → (B, 2 F + lags): mean and deviation of each band, and how the onset strength recurs."""
    onset = log_mel.diff(dim=1).clamp(min=0).mean(2)
    onset = onset - onset.mean(1, keepdim=True)
    power = torch.fft.rfft(onset, 2 * onset.shape[1]).abs().square()
    recurring = torch.fft.irfft(power)[:, : min(ONSET_LAGS, onset.shape[1])]
    return torch.cat([log_mel.mean(1), log_mel.std(1), recurring / recurring[:, :1].clamp(min=1e-6)], 1).double()
