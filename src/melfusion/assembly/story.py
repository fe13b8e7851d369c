"""Picture stories: scenes with a picture and the time at which each begins. No heavy imports."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from melfusion.errors import ConfigError
from melfusion.files import read_regular
from melfusion.media.file_kinds import picture_bytes

KEYS = ("image", "start_s", "end_s", "prompt")
SHORTEST_S = 0.2  # of a scene


@dataclass(frozen=True)
class StoryScene:
    """image: a file, or anything that the pipeline takes for a picture; None for none. prompt: None for that of the call."""

    start_s: float
    image: Any = None
    prompt: str | None = None


@dataclass(frozen=True)
class Story:
    """Scenes in order of time; `duration_s`: of the piece, None where the story names none."""

    scenes: list[StoryScene]
    duration_s: float | None = None


def read_story(given: Any) -> Story:
    """A file (.json, .yaml), a list of scenes, or {"scenes": […], "duration_s": …} → Story; ConfigError says what is wrong.

    A scene is {"image", "start_s", "prompt"?, "end_s"?}. Paths in a file are relative to its folder.
    """
    if isinstance(given, Story):
        return given
    name, folder = "story", Path()
    if isinstance(given, str | Path):
        name, folder = f"story={given}", Path(given).parent
        given = _parsed(Path(given), name)
    duration = None
    if isinstance(given, dict):
        if unknown := [key for key in given if key not in ("scenes", "duration_s")]:
            raise ConfigError(f"{name}: there is no key {unknown[0]!r}; give scenes, and duration_s.")
        duration = None if given.get("duration_s") is None else _seconds(name, "duration_s", given["duration_s"])
        given = given.get("scenes")
    if not isinstance(given, list) or not given:
        raise ConfigError(f"{name} is no story: give a list of scenes, each with image and start_s.")
    rows = [_row(f"{name}, scene {i + 1}", row) for i, row in enumerate(given)]
    ends = [None if row.get("end_s") is None else _seconds(name, "end_s", row["end_s"]) for row in rows]
    scenes = [_scene(f"{name}, scene {i + 1}", row, folder) for i, row in enumerate(rows)]
    duration = ends[-1] if duration is None else duration
    _check_times(name, scenes, ends, duration)
    return Story(scenes, duration)


def check_end(story: Story, duration_s: float) -> None:
    """ConfigError where a scene begins after the end of the piece."""
    last = story.scenes[-1].start_s
    if last > duration_s - SHORTEST_S:
        raise ConfigError(
            f"story: the last scene begins at {last:g} s, but the piece lasts {duration_s:g} s: give a longer duration_s."
        )


def _parsed(file: Path, name: str) -> Any:
    if not file.exists():
        raise ConfigError(f"{name}: there is no such file.")
    data = read_regular(file, "give a JSON or YAML file of scenes", 1 << 20)
    try:
        return json.loads(data) if file.suffix.lower() == ".json" else yaml.safe_load(data)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{name} cannot be read ({' '.join(str(error).split())[:100]}): correct it.") from None


def _row(name: str, row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise ConfigError(f'{name} is {str(row)[:60]!r}: give {{"image": "file.png", "start_s": 0}}.')
    if unknown := [key for key in row if key not in KEYS]:
        raise ConfigError(f"{name}: there is no key {unknown[0]!r}; known are {', '.join(KEYS)}.")
    return row


def _scene(name: str, row: dict[str, Any], folder: Path) -> StoryScene:
    if "start_s" not in row:
        raise ConfigError(f"{name} lacks start_s: give the second at which it begins.")
    image, prompt = row.get("image"), row.get("prompt")
    if image is None and not prompt:
        raise ConfigError(f"{name} has neither image nor prompt: give one of them.")
    if prompt is not None and not isinstance(prompt, str):
        raise ConfigError(f"{name}: prompt={str(prompt)[:60]!r} is no text: put it in quotes.")
    if isinstance(image, str | Path):
        image = folder / image
        picture_bytes(f"{name}, image", image)
    return StoryScene(_seconds(name, "start_s", row["start_s"]), image, prompt)


def _seconds(name: str, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ConfigError(f"{name}: {key}={str(value)[:60]!r} is no time: give seconds, not negative.")
    return float(value)


def _check_times(name: str, scenes: list[StoryScene], ends: list[float | None], duration: float | None) -> None:
    """Scenes must follow one another without gaps, from 0 on."""
    if scenes[0].start_s != 0:
        raise ConfigError(f"{name}: the first scene begins at {scenes[0].start_s:g} s: it must begin at 0.")
    for i, (scene, after) in enumerate(zip(scenes[:-1], scenes[1:], strict=True)):
        if after.start_s < scene.start_s + SHORTEST_S:
            raise ConfigError(
                f"{name}: scene {i + 2} begins at {after.start_s:g} s and the one before it at {scene.start_s:g} s: give them in "
                f"order of time, at least {SHORTEST_S:g} s apart."
            )
        end = ends[i]
        if end is not None and abs(end - after.start_s) > 1e-6:
            what = "overlaps the next one" if end > after.start_s else "leaves a gap before the next one"
            raise ConfigError(f"{name}: scene {i + 1} ends at {end:g} s and {what}, which begins at {after.start_s:g} s.")
    if duration is not None:
        if ends[-1] is not None and abs(ends[-1] - duration) > 1e-6:
            raise ConfigError(f"{name}: the last scene ends at {ends[-1]:g} s, but duration_s={duration:g}: make them equal.")
        check_end(Story(scenes), duration)
