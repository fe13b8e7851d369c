"""From a suite's clips to its table, its plot, and experiments/results/: one judge and frozen networks hear all rows alike."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

from melfusion import build
from melfusion.ablate import TEST_SEED, Suite, ran
from melfusion.callbacks import log_hparams
from melfusion.config import flatten, to_dict
from melfusion.data.corpus import held_out
from melfusion.data.datamodule import MusicDataModule, MusicDataset, left_out
from melfusion.evaluate import all_pictures, ears, told, yardstick
from melfusion.frozen import freeze
from melfusion.metrics.intervals import jackknife, students
from melfusion.plots import save, suite_figure
from melfusion.run import device_name
from melfusion.schema import Config
from melfusion.scoring import Ears, Heard, Yardstick, accuracy, towers_scores
from melfusion.sounds import read_clips, real_clips, reconstructions
from melfusion.tables import suite_table

RESULTS = Path("experiments") / "results"


def conclude(suite: Suite, publish: bool = False, command: str = "") -> dict[str, Any]:
    """Score every row that ran, write runs/<suite>/results.{json,md,png}, and with `publish` also experiments/results/."""
    done = dict(ran(suite))
    config = test_config(suite)
    items, reference, train = test_scenes(config)
    listener = ears(config)
    metas = [items.reader.meta(entry) for entry in items.entries]
    classes = [told(listener, meta["labels"]) for meta in metas]
    measure = yardstick(listener, reference, train, classes, config.evaluation.batch_size)
    result: dict[str, Any] = {
        "suite": suite.name, "command": command, "device": device_name(), "seeds": config.ablation.seeds,
        "steps": config.trainer.max_steps, "n": len(items), "reference": len(reference), "test_seed": TEST_SEED,
        "networks": listener.digests(), "frozen": frozen_parts(config), "sampling_steps": config.sampling.num_inference_steps,
        "rows": [],
    }  # fmt: skip
    heard: dict[str, Heard] = {}
    for name, row in floors(config, listener, items):
        result["rows"].append({"name": name, "floor": True} | score(row, measure, listener, classes, metas, items))
    for name, folders in done.items():
        heard[name] = listen(listener, folders, items, config)
        entry = {"name": name, "floor": False, "guidance_scale": guidance(suite, name)}
        entry |= score(heard[name], measure, listener, classes, metas, items)
        if patterns := suite.first(name).data.leave_out:
            entry["never_trained_on"] = unseen(heard[name], metas, patterns)
        entry |= {"by_seed": by_seed(heard[name], metas, len(folders)), "why": (suite.first(name).ablation.question)}
        result["rows"].append(entry)
    if (base := config.ablation.baseline) in heard:
        for entry in result["rows"]:
            if entry["name"] in heard and entry["name"] != base:
                entry["gain"] = relative_gains(measure, heard[base], heard[entry["name"]], classes)
    result["not_run"] = [row for row in suite.rows if row not in done]
    write(suite, result, publish)
    return result


def test_config(suite: Suite) -> Config:
    """The first row's configuration, heard by the test judge."""
    config = suite.first(next(iter(suite.rows)))
    if config.ablation.test_judge:
        config.judge.weights = config.ablation.test_judge
    return config


def test_scenes(config: Config) -> tuple[MusicDataset, MusicDataset, MusicDataset]:
    """Held-out items of all seeds, as many other real clips to measure against, and clips to fit a PCA on."""
    a = config.ablation
    n = a.items // len(a.seeds) * len(a.seeds)
    data = dataclasses.replace(config.data, path=held_out(config, TEST_SEED, n))
    module = MusicDataModule(data, config.audio, config.seed)
    return module.dataset("test").first(n), module.dataset("reference").first(n), module.dataset("train")


def frozen_parts(config: Config) -> dict[str, str]:
    """First digits of the SHA-256 of every frozen part that the rows share."""
    system = build.system(config)
    return {name: value[:12] for name, value in system.frozen_digests().items() if name != "unet"}


def floors(config: Config, listener: Ears, items: MusicDataset) -> Any:
    """What real clips of the same items score against the reference, and what VAE and vocoder leave of them."""
    size = config.evaluation.batch_size
    yield "real", listener.listen(real_clips(items, size))
    config.synapse.kind = "none"  # VAE and vocoder alone are needed
    yield "reconstruction", listener.listen(reconstructions(freeze(build.system(config)), items, size))


def listen(listener: Ears, folders: list[Path], items: MusicDataset, config: Config) -> Heard:
    """A row's clips of all seeds in the order of the items; what was heard is kept beside the clips."""
    names = [entry.key for entry in items.entries]
    where = {file.stem: file for folder in folders for file in folder.glob("[!.]*.wav")}
    kept = folders[0].parents[1] / f"heard-{'-'.join(v[:6] for v in listener.digests().values())}.pt"
    newest = max(file.stat().st_mtime for file in where.values())
    if kept.is_file() and kept.stat().st_mtime > newest:
        return Heard(**torch.load(kept, weights_only=True))
    heard = listener.listen(read_clips([where[name] for name in names], config.audio, config.evaluation.batch_size))
    torch.save(dataclasses.asdict(heard), kept)
    return heard


def score(heard: Heard, measure: Yardstick, listener: Ears, classes: list[dict], metas: list[dict],
          items: MusicDataset) -> dict[str, Any]:  # fmt: skip
    """Accuracy by attribute, distances by embedder, IMSM of the towers."""
    labels = [meta["labels"] for meta in metas]
    entry: dict[str, Any] = {"n": len(heard), "attributes": accuracy(heard, labels), "distances": measure.score(heard, classes)}
    if listener.towers is not None:
        captions = [meta.get("full_caption") or meta["caption"] for meta in metas]
        entry["imsm"] = towers_scores(listener.towers, heard, all_pictures(items), captions)
    return entry


def unseen(heard: Heard, metas: list[dict], patterns: list[dict[str, str]]) -> dict[str, Any]:
    """Accuracy in the clips whose labels data.leave_out kept from training."""
    which = [i for i, meta in enumerate(metas) if left_out(meta["labels"], patterns)]
    part = Heard([heard.keys[i] for i in which], {a: [told[i] for i in which] for a, told in heard.classes.items()})
    return accuracy(part, [metas[i]["labels"] for i in which])


def by_seed(heard: Heard, metas: list[dict], seeds: int) -> dict[str, dict[str, Any]]:
    """Attribute → accuracy of each training seed, and their mean with Student's interval."""
    each, found = len(heard) // seeds, {}
    for name, told_classes in heard.classes.items():
        hits = [a == meta["labels"][name] for a, meta in zip(told_classes, metas, strict=True)]
        shares = [sum(hits[k * each : (k + 1) * each]) / each for k in range(seeds)]
        mean, half = students(shares)
        found[name] = {"seeds": shares, "mean": mean, "interval": half if seeds > 1 else None}
    return found


def relative_gains(measure: Yardstick, base: Heard, row: Heard, classes: list[dict]) -> dict[str, dict[str, float]]:
    """Embedder → share by which a row's class-conditional distance is below the baseline's, with its jackknife interval."""
    found = {}
    for name in measure.projections:
        ours, theirs = (measure.conditional(name, heard, classes) for heard in (row, base))
        if ours and theirs:
            mean, half = jackknife(lambda i, a=ours, b=theirs: 1 - a(i) / b(i), len(row))
            found[name] = {"mean": mean, "interval": half}
    return found


def guidance(suite: Suite, row: str) -> float:
    """The scale that was chosen for the row's model."""
    kept = suite.path / suite.model_of(row) / "guidance.json"
    return json.loads(kept.read_text())["scale"] if kept.is_file() else suite.first(row).sampling.guidance_scale


def write(suite: Suite, result: dict[str, Any], publish: bool) -> None:
    """results.json, .md, .png and TensorBoard's HParams in the suite's runs; published, beside the experiments."""
    suite.path.mkdir(parents=True, exist_ok=True)
    stem = suite.path / "results"
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    stem.with_suffix(".md").write_text(suite_table(result) + "\n")
    if any(not row["floor"] for row in result["rows"]):
        save(suite_figure(result), stem.with_suffix(".png"))
    for row in result["rows"]:
        if not row["floor"]:
            with SummaryWriter(str(suite.path / "tensorboard" / row["name"])) as board:
                log_hparams(board, flatten(to_dict(suite.first(row["name"]))))
                for name, value in flatten({k: row[k] for k in ("attributes", "distances")}).items():
                    if isinstance(value, float):
                        board.add_scalar(name.replace(".", "/"), value)
    print(f"\n{suite_table(result)}\n\n{stem.with_suffix('.md')}, .json, .png")
    if publish:
        RESULTS.mkdir(parents=True, exist_ok=True)
        for suffix in (".json", ".md", ".png"):
            if stem.with_suffix(suffix).is_file():
                shutil.copyfile(stem.with_suffix(suffix), (RESULTS / suite.name).with_suffix(suffix))
        print(f"published: {RESULTS / suite.name}.json, .md, .png")
