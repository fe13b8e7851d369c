"""`melfusion ablate suite=NAME`: every row of experiments/NAME/ under an equal budget and the same seeds, then one table.

A row is trained once per seed in runs/NAME/ROW/seedK, its guidance is chosen on validation scenes by one judge, and its
clips for held-out scenes are heard by another. Rows that only tell a trained model something else belong to that
model's job. Whatever is there already is kept, and a row that fails does not stop the others.
"""

from __future__ import annotations

import dataclasses
import logging
import shlex
import signal
import traceback
from pathlib import Path
from typing import Any

import torch

from melfusion import PREEMPTED
from melfusion.bench import Bench, block, metas_of, suite_bench
from melfusion.checkpoint import load_system
from melfusion.checkpoint_store import CheckpointError
from melfusion.config import ConfigError
from melfusion.data.corpus import ensure_corpus
from melfusion.data.datamodule import MusicDataModule, MusicDataset
from melfusion.errors import DamagedFile
from melfusion.evaluate import ears, row_files, told, yardstick
from melfusion.files import read_json, write_json
from melfusion.frozen import digest
from melfusion.melfusion import MeLFusion
from melfusion.metrics.embedders import Embedder, JudgeEmbedding
from melfusion.preemption import Preempted, leaving_on_signal
from melfusion.run import RunDirectory
from melfusion.schema import ClusterConfig, Config
from melfusion.scoring import Ears, accuracy
from melfusion.side_by_side import Command, run_side_by_side
from melfusion.sounds import ROWS, claim, identity, make_clips, read_clips
from melfusion.submit import Job, alone, load_cluster, send
from melfusion.suites import Suite, load_suite
from melfusion.train import train

log = logging.getLogger(__name__)


@leaving_on_signal(lambda: "between two trainings: models that are trained and clips that are made are kept")
def ablate(options: dict[str, Any], overrides: list[str]) -> dict[str, Any] | None:
    """The verb. With `jobs=N` rows run in N processes; with `cluster=slurm` (or a file) each is one job of its own; with
    `table=true` nothing runs, and what is there is tabled.
    """
    if not options.get("suite"):
        raise ConfigError("ablate needs SUITE=name, a folder of experiments/.")
    cluster = [f"cluster={options['cluster']}"] if options.get("cluster") else []
    settings, given, overrides = load_cluster([*cluster, *overrides])
    suite = load_suite(options["suite"], overrides)
    chosen = options["rows"].split(",") if options.get("rows") else list(suite.rows)
    if options.get("rows") and (options.get("publish") or options.get("table")):
        raise ConfigError("rows= makes clips and no table: publish=true and table=true need the whole suite, so leave rows= out.")
    if unknown := [row for row in chosen if row not in suite.rows]:
        raise ConfigError(f"rows names {unknown[0]!r}; the rows of {suite.name} are {', '.join(suite.rows)}.")
    if cluster and options.get("table"):
        raise ConfigError(f"cluster= sends rows and table=true runs none: `melfusion submit ablate suite={suite.name} table=true` "
                          "makes the table in a job.")  # fmt: skip
    jobs = {row: [r for r in chosen if suite.model_of(r) == row] for row in dict.fromkeys(map(suite.model_of, chosen))}
    calls = {row: ["ablate", f"suite={suite.name}", f"rows={','.join(rows)}", *overrides] for row, rows in jobs.items()}
    if cluster:
        alone("ablate", settings, given)
        submit(suite, calls, settings)
        return None
    failed = [] if options.get("table") else run_jobs(suite, jobs, calls, options.get("jobs", 1))
    if options.get("rows"):
        if failed:
            raise RowFailed(f"{', '.join(failed)} failed: failed.txt in {suite.path}/{failed[0]} has the whole story.")
        return None
    from melfusion.results import conclude  # it draws and tabulates: not needed where a row is only run

    return conclude(suite, publish=bool(options.get("publish")), command=command_line(suite, options, overrides))


class RowFailed(RuntimeError):
    """A job of a suite failed; of a whole suite the table says so."""


def run_jobs(suite: Suite, jobs: dict[str, list[str]], calls: dict[str, list[str]], n: int) -> list[str]:
    """One job after another here, or `n` side by side; the models whose jobs failed. Preempted where one was."""
    if n > 1:
        beside(suite, calls, n)
    else:
        for row, rows in jobs.items():
            attempt(suite, row, rows)
    return [row for row in jobs if (suite.path / row / "failed.txt").is_file()]


def attempt(suite: Suite, model: str, rows: list[str]) -> None:
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


def run_job(suite: Suite, model: str, rows: list[str]) -> None:
    """Train one model under every seed, choose its guidance, and make the clips of all rows that speak through it."""
    seeds = suite.first(model).ablation.seeds
    for seed in seeds:
        train(suite.config(model, seed))
    scale = choose_guidance(suite, model)
    for seed in seeds:
        system = trained(suite.config(model, seed))
        for row in rows:
            config, folder = sung(suite, row, seed, scale), suite.clips(row, seed)
            items, says = test_items(config, seed), ROWS[config.ablation.told]
            claim(folder, system, config, items, says)
            make_clips(system, config, items, says, folder)
    print(f"{suite.name}: clips of {', '.join(rows)} of {len(seeds)} seeds are there", flush=True)


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
        claim(folder, system, config, items, ROWS[config.ablation.told], replace=True)
        make_clips(system, config, items, ROWS[config.ablation.told], folder)
        heard = listener.listen(read_clips(row_files(folder, items), config.audio, config.evaluation.batch_size))
        tried[f"{scale:g}"] = measure.score(heard, classes)["judge"] | {"accuracy": accuracy(heard, classes)}
    by = "fad_conditional" if "mean" in tried[f"{scales[0]:g}"]["fad_conditional"] else "kad"
    best = min(scales, key=lambda s: tried[f"{s:g}"][by]["mean"])
    write_json(suite.path / row / "guidance.json", {"scale": best, "by": by, "made": made, "tried": tried})
    print(f"{suite.name}/{row}: guidance {best:g} of {scales}", flush=True)
    return best


def trained(config: Config) -> MeLFusion:
    """A row's trained model behind the row's own vocoder, whatever vocoder it was trained beside.

    CheckpointError where it was trained for longer than its suite's budget.
    """
    results = RunDirectory(config).results()
    if results and results["step"] > config.trainer.max_steps:
        raise CheckpointError(f"{RunDirectory(config).path} was trained for {results['step']} steps, but its suite's budget is "
                              f"{config.trainer.max_steps}: remove it, or give another runs_dir=….")  # fmt: skip
    device = "cuda" if torch.cuda.is_available() else "cpu"
    voice = [f"vocoder.{k}={'null' if v is None else v}" for k, v in dataclasses.asdict(config.vocoder).items()]
    return load_system(Path(config.runs_dir) / str(config.name), overrides=voice)[0].to(device)


def beside(suite: Suite, calls: dict[str, list[str]], n: int) -> None:
    """The jobs in processes of their own, each with its words in runs/<suite>/<row>/log.txt; Preempted where one had to leave."""
    logs = {f"{suite.name}/{row}": suite.path / row / "log.txt" for row in calls}
    commands = [Command(name, call, log) for (name, log), call in zip(logs.items(), calls.values(), strict=True)]
    codes, came = run_side_by_side(commands, n)
    for name, code in codes.items():
        note = logs[name].with_name("failed.txt")
        if code not in (0, PREEMPTED) and not note.is_file():  # it had no time to say why
            note.write_text(f"The job ended with code {code}; {logs[name]} has its last words.\n")
    if came is not None:
        raise Preempted(f"{signal.Signals(came).name} arrived, and the jobs have saved and left: the same command goes on.")
    if PREEMPTED in codes.values():
        raise Preempted("A job was asked to leave, and did: the same command goes on.")


def submit(suite: Suite, calls: dict[str, list[str]], settings: ClusterConfig) -> None:
    """One SLURM job per trained row, as `melfusion submit` sends it; each logs into runs/<suite>/<row>/slurm/."""
    for row, call in calls.items():
        send(Job(f"{suite.name}-{row}", suite.path / row / "slurm", call, {"CONFIG": ""}), settings)
    words = " ".join(["melfusion submit ablate", f"suite={suite.name}", "table=true", *map(shlex.quote, suite.overrides)])
    print(f"{len(calls)} jobs are sent; when they have ended, `{words}` makes the table of what they left.")


def command_line(suite: Suite, options: dict[str, Any], overrides: list[str]) -> str:
    """The command that makes this table again."""
    given = {k: str(v).lower() if v is True else v for k, v in options.items() if k not in ("suite", "table") and v is not False}
    rest = [f"{k}={v}" for k, v in given.items()] + [shlex.quote(o) for o in overrides]
    return " ".join(["make ablate", f"SUITE={suite.name}", *([f'ARGS="{" ".join(rest)}"'] if rest else [])])
