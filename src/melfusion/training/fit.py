"""A run directory is trained or resumed; a finished one returns its results."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import lightning
import torch
from lightning import Callback
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.utilities import rank_zero_only

from melfusion.assembly.devices import accumulation
from melfusion.assembly.memory import telling_memory
from melfusion.assembly.parts import export_part, noise_shapes
from melfusion.assembly.parts import part as build_part
from melfusion.assembly.schema import Config, to_dict
from melfusion.cluster.slurm import check_tasks, environment_plugin, requeue
from melfusion.config.check import flatten
from melfusion.data.datamodule import MusicDataModule
from melfusion.errors import RankLost
from melfusion.state.checkpoint_store import CheckpointStore, newest
from melfusion.state.run_directory import RunDirectory
from melfusion.training.checkpoints import SaveCheckpoints
from melfusion.training.ema import EMA
from melfusion.training.guard import StepGuard
from melfusion.training.loggers import Board, JSONLines, log_hparams
from melfusion.training.media_log import Media
from melfusion.training.plan import in_words, plan, plan_part
from melfusion.training.precision import precision_of
from melfusion.training.precompute import ensure_precomputed
from melfusion.training.preemption import Preemption
from melfusion.training.scalars import TrainingScalars


@contextlib.contextmanager
def naming_lost_ranks(run: RunDirectory) -> Iterator[None]:
    """A collective that fails because a rank is gone becomes one sentence."""
    try:
        yield
    except RuntimeError as error:
        words = " ".join(str(error).split())
        ours = type(error).__module__.startswith("melfusion")  # whose words may name anything
        if ours or not (isinstance(error, torch.distributed.DistError) or "gloo" in words):
            raise
        raise RankLost(
            f"This rank lost another rank of {run.path} ({words[:160]}…): that one's own words say why it ended; the "
            "same command goes on from the newest checkpoint."
        ) from error


logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # after its import, which sets INFO: tips, `max_steps reached`


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


def fit_system(config: Config, run: RunDirectory, clock: Clock, first: Sequence[Callback] = ()) -> dict[str, Any]:
    """Train the conditioned UNet."""
    system = build_part(config)
    data, shapes = copy.deepcopy(config.data), noise_shapes(config, system)
    provenance = None
    if worth_a_plan(config, run):
        raw = MusicDataModule(config.data, config.audio, config.seed, noise_shapes=shapes)
        print(f"plan: {in_words(plan(config, system, raw))} on this machine", flush=True)
    if data.precompute.enabled:
        with clock("precompute"):
            path, provenance = ensure_precomputed(config, system)
        data.path, data.crop = str(path), "start"
    module = MusicDataModule(
        data, config.audio, config.seed, accumulation(config), shapes, provenance, partners=system.image_encoder is not None
    )
    shown = MusicDataModule(config.data, config.audio, config.seed, 1, {}).dataset("val").spread(config.trainer.media_items)
    ema = EMA(config.optim.ema_decay) if config.optim.ema_decay else None
    t = config.trainer
    callbacks = [
        ema,
        TrainingScalars(config.data.global_batch_size),
        Media(shown, config.audio, config.sampling, run.samples, t.media_every_n_steps, ema),
    ]
    if config.unet.compile:
        system.denoiser.compile()
    with clock("training"):
        results = _fit(config, run, system, module, [c for c in callbacks if c], first)
    if config.synapse.kind == "none" and rank_zero_only.rank == 0:  # a text-only model is what a conditioned one starts from
        if ema:
            ema._swap(system)
        export_part(system, config, run.export)
    return results


def worth_a_plan(config: Config, run: RunDirectory) -> bool:
    """Is this the start of a run that takes so long that its reader wants to know how long?"""
    new = not any(run.checkpoints.glob("*.ckpt"))
    return new and config.trainer.max_steps >= 100 and not config.data.stream and rank_zero_only.rank == 0


def fit_part(config: Config, run: RunDirectory, first: Sequence[Callback] = ()) -> dict[str, Any]:
    """Train a part of its own, then export it where `weights: run:NAME` finds it."""
    part = build_part(config)
    shapes = noise_shapes(config, part)
    module = MusicDataModule(config.data, config.audio, config.seed, accumulation(config), shapes)
    if part.needs_pictures:
        module.require_pictures()
    if worth_a_plan(config, run):
        print(f"plan: {in_words(plan_part(config, part, module))} on this machine", flush=True)
    results = _fit(config, run, part, module, [TrainingScalars(config.data.global_batch_size)], first)
    if rank_zero_only.rank != 0:
        return results
    part.finish(lambda items: module.spread_dataloader("val" if config.data.stream else "train", items))
    export_part(part, config, run.export)
    return results


def _fit(
    config: Config, run: RunDirectory, model: Any, data: MusicDataModule, callbacks: list, first: Sequence[Callback] = ()
) -> dict[str, Any]:
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
    trainer = make_trainer(config, run, [*first, guard, *callbacks, saver, leaving], store, step)
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
        accelerator=t.accelerator,
        devices=int(devices) if devices.lstrip("-").isdigit() else devices,
        num_nodes=t.num_nodes,
        strategy=t.strategy,
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
        enable_progress_bar=t.progress_bar,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=str(run.path),
        **precision,
    )
    # Signals are ours (preemption.py). Lightning's handler speaks to other ranks at a moment of its own, and before each batch
    # its ranks agree on SIGTERM once more, for which the host waits for the device.
    trainer._signal_connector.register_signal_handlers = lambda: None
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None
    return trainer
