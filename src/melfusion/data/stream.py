"""Classic sequential webdataset streaming for `pipe:` and unindexed URLs; its resume is approximate and it says so."""

from __future__ import annotations

import logging
import subprocess
import tarfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any

from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from webdataset.shardlists import expand_urls
from webdataset.tariterators import group_by_keys, tar_file_expander

from melfusion.audio import BadSample
from melfusion.data import order
from melfusion.data.datamodule import collate, decode_sample
from melfusion.data.shards import DataError
from melfusion.schema import AudioConfig, DataConfig

log = logging.getLogger(__name__)


@contextmanager
def open_url(url: str) -> Iterator[IO[bytes]]:
    """A readable stream of a local file, an http(s) address, or the output of the user's own `pipe:command`."""
    try:
        if url.startswith("pipe:"):
            with subprocess.Popen(url.removeprefix("pipe:"), shell=True, stdout=subprocess.PIPE) as process:
                yield process.stdout
            if process.returncode:
                raise DataError(f"data.stream: {url} ended with status {process.returncode}; try the command by hand.")
        else:
            with urllib.request.urlopen(url) if "://" in url else Path(url).open("rb") as stream:
                yield stream
    except (OSError, tarfile.TarError) as error:
        words = " ".join(str(error).split())
        raise DataError(f"data.stream: {url} cannot be read as a tar ({words}); check the address.") from error


def tar_samples(url: str) -> Iterator[dict[str, Any]]:
    """Raw samples (extension → bytes, and `__key__`) of one tar, in its order."""
    with open_url(url) as stream:
        yield from group_by_keys(tar_file_expander([{"url": url, "stream": stream}]))


class StreamingDataset(IterableDataset):
    """Endless samples from tar URLs, split by rank and worker; bad ones are skipped with their reason."""

    def __init__(
        self, data: DataConfig, audio: AudioConfig, seed: int, shapes: dict[str, tuple], rank: int, world: int
    ):
        self.data, self.audio, self.seed, self.shapes, self.rank, self.world = data, audio, seed, shapes, rank, world

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        workers, number = (worker.num_workers, worker.id) if worker else (1, 0)
        reader, readers = self.rank * workers + number, self.world * workers
        urls = [url for pattern in self.data.stream for url in expand_urls(pattern)]
        if len(urls) < readers:
            raise DataError(f"data.stream names {len(urls)} shards for {readers} readers (ranks × workers): "
                            "give at least one shard to each, or lower data.num_workers.")  # fmt: skip
        position, replaced = reader, []
        while True:
            found = 0
            for raw in chain.from_iterable(map(tar_samples, urls[reader::readers])):
                try:
                    item = self._decode(raw, position)
                except BadSample as error:
                    replaced.append((raw["__key__"], str(error)))
                    continue
                yield item | {"replaced": replaced}
                position, replaced, found = position + readers, [], found + 1
            if not found:
                raise DataError(f"data.stream: no usable sample in {urls[reader::readers]}; check the URLs.")

    def _decode(self, raw: dict[str, Any], position: int) -> dict[str, Any]:
        crop = order.generator(self.seed, "crop", 0, position).random() if self.data.crop == "random" else 0.0
        item = decode_sample(raw["__key__"], raw.keys(), raw.__getitem__, crop, self.audio, self.data)
        return item | {"position": position, "draws": order.draws(self.seed, position, self.shapes)}


def stream_loader(data: DataConfig, audio: AudioConfig, seed: int, micro: int, shapes: dict, rank: int, world: int):
    """A DataLoader over `data.stream`."""
    log.warning("data.stream is read sequentially: after a resume it starts again at its first shard (approximate).")
    dataset = StreamingDataset(data, audio, seed, shapes, rank, world)
    return DataLoader(dataset, batch_size=micro, collate_fn=collate, num_workers=data.num_workers)
