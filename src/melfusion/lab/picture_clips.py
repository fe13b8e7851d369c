"""What the right picture is worth to the clips that a model generates on real tuples, by two measures of the same clips.

Distance: KAD of a track's clips to real clips of other tracks of its game, and the part of it that is between them. Retrieval:
the rank of the track's own picture among those of other games, by two linear towers of fixed features (ridge regression) that
were fitted on the training split.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from melfusion.assembly.schema import Config
from melfusion.data.datamodule import MusicDataModule
from melfusion.data.dataset import MusicDataset
from melfusion.data.order import spread
from melfusion.evaluation.clips import claim, clip_file, make_clips, read_clips, real_clips
from melfusion.evaluation.conditions import CONDITIONS
from melfusion.evaluation.sets import metas_of
from melfusion.lab.probe import FOLDS, fold_of
from melfusion.lab.track_features import Tracks, read_tracks, summary
from melfusion.listeners.embedders import Embedder, embedder
from melfusion.media.mel import LogMel
from melfusion.metrics.distances import KAD_SCALE, kernel_distance, kernel_matrices
from melfusion.metrics.ridge import Folds, Whitening, directions, ranks
from melfusion.models.system import MeLFusion

SHOWN = {"right": "right picture", "another game's": "another game's picture", "none": "no picture"}
REFERENCE = 48  # real clips of a game, at most, evenly over its tracks
FITTED = 8  # clips of a track that its features are a mean of

Named = dict[str, np.ndarray]


def each_track(dataset: MusicDataset, clips: int) -> MusicDataset:
    """At most so many clips of each track, evenly over it."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, meta in enumerate(metas_of(dataset)):
        places[str(meta["labels"].get("track"))].append(place)
    return dataset.pick(
        sorted(of[i * len(of) // min(clips, len(of))] for of in places.values() for i in range(min(clips, len(of))))
    )


@dataclasses.dataclass(frozen=True)
class Measures:
    """Both measures of clips for the tracks of one split. They depend on the data set alone, so models can share them."""

    distances: Distances
    retrieval: Retrieval

    @staticmethod
    def of(config: Config, split: str) -> Measures:
        return Measures(Distances(config, split), Retrieval.of(config, split))


def clip_measures(
    config: Config, system: MeLFusion, split: str, clips: int, folder: Path, words: bool, measures: Measures
) -> tuple[dict[str, Named], list[dict[str, Any]]]:
    """Measure → name of the picture → value of each clip's track, and the labels of the clips. NaN where a track has none.

    The clips stay in `folder`, and those that are there are not made again.
    """
    items = each_track(MusicDataModule(config.data, config.audio, config.seed).dataset(split), clips)
    labels = [meta["labels"] for meta in metas_of(items)]
    shown: dict[str, list[Tensor]] = {}
    for name, condition in SHOWN.items():
        chosen = dataclasses.replace(CONDITIONS[condition], caption="given" if words else "empty")
        there = folder / condition.replace("'", "").replace(" ", "-")
        claim(there, system, config, items, chosen, replace=True)
        make_clips(system, config, items, chosen, there)
        files = [clip_file(there, items, i) for i in range(len(items))]
        shown[name] = [clip for _, batch in read_clips(files, config.audio, config.evaluation.batch_size) for clip in batch]
    tracks = [str(one.get("track")) for one in labels]
    found = measures.distances.of(shown, labels) | {"retrieval": measures.retrieval.of_clips(shown, tracks, config)}
    return found, labels


class Distances:
    """KAD of generated clips to the real clips of their game, by EfficientNet on the mel picture."""

    def __init__(self, config: Config, split: str):
        self.config, self.embed = config, embedder("efficientnet", "imagenet", config.audio)
        module = MusicDataModule(config.data, config.audio, config.seed)
        self.real: dict[str, list[tuple[str, Tensor]]] = defaultdict(list)  # game → (track, embedding) of its clips
        for one in {"train": 0, split: 0}:
            for meta, embedding in zip(*self._embedded(each_track(module.dataset(one), 2)), strict=True):
                self.real[str(meta["labels"].get("game"))].append((str(meta["labels"].get("track")), embedding))

    def _embedded(self, dataset: MusicDataset) -> tuple[list[dict[str, Any]], Tensor]:
        batches = real_clips(dataset, self.config.evaluation.batch_size)
        return metas_of(dataset), torch.cat([embedded(self.embed, waveform, self.config) for _, waveform in batches])

    def of(self, shown: dict[str, list[Tensor]], labels: Sequence[dict[str, Any]]) -> dict[str, Named]:
        """ "distance" and "nearness" → name of the picture → (N,) of each clip those of its track's clips.

        KAD is the clips' likeness among themselves, plus that of the real ones, minus twice the likeness between them
        (Gretton et al. 2012, eq. 3). The last one is the nearness: a set is nearer to its game, or only more varied, and KAD
        alone does not tell which.
        """
        tracks = np.asarray([str(one.get("track")) for one in labels])
        found: dict[str, Named] = {"distance": {}, "nearness": {}}
        for name, clips in shown.items():
            embeddings = embedded(self.embed, torch.stack(clips), self.config)
            for of in found.values():
                of[name] = np.full(len(clips), np.nan)
            for track in np.unique(tracks):
                mine = np.flatnonzero(tracks == track)
                others = [e for of, e in self.real[str(labels[mine[0]].get("game"))] if of != track]
                if len(others) > 1 and len(mine) > 1:
                    real = torch.stack(spread(others, REFERENCE))
                    found["distance"][name][mine] = kernel_distance(real, embeddings[mine])
                    found["nearness"][name][mine] = KAD_SCALE * kernel_matrices(real, embeddings[mine])[1].mean().item()
        return found


def embedded(embed: Embedder, waveform: Tensor, config: Config) -> Tensor:
    """(B, S) or (B, 2, S) → (B, D), a few clips at once."""
    mono = waveform.mean(1) if waveform.ndim == 3 else waveform
    return torch.cat([embed(part, config.audio.sample_rate_hz).mean(1) for part in mono.split(16)])


@dataclasses.dataclass(frozen=True)
class Retrieval:
    """Two linear towers: a picture's features → what they say of the sound, and a sound's features, whitened."""

    tracks: Tracks
    asked: np.ndarray  # (N,) bool: the tracks of the split that is asked about
    said: np.ndarray  # (N, Q) of each track's pictures
    sounds: Whitening

    @staticmethod
    def of(config: Config, split: str) -> Retrieval:
        """Fitted on the training split, whose own folds choose the penalty: no track of `split` has a part in it."""
        tracks = read_tracks(config, ["train", split], FITTED)
        learned = np.asarray([one == "train" for one in tracks.splits])
        sounds = Whitening.of(tracks.sounds[learned])
        folds = [FOLDS if not own else fold for own, fold in zip(learned, fold_of(tracks.components, config.seed), strict=True)]
        ridge = Folds.of(directions(tracks.pictures), folds, learned)
        return Retrieval(tracks, ~learned, ridge.predict(sounds.apply(tracks.sounds), learned), sounds)

    def of_clips(self, shown: dict[str, list[Tensor]], tracks: Sequence[str], config: Config) -> Named:
        """Name of the picture → (N,) of each clip the rank of its track's own picture, by the track's clips; "real": of real ones.

        All clips that were generated are standardised together, so that what all of them lack decides nothing.
        """
        front, rate = LogMel(config.audio), config.audio.sample_rate_hz / config.audio.hop_length_samples
        own = [i for i in np.flatnonzero(self.asked) if self.tracks.names[i] in tracks]
        of = np.asarray(tracks)
        made = {}
        for name, clips in shown.items():
            summaries = np.stack([summary(front(clip.reshape(-1, clip.shape[-1]).mean(0)[None])[0, 0], rate) for clip in clips])
            made[name] = np.stack([summaries[of == self.tracks.names[i]].mean(0) for i in own])
        whole = self.sounds.apply(np.concatenate(list(made.values())))
        sounds = dict(zip(made, np.split(whole, len(made)), strict=True)) | {"real": self.sounds.apply(self.tracks.sounds)[own]}
        games = np.asarray([self.tracks.games[i] for i in own])
        found = {name: ranks(one, self.said[own], games[:, None] != games[None]) for name, one in sounds.items()}
        place = {self.tracks.names[i]: at for at, i in enumerate(own)}
        return {name: np.asarray([one[place[t]] if t in place else np.nan for t in tracks]) for name, one in found.items()}
