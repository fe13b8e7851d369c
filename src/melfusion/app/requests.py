"""What a visitor asks for, in the page's own words → a call of the pipeline."""

from __future__ import annotations

import contextlib
import math
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from melfusion.assembly.pipeline import Pipeline
from melfusion.errors import ConfigError, MelfusionError
from melfusion.media.file_kinds import picture_bytes
from melfusion.media.sound_files import sound_seconds
from melfusion.media.video import check_film

FRESH, EXTEND, RESTYLE, REPAINT = "nothing", "go on after its end", "change all of it", "make a span of it anew"

LARGEST_SEED = 2**31  # of those that are drawn


@dataclass(frozen=True)
class Limits:
    """What one visitor may ask for."""

    variations: int = 4
    longest_s: float = 120.0
    steps: int = 200
    characters: int = 4000  # of a text
    scenes: int = 20  # of a story


@dataclass
class PageRequest:
    """Everything on the left of the page. None, and "" of a text: the model's own.

    Attributes:
        seed: drawn where it is None.
        start: a sound file that is edited as `mode` says; by how much: `strength`, `extend_s`, or from `start_s` to `end_s`.
        scenes: pictures of a story, in place of `image`; `times`: the seconds at which they begin, "" for equal spans.
        film: its shots are the pictures, its length is that of the piece; `image`, `scenes`, `start` and `n` are then not used.
        fields: what else the model takes of a request.
    """

    model: str
    image: str | None = None
    prompt: str = ""
    negative_prompt: str = ""
    seed: int | None = None
    n: int = 1
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    image_guidance_scale: float | None = None
    duration_s: float | None = None
    start: str | None = None
    mode: str = FRESH
    strength: float = 0.8
    extend_s: float = 5.0
    start_s: float = 0.0
    end_s: float = 1.0
    scenes: list[str] = field(default_factory=list)
    times: str = ""
    film: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)

    def checked(self, limits: Limits) -> PageRequest:
        """The same; ConfigError where it asks for nothing, or for too much."""
        if not self.film and not self.image and not self.scenes and not self.prompt.strip() and self.mode == FRESH:
            raise ConfigError("Give a picture, a sentence, or both.")
        amounts: dict[str, tuple[float, float, float]] = {
            "variations": (self.n, 1, limits.variations),
            "seed": (self.seed or 0, 0, 2**63 - 1),
            "pictures of a story": (len(self.scenes), 0, limits.scenes),
        }
        amounts["steps"] = (self.num_inference_steps or 1, 1, limits.steps)
        amounts["the length in seconds"] = (self.duration_s or 1, 0.1, limits.longest_s)
        for name, (value, least, most) in amounts.items():
            if not least <= value <= most:
                raise ConfigError(f"{name}: {value:g} must be from {least:g} to {most:g}.")
        if max(map(len, (self.prompt, self.negative_prompt, *map(str, self.fields.values())))) > limits.characters:
            raise ConfigError(f"A text is longer than {limits.characters} characters: shorten it.")
        self._check_files(limits)
        return self

    def _check_files(self, limits: Limits) -> None:
        if timbre := self.fields.get("timbre"):
            check_sound(timbre, 0.0, limits)
        if self.film:
            with named("film", self.film):
                check_film(self.film)
        elif self.mode != FRESH and not self.start:
            raise ConfigError(f"Give the sound to start from, or choose {FRESH!r} there.")
        elif self.mode != FRESH:
            check_sound(self.start or "", self.extend_s if self.mode == EXTEND else 0.0, limits)
        if self.scenes and not self.film:
            self._check_story()

    def _check_story(self) -> None:
        if self.image:
            raise ConfigError("A story has pictures of its own: remove them, or the single picture.")
        if self.mode != FRESH:
            raise ConfigError(f"A story starts from nothing: choose {FRESH!r} at the sound, or remove the story's pictures.")
        for path in self.scenes:
            check_picture(path, Path(path).name)
        self.story(1.0)

    def story(self, seconds: float) -> list[dict[str, Any]]:
        """Its scenes in a piece of that length; ConfigError where the times are not as many as the pictures."""
        words, count = self.times.replace(",", " ").replace(";", " ").split(), len(self.scenes)
        try:
            starts = [float(word) for word in words] or [k * seconds / count for k in range(count)]
        except ValueError:
            starts = []
        if len(starts) != count:
            raise ConfigError(f"The times {self.times!r} are not {count} numbers of seconds, one for each picture, such as 0, 5.")
        return [{"image": path, "start_s": start} for path, start in zip(self.scenes, starts, strict=True)]

    def drawn(self) -> PageRequest:
        """The same with a seed."""
        return PageRequest(**{**asdict(self), "seed": secrets.randbelow(LARGEST_SEED)}) if self.seed is None else self

    def options(self, pipe: Pipeline) -> dict[str, Any]:
        """What the pipeline is called with beside prompt, picture, seed and n."""
        given: dict[str, Any] = {
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            "image_guidance_scale": self.image_guidance_scale,
            "negative_prompt": self.negative_prompt or None,
        }
        given |= {name: value for name, value in self.fields.items() if name in pipe.system.conditioner.takes and value != ""}
        if self.film:
            return given
        if self.scenes:
            seconds = self.duration_s or own_duration(pipe)
            return given | {"story": self.story(seconds), "duration_s": seconds}
        if self.mode == FRESH:
            own = math.isclose(self.duration_s or own_duration(pipe), own_duration(pipe), abs_tol=0.005)
            return given | {"duration_s": None if own else self.duration_s}
        edits: dict[str, Any] = {
            EXTEND: {"extend_s": self.extend_s},
            RESTYLE: {"strength": self.strength},
            REPAINT: {"repaint": (self.start_s, self.end_s)},
        }
        if self.mode not in edits:
            raise ConfigError(f"{self.mode!r} is none of {', '.join((FRESH, *edits))}.")
        return given | {"audio": self.start} | edits[self.mode]


@contextlib.contextmanager
def named(option: str, path: str, name: str = "") -> Iterator[None]:
    """An error calls the file by the name that the visitor knows: where it lies here is not his concern."""
    try:
        yield
    except MelfusionError as error:
        raise ConfigError(str(error).replace(f"{option}={path}", name or Path(path).name)) from None


def check_picture(path: str, name: str) -> None:
    """ConfigError where a file is no picture."""
    with named("picture", path, name):
        picture_bytes("picture", path)


def check_sound(path: str, more_s: float, limits: Limits) -> None:
    """ConfigError where a file is no sound, or longer than a visitor may ask for once `more_s` is added to it."""
    name = Path(path).name
    with named("sound", path):
        seconds = sound_seconds("sound", path) + more_s
    if seconds > limits.longest_s + 0.01:
        raise ConfigError(f"{name}: {seconds:.1f} s is longer than {limits.longest_s:g} s: cut it first.")


def own_duration(pipe: Pipeline) -> float:
    """Seconds of a clip where nobody asks for others."""
    return round(pipe.system.codec.duration_s(pipe.system.latent_shape()), 2)
