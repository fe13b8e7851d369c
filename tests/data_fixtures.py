"""Encoded sounds and pictures, and small data sets of them, for the tests of the data path."""

import io
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from melfusion.data.shards import Sample
from melfusion.data.writing import write_shards


def one_sentence(error: BaseException) -> str:
    """The message of an error that a user sees, checked to be one line and one sentence."""
    text = str(error)
    assert text and "\n" not in text, text
    assert ". " not in text.replace("….", "").rstrip(". "), text
    return text


def tone(seconds: float, rate: int, frequency_hz: float = 440.0, level: float = 0.3) -> np.ndarray:
    return level * np.sin(2 * np.pi * frequency_hz * np.arange(round(seconds * rate)) / rate)


def chord(seconds: float, rate: int) -> np.ndarray:
    """Three notes with overtones that fade, struck twice a second."""
    t = np.arange(round(seconds * rate)) / rate
    notes = [np.sin(2 * np.pi * f * k * t) / k for f in (220.0, 277.2, 329.6) for k in (1, 2, 3, 4)]
    return 0.1 * sum(notes) * np.exp(-4 * (t % 0.5))


def sound(waveform: np.ndarray, rate: int = 8000, kind: str = "WAV", subtype: str | None = None) -> bytes:
    """(S,) or (S, channels) → an encoded file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def write_film(path: Path, frames: np.ndarray) -> Path:
    """A film of pictures (N, H, W, 3), 10 a second, in the format that the file's name says."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = *frames.shape[1:3], "yuv420p", 5
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise_picture(seed: int = 0, width: int = 20, height: int = 16) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def make_sample(
    key: str = "a",
    split: str = "train",
    audio: bytes | None = None,
    ext: str = "wav",
    image: bytes | None = None,
    image_ext: str = "png",
    **meta,
) -> Sample:
    """A sample that can be read; a tone of its own and no picture unless given."""
    number = sum(key.encode())
    audio = sound(tone(1.5, 8000, 200 + number % 700)) if audio is None else audio
    return Sample(key, audio, ext, image, image_ext, {"caption": f"tune {key}", "split": split} | meta)


def data_set(folder: Path, samples, per_shard: int = 4, info=None) -> Path:
    write_shards(samples, folder, per_shard, info)
    return folder
