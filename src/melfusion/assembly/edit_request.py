"""What a call asks for beyond one clip: windows, a sound to be edited, a story. Checked before anything slow; no heavy imports."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from melfusion.assembly.story import Story, check_end, read_story
from melfusion.errors import ConfigError
from melfusion.media.sound_files import sound_seconds


@dataclass(frozen=True)
class Editing:
    """Options of a call; None: not asked for.

    Attributes:
        window_s: what the model sees at once, s; None: as much as in training.
        overlap_s: of two windows, s; None: half of one.
        audio: the sound that is edited: a file, (waveform (S,) or (C, S), rate_hz), or a Music, of which its first clip.
        extend_s: go on after its end for so many seconds.
        repaint: (start_s, end_s) or "START-END": make this span of it anew.
        strength: in [0, 1], how far it is changed: 1 is music from noise, 0 what the codec makes of it.
        keep_key: with strength, is the key of the sound given to the model where the call says nothing of it? None: yes.
        story: pictures with times (assembly/story.py).
    """

    window_s: float | None = None
    overlap_s: float | None = None
    audio: Any = None
    extend_s: float | None = None
    repaint: Any = None
    strength: float | None = None
    keep_key: bool | None = None
    story: Any = None

    def __post_init__(self) -> None:
        for name in ("window_s", "overlap_s", "extend_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name}={value} must be a number of seconds greater than 0.")
        if self.strength is not None and not 0 <= self.strength <= 1:
            raise ConfigError(f"strength={self.strength} must be between 0 (the sound as it is) and 1 (music from noise).")

    @property
    def span(self) -> tuple[float, float] | None:
        """`repaint` as seconds."""
        if self.repaint is None:
            return None
        try:
            first, last = self.repaint.split("-") if isinstance(self.repaint, str) else self.repaint
            start, end = float(first), float(last)
        except (TypeError, ValueError):
            start = end = math.nan
        if not 0 <= start < end < math.inf:
            raise ConfigError(f"repaint={self.repaint} is no span: give START-END in seconds, such as repaint=3.5-6.")
        return start, end

    @property
    def in_its_key(self) -> bool:
        """Is the key of the sound given to the model?"""
        return self.keep_key is not False and self.strength is not None and self.strength < 1

    def checked(self, image: Any, duration_s: float | None) -> tuple[Editing, float | None]:
        """The same with its story read, and the seconds of the piece, None for those of training; ConfigError where options do
        not go together, or a file is not what it should be."""
        self._check_together(image, duration_s)
        asked = self if self.story is None else dataclasses.replace(self, story=read_story(self.story))
        if self.audio is not None:
            seconds = self.audio_seconds()
            if (span := self.span) and span[1] > seconds + 1e-6:
                raise ConfigError(f"repaint={span[0]:g}-{span[1]:g} is outside the sound, which lasts {seconds:g} s.")
            duration_s = seconds
        if isinstance(asked.story, Story):
            if duration_s is None and (duration_s := asked.story.duration_s) is None:
                raise ConfigError("story needs the length of the piece: give duration_s, or end_s of the last scene.")
            check_end(asked.story, duration_s)
        return asked, duration_s

    def _check_together(self, image: Any, duration_s: float | None) -> None:
        ways = [name for name in ("extend_s", "repaint", "strength") if getattr(self, name) is not None]
        if self.keep_key is not None and self.strength is None:
            raise ConfigError("keep_key is of a sound that is changed as a whole: give audio=FILE and strength=0.8, too.")
        if ways and self.audio is None:
            raise ConfigError(f"{ways[0]} says what happens to a sound: give audio=FILE, too.")
        if self.audio is not None and not ways:
            raise ConfigError("audio needs to know what happens to it: give strength=0.8, repaint=START-END or extend_s=10.")
        if "extend_s" in ways and len(ways) > 1:
            raise ConfigError(f"extend_s and {ways[1]} do not go together: give one of them, and edit the result again.")
        if self.audio is not None and duration_s is not None:
            raise ConfigError("duration_s does not go with audio, whose length is kept: leave it out, or give extend_s.")
        if self.story is not None and image is not None:
            raise ConfigError("story brings its own pictures: leave image out.")
        if self.story is not None and ways and ways != ["strength"]:
            raise ConfigError(f"story and {ways[0]} do not go together: leave one of them out.")
        if self.overlap_s is not None and self.window_s is not None and self.overlap_s >= self.window_s:
            raise ConfigError(f"overlap_s={self.overlap_s:g} must be less than window_s={self.window_s:g}.")

    def audio_seconds(self) -> float:
        """How long the sound is; ConfigError where it is none."""
        if isinstance(self.audio, str | Path):
            return sound_seconds("audio", self.audio)
        waveform, rate = samples_of(self.audio)
        return waveform.shape[-1] / rate


def samples_of(audio: Any, option: str = "audio") -> tuple[Any, int]:
    """(waveform, rate_hz), or a Music → (waveform (S,) or (C, S), rate_hz); ConfigError where it is neither."""
    if hasattr(audio, "audios"):
        return audio.audios[0], audio.sample_rate_hz
    try:
        waveform, rate = audio
        if waveform.ndim in (1, 2) and waveform.shape[-1] and rate > 0:
            return waveform, int(rate)
    except (TypeError, ValueError, AttributeError):
        pass
    raise ConfigError(f"{option} is no sound: give a file, (waveform, rate_hz) with a waveform (S,) or (C, S), or a Music.")


EDITING = tuple(field.name for field in dataclasses.fields(Editing))
