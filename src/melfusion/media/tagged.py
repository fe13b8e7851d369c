"""Sound files with a text in their metadata: encoded, and read again. It imports no torch.

libsndfile keeps the text of flac, ogg and mp3 whole. In a wav it gives back about two thousand characters at most, so there the
INFO chunk is written and read here (IBM and Microsoft, Multimedia Programming Interface and Data Specifications 1.0, chapter 2).
"""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import soundfile

from melfusion.errors import ConfigError, DamagedFile
from melfusion.media import video
from melfusion.media.options import SOUND_FORMATS

BLOCK = 1 << 16  # frames that are encoded at once: Vorbis needs much of the stack for more

ODD = b"\0"  # fills a chunk of odd length


def format_of(path: str | Path) -> str:
    """The format that a file's name asks for; ConfigError where it is none of SOUND_FORMATS."""
    end = Path(path).suffix.lower().removeprefix(".")
    if end not in SOUND_FORMATS:
        raise ConfigError(f"{path}: sound is written as {', '.join(SOUND_FORMATS)}; give a name with one of these ends.")
    return end


def encode(waveform: np.ndarray, sample_rate_hz: int, kind: str, text: str = "") -> bytes:
    """(S,) or (2, S) in [-1, 1] → a file of the kind, one of SOUND_FORMATS, with the text in its comment. Equal input, equal bytes,
    but for ogg, which gets a random number.
    """
    clip, data = np.clip(np.asarray(waveform, dtype=np.float32), -1, 1).T, io.BytesIO()
    channels = 1 if clip.ndim == 1 else clip.shape[1]
    with soundfile.SoundFile(data, "w", sample_rate_hz, channels, SOUND_FORMATS[kind], format=kind.upper()) as file:
        if text and kind != "wav":
            file.comment = text
        for start in range(0, len(clip), BLOCK):
            file.write(clip[start : start + BLOCK])
    return with_info(data.getvalue(), text) if text and kind == "wav" else data.getvalue()


def with_info(wav: bytes, text: str) -> bytes:
    """A wav file with the text as the comment of its INFO chunk, at its end."""
    said = text.encode() + ODD
    info = b"INFO" + _chunk(b"ICMT", said)
    whole = wav + (ODD if len(wav) % 2 else b"") + _chunk(b"LIST", info)
    return whole[:4] + struct.pack("<I", len(whole) - 8) + whole[8:]


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + (ODD if len(data) % 2 else b"")


def comment(path: str | Path) -> str:
    """The comment of a sound file or a film, empty where it has none; ConfigError for no file, DamagedFile for what is no sound."""
    file = Path(path)
    if file.suffix.lower() in video.CONTAINERS and file.is_file():
        return video.comment(file)
    if not file.is_file():
        raise ConfigError(f"{path}: there is no such file; check the path.")
    try:
        with soundfile.SoundFile(file) as sound:
            return sound.comment if sound.format not in ("WAV", "WAVEX") else _info(file.read_bytes())
    except soundfile.SoundFileError:
        raise DamagedFile(f"{path} cannot be read as sound: give a file that melfusion has written.") from None


def _info(wav: bytes) -> str:
    found = _parts(wav[12:])
    for name, data in found:
        if name == b"LIST" and data[:4] == b"INFO":
            for inner, text in _parts(data[4:]):
                if inner == b"ICMT":
                    return text.rstrip(ODD).decode(errors="replace")
    return ""


def _parts(data: bytes) -> list[tuple[bytes, bytes]]:
    """The chunks of a RIFF file or list, (name, content)."""
    found, at = [], 0
    while at + 8 <= len(data):
        size = struct.unpack_from("<I", data, at + 4)[0]
        found.append((data[at : at + 4], data[at + 8 : at + 8 + size]))
        at += 8 + size + size % 2
    return found
