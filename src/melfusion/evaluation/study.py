"""Pages to listen to: every system's clips beside their picture and caption, and a blind study with its summary.

`index.html` shows. `listening.html` asks: clips in random order under random names, each rated 0-100 for overall quality
(OVL) and relevance to picture and text (REL); which system made which stays in listening-key.json. No models here, only files.
"""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

from melfusion.errors import ConfigError, DamagedFile
from melfusion.evaluation.html import fill, image, paragraph, player, source, write
from melfusion.files import as_json, read_json, write_json, write_whole
from melfusion.metrics.intervals import students

KEY = "listening-key.json"

MOST_BYTES = 16 << 20  # of a key or a file of answers

SCALES = {"ovl": ("Overall quality", "bad", "excellent"), "rel": ("Relevance to picture and text", "no fit", "perfect fit")}


@dataclass
class Clip:
    """One sound of one system (`row`) for the item `key`, and what the item is: `picture` not as another row was shown it."""

    key: str
    caption: str
    row: str
    wav: Path
    picture: Path | None
    labels: dict[str, str]


def write_page(clips: list[Clip], out: Path, title: str, note: str) -> Path:
    """out/index.html: items downwards, systems across; links to the files where they lie."""
    systems = list(dict.fromkeys(clip.row for clip in clips))
    head = "".join(f'<th scope="col" role="columnheader">{escape(name)}</th>' for name in ("item", *systems))
    lines = []
    for key, item in _items(clips).items():
        labels = " · ".join(f"{name}: {value}" for name, value in item.labels.items())
        told = image(item.picture, out, f"picture of {key}", "picture") + paragraph(item.caption or "(no words)")
        told += paragraph(labels, "soft") + paragraph(key, "soft")
        sounds = {clip.row: _sound(clip, item.picture, out) for clip in clips if clip.key == key}
        cells = (f'<td role="cell"><span class="row">{escape(row)}</span>{sounds.get(row, "–")}</td>' for row in systems)
        lines.append(f'<tr role="row"><th scope="row" role="rowheader">{told}</th>{"".join(cells)}</tr>\n')
    width = 13 * (len(systems) + 1)
    table = (
        f'<table role="table" style="min-width:{width}rem"><thead role="rowgroup"><tr role="row">{head}</tr></thead>\n'
        f'<tbody role="rowgroup">\n{"".join(lines)}</tbody></table>'
    )
    heading = f"<h1>{escape(title)}</h1>\n{paragraph(note)}"
    return write(out / "index.html", title, f'<body><main>{heading}\n<div class="wide">{table}</div></main></body>')


def write_blind(clips: list[Clip], out: Path, seed: int) -> Path:
    """out/listening.html, and out/listening/ with copies under random names; names and order are drawn from `seed`.

    Listeners get these two and nothing else of `out`.
    """
    items, rng, cards = _items(clips), random.Random(seed), []
    if len({clip.wav.suffix for clip in clips}) > 1:
        raise ConfigError(f"The clips of {out} are of several file types, which could tell the systems apart: convert them to wav.")
    order = rng.sample(sorted(clips, key=lambda clip: (clip.key, clip.row)), len(clips))
    named = {f"{rng.getrandbits(48):012x}": clip for clip in order}
    sounds = {name: clip.wav.read_bytes() for name, clip in named.items()}
    (out / "listening").mkdir(parents=True, exist_ok=True)
    study = _write_key(named, sounds, list(dict.fromkeys(clip.row for clip in clips)), out, seed)
    for number, (name, clip) in enumerate(named.items(), 1):
        copy, item, picture = out / "listening" / f"{name}{clip.wav.suffix}", items[clip.key], None
        write_whole(copy, sounds[name])
        if item.picture:  # whose own name could tell the item
            picture = copy.with_name(f"{name}-picture{item.picture.suffix}")
            write_whole(picture, item.picture.read_bytes())
        shown = image(picture, out, f"picture that clip {number} should fit", "picture") + paragraph(item.caption or "(no words)")
        cards.append(_card(name, number, shown + player(copy, out, f"clip {number}")))
    body = fill("listening.html", study=study, n=str(len(cards)), cards="".join(cards), script=source("listening.js"))
    return write(out / "listening.html", "Listening test", body)


def summarise(folder: Path) -> dict[str, Any]:
    """All answers*.json of a study → row → answers, listeners, OVL and REL with 95 % intervals; ConfigError says what is wrong."""
    clips, rows, study = _read_key(folder / KEY)
    sheets = sorted((_sheet(file, clips, study) for file in _sheets(folder)), key=lambda sheet: str(sheet.get("saved", ""))[:40])
    given = [((sheet["listener"].strip(), answer["id"]), answer) for sheet in sheets for answer in sheet["answers"]]
    kept = dict(given)  # the last answer of a listener to a clip
    if not kept:
        raise ConfigError(f"{folder} holds no answers*.json with an answer: no figure is claimed without listeners.")
    scores = {row: _row([(who, a) for (who, name), a in kept.items() if clips[name]["row"] == row]) for row in rows}
    counts = {"listeners": len({who for who, _ in kept}), "answers": len(kept), "duplicates": len(given) - len(kept)}
    return {"study": study, **counts, "rows": scores}


def report(folder: Path) -> None:
    """Print the summary, and write listening.json and listening.md beside the answers."""
    told = summarise(folder)
    lines = ["| system | answers | listeners | OVL (0-100) | REL (0-100) | interval over |", "|---" * 6 + "|"]
    for name, row in told["rows"].items():
        scores = " | ".join(_cell(row[scale]) for scale in SCALES)
        lines.append(f"| {name} | {row['answers']} | {row['listeners']} | {scores} | {row['over']} |")
    text = "\n".join(lines) + (
        f"\n\nBlind study {told['study'][:12]}: {told['answers']} answers of {told['listeners']} listener(s); "
        f"{told['duplicates']} given again by the same listener, of which the last counts. Means ± 95 % intervals by Student's t: "
        "where two or more listened, over each listener's mean; over the clips of one listener, they say nothing about others."
    )
    write_json(folder / "listening.json", told)
    write_whole(folder / "listening.md", text + "\n")
    print(text)


def _items(clips: list[Clip]) -> dict[str, Clip]:
    """Key → what all clips of an item are judged against, whatever their systems were told: a Clip with picture, text, labels."""
    if not clips:
        raise ConfigError("There is no clip to listen to: make some first.")
    items: dict[str, Clip] = {}
    for clip in clips:
        if missing := [file for file in (clip.wav, clip.picture) if file and not file.is_file()]:
            raise ConfigError(f"{missing[0]}, of {clip.row!r}, is not there: make it again.")
        if sum((other.key, other.row) == (clip.key, clip.row) for other in clips) > 1:
            raise ConfigError(f"Item {clip.key!r} has several clips of {clip.row!r}: give one.")
        item = items.get(clip.key, clip)
        if item.picture and clip.picture and item.picture != clip.picture:
            raise ConfigError(f"Item {clip.key!r} has two pictures, {item.picture} and {clip.picture}: give all rows its own.")
        items[clip.key] = replace(
            clip, caption=item.caption or clip.caption, picture=item.picture or clip.picture, labels=item.labels or clip.labels
        )
    return items


def _write_key(named: dict[str, Clip], sounds: dict[str, bytes], rows: list[str], out: Path, seed: int) -> str:
    """Write who made what; returns the study, a hash of the key file. Answers to other clips are never orphaned."""
    clips = {
        name: {"row": clip.row, "key": clip.key, "sha256": hashlib.sha256(sounds[name]).hexdigest()} for name, clip in named.items()
    }
    data = as_json({"version": 1, "seed": seed, "rows": rows, "clips": clips}).encode()
    before = (out / KEY).read_bytes() if (out / KEY).is_file() else b""
    if before != data and (answers := _sheets(out)):
        raise ConfigError(f"{answers[0]} answers an earlier study: move answers and {KEY} away, or give another folder.")
    write_whole(out / KEY, data)
    return hashlib.sha256(data).hexdigest()


def _read_key(file: Path) -> tuple[dict[str, Any], list[str], str]:
    """Clips by name, row names, and the study that answers must name."""
    cure = "bring back the one that was written with the page"
    if not file.exists():
        raise ConfigError(f"{file.parent} holds no {KEY}: give a folder that `melfusion evaluate listening=true` wrote.")
    key = _json(file, cure)
    clips, rows = key.get("clips"), key.get("rows")
    whole = isinstance(clips, dict) and isinstance(rows, list) and all(isinstance(row, str) for row in rows)
    if not whole or not all(isinstance(clip, dict) and clip.get("row") in rows for clip in clips.values()):
        raise ConfigError(f"{file} is no key of a listening study: {cure}.")
    return clips, rows, hashlib.sha256(file.read_bytes()).hexdigest()


def _sheets(folder: Path) -> list[Path]:
    return sorted(folder.glob("answers*.json"))


def _sheet(file: Path, clips: dict[str, Any], study: str) -> dict[str, Any]:
    """One file of answers, checked in every value that is used."""
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
        # one listener's answers hang together: between listeners only their means are independent
        independent = [sum(v) / len(v) for v in values] if len(values) > 1 else sum(values, [])
        mean, half = students(independent) if independent else (None, math.inf)
        row[scale] = {"mean": mean, "interval": half if math.isfinite(half) else None}
    return row


def _cell(score: dict[str, float | None]) -> str:
    if score["mean"] is None:
        return "–"
    return f"{score['mean']:.1f}" + ("" if score["interval"] is None else f" ± {score['interval']:.1f}")


def _sound(clip: Clip, picture: Path | None, out: Path) -> str:
    """A player, and the spectrogram where one lies beside the wav; cat.png beside cat.wav may also be the picture."""
    about, drawn = f"{clip.row}, {clip.key}", clip.wav.with_suffix(".png")
    shown = drawn.is_file() and not (picture and drawn.samefile(picture))
    return player(clip.wav, out, about) + image(drawn if shown else None, out, f"spectrogram of {about}")


def _card(name: str, number: int, content: str) -> str:
    """One clip of the blind study, and a slider for each scale."""
    scales = "".join(
        f'<div class="scale"><div><strong id="{scale}-{name}">{title}</strong><output></output></div>\n'
        f'<input type="range" min="0" max="100" class="unset" name="{scale}" data-id="{name}" autocomplete="off" '
        f'aria-labelledby="{scale}-{name} n-{name}">\n<div class="soft"><span>0 {low}</span><span>100 {high}</span></div></div>'
        for scale, (title, low, high) in SCALES.items()
    )
    heading = f'<h2><span id="n-{name}">Clip {number}</span> <span class="mark"></span></h2>'
    return f'<article data-id="{name}">{heading}\n{content}{scales}</article>\n'
