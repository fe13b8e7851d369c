"""Films by PyAV, an extra: their shots, a picture of each, and a film with another sound."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from melfusion.errors import ConfigError
from melfusion.files import whole_path

WANTED = "give a film such as an MP4"
SIDE = 64  # pixels of the small frames that are compared
BINS = 8  # of each colour
LEAST = 0.25  # share of a frame's pixels that must change colour at a cut
FACTOR = 4.0  # and so many times the median of the changes around it
AROUND_S = 1.0  # to each side, for that median
CONTAINERS = (".mp4", ".mov", ".mkv")  # in which the new sound is AAC
# names of FFmpeg's readers that read the file alone: a list, which another one reads, may name other files and addresses
READERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,ogg,flv,asf"
MOST_PIXELS = 40_000_000  # of a frame: a little more than 8K has


@dataclass(frozen=True)
class Shot:
    """start_s, end_s: of the film. picture: its middle frame."""

    start_s: float
    end_s: float
    picture: Image.Image


def library() -> Any:
    """PyAV; ConfigError where it is missing."""
    try:
        import av
    except ImportError:
        raise ConfigError("Films need the package av: run `pip install 'melfusion[video]'`.") from None
    return av


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[Any]:
    """The film's container; ConfigError where it is none."""
    av = library()
    if not Path(path).is_file():
        raise ConfigError(f"film={path}: there is no such file; {WANTED}.")
    try:
        with av.open(str(path), options={"format_whitelist": READERS}) as container:
            if not container.streams.video:
                raise ConfigError(f"film={path} holds no pictures: {WANTED}.")
            container.streams.video[0].codec_context.options = {"max_pixels": str(MOST_PIXELS)}
            yield container
    except av.error.FFmpegError as error:
        raise unreadable(path, error) from None


def unreadable(path: str | Path, error: Any) -> ConfigError:
    """What is wrong with a film that FFmpeg cannot read."""
    return ConfigError(f"film={path} cannot be read ({error.strerror}): {WANTED}.")


def check_film(path: str | Path) -> None:
    """ConfigError where a file is no film, or one without a frame."""
    with opened(path) as container:
        if next(container.decode(video=0), None) is None:
            raise ConfigError(f"film={path} has no frame that can be decoded: {WANTED}.")


def shots(path: str | Path, shortest_s: float, longest_s: float) -> list[Shot]:
    """The shots of a film, none shorter than `shortest_s` unless the film is; ConfigError where it has no frames or lasts longer
    than `longest_s`."""
    times, changes = [], []
    before = None
    with opened(path) as container:
        for frame in container.decode(video=0):
            small = frame.reformat(SIDE, SIDE, "rgb24").to_ndarray()
            histogram = np.bincount(_colours(small), minlength=BINS**3) / SIDE**2
            changes.append(0.0 if before is None else float(np.abs(histogram - before).sum() / 2))
            times.append(float(frame.time or 0.0))
            before = histogram
            if times[-1] - times[0] > longest_s:
                break
    if not times:
        raise ConfigError(f"film={path} has no frame that can be decoded: {WANTED}.")
    origin, step = times[0], (times[-1] - times[0]) / max(len(times) - 1, 1) or 0.04
    at = np.array(times) - origin
    end = float(at[-1] + step)
    if end > longest_s + 0.01:
        raise ConfigError(f"film={path} is longer than {longest_s:g} s: cut it into parts.")
    starts = [0.0, *cuts(at, np.array(changes), shortest_s, end)]
    spans = list(zip(starts, [*starts[1:], end], strict=True))
    pictures = _frames_at(path, [origin + (a + b) / 2 for a, b in spans])
    return [Shot(a, b, picture) for (a, b), picture in zip(spans, pictures, strict=True)]


def _colours(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) bytes → (H · W,) the bin of each pixel's colour."""
    coarse = (pixels.reshape(-1, 3) // (256 // BINS)).astype(np.int64)
    return coarse[:, 0] * BINS**2 + coarse[:, 1] * BINS + coarse[:, 2]


def cuts(at: np.ndarray, changes: np.ndarray, shortest_s: float, end: float) -> list[float]:
    """Times at which a new shot begins.

    A cut is a frame whose colour histogram differs from that of the frame before by at least LEAST of all pixels, and by FACTOR
    times the median difference within AROUND_S of it. So neither a flickering nor a moving picture is one; nor is a slow dissolve.
    The clearest cuts are taken first, and those that would make a shot shorter than `shortest_s` are left out.

    Args:
        at: (n,) times of the frames, from 0.  changes: (n,) difference of each to the one before it, 0 to 1.  end: of the film.
    """
    found: list[float] = []
    for i in np.argsort(-changes, kind="stable"):
        if changes[i] < LEAST:
            break
        around = changes[(np.abs(at - at[i]) <= AROUND_S) & (at != at[i])]
        clear = not len(around) or changes[i] >= FACTOR * np.median(around)
        if clear and all(abs(at[i] - other) >= shortest_s for other in (0.0, end, *found)):
            found.append(float(at[i]))
    return sorted(found)


def container_for(path: str | Path) -> str:
    """.mp4, which browsers play, where it takes the pictures of a film as they are stored; else .mkv, which takes all."""
    with opened(path) as container, library().open(io.BytesIO(), "w", format="mp4") as film:
        return ".mp4" if container.streams.video[0].codec_context.name in film.supported_codecs else ".mkv"


def duration_s(path: str | Path) -> float:
    """How long a film is, in seconds; ConfigError where its container does not say."""
    with opened(path) as container:
        stream = container.streams.video[0]
        if stream.duration is not None and stream.time_base is not None:
            return float(stream.duration * stream.time_base)
        if container.duration is not None:
            return float(container.duration / library().time_base)
    raise ConfigError(f"film={path} does not say how long it is: {WANTED}.")


def frames_at(path: str | Path, times: list[float]) -> list[Image.Image]:
    """The frame shown at each of some times in s from the film's start, in order; ConfigError where it has none.

    It decodes from the last key frame before the first time on.
    """
    with opened(path) as container:
        stream = container.streams.video[0]
        origin = float((stream.start_time or 0) * stream.time_base)
        container.seek(max(0, round((origin + times[0]) / stream.time_base)), stream=stream, backward=True)
        found = _shown_at(container, [origin + at for at in times])
    if not found:
        raise ConfigError(f"film={path} has no frame that can be decoded: {WANTED}.")
    return found


def _frames_at(path: str | Path, times: list[float]) -> list[Image.Image]:
    """The frame shown at each of some times, in order."""
    with opened(path) as container:
        return _shown_at(container, times)


def _shown_at(container: Any, times: list[float]) -> list[Image.Image]:
    """As `_frames_at`, from where the container stands."""
    found: list[Image.Image] = []
    shown = None
    for frame in container.decode(video=0):
        while len(found) < len(times) and shown is not None and float(frame.time or 0.0) > times[len(found)]:
            found.append(shown.to_image())
        if len(found) == len(times):
            return found
        shown = frame
    while shown is not None and len(found) < len(times):
        found.append(shown.to_image())
    return found


def write_film(source: str | Path, out: str | Path, waveform: np.ndarray, rate: int, text: str = "") -> None:
    """The pictures of a film, as they are stored, with the sound (S,) or (C, S) in [-1, 1]; whole or not at all.

    `text`: the comment of the file. OSError where it cannot be written.
    """
    path, av = Path(out), library()
    own = path.with_name(f".{path.stem}.part{os.getpid()}{path.suffix}")  # the end says which container
    options = {"fflags": "+bitexact"}
    with (
        whole_path(path, own) as part,
        opened(source) as container,
        writing(path),
        av.open(str(part), "w", options=options) as film,
    ):
        film.metadata["comment"] = text
        pictures = container.streams.video[0]
        copied = film.add_stream_from_template(pictures)
        sound = film.add_stream("aac", rate=rate, layout="stereo" if waveform.ndim == 2 else "mono")
        _mux_sound(av, film, sound, np.atleast_2d(waveform).astype(np.float32), rate)
        for packet in _packets(container, pictures, source):
            packet.stream = copied
            film.mux(packet)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """FFmpeg's errors name the new film, and not the one that is read: OSError; ConfigError where a stream is refused."""
    av = library()
    try:
        yield
    except (av.error.InvalidDataError, av.error.ArgumentError, ValueError) as error:
        raise ConfigError(f"out={path}: such a file does not take this film's pictures ({error}); give NAME.mkv.") from None
    except av.error.FFmpegError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def _packets(container: Any, stream: Any, path: str | Path) -> Iterator[Any]:
    """What the film stores of its pictures; ConfigError where it cannot be read."""
    try:
        yield from (packet for packet in container.demux(stream) if packet.dts is not None)
    except library().error.FFmpegError as error:
        raise unreadable(path, error) from None


def comment(path: str | Path) -> str:
    """The comment of a film; empty where it has none. ConfigError where it is no film."""
    with opened(path) as container:
        return str(container.metadata.get("comment", container.metadata.get("COMMENT", "")))  # Matroska has capitals


def _mux_sound(av: Any, film: Any, stream: Any, waveform: np.ndarray, rate: int) -> None:
    layout = "stereo" if len(waveform) == 2 else "mono"
    for start in range(0, waveform.shape[1], rate):
        block = np.ascontiguousarray(np.clip(waveform[:, start : start + rate], -1, 1))
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate, start
        film.mux(stream.encode(frame))
    film.mux(stream.encode(None))
