"""MusicDataModule: shards → MusicBatch on every rank, in the order of `order.py`."""

from __future__ import annotations

import logging
from collections import Counter
from typing import IO, Any

import lightning
import torch
from torch.utils.data import DataLoader, Dataset

from melfusion.batch import MusicBatch
from melfusion.data import order
from melfusion.data.chosen import trained_on
from melfusion.data.collate import collate, heed_only_the_loader
from melfusion.data.dataset import MusicDataset
from melfusion.data.options import DataConfig
from melfusion.data.partners import WithPartners
from melfusion.data.reading import SampleReader, digest_of
from melfusion.data.replacements import Replacements
from melfusion.data.replacing import INDEX
from melfusion.data.shards import IMAGE_EXTS, ShardSet
from melfusion.data.storage import Folder
from melfusion.errors import DataError, shown
from melfusion.files import shared
from melfusion.media.options import AudioConfig

log = logging.getLogger(__name__)


class MusicDataModule(lightning.LightningDataModule):
    """Loaders over one indexed data set.

    Args:
        noise_shapes: shapes of the normal draws that the system needs for each sample, by stream name.
        provenance: the parts and settings that precomputed members must have been made with; another one is a DataError.
        partners: each validation item also brings the picture of another one.
    """

    def __init__(
        self,
        data: DataConfig,
        audio: AudioConfig,
        seed: int = 0,
        accumulate: int = 1,
        noise_shapes: dict[str, tuple[int, ...]] | None = None,
        provenance: dict[str, Any] | None = None,
        partners: bool = False,
    ):
        super().__init__()
        self.data, self.audio, self.seed, self.accumulate = data, audio, seed, accumulate
        self.noise_shapes, self.provenance, self.partners = noise_shapes or {}, provenance, partners
        self.shards: ShardSet | None = None
        self.held: IO[bytes] | None = None
        self.replacements = Replacements()
        self.named: set[str] = set()  # reasons that have been logged

    def setup(self, stage: str | None = None) -> None:
        if not self.data.stream:  # a streamed run opens its indexed set only where it validates
            self._open()

    def _open(self) -> ShardSet:
        """The indexed set, opened once; DataError where precomputed tensors and this run do not fit."""
        if self.shards is None:
            shards = ShardSet(self.data.path, self.data)
            self._check_provenance(shards.info.get("provenance"))
            self.shards = shards
            if self.provenance is not None and isinstance(shards.storage, Folder):
                self.held = shared(shards.storage.folder / INDEX)  # so that no pruning takes the set from under this run
        return self.shards

    def _check_provenance(self, stored: dict[str, Any] | None) -> None:
        if stored is not None and self.provenance is None:
            raise DataError(
                f"{self.data.path} holds precomputed tensors and no audio: point data.path at the set that they were "
                "made from, and data.precompute.path here."
            )
        if stored is None and self.provenance is not None:
            raise DataError(
                f"{self.data.path} holds no precomputed latents: run `melfusion precompute`, or point "
                "data.precompute.path at a folder of its own."
            )
        if stored is not None and self.provenance is not None and stored != self.provenance:
            differ = sorted(k for k in stored.keys() | self.provenance.keys() if stored.get(k) != self.provenance.get(k))
            raise DataError(
                f"{self.data.path} was precomputed from other parts or settings ({', '.join(differ)} differ): "
                f"run `melfusion precompute` again or restore them."
            )

    def dataset(self, split: str, training: bool = False) -> MusicDataset:
        """The map-style data set of one split."""
        shards = self._open()
        entries = shards.entries(split)
        reader = SampleReader(shards, self.audio, self.data, entries)
        dataset = MusicDataset(reader, entries, self.seed, training, self.noise_shapes)
        return trained_on(dataset, self.data, self.audio.clip_duration_s) if training else dataset

    def require_pictures(self) -> None:
        """DataError where a split that is read by its index, for training or validation, has no picture at all."""
        for split in ("val",) if self.data.stream else ("train", "val"):
            dataset = self.dataset(split)
            if not dataset.entries.having(IMAGE_EXTS):
                raise DataError(
                    f"{self.data.path}: no sample for {split} has a picture, so there is nothing to train an image "
                    "model on: give pictures, or image.weights= of a trained one."
                )

    @property
    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def micro_batch_size(self) -> int:
        """Samples per device and micro-batch; DataError where the global batch does not divide."""
        parts = self._ranks[1] * self.accumulate
        if self.data.global_batch_size % parts:
            raise DataError(
                f"data.global_batch_size={self.data.global_batch_size} does not divide by devices × "
                f"accumulation = {parts}: change one of them."
            )
        return self.data.global_batch_size // parts

    def train_dataloader(self) -> Any:
        rank, world = self._ranks
        micro = self.micro_batch_size()
        if self.data.stream:
            from melfusion.data.stream import stream_loader

            made_with = digest_of(self.provenance) if self.provenance else None
            return stream_loader(self.data, self.audio, self.seed, micro, self.noise_shapes, rank, world, made_with)
        consumed = (self.trainer.global_step if self.trainer else 0) * self.data.global_batch_size
        return self._loader(self.dataset("train", training=True), order.TrainBatches(micro, rank, world, consumed))

    def val_dataloader(self) -> DataLoader:
        dataset = self.dataset("val").spread(self.data.val_items)
        return self._once(WithPartners(dataset) if self.partners else dataset, *self._ranks)

    def spread_dataloader(self, split: str, items: int) -> DataLoader:
        """At most `items` samples, evenly over the split, each once: for statistics."""
        return self._once(self.dataset(split).spread(items))

    def _once(self, dataset: MusicDataset | WithPartners, rank: int = 0, world_size: int = 1) -> DataLoader:
        """Each item once over all ranks."""
        return self._loader(dataset, order.EvalBatches(len(dataset), self.micro_batch_size(), rank, world_size))

    def _loader(self, dataset: Dataset, batches: Any) -> DataLoader:
        workers = self.data.num_workers
        return DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=workers,
            worker_init_fn=heed_only_the_loader,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0,
        )

    @property
    def replaced(self) -> Counter[str]:
        """Reason → how many training samples were replaced."""
        return self.replacements.by_reason

    def on_after_batch_transfer(self, batch: MusicBatch, dataloader_idx: int) -> MusicBatch:
        """Count the samples that were replaced in training; DataError above `data.max_bad_ratio`."""
        for place, reason in batch.replaced:
            if reason not in self.named:
                log.warning("%s/%s is replaced: %s (further ones are only counted).", shown(self.data.path), place, reason)
                self.named.add(reason)
        if not getattr(self.trainer, "training", True):  # validation reads the same items again and again
            return batch
        self.replacements.add(batch.replaced, len(batch))
        seen, bad = self.replacements.seen, self.replacements.bad
        if seen >= 4 * self.data.global_batch_size and bad > self.data.max_bad_ratio * (seen + bad):
            raise DataError(
                f"{self.data.path}: {bad} of {seen + bad} samples could not be used "
                f"({self.replaced.most_common(3)}), above data.max_bad_ratio={self.data.max_bad_ratio}: "
                "correct the data or raise the ratio."
            )
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The counts of the whole run. Lightning calls this on every rank when it saves, so this is where ranks are added up."""
        self.replacements.gather()
        return {"replaced": self.replacements.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.replacements.load(state_dict["replaced"])
