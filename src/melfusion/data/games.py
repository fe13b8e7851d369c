"""The corpus `games`: real ⟨image, text, music⟩ tuples from freely licensed games, unpacked from Debian's packages.

A tuple is a place in a game, a picture of it and the track that plays there, paired by the game's own files, which
`games_flare.py` reads and draws. Nothing of it is committed, and neither are weights trained on it; every sample
carries the licences that Debian's copyright files and the game's own files state.
"""

import functools
import hashlib
import io
import logging
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import soundfile
import soxr
from PIL import Image

from melfusion.data import games_flare
from melfusion.data.games_flare import Found, Scene, Skip, cover
from melfusion.data.shards import DataError, Sample

logger = logging.getLogger(__name__)

SILENCE_DB = -50.0  # a clip whose RMS lies below this, relative to full scale, is silent
MAX_TRACK_S = 900.0  # tracks are decoded whole
SPLITS = ("train", "val", "test")
ELSEWHERE = "unpack the packages elsewhere with `dpkg-deb -x` and pass their folder as GAMES_DIR="


@dataclass(frozen=True)
class GameTuple:
    """One pairing of a picture [256x192 RGB] with a track; `image_id` is a hash of the picture's pixels."""

    game: str
    title: str
    track: Path
    image: Image.Image
    image_id: str
    artist: str | None
    license: str
    theme: str
    place: str  # what such a place is in this game: "level", "area" …
    track_id: str  # package and path in it, the same on every machine
    track_s: float
    parts: tuple[str, ...] = ()  # art that other pictures show too; such tuples stay in one split


@dataclass(frozen=True)
class Game:
    """One Debian package; `source` is how its copyright file calls the `data` folder below usr/share/games."""

    name: str
    place: str
    data: str
    source: str
    read: Callable[[Path], Found]


GAMES = {
    "hedgewars-data": Game(
        "Hedgewars", "battlefield", "hedgewars/Data", "share/hedgewars/Data", games_flare.read_hedgewars
    ),
    "supertux-data": Game("SuperTux", "level", "supertux2", "data", games_flare.read_supertux),
    "flare-game": Game("Flare", "area", "flare/mods", "mods", games_flare.read_flare),
    "extremetuxracer-data": Game("Extreme Tux Racer", "downhill race", "etr", "data", games_flare.read_etr),
}


def read_games(games_dir: Path) -> tuple[list[GameTuple], dict[str, int]]:
    """All tuples below `games_dir` (one folder per package), each (track, picture) once; counts of what was skipped."""
    tuples: dict[tuple[Path, str], GameTuple] = {}
    skipped: Counter[str] = Counter()
    for package, game in GAMES.items():
        data = (Path(games_dir) / package / "usr/share/games" / game.data).resolve()
        licences = read_licences(Path(games_dir) / package / "usr/share/doc" / package / "copyright")
        for found in games_flare.attempt([data], game.read) if data.is_dir() else ["not unpacked"]:
            try:
                if isinstance(found, str):
                    raise Skip(found)
                item = _tuple(found, package, data, licences)
                if tuples.setdefault((item.track, item.image_id), item) is not item:
                    raise Skip("pair already seen")
            except Skip as skip:
                skipped[f"{game.name}: {skip}"] += 1
    return list(tuples.values()), dict(skipped)


def _tuple(scene: Scene, package: str, data: Path, licences: list[tuple[str, str]]) -> GameTuple:
    game, track = GAMES[package], scene.track.relative_to(data).as_posix()
    track_s, tag = _track_facts(scene.track)
    music = licence_of(f"{game.source}/{track}", licences)
    picture = licence_of(f"{game.source}/{scene.art.relative_to(data).as_posix()}", licences)
    level = f", level {scene.own_license}" if scene.own_license else ""
    return GameTuple(
        game=game.name, title=scene.title, track=scene.track, image=scene.image,
        image_id=hashlib.sha256(scene.image.tobytes()).hexdigest()[:16], artist=scene.artist or tag,
        license=music if music == picture and not level else f"music {music}, picture {picture}{level}",
        theme=scene.theme, place=game.place, track_id=f"{package}/{track}", track_s=track_s,
        parts=tuple(f"{package}/{part}" for part in scene.parts),
    )  # fmt: skip


@functools.lru_cache(maxsize=1024)
def _track_facts(track: Path) -> tuple[float, str | None]:
    """Seconds, and the artist its tags name (a bare web address is no name)."""
    try:
        with soundfile.SoundFile(track) as file:
            seconds, artist = file.frames / file.samplerate, " ".join(file.artist.split())
    except (soundfile.LibsndfileError, OSError, ValueError) as error:
        raise Skip("unreadable track") from error
    if seconds > MAX_TRACK_S:
        raise Skip("track longer than 15 minutes")
    return seconds, artist if artist and "://" not in artist else None


def read_licences(copyright_file: Path) -> list[tuple[str, str]]:
    """(file pattern, licence) of a Debian copyright file, in order: the last match holds. Without a file, none."""
    if not copyright_file.is_file():
        return []
    stanzas = re.split(r"\n[ \t]*\n", copyright_file.read_text(encoding="utf-8", errors="replace"))
    rules = []
    for stanza in stanzas:
        fields = dict(re.findall(r"^(Files|License):\s*(.*(?:\n[ \t].*)*)", stanza, re.MULTILINE))
        if "Files" in fields and fields.get("License", "").strip():
            name = fields["License"].splitlines()[0].strip()
            rules += [(pattern, name) for pattern in fields["Files"].split()]
    return rules


def licence_of(path: str, licences: list[tuple[str, str]]) -> str:
    return next((name for pattern, name in reversed(licences) if fnmatchcase(path, pattern)), "not stated")


def components(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """For every (track, picture) pair the name of its connected component: all that shares a track or a picture."""
    parent: dict[tuple[int, str], tuple[int, str]] = {}

    def root(node: tuple[int, str]) -> tuple[int, str]:
        while parent.setdefault(node, node) != node:
            parent[node] = node = parent[parent[node]]
        return node

    for track, picture in pairs:
        low, high = sorted((root((0, track)), root((1, picture))))
        parent[high] = low  # the smallest member names the component, whatever the order of the pairs
    return [hashlib.sha256(root((0, track))[1].encode()).hexdigest()[:10] for track, _ in pairs]


def split_components(
    pairs: Sequence[tuple[str, str]],
    ratios: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    weights: Sequence[float] | None = None,
) -> list[str]:
    """'train', 'val' or 'test' for every (track, picture) pair; a connected component is never split.

    In an order given by a hash, each component goes to val or test while its weight (of its pairs; 1 each by default)
    fits into their share, else to train. From three components on, no split is empty.
    """
    if len(ratios) != 3 or min(ratios) < 0 or sum(ratios) <= 0:
        raise ValueError(f"split ratios {tuple(ratios)} are not three shares, of train, val and test: give e.g. 8 1 1.")
    names, weight = components(pairs), Counter()
    for name, amount in zip(names, weights if weights is not None else [1.0] * len(pairs), strict=True):
        weight[name] += amount
    room = {split: sum(weight.values()) * ratios[i] / sum(ratios) for i, split in enumerate(SPLITS) if i}
    chosen: dict[str, str] = {}
    for name in sorted(weight, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest()):
        roomy = max(room, key=lambda split: room[split])
        fits = weight[name] <= room[roomy] + 1e-9
        chosen[name] = roomy if fits else "train"
        room[roomy] -= weight[name] if fits else 0
    for split in SPLITS if len(chosen) >= 3 else ():
        if split not in chosen.values():
            held = Counter(chosen.values())
            chosen[min((n for n in chosen if held[chosen[n]] > 1), key=lambda n: (weight[n], n))] = split
    return [chosen[name] for name in names]


def estimate_tempo(waveform: np.ndarray, sample_rate_hz: int) -> int | None:
    """Beats per minute of `waveform` [T], 60 to 200 in steps of 5, or None where nothing recurs.

    Autocorrelation of the onset strength (rise of the log spectrum, 100 frames/s) at one to four beats, weighted by a
    bell over log tempo around 120: like people, it prefers moderate tempi where half and double are as good.
    """
    hop, size = sample_rate_hz // 100, sample_rate_hz // 16
    waveform = waveform[: 90 * sample_rate_hz]
    if len(waveform) < 4 * sample_rate_hz:
        return None
    frames = np.lib.stride_tricks.sliding_window_view(waveform, size)[::hop] * np.hanning(size).astype(np.float32)
    spectrum = np.log1p(100 * np.abs(np.fft.rfft(frames)).astype(np.float32))
    onset = np.maximum(np.diff(spectrum, axis=0), 0).mean(axis=1)
    onset = np.maximum(onset - np.convolve(onset, np.ones(100) / 100, mode="same"), 0)
    onset -= onset.mean()
    power = np.abs(np.fft.rfft(onset, 2 * len(onset))) ** 2
    correlation = np.fft.irfft(power)[: len(onset)]
    if correlation[0] < 1e-6:
        return None
    bpm = np.arange(57.5, 202.5, 0.5)
    lags = 6000 / bpm[:, None] * np.arange(1, 5)  # frames
    score = np.interp(lags, np.arange(len(correlation)), correlation / correlation[0]).mean(axis=1)
    score *= np.exp(-0.5 * (np.log2(bpm / 120) / 0.9) ** 2)
    return int(5 * round(bpm[score.argmax()] / 5)) if score.max() > 0.02 else None


def caption(item: GameTuple, tempo_bpm: int | None) -> str:
    """'Game music for TITLE, a THEME PLACE in GAME, by ARTIST, N BPM.', leaving out what is unknown or said twice."""
    kind = item.place if item.theme.casefold() == item.title.casefold() else f"{item.theme} {item.place}".strip()
    text = f"Game music for {item.title}, {'an' if kind[0] in 'aeiou' else 'a'} {kind} in {item.game}"
    return text + (f", by {item.artist}" if item.artist else "") + (f", {tempo_bpm} BPM." if tempo_bpm else ".")


def samples(
    games_dir: Path,
    clip_duration_s: float = 10.24,
    sample_rate_hz: int = 16000,
    max_clips_per_tuple: int = 100,
    image_size_px: int = 128,
) -> Iterator[Sample]:
    """Non-overlapping clips of every track, each with one picture: audible clip j goes to picture j mod their number.

    What was skipped is logged with its reason at the end. Raises DataError where `games_dir` holds no game.
    """
    if min(clip_duration_s, sample_rate_hz, max_clips_per_tuple, image_size_px) <= 0:
        raise ValueError("clip_duration_s, sample_rate_hz, max_clips_per_tuple and image_size_px have to be positive.")
    tuples, skipped = read_games(games_dir)
    if not tuples:
        raise DataError(f"{games_dir} holds no unpacked game: run `make data-games`, or {ELSEWHERE}.")
    counts: Counter[str] = Counter(skipped)
    groups: dict[Path, list[tuple[GameTuple, dict[str, str]]]] = {}
    for item, facts in zip(tuples, assign(tuples), strict=True):
        groups.setdefault(item.track, []).append((item, facts))
    for track, group in groups.items():
        try:
            waveform = read_mono(track, sample_rate_hz)
        except (soundfile.LibsndfileError, OSError, ValueError):
            counts["track that cannot be decoded"] += 1
            continue
        tempo_bpm, number = estimate_tempo(waveform, sample_rate_hz), 0
        for start_s, clip in audible_clips(waveform, clip_duration_s, sample_rate_hz, counts):
            if number >= max_clips_per_tuple * len(group):
                counts["clip beyond max_clips_per_tuple"] += 1
                continue
            item, facts = group[number % len(group)]
            number += 1
            labels = {"tempo_bpm": tempo_bpm, "start_s": start_s, "component": facts["component"]}
            yield _sample(item, clip, sample_rate_hz, image_size_px, facts["split"], labels)
        counts["tuple without a clip of its own"] += max(0, len(group) - number)
    logger.info("games: skipped %s", dict(counts))


def assign(tuples: Sequence[GameTuple]) -> list[dict[str, str]]:
    """`split` and `component` of every tuple; tuples whose pictures share art are kept together too.

    A track weighs its length, spread over its pictures, so that data sets of different clip lengths agree on the split.
    """
    pictures = Counter(item.track for item in tuples)
    pairs = [(item.track_id, item.image_id) for item in tuples]
    weights = [item.track_s / pictures[item.track] for item in tuples]
    links = [(item.track_id, part) for item in tuples for part in item.parts]
    splits = split_components(pairs + links, weights=weights + [0.0] * len(links))
    names = components(pairs + links)
    return [{"split": splits[i], "component": names[i]} for i in range(len(pairs))]


def read_mono(track: Path, sample_rate_hz: int) -> np.ndarray:
    """The whole track [T], float32: mean of its channels, resampled, turned down where it would clip."""
    audio, rate_hz = soundfile.read(track, dtype="float32", always_2d=True)
    waveform = audio.mean(axis=1)
    waveform = soxr.resample(waveform, rate_hz, sample_rate_hz) if rate_hz != sample_rate_hz else waveform
    return waveform / max(1.0, float(np.abs(waveform).max(initial=0.0)))


def audible_clips(
    waveform: np.ndarray, clip_duration_s: float, sample_rate_hz: int, counts: Counter[str]
) -> Iterator[tuple[float, np.ndarray]]:
    """(start in seconds, clip) for the whole clips in `waveform` [T]; silent ones are counted instead."""
    length = round(clip_duration_s * sample_rate_hz)
    for start in range(0, len(waveform) - length + 1, length):
        clip = waveform[start : start + length]
        if 10 * np.log10(np.mean(np.square(clip)) + 1e-12) < SILENCE_DB:
            counts["silent clip"] += 1
        else:
            yield round(start / sample_rate_hz, 3), clip


def _sample(
    item: GameTuple, clip: np.ndarray, sample_rate_hz: int, image_size_px: int, split: str, labels: dict
) -> Sample:
    audio, image = io.BytesIO(), io.BytesIO()
    soundfile.write(audio, clip, sample_rate_hz, format="FLAC", subtype="PCM_16")
    cover(item.image, (image_size_px, image_size_px)).save(image, "PNG")
    name = re.sub(r"[^a-z0-9]+", "-", f"{item.game} {item.track.stem}".lower()).strip("-")
    key = f"{name}-{hashlib.sha256(item.track_id.encode()).hexdigest()[:6]}-{round(1000 * labels['start_s']):07d}"
    about = {"game": item.game, "track": item.track_id, "artist": item.artist, "image_id": item.image_id}
    meta = {
        "caption": caption(item, labels["tempo_bpm"]),
        "title": item.title,
        "source": f"games: Debian package {item.track_id.split('/')[0]}",
        "license": item.license,
        "split": split,
        "labels": labels | about | {"theme": item.theme},
    }
    return Sample(key, audio.getvalue(), "flac", image.getvalue(), "png", meta)


def download(out: Path) -> None:
    """Fetch the packages into `out`/debs and unpack each to `out`/<package>, licences to `out`/licences; needs no root.

    Raises RuntimeError where apt-get or dpkg-deb is missing or fails. What is already there is not fetched again.
    """
    out = Path(out).resolve()
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise RuntimeError(f"The games come as Debian packages and {tool} is not on this machine: {ELSEWHERE}.")
    for folder in ("debs", "licences"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for package in GAMES:
        if not any((out / "debs").glob(f"{package}_*.deb")):
            with tempfile.TemporaryDirectory(dir=out / "debs") as part:  # so that debs/ never holds half a file
                _run(["apt-get", "download", package], Path(part))
                for deb in Path(part).glob(f"{package}_*.deb"):
                    deb.replace(out / "debs" / deb.name)
        debs = sorted((out / "debs").glob(f"{package}_*.deb"))
        if not debs:
            raise RuntimeError(f"`apt-get download {package}` left no package in {out / 'debs'}: {ELSEWHERE}.")
        _run(["dpkg-deb", "-x", str(debs[-1]), str(out / package)], out)
        copyright_file = out / package / "usr/share/doc" / package / "copyright"
        if copyright_file.is_file():
            shutil.copyfile(copyright_file, out / "licences" / f"{package}.txt")


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise RuntimeError(f"`{' '.join(command)}` failed ({why}): check apt's lists and the network, or {ELSEWHERE}.")
