"""From a suite's clips to its table, its plot, and experiments/results/: one judge and frozen networks hear all rows alike.

What did not run, wholly or under some seeds, is named; the rest is scored on the items that it has clips for.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

from melfusion.assembly import system as build
from melfusion.assembly.schema import Config, to_dict
from melfusion.config.check import flatten
from melfusion.data.datamodule import left_out
from melfusion.errors import CheckpointError
from melfusion.evaluation.cache import hear_real, hear_reconstructions
from melfusion.evaluation.clips import ROWS, differing, identity, made_with, note, read_clips, voice
from melfusion.evaluation.leakage import SEEN, TOLD, leakage, looks
from melfusion.evaluation.memorisation import memorisation
from melfusion.evaluation.scores import ears, partners_of, told, yardstick
from melfusion.evaluation.scoring import Ears, Heard, accuracy, confusions
from melfusion.evaluation.sets import Bench, block, linked, metas_of, suite_bench, tracks_of
from melfusion.files import write_json, write_whole
from melfusion.lab.guidance import chosen_guidance
from melfusion.lab.models import sung, trained
from melfusion.lab.suite import Suite
from melfusion.lab.tables import suite_table
from melfusion.media.figures import save, suite_figure
from melfusion.media.sound import stated_level
from melfusion.metrics.intervals import students
from melfusion.models.device import device_name
from melfusion.models.synapse.options import synapse_config
from melfusion.state.checkpoint_store import newest
from melfusion.training.loggers import log_hparams

RESULTS = Path("experiments") / "results"


class Panel:
    """What hears and measures all rows of a suite alike; `fewest`: keys of the smallest row, which limits the dimensions."""

    def __init__(self, config: Config, bench: Bench, fewest: list[str]):
        self.config, self.bench, self.ears = config, bench, ears(config)
        self.keys, self.metas, tracks = [e.key for e in bench.items.entries], metas_of(bench.items), tracks_of(bench.items)
        self.labels = {key: meta["labels"] for key, meta in zip(self.keys, self.metas, strict=True)}
        self.track = dict(zip(self.keys, tracks, strict=True))
        self.seed = {key: seed for seed in config.ablation.seeds for key in block(config, bench.items, seed)}
        self.real = hear_real(self.ears, bench.items, config.evaluation.batch_size)
        self.measure = yardstick(self.ears, bench, self.told(fewest), config)
        self.partners = partners_of(self.ears, self.real, bench.items, self.metas)
        trained = Ears(self.ears.audio, None, self.ears.embedders)
        self.train = hear_real(trained, bench.train, config.evaluation.batch_size) if bench.of_training else None

    def told(self, keys: list[str]) -> list[dict[str, str]]:
        return [told(self.ears, self.labels[key]) for key in keys]

    def tracks(self, heard: Heard) -> list[str]:
        return [self.track[key] for key in heard.keys]

    def score(self, heard: Heard) -> dict[str, Any]:
        """Accuracy and what is heard instead, distances by embedder, paired scores, and where it can be told, memorisation."""
        labels = [self.labels[key] for key in heard.keys]
        entry = {
            "n": len(heard),
            "attributes": accuracy(heard, labels),
            "confusions": confusions(heard, labels),
            "distances": self.measure.score(heard, self.told(heard.keys), self.tracks(heard)),
            "paired": self.partners.score(heard),
        }
        if self.train is not None:
            others = self.measure.reference
            entry["memorisation"] = memorisation(heard, self.real, others, self.train, self.tracks(heard))
        return entry


def conclude(suite: Suite, publish: bool = False, command: str = "") -> dict[str, Any]:
    """Score what ran, write runs/<suite>/results.{json,md,png}, and with `publish` also experiments/results/."""
    config = test_config(suite)
    bench = suite_bench(config)
    done, missing = ran(suite, bench)
    fewest = min(done.values(), key=len) if done else [entry.key for entry in bench.items.entries]
    panel = Panel(config, bench, fewest)
    result = about(suite, panel, command) | {"missing": missing, "not_run": [row for row in suite.rows if row not in done]}
    result |= {"rows": floors(panel, result)}
    base, first = None, config.ablation.baseline
    for name in sorted(done, key=lambda row: row != first):  # the baseline first, which the others are compared with
        heard = listen(suite, name, panel, done[name])
        entry = {"name": name, "floor": False, "why": suite.first(name).ablation.question} | panel.score(heard)
        entry |= diagnosis(suite, name, panel, heard)
        if base is not None:
            both = [key for key in heard.keys if key in set(base.keys)]
            of = ([place[key] for key in both] for place in (panel.track, panel.seed))
            entry["gain"] = panel.measure.gains(base.only(both), heard.only(both), panel.told(both), *of)
        base = heard if name == first else base
        result["rows"].append(entry)
    order = list(suite.rows)
    result["rows"].sort(key=lambda row: -1 if row["floor"] else order.index(row["name"]))
    write(suite, result, publish)
    return result


def about(suite: Suite, panel: Panel, command: str) -> dict[str, Any]:
    c, bench = panel.config, panel.bench
    shared = linked(bench) if bench.of_training else {}
    return {
        "suite": suite.name,
        "command": command,
        "device": device_name(),
        "seeds": c.ablation.seeds,
        "steps": c.trainer.max_steps,
        "n": len(bench.items),
        "reference": len(bench.reference),
        "against": bench.against,
        "tested_on": "the corpus's test split, of which nothing is in train" if bench.of_training else "newly drawn scenes",
        "linked": shared,
        "corpus_seed": bench.items.reader.shards.info.get("seed"),
        "tracks": shared.get("track"),
        "networks": panel.ears.digests(),
        "embedders": panel.ears.about(),
        "sampling_steps": sampling_steps(suite),
        "fitted_on": f"{len(bench.train)} {'training clips' if bench.of_training else 'further scenes of the same seed'}",
        "components": {
            name: {"fad": panel.measure.dimensions[name], "fad_conditional": panel.measure.class_dimensions[name]}
            for name in panel.measure.projections
        },
        "sample_rate_hz": c.audio.sample_rate_hz,
        **stated_level(c.audio),
    }


def sampling_steps(suite: Suite) -> list[int]:
    """Of all rows, which may differ in them."""
    return sorted({suite.first(row).sampling.num_inference_steps for row in suite.rows})


def test_config(suite: Suite) -> Config:
    """The first row's configuration, heard by the test judge."""
    config = suite.first(next(iter(suite.rows)))
    if config.ablation.test_judge:
        config.judge.weights = config.ablation.test_judge
    return config


def floors(panel: Panel, result: dict[str, Any]) -> list[dict[str, Any]]:
    """Real clips of the same items, and what VAE and vocoder leave of them; the frozen parts and leaks are told on the way."""
    config, size = dataclasses.replace(panel.config, synapse=synapse_config("concat")), panel.config.evaluation.batch_size
    system = build.system(config).eval()  # a synapse that any UNet takes, since this row may be the one that is broken
    system = system.to(panel.ears.device)
    result["frozen"] = {name: value[:12] for name, value in system.frozen_digests().items() if name != "denoiser"}
    result["voice"] = [voice(system)[0][:12], voice(system)[1]]  # decoder and vocoder, and mel corrections
    if all(set(SEEN + TOLD) <= labels.keys() for labels in panel.labels.values()):
        network, side = panel.ears.named("efficientnet"), panel.config.data.image_size_px
        sets = (looks(dataset, side) for dataset in (panel.bench.train, panel.bench.items))
        result["leakage"] = leakage(*sets, system.conditioner, network and network.network.see)
    reconstruction = hear_reconstructions(panel.ears, system, panel.bench.items, size)
    return [
        {"name": name, "floor": True} | panel.score(heard)
        for name, heard in (("real", panel.real), ("reconstruction", reconstruction))
    ]


def ran(suite: Suite, bench: Bench) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Row → keys of the items it has clips for, of its whole seeds in turn; and row → what is missing, in words."""
    done: dict[str, list[str]] = {}
    missing: dict[str, str] = {}
    models: dict[tuple, dict[str, Any]] = {}
    for row in suite.rows:
        config, words = suite.first(row), []
        for seed in config.ablation.seeds:
            wanted = block(config, bench.items, seed)
            there = {file.stem for file in suite.clips(row, seed).glob("[!.]*.wav")}
            if not there >= set(wanted):
                words.append(f"seed {seed} has {len(there & set(wanted))} of {len(wanted)} clips")
            elif differ := stale(suite, row, seed, wanted, models):
                words.append(f"seed {seed} has clips made with another {differ}: remove {suite.clips(row, seed)}")
            else:
                done.setdefault(row, []).extend(wanted)
        if words:
            missing[row] = ", ".join(words) if row in done or " has 0 of" not in words[0] else "not run yet"
            failed = suite.path / suite.model_of(row) / "failed.txt"
            missing[row] += f"; it failed: {failed.read_text().strip().splitlines()[-1]}" if failed.is_file() else ""
    return done, missing


def stale(suite: Suite, row: str, seed: int, keys: list[str], models: dict[tuple, dict[str, Any]]) -> str:
    """What a row's clips were made with other than its model and settings of now; settings alone where no checkpoint is left.

    `models` keeps what each trained model is, since rows share them.
    """
    model = suite.model_of(row)
    try:
        if (model, seed) not in models:
            there = newest(suite.path / model / f"seed{seed}" / "checkpoints")
            models[model, seed] = identity(trained(suite.config(model, seed))) if there else {}
    except CheckpointError as error:
        return f"model than is called for ({str(error).rstrip('.')})"
    config = sung(suite, row, seed, chosen_guidance(suite, model).get("scale"))
    return differing(suite.clips(row, seed), made_with(models[model, seed], config, keys, ROWS[config.ablation.condition]))


def listen(suite: Suite, row: str, panel: Panel, keys: list[str]) -> Heard:
    """A row's clips in the order of the keys; what was heard is kept beside the clips."""
    files = [suite.clips(row, panel.seed[key]) / f"{key}.wav" for key in keys]
    kept = suite.path / row / f"heard-{'-'.join(v[:6] for v in panel.ears.digests().values())}.pt"
    newer = kept.is_file() and kept.stat().st_mtime > max(file.stat().st_mtime for file in files)
    if newer and (heard := Heard.kept(kept, keys)):
        return heard
    return panel.ears.listen(read_clips(files, panel.config.audio, panel.config.evaluation.batch_size)).keep(kept)


def diagnosis(suite: Suite, row: str, panel: Panel, heard: Heard) -> dict[str, Any]:
    """Where a row does well or badly: by seed, by guidance, in combinations never trained on, and what its α became."""
    model, config = suite.model_of(row), suite.first(row)
    chosen = {"scale": config.sampling.guidance_scale, "tried": {}} | chosen_guidance(suite, model)
    seeds = seeds_of(panel, heard)
    notes = {str(seed): note(suite.clips(row, seed)) for seed in seeds}  # which `ran` has read: a damaged one is not scored
    found: dict[str, Any] = {
        "seeds": seeds,
        "device": sorted({n["device"] for n in notes.values() if "device" in n}),
        "guidance_scale": chosen["scale"],
        "by_seed": by_seed(panel, heard),
    }
    found["guidance_tried"] = {scale: scores["accuracy"] for scale, scores in chosen["tried"].items() if "accuracy" in scores}
    found["made_with"] = {seed: {key: said[key] for key in ("system", "voice", "frozen")} for seed, said in notes.items() if said}
    if patterns := config.data.leave_out:
        part = heard.only([key for key in heard.keys if left_out(panel.labels[key], patterns)])
        found["never_trained_on"] = accuracy(part, [panel.labels[key] for key in part.keys])
    return found | {"alphas": alphas(suite, model)}


def seeds_of(panel: Panel, heard: Heard) -> list[int]:
    """The training seeds that a row has clips of."""
    return list(dict.fromkeys(panel.seed[key] for key in heard.keys))


def by_seed(panel: Panel, heard: Heard) -> dict[str, dict[str, Any]]:
    """Attribute → accuracy of each training seed, and over several their mean with Student's interval."""
    keys = {seed: [key for key in heard.keys if panel.seed[key] == seed] for seed in seeds_of(panel, heard)}
    parts = {seed: accuracy(heard.only(own), [panel.labels[key] for key in own]) for seed, own in keys.items()}
    found = {}
    for name in next(iter(parts.values()), {}):
        shares = [part[name]["accuracy"] for part in parts.values() if name in part]
        over = dict(zip(("mean", "interval"), students(shares), strict=True)) if len(shares) > 1 else {}
        found[name] = {"seeds": shares} | over
    return found


def alphas(suite: Suite, model: str) -> dict[str, dict[str, list[float]]]:
    """Seed → group of layers → α (one, or one a head) that was learned, of the seeds whose checkpoint is there."""
    found = {}
    for seed in suite.first(model).ablation.seeds:
        if file := newest(suite.path / model / f"seed{seed}" / "checkpoints"):
            stored = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            state = stored["state_dict"] | stored.get("ema", {})
            learned = {name.partition("synapse.alphas.")[2]: t for name, t in state.items() if "synapse.alphas." in name}
            if learned:
                found[str(seed)] = {group: t.flatten().tolist() for group, t in learned.items()}
    return found


def write(suite: Suite, result: dict[str, Any], publish: bool) -> None:
    """results.json, .md, .png and TensorBoard's HParams in the suite's runs; published, beside the experiments."""
    suite.path.mkdir(parents=True, exist_ok=True)
    stem = suite.path / "results"
    write_json(stem.with_suffix(".json"), result)
    write_whole(stem.with_suffix(".md"), suite_table(result) + "\n")
    if any(not row["floor"] for row in result["rows"]):
        save(suite_figure(result), stem.with_suffix(".png"))
    for row in result["rows"]:
        if not row["floor"]:
            with SummaryWriter(str(suite.path / "tensorboard" / row["name"])) as board:
                found = flatten({k: row[k] for k in ("attributes", "distances", "paired")})
                scores = {name.replace(".", "/"): value for name, value in found.items() if isinstance(value, float)}
                means = [name for name in scores if name.endswith(("/accuracy", "/mean"))]
                log_hparams(board, flatten(to_dict(suite.first(row["name"]))), means)
                for name, value in scores.items():
                    board.add_scalar(name, value)
    print(f"\n{suite_table(result)}\n\n{stem.with_suffix('.md')}, .json, .png")
    if publish:
        RESULTS.mkdir(parents=True, exist_ok=True)
        for suffix in (".json", ".md", ".png"):
            if stem.with_suffix(suffix).is_file():
                shutil.copyfile(stem.with_suffix(suffix), (RESULTS / suite.name).with_suffix(suffix))
        print(f"published: {RESULTS / suite.name}.json, .md, .png")
