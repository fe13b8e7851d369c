"""Clips whose files were found → samples as shards hold them: excerpts as flac, pictures as they are, frames of films."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image
from rich.progress import track as progress

from melfusion.data.manifest.files import SLACK
from melfusion.data.manifest.report import Report
from melfusion.data.manifest.rows import ManifestClip, PictureFile
from melfusion.data.shards import AUDIO_EXTS, Sample, picture_ext
from melfusion.errors import BadSample, ConfigError
from melfusion.media import video
from melfusion.media.pictures import open_image, to_rgb

QUALITY = 95  # of a frame, as JPEG


def samples(clips: dict[str, ManifestClip], frames: int, report: Report) -> Iterator[Sample]:
    order = sorted(
        clips, key=lambda key: hashlib.sha256(key.encode()).digest()
    )  # mixed, since readers without an index keep this order
    for key in progress(order, "write shards"):
        clip = clips[key]
        field, value = clip.kind.audio, clip.name
        try:
            audio_ext = clip.audio.suffix[1:].lower()
            if clip.start_s is None and audio_ext in AUDIO_EXTS:
                audio = clip.audio.read_bytes()
            else:
                audio_ext, audio = "flac", _flac(clip)
            shown: list[tuple[str, bytes]] = []
            for picture, name in zip(clip.images, clip.pictures, strict=True):
                field, value = clip.kind.image, name
                shown += _pictures(clip, picture, frames)
        except (BadSample, OSError) as error:
            report.miss(clip, field, value, error)
            continue
        image_ext, image = shown[0] if shown else ("png", None)
        further = {picture_ext(number, ext): data for number, (ext, data) in enumerate(shown[1:], 1)}
        yield Sample(key, audio, audio_ext, image, image_ext, clip.meta, further)


def _pictures(clip: ManifestClip, picture: PictureFile, frames: int) -> list[tuple[str, bytes]]:
    """Extension and bytes of a picture, or of so many frames of a film.

    The frames are the middles of equal parts of the excerpt. A film that is no longer than an excerpt is the excerpt.
    """
    if not picture.film:
        return [(picture.ext, picture.path.read_bytes()) if picture.ext else ("png", _png(picture.path))]
    try:
        length = video.duration_s(picture.path)
        start = clip.start_s if clip.start_s is not None and length > clip.excerpt_s * SLACK else 0.0
        end = length if clip.start_s is None else min(length, start + clip.excerpt_s)
        if start >= length:
            raise BadSample(f"start_s lies behind the end of the film ({length:.1f} s)")
        times = [start + (k + 0.5) * (end - start) / frames for k in range(frames)]
        return [("jpg", _jpg(image)) for image in video.frames_at(picture.path, times)]
    except ConfigError as error:
        raise BadSample("unreadable film") from error


def _flac(clip: ManifestClip) -> bytes:
    """The excerpt, or the whole file, at its own rate and channels; integers keep their values up to 24 bits."""
    buffer = io.BytesIO()
    try:
        with clip.audio.open("rb") as file, soundfile.SoundFile(file) as sound:
            rate, kind = sound.samplerate, sound.subtype
            sound.seek(round((clip.start_s or 0) * rate))
            length = -1 if clip.start_s is None else round(clip.excerpt_s * rate)
            frames = sound.read(length, "int32" if kind.startswith("PCM") else "float32", always_2d=True)
        if not len(frames) or not np.isfinite(frames).all():
            raise BadSample("audio holds NaN or infinity, or ends before the excerpt")
        frames = frames.clip(-1, 1) if frames.dtype == np.float32 else frames
        depth = "PCM_24" if kind in ("PCM_24", "PCM_32", "FLOAT", "DOUBLE") else "PCM_16"
        soundfile.write(buffer, frames, rate, format="FLAC", subtype=depth)
    except (soundfile.SoundFileError, RuntimeError, TypeError) as error:
        raise BadSample("audio cannot be decoded or stored as flac") from error
    return buffer.getvalue()


def _png(path: Path) -> bytes:
    buffer = io.BytesIO()
    to_rgb(open_image(path.read_bytes())).save(buffer, "PNG")
    return buffer.getvalue()


def _jpg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    to_rgb(image).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
