"""Make music for a film: each shot is a scene, and the music becomes its sound."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from melfusion.verbs import editing
from melfusion.verbs.checks import check_checkpoint, check_out
from melfusion.verbs.editing import WindowOptions
from melfusion.verbs.imports import heavy_imports
from melfusion.verbs.options import option


@dataclass
class FilmOptions:
    film: str = option("", "the film", variable="FILM", required=True)
    out: str = option("", "the film with the music, NAME.mp4", variable="OUT", required=True)
    prompt: str | None = option(None, "a sentence on the music; null: none, pictures alone", variable="PROMPT")
    ckpt: str | None = option(None, "checkpoint file, run directory or exported folder; null: the shipped model", variable="CKPT")
    seed: int = option(0, "seed of the music", least=0)
    shortest_s: float | None = option(None, "shortest shot, s; null: half of what the model sees at once", least=0.2)
    num_inference_steps: int | None = option(None, "sampling steps; null: the model's sampling.num_inference_steps", least=1)
    guidance_scale: float | None = option(None, "weight of the prompt; null: the model's sampling.guidance_scale")
    image_guidance_scale: float | None = option(None, "weight of the pictures; null: the model's sampling.image_guidance_scale")
    negative_prompt: str | None = option(None, "a sentence on what to avoid; null: the model's sampling.negative_prompt")
    metadata: bool = option(True, "write into the film what made it, for `melfusion show`")
    offload: bool = option(False, "keep each part of the model on the CPU until it is needed: less memory of the GPU, more time")


@dataclass
class Options(WindowOptions, FilmOptions):
    """Those of the film come first."""


MORE = None
SECTIONS = ()
EXAMPLES = (
    "melfusion film film=holiday.mp4 out=holiday-with-music.mp4",
    'melfusion film ckpt=runs/scenes film=a.mp4 out=b.mp4 prompt="a calm tune in A minor" seed=3 shortest_s=8',
)

SAMPLING = ("num_inference_steps", "guidance_scale", "image_guidance_scale", "negative_prompt")


def run(options: Options, more: list[str]) -> Path:
    """Write the film; returns its file."""
    from melfusion.media.video import check_film

    check_film(options.film)
    check_checkpoint(options.ckpt)
    check_out(Path(options.out).parent, options.out)
    editing.checked(options, None, None)

    with heavy_imports():
        from rich.progress import track

        from melfusion.assembly import film
        from melfusion.assembly.memory import telling_memory
        from melfusion.assembly.pipeline import Pipeline
        from melfusion.models.device import best_device

    film.check_out(options.film, options.out)
    pipe = Pipeline.read(options.ckpt or None)
    started = time.perf_counter()
    with telling_memory(pipe.config, "generation", lambda: pipe.system):
        music, story = film.film(
            pipe.to(best_device(), options.offload),
            options.film,
            options.out,
            options.shortest_s,
            options.metadata,
            prompt=options.prompt or "",
            seed=options.seed,
            progress=lambda steps: track(list(steps), description="sampling", transient=True),
            **{name: value for name in SAMPLING if (value := getattr(options, name)) is not None},
            **editing.asked(options),
        )
    print(f"scenes begin at {', '.join(f'{scene.start_s:.2f}' for scene in story.scenes)} s")
    print(f"{options.out}: {music.audios.shape[-1] / music.sample_rate_hz:.1f} s made in {time.perf_counter() - started:.1f} s")
    return Path(options.out)
