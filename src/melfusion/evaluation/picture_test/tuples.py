"""Items of real tuples: a split of a data set with pictures. Nobody has labelled what these show."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from melfusion.assembly.schema import Config
from melfusion.data.datamodule import MusicDataModule
from melfusion.errors import ConfigError
from melfusion.evaluation.picture_test.items import FEWEST, Candidate, Item, brightness, show
from melfusion.evaluation.picture_test.scenes import contradiction
from melfusion.evaluation.sets import metas_of, tracks_of
from melfusion.media.pictures import open_image, to_rgb
from melfusion.media.sound import write_wav

TEMPO = re.compile(r"\b(\d{2,3}) ?(?:BPM|beats per minute)", re.IGNORECASE)  # as a caption may tell it


def tuple_items(config: Config, split: str, seed: int, n: int, folder: Path) -> list[Item]:
    """At most `n` items with a picture, evenly over a split; pictures and tracks are written into `folder`.

    ConfigError for a split of too few pieces of music.
    """
    whole = MusicDataModule(config.data, config.audio, config.seed).dataset(split)
    pictured = whole.pick(i for i, entry in enumerate(whole.entries) if whole.reader.has_picture(entry))
    dataset = pictured.spread(n).readable()
    if (pieces := len(set(tracks_of(dataset)))) < FEWEST:
        raise ConfigError(
            f"{len(dataset)} items with pictures of split={split} in {config.data.path} come from {pieces} pieces of music, and a "
            f"verdict needs {FEWEST}: give a larger n, another set, or a split= that the system was not trained on."
        )
    rng = np.random.default_rng([seed, 2])
    (folder / "tracks").mkdir(parents=True, exist_ok=True)
    items, candidates = [], []
    for i, (entry, meta, track) in enumerate(zip(dataset.entries, metas_of(dataset), tracks_of(dataset), strict=True)):
        candidates.append(_candidate(dataset.reader.picture(entry), meta, track, config))
        prompt = str(meta.get("caption") or "")
        contradicting, said = contradiction(prompt, {}, rng)
        file = f"tracks/{i:05d}.wav"
        write_wav(folder / file, np.asarray(dataset[i]["waveform"]), config.audio.sample_rate_hz)
        labels = {"tempo": found[1]} if (found := TEMPO.search(prompt)) else {}
        items.append(Item(entry.key, prompt, contradicting, i, labels, said, track=file, group=track))
    show(items, candidates, folder / "pictures", rng)
    return items


def _candidate(data: bytes | None, meta: dict[str, Any], track: str, config: Config) -> Candidate:
    """The picture as stored. Its labels are the game, the track and the picture itself, so another one differs in all it can."""
    labels = {name: str(meta["labels"][name]) for name in ("game", "image_id") if meta["labels"].get(name)} | {"track": track}
    draw = functools.partial(_open, data or b"", config.data.max_image_pixels, config.data.max_image_work)
    return Candidate(labels, brightness(draw()), draw)


def _open(data: bytes, max_pixels: int, max_work: int) -> Image.Image:
    return to_rgb(open_image(data, max_pixels, max_work))
