"""Music for a film: its shots become a story, and the music its sound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from melfusion.assembly.music import Music
from melfusion.assembly.pipeline import Pipeline
from melfusion.assembly.provenance import comment_of, of_file
from melfusion.assembly.story import SHORTEST_S, Story, StoryScene
from melfusion.errors import ConfigError
from melfusion.media.sound import within_one
from melfusion.media.video import CONTAINERS, check_film, shots, write_film

LONGEST_S = 3600.0  # of a film


def check_out(film: str | Path, out: str | Path) -> None:
    """ConfigError where no film can be written under that name."""
    if Path(out).suffix.lower() not in CONTAINERS:
        raise ConfigError(f"out={out} must end in {', '.join(CONTAINERS)}.")
    if Path(out).resolve() == Path(film).resolve():
        raise ConfigError(f"out={out} is the film itself: give another name.")


def story_of(pipe: Pipeline, film: str | Path, shortest_s: float | None = None, longest_s: float = LONGEST_S) -> Story:
    """A scene per shot. `shortest_s`: of a shot; None: half of what the model sees at once. `longest_s`: of the film."""
    least = pipe.system.clip_duration_s / 2 if shortest_s is None else shortest_s
    found = shots(film, max(least, SHORTEST_S), longest_s)
    return Story([StoryScene(shot.start_s, shot.picture) for shot in found], found[-1].end_s)


def film(
    pipe: Pipeline, film: str | Path, out: str | Path, shortest_s: float | None = None, metadata: bool = True, **options: Any
) -> tuple[Music, Story]:
    """Write `out`: the pictures of `film` with music in place of its sound. Returns the music and the scenes.

    `options`: those of the pipeline's call, such as prompt, seed and progress. ConfigError where a file is no film.
    """
    check_out(film, out)
    check_film(film)
    story = story_of(pipe, film, shortest_s)
    music = film_music(pipe, film, story, **options)
    music.made[0]["settings"] |= {} if shortest_s is None else {"shortest_s": shortest_s}
    save_film(film, out, music, metadata)
    return music, story


def film_music(pipe: Pipeline, film: str | Path, story: Story, **options: Any) -> Music:
    """One clip for the scenes that `story_of` gives, exactly as long as they; its record says that it is of this film."""
    assert story.duration_s is not None
    music = pipe(story=story, duration_s=story.duration_s, n=1, **options)
    samples = round(story.duration_s * music.sample_rate_hz)
    clip = music.audios[0][..., :samples]
    music.audios = np.pad(clip, [(0, 0)] * (clip.ndim - 1) + [(0, samples - clip.shape[-1])])[None]
    record = music.made[0]
    given = {name: value for name, value in record["settings"].items() if name != "duration_s"}  # the film's own
    record |= {"verb": "film", "settings": given, "files": {"film": of_file(film)}}
    return music


def save_film(film: str | Path, out: str | Path, music: Music, metadata: bool = True) -> None:
    """Write `out`: the pictures of `film` with the music of `film_music`, and what made it."""
    text = comment_of(music.made[0]) if metadata else ""
    write_film(film, out, within_one(music.audios[0]), music.sample_rate_hz, text)
