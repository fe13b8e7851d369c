"""What the buttons do: generate, cancel, look at a clip, make a film's music, show where the picture acted.

It knows nothing of the page's layout.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import soundfile
import torch

from melfusion.app.models import Models
from melfusion.app.requests import Limits, PageRequest, named
from melfusion.assembly.film import film_music, save_film, story_of
from melfusion.assembly.influence import METHODS, picture_influence
from melfusion.assembly.memory import telling_memory
from melfusion.assembly.music import Music
from melfusion.assembly.pipeline import Pipeline
from melfusion.assembly.provenance import comment_of
from melfusion.errors import ConfigError, MelfusionError, explain
from melfusion.files import as_json, write_whole
from melfusion.media.figures import heat_figure, save, spectrogram_figure
from melfusion.media.sound import write_sound
from melfusion.media.video import container_for

log = logging.getLogger(__name__)

Report = Callable[[float, str], None]  # (share done, words)

FORMATS = ("wav", "flac", "mp3")  # that a visitor may take home

KEPT_S = 24 * 3600.0  # files of a clip


class Cancelled(MelfusionError):
    """The visitor did not want to wait."""


class Stops:
    """Who wants to stop: one event a session."""

    def __init__(self) -> None:
        self.events: dict[str, threading.Event] = {}

    def of(self, session: str | None) -> threading.Event:
        return self.events.setdefault(session or "", threading.Event())

    def forget(self, session: str | None) -> None:
        """The visitor has left."""
        self.of(session).set()
        self.events.pop(session or "", None)


@dataclass
class PageClip:
    """One clip on the page: its wav, its spectrogram and what made it."""

    wav: str
    picture: str
    seed: int
    seconds: float
    made: dict[str, Any]

    def files(self) -> list[str]:
        """The clip in all FORMATS, and what made it as JSON; written when they are asked for."""
        wav = Path(self.wav)
        for end in FORMATS[1:]:
            if not wav.with_suffix(f".{end}").is_file():
                rewrite(wav, wav.with_suffix(f".{end}"), self.made)
        write_whole(wav.with_suffix(".json"), as_json(self.made))
        return [str(wav.with_suffix(f".{end}")) for end in (*FORMATS, "json")]


def rewrite(wav: Path, file: Path, made: dict[str, Any]) -> None:
    """The samples of a wav in another format, with the same words inside."""
    samples, rate = soundfile.read(wav, dtype="float32")
    write_sound(file, samples.T, rate, comment_of(made))


class Actions:
    """The page's functions; all that is slow is called by one thread at a time.

    Args:
        folder: where clips are kept for a day; None: a new temporary one.
    """

    def __init__(self, models: Models, limits: Limits | None = None, folder: Path | None = None):
        self.models, self.limits, self.stops = models, limits or Limits(), Stops()
        self.folder = folder or Path(mkdtemp(prefix="melfusion-app-"))

    def generate(self, asked: PageRequest, session: str | None, report: Report) -> tuple[PageRequest, list[PageClip]]:
        """The request with the seed that was drawn, and its clips. MelfusionError; Cancelled between two steps of the sampler."""
        asked, stop = asked.checked(self.limits).drawn(), self.stops.of(session)
        report(0, "loading the model")
        pipe = self.models.get(asked.model)
        with telling_memory(pipe.config, "generation", lambda: pipe.system):
            music = pipe(
                asked.prompt,
                asked.image,
                asked.seed or 0,
                asked.n,
                progress=lambda steps: watched(steps, stop, report, "step"),
                **asked.options(pipe),
            )
        report(1, "drawing")
        return asked, self._kept(pipe, asked, music)

    def film(self, asked: PageRequest, session: str | None, report: Report) -> tuple[PageRequest, str, int]:
        """The request with the seed that was drawn, the film with its music, and how many scenes that has; errors as above."""
        film = asked.film
        if not film:
            raise ConfigError("Give a film such as an MP4.")
        asked, stop = asked.checked(self.limits).drawn(), self.stops.of(session)
        report(0, "loading the model")
        pipe = self.models.get(asked.model)
        report(0, "looking for shots")
        with named("film", film):
            story, end = story_of(pipe, film, longest_s=self.limits.longest_s), container_for(film)
        with telling_memory(pipe.config, "generation", lambda: pipe.system):
            music = film_music(
                pipe,
                film,
                story,
                prompt=asked.prompt,
                seed=asked.seed or 0,
                progress=lambda steps: watched(steps, stop, report, "step"),
                **asked.options(pipe),
            )
        report(1, "writing the film")
        file = self._folder() / f"{Path(film).stem}-{asked.seed}{end}"
        hide_folders(music.made[0])
        save_film(film, file, music)
        return asked, str(file), len(story.scenes)

    def _folder(self) -> Path:
        """A new one, where what is made is kept; what was made yesterday is removed."""
        for old in self.folder.glob("*/*"):
            if time.time() - old.stat().st_mtime > KEPT_S:
                old.unlink(missing_ok=True)
        return Path(mkdtemp(dir=self.folder))

    def _kept(self, pipe: Pipeline, asked: PageRequest, music: Music) -> list[PageClip]:
        folder, clips = self._folder(), []
        for i, seed in enumerate(music.seeds):
            hide_folders(music.made[i])
            wav = folder / f"melfusion-{seed}.wav"
            music.write(i, wav)
            mel, png = torch.from_numpy(music.log_mels[i]), wav.with_suffix(".png")
            save(spectrogram_figure({f"seed {seed}": mel}, pipe.config.audio), png)
            clips.append(PageClip(str(wav), str(png), seed, music.audios.shape[-1] / music.sample_rate_hz, music.made[i]))
        return clips

    def influence(self, asked: PageRequest, session: str | None, report: Report, method: str = "occlusion") -> str:
        """A picture file: where the visitor's picture acted, by a method of assembly/influence.py. MelfusionError; Cancelled."""
        stop, pipe = self.stops.of(session), self.models.get(asked.model)
        image = None if asked.image is None else pipe.open(asked.image)
        side = min(8, pipe.config.data.image_size_px)
        with telling_memory(pipe.config, "generation", lambda: pipe.system):
            heat = picture_influence(
                pipe,
                asked.prompt,
                image,
                asked.seed or 0,
                patches=side,
                method=method,
                progress=lambda steps: watched(steps, stop, report, "part"),
                **{name: value for name, value in asked.fields.items() if value != ""},
            )
        file = self._folder() / "influence.png"
        save(heat_figure(np.asarray(image), heat, METHODS[method]), file)
        return str(file)


def hide_folders(made: dict[str, Any]) -> None:
    """Change a record: the visitor knows his files by their names, and not where they lie here."""
    for one in (made.get("image"), *(made.get("files") or {}).values()):
        if one and one["path"]:
            one["path"] = Path(one["path"]).name


def watched(steps: Iterable[Any], stop: threading.Event, report: Report, word: str) -> Iterator[Any]:
    """The steps, each reported before it is taken; Cancelled where the visitor wants to stop."""
    all_of = list(steps)
    for i, step in enumerate(all_of):
        if stop.is_set():
            raise Cancelled("Stopped: nothing was made.")
        report(i / len(all_of), f"{word} {i + 1} of {len(all_of)}")
        yield step


@contextlib.contextmanager
def errors_as(say: Callable[[str], Exception]) -> Iterator[None]:
    """An error becomes what the page shows: its sentence, or that it is a bug, whose traceback goes to the log."""
    try:
        yield
    except Cancelled:
        raise
    except Exception as error:
        if found := explain(error):
            raise say(found[0]) from None
        log.exception("The page has met a bug")
        raise say("This is a bug of melfusion, not your mistake; the terminal that runs the page says more.") from error
