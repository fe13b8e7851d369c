"""Loaders of other packages over the same precomputed samples: what this project's own is measured beside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from torch.utils.data import DataLoader, Dataset

from melfusion.data import tars
from melfusion.data.shards import CACHE_EXT


def stacked(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """What the others' loaders make of samples: the same tensors as our batches, in float32."""
    names = samples[0]["tensors"]
    whole = {name: torch.stack([sample["tensors"][name] for sample in samples]) for name in names}
    return {name: t.float() if t.is_floating_point() else t for name, t in whole.items()} | {
        "captions": [sample["meta"]["caption"] for sample in samples]
    }


def decoded(meta: bytes, tensors: bytes) -> dict[str, Any]:
    return {"meta": json.loads(meta), "tensors": load(tensors)}


def webdataset_loader(path: Path, batch_size: int) -> Iterator[dict[str, Any]]:
    """webdataset reads the shards one after another."""
    reading = tars.webdataset_secured().tariterators

    def samples() -> Iterator[dict[str, Any]]:
        for shard in sorted(path.glob("*.tar")):
            with shard.open("rb") as stream:
                files = reading.tar_file_expander([{"url": shard.name, "stream": stream}])
                yield from (decoded(found["json"], found[CACHE_EXT]) for found in reading.group_by_keys(files))

    batch: list[dict[str, Any]] = []
    for sample in samples():
        batch.append(sample)
        if len(batch) == batch_size:
            yield stacked(batch)
            batch = []


class Unpacked(Dataset):
    """torch's map-style data set over a file for each member."""

    def __init__(self, folder: Path):
        self.keys = sorted(folder.glob("*.json"))

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, number: int) -> dict[str, Any]:
        path = self.keys[number]
        return decoded(path.read_bytes(), path.with_suffix(f".{CACHE_EXT}").read_bytes())


def torch_loader(folder: Path, batch_size: int) -> DataLoader:
    return DataLoader(Unpacked(folder), batch_size=batch_size, shuffle=True, collate_fn=stacked)
