"""What a run shows while it trains (scalars, media; loggers.py writes them) and the EMA of what it trains."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from melfusion.audio import write_wav
from melfusion.data.datamodule import MusicDataset, collate
from melfusion.loggers import Board, Trouble
from melfusion.plots import as_array, save, spectrogram_figure
from melfusion.precision import between_steps
from melfusion.schema import AudioConfig, SamplingConfig


class EMA(Callback):
    """Exponential moving average of the parameters that train, used by validation and generation.

    The decay is warmed up by step, min(decay, (1 + step) / (10 + step)), so that early averages forget random init.
    `update` is called by the guard, once a step is known to be sound (guards.py); `settle` is the guard's.
    """

    def __init__(self, decay: float):
        self.decay, self.shadow, self.settle = decay, {}, lambda: None

    @staticmethod
    def _trained(module: LightningModule) -> dict[str, Tensor]:
        return {name: p for name, p in module.named_parameters() if p.requires_grad}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trained = self._trained(pl_module)
        self.shadow = {n: self.shadow.get(n, p).detach().clone().to(p.device) for n, p in trained.items()}

    @torch.no_grad()
    def update(self, pl_module: LightningModule, step: int) -> None:
        """Move towards the weights as they are after the `step`-th applied step."""
        decay = min(self.decay, (1 + step) / (10 + step))
        trained = self._trained(pl_module)
        torch._foreach_lerp_(list(self.shadow.values()), [trained[n].detach() for n in self.shadow], 1 - decay)

    @torch.no_grad()
    def _swap(self, pl_module: LightningModule) -> None:
        self.settle()
        for name, parameter in self._trained(pl_module).items():
            if name in self.shadow:
                parameter.data, self.shadow[name] = self.shadow[name], parameter.data

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap(pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["ema"] = dict(self.shadow)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.shadow = dict(checkpoint.get("ema", {}))

    def restore(self, stored: dict[str, Tensor]) -> None:
        """Take a stored average on, on the devices where this one lies."""
        self.shadow = {n: stored[n].to(t.device) for n, t in self.shadow.items()}


class TrainingScalars(Callback):
    """samples/s, learning rates, each α, the loss by timestep bin, and how many samples had to be replaced, why."""

    def __init__(self, global_batch_size: int, bins: int = 10):
        self.batch_size, self.bins = global_batch_size, bins
        self.sums, self.counts = torch.zeros(bins), torch.zeros(bins)
        self.last = (0, 0.0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.last, self.started = (trainer.global_step, time.perf_counter()), trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        if isinstance(outputs, dict) and "timesteps" in outputs:
            where = outputs["timesteps"] * self.bins // len(pl_module.alpha_bar)
            self.sums, self.counts = self.sums.to(where.device), self.counts.to(where.device)
            self.sums.index_add_(0, where, outputs["losses"].float())
            self.counts.index_add_(0, where, torch.ones_like(where, dtype=torch.float32))
        step, since = trainer.global_step, self.last[0]
        first = step == self.started + 1 and since == self.started
        if step == since or (step % trainer.log_every_n_steps and not first):
            return
        now = time.perf_counter()
        scalars = {"train/samples_per_s": (step - since) * self.batch_size / (now - self.last[1])}
        self.last = (step, now)
        for i, group in enumerate(trainer.optimizers[0].param_groups):
            scalars[f"lr/group{i}"] = group["lr"]
        for name, value in self._by_bin().items():
            scalars[name] = value
        synapse = getattr(getattr(pl_module, "unet", None), "synapse", None)
        for name, alpha in getattr(synapse, "alphas", {}).items():
            for head, value in enumerate(alpha.detach().float().reshape(-1).tolist()):
                scalars[f"synapse/alpha/{name}" + (f"/head{head}" if alpha.ndim else "")] = value
        if trainer.datamodule is not None:
            scalars |= trainer.datamodule.replacements.scalars()
        for logger in trainer.loggers:
            logger.log_metrics(scalars, step)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All ranks come by here, so what they replaced is added up."""
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step  # Lightning logs a validation at this one
        if trainer.datamodule is not None:
            trainer.datamodule.replacements.gather()
            if scalars := trainer.datamodule.replacements.scalars():
                for logger in trainer.loggers:
                    logger.log_metrics(scalars, trainer.global_step)

    def _by_bin(self) -> dict[str, float]:
        counts, sums = self.counts.tolist(), self.sums.tolist()
        self.sums.zero_(), self.counts.zero_()
        return {f"train/loss_by_timestep/{i}": s / c for i, (s, c) in enumerate(zip(sums, counts, strict=True)) if c}


MEDIA_ITEMS = 8


class Media(Callback):
    """At most 8 fixed validation items: picture, caption, reference and generated audio and spectrograms.

    References are written before the first step, generated ones every `every_n_steps` and at the end, by rank 0 only,
    with the EMA weights.
    """

    def __init__(self, dataset: MusicDataset, audio: AudioConfig, sampling: SamplingConfig, out: Path,
                 every_n_steps: int = 1000, ema: EMA | None = None):  # fmt: skip
        self.dataset, self.audio, self.sampling, self.out = dataset, audio, sampling, out
        self.items, self.every, self.ema = min(MEDIA_ITEMS, len(dataset)), every_n_steps, ema
        self.batch: Any = None
        self.written, self.trouble = -1, Trouble(out)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero or self.items == 0:
            return
        self.batch = collate([self.dataset[i] for i in range(self.items)])
        self.reference = pl_module.log_mel(self.batch.waveform.to(pl_module.device)).cpu()
        trainer.loggers[0].write(self._references)

    def _references(self, board: Any) -> None:
        for i in range(self.items):
            tag = f"item{i}"
            if self.batch.has_image[i]:
                board.add_image(f"{tag}/picture", (self.batch.image[i] + 1) / 2, 0)
            board.add_text(f"{tag}/caption", self.batch.captions[i], 0)
            self._sound(board, f"{tag}/reference", self.batch.waveform[i], 0)
            board.add_image(f"{tag}/reference_spectrogram", self._panel({"reference": self.reference[i, 0]}), 0,
                            dataformats="HWC")  # fmt: skip

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.written = trainer.global_step if trainer.global_step else -1  # a resumed run has written its step's media

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        step = trainer.global_step
        if step and step % self.every == 0 and step != self.written:
            if self.ema:
                self.ema.settle()  # on all ranks: what the guard then knows, they must know after the same step
            self._write(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step != self.written:
            self._write(trainer, pl_module)

    @rank_zero_only
    def _write(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.batch is None:
            return
        self.written, device = trainer.global_step, pl_module.device
        if self.ema:
            self.ema._swap(pl_module)
        pl_module.eval()
        s, image = self.sampling, self.batch.image
        with between_steps(trainer.precision_plugin):
            log_mel = pl_module.generate(
                self.batch.captions, None if image is None else image.to(device), num_inference_steps=s.num_inference_steps,
                guidance_scale=s.guidance_scale, image_guidance_scale=s.image_guidance_scale,
                negative_prompt=s.negative_prompt, has_image=self.batch.has_image,
            ).float()  # fmt: skip
        waveform = pl_module.vocode(log_mel).cpu()
        pl_module.train()
        if self.ema:
            self.ema._swap(pl_module)
        self._show(trainer.loggers[0], log_mel.cpu(), waveform)

    def _show(self, board: Board, log_mel: Tensor, waveform: Tensor) -> None:
        """Into TensorBoard and as files; on a full disk those of them that still have room."""
        for i in range(self.items):
            pair = {"reference": self.reference[i, 0], f"generated, step {self.written}": log_mel[i, 0]}
            figure = spectrogram_figure(pair, self.audio, self.batch.captions[i])
            array, tag = as_array(figure), f"item{i}"
            board.write(lambda to, a=array, t=tag: to.add_image(f"{t}/spectrograms", a, self.written, dataformats="HWC"))
            board.write(lambda to, i=i: self._sound(to, f"item{i}/generated", waveform[i], self.written))
            stem = self.out / f"step{self.written:07d}-{i}-{self.batch.keys[i]}"
            with self.trouble:
                self.out.mkdir(parents=True, exist_ok=True)
                save(figure, f"{stem}.png")
                write_wav(f"{stem}.wav", waveform[i], self.audio.sample_rate_hz)

    def _panel(self, log_mels: dict[str, Tensor]) -> Any:
        return as_array(spectrogram_figure(log_mels, self.audio))

    def _sound(self, board: Any, tag: str, waveform: Tensor, step: int) -> None:
        board.add_audio(tag, waveform.clamp(-1, 1)[None], step, sample_rate=self.audio.sample_rate_hz)
