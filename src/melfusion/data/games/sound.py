"""Facts of a track: its length, and who made it and what it is called as its tags or its file's name say."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path

import soundfile

from melfusion.data.games.scene import Skip, words


@dataclass(frozen=True)
class TrackFacts:
    seconds: float
    artist: str | None
    title: str  # of its tags; may be empty


@functools.lru_cache(maxsize=4096)
def track_facts(track: Path) -> TrackFacts:
    """Read from the header and tags (a bare web address is no name); Skip where there is no sound."""
    try:
        with soundfile.SoundFile(track) as file:
            seconds, artist, title = file.frames / file.samplerate, " ".join(file.artist.split()), " ".join(file.title.split())
    except (soundfile.LibsndfileError, OSError, ValueError) as error:
        raise Skip("unreadable track") from error
    return TrackFacts(seconds, artist if artist and "://" not in artist else None, title if "://" not in title else "")


def named(stem: str) -> tuple[str, str]:
    """'03_Ann_Onym_-_Cold_Sea' -> ('Ann Onym', 'Cold Sea'); without a separated dash no artist, ''."""
    stem = re.sub(r"^\d+[ ._-]+(?=\D)", "", stem)
    artist, _, title = re.sub(r"[ _.]-[ _.]", "\n", stem).partition("\n")
    return (words(artist), words(title)) if title else ("", words(stem))
