"""From the clips of a suite to its table, its figure, and experiments/results/. All rows are scored by the same networks.

A row that did not run, wholly or for some seeds, is named. The rest is scored on the items that it has clips of.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from melfusion.assembly.schema import to_dict
from melfusion.config.check import flatten
from melfusion.errors import CheckpointError
from melfusion.evaluation.clips import differing, identity, made_with, read_clips
from melfusion.evaluation.scoring import Predictions
from melfusion.evaluation.sets import EvaluationSet, block, linked, suite_set
from melfusion.files import write_json, write_whole
from melfusion.lab.diagnosis import diagnosis
from melfusion.lab.guidance import chosen_guidance
from melfusion.lab.models import condition_of, sampling_config, trained
from melfusion.lab.panel import Panel, floors, table_config
from melfusion.lab.stored_scores import StoredScores, joined
from melfusion.lab.suite import Suite
from melfusion.lab.tables import suite_table
from melfusion.media.figures import save, suite_figure
from melfusion.media.sound import stated_level
from melfusion.models.device import device_name
from melfusion.state.checkpoint_store import newest
from melfusion.training.loggers import log_hparams

RESULTS = Path("experiments") / "results"


def conclude(suite: Suite, publish: bool = False, command: str = "") -> dict[str, Any]:
    """Score what ran, and write runs/<suite>/results.{json,md,png}; with `publish` also experiments/results/."""
    config = table_config(suite)
    clips = suite_set(config)
    stored = StoredScores(suite, clips.items)
    done, missing = ran(suite, clips, stored)
    fewest = min(done.values(), key=len) if done else [entry.key for entry in clips.items.entries]
    panel = Panel(config, clips, fewest, stored.listeners)
    rows, parts = floors(panel)
    base, first = None, config.ablation.baseline
    for name in sorted(done, key=lambda row: row != first):  # the baseline first, since the others are compared with it
        row = row_predictions(suite, name, panel, done[name], stored)
        entry = {"name": name, "floor": False, "why": suite.first(name).ablation.question} | panel.score(row)
        entry |= diagnosis(suite, name, panel, row, stored)
        if base is not None:
            entry["gain"] = panel.gain(base, row)
        base = row if name == first else base
        rows.append(entry)
        if publish:
            keep_scores(suite, name, panel, row, stored, entry)
    order = list(suite.rows)
    rows.sort(key=lambda row: -1 if row["floor"] else order.index(row["name"]))
    not_run = [row for row in suite.rows if row not in done]
    result = about(suite, panel, command) | {"missing": missing, "not_run": not_run} | parts | {"rows": rows}
    write(suite, result, publish)
    return result


def about(suite: Suite, panel: Panel, command: str) -> dict[str, Any]:
    """What a reader of the table has to know."""
    c, clips = panel.config, panel.clips
    shared = linked(clips) if clips.of_training else {}
    return {
        "suite": suite.name,
        "command": command,
        "device": device_name(),
        "seeds": c.ablation.seeds,
        "steps": c.trainer.max_steps,
        "n": len(clips.items),
        "reference": len(clips.reference),
        "against": clips.against,
        "tested_on": "the corpus's test split, of which nothing is in train" if clips.of_training else "newly drawn scenes",
        "linked": shared,
        "corpus_seed": clips.items.reader.shards.info.get("seed"),
        "tracks": shared.get("track"),
        "networks": panel.listeners.digests(),
        "embedders": panel.listeners.about(),
        "sampling_steps": sampling_steps(suite),
        "fitted_on": f"{len(clips.train)} {'training clips' if clips.of_training else 'further scenes of the same seed'}",
        "components": {
            name: {"fad": panel.reference.dimensions[name], "fad_conditional": panel.reference.class_dimensions[name]}
            for name in panel.reference.projections
        },
        "sample_rate_hz": c.audio.sample_rate_hz,
        **stated_level(c.audio),
    }


def sampling_steps(suite: Suite) -> list[int]:
    """The numbers of sampling steps of all rows."""
    return sorted({suite.first(row).sampling.num_inference_steps for row in suite.rows})


def ran(suite: Suite, clips: EvaluationSet, scores: StoredScores) -> tuple[dict[str, list[str]], dict[str, str]]:
    """(row → keys of its clips, of its complete seeds one after another; row → what is missing, in words).

    Where clips are missing, stored scores do.
    """
    done: dict[str, list[str]] = {}
    missing: dict[str, str] = {}
    models: dict[tuple[str, int], dict[str, Any]] = {}
    for row in suite.rows:
        config, words = suite.first(row), []
        for seed in config.ablation.seeds:
            wanted = block(config, clips.items, seed)
            made = {file.stem for file in suite.clips(row, seed).glob("[!.]*.wav")}
            if not made >= set(wanted) and scores.find(row, seed) is not None:
                done.setdefault(row, []).extend(wanted)
            elif not made >= set(wanted):
                words.append(f"seed {seed} has {len(made & set(wanted))} of {len(wanted)} clips")
            elif differ := stale(suite, row, seed, wanted, models):
                words.append(f"seed {seed} has clips made with another {differ}: remove {suite.clips(row, seed)}")
            else:
                done.setdefault(row, []).extend(wanted)
        if words:
            missing[row] = ", ".join(words) if row in done or " has 0 of" not in words[0] else "not run yet"
            failed = suite.path / suite.model_of(row) / "failed.txt"
            missing[row] += f"; it failed: {failed.read_text().strip().splitlines()[-1]}" if failed.is_file() else ""
    return done, missing


def stale(suite: Suite, row: str, seed: int, keys: list[str], models: dict[tuple[str, int], dict[str, Any]]) -> str:
    """What differs between the model and settings of a row and those that its clips were made with; empty where nothing does.

    Settings alone are compared where the model has no checkpoint. `models` collects the identity of each model, since rows
    share models.
    """
    model = suite.model_of(row)
    try:
        if (model, seed) not in models:
            stored = newest(suite.path / model / f"seed{seed}" / "checkpoints")
            models[model, seed] = identity(trained(suite.config(model, seed))) if stored else {}
    except CheckpointError as error:
        return f"model than is called for ({str(error).rstrip('.')})"
    config = sampling_config(suite, row, seed, chosen_guidance(suite, model).get("scale"))
    return differing(suite.clips(row, seed), made_with(models[model, seed], config, keys, condition_of(config)))


def row_predictions(suite: Suite, row: str, panel: Panel, keys: list[str], stored: StoredScores) -> Predictions:
    """Predictions of a row's clips in the order of the keys. Those of clips are kept beside them; without clips stored ones do."""
    files = [suite.clips(row, panel.seed[key]) / f"{key}.wav" for key in keys]
    if gone := [key for key, file in zip(keys, files, strict=True) if not file.is_file()]:
        seeds = dict.fromkeys(panel.seed[key] for key in gone)
        parts = [stored.find(row, seed) for seed in seeds]
        here = [key for key in keys if panel.seed[key] not in seeds]
        of_clips = [row_predictions(suite, row, panel, here, stored)] if here else []
        return joined(of_clips + [part["predictions"] for part in parts if part]).only(keys)
    kept = suite.path / row / f"predictions-{'-'.join(v[:6] for v in panel.listeners.digests().values())}.pt"
    newer = kept.is_file() and kept.stat().st_mtime > max(file.stat().st_mtime for file in files)
    if newer and (found := Predictions.load(kept, keys)):
        return found
    made = panel.listeners.predict(read_clips(files, panel.config.audio, panel.config.evaluation.batch_size))
    made.save(kept)
    return made


def keep_scores(suite: Suite, row: str, panel: Panel, said: Predictions, stored: StoredScores, entry: dict[str, Any]) -> None:
    """Store what was said of a row's clips, one file a seed, where it was made here from clips."""
    for seed in panel.seeds(said):
        keys = [key for key in said.keys if panel.seed[key] == seed]
        if keys and all((suite.clips(row, seed) / f"{key}.wav").is_file() for key in keys):
            alpha = entry["alphas"].get(str(seed), {})
            stored.keep(row, seed, said.only(keys), {"guidance": stored.guidance(row), "alphas": alpha})


def columns(trees: Collection[dict[str, Any]]) -> list[str]:
    """The keys in which flat configurations differ, but for where their runs lie."""
    keys = dict.fromkeys(key for tree in trees for key in tree if key not in ("name", "runs_dir"))
    return [key for key in keys if len({str(tree.get(key)) for tree in trees}) > 1]


def write(suite: Suite, result: dict[str, Any], publish: bool) -> None:
    """results.json, .md and .png and TensorBoard's HParams in the suite's folder; with `publish` copies in experiments/results/."""
    suite.path.mkdir(parents=True, exist_ok=True)
    stem = suite.path / "results"
    write_json(stem.with_suffix(".json"), result)
    write_whole(stem.with_suffix(".md"), suite_table(result) + "\n")
    if any(not row["floor"] for row in result["rows"]):
        save(suite_figure(result), stem.with_suffix(".png"))
    trees = {row["name"]: flatten(to_dict(suite.first(row["name"]))) for row in result["rows"] if not row["floor"]}
    differ = columns(trees.values())
    for row in result["rows"]:
        if not row["floor"]:
            with SummaryWriter(str(suite.path / "tensorboard" / row["name"])) as board:
                found = flatten({k: row[k] for k in ("attributes", "distances", "paired")})
                scores = {name.replace(".", "/"): value for name, value in found.items() if isinstance(value, float)}
                means = [name for name in scores if name.endswith(("/accuracy", "/mean"))]
                log_hparams(board, {key: trees[row["name"]].get(key) for key in differ}, means)
                for name, value in scores.items():
                    board.add_scalar(name, value)
    print(f"\n{suite_table(result)}\n\n{stem.with_suffix('.md')}, .json, .png")
    if publish:
        RESULTS.mkdir(parents=True, exist_ok=True)
        for suffix in (".json", ".md", ".png"):
            if stem.with_suffix(suffix).is_file():
                shutil.copyfile(stem.with_suffix(suffix), (RESULTS / suite.name).with_suffix(suffix))
        print(f"published: {RESULTS / suite.name}.json, .md, .png")
