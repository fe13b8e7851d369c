"""MusicDataModule: shards → MusicBatch on every rank, in the order `order.py` fixes."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import threading
from collections import Counter
from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader, Dataset

from melfusion.audio import BadSample
from melfusion.batch import MusicBatch
from melfusion.data import order
from melfusion.data.errors import DataError, shown
from melfusion.data.partners import WithPartners
from melfusion.data.reading import SampleReader, digest_of
from melfusion.data.replacements import Replacements
from melfusion.data.shards import Entry, ShardSet
from melfusion.schema import AudioConfig, DataConfig

log = logging.getLogger(__name__)

MAX_SUBSTITUTES = 16  # stand-ins tried at one position before the run stops


class MusicDataset(Dataset):
    """Map-style: global position → sample dict with its own random draws; bad samples are replaced in place."""

    def __init__(self, reader: SampleReader, split: str, seed: int, training: bool, noise_shapes: dict[str, tuple]):
        self.reader, self.seed, self.training, self.noise_shapes = reader, seed, training, noise_shapes
        self.entries = reader.entries = reader.shards.entries(split)

    def __len__(self) -> int:
        return len(self.entries)

    def spread(self, n: int) -> MusicDataset:
        """Keep at most `n` entries, evenly over the split."""
        self.entries = order.spread(self.entries, n)
        return self

    def first(self, n: int) -> MusicDataset:
        """Keep the first `n` entries."""
        self.entries = self.entries[:n]
        return self

    def readable(self) -> MusicDataset:
        """Keep what can be read, and say what is left out: in training another sample may stand in, in a score none may."""
        kept, bad = [], []
        for entry in self.entries:
            try:
                self.reader(entry, 0.0)
                kept.append(entry)
            except BadSample as error:
                bad.append(f"{entry.shard}:{entry.key}, {error}")
        if bad:
            log.warning("%s: %d of %d items cannot be read and are not scored, the first %s", self.reader.shards.folder, len(bad),
                        len(self.entries), bad[0])  # fmt: skip
        self.entries = kept
        return self

    def __getitem__(self, position: int) -> dict[str, Any]:
        n = len(self.entries)
        index = order.sample_index(self.seed, position, n) if self.training else position % n
        random_crop = self.training and self.reader.data.crop == "random"
        crop = order.generator(self.seed, "crop", 0, position).random() if random_crop else 0.0
        replaced = []
        for attempt in range(MAX_SUBSTITUTES):
            entry = self.entries[index]
            try:
                item = self.reader(entry, crop)
                draws = order.draws(self.seed, position, self.noise_shapes)
                return item | {"position": position, "draws": draws, "replaced": replaced}
            except BadSample as error:
                replaced.append((f"{entry.shard}:{entry.key}", str(error)))
                index = order.substitute_index(self.seed, position, attempt, n)
        raise DataError(
            f"{self.reader.shards.folder}: {MAX_SUBSTITUTES} samples in a row could not be read, the last for "
            f"{replaced[-1][1]!r}; check or rebuild the data set."
        )


def left_out(labels: dict[str, Any], patterns: list[dict[str, str]]) -> bool:
    """Do the labels have all values of any of the patterns (data.leave_out)?"""
    return any(all(name in labels and str(labels[name]) == str(value) for name, value in pattern.items()) for pattern in patterns)


def collate(items: list[dict[str, Any]]) -> MusicBatch:
    """Sample dicts → MusicBatch."""

    def stack(arrays: list[Any]) -> torch.Tensor:
        return torch.stack([torch.as_tensor(a) for a in arrays])

    batch = MusicBatch(
        keys=[item["key"] for item in items],
        captions=[item["caption"] for item in items],
        position=torch.tensor([item["position"] for item in items]),
        has_image=torch.tensor([float(item.get("has_image", 0)) for item in items]),
        draws={name: stack([item["draws"][name] for item in items]) for name in items[0]["draws"]},
        labels=[item["labels"] for item in items],
        full_captions=[item.get("full_caption", item["caption"]) for item in items],
        replaced=[pair for item in items for pair in item["replaced"]],
    )
    if "other" in items[0]:
        batch.other = _pictures_alone(collate([item["other"] for item in items]))
    if "cached" in items[0]:
        return collate_cached(batch, [item["cached"] for item in items])
    batch.waveform = stack([item["waveform"] for item in items])
    batch.image = stack([item["image"] for item in items])
    return batch


def _pictures_alone(batch: MusicBatch) -> MusicBatch:
    """Without what conditions or is learned beside the picture."""
    return dataclasses.replace(batch, waveform=None, latent_moments=None, text_embeds=None, text_mask=None, draws={})


def collate_cached(batch: MusicBatch, cached: list[dict[str, torch.Tensor]]) -> MusicBatch:
    stacked = {name: torch.stack([c[name] for c in cached]) for name in cached[0]}
    floats = {name: t.float() if t.is_floating_point() else t for name, t in stacked.items()}
    layers = sorted(name.removeprefix("key.") for name in floats if name.startswith("key."))
    batch.latent_moments, batch.text_embeds = floats["latent_moments"], floats["text_embeds"]
    batch.text_mask, batch.has_image = floats["text_mask"].bool(), floats["has_image"]
    batch.image_latents = floats.get("image_latents")
    batch.visual_features = {k: (floats[f"key.{k}"], floats[f"value.{k}"]) for k in layers} or None
    return batch


def heed_only_the_loader(worker: int) -> None:
    """In a loader process: a cluster's signal to the whole job is for the run, which saves and ends its workers itself."""
    signals = {signal.SIGTERM, signal.SIGUSR1}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # of this thread and those it starts, so that only `watch` has them

    def watch() -> None:
        while (got := signal.sigwaitinfo(signals)).si_signo != signal.SIGTERM or got.si_pid != os.getppid():
            continue
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


class MusicDataModule(lightning.LightningDataModule):
    """Loaders over one indexed data set.

    Args:
        noise_shapes: shapes of the per-sample normal draws that the system asks for, by stream name.
        provenance: what precomputed members must have been made from; a difference is a DataError.
        partners: validation items bring another item's picture, too.
    """

    def __init__(self, data: DataConfig, audio: AudioConfig, seed: int = 0, accumulate: int = 1,
                 noise_shapes: dict[str, tuple] | None = None, provenance: dict[str, Any] | None = None,
                 partners: bool = False):  # fmt: skip
        super().__init__()
        self.data, self.audio, self.seed, self.accumulate = data, audio, seed, accumulate
        self.noise_shapes, self.provenance, self.partners = noise_shapes or {}, provenance, partners
        self.shards: ShardSet | None = None
        self.replacements = Replacements()
        self.named: set[str] = set()  # reasons that were logged

    def setup(self, stage: str | None = None) -> None:
        if not self.data.stream:  # a streamed run opens its indexed set only where it validates
            self._open()

    def _open(self) -> None:
        if self.shards is not None:
            return
        self.shards = ShardSet(self.data.path, self.data)
        stored = self.shards.info.get("provenance")
        if stored is not None and self.provenance is None:
            raise DataError(f"{self.data.path} holds precomputed tensors and no sounds: point data.path at the set that they were "
                            "made from, and data.precompute.path here.")  # fmt: skip
        if stored is None and self.provenance is not None:
            raise DataError(f"{self.data.path} holds no precomputed latents: run `melfusion precompute`, or point "
                            "data.precompute.path at a folder of its own.")  # fmt: skip
        if stored is not None and self.provenance is not None and stored != self.provenance:
            differ = sorted(k for k in stored.keys() | self.provenance.keys()
                            if stored.get(k) != self.provenance.get(k))  # fmt: skip
            raise DataError(f"{self.data.path} was precomputed from other parts or settings ({', '.join(differ)} differ): "
                            f"run `melfusion precompute` again or restore them.")  # fmt: skip

    def dataset(self, split: str, training: bool = False) -> MusicDataset:
        """The map-style data set of one split."""
        self._open()
        reader = SampleReader(self.shards, self.audio, self.data)
        dataset = MusicDataset(reader, split, self.seed, training, self.noise_shapes)
        if training and self.data.leave_out:
            dataset.entries = self._kept(dataset)
        return dataset

    def require_pictures(self) -> None:
        """DataError where a split that training or validation reads by its index has no picture at all."""
        for split in ("val",) if self.data.stream else ("train", "val"):
            dataset = self.dataset(split)
            if not any(map(dataset.reader.has_picture, dataset.entries)):
                raise DataError(f"{self.data.path}: no sample for {split} has a picture, so there is nothing to train an image "
                                "model on: give pictures, or image.weights= of a trained one.")  # fmt: skip

    def _kept(self, dataset: MusicDataset) -> list[Entry]:
        """The samples that data.leave_out leaves; DataError where it names what is not there, or leaves none."""
        patterns, where = self.data.leave_out, self.data.path
        labels = [dataset.reader.meta(entry).get("labels") or {} for entry in dataset.entries]
        if unknown := set().union(*patterns) - set().union(*labels):
            raise DataError(f"data.leave_out names the label {min(unknown)!r}, which no sample of {where} has.")
        kept = [entry for entry, label in zip(dataset.entries, labels, strict=True) if not left_out(label, patterns)]
        if not kept:
            raise DataError(f"data.leave_out leaves no sample of {where} to train on: name fewer labels.")
        return kept

    @property
    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def micro_batch_size(self) -> int:
        """Samples per device and micro-batch; DataError where the global batch does not divide."""
        parts = self._ranks[1] * self.accumulate
        if self.data.global_batch_size % parts:
            raise DataError(f"data.global_batch_size={self.data.global_batch_size} does not divide by devices × "
                            f"accumulation = {parts}: change one of them.")  # fmt: skip
        return self.data.global_batch_size // parts

    def train_dataloader(self) -> Any:
        rank, world = self._ranks
        micro = self.micro_batch_size()
        if self.data.stream:
            from melfusion.data.stream import stream_loader

            made_with = self.provenance and digest_of(self.provenance)
            return stream_loader(self.data, self.audio, self.seed, micro, self.noise_shapes, rank, world, made_with)
        consumed = (self.trainer.global_step if self.trainer else 0) * self.data.global_batch_size
        return self._loader(self.dataset("train", training=True), order.TrainBatches(micro, rank, world, consumed))

    def val_dataloader(self) -> DataLoader:
        dataset = self.dataset("val").spread(self.data.val_items)
        return self._once(WithPartners(dataset) if self.partners else dataset, *self._ranks)

    def spread_dataloader(self, split: str, items: int) -> DataLoader:
        """At most `items` samples, evenly over the split, each once: for statistics."""
        return self._once(self.dataset(split).spread(items))

    def _once(self, dataset: Dataset, rank: int = 0, world_size: int = 1) -> DataLoader:
        """Each item once over all ranks."""
        return self._loader(dataset, order.EvalBatches(len(dataset), self.micro_batch_size(), rank, world_size))

    def _loader(self, dataset: Dataset, batches: Any) -> DataLoader:
        workers = self.data.num_workers
        return DataLoader(dataset, batch_sampler=batches, collate_fn=collate, num_workers=workers,
                          worker_init_fn=heed_only_the_loader, pin_memory=torch.cuda.is_available(),
                          persistent_workers=workers > 0)  # fmt: skip

    @property
    def replaced(self) -> Counter[str]:
        """Reason → how many training samples others stood in for."""
        return self.replacements.by_reason

    def on_after_batch_transfer(self, batch: MusicBatch, dataloader_idx: int) -> MusicBatch:
        """Count what was replaced in training; above `max_bad_ratio` the run stops with a sentence."""
        for place, reason in batch.replaced:
            if reason not in self.named:
                log.warning("%s/%s is replaced: %s (further ones are only counted).", shown(self.data.path), place, reason)
                self.named.add(reason)
        if not getattr(self.trainer, "training", True):  # validation shows the same items again and again
            return batch
        self.replacements.add(batch.replaced, len(batch))
        seen, bad = self.replacements.seen, self.replacements.bad
        if seen >= 4 * self.data.global_batch_size and bad > self.data.max_bad_ratio * (seen + bad):
            raise DataError(f"{self.data.path}: {bad} of {seen + bad} samples could not be used "
                            f"({self.replaced.most_common(3)}), above data.max_bad_ratio={self.data.max_bad_ratio}: "
                            "mend the data or raise the ratio.")  # fmt: skip
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The counts of the whole run. Lightning calls it on every rank whenever it saves, so the ranks are added up here."""
        self.replacements.gather()
        return {"replaced": self.replacements.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.replacements.load(state_dict["replaced"])
