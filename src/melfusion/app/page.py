"""The page: its layout, and which button calls which of the actions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from melfusion.app.actions import Actions, Cancelled, PageClip, errors_as
from melfusion.app.parts import PageInputs
from melfusion.app.requests import FRESH, REPAINT, RESTYLE, PageRequest

MODEL = "model"  # what only one call at a time may use

KEPT = 20  # requests of a visitor's history

SHOWN = 7  # outputs beside the players: choice, spectrogram, four files, the state

CSS = """
.gradio-container { max-width: 1200px !important; margin: auto; }
#generate { min-height: 3rem; }
@media (max-width: 640px) { .gradio-container { padding: 8px !important; } #title p { display: none; } }
"""

PROGRESS = gr.Progress()  # as a default it tells gradio that a function reports its progress

TITLE = "# melfusion\nA picture and a sentence become music. Drop a picture, write a sentence, or both."

# How the map of where the picture acted is made: words, method
HOW = [("by hiding parts of it", "occlusion"), ("by attention to it", "attention")]

ACTED = {
    "occlusion": "Red: hiding this part of the picture changes the music most.",
    "attention": "Red: this part of the picture gets most attention.",
}


class PageEntry(NamedTuple):
    """One of the history: what was asked for, and what was made of it: clips, or a film."""

    asked: PageRequest
    clips: list[PageClip]
    film: str = ""


def refused(sentence: str) -> Exception:
    """What the page shows of a mistake."""
    return gr.Error(sentence, duration=20, print_exception=False)


class Page:
    """Components, and the functions between them and the actions. A visitor's state is in gr.State: his clips and his history."""

    def __init__(self, actions: Actions):
        self.actions, self.variations = actions, actions.limits.variations
        self.own: dict[str, dict[str, dict[str, Any]]] = {}  # model → what its inputs are, of those that have made something
        with gr.Blocks(title="melfusion", delete_cache=(3600, 86400), analytics_enabled=False) as self.blocks:
            self.clips, self.history = gr.State([]), gr.State([])
            gr.Markdown(TITLE, elem_id="title")
            with gr.Row():
                with gr.Column(min_width=320):
                    self.inputs = PageInputs(actions.models.names, actions.models.get(actions.models.names[0]), actions.limits)
                with gr.Column(min_width=320):
                    self._results()
            self._wire()
            self.blocks.unload(self.left)

    def _results(self) -> None:
        with gr.Row():
            self.go = gr.Button("Generate", variant="primary", elem_id="generate", min_width=150)
            self.cancel = gr.Button("Stop", elem_id="stop", min_width=80)
        self.status = gr.Markdown("", elem_id="status")
        self.film_shown = gr.Video(label="Film", visible=False, interactive=False, elem_id="film-shown", buttons=[])
        self.film_file = gr.DownloadButton("Download the film", size="sm", visible=False, elem_id="film-file")
        self.players = [
            gr.Audio(label=f"Clip {i + 1}", visible=i == 0, interactive=False, elem_id=f"clip-{i + 1}", buttons=[])
            for i in range(self.variations)
        ]
        self.chosen = gr.Radio([], label="Look at", visible=False)
        self.look = gr.Image(
            label="Spectrogram", show_label=False, interactive=False, visible=False, buttons=[], elem_id="spectrogram"
        )
        with gr.Row():
            self.downloads = [
                gr.DownloadButton(end, size="sm", interactive=False, min_width=50) for end in ("wav", "flac", "mp3", "json")
            ]
        with gr.Row():
            self.reuse = gr.Button("Use as start", elem_id="reuse", size="sm", min_width=120)
            self.repaint = gr.Button("Repaint a span", size="sm", min_width=120)
        with gr.Row():
            self.ask_where = gr.Button("Where did the picture act?", elem_id="ask", size="sm", min_width=150)
            self.how = gr.Dropdown(HOW, value="occlusion", show_label=False, container=False, min_width=150, elem_id="how")
        self.where = gr.Image(label="Where the picture acted", interactive=False, visible=False, buttons=[], elem_id="influence")
        self.past = gr.Dropdown([], label="History: choose one to restore all of it", visible=False, elem_id="past")

    def _wire(self) -> None:
        i, slow = self.inputs, {"concurrency_id": MODEL, "concurrency_limit": 1, "show_progress_on": self.status}
        looks = [self.look, *self.downloads]
        shown = [*self.players, self.chosen, *looks, self.clips]
        made = [self.status, i.of["seed"], self.history, self.past, self.where, *shown]
        gr.on([self.go.click, i.of["prompt"].submit], self.begin, outputs=self.status, queue=False, api_visibility="private").then(
            self.generate, [*i.components, i.lock, self.history], made, api_name="generate", **slow
        )
        self.cancel.click(self.stop, outputs=self.status, queue=False, api_name="stop")
        self.chosen.input(self.choose, [self.chosen, self.clips], looks, queue=False, api_name="choose")
        self.ask_where.click(self.begin, outputs=self.status, queue=False, api_visibility="private").then(
            self.influence, [*i.components, self.clips, self.how], [self.status, self.where], api_name="influence", **slow
        )
        i.score.click(self.begin, outputs=self.status, queue=False, api_visibility="private").then(
            self.film,
            [*i.components, i.lock, i.film, self.history],
            [self.status, i.of["seed"], self.film_shown, self.film_file, self.history, self.past],
            api_name="film",
            **slow,
        )
        restored = [*i.components, *shown, i.film, self.film_shown, self.film_file]
        self.past.input(self.restore, [self.past, self.history], restored, queue=False, api_name="restore")
        dependent = [i.component(name) for name in i.shown]
        i.of["model"].input(self.model, i.of["model"], [self.status, *dependent], api_name="model", **slow)
        start = [i.of["start"], i.of["mode"], i.of["end_s"], i.editing]
        self.reuse.click(self.use, [self.chosen, self.clips, i.of["mode"]], start, queue=False, api_name="use")
        self.repaint.click(self.span, [self.chosen, self.clips], start, queue=False, api_name="span")

    # --- what is called; names of arguments after `request` are gradio's order of inputs --------------------------------

    def begin(self, request: gr.Request) -> str:
        """Forget an earlier wish to stop."""
        self.actions.stops.of(request.session_hash).clear()
        return "waiting for a free place…"

    def stop(self, request: gr.Request) -> str:
        self.actions.stops.of(request.session_hash).set()
        return "stopping after this step…"

    def left(self, request: gr.Request) -> None:
        self.actions.stops.forget(request.session_hash)

    def generate(self, request: gr.Request, progress: Any = PROGRESS, *values: Any) -> list[Any]:
        *given, lock, history = values
        try:
            with errors_as(refused):
                asked = self.inputs.request(tuple(given))
                done, clips = self.actions.generate(asked, request.session_hash, lambda share, words: progress(share, desc=words))
        except Cancelled as error:
            return self.stopped(request, error, 4 + self.variations + SHOWN)
        self.own[done.model] = self.inputs.values(self.actions.models.get(done.model))
        past = self.remember(history, PageEntry(done, clips))
        told_seed = f"Seed {done.seed}" + (f" to {clips[-1].seed}" if len(clips) > 1 else "")
        words = f"{told_seed}, {clips[0].seconds:.2f} s, model {done.model}."
        seed = str(done.seed) if lock else ""
        return [words, seed, *past, gr.Image(None, visible=False), *self.shown(clips)]

    def remember(self, history: list[PageEntry], entry: PageEntry) -> list[Any]:
        """The history with one more, and the list to choose from."""
        history = [entry, *history][:KEPT]
        return [history, gr.Dropdown([(title(entry), k) for k, entry in enumerate(history)], value=None, visible=True)]

    def stopped(self, request: gr.Request, error: Cancelled, others: int) -> list[Any]:
        """The status says it, and so many other outputs stay."""
        self.actions.stops.of(request.session_hash).clear()  # who calls by the API never presses the page's button
        return [str(error), *[gr.skip()] * others]

    def film(self, request: gr.Request, progress: Any = PROGRESS, *values: Any) -> list[Any]:
        *given, lock, film, history = values
        try:
            with errors_as(refused):
                asked = replace(self.inputs.request(tuple(given)), film=film)
                done, file, scenes = self.actions.film(
                    asked, request.session_hash, lambda share, words: progress(share, desc=words)
                )
        except Cancelled as error:
            return self.stopped(request, error, 5)
        words = f"Seed {done.seed}, {scenes} scene{'s' if scenes > 1 else ''}, model {done.model}."
        words += "" if file.endswith(".mp4") else " Browsers may not play this kind of film: download it."
        return [words, str(done.seed) if lock else "", *film_of(file), *self.remember(history, PageEntry(done, [], file))]

    def shown(self, clips: list[PageClip]) -> list[Any]:
        """The players, the choice, the look at the first clip, and the state."""
        players: list[Any] = [
            gr.Audio(clips[k].wav, label=f"Clip {k + 1}, seed {clips[k].seed}", visible=True)
            if k < len(clips)
            else gr.Audio(None, visible=False)
            for k in range(self.variations)
        ]
        choice = gr.Radio([(f"clip {k + 1}", k) for k in range(len(clips))], value=0, visible=len(clips) > 1)
        return [*players, choice, *self.choose(0, clips), clips]

    def choose(self, number: int, clips: list[PageClip]) -> list[Any]:
        """The spectrogram and the files of one clip."""
        if not clips:
            raise refused("There is no clip yet: generate one first.")
        clip = clips[int(number or 0)]
        files = [gr.DownloadButton(value=file, interactive=True) for file in clip.files()]
        return [gr.Image(clip.picture, visible=True), *files]

    def influence(self, request: gr.Request, progress: Any = PROGRESS, *values: Any) -> list[Any]:
        *given, clips, how = values
        try:
            with errors_as(refused):
                asked = self.inputs.request(tuple(given))
                if asked.seed is None and clips:
                    asked = replace(asked, seed=clips[0].seed)  # of the clip that is there to look at
                file = self.actions.influence(asked, request.session_hash, lambda share, words: progress(share, desc=words), how)
        except Cancelled as error:
            return self.stopped(request, error, 1)
        return [ACTED[how], gr.Image(file, visible=True)]

    def restore(self, number: int | None, history: list[PageEntry]) -> list[Any]:
        """All that was asked for, and what was made of it."""
        if number is None or not int(number) < len(history):
            raise refused("That is no entry of the history.")
        asked, clips, film = history[int(number)]
        inputs = self.inputs.restored(asked, self.own.get(asked.model, {}))
        if film:
            return [*inputs, *[gr.skip()] * (self.variations + SHOWN), asked.film, *film_of(film)]
        return [*inputs, *self.shown(clips), *[gr.skip()] * 3]

    def model(self, name: str) -> list[Any]:
        """Load it, and show its own settings."""
        with errors_as(refused):
            pipe = self.actions.models.get(name)
        return [f"Model {name}.", *(gr.update(**changes) for changes in self.inputs.values(pipe).values())]

    def use(self, number: int, clips: list[PageClip], mode: str) -> list[Any]:
        """A clip becomes the sound to start from."""
        if not clips:
            raise refused("There is no clip yet: generate one first.")
        clip = clips[int(number or 0)]
        return [clip.wav, RESTYLE if mode == FRESH else mode, round(clip.seconds, 2), gr.Accordion(open=True)]

    def span(self, number: int, clips: list[PageClip]) -> list[Any]:
        """The same, to make a span of it anew."""
        return self.use(number, clips, REPAINT)


def title(entry: PageEntry) -> str:
    """An entry of the history in a line."""
    asked, clips = entry.asked, len(entry.clips)
    words = asked.prompt.strip()[:50] or "no sentence"
    if entry.film:
        return f"{words} + {Path(asked.film or '').name}, seed {asked.seed}, film"
    shown = " + picture" if asked.image else f" + {len(asked.scenes)} pictures" if asked.scenes else ""
    return f"{words}{shown}, seed {asked.seed}, {clips} clip{'s' if clips > 1 else ''}"


def film_of(file: str) -> list[Any]:
    """The player and the download of a film."""
    return [gr.Video(file, visible=True), gr.DownloadButton(value=file, visible=True)]
