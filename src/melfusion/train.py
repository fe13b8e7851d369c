"""`melfusion train`: corpus → missing parts → precomputed latents → the main job, each only where it is missing."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.utilities import rank_zero_only

from melfusion import build
from melfusion.callbacks import EMA, Media, TrainingScalars
from melfusion.checkpoint import load_system
from melfusion.checkpoint_store import CheckpointStore, SaveCheckpoints, newest
from melfusion.cluster import check_tasks, environment_plugin, requeue
from melfusion.config import ConfigError, flatten, overlay, to_dict
from melfusion.data.corpus import ensure_corpus
from melfusion.data.datamodule import MusicDataModule
from melfusion.data.errors import shown
from melfusion.devices import accumulation
from melfusion.errors import DamagedFile
from melfusion.evaluate import ears, evaluate, folder_name, rows_of, sing, splits, write
from melfusion.files import read_json
from melfusion.guards import StepGuard
from melfusion.loggers import Board, JSONLines, log_hparams
from melfusion.memory import telling_memory
from melfusion.music_vae import MusicVAE
from melfusion.plan import in_words, plan, plan_part
from melfusion.precision import precision_of, resolve_precision
from melfusion.precompute import ensure_precomputed
from melfusion.preemption import Preemption, leaving_on_signal
from melfusion.run import RunDirectory, locked, naming_lost_ranks
from melfusion.schema import Config
from melfusion.tables import learned, picture_gain, table

logging.getLogger("lightning.pytorch").setLevel(
    logging.WARNING
)  # after its import, which sets INFO: tips, `max_steps reached`

log = logging.getLogger(__name__)

STAGE_PARTS = {"music_vae": "music_vae", "image_diffusion": "image"}


def stage_config(config: Config, stage: str) -> Config:
    """configs/<stage>.yaml over what the part shares with this configuration, in the run its `weights: run:NAME` names.

    The rest is left at its default, so that experiments which differ elsewhere share the part. One process trains it;
    for more, run the stage's own configuration first.
    """
    part = STAGE_PARTS[stage]
    weights = getattr(config, part).weights or ""
    if not weights.startswith("run:"):
        raise ConfigError(f"stages names {stage}, but {part}.weights={shown(weights)!r} is not a run: "
                          "write run:NAME, or remove the stage.")  # fmt: skip
    shared = Config(seed=config.seed, runs_dir=config.runs_dir, audio=config.audio, data=config.data, unet=config.unet)
    setattr(shared, part, getattr(config, part))
    if part == "image":  # pictures are diffused on the music's schedule
        shared.diffusion = config.diffusion
    for name in ("accelerator", "threads", "progress_bar"):
        setattr(shared.trainer, name, getattr(config.trainer, name))
    return overlay(shared, stage, {"name": weights.removeprefix("run:"), "trainer": {"devices": "1"}})


def ensure_stages(config: Config) -> None:
    """Train the parts that are missing; a part of another configuration is refused. Of several processes one does."""
    for stage in config.stages:
        sub = stage_config(config, stage)
        run = RunDirectory(sub)
        run.compare()
        if run.results() is not None:  # to read needs no lock
            continue
        with locked(Path(config.runs_dir) / f".{sub.name}.lock"):
            run.compare()
            if run.results() is None:
                print(f"── {stage}: missing, so it is trained first ({sub.trainer.max_steps} steps)")
                train(sub)


def train(config: Config) -> dict[str, Any]:
    """Run or resume a run directory, alone in it; returns its results. A finished run only returns them.

    Raises Preempted where it was asked to leave; the same call then goes on.
    """
    run, clock = RunDirectory(config), Clock()
    hold = run.hold() if rank_zero_only.rank == 0 else contextlib.nullcontext()
    with leaving_on_signal(lambda: standing(run, clock.stage)), hold:
        return _train(config, run, clock)


KEPT = {"corpus": ", and the data set is built anew", "parts": ", and parts that are trained are kept",
        "precompute": ", and precomputing begins anew", "evaluation": ", and clips that are made are kept"}  # fmt: skip


def standing(run: RunDirectory, stage: str) -> str:
    """Where a run is and what of it is kept, in words."""
    steps = [int(f.stem[5:]) for f in run.checkpoints.glob("step-*.ckpt") if f.stem[5:].isdecimal()]
    saved = f"step {max(steps)} of {run.config.trainer.max_steps} is saved" if steps else "no step is saved yet"
    return f"during {stage} of {run.path}: {saved}{KEPT.get(stage, '')}"


def _train(config: Config, run: RunDirectory, clock: Clock) -> dict[str, Any]:
    run.prepare()
    if (results := run.results()) is not None:
        print(f"{run.path} is finished; another name=… or more trainer.max_steps= goes on.")
        report(run, results)
        return results
    resolve_precision(config.trainer)  # refused here, before anything is made
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    with clock("corpus"):
        ensure_corpus(config)
    if config.stages:
        with clock("parts"):
            ensure_stages(config)
    with telling_memory(config, "training"):
        if config.task == "melfusion":
            results = fit_system(config, run, clock)
        else:
            with clock("training"):
                results = fit_part(config, run)
    if rank_zero_only.rank == 0:
        if config.task == "melfusion" and config.evaluation.items:
            with clock("evaluation"), telling_memory(config, "evaluation"):
                evaluate_run(config, run, results)
        results |= {"seconds": clock.seconds}
        run.finish(results)
        report(run, results)
    return results


class Clock:
    """Announces each stage of a run, and keeps which it is and the seconds each took."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self.stage = "set-up"

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        if rank_zero_only.rank == 0:
            print(f"── {stage}", flush=True)
        self.stage = stage
        started = time.perf_counter()
        yield
        self.seconds[stage] = round(time.perf_counter() - started, 1)


def evaluate_run(config: Config, run: RunDirectory, results: dict[str, Any]) -> None:
    """Score the run's EMA weights on the test split: is the picture heard? Beside what validation found (`results`)."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    system, items = load_system(run.path)[0].to(device), splits(config)[0]
    names = rows_of(system)
    sing(system, config, items, run.samples / "test", names, replace=True)  # a longer run speaks anew
    folders = {name: run.samples / "test" / folder_name(name) for name in names}
    scores = evaluate(config, ears(config, embedders=False), items, None, folders, system)
    write(scores | {"validation": {name: value for name, value in results.items() if name.startswith("val/")}}, run.path)


def report(run: RunDirectory, results: dict[str, Any]) -> None:
    """What was learned, where the time went, where the sounds are, what to try next."""
    seconds = results.get("seconds", {})
    total = sum(seconds.values())
    print(f"\n{run.path}: " + ", ".join(f"{k} {v:.4g}" for k, v in results.items() if isinstance(v, float | int)))
    print("time: " + ", ".join(f"{stage} {s:.0f} s ({s / max(total, 1e-9):.0%})" for stage, s in seconds.items()))
    if results.get("replaced"):
        print(f"replaced samples: {results['replaced']}")
    if words := scored(run.path / "scores.json"):
        print(f"\n{words}\nSounds: {run.samples / 'test'}, and beside their references {run.samples}")
    if run.config.task == "melfusion":
        if not run.config.evaluation.items and (worth := picture_gain(results)):
            print(worth)
        print(f"""Next:
  make generate CKPT={run.path} IMAGE=data/examples/sea-night-clear.png PROMPT="a tune in A minor"
  make tensorboard
  make train ARGS="name=mix synapse.kind=kv_mix\"""")
    else:
        print("Look: `make tensorboard` shows the curves.")


def scored(file: Path) -> str:
    """A run's scores in words; empty where there are none, or none that can be read."""
    if not file.exists():
        return ""
    try:
        scores = read_json(file, f"it is passed over; `melfusion evaluate ckpt={file.parent}` scores again")
        return f"{table(scores)}\n\n{learned(scores)}"
    except (DamagedFile, KeyError, TypeError, AttributeError) as error:
        log.warning("%s", error if isinstance(error, DamagedFile) else f"{file} holds no scores: it is passed over.")
        return ""


def fit_system(config: Config, run: RunDirectory, clock: Clock) -> dict[str, Any]:
    """Train the conditioned UNet."""
    system = build.system(config)
    data, shapes = copy.deepcopy(config.data), build.noise_shapes(config, system)
    provenance = None
    if worth_a_plan(config, run):
        raw = MusicDataModule(config.data, config.audio, config.seed, noise_shapes=shapes)
        print(f"plan: {in_words(plan(config, system, raw))} on this machine", flush=True)
    if data.precompute.enabled:
        with clock("precompute"):
            path, provenance = ensure_precomputed(config, system)
        data.path, data.crop = str(path), "start"
    module = MusicDataModule(data, config.audio, config.seed, accumulation(config), shapes, provenance,
                             partners=system.extractor is not None)  # fmt: skip
    shown = (
        MusicDataModule(config.data, config.audio, config.seed, 1, {}).dataset("val").spread(config.trainer.media_items)
    )
    ema = EMA(config.optim.ema_decay) if config.optim.ema_decay else None
    t = config.trainer
    callbacks = [ema, TrainingScalars(config.data.global_batch_size),
                 Media(shown, config.audio, config.sampling, run.samples, t.media_every_n_steps, ema)]  # fmt: skip
    if config.unet.compile:
        system.unet.unet.compile()
    with clock("training"):
        results = _fit(config, run, system, module, [c for c in callbacks if c])
    if config.synapse.kind == "none" and rank_zero_only.rank == 0:  # a text-only model is what a conditioned one starts from
        if ema:
            ema._swap(system)
        build.export_part(system, config, run.export)
    return results


def worth_a_plan(config: Config, run: RunDirectory) -> bool:
    """Is this the start of a run that takes so long that its reader wants to know how long?"""
    new = not any(run.checkpoints.glob("*.ckpt"))
    return new and config.trainer.max_steps >= 100 and not config.data.stream and rank_zero_only.rank == 0


def fit_part(config: Config, run: RunDirectory) -> dict[str, Any]:
    """Train a part of its own, then export it where `weights: run:NAME` finds it."""
    part = build.part(config)
    shapes = build.noise_shapes(config, part)
    module = MusicDataModule(config.data, config.audio, config.seed, accumulation(config), shapes)
    if config.task == "image_diffusion":
        module.require_pictures()
    if worth_a_plan(config, run):
        print(f"plan: {in_words(plan_part(config, part, module))} on this machine", flush=True)
    results = _fit(config, run, part, module, [TrainingScalars(config.data.global_batch_size)])
    if rank_zero_only.rank != 0:
        return results
    if isinstance(part, MusicVAE) and part.trainable == "all":  # a decoder alone leaves the latents what they were
        part.eval()
        part.measure_latents(module.spread_dataloader("val" if config.data.stream else "train", config.music_vae.stats_items))
    build.export_part(part, config, run.export)
    return results


def _fit(config: Config, run: RunDirectory, model: Any, data: MusicDataModule, callbacks: list) -> dict[str, Any]:
    lightning.seed_everything(config.seed, verbose=False)
    resume = newest(run.checkpoints)
    step = torch.load(resume, map_location="meta", weights_only=True)["global_step"] if resume else 0
    t = config.trainer
    store = CheckpointStore(run.checkpoints, t.keep_last, t.keep_best, t.async_checkpoints)
    if rank_zero_only.rank == 0:
        store.clean()
    ema = next((c for c in callbacks if isinstance(c, EMA)), None)
    guard = StepGuard(config.guards, run.path / "guards", config.seed, ema, run.checkpoints)
    saver = SaveCheckpoints(store, t.checkpoint_every_n_steps, t.val_every_n_steps, guard.settle)
    leaving = Preemption(guard, saver, lambda: requeue(os.environ))
    trainer = make_trainer(config, run, [guard, *callbacks, saver, leaving], store, step)
    if trainer.is_global_zero and resume:
        print(f"Resuming from step {step} of {t.max_steps}", flush=True)
    if trainer.is_global_zero:
        trainer.loggers[0].write(lambda board: log_hparams(board, flatten(to_dict(config))))
    with telling_memory(config, "training", lambda: model):
        with naming_lost_ranks(run):
            trainer.fit(model, datamodule=data, ckpt_path=resume, weights_only=True)
            saver.finish(trainer)
            leaving.obey(trainer)
        scores = trainer.validate(model, datamodule=data, verbose=False)[0]
    return {"step": trainer.global_step, **scores, "replaced": dict(data.replaced)}


def make_trainer(config: Config, run: RunDirectory, callbacks: list, store: CheckpointStore, step: int) -> lightning.Trainer:
    """Lightning's Trainer with this project's fixed habits: steps not epochs, our own order of samples, whole checkpoints.

    What was logged after `step`, where the run goes on, is forgotten: those steps come again.
    """
    t, accumulate = config.trainer, accumulation(config)
    board = Board(run.path, purge_step=step + 1)
    bar = [RichProgressBar(refresh_rate=5)] if t.progress_bar else []
    devices = check_tasks(t.devices, t.num_nodes, os.environ)
    slurm, precision = environment_plugin(os.environ), precision_of(t)
    precision["plugins"] += [store, *([slurm] if slurm else [])]
    trainer = lightning.Trainer(
        accelerator=t.accelerator, devices=int(devices) if devices.lstrip("-").isdigit() else devices,
        num_nodes=t.num_nodes, strategy=t.strategy, max_steps=t.max_steps, max_epochs=-1,
        accumulate_grad_batches=accumulate, val_check_interval=t.val_every_n_steps * accumulate,
        check_val_every_n_epoch=None, num_sanity_val_steps=0, use_distributed_sampler=False,
        log_every_n_steps=t.log_every_n_steps, logger=[board, JSONLines(run.path / "metrics.jsonl", step)],
        callbacks=[*callbacks, *bar], enable_progress_bar=t.progress_bar, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=str(run.path), **precision,
    )  # fmt: skip
    # Signals are ours (preemption.py). Lightning's handler speaks to other ranks at a moment of its own, and before each batch
    # its ranks agree on SIGTERM once more, for which the host waits for the device.
    trainer._signal_connector.register_signal_handlers = lambda: None
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None
    return trainer
