"""Clips that were made, and the files that they are written to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from melfusion.assembly.provenance import comment_of
from melfusion.media.sound import within_one, write_sound


@dataclass
class Music:
    """Clips that were made.

    Attributes:
        audios: (n, S) float32, or (n, C, S) where the codec has several channels; in [-1, 1] but where codec.peak=none.
        sample_rate_hz: samples per second.
        seeds: of each clip.
        log_mels: (n, T, F), for a look at them.
        made: what made each clip (assembly/provenance.py).
    """

    audios: np.ndarray
    sample_rate_hz: int
    seeds: list[int]
    log_mels: np.ndarray
    made: list[dict[str, Any]] = field(default_factory=list)

    def save(self, path: str | Path, metadata: bool = True) -> list[Path]:
        """Write name.wav, or name-0.wav and so on of several clips; returns the files. name.flac, .mp3 and .ogg are written, too.

        metadata: the file carries what made it, which `melfusion show` prints.
        """
        path = Path(path)
        files = [path] if len(self.audios) == 1 else [path.with_stem(f"{path.stem}-{i}") for i in range(len(self.audios))]
        for i, file in enumerate(files):
            self.write(i, file, metadata)
        return files

    def write(self, row: int, file: Path, metadata: bool = True) -> None:
        """One of the clips into a file, whole or not at all; a clip whose peak is above 1 is scaled down to it."""
        text = comment_of(self.made[row]) if metadata and self.made else ""
        write_sound(file, within_one(self.audios[row]), self.sample_rate_hz, text)
