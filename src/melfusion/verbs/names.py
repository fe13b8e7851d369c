"""The files that `generate` writes, and which clip of which batch it makes."""

from __future__ import annotations

import re
from pathlib import Path

from melfusion.errors import ConfigError
from melfusion.media.options import SOUND_FORMATS

LARGEST_BATCH = 1000  # clips


def picture_file(wav: Path, image: str | None) -> Path:
    """Where a clip's spectrogram goes: cat.png beside cat.wav may be the user's picture."""
    png = wav.with_suffix(".png")
    if image and png.resolve() == Path(image).resolve():
        png = wav.with_name(f"{wav.stem}-spectrogram.png")
    return png


def read_batch(text: str | None) -> tuple[int, int, int]:
    """ROW/CLIPS/PICTURES → the three numbers; None is one clip alone. ConfigError for anything else."""
    if text is None:
        return 0, 1, 1
    found = re.fullmatch(r"(\d+)/(\d+)/(\d+)", text)
    row, clips, pictures = map(int, found.groups()) if found else (0, 0, 0)
    if not row < clips <= LARGEST_BATCH or pictures not in (0, 1, clips):
        raise ConfigError(f"batch={text} must read ROW/CLIPS/PICTURES, such as 2/8/1, as `melfusion show` prints it.")
    return row, clips, pictures


def clip_files(out: str | None, words: str, seed: int, n: int, end: str = "wav") -> list[Path]:
    """OUT=name.wav → that file (name-0.wav … for several); OUT=folder or nothing → a name no file has yet."""
    if end not in SOUND_FORMATS:
        raise ConfigError(f"format={end}: sound is written as {', '.join(SOUND_FORMATS)}; give one of these.")
    if out and Path(out).suffix.lower()[1:] in SOUND_FORMATS:
        if Path(out).is_dir():
            raise ConfigError(f"out={out} is a folder: give a file, or a folder whose name does not end in {Path(out).suffix}.")
        base = Path(out)
        return [base] if n == 1 else [base.with_stem(f"{base.stem}-{i}") for i in range(n)]
    stem = name_of(words)
    folder = Path(out or "outputs")
    taken = {file.name for file in folder.glob(f"{stem}-seed*.{end}")} if folder.is_dir() else set()
    files = []
    for i in range(n):
        name, k = f"{stem}-seed{seed + i}.{end}", 1
        while name in taken:
            name, k = f"{stem}-seed{seed + i}-{k}.{end}", k + 1
        taken.add(name)
        files.append(folder / name)
    return files


def name_of(words: str) -> str:
    """A sentence as the beginning of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")[:40] or "music"
