"""Listening pages: each system's clips beside their picture and caption, and a blind study with its summary.

`index.html` shows the clips with the names of their systems. `listening.html` is the blind study: clips in random order under
random names, each rated 0-100 for overall quality (OVL) and relevance to picture and text (REL), the scales of the paper.
`listening-key.json` says which system made which clip. This file reads and writes files only; no network is used.
"""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from melfusion.errors import ConfigError, DamagedFile
from melfusion.evaluation.html import link, write
from melfusion.files import as_json, read_json, write_json, write_whole
from melfusion.metrics.intervals import students

KEY = "listening-key.json"

MOST_BYTES = 16 << 20  # of a key or a file of answers

SCALES = {"ovl": ("Overall quality", "bad", "excellent"), "rel": ("Relevance to picture and text", "no fit", "perfect fit")}


@dataclass
class StudyClip:
    """One clip of the system `row` for the item `key`. Picture, caption and labels are the item's, whatever the system got."""

    key: str
    caption: str
    row: str
    wav: Path
    picture: Path | None
    labels: dict[str, str]


def write_page(clips: list[StudyClip], out: Path, title: str, note: str) -> Path:
    """Write out/index.html: a table of items by systems. It links to the files where they lie."""
    lines = []
    for key, item in _items(clips).items():
        shown = {
            clip.row: {"wav": link(clip.wav, out), "spectrogram": _spectrogram(clip, item.picture, out)}
            for clip in clips
            if clip.key == key
        }
        labels = " · ".join(f"{name}: {value}" for name, value in item.labels.items())
        lines.append({"key": key, "caption": item.caption, "labels": labels, "picture": link(item.picture, out), "clips": shown})
    systems = list(dict.fromkeys(clip.row for clip in clips))
    return write(out / "index.html", title=title, note=note, systems=systems, lines=lines)


def _spectrogram(clip: StudyClip, picture: Path | None, out: Path) -> str:
    """The URL of the spectrogram beside the wav. Empty where there is none, or where that file is the item's picture."""
    drawn = clip.wav.with_suffix(".png")
    shown = drawn.is_file() and not (picture and drawn.samefile(picture))
    return link(drawn, out) if shown else ""


def write_blind(clips: list[StudyClip], out: Path, seed: int) -> Path:
    """Write out/listening.html, and out/listening/ with copies under random names. `seed` decides names and order.

    Give listeners these two and nothing else of `out`. Raises ConfigError where the clips are of several file types, or where
    `out` holds answers to other clips.
    """
    items, rng = _items(clips), random.Random(seed)
    if len({clip.wav.suffix for clip in clips}) > 1:
        raise ConfigError(f"The clips of {out} are of several file types, which could tell the systems apart: convert them to wav.")
    order = rng.sample(sorted(clips, key=lambda clip: (clip.key, clip.row)), len(clips))
    named = {f"{rng.getrandbits(48):012x}": clip for clip in order}
    waves = {name: clip.wav.read_bytes() for name, clip in named.items()}
    (out / "listening").mkdir(parents=True, exist_ok=True)
    study = _write_key(named, waves, list(dict.fromkeys(clip.row for clip in clips)), out, seed)
    cards = []
    for name, clip in named.items():
        copy, item, picture = out / "listening" / f"{name}{clip.wav.suffix}", items[clip.key], None
        write_whole(copy, waves[name])
        if item.picture:  # a copy, since its own name could tell the item
            picture = copy.with_name(f"{name}-picture{item.picture.suffix}")
            write_whole(picture, item.picture.read_bytes())
        cards.append({"name": name, "caption": item.caption, "picture": link(picture, out), "wav": link(copy, out)})
    return write(out / "listening.html", title="Listening test", study=study, cards=cards, scales=SCALES)


def summarise(folder: Path) -> dict[str, Any]:
    """All answers*.json of a study → row → answers, listeners, OVL and REL with 95 % intervals.

    Of several answers of one listener to one clip the last saved counts. Raises ConfigError with what is wrong in which file.
    """
    clips, rows, study = read_key(folder / KEY)
    sheets = sorted((_sheet(file, clips, study) for file in _sheets(folder)), key=lambda sheet: str(sheet.get("saved", ""))[:40])
    given = [((sheet["listener"].strip(), answer["id"]), answer) for sheet in sheets for answer in sheet["answers"]]
    kept = dict(given)
    if not kept:
        raise ConfigError(f"{folder} holds no answers*.json with an answer: no figure is claimed without listeners.")
    scores = {row: _row([(who, a) for (who, name), a in kept.items() if clips[name]["row"] == row]) for row in rows}
    counts = {"listeners": len({who for who, _ in kept}), "answers": len(kept), "duplicates": len(given) - len(kept)}
    return {"study": study, **counts, "rows": scores}


def report(folder: Path) -> None:
    """Print the summary, and write listening.json and listening.md beside the answers."""
    found = summarise(folder)
    lines = ["| system | answers | listeners | OVL (0-100) | REL (0-100) | interval over |", "|---" * 6 + "|"]
    for name, row in found["rows"].items():
        scores = " | ".join(_cell(row[scale]) for scale in SCALES)
        lines.append(f"| {name} | {row['answers']} | {row['listeners']} | {scores} | {row['over']} |")
    text = "\n".join(lines) + (
        f"\n\nBlind study {found['study'][:12]}: {found['answers']} answers of {found['listeners']} listener(s). "
        f"{found['duplicates']} answers were given again by the same listener; the last one counts. Means ± 95 % intervals by "
        "Student's t. With two or more listeners the interval is over each listener's mean. With one listener it is over that "
        "listener's clips, and says nothing about other listeners."
    )
    write_json(folder / "listening.json", found)
    write_whole(folder / "listening.md", text + "\n")
    print(text)


def _items(clips: list[StudyClip]) -> dict[str, StudyClip]:
    """Key → what all clips of an item are judged against, as a StudyClip with the item's picture, caption and labels."""
    if not clips:
        raise ConfigError("There is no clip to listen to: make some first.")
    items: dict[str, StudyClip] = {}
    for clip in clips:
        if missing := [file for file in (clip.wav, clip.picture) if file and not file.is_file()]:
            raise ConfigError(f"{missing[0]}, of {clip.row!r}, does not exist: make it again.")
        if sum((other.key, other.row) == (clip.key, clip.row) for other in clips) > 1:
            raise ConfigError(f"Item {clip.key!r} has several clips of {clip.row!r}: give one.")
        item = items.get(clip.key, clip)
        if item.picture and clip.picture and item.picture != clip.picture:
            raise ConfigError(f"Item {clip.key!r} has two pictures, {item.picture} and {clip.picture}: give all rows its own.")
        items[clip.key] = replace(
            clip, caption=item.caption or clip.caption, picture=item.picture or clip.picture, labels=item.labels or clip.labels
        )
    return items


def _write_key(named: dict[str, StudyClip], waves: dict[str, bytes], rows: list[str], out: Path, seed: int) -> str:
    """Write which system made which clip; returns the hash of that file, the study. ConfigError where answers need another key."""
    clips = {
        name: {"row": clip.row, "key": clip.key, "sha256": hashlib.sha256(waves[name]).hexdigest()} for name, clip in named.items()
    }
    data = as_json({"version": 1, "seed": seed, "rows": rows, "clips": clips}).encode()
    before = (out / KEY).read_bytes() if (out / KEY).is_file() else b""
    if before != data and (answers := _sheets(out)):
        raise ConfigError(f"{answers[0]} answers an earlier study: move answers and {KEY} away, or give another folder.")
    write_whole(out / KEY, data)
    return hashlib.sha256(data).hexdigest()


def read_key(file: Path) -> tuple[dict[str, Any], list[str], str]:
    """(clips by name, names of the rows, the study that answers must name); ConfigError where the key is missing or damaged."""
    cure = "bring back the one that was written with the page"
    if not file.exists():
        raise ConfigError(f"{file.parent} holds no {KEY}: give a folder that `melfusion evaluate listening=true` wrote.")
    key = _json(file, cure)
    clips, rows = key.get("clips"), key.get("rows")
    if not isinstance(clips, dict) or not isinstance(rows, list) or not _belong(clips, rows):
        raise ConfigError(f"{file} is no key of a listening study: {cure}.")
    return clips, rows, hashlib.sha256(file.read_bytes()).hexdigest()


def _belong(clips: dict[str, Any], rows: list[Any]) -> bool:
    """Are all rows names, and does each clip name one of them?"""
    named = all(isinstance(row, str) for row in rows)
    return named and all(isinstance(clip, dict) and clip.get("row") in rows for clip in clips.values())


def _sheets(folder: Path) -> list[Path]:
    return sorted(folder.glob("answers*.json"))


def _sheet(file: Path, clips: dict[str, Any], study: str) -> dict[str, Any]:
    """One file of answers. Every value that is used is checked; ConfigError names the file and the value."""
    sheet = _json(file, "save it again, or move it away")
    if sheet.get("version") != 1 or not isinstance(sheet.get("answers"), list):
        raise ConfigError(f"{file} is no file of answers of version 1: save it again from listening.html, or move it away.")
    if sheet.get("study") != study:
        raise ConfigError(f"{file} answers another study than that of the {KEY} beside it: move it to the folder of its own.")
    if not isinstance(sheet.get("listener"), str) or not sheet["listener"].strip():
        raise ConfigError(f'{file} names no listener: write a name or id into its "listener".')
    for answer in sheet["answers"]:
        if not isinstance(answer, dict):
            raise ConfigError(f"{file} holds an answer that is no object, {repr(answer)[:80]}: save it again from listening.html.")
        name = answer.get("id")
        if not isinstance(name, str) or name not in clips:
            shown = repr(name)[:80]
            raise ConfigError(f"{file} answers a clip {shown} that {KEY} does not know: save it again from listening.html.")
        for scale in SCALES:
            if type(value := answer.get(scale)) is not int or not 0 <= value <= 100:
                raise ConfigError(f"{file} has {scale}={repr(value)[:80]} for clip {name}: give whole numbers from 0 to 100.")
    return sheet


def _json(file: Path, cure: str) -> dict[str, Any]:
    try:
        return read_json(file, cure, MOST_BYTES)
    except DamagedFile as error:
        raise ConfigError(str(error)) from None


def _row(given: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """(listener, answer)s to one system's clips → counts, and means with half widths (None where one value gives none)."""
    listeners = {who: [answer for w, answer in given if w == who] for who, _ in given}
    over = {0: "nothing", 1: "clips of one listener"}.get(len(listeners), f"{len(listeners)} listeners")
    row: dict[str, Any] = {"answers": len(given), "listeners": len(listeners), "over": over}
    for scale in SCALES:
        values = [[answer[scale] for answer in answers] for answers in listeners.values()]
        # the answers of one listener depend on each other, so of several listeners only the means are independent
        independent = [sum(v) / len(v) for v in values] if len(values) > 1 else sum(values, [])
        mean, half = students(independent) if independent else (None, math.inf)
        row[scale] = {"mean": mean, "interval": half if math.isfinite(half) else None}
    return row


def _cell(score: dict[str, float | None]) -> str:
    if score["mean"] is None:
        return "–"
    return f"{score['mean']:.1f}" + ("" if score["interval"] is None else f" ± {score['interval']:.1f}")
