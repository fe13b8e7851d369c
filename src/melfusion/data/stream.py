"""Classic sequential webdataset streaming, for `pipe:` and URLs without an index. Resume is approximate; a warning says so."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, groupby
from pathlib import Path
from typing import IO, Any

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from melfusion import randomness
from melfusion.data import tars
from melfusion.data.collate import collate, heed_only_the_loader
from melfusion.data.options import DataConfig
from melfusion.data.reading import decode_sample, digest_in, layout
from melfusion.data.remote import ask
from melfusion.data.shards import AUDIO_EXTS, CACHE_EXT, IMAGE_EXTS, count_pictures
from melfusion.errors import BadSample, DataError, shown
from melfusion.media.options import AudioConfig

log = logging.getLogger(__name__)

KNOWN = ("json", CACHE_EXT, *AUDIO_EXTS, *IMAGE_EXTS)


def known(ext: str) -> bool:
    """Is a member of this extension read? Of a further crop or picture the first word is its number."""
    return ext in KNOWN or ext.partition(".")[2] in (CACHE_EXT, *IMAGE_EXTS)


@contextmanager
def open_url(url: str, timeout_s: float = 60.0, rate_kib_s: float = 16.0) -> Iterator[IO[bytes]]:
    """A readable stream of a local file, an http(s) address, or the output of the user's own `pipe:command`."""
    try:
        if url.startswith("pipe:"):
            with subprocess.Popen(url.removeprefix("pipe:"), shell=True, stdout=subprocess.PIPE) as process:
                assert process.stdout is not None  # it is a pipe
                yield process.stdout
            if process.returncode:
                raise DataError(f"data.stream: {url} ended with status {process.returncode}; try the command by hand.")
        else:
            with ask(url, timeout_s, rate_kib_s) if "://" in url else Path(url).open("rb") as stream:
                yield stream
    except DataError:
        raise
    except Exception as error:  # errors of the network, and any that hostile headers provoke
        words = shown(" ".join(str(error).split()), url)[:200]
        raise DataError(
            f"data.stream: {url} cannot be read as a tar ({words}); check the address, and give a compressed one as `pipe:zcat …`."
        ) from error


def tar_samples(url: str, data: DataConfig) -> Iterator[tuple[str, dict[str, bytes] | BadSample]]:
    """(key, extension → bytes, or BadSample) for each sample of one plain tar, in its order and within the limits."""
    with open_url(url, data.timeout_s, data.min_rate_kib_s) as stream:
        for key, group in groupby(tars.members(stream, "r|"), key=lambda found: found[2]):
            yield key, _members(group, data)


def _members(group: Iterator[tuple], data: DataConfig) -> dict[str, bytes] | BadSample:
    """One sample's members; those of unknown kinds are empty. Nothing more is kept of a sample that breaks a limit."""
    raw: dict[str, bytes] = {}
    wrong, kept = None, 0
    for tar, member, _, ext in group:
        if ext in raw:
            wrong = BadSample("two members of one name")
        elif len(raw) >= data.max_sample_members:
            wrong = BadSample(f"more members than data.max_sample_members={data.max_sample_members}")
        elif (kept := kept + member.size * known(ext)) > data.max_member_mib * 2**20:
            wrong = BadSample(f"member larger than data.max_member_mib={data.max_member_mib:g}")
        elif wrong is None:
            raw[ext] = tar.extractfile(member).read() if known(ext) else b""
            if known(ext) and len(raw[ext]) != member.size:
                raise DataError(f"data.stream: a tar ends within {member.name!r:.80}; check the address.")
    return wrong or raw


class StreamingDataset(IterableDataset):
    """Endless samples from tar URLs, split by rank and worker; bad ones are skipped with their reason.

    made_with: the digest that precomputed members must carry (`reading.digest_of`); None where audio is to be read.
    """

    def __init__(
        self,
        data: DataConfig,
        audio: AudioConfig,
        seed: int,
        shapes: dict[str, tuple],
        rank: int,
        world: int,
        made_with: str | None = None,
    ):
        self.data, self.audio, self.seed, self.shapes, self.rank, self.world = data, audio, seed, shapes, rank, world
        self.made_with = made_with
        self.expected: tuple | None = None  # the first sample's layout, which all others must have

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        workers, number = (worker.num_workers, worker.id) if worker else (1, 0)
        reader, readers = self.rank * workers + number, self.world * workers
        urls = [url for pattern in self.data.stream for url in tars.webdataset_secured().shardlists.expand_urls(pattern)]
        if len(urls) < readers:
            raise DataError(
                f"data.stream names {len(urls)} shards for {readers} readers (ranks × workers): "
                "give at least one shard to each, or lower data.num_workers."
            )
        position, replaced = reader, []
        while True:
            found = 0
            for url, key, raw in chain.from_iterable(map(self._samples, urls[reader::readers])):
                try:
                    item = self._decode(key, raw, position)
                except BadSample as error:
                    replaced.append((f"{Path(shown(url)).name}:{key}", str(error)))
                    continue
                yield item | {"replaced": replaced}
                position, replaced, found = position + readers, [], found + 1
            if not found:
                raise DataError(f"data.stream: no usable sample in {urls[reader::readers]}; check the URLs.")

    def _samples(self, url: str) -> Iterator[tuple[str, str, Any]]:
        return ((url, *found) for found in tar_samples(url, self.data))

    def _decode(self, key: str, raw: dict[str, bytes] | BadSample, position: int) -> dict[str, Any]:
        if isinstance(raw, BadSample):
            raise raw
        crop = randomness.generator(self.seed, "crop", 0, position).random() if self.data.crop == "random" else 0.0
        several = count_pictures(raw.keys()) > 1
        picture = randomness.generator(self.seed, "picture", 0, position).random() if several else 0.0
        item = decode_sample(key, raw.keys(), raw.__getitem__, crop, self.audio, self.data, picture)
        if "cached" in item and (found := digest_in(raw[CACHE_EXT])) != self.made_with:
            raise DataError(
                f"data.stream: {key} holds tensors precomputed with {found or 'unknown parts'}, where this run takes "
                f"{self.made_with or 'audio'}: run `melfusion precompute` again with this configuration, or stream "
                "audio."
            )
        if self.expected is None:
            self.expected = layout(item)
        if layout(item) != self.expected:
            raise BadSample(f"{CACHE_EXT} is laid out unlike the first sample's")
        return item | {"position": position, "draws": randomness.draws(self.seed, position, self.shapes)}


def stream_loader(
    data: DataConfig, audio: AudioConfig, seed: int, micro: int, shapes: dict, rank: int, world: int, made_with: str | None = None
) -> DataLoader:
    """A DataLoader over `data.stream`."""
    log.warning("data.stream is read sequentially: after a resume it starts again at its first shard (approximate).")
    dataset = StreamingDataset(data, audio, seed, shapes, rank, world, made_with)
    return DataLoader(
        dataset, batch_size=micro, collate_fn=collate, num_workers=data.num_workers, worker_init_fn=heed_only_the_loader
    )
