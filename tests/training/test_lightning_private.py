"""What training takes from Lightning's private parts still works as assumed: each test fails when Lightning changes."""

import signal
import subprocess
import sys
import time

import lightning
import pytest
import torch
from lightning import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector
from training_jobs import Run

from melfusion.training import lightning_private
from melfusion.training.lightning_private import (
    forget_writer,
    leave_signals_alone,
    log_validation_at,
    rank,
    set_rank,
    time_fetching,
)

RANK = """
import os, sys, torch._dynamo, torch.distributed.fsdp, torchmetrics  # all but Lightning: its import reads the environment
for variable in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
    if not os.fork():
        os.environ[variable] = "3"
        from melfusion.training.lightning_private import rank
        print(variable, rank(), flush=True)
        os._exit(0)
    os.wait()
print("lightning" in sys.modules)
"""


@pytest.mark.slow  # processes that import everything anew
def test_the_rank_is_known_before_a_trainer_exists():
    said = subprocess.run([sys.executable, "-c", RANK], capture_output=True, text=True).stdout
    assert said.splitlines() == ["RANK 3", "SLURM_PROCID 3", "LOCAL_RANK 3", "False"]


def test_the_rank_of_a_forked_process_can_be_set():
    before, said = rank(), []
    say = lightning.pytorch.utilities.rank_zero_only(lambda: said.append(rank()))
    try:
        set_rank(1)
        say()
        set_rank(0)
        say()
    finally:
        set_rank(before)
    assert said == [0]


def test_lightning_neither_handles_signals_nor_asks_for_them_before_each_batch(tiny_corpus, tmp_path, monkeypatch):
    """`setattr` fails where a release renames them; `pytest.fail` where it calls them in another way."""
    for owner, name in ((_SignalConnector, "register_signal_handlers"), (_TrainingEpochLoop, "_broadcast_sigterm_tensor")):
        monkeypatch.setattr(owner, name, lambda self, name=name: pytest.fail(name))
    trainers = []

    class Look(Callback):
        def on_train_start(self, trainer, pl_module):
            trainers.append(trainer)

    assert Run(tmp_path, tiny_corpus)(steps=1, plant=[Look()]) == 0
    trainers[0].fit_loop.epoch_loop._broadcast_sigterm_tensor()  # called only where there are several ranks


class Line(lightning.LightningModule):
    """One weight, a validation after every second step."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def training_step(self, batch, batch_idx):
        return (self.weight * batch).sum()

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.weight.sum())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Lines(lightning.pytorch.loggers.logger.Logger):
    name = version = "lines"

    def __init__(self):
        super().__init__()
        self.steps = []

    def log_metrics(self, metrics, step=None):
        self.steps += [step] if "val/loss" in metrics else []

    def log_hyperparams(self, *args, **kwargs):
        pass


class AtStep(Callback):
    def on_validation_start(self, trainer, pl_module):
        log_validation_at(trainer, trainer.global_step)


def validated(tmp_path, *callbacks, before=lambda trainer: None):
    lines = Lines()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=4,
        val_check_interval=2,
        logger=lines,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        default_root_dir=str(tmp_path),
    )
    before(trainer)
    loader = torch.utils.data.DataLoader(torch.ones(4, 1))
    trainer.fit(Line(), loader, loader)
    return lines.steps


def test_a_validation_is_logged_at_its_step_only_where_lightning_is_told(tmp_path):
    assert validated(tmp_path, AtStep()) == [2, 4]
    assert validated(tmp_path) == [1, 3]  # where this fails, `log_validation_at` may be no longer needed


class Handler(Callback):
    """Which handler of SIGTERM the training sees."""

    def on_train_start(self, trainer, pl_module):
        self.seen = signal.getsignal(signal.SIGTERM)


def test_a_trainer_whose_signals_are_left_alone_sets_no_handler(tmp_path):
    ours, theirs, before = Handler(), Handler(), signal.getsignal(signal.SIGTERM)
    validated(tmp_path, ours, before=leave_signals_alone)
    validated(tmp_path, theirs)
    assert ours.seen is before is signal.getsignal(signal.SIGTERM) and theirs.seen is not before


class Fetched(Callback):
    """How long the training waited for its loader."""

    def setup(self, trainer, pl_module, stage):
        self.fetching = time_fetching(trainer)


def test_the_time_in_which_a_training_waits_for_data_is_told(tmp_path, monkeypatch):
    read, slow, quick = torch.Tensor.__getitem__, Fetched(), Fetched()
    validated(tmp_path, quick)
    monkeypatch.setattr(
        torch.utils.data._utils.fetch._MapDatasetFetcher, "fetch", lambda self, i: [time.sleep(0.1), read(self.dataset, i)][1]
    )
    validated(tmp_path, slow)
    assert slow.fetching.seconds > 0.4 and quick.fetching.seconds > 0  # four batches


def test_a_logger_whose_writer_is_forgotten_begins_a_new_file(tmp_path):
    logger = TensorBoardLogger(str(tmp_path), name="", version="board", default_hp_metric=False)
    first = logger.experiment
    assert logger.experiment is first
    forget_writer(logger)
    assert logger.experiment is not first


def test_nothing_else_touches_what_is_private_to_lightning():
    """The names that this file covers are found in no other file of the package."""
    import re
    from pathlib import Path

    private = re.compile(r"\b(?:trainer|loop|epoch_loop|logger|strategy)\._[a-z]|_experiment\b|rank_zero_only\.rank")
    package = Path(lightning_private.__file__).parents[1]
    found = {file.name for file in package.rglob("*.py") if private.search(file.read_text())}
    assert found == {"lightning_private.py"}
