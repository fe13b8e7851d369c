"""Measure on newly drawn scenes what editing does: restyle, stories or seams; a table in runs/measures/."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from melfusion.errors import ConfigError
from melfusion.verbs.checks import check_checkpoint
from melfusion.verbs.imports import heavy_imports
from melfusion.verbs.options import option


@dataclass
class Options:
    what: str = option("", "restyle | stories | seams", words=1, required=True)
    ckpt: str | None = option(None, "a model of drawn scenes; null: the shipped one", variable="CKPT")
    n: int = option(48, "clips, stories or pieces", least=1)
    seed: int = option(90003, "of the drawn scenes", least=0)
    strengths: str = option("0.2,0.4,0.5,0.6,0.7,0.8,0.9", "that restyle tries, comma-separated")
    condition: str = option(
        "key-given,picture-alone,no-key",
        "of the music, that restyle tries: a sentence on its key, the key measured, nothing",
        formerly="told",
    )
    num_inference_steps: int | None = option(None, "sampling steps; null: the model's sampling.num_inference_steps", least=1)
    guidance_scale: float | None = option(None, "weight of the prompt; null: the model's sampling.guidance_scale")
    image_guidance_scale: float | None = option(None, "weight of the picture; null: the model's sampling.image_guidance_scale")
    publish: bool = option(False, "write the table to experiments/results/editing/, too")


MORE = None
SECTIONS = ()
EXAMPLES = ("melfusion measure stories n=60", "melfusion measure restyle n=200 strengths=0.7,0.8,0.85,0.9")

SAMPLING = ("num_inference_steps", "guidance_scale", "image_guidance_scale")


def run(options: Options, more: list[str]) -> dict[str, Any]:
    """Write and print the table; returns the result."""
    strengths = numbers(options.strengths)
    check_checkpoint(options.ckpt)
    with heavy_imports():
        from melfusion.assembly.load import load_system
        from melfusion.assembly.pipeline import Pipeline
        from melfusion.files import write_json, write_whole
        from melfusion.lab.edits import MEASURES, WORDS, Lab, Setting, words
        from melfusion.lab.results import RESULTS

    if options.what not in MEASURES:
        raise ConfigError(f"what={options.what} is not measured: give one of {', '.join(MEASURES)}.")
    conditions = tuple(options.condition.replace("-", " ").split(","))
    if unknown := [name for name in conditions if name not in WORDS]:
        raise ConfigError(f"condition names {unknown[0]!r}: give some of {', '.join(WORDS)}.")
    pipe = Pipeline(*load_system(options.ckpt or None))
    if pipe.config.data.source != "scenes":
        raise ConfigError(f"{options.ckpt} is no model of drawn scenes (data.source={pipe.config.data.source}): give one.")
    sampling = {name: value for name in SAMPLING if (value := getattr(options, name)) is not None}
    lab = Lab(pipe, Setting(options.seed, options.n, strengths, sampling, conditions))
    about = {"n": options.n, "seed": options.seed, "sampling": lab.sampling, "networks": lab.listeners.digests()}
    result = MEASURES[options.what](lab) | about
    text = words(options.what, result)
    for folder in [Path(pipe.config.runs_dir) / "measures", *([RESULTS / "editing"] if options.publish else [])]:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / f"{options.what}.json", result)
        write_whole(folder / f"{options.what}.md", text)
    print(text)
    return result


def numbers(text: str) -> tuple[float, ...]:
    """Comma-separated strengths; ConfigError where one is none."""
    try:
        found = tuple(float(word) for word in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 <= value <= 1 for value in found):
        raise ConfigError(f"strengths={text} must be numbers between 0 and 1, such as 0.5,0.8.")
    return found
