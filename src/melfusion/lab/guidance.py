"""The guidance scale of each trained row, chosen on validation clips."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from melfusion.assembly.schema import Config
from melfusion.data.datamodule import MusicDataModule
from melfusion.data.dataset import MusicDataset
from melfusion.data.sources import ensure_corpus
from melfusion.errors import ConfigError, DamagedFile
from melfusion.evaluation.clips import claim, identity, make_clips, read_clips
from melfusion.evaluation.reference import Reference
from melfusion.evaluation.scores import fit_reference, load_listeners, row_files
from melfusion.evaluation.scoring import Listeners, accuracy
from melfusion.evaluation.sets import EvaluationSet, metas_of
from melfusion.files import read_json, write_json
from melfusion.lab.models import condition_of, trained, with_scale
from melfusion.lab.suite import Suite
from melfusion.listeners.embedders import Embedder, JudgeEmbedding
from melfusion.listeners.judge import Judge
from melfusion.models.frozen import digest
from melfusion.models.system import MeLFusion

log = logging.getLogger(__name__)

FITTED = 512  # training clips that the PCA is fitted on


def chosen_guidance(suite: Suite, row: str) -> dict[str, Any]:
    """What `choose_guidance` last wrote down for a model; empty where the suite tries no scales."""
    kept = suite.path / row / "guidance.json"
    if not suite.first(row).ablation.guidance or not kept.exists():
        return {}
    try:
        found = read_json(kept, "it is not used, and the scale is chosen again")
        return found if {"scale", "made", "tried"} <= found.keys() else {}
    except DamagedFile as error:
        log.warning("%s", error)
        return {}


def choose_guidance(suite: Suite, row: str) -> float | None:
    """The scale of `ablation.guidance` with the smallest class-conditional distance on validation clips, or the smallest KAD
    where those are too few. None where the list is empty: each row then generates at its own scale.

    The judge that chooses is not the one of the table. All rows choose from the same scales. The choice is kept in
    guidance.json, until the model or a part that it depends on changes.
    """
    config = suite.first(row)
    if not (scales := config.ablation.guidance):
        return None
    system = trained(config)
    judge = choosing_judge(config)
    if judge is None:
        raise ConfigError(
            f"{suite.rows[row]}: ablation.guidance lists scales, but no judge is configured to choose: leave it empty."
        )
    made = {
        "model": identity(system),
        "sampling": dataclasses.asdict(config.sampling) | {"guidance_scale": scales},
        "items": config.ablation.search_items,
        "judge": digest(judge),
    }
    found = chosen_guidance(suite, row)
    if found.get("made") == made:
        return found["scale"]
    tried = _try_scales(suite, row, config, system, judge)
    by = "fad_conditional" if "mean" in tried[f"{scales[0]:g}"]["fad_conditional"] else "kad"
    best = min(scales, key=lambda s: tried[f"{s:g}"][by]["mean"])
    write_json(suite.path / row / "guidance.json", {"scale": best, "by": by, "made": made, "tried": tried})
    print(f"{suite.name}/{row}: guidance {best:g} of {scales}", flush=True)
    return best


def choosing_judge(config: Config) -> Judge | None:
    """The judge by which scales are chosen; None where none is configured."""
    alone = dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, text_judge=None))
    return load_listeners(alone, embedders=False).judge


def _try_scales(suite: Suite, row: str, config: Config, system: MeLFusion, judge: Judge) -> dict[str, dict[str, Any]]:
    """Scale → scores of clips of validation items that the model generates with it."""
    items, reference, listeners, classes = _validation(config, judge)
    condition, tried = condition_of(config), {}
    for scale in config.ablation.guidance:
        scaled, folder = with_scale(config, scale), suite.path / row / f"guidance-{scale:g}"
        claim(folder, system, scaled, items, condition, replace=True)
        make_clips(system, scaled, items, condition, folder)
        found = listeners.predict(read_clips(row_files(folder, items), config.audio, config.evaluation.batch_size))
        tried[f"{scale:g}"] = reference.score(found, classes)["judge"] | {"accuracy": accuracy(found, classes)}
    return tried


def _validation(config: Config, judge: Judge) -> tuple[MusicDataset, Reference, Listeners, list[dict[str, str]]]:
    """The validation items, the reference statistics, who scores them, and their labels."""
    ensure_corpus(config)
    module = MusicDataModule(config.data, config.audio, config.seed)
    n = config.ablation.search_items
    items, real = module.dataset("val").first(n), module.dataset("test").first(n)
    listeners = Listeners(config.audio, judge, [Embedder("judge", JudgeEmbedding(judge, config.audio.sample_rate_hz))])
    classes = [listeners.known_labels(meta["labels"]) for meta in metas_of(items)]
    compared = EvaluationSet(items, real, module.dataset("train").spread(FITTED), "test scenes of the corpus")
    return items, fit_reference(listeners, compared, classes, config), listeners, classes
