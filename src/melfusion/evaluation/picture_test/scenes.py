"""Items of drawn scenes: the picture shows place, time and weather, the prompt says key and mode."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from melfusion.data.scenes import corpus
from melfusion.data.scenes.scene import Scene
from melfusion.evaluation.picture_test.items import Candidate, Item, brightness, show

SIZE_PX = 256

FURTHER = 4  # scenes for each item, of which one that is as bright is chosen

SEEN = {"place": corpus.PLACES, "time": corpus.TIMES, "weather": corpus.WEATHERS}  # in the picture

WORDED = {"tonic": corpus.TONICS, "mode": corpus.MODES}  # in the prompt


def scene_items(seed: int, n: int, pictures: Path) -> list[Item]:
    """`n` items of the test split's indices of this corpus seed; their pictures are written into the folder."""
    first = corpus.first_index("test")
    scenes = [corpus.describe(seed, first + i) for i in range(n * (1 + FURTHER))]
    candidates = [_candidate(scene) for scene in scenes]
    rng = np.random.default_rng([seed, 1])
    items = [_item(scene, i, rng) for i, scene in enumerate(scenes[:n])]
    show(items, candidates, pictures, rng)
    return items


def contradiction(prompt: str, shown: dict[str, str], rng: np.random.Generator) -> tuple[str, dict[str, str]]:
    """The prompt with a place and a weather added that are not those shown; and which they are."""
    said = {name: str(rng.choice([v for v in SEEN[name] if v != shown.get(name)])) for name in ("place", "weather")}
    return f"{prompt}, {corpus.PLACE_WORDS[said['place']]} {corpus.WEATHER_WORDS[said['weather']]}", said


def _candidate(scene: Scene) -> Candidate:
    labels = {name: str(getattr(scene, name)) for name in SEEN}
    return Candidate(labels, brightness(corpus.draw(scene, 64)), functools.partial(corpus.draw, scene, SIZE_PX))


def _item(scene: Scene, i: int, rng: np.random.Generator) -> Item:
    labels = {name: str(getattr(scene, name)) for name in (*SEEN, *WORDED)}
    prompt = corpus.caption(scene)
    contradicting, said = contradiction(prompt, labels, rng)
    key = f"scene-{scene.seed}-{scene.index}"
    return Item(key, prompt, contradicting, i, labels, said, group=key)
