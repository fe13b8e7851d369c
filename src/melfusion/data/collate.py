"""Samples → MusicBatch."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
from typing import Any

import torch

from melfusion.batch import EXTRA, MusicBatch


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
        batch.other = pictures_alone(collate([item["other"] for item in items]))
    if "cached" in items[0]:
        return collate_cached(batch, [item["cached"] for item in items])
    batch.waveform = stack([item["waveform"] for item in items])
    batch.image = stack([item["image"] for item in items])
    return batch


def collate_cached(batch: MusicBatch, cached: list[dict[str, torch.Tensor]]) -> MusicBatch:
    floats = {name: stacked([c[name] for c in cached]) for name in cached[0]}
    layers = sorted(name.removeprefix("key.") for name in floats if name.startswith("key."))
    batch.latent_moments, batch.text_embeds = floats["latent_moments"], floats["text_embeds"]
    batch.text_mask, batch.has_image = floats["text_mask"].bool(), floats["has_image"]
    batch.extra = {name.removeprefix(EXTRA): t for name, t in floats.items() if name.startswith(EXTRA)}
    batch.image_latents = floats.get("image_latents")
    batch.visual_features = {k: (floats[f"key.{k}"], floats[f"value.{k}"]) for k in layers} or None
    return batch


def stacked(tensors: list[torch.Tensor]) -> torch.Tensor:
    """One tensor of them all, floats as float32. Converting while copying saves a second pass over the batch."""
    if not tensors[0].is_floating_point():
        return torch.stack(tensors)
    out = torch.empty(len(tensors), *tensors[0].shape)
    for row, tensor in zip(out, tensors, strict=True):
        row.copy_(tensor)
    return out


def heed_only_the_loader(worker: int) -> None:
    """For a loader process: ignore a cluster's signal to the whole job. The run itself saves, and then ends its workers."""
    signals = {signal.SIGTERM, signal.SIGUSR1}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # of this thread and those it starts: only `watch` gets them

    def watch() -> None:
        while (got := signal.sigwaitinfo(signals)).si_signo != signal.SIGTERM or got.si_pid != os.getppid():
            continue
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def pictures_alone(batch: MusicBatch) -> MusicBatch:
    """The batch without waveform, latents, text and draws: of the partners only the pictures are needed."""
    return dataclasses.replace(batch, waveform=None, latent_moments=None, text_embeds=None, text_mask=None, extra={}, draws={})
