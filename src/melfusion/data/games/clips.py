"""From tuples to samples: splits, captions, and each track cut into clips that get its pictures in turn."""

from __future__ import annotations

import hashlib
import io
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from melfusion.data.games.drawing import cover
from melfusion.data.games.material import in_words
from melfusion.data.games.packages import ELSEWHERE
from melfusion.data.games.tuples import GameTuple, read_games
from melfusion.data.shards import Sample
from melfusion.data.splits import components, split_components
from melfusion.data.tempo import estimate_tempo
from melfusion.errors import DataError

logger = logging.getLogger(__name__)

SILENCE_DB = -50.0  # a clip whose RMS lies below this, relative to full scale, is silent


def caption(item: GameTuple, tempo_bpm: int | None) -> str:
    """'Game music for TITLE, a THEME PLACE in GAME, by ARTIST, N BPM.', leaving out what is unknown or said twice."""
    kind = item.place if item.theme.casefold() == item.title.casefold() else f"{item.theme} {item.place}".strip()
    text = f"Game music for {item.title}, {'an' if kind[0] in 'aeiou' else 'a'} {kind} in {item.game}"
    return text + (f", by {item.artist}" if item.artist else "") + (f", {tempo_bpm} BPM." if tempo_bpm else ".")


def samples(
    games_dir: Path,
    clip_duration_s: float = 10.24,
    sample_rate_hz: int = 16000,
    max_clips_per_tuple: int = 100,
    image_size_px: int = 128,
) -> Iterator[Sample]:
    """Non-overlapping clips of every track, each with one picture: audible clip j goes to picture j mod their number.

    What was skipped is logged with its reason at the end. Raises DataError where `games_dir` holds no game.
    """
    if min(clip_duration_s, sample_rate_hz, max_clips_per_tuple, image_size_px) <= 0:
        raise ValueError("clip_duration_s, sample_rate_hz, max_clips_per_tuple and image_size_px have to be positive.")
    tuples, skipped = read_games(games_dir)
    if not tuples:
        raise DataError(f"{games_dir} holds no unpacked game: run `make data-games`, or {ELSEWHERE}.")
    counts: Counter[str] = Counter(skipped)
    groups: dict[Path, list[tuple[GameTuple, dict[str, str]]]] = {}
    for item, facts in zip(tuples, assign(tuples), strict=True):
        groups.setdefault(item.track, []).append((item, facts))
    for track, group in groups.items():
        number = 0
        for clip in clips_of(track, clip_duration_s, sample_rate_hz, max_clips_per_tuple * len(group), counts):
            item, facts = group[number % len(group)]
            number += 1
            labels = {"tempo_bpm": clip.tempo_bpm, "start_s": clip.start_s, "component": facts["component"]}
            yield _sample(item, clip.audio, sample_rate_hz, image_size_px, facts["split"], labels)
        counts["tuple without a clip of its own"] += max(0, len(group) - number)
    logger.warning("games: left out: %s", in_words(counts))


def assign(tuples: Sequence[GameTuple]) -> list[dict[str, str]]:
    """`split` and `component` of every tuple; tuples whose pictures share art are kept together too.

    A track weighs its length, spread over its pictures, so that data sets of different clip lengths agree on the split.
    """
    pictures = Counter(item.track for item in tuples)
    pairs = [(item.track_id, item.image_id) for item in tuples]
    weights = [item.track_s / pictures[item.track] for item in tuples]
    links = [(item.track_id, part) for item in tuples for part in item.parts]
    splits = split_components(pairs + links, weights=weights + [0.0] * len(links))
    names = components(pairs + links)
    return [{"split": splits[i], "component": names[i]} for i in range(len(pairs))]


@dataclass(frozen=True)
class Clip:
    """`audio` [T] begins at `start_s` of its track, whose tempo is `tempo_bpm`."""

    audio: np.ndarray
    start_s: float
    tempo_bpm: int | None


def clips_of(track: Path, clip_duration_s: float, sample_rate_hz: int, most: int, counts: Counter[str]) -> Iterator[Clip]:
    """The first `most` audible clips of a track, one after another; what is left out is counted."""
    try:
        waveform = read_mono(track, sample_rate_hz)
    except (soundfile.LibsndfileError, OSError, ValueError):
        counts["track that cannot be decoded"] += 1
        return
    tempo_bpm = estimate_tempo(waveform, sample_rate_hz)
    for number, (start_s, audio) in enumerate(audible_clips(waveform, clip_duration_s, sample_rate_hz, counts)):
        if number < most:
            yield Clip(audio, start_s, tempo_bpm)
        else:
            counts["clip beyond max_clips_per_tuple"] += 1


def read_mono(track: Path, sample_rate_hz: int) -> np.ndarray:
    """The whole track [T], float32: mean of its channels, resampled, turned down where it would clip."""
    audio, rate_hz = soundfile.read(track, dtype="float32", always_2d=True)
    waveform = audio.mean(axis=1)
    waveform = soxr.resample(waveform, rate_hz, sample_rate_hz) if rate_hz != sample_rate_hz else waveform
    return waveform / max(1.0, float(np.abs(waveform).max(initial=0.0)))


def audible_clips(
    waveform: np.ndarray, clip_duration_s: float, sample_rate_hz: int, counts: Counter[str]
) -> Iterator[tuple[float, np.ndarray]]:
    """(start in seconds, clip) for the whole clips in `waveform` [T]; silent ones are counted instead."""
    length = round(clip_duration_s * sample_rate_hz)
    for start in range(0, len(waveform) - length + 1, length):
        clip = waveform[start : start + length]
        if 10 * np.log10(np.mean(np.square(clip)) + 1e-12) < SILENCE_DB:
            counts["silent clip"] += 1
        else:
            yield round(start / sample_rate_hz, 3), clip


def _sample(item: GameTuple, clip: np.ndarray, sample_rate_hz: int, image_size_px: int, split: str, labels: dict) -> Sample:
    image = io.BytesIO()
    cover(item.image, (image_size_px, image_size_px)).save(image, "PNG")
    about = {"game": item.game, "track": item.track_id, "artist": item.artist, "image_id": item.image_id}
    meta = {
        "caption": caption(item, labels["tempo_bpm"]),
        "title": item.title,
        "source": f"games: Debian package {item.track_id.split('/')[0]}",
        "license": item.license,
        "split": split,
        "labels": labels | about | {"theme": item.theme},
    }
    name = key(item.game, item.track, item.track_id, labels["start_s"])
    return Sample(name, flac(clip, sample_rate_hz), "flac", image.getvalue(), "png", meta)


def flac(clip: np.ndarray, sample_rate_hz: int) -> bytes:
    audio = io.BytesIO()
    soundfile.write(audio, clip, sample_rate_hz, format="FLAC", subtype="PCM_16")
    return audio.getvalue()


def key(game: str, track: Path, track_id: str, start_s: float) -> str:
    """A sample's key: game and file in plain letters, a hash of the track's name, and the start in ms."""
    name = re.sub(r"[^a-z0-9]+", "-", f"{game} {track.stem}".lower()).strip("-")
    return f"{name}-{hashlib.sha256(track_id.encode()).hexdigest()[:6]}-{round(1000 * start_s):07d}"
