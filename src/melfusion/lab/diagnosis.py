"""Where a row of a suite does well or badly: by seed, by guidance scale, on combinations never trained on; and its α."""

from __future__ import annotations

from typing import Any

import torch

from melfusion.data.chosen import left_out
from melfusion.evaluation.scoring import Predictions, accuracy
from melfusion.lab.panel import Panel
from melfusion.lab.stored_scores import StoredScores
from melfusion.lab.suite import Suite
from melfusion.metrics.intervals import students
from melfusion.state.checkpoint_store import newest


def diagnosis(suite: Suite, row: str, panel: Panel, clips: Predictions, stored: StoredScores) -> dict[str, Any]:
    """What the table says of a row beside its scores."""
    model, config = suite.model_of(row), suite.first(row)
    chosen: dict[str, Any] = {"scale": config.sampling.guidance_scale, "tried": {}} | stored.guidance(row)
    seeds = panel.seeds(clips)
    notes = {str(seed): stored.made_with(row, seed) for seed in seeds}
    found: dict[str, Any] = {
        "seeds": seeds,
        "device": sorted({n["device"] for n in notes.values() if "device" in n}),
        "guidance_scale": chosen["scale"],
        "by_seed": by_seed(panel, clips),
    }
    found["guidance_tried"] = {scale: scores["accuracy"] for scale, scores in chosen["tried"].items() if "accuracy" in scores}
    found["made_with"] = {seed: {key: n[key] for key in ("system", "decoder", "frozen")} for seed, n in notes.items() if n}
    if patterns := config.data.leave_out:
        part = clips.only([key for key in clips.keys if left_out(panel.labels[key], patterns)])
        found["never_trained_on"] = accuracy(part, [panel.labels[key] for key in part.keys])
    kept = {str(seed): alpha for seed in seeds if (alpha := (stored.find(row, seed) or {}).get("alphas"))}
    return found | {"alphas": kept | alphas(suite, model)}


def by_seed(panel: Panel, clips: Predictions) -> dict[str, dict[str, Any]]:
    """Attribute → accuracy of each training seed; of several seeds also their mean with Student's interval."""
    keys = {seed: [key for key in clips.keys if panel.seed[key] == seed] for seed in panel.seeds(clips)}
    parts = {seed: accuracy(clips.only(own), [panel.labels[key] for key in own]) for seed, own in keys.items()}
    found = {}
    for name in next(iter(parts.values()), {}):
        shares = [part[name]["accuracy"] for part in parts.values() if name in part]
        entry: dict[str, Any] = {"seeds": shares}
        found[name] = entry | (dict(zip(("mean", "interval"), students(shares), strict=True)) if len(shares) > 1 else {})
    return found


def alphas(suite: Suite, model: str) -> dict[str, dict[str, list[float]]]:
    """Seed → group of layers → the learned α (one, or one a head), of the seeds that have a checkpoint."""
    found = {}
    for seed in suite.first(model).ablation.seeds:
        if file := newest(suite.path / model / f"seed{seed}" / "checkpoints"):
            stored = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            state = stored["state_dict"] | stored.get("ema", {})
            learned = {name.partition("synapse.alphas.")[2]: t for name, t in state.items() if "synapse.alphas." in name}
            if learned:
                found[str(seed)] = {group: t.flatten().tolist() for group, t in learned.items()}
    return found
