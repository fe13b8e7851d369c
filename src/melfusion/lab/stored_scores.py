"""What listeners say of each clip of a row, kept in experiments/results/scores/ under the digest of all that the clips depend on.

A suite that needs a row with the same digest trains nothing for it, also on a machine that has no runs. Embeddings are kept in half
precision, so a table from them may differ in the fourth digit from one that was made from the clips.
"""

from __future__ import annotations

import base64
import functools
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from melfusion.assembly import system as build
from melfusion.data.dataset import MusicDataset
from melfusion.evaluation.clips import identity, made_with, note
from melfusion.evaluation.scoring import Listeners, Predictions
from melfusion.evaluation.sets import block, suite_set
from melfusion.files import read_json, write_json
from melfusion.lab.guidance import choosing_judge, chosen_guidance
from melfusion.lab.models import condition_of
from melfusion.lab.panel import table_config, table_listeners
from melfusion.lab.suite import Suite
from melfusion.lab.trainings import begun_from, digest
from melfusion.models.frozen import digest as digest_of_weights

FOLDER = Path("experiments") / "results" / "scores"


class StoredScores:
    """The stored scores of a suite's rows. Networks and items are loaded only where there is something to find or to keep."""

    def __init__(self, suite: Suite, items: MusicDataset | None = None, listeners: Listeners | None = None):
        self.suite, self._items, self._listeners = suite, items, listeners
        self.begun = functools.cache(lambda model, seed: begun_from(suite.config(model, seed)))
        self.digest = functools.cache(self._digest)
        self.find = functools.cache(self._find)

    @functools.cached_property
    def listeners(self) -> Listeners:
        return self._listeners or table_listeners(self.suite)

    @functools.cached_property
    def items(self) -> MusicDataset:
        return self._items or suite_set(table_config(self.suite)).items

    def training(self, model: str, seed: int) -> Path:
        """Where it is noted which run holds the training of a model: one file for all suites of a folder of runs."""
        return self.suite.path.parent / "trainings" / f"{digest(self.begun(model, seed))}.json"

    @staticmethod
    def any() -> bool:
        """Are scores of any row of any suite stored?"""
        return next(FOLDER.glob("*.json"), None) is not None

    def _digest(self, row: str, seed: int) -> str:
        """Of what a row's clips of one seed, and what is said of them, depend on."""
        config, model = self.suite.config(row, seed), self.suite.model_of(row)
        untrained = self.begun(model, seed)["untrained"] if row == model else identity(build.system(config))
        made = made_with(untrained, config, block(config, self.items, seed), condition_of(config))
        facts = {
            "training": digest(self.begun(model, seed)),
            "made_with": made,
            "items": self.items.reader.shards.digest(),
            "audio": config.audio.stated(),
            "listeners": self.listeners.digests(),
        }
        if scales := config.ablation.guidance:
            judge = choosing_judge(self.suite.first(model))
            tried = {"scales": scales, "items": config.ablation.search_items, "judge": judge and digest_of_weights(judge)}
            facts["guidance"] = tried | {"training": digest(self.begun(model, config.ablation.seeds[0]))}
        return digest(facts)

    def _find(self, row: str, seed: int) -> dict[str, Any] | None:
        """What is stored of a row's clips of one seed, with their `predictions`; None where nothing is."""
        if not self.any():
            return None
        try:
            file = FOLDER / f"{self.digest(row, seed)}.json"
        except Exception:  # of any kind, since a row that cannot be built says so when it is run, and the others do not need it
            return None
        found = read_json(file, "remove it, and the row is trained again") if file.is_file() else None
        return found and found | {"predictions": _unpacked(found)}

    def keep(self, row: str, seed: int, said: Predictions, facts: dict[str, Any]) -> None:
        """Store what listeners said of a row's clips of one seed, and `facts` about its model."""
        made = {name: value for name, value in note(self.suite.clips(row, seed)).items() if value is not None}
        about = {"suite": self.suite.name, "row": row, "seed": seed, "made_with": made} | facts
        FOLDER.mkdir(parents=True, exist_ok=True)
        write_json(FOLDER / f"{self.digest(row, seed)}.json", about | _packed(said))

    def made_with(self, row: str, seed: int) -> dict[str, Any]:
        """What a row's clips of one seed were made with, from beside the clips, or as it is stored."""
        return note(self.suite.clips(row, seed)) or (self.find(row, seed) or {}).get("made_with", {})

    def has_all(self, row: str) -> bool:
        """Are the scores of all seeds of a row stored?"""
        return all(self.find(row, seed) is not None for seed in self.suite.first(row).ablation.seeds)

    def guidance(self, row: str) -> dict[str, Any]:
        """How the scale of a row's model was chosen; empty where no scales are tried."""
        here = chosen_guidance(self.suite, self.suite.model_of(row))
        seeds = self.suite.first(row).ablation.seeds
        return here or next((found["guidance"] for seed in seeds if (found := self.find(row, seed))), {})


def _packed(said: Predictions) -> dict[str, Any]:
    parts = {name: {key: _text(t) for key, t in getattr(said, name).items()} for name in ("embeddings", "towers")}
    return {"keys": said.keys, "classes": said.classes} | parts


def _unpacked(found: dict[str, Any]) -> Predictions:
    parts = ({key: _tensor(text) for key, text in found[name].items()} for name in ("embeddings", "towers"))
    return Predictions(found["keys"], found["classes"], *parts)


def _text(tensor: Tensor) -> dict[str, Any]:
    """Half precision, compressed, as text."""
    data = tensor.numpy().astype(np.float16)
    return {"shape": list(data.shape), "float16": base64.b85encode(zlib.compress(data.tobytes(), 9)).decode()}


def _tensor(packed: dict[str, Any]) -> Tensor:
    data = np.frombuffer(zlib.decompress(base64.b85decode(packed["float16"])), np.float16)
    return torch.from_numpy(data.astype(np.float32).reshape(packed["shape"]))


def joined(parts: list[Predictions]) -> Predictions:
    """Predictions of several sets of clips by the same listeners, one set after another."""

    def cat(name: str) -> dict[str, Tensor]:
        return {key: torch.cat([getattr(part, name)[key] for part in parts]) for key in getattr(parts[0], name)}

    classes = {key: [c for part in parts for c in part.classes[key]] for key in parts[0].classes}
    return Predictions([key for part in parts for key in part.keys], classes, cat("embeddings"), cat("towers"))
