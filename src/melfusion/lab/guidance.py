"""The guidance scale of each trained row, chosen on validation scenes."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from melfusion.data.datamodule import MusicDataModule
from melfusion.data.sources import ensure_corpus
from melfusion.errors import ConfigError, DamagedFile
from melfusion.evaluation.clips import ROWS, claim, identity, make_clips, read_clips
from melfusion.evaluation.scores import ears, row_files, told, yardstick
from melfusion.evaluation.scoring import Ears, accuracy
from melfusion.evaluation.sets import Bench, metas_of
from melfusion.files import read_json, write_json
from melfusion.lab.models import trained
from melfusion.lab.suite import Suite
from melfusion.listeners.embedders import Embedder, JudgeEmbedding
from melfusion.models.frozen import digest

log = logging.getLogger(__name__)


def chosen_guidance(suite: Suite, row: str) -> dict[str, Any]:
    """What `choose_guidance` last found for a model; empty where the suite looks for no scale."""
    kept = suite.path / row / "guidance.json"
    if not suite.first(row).ablation.guidance or not kept.exists():
        return {}
    try:
        found = read_json(kept, "it is passed over, and the scale is chosen again")
        return found if {"scale", "made", "tried"} <= found.keys() else {}
    except DamagedFile as error:
        log.warning("%s", error)
        return {}


def choose_guidance(suite: Suite, row: str) -> float | None:
    """The scale of `ablation.guidance` with the smallest class-conditional distance on validation scenes (KAD for few); None
    where it lists none, and every row sings at its own.

    The judge that chooses is not the one that hears the table; every row has the same choice. Kept in guidance.json
    for as long as the model, and the parts that it listens and sings by, are those that it was chosen for.
    """
    config = suite.first(row)
    if not (scales := config.ablation.guidance):
        return None
    system = trained(config)
    model, found = identity(system), chosen_guidance(suite, row)
    config.evaluation.text_judge = None
    judge = ears(config, embedders=False).judge
    if judge is None:
        raise ConfigError(f"{suite.rows[row]}: ablation.guidance lists scales, but no judge is there to choose: leave it empty.")
    s, n = dataclasses.asdict(config.sampling) | {"guidance_scale": scales}, config.ablation.search_items
    made = {"model": model, "sampling": s, "items": n, "judge": digest(judge)}
    if found.get("made") == made:
        return found["scale"]
    ensure_corpus(config)
    module = MusicDataModule(config.data, config.audio, config.seed)
    items, reference = module.dataset("val").first(n), module.dataset("test").first(n)
    listener = Ears(config.audio, judge, [Embedder("judge", JudgeEmbedding(judge, config.audio.sample_rate_hz))])
    classes = [told(listener, meta["labels"]) for meta in metas_of(items)]
    bench = Bench(items, reference, module.dataset("train").spread(512), "test scenes of the corpus")
    measure = yardstick(listener, bench, classes, config)
    tried = {}
    for scale in scales:
        config.sampling.guidance_scale = scale
        folder = suite.path / row / f"guidance-{scale:g}"
        claim(folder, system, config, items, ROWS[config.ablation.condition], replace=True)
        make_clips(system, config, items, ROWS[config.ablation.condition], folder)
        heard = listener.listen(read_clips(row_files(folder, items), config.audio, config.evaluation.batch_size))
        tried[f"{scale:g}"] = measure.score(heard, classes)["judge"] | {"accuracy": accuracy(heard, classes)}
    by = "fad_conditional" if "mean" in tried[f"{scales[0]:g}"]["fad_conditional"] else "kad"
    best = min(scales, key=lambda s: tried[f"{s:g}"][by]["mean"])
    write_json(suite.path / row / "guidance.json", {"scale": best, "by": by, "made": made, "tried": tried})
    print(f"{suite.name}/{row}: guidance {best:g} of {scales}", flush=True)
    return best
