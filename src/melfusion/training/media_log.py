"""Fixed validation items in TensorBoard: pictures, captions, clips, spectrograms, where the picture acted, predicted classes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule
from torch import Tensor

from melfusion.data.collate import collate
from melfusion.data.dataset import MusicDataset
from melfusion.media.figures import as_array, save_array, spectrogram_figure
from melfusion.media.options import AudioConfig
from melfusion.media.sound import mono, write_wav
from melfusion.models.options import SamplingConfig
from melfusion.models.sharding import gathered
from melfusion.training.ema import EMA
from melfusion.training.loggers import Board, Trouble
from melfusion.training.media_more import ListeningRows, PictureMaps
from melfusion.training.precision import between_steps

MEDIA_ITEMS = 8


class Media(Callback):
    """At most 8 fixed validation items: picture, caption, reference and generated audio and spectrograms.

    References are written before the first step, generated ones every `every_n_steps` and at the end, by rank 0 only,
    with the averaged weights. Scalars are written at those steps alone, since where a run was interrupted must not show in them.

    Args:
        out: folder of the wav and png files.
        maps, listening: what else is asked of the system there; None leaves it out.
        room: says whether media may still be written; scalars always are.
        settle: called by all ranks before clips are generated: the last step is judged, and the average moves.
    """

    def __init__(
        self,
        dataset: MusicDataset,
        audio: AudioConfig,
        sampling: SamplingConfig,
        out: Path,
        every_n_steps: int = 1000,
        ema: EMA | None = None,
        settle: Callable[[], None] = lambda: None,
        maps: PictureMaps | None = None,
        listening: ListeningRows | None = None,
        room: Callable[[], bool] = lambda: True,
    ):
        self.dataset, self.audio, self.sampling, self.out = dataset, audio, sampling, out
        self.items, self.every, self.ema, self.settle = min(MEDIA_ITEMS, len(dataset)), every_n_steps, ema, settle
        self.maps, self.listening, self.room = maps, listening, room
        self.batch: Any = None
        self.written, self.trouble = -1, Trouble(out)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.is_global_zero or self.items == 0:
            return
        self.batch = collate([self.dataset[i] for i in range(self.items)])
        self.reference = pl_module.codec.log_mel(self.batch.waveform.to(pl_module.device)).cpu()
        trainer.loggers[0].write(self._references)

    def _references(self, board: Any) -> None:
        if not self.room():
            return
        for i in range(self.items):
            tag = f"item{i}"
            if self.batch.has_image[i]:
                board.add_image(f"{tag}/picture", (self.batch.image[i] + 1) / 2, 0)
            board.add_text(f"{tag}/caption", self.batch.captions[i], 0)
            self._clip(board, f"{tag}/reference", self.batch.waveform[i], 0)
            board.add_image(f"{tag}/reference_spectrogram", self._panel({"reference": self.reference[i, 0]}), 0, dataformats="HWC")

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.written = trainer.global_step if trainer.global_step else -1  # before a resume that step's media were written

    def on_train_batch_end(self, trainer: Any, pl_module: LightningModule, *args: Any) -> None:
        step = trainer.global_step
        if step and step % self.every == 0 and step != self.written:
            self.settle()  # on all ranks: what the guard then knows, they must know after the same step
            self._write(trainer, pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.global_step != self.written:
            self._write(trainer, pl_module)

    def _write(self, trainer: Any, pl_module: Any) -> None:
        if self.items == 0:
            return
        self.written = trainer.global_step
        due = self.written % self.every == 0 or self.written >= trainer.max_steps
        with self.ema.averaged(pl_module) if self.ema else contextlib.nullcontext(), gathered(pl_module):
            if trainer.is_global_zero:
                self._make(trainer, pl_module, due)

    def _make(self, trainer: Any, system: Any, due: bool) -> None:
        """Generate and write. `due`: a step at which any run would, so that its scalars count."""
        board = trainer.loggers[0]
        board.write(lambda writer: writer.flush())  # so that the files are as large as they seem
        room, listening = self.room(), self.listening if due else None
        if not room and listening is None:
            return
        system.eval()
        with between_steps(trainer.precision_plugin):
            decoded = self._generate(system, self.batch.image, self.batch.has_image)
            waveform = system.vocode(decoded).cpu()
            if listening is not None:
                scalars = listening(self.batch, waveform, lambda *shown: system.vocode(self._generate(system, *shown)).cpu())
                for logger in trainer.loggers if scalars else ():
                    logger.log_metrics(scalars, self.written)
            maps = self.maps(system, self.batch) if self.maps is not None and due and room else {}
        system.train()
        if room:
            self._show(board, system.codec.spectrogram(decoded).cpu(), waveform, maps)

    def _generate(self, system: Any, image: Tensor | None, has_image: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) and whether each is there (B,) → what the codec decodes, under the items' captions."""
        s = self.sampling
        return system.generate(
            self.batch.captions,
            None if image is None else image.to(system.device),
            num_inference_steps=s.num_inference_steps,
            guidance_scale=s.guidance_scale,
            image_guidance_scale=s.image_guidance_scale,
            negative_prompt=s.negative_prompt,
            has_image=has_image,
        ).float()

    def _show(self, board: Board, log_mel: Tensor, waveform: Tensor, maps: dict[int, Any]) -> None:
        """Write to TensorBoard and to files. On a full disk each of them fails alone."""
        for i, figure in maps.items():
            board.write(partial(self._show_map, i, figure))
        for i in range(self.items):
            pair = {"reference": self.reference[i, 0], f"generated, step {self.written}": log_mel[i, 0]}
            figure = as_array(spectrogram_figure(pair, self.audio, self.batch.captions[i]))
            board.write(partial(self._show_item, i, figure, waveform[i]))
            stem = self.out / f"step{self.written:07d}-{i}-{self.batch.keys[i]}"
            with self.trouble:
                self.out.mkdir(parents=True, exist_ok=True)
                save_array(figure, f"{stem}.png")
                write_wav(f"{stem}.wav", waveform[i], self.audio.sample_rate_hz)

    def _show_item(self, i: int, figure: Any, waveform: Tensor, board: Any) -> None:
        board.add_image(f"item{i}/spectrograms", figure, self.written, dataformats="HWC")
        self._clip(board, f"item{i}/generated", waveform, self.written)

    def _show_map(self, i: int, figure: Any, board: Any) -> None:
        board.add_image(f"item{i}/where_the_picture_acted", figure, self.written, dataformats="HWC")

    def _panel(self, log_mels: dict[str, Tensor]) -> Any:
        return as_array(spectrogram_figure(log_mels, self.audio))

    def _clip(self, board: Any, tag: str, waveform: Tensor, step: int) -> None:
        board.add_audio(tag, mono(waveform.clamp(-1, 1)[None]), step, sample_rate=self.audio.sample_rate_hz)
