"""Samples per second of CPU time that the loader reads, beside webdataset's and torch's on the same samples in the same run.

The samples have the sizes of full scale: 324 KB of precomputed tensors; a picture of 512 px and a clip of 10.24 s at 16 kHz.
Runs alternate, and the median of each counts. CPU time of one thread is "per core".
"""

from __future__ import annotations

import gc
import io
import json
import os
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import soundfile
import torch
from PIL import Image
from safetensors.torch import save
from torch.utils.data import DataLoader

from melfusion.bench.other_loaders import torch_loader, webdataset_loader
from melfusion.data import order
from melfusion.data.collate import collate
from melfusion.data.datamodule import MusicDataModule
from melfusion.data.options import DataConfig
from melfusion.data.reading import VOTERS
from melfusion.data.shards import CACHE_EXT, Sample, ShardSet
from melfusion.data.writing import write_shards
from melfusion.errors import DataError
from melfusion.media.mel import LogMel
from melfusion.media.options import AudioConfig

SIZES = {  # precomputed samples, raw samples, runs of each, samples of the large index
    "tiny": (256, 32, 3, 1_000_000),
    "small": (2048, 128, 5, 1_000_000),
    "full": (16384, 512, 5, 1_000_000),
}

BATCH = 32

NOISE: dict[str, tuple[int, ...]] = {"noise": (8, 256, 16)}  # what a training step draws for each sample

MADE = {"provenance": {"made": "by the benchmark"}}

META = {"caption": "a slow piano piece in a minor key", "split": "train", "labels": {}}


def measure(size: str, folder: Path) -> dict[str, float]:
    """Figure → value; the samples are written to `folder`. size: a key of SIZES."""
    cached, raw, runs, many = SIZES[size]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        stored = folder / "precomputed"
        write_shards(map(precomputed_sample, range(cached)), stored, info=MADE)
        unpack(stored, folder / "unpacked")
        write_shards(map(raw_sample, range(raw)), folder / "raw")
        rates = alternating(
            {
                "precomputed samples/s": lambda: take(loader(stored, random=True), cached),
                "sequential samples/s": lambda: take(loader(stored, random=False), cached),
                "precomputed, with noise samples/s": lambda: take(loader(stored, random=True, noise=NOISE), cached),
                "webdataset samples/s": lambda: take(webdataset_loader(stored, BATCH), cached),
                "torch samples/s": lambda: take(torch_loader(folder / "unpacked", BATCH), cached),
            },
            cached,
            runs,
        )
        mel = LogMel(AudioConfig())
        decode = {"raw samples/s": lambda: take(loader(folder / "raw", random=True), raw, lambda batch: mel(batch.waveform))}
        raw_rate = alternating(decode, raw, runs)
        return rates | raw_rate | derived(rates, stored, cached) | start(folder / "million", many)
    finally:
        torch.set_num_threads(threads)


def derived(rates: dict[str, float], stored: Path, samples: int) -> dict[str, float]:
    """Figures that follow from the rates."""
    mega = sum(path.stat().st_size for path in stored.glob("*.tar")) / samples / 1e6
    return {"precomputed MB/s": rates["precomputed samples/s"] * mega} | {
        f"precomputed, over {other} ×": rates["precomputed samples/s"] / rates[f"{other} samples/s"]
        for other in ("sequential", "webdataset", "torch")
    }


def alternating(kinds: dict[str, Callable[[], None]], samples: int, runs: int) -> dict[str, float]:
    """Samples per second of CPU time, the median of `runs` rounds in each of which every kind has its turn after a first one."""
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(runs + 1):
        for name, run in kinds.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    return {name: samples / median(taken[1:]) for name, taken in seconds.items()}


def take(batches: Any, samples: int, use: Callable[[Any], Any] = lambda batch: None) -> None:
    """Read so many samples, and `use` each batch."""
    iterator = iter(batches)
    for _ in range(samples // BATCH):
        use(next(iterator))


def loader(path: Path, random: bool, noise: dict[str, tuple[int, ...]] | None = None) -> DataLoader:
    """This project's loader, in the order of training or in that of the index."""
    provenance = ShardSet(path).info.get("provenance")
    module = MusicDataModule(DataConfig(path=str(path), global_batch_size=BATCH), AudioConfig(), 0, 1, noise, provenance)
    if random:
        return module.train_dataloader()
    dataset = module.dataset("train")
    return DataLoader(dataset, batch_sampler=order.EvalBatches(len(dataset), BATCH), collate_fn=collate)


def unpack(stored: Path, folder: Path) -> None:
    """Each member of a set as a file."""
    folder.mkdir()
    shards = ShardSet(stored)
    for entry in shards.entries("train"):
        for ext in entry.members:
            (folder / f"{entry.key}.{ext}").write_bytes(shards.read(entry, ext))


def precomputed_sample(number: int) -> Sample:
    """Random tensors of the shapes that full scale stores, in float16."""
    draw = np.random.default_rng(number).standard_normal
    shapes = {"latent_moments": (16, 256, 16), "text_embeds": (77, 1024), "image_latents": (1, 4, 64, 64), "has_image": ()}
    tensors = {name: torch.as_tensor(draw(shape, np.float32)).half() for name, shape in shapes.items()}
    tensors["text_mask"] = torch.ones(77, dtype=torch.uint8)
    return Sample(f"s{number:08d}", b"", "", None, "", META, {CACHE_EXT: save(tensors)})


def raw_sample(number: int) -> Sample:
    """A clip of four tones with noise as FLAC, and waves of colour with noise as JPEG."""
    rng, seconds = np.random.default_rng(number), np.arange(163_840) / 16_000
    waveform = sum(0.1 * np.sin(2 * np.pi * f * seconds) for f in (220, 440, 1000, 3000)) + rng.normal(0, 0.01, seconds.shape)
    across, down = np.meshgrid(np.arange(512) / 512, np.arange(512) / 512)
    colours = np.stack([np.sin(9 * across + number) / 2 + 0.5, np.cos(7 * down) / 2 + 0.5, across * down], -1) * 255
    pixels = (colours + rng.normal(0, 8, colours.shape)).clip(0, 255).astype(np.uint8)
    audio, picture = io.BytesIO(), io.BytesIO()
    soundfile.write(audio, waveform.astype(np.float32), 16_000, format="FLAC", subtype="PCM_16")
    Image.fromarray(pixels).save(picture, "JPEG", quality=90)
    return Sample(f"s{number:08d}", audio.getvalue(), "flac", picture.getvalue(), "jpg", META)


def start(folder: Path, samples: int) -> dict[str, float]:
    """Seconds, and growth of memory at its peak, from an index of so many samples to the first batch of a training."""
    large_set(folder, samples)
    os.utime(folder / "index.json", (time.time() - 60,) * 2)  # as that of a set that was not written just now
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before, since = resident_mib("VmRSS"), time.perf_counter()
    batch = next(iter(loader(folder, random=True)))
    seconds, grown = time.perf_counter() - since, resident_mib("VmHWM") - before
    if batch.replaced or len(batch) != BATCH:
        raise DataError(f"{folder}: the first batch did not come from its own samples; remove the folder and start again.")
    return {"million start s": seconds, "million start MiB": grown}


def resident_mib(name: str) -> float:
    """This process's memory now (VmRSS), or at its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def large_set(folder: Path, samples: int, per_shard: int = 256) -> None:
    """So many precomputed samples in an index; only those that are read first lie in the shards, the others are holes."""
    folder.mkdir(parents=True)
    places, step = packed("0" * 9)[1:]
    read = {order.sample_index(0, position, samples) for position in range(BATCH)} | {i * samples // VOTERS for i in range(VOTERS)}
    with (folder / "index.json").open("w") as index:
        index.write(json.dumps({"version": 1, "info": MADE})[:-1] + ', "shards": [')
        for first in range(0, samples, per_shard):
            numbers = range(first, min(samples, first + per_shard))
            name, size = f"train-{first // per_shard:06d}.tar", step * len(numbers) + 1024
            with (folder / name).open("wb") as file:
                file.truncate(size)
                for number in read.intersection(numbers):
                    file.seek(step * (number - first))
                    file.write(packed(f"{number:09d}")[0])
            entries = [
                {
                    "key": f"{number:09d}",
                    "members": {ext: (step * i + offset, length) for ext, (offset, length) in places.items()},
                    "digests": f"{number:064x}",
                }
                for i, number in enumerate(numbers)
            ]
            shard = {"name": name, "bytes": size, "sha256": f"{first:064x}", "samples": entries}
            index.write((", " if first else "") + json.dumps(shard))
        index.write("]}")


def packed(key: str) -> tuple[bytes, dict[str, tuple[int, int]], int]:
    """A precomputed sample as it lies in a tar, the places of its members there, and its size."""
    blocks, places = b"", {}
    for ext, data in precomputed_sample(0).members().items():
        info = tarfile.TarInfo(f"{key}.{ext}")
        info.size = len(data)
        blocks += info.tobuf(tarfile.USTAR_FORMAT)
        places[ext] = (len(blocks), len(data))
        blocks += data + bytes(-len(data) % tarfile.BLOCKSIZE)
    return blocks, places, len(blocks)
