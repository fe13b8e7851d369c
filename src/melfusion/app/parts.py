"""The page's inputs, from top to bottom, and how their values become a request and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from melfusion.app.gradio_private import checked_first
from melfusion.app.requests import EXTEND, FRESH, REPAINT, RESTYLE, Limits, PageRequest, check_picture, own_duration
from melfusion.assembly.pipeline import Pipeline
from melfusion.errors import ConfigError

EXAMPLES = Path(__file__).parents[3] / "data" / "examples"  # of a checkout; an installed package has none

# field of a request → its label
FIELDS = {
    "lyrics": "Lyrics",
    "bpm": "Beats a minute",
    "key": "Key, such as C major",
    "timesignature": "Beats in a bar",
    "language": "Language of the lyrics, such as en",
    "seconds_start": "Where in a piece the clip starts, s",
    "seconds_total": "Where the piece ends, s",
}
SOUNDS = {"timbre": "A sound whose timbre the music gets"}

FILMS = [".mp4", ".mov", ".mkv", ".webm"]  # what a visitor may upload as one

SEED = "Empty: drawn. The seed that was used stands at each clip."


def picture() -> gr.Image:
    """An image input whose mistakes are sentences."""
    shown = gr.Image(
        label="Picture", type="filepath", image_mode=None, elem_id="picture", sources=["upload", "clipboard"], height=280
    )

    def check(payload: Any) -> None:
        if payload is not None and payload.path is not None:
            try:
                check_picture(payload.path, payload.orig_name or Path(payload.path).name)
            except ConfigError as error:
                raise gr.Error(str(error), print_exception=False) from None

    return checked_first(shown, check)


class PageInputs:
    """The components of a request, by its names; `fields` by theirs."""

    def __init__(self, names: list[str], pipe: Pipeline, limits: Limits):
        self.limits, shown = limits, picture()
        prompt = gr.Textbox(
            label="Sentence", placeholder="a tune in A minor", lines=2, elem_id="sentence", max_length=limits.characters
        )
        self.of: dict[str, Any] = {"image": shown, "prompt": prompt}
        self._examples()
        with gr.Row():
            self.of["seed"] = gr.Textbox(label="Seed", info=SEED, max_length=19, min_width=150, elem_id="seed")
            self.lock = gr.Checkbox(label="Keep the seed", info="for the next press of the button", min_width=150)
        self.of["n"] = gr.Slider(1, limits.variations, 1, step=1, label="Variations")
        with gr.Accordion("More", open=False):
            self._more(names)
        with gr.Accordion("Start from a sound", open=False) as self.editing:
            self._editing()
        with gr.Accordion("Picture story", open=False):
            self._story()
        with gr.Accordion("Film", open=False):
            self.film = gr.File(label="Film", file_types=FILMS, height=140, elem_id="film")
            gr.Markdown("Each shot is a scene. Sentence, seed and settings are those above; the film's own sound is left out.")
            self.score = gr.Button("Make music for the film", elem_id="score")
        self.shown = self.values(pipe)  # as the first model has it
        for name, update in self.shown.items():
            for key, value in update.items():
                if key != "__type__":
                    setattr(self.component(name), key, value)

    def _examples(self) -> None:
        known = [
            (EXAMPLES / f"{name}.png", words)
            for name, words in (
                ("sea-night-clear", "a tune in A minor"),
                ("forest-dawn-rain", "a tune in C major"),
                ("mountains-noon-snow", "a tune in E minor"),
            )
        ]
        if there := [[str(file), words] for file, words in known if file.is_file()]:
            gr.Examples(there, [self.of["image"], self.of["prompt"]], label="Examples", api_visibility="private")

    def _more(self, names: list[str]) -> None:
        self.of["negative_prompt"] = gr.Textbox(label="What to avoid", max_length=self.limits.characters)
        self.of["num_inference_steps"] = gr.Slider(1, self.limits.steps, 10, step=1, label="Steps")
        self.of["guidance_scale"] = gr.Slider(0, 20, 3, step=0.1, label="Weight of the sentence")
        self.of["image_guidance_scale"] = gr.Slider(0, 20, 3, step=0.1, label="Weight of the picture")
        self.of["duration_s"] = gr.Number(label="Seconds", minimum=0.1, maximum=self.limits.longest_s)
        self.fields: dict[str, Any] = {
            name: gr.Textbox(label=label, max_length=self.limits.characters) for name, label in FIELDS.items()
        }
        self.fields |= {
            name: gr.Audio(label=label, type="filepath", sources=["upload"], buttons=[]) for name, label in SOUNDS.items()
        }
        self.of["model"] = gr.Dropdown(names, value=names[0], label="Model")

    def _editing(self) -> None:
        self.of["start"] = gr.Audio(label="Sound", type="filepath", sources=["upload"], buttons=[], elem_id="start")
        self.of["mode"] = gr.Radio([FRESH, EXTEND, RESTYLE, REPAINT], value=FRESH, label="What to do with it")
        self.of["strength"] = gr.Slider(0, 1, 0.8, step=0.05, label="How far to change it: 0 as it is, 1 anew")
        with gr.Row():
            self.of["extend_s"] = gr.Number(5, label="Seconds to go on", minimum=0.1, maximum=self.limits.longest_s, min_width=120)
            self.of["start_s"] = gr.Number(0, label="Span from, s", minimum=0, min_width=120)
            self.of["end_s"] = gr.Number(1, label="Span to, s", minimum=0, min_width=120)

    def _story(self) -> None:
        pictures = gr.File(label="Pictures, in order", file_count="multiple", file_types=["image"], height=140, elem_id="scenes")
        self.of["scenes"] = pictures
        self.of["times"] = gr.Textbox(
            label="They begin at, s", placeholder="0, 5, 10", info="Empty: equal spans of the seconds under More.", max_length=400
        )

    @property
    def components(self) -> list[Any]:
        return [*self.of.values(), *self.fields.values()]

    def component(self, name: str) -> Any:
        """One of them."""
        return self.of.get(name) or self.fields[name]

    def request(self, values: tuple[Any, ...]) -> PageRequest:
        """Values of `components` → a request. ConfigError where the seed is none."""
        given = dict(zip([*self.of, *self.fields], values, strict=True))
        fields = {name: given.pop(name) or "" for name in self.fields}
        seed = str(given.pop("seed") or "").strip()
        if seed and not (seed.isascii() and seed.isdecimal()):
            raise ConfigError(f"The seed {seed!r} is no whole number: correct it, or leave it empty.")
        texts = {name: given[name] or "" for name in ("prompt", "negative_prompt", "times")} | {"scenes": given["scenes"] or []}
        return PageRequest(**{**given, **texts, "seed": int(seed) if seed else None, "n": int(given["n"]), "fields": fields})

    def restored(self, asked: PageRequest, own: dict[str, dict[str, Any]]) -> list[Any]:
        """A request → updates of `components`; `own`: what `values` says of its model."""
        found = {**vars(asked), **asked.fields, "seed": "" if asked.seed is None else str(asked.seed)}
        found |= {name: found.get(name) or None for name in SOUNDS}
        return [gr.update(**own.get(name, {}) | {"value": found.get(name)}) for name in (*self.of, *self.fields)]

    def values(self, pipe: Pipeline) -> dict[str, dict[str, Any]]:
        """Name → what changes with the model: how it samples by itself, and the fields that it takes."""
        own, takes = pipe.sampling(), pipe.system.conditioner.takes
        text, most = own["guidance_scale"], min(self.limits.steps, pipe.config.diffusion.num_train_timesteps)
        image = own["image_guidance_scale"]
        found: dict[str, dict[str, Any]] = {
            "negative_prompt": {"value": own["negative_prompt"]},
            "num_inference_steps": {"value": own["num_inference_steps"], "maximum": most},
            "guidance_scale": {"value": text},
            "image_guidance_scale": {"value": text if image is None else image},
            "duration_s": {"value": own_duration(pipe)},
            "image": {"visible": pipe.config.synapse.kind != "none"},
        }
        return found | {name: {"visible": name in takes} for name in (*FIELDS, *SOUNDS)}
