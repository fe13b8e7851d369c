"""`melfusion ablate suite=NAME`: every row of experiments/NAME/ under an equal budget and the same seeds, then one table.

A row is trained once per seed in runs/NAME/ROW/seedK, its guidance is chosen on validation scenes by one judge, and its
clips for held-out scenes are heard by another. Rows that only tell a trained model something else belong to that
model's job. Whatever is there already is kept, and a row that fails does not stop the others.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import shlex
import subprocess
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from melfusion.bench import Bench, block, metas_of, suite_bench
from melfusion.checkpoint import load_system
from melfusion.config import ConfigError, load_config
from melfusion.data.corpus import ensure_corpus
from melfusion.data.datamodule import MusicDataModule, MusicDataset
from melfusion.evaluate import ears, told, yardstick
from melfusion.melfusion import MeLFusion
from melfusion.metrics.embedders import Embedder, JudgeEmbedding
from melfusion.preemption import Preempted
from melfusion.schema import ClusterConfig, Config
from melfusion.scoring import Ears, accuracy
from melfusion.sounds import ROWS, claim, identity, make_clips, read_clips
from melfusion.submit import Job, alone, load_cluster, send
from melfusion.train import train

OPTIONS = {"suite": str, "rows": str, "jobs": int, "publish": bool, "cluster": str}
BUDGET = ("trainer.max_steps", "data.global_batch_size", "data.path", "ablation.seeds")


@dataclasses.dataclass(frozen=True)
class Suite:
    """The rows of one folder, in the order of their file names, and where their runs lie."""

    name: str
    rows: dict[str, Path]
    overrides: tuple[str, ...] = ()
    read: dict[tuple, Config] = dataclasses.field(default_factory=dict)  # what was loaded, each once

    @property
    def path(self) -> Path:
        return Path("runs") / self.name

    def config(self, row: str, seed: int | None) -> Config:
        """The row under a seed, in its place; a copy, to be changed at will. Without a seed, as the files have it."""
        if (row, seed) not in self.read:
            places = [] if seed is None else [f"runs_dir={self.path / row}", f"name=seed{seed}", f"seed={seed}"]
            self.read[row, seed] = load_config(str(self.rows[row]), [*self.overrides, *places])
        return copy.deepcopy(self.read[row, seed])

    def first(self, row: str) -> Config:
        """The row under its first seed, for what all seeds share."""
        return self.config(row, self.config(row, None).ablation.seeds[0])

    def model_of(self, row: str) -> str:
        """The row whose checkpoint this row speaks through: itself, unless it says otherwise."""
        return self.first(row).ablation.checkpoint_of or row


def load_suite(name: str, overrides: list[str]) -> Suite:
    """experiments/<name>/; ConfigError where it is missing, a row refers to none, or budgets differ."""
    folder = Path("experiments") / name
    rows = {file.stem: file for file in sorted(folder.glob("*.yaml")) if not file.name.startswith("_")}
    if not rows:
        known = sorted(p.name for p in Path("experiments").glob("*") if any(p.glob("*.yaml")))
        raise ConfigError(f"suite={name!r}: there is no folder {folder} with rows; suites are {', '.join(known)}.")
    suite = Suite(name, rows, tuple(overrides))
    budgets = {}
    for row in rows:
        if (model := suite.model_of(row)) not in rows:
            raise ConfigError(f"{rows[row]}: ablation.checkpoint_of={model!r} is no row of {folder}.")
        budgets[row] = budget(suite.first(row))
    if len(set(budgets.values())) > 1:
        raise ConfigError(f"The rows of {folder} have unequal budgets ({'; '.join(f'{r}: {b}' for r, b in budgets.items())}): "
                          f"give all the same {', '.join(BUDGET)}.")  # fmt: skip
    return suite


def budget(config: Config) -> tuple:
    return config.trainer.max_steps, config.data.global_batch_size, config.data.path, tuple(config.ablation.seeds)


def ablate(options: dict[str, Any], overrides: list[str]) -> dict[str, Any] | None:
    """The verb. With `jobs=N` rows run in N processes; with `cluster=slurm` (or a file) each is one job of its own."""
    if not options.get("suite"):
        raise ConfigError("ablate needs SUITE=name, a folder of experiments/.")
    cluster = [f"cluster={options['cluster']}"] if options.get("cluster") else []
    settings, given, overrides = load_cluster([*cluster, *overrides])
    suite = load_suite(options["suite"], overrides)
    chosen = options["rows"].split(",") if options.get("rows") else list(suite.rows)
    if options.get("rows") and options.get("publish"):
        raise ConfigError("rows= makes clips and no table: publish=true needs the whole suite, so leave rows= out.")
    if unknown := [row for row in chosen if row not in suite.rows]:
        raise ConfigError(f"rows names {unknown[0]!r}; the rows of {suite.name} are {', '.join(suite.rows)}.")
    jobs = {row: [r for r in chosen if suite.model_of(r) == row] for row in dict.fromkeys(map(suite.model_of, chosen))}
    calls = {row: ["ablate", f"suite={suite.name}", f"rows={','.join(rows)}", *overrides] for row, rows in jobs.items()}
    if cluster:
        alone("ablate", settings, given)
        submit(suite, calls, settings)
        return None
    if (n := options.get("jobs", 1)) > 1:
        threads = max(1, len(os.sched_getaffinity(0)) // n)
        with ThreadPoolExecutor(n) as pool:
            list(pool.map(lambda item: beside(suite, *item, threads), calls.items()))
    else:
        for row, rows in jobs.items():
            attempt(suite, row, rows)
    if options.get("rows"):
        return None
    from melfusion.results import conclude  # it draws and tabulates: not needed where a row is only run

    return conclude(suite, publish=bool(options.get("publish")), command=command_line(suite, options, overrides))


def attempt(suite: Suite, model: str, rows: list[str]) -> bool:
    """One job; what goes wrong is kept in failed.txt and told, and the next row runs."""
    note = suite.path / model / "failed.txt"
    note.unlink(missing_ok=True)
    try:
        run_job(suite, model, rows)
    except Preempted:
        raise
    except Exception as error:  # whatever it was: the other rows are independent experiments
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(traceback.format_exc())
        print(f"{suite.name}/{model} failed: {error} ({note} has the whole story)", flush=True)
    return not note.is_file()


def run_job(suite: Suite, model: str, rows: list[str]) -> None:
    """Train one model under every seed, choose its guidance, and make the clips of all rows that speak through it."""
    seeds = suite.first(model).ablation.seeds
    for seed in seeds:
        train(suite.config(model, seed))
    scale = choose_guidance(suite, model)
    for row in rows:
        for seed in seeds:
            config = sung(suite, row, seed, scale)
            items = test_items(config, seed)
            system = trained(suite.config(model, seed))
            folder = suite.path / row / f"seed{seed}" / "test"
            claim(folder, system, config, items, ROWS[config.ablation.told])
            make_clips(system, config, items, ROWS[config.ablation.told], folder)
        print(f"{suite.name}/{row}: clips of {len(seeds)} seeds are there", flush=True)


def sung(suite: Suite, row: str, seed: int, scale: float | None) -> Config:
    """The row as it sings: at the scale that was chosen for its model, or where none was looked for, at its own."""
    config = suite.config(row, seed)
    if scale is not None:
        config.sampling.guidance_scale = scale
    return config


def test_items(config: Config, seed: int) -> MusicDataset:
    """This seed's own share of the held-out items: over all seeds each is used once."""
    items = suite_bench(config).items
    own = set(block(config, items, seed))
    items.entries = [entry for entry in items.entries if entry.key in own]
    return items


def chosen_guidance(suite: Suite, row: str) -> dict[str, Any]:
    """What `choose_guidance` last found for a model; empty where the suite looks for no scale."""
    kept = suite.path / row / "guidance.json"
    return json.loads(kept.read_text()) if suite.first(row).ablation.guidance and kept.is_file() else {}


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
    if found.get("of") == scales and found.get("model") == model:
        return found["scale"]
    ensure_corpus(config)
    module = MusicDataModule(config.data, config.audio, config.seed)
    items = module.dataset("val").first(config.ablation.search_items)
    reference = module.dataset("test").first(config.ablation.search_items)
    config.evaluation.text_judge = None
    judge = ears(config, embedders=False).judge
    if judge is None:
        raise ConfigError(f"{suite.rows[row]}: ablation.guidance lists scales, but no judge is there to choose: leave it empty.")
    listener = Ears(config.audio, judge, [Embedder("judge", JudgeEmbedding(judge, config.audio.sample_rate_hz))])
    classes = [told(listener, meta["labels"]) for meta in metas_of(items)]
    bench = Bench(items, reference, module.dataset("train").spread(512), "test scenes of the corpus")
    measure = yardstick(listener, bench, classes, config)
    tried = {}
    for scale in scales:
        config.sampling.guidance_scale = scale
        folder = suite.path / row / f"guidance-{scale:g}"
        claim(folder, system, config, items, ROWS[config.ablation.told], replace=True)
        make_clips(system, config, items, ROWS[config.ablation.told], folder)
        heard = listener.listen(read_clips([folder / f"{e.key}.wav" for e in items.entries], config.audio, 32))
        tried[f"{scale:g}"] = measure.score(heard, classes)["judge"] | {"accuracy": accuracy(heard, classes)}
    by = "fad_conditional" if "mean" in tried[f"{scales[0]:g}"]["fad_conditional"] else "kad"
    best = min(scales, key=lambda s: tried[f"{s:g}"][by]["mean"])
    kept = suite.path / row / "guidance.json"
    kept.write_text(json.dumps({"scale": best, "of": scales, "model": model, "by": by, "tried": tried}, indent=1) + "\n")
    print(f"{suite.name}/{row}: guidance {best:g} of {scales}", flush=True)
    return best


def trained(config: Config) -> MeLFusion:
    """A row's trained model behind the row's own vocoder, whatever vocoder it was trained beside."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    voice = [f"vocoder.{k}={'null' if v is None else v}" for k, v in dataclasses.asdict(config.vocoder).items()]
    return load_system(Path(config.runs_dir) / str(config.name), overrides=voice)[0].to(device)


def beside(suite: Suite, row: str, call: list[str], threads: int) -> None:
    """One job in a process of its own, with its words in runs/<suite>/<row>/log.txt.

    It has its share of the cores, unless the environment says otherwise: jobs of as many threads as cores hinder each other.
    """
    log = suite.path / row / "log.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f"── {suite.name}/{row}: {log}", flush=True)
    with log.open("a") as file:
        command = [sys.executable, "-m", "melfusion", *call]
        env = {"OMP_NUM_THREADS": str(threads)} | os.environ | {"CONFIG": ""}
        subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=env)


def submit(suite: Suite, calls: dict[str, list[str]], settings: ClusterConfig) -> None:
    """One SLURM job per trained row, as `melfusion submit` sends it; each logs into runs/<suite>/<row>/slurm/."""
    for row, call in calls.items():
        send(Job(f"{suite.name}-{row}", suite.path / row / "slurm", call, {"CONFIG": ""}), settings)
    print(f"{len(calls)} jobs are sent; `melfusion ablate suite={suite.name}` makes the table of what they left.")


def command_line(suite: Suite, options: dict[str, Any], overrides: list[str]) -> str:
    """The command that makes this table again."""
    given = {k: str(v).lower() if v is True else v for k, v in options.items() if k != "suite" and v is not False}
    rest = [f"{k}={v}" for k, v in given.items()] + [shlex.quote(o) for o in overrides]
    return " ".join(["make ablate", f"SUITE={suite.name}", *([f'ARGS="{" ".join(rest)}"'] if rest else [])])
