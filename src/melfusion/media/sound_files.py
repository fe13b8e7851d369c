"""What a sound file is by its header, in words, for errors about files that cannot be read. No heavy imports."""

from __future__ import annotations

from pathlib import Path

import soundfile

from melfusion.errors import ConfigError

WANTED = "give a wav, flac, ogg or mp3 file"


def sound_seconds(option: str, path: str | Path) -> float:
    """Seconds of a sound that a user named; ConfigError where it is none."""
    file = Path(path)
    if file.is_dir():
        raise ConfigError(f"{option}={path} is a folder: {WANTED}.")
    if not file.exists():
        raise ConfigError(f"{option}={path}: there is no such file.")
    if not file.is_file():
        raise ConfigError(f"{option}={path} is no regular file: {WANTED}.")
    try:
        about = soundfile.info(str(file))
    except (soundfile.SoundFileError, RuntimeError):
        raise ConfigError(f"{option}={path} is no sound that can be read: {WANTED}.") from None
    if not about.frames or not about.samplerate:
        raise ConfigError(f"{option}={path} holds no sound: {WANTED}.")
    return about.frames / about.samplerate
