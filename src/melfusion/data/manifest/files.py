"""Clips → their files, each found and checked."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import re
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path

import soundfile

from melfusion.data.manifest.formats import AUDIO_SUFFIXES
from melfusion.data.manifest.report import Report
from melfusion.data.manifest.rows import VIDEO_ID, ManifestClip, PictureFile
from melfusion.data.shards import AUDIO_EXTS
from melfusion.errors import BadSample, ConfigError
from melfusion.files import sha256_of
from melfusion.media import video
from melfusion.media.pictures import open_image, read_header

FILM_SUFFIXES = ("mp4", "mkv", "webm", "mov", "avi")

IMAGE_KEPT = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}  # Pillow's format → extension in the shard

# start and end in seconds, which may follow the id in a file's name: ID_30.mp3, ID_30_40.flac, [ID]-[30-40].wav
SPAN = r"\]?[_-]\[?(\d+(?:\.\d+)?)(?:[_-](\d+(?:\.\d+)?))?\]?"

SLACK = 1.05  # codecs pad: a file at most this much longer than a published excerpt is that excerpt


class Folders:
    """The folders that files are taken from, each indexed once; links that lie in them are followed."""

    def __init__(self, audio_dir: str | None, image_dir: str | None):
        self.audio_dir, self.image_dir = (Path(d).expanduser() if d else None for d in (audio_dir, image_dir))
        for name, folder in (("audio_dir", self.audio_dir), ("image_dir", self.image_dir)):
            if folder and not folder.is_dir():
                raise ConfigError(f"{name}={folder} is not a folder: check the path.")
        self.files = functools.cache(_by_name)
        self.audio_facts, self.image_facts = functools.cache(_audio_facts), functools.cache(_image_facts)

    @functools.cached_property
    def videos(self) -> dict[str, list[Path]]:
        """Audio files by each 11 characters of their names that could be a video id."""
        ids: dict[str, list[Path]] = {}
        for path in (path for paths in self.files(self.audio_dir).values() for path in paths):
            if path.suffix[1:].lower() in AUDIO_SUFFIXES:
                for found in re.finditer(rf"(?<![A-Za-z0-9])(?=({VIDEO_ID})(?![A-Za-z0-9]))", path.stem):
                    ids.setdefault(found[1], []).append(path)
        return ids

    def audio(self, clip: ManifestClip) -> Path:
        """The file of a clip's audio; BadSample says why there is none."""
        within = clip.row.unpacked and _below(clip.row.unpacked, clip.name)
        return within or FINDERS[clip.kind.named](self, clip)

    def image(self, clip: ManifestClip, picture: str) -> Path:
        """The file of one of a clip's pictures; in the published formats a base name is enough, its path only a hint."""
        wanted = picture.replace("\\", "/")
        if within := clip.row.unpacked and _below(clip.row.unpacked, wanted):
            return within
        if clip.kind.named == "path":
            return _own_file(picture, self.image_dir, clip.row.manifest.parent)
        for root in filter(None, (self.image_dir, clip.row.manifest.parent)):
            if path := _below(root, wanted):
                return path
        named = self.files(self.image_dir).get(Path(wanted).name, []) if self.image_dir else []
        return _nearest(named, f"{clip.meta['labels'].get('genre', '')}/{wanted}")

    def film(self, clip: ManifestClip) -> str:
        """The name of the film in image_dir that is named as the clip's audio is."""
        stem = Path(clip.name).stem if clip.kind.named == "path" else clip.name
        names = [f"{stem}.{suffix}" for suffix in FILM_SUFFIXES]
        return next((name for name in names if name in self.files(self.image_dir)), names[0])


def _by_path(folders: Folders, clip: ManifestClip) -> Path:
    return _own_file(clip.name, folders.audio_dir, clip.row.manifest.parent)


def _by_base_name(folders: Folders, clip: ManifestClip) -> Path:
    """A file of this name, or of this name with any audio ending, anywhere below audio_dir."""
    path, files = Path(clip.name.replace("\\", "/")), folders.files(folders.audio_dir)
    stems = dict.fromkeys((path.stem, path.name))
    names = [path.name, *(f"{stem}.{suffix}" for stem in stems for suffix in AUDIO_SUFFIXES)]
    return _nearest(next((files[name] for name in names if name in files), []), path.name)


def _by_video(folders: Folders, clip: ManifestClip) -> Path:
    found = [(_span(clip, path), path) for path in folders.videos.get(clip.name, [])]
    if clip.start_s is not None:  # a file whose name states another start is another excerpt
        found = [(span, path) for span, path in found if not span or abs(span[0] - clip.start_s) < 1]
    if not found:
        raise BadSample("no audio file of this video" + ("" if clip.start_s is None else " with this start"))
    rank = AUDIO_SUFFIXES.index
    return min(found, key=lambda f: (f[0] is None, rank(f[1].suffix[1:].lower()), len(f[1].name), f[1]))[1]


FINDERS: dict[str, Callable[[Folders, ManifestClip], Path]] = {"path": _by_path, "name": _by_base_name, "video": _by_video}


def _by_name(folder: Path) -> dict[str, list[Path]]:
    """Every regular file below `folder`, by its base name."""
    files: dict[str, list[Path]] = {}
    for place, _, names in os.walk(folder):
        for path in (Path(place) / name for name in sorted(names)):
            if path.is_file():
                files.setdefault(path.name, []).append(path)
    return files


def _below(root: Path, name: str) -> Path | None:
    """The file `root`/`name`, unless the name leads out of `root`."""
    inside = Path(os.path.normpath(name))
    outside = inside.is_absolute() or inside.parts[:1] == ("..",)
    return root / inside if not outside and (root / inside).is_file() else None


def _own_file(name: str, *roots: Path | None) -> Path:
    """A file that the user's own manifest names: by an absolute path, or below one of the roots."""
    if Path(name).is_absolute():
        paths = [Path(name)] if Path(name).is_file() else []
    else:
        paths = [path for root in roots if root and (path := _below(root, name))]
    if not paths:
        outside = Path(os.path.normpath(name)).parts[:1] == ("..",)
        raise BadSample("path leads out of the manifest's folder and the given ones" if outside else "file not found")
    return paths[0]


def _nearest(files: list[Path], wanted: str) -> Path:
    """The file whose last folders agree longest with those of `wanted`; BadSample where two agree equally."""

    def agreement(path: Path) -> int:
        pairs = zip(path.parts[::-1], wanted.split("/")[::-1], strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0].lower() == pair[1].lower(), pairs))

    best = sorted(files, key=agreement, reverse=True)
    if not best:
        raise BadSample("file not found")
    if len(best) > 1 and agreement(best[0]) == agreement(best[1]):
        raise BadSample("several files have this name: give its folder too")
    return best[0]


def _span(clip: ManifestClip, path: Path) -> tuple[float, float | None] | None:
    """Start and end in seconds that a file's name states after the video id."""
    video = re.escape(clip.name) if clip.kind.named == "video" else rf"^\[?{VIDEO_ID}"
    found = re.search(rf"{video}{SPAN}$", path.stem)
    return (float(found[1]), float(found[2]) if found[2] else None) if found else None


def _audio_facts(path: Path) -> tuple[str, float]:
    """Digest and length in seconds."""
    if not path.stat().st_size:
        raise BadSample("empty audio")
    try:
        with path.open("rb") as file, soundfile.SoundFile(file) as sound:
            seconds = sound.frames / sound.samplerate
    except (soundfile.SoundFileError, RuntimeError, ValueError, TypeError) as error:
        known = path.suffix[1:].lower() in AUDIO_EXTS
        raise BadSample("unreadable audio" + ("" if known else ": convert it to flac, wav, mp3 or ogg")) from error
    if not seconds:
        raise BadSample("empty audio")
    return sha256_of(path), seconds


def _image_facts(path: Path) -> tuple[str, str, bool]:
    """Digest, the extension it keeps in a shard, empty where it must be encoded again, and whether it is a film.

    BadSample without pixels; ConfigError where films cannot be read at all.
    """
    if path.suffix[1:].lower() in FILM_SUFFIXES:
        video.library()
        try:
            video.check_film(path)
        except ConfigError as error:
            raise BadSample("unreadable film") from error
        return sha256_of(path), "", True
    data = path.read_bytes()
    open_image(data)  # decodes every pixel, but what it returns no longer knows its format
    kind = read_header(io.BytesIO(data)).format
    return hashlib.sha256(data).hexdigest(), IMAGE_KEPT.get(kind or "", ""), False


def locate(clip: ManifestClip, folders: Folders, report: Report) -> bool:
    """Find and check the clip's files; False, with every reason in the report, where one cannot be used."""
    usable = True
    if clip.kind.films and not clip.pictures and folders.image_dir:
        clip.pictures = (folders.film(clip),)
    wanted = [(clip.kind.audio, clip.name, _find_audio), *((clip.kind.image, name, _find_image) for name in clip.pictures)]
    for field, value, find in wanted:
        try:
            find(clip, folders, value)
        except (BadSample, OSError) as error:
            report.miss(clip, field, value, error)
            usable = False
    if usable:
        clip.kind.placed(clip)
    report.notes["samples without a caption"] += usable and not clip.meta["caption"]
    report.notes["samples without a picture"] += usable and not clip.pictures
    return usable


def _find_audio(clip: ManifestClip, folders: Folders, name: str) -> None:
    clip.audio = folders.audio(clip)
    digest, seconds = folders.audio_facts(clip.audio)
    clip.digests, clip.start_s = (digest,), _excerpt_start(clip, seconds)
    if clip.start_s is not None:
        clip.meta["labels"]["start_s"] = clip.start_s


def _find_image(clip: ManifestClip, folders: Folders, name: str) -> None:
    path = folders.image(clip, name)
    digest, ext, film = folders.image_facts(path)
    top = path.parent in (folders.image_dir, clip.row.manifest.parent)
    clip.images = (*clip.images, PictureFile(path, ext, film, top))
    clip.digests = (*clip.digests, digest)


def _excerpt_start(clip: ManifestClip, seconds: float) -> float | None:
    """Where to cut a file of this length, in seconds; None: it is stored as it is."""
    start = clip.start_s
    if clip.kind.cut == "asked":
        if start is None or (start == 0 and seconds <= clip.excerpt_s):
            return None
    elif seconds <= clip.excerpt_s * SLACK:
        return None
    elif start is None:
        span = _span(clip, clip.audio)
        if not span and clip.kind.cut == "stated":
            return None
        # a file about as long as the span in its name holds that span and nothing before it
        whole = span is None or span[0] >= seconds or (span[1] and seconds <= (span[1] - span[0]) * SLACK)
        start = 0.0 if span is None or whole else span[0]
    if start >= seconds:
        raise BadSample(f"start_s lies behind the end of the audio ({seconds:.1f} s)")
    return start
