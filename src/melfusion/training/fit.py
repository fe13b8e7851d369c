"""Training itself: the data, callbacks and Trainer of the system or of one part."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import lightning
import torch
from lightning import Callback

from melfusion.assembly.devices import accumulation, devices_of
from melfusion.assembly.load import load_system
from melfusion.assembly.memory import telling_memory
from melfusion.assembly.parts import export_part, noise_shapes
from melfusion.assembly.parts import part as build_part
from melfusion.assembly.schema import Config, to_dict
from melfusion.cluster.slurm import environment_plugin, requeue
from melfusion.config.check import flatten
from melfusion.data.datamodule import MusicDataModule
from melfusion.data.dataset import MusicDataset
from melfusion.errors import RankLost
from melfusion.models.system import MeLFusion
from melfusion.state.checkpoint_store import CheckpointStore, newest
from melfusion.state.run_directory import RunDirectory
from melfusion.training.checkpoints import SaveCheckpoints
from melfusion.training.dashboard import Dashboard
from melfusion.training.ema import EMA
from melfusion.training.fsdp import strategy_of
from melfusion.training.guard import StepGuard
from melfusion.training.lightning_private import leave_signals_alone, rank
from melfusion.training.loggers import Board, JSONLines, log_hparams
from melfusion.training.media_budget import MediaBudget
from melfusion.training.media_log import Media
from melfusion.training.media_more import ListeningRows, PictureMaps
from melfusion.training.plan import in_words, plan, plan_part
from melfusion.training.precision import precision_of
from melfusion.training.precompute import ensure_precomputed
from melfusion.training.preemption import Preemption
from melfusion.training.progress import StepsBar, frozen_parts_may_rest
from melfusion.training.scalars import TrainingScalars


@contextlib.contextmanager
def naming_lost_ranks(run: RunDirectory) -> Iterator[None]:
    """A collective that fails because a rank is gone becomes RankLost, with one sentence."""
    try:
        yield
    except RuntimeError as error:
        words = " ".join(str(error).split())
        ours = type(error).__module__.startswith("melfusion")  # its sentence may say anything
        if ours or not (isinstance(error, torch.distributed.DistError) or "gloo" in words):
            raise
        raise RankLost(
            f"This rank lost another rank of {run.path} ({words[:160]}…): the message of that rank says why it ended; the "
            "same command goes on from the newest checkpoint."
        ) from error


class StageClock:
    """Prints the name of each stage of a run as it starts, and keeps the seconds that each took, and was planned to take."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.planned: dict[str, float] = {}
        self.stage = "set-up"

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        if rank() == 0:
            print(f"── {stage}", flush=True)
        self.stage = stage
        started = time.perf_counter()
        yield
        self.seconds[stage] = round(time.perf_counter() - started, 1)

    def plan(self, stages: dict[str, float]) -> None:
        """Print an estimate, and keep it to be compared with what is taken."""
        print(f"plan: {in_words(stages)} on this machine", flush=True)
        self.planned |= {stage: round(s, 1) for stage, s in stages.items()}


def fit_system(config: Config, run: RunDirectory, clock: StageClock, first: Sequence[Callback] = ()) -> dict[str, Any]:
    """Train the conditioned UNet; returns the results of the run. `first` stand before all other callbacks."""
    system = build_part(config)
    if wants_a_plan(config, run):
        clock.plan(plan(config, system, plain_data(config, noise_shapes(config, system))))
    data = training_data(config, system, clock)
    shown = plain_data(config, {}).dataset("val").spread(config.trainer.media_items)
    ema = EMA(config.optim.ema_decay) if config.optim.ema_decay else None
    guard = step_guard(config, run, ema)
    media = media_of(config, run, shown, ema, guard)
    callbacks = [*([ema] if ema else []), training_scalars(config, config.denoiser.compile), media]
    if config.denoiser.compile:
        system.denoiser.compile()
    with clock("training"):
        results = _fit(config, run, system, data, guard, callbacks, first)
    if config.synapse.kind == "none" and rank() == 0:  # conditioned models start from a text-only one
        export_part(load_system(run.path)[0], config, run.export)
    return results


def media_of(config: Config, run: RunDirectory, shown: MusicDataset, ema: EMA | None, guard: StepGuard) -> Media:
    """The callback that writes clips of these items, with maps and judges where the configuration gives any."""
    t = config.trainer
    maps = PictureMaps(config, t.media_patches) if t.media_patches and config.synapse.kind != "none" else None
    listening = ListeningRows.of(config) if rank() == 0 and len(shown) else None
    room = MediaBudget(run.path / "tensorboard", t.media_mib_per_day).room
    every = t.media_every_n_steps
    return Media(shown, config.audio, config.sampling, run.samples, every, ema, guard.settle, maps, listening, room)


def plain_data(config: Config, shapes: dict[str, tuple[int, ...]]) -> MusicDataModule:
    """The data set itself, not what is precomputed of it."""
    return MusicDataModule(config.data, config.audio, config.seed, noise_shapes=shapes)


def training_data(config: Config, system: MeLFusion, clock: StageClock) -> MusicDataModule:
    """What the system is trained on: precomputed shards, made now if they are missing, or the data set itself."""
    data, provenance = copy.deepcopy(config.data), None
    if data.precompute.enabled:
        with clock("precompute"):
            path, provenance = ensure_precomputed(config, system)
        data.path = str(path)
    shapes, partners = noise_shapes(config, system), system.image_encoder is not None
    return MusicDataModule(data, config.audio, config.seed, accumulation(config), shapes, provenance, partners=partners)


def wants_a_plan(config: Config, run: RunDirectory) -> bool:
    """Is this the start of a run that takes so long that its reader wants to know how long?"""
    new = not any(run.checkpoints.glob("*.ckpt"))
    return new and config.trainer.max_steps >= 100 and not config.data.stream and rank() == 0


def fit_part(config: Config, run: RunDirectory, clock: StageClock, first: Sequence[Callback] = ()) -> dict[str, Any]:
    """Train a part on its own, then export it to the place where `weights: run:NAME` finds it; returns the results."""
    config = dataclasses.replace(config, audio=dataclasses.replace(config.audio, channels=1))  # no part takes more
    part = build_part(config)
    shapes = noise_shapes(config, part)
    module = MusicDataModule(config.data, config.audio, config.seed, accumulation(config), shapes)
    if part.needs_pictures:
        module.require_pictures()
    if wants_a_plan(config, run):
        clock.plan(plan_part(config, part, module))
    scalars = training_scalars(config)
    results = _fit(config, run, part, module, step_guard(config, run), [scalars], first)
    if rank() != 0:
        return results
    part.finish(lambda items: module.spread_dataloader("val" if config.data.stream else "train", items))
    export_part(part, config, run.export)
    return results


def training_scalars(config: Config, compiled: bool = False) -> TrainingScalars:
    """Operations are not counted where calls are hidden: in compiled code and in divided tensors."""
    return TrainingScalars(config.data.global_batch_size, counting=not compiled and config.trainer.strategy != "fsdp2")


def step_guard(config: Config, run: RunDirectory, ema: EMA | None = None) -> StepGuard:
    return StepGuard(config.guards, run.path / "guards", config.seed, ema, run.checkpoints)


def _fit(
    config: Config,
    run: RunDirectory,
    model: Any,
    data: MusicDataModule,
    guard: StepGuard,
    callbacks: Sequence[Callback],
    first: Sequence[Callback],
) -> dict[str, Any]:
    """Train from the newest checkpoint on, then validate.

    The order of callbacks matters: `first` see a step before all others, the guard judges it, `callbacks` follow, and what
    saves stands last.
    """
    lightning.seed_everything(config.seed, verbose=False)
    resume = newest(run.checkpoints)
    step = torch.load(resume, map_location="meta", weights_only=True)["global_step"] if resume else 0
    t = config.trainer
    store = CheckpointStore(run.checkpoints, t.keep_last, t.keep_best, t.async_checkpoints)
    if rank() == 0:
        store.clean()
    saver = SaveCheckpoints(store, t.checkpoint_every_n_steps, t.val_every_n_steps, guard.settle)
    preemption = Preemption(guard, saver, lambda: requeue(os.environ))
    board = Dashboard(config, run.path / "metrics.jsonl", t.media_every_n_steps)
    trainer: Any = make_trainer(config, run, [*first, guard, *callbacks, board, saver, preemption], store, step)
    if trainer.is_global_zero and resume:
        print(f"Resuming from step {step} of {t.max_steps}", flush=True)
    if trainer.is_global_zero:
        trainer.loggers[0].write(lambda board: log_hparams(board, flatten(to_dict(config))))
    with telling_memory(config, "training", lambda: model):
        with naming_lost_ranks(run), frozen_parts_may_rest():
            trainer.fit(model, datamodule=data, ckpt_path=resume, weights_only=True)
            saver.finish(trainer)
            preemption.obey(trainer)
        scores = trainer.validate(model, datamodule=data, verbose=False)[0]
    return {"step": trainer.global_step, **scores, "replaced": dict(data.replaced)}


def quiet_lightning() -> None:
    """Keep Lightning's tips and notes, such as `max_steps reached`, out of the output; warnings stay."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)


def make_trainer(
    config: Config, run: RunDirectory, callbacks: Sequence[Callback], store: CheckpointStore, step: int
) -> lightning.Trainer:
    """Lightning's Trainer with this project's fixed habits: steps not epochs, our own order of samples, whole checkpoints.

    Args:
        step: where the run goes on. What was logged after it is removed, since those steps come again.
    """
    quiet_lightning()
    t, accumulate = config.trainer, accumulation(config)
    board = Board(run.path, purge_step=step + 1)
    bar = [StepsBar()] if t.progress_bar and sys.stdout.isatty() else []  # a log would get a line of it at each step
    slurm, precision = environment_plugin(os.environ), precision_of(t)
    precision["plugins"] += [store, *([slurm] if slurm else [])]
    trainer = lightning.Trainer(
        accelerator=t.accelerator,
        devices=devices_of(t),
        num_nodes=t.num_nodes,
        strategy=strategy_of(config),
        max_steps=t.max_steps,
        max_epochs=-1,
        accumulate_grad_batches=accumulate,
        val_check_interval=t.val_every_n_steps * accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        log_every_n_steps=t.log_every_n_steps,
        logger=[board, JSONLines(run.path / "metrics.jsonl", step)],
        callbacks=[*callbacks, *bar],
        enable_progress_bar=bool(bar),
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=str(run.path),
        **precision,
    )
    leave_signals_alone(trainer)
    return trainer
