"""The source `scenes`: drawn on this machine, from a seed."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from melfusion.data.options import DataConfig
from melfusion.data.source import CorpusOptions, Source
from melfusion.errors import ConfigError

if TYPE_CHECKING:
    from melfusion.data.shards import Sample, ShardSet

log = logging.getLogger(__name__)

LEAST_IMAGE_PX = 128  # pictures are stored at least this large, whatever size a training reads

FEW = 200  # so many scenes are drawn sooner than other processes have started


class Scenes(Source):
    """Drawn pictures and rendered music: `data.splits` says how many, `data.corpus_seed` which ones."""

    name = "scenes"
    command = 'make data-scenes ARGS="data.path={path}"'
    drawn = True

    def samples(self, config: CorpusOptions, inputs: Path | None) -> Iterable[Sample]:
        return self._draw(config, config.data.splits, self._processes(config))

    def count(self, config: CorpusOptions) -> int:
        return sum(config.data.splits.values())

    def seconds(self, config: CorpusOptions) -> float:
        """From timed scenes: six from a multiple of six have every place, and so every instrument, once."""
        drawn = iter(self._draw(config, {"train": 12}, 1))
        times = []
        for _ in range(12):
            started = time.perf_counter()
            next(drawn)
            times.append(time.perf_counter() - started)
        return sum(times[6:]) / 6 * self.count(config) / self._processes(config)

    def _processes(self, config: CorpusOptions) -> int:
        return len(os.sched_getaffinity(0)) if self.count(config) > FEW else 1

    def _draw(self, config: CorpusOptions, splits: dict[str, int], processes: int) -> Iterable[Sample]:
        from melfusion.data.scenes import corpus

        data, audio = config.data, config.audio
        return corpus.samples(data.corpus_seed, splits, audio.clip_duration_s, audio.sample_rate_hz, _image_size(data), processes)

    def info(self, config: CorpusOptions) -> dict[str, Any]:
        """Everything that the bytes of the scenes depend on."""
        from melfusion.data.scenes import corpus

        return {
            "seed": config.data.corpus_seed,
            "sample_rate_hz": config.audio.sample_rate_hz,
            "clip_duration_s": config.audio.clip_duration_s,
            "image_size_px": _image_size(config.data),
            **corpus.contract(),
        }

    def check_size(self, key: str, n: int, data: DataConfig) -> None:
        """ConfigError above `data.max_scenes`."""
        if n > (most := data.max_scenes):
            raise ConfigError(
                f"{key} asks for {n} scenes, more than data.max_scenes={most}: give fewer, or data.max_scenes={n} where "
                "they are really wanted."
            )

    def differs(self, there: ShardSet, config: CorpusOptions) -> str:
        """Another seed, too few scenes, or sound and pictures that are too small; a set of others is not compared."""
        if there.info.get("source") != self.name:
            log.warning(
                "%s does not say that its samples are drawn scenes: data.source=manifest says that they are others.",
                config.data.path,
            )
            return ""
        info, held, found = there.info, there.counts(), []
        if info["seed"] != config.data.corpus_seed:
            found.append(f"scenes of seed {info['seed']}, not data.corpus_seed={config.data.corpus_seed}")
        for split, n in config.data.splits.items():
            if held.get(split, 0) < n:
                found.append(f"{held.get(split, 0)} scenes for {split}, not {n}")
        wanted = {
            "sample_rate_hz": config.audio.sample_rate_hz,
            "clip_duration_s": config.audio.clip_duration_s,
            "image_size_px": config.data.image_size_px,
        }
        for name, least in wanted.items():
            if info.get(name, least) < least:
                found.append(f"scenes of {name} {info[name]}, less than {least}")
        return " and ".join(found)


def _image_size(data: DataConfig) -> int:
    return max(LEAST_IMAGE_PX, data.image_size_px)
