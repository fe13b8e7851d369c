"""The results as JSON, as a card in Markdown that can be published, and as a page to listen to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from melfusion.data import order
from melfusion.errors import BadSample
from melfusion.evaluation import html
from melfusion.evaluation.picture_test.items import ROWS, Call, Item
from melfusion.evaluation.picture_test.making import read_sound, sound_file
from melfusion.evaluation.picture_test.tables import sections
from melfusion.evaluation.picture_test.verdict import RULE
from melfusion.files import write_json, write_whole
from melfusion.media.options import AudioConfig
from melfusion.media.sound import write_wav

RESULTS, CARD, PAGE = "picture_test.json", "picture_test.md", "picture_test.html"

SHOWN = 8  # items on the page


def write(results: dict[str, Any], items: list[Item], calls: list[Call], sounds: Path, out: Path, audio: AudioConfig) -> None:
    """Write all three into `out`. The page has copies of some sounds, all at one level, rate and length."""
    write_json(out / RESULTS, results)
    write_whole(out / CARD, card(results))
    page(results, items, calls, sounds, out, audio)


def card(results: dict[str, Any]) -> str:
    """The card: verdict, tables, rule."""
    parts = [f"# Picture test: {results['about']['system']}", f"**The system {results['verdict']}.** {meaning(results)}"]
    for title, said, head, lines in sections(results):
        rows = ["| " + " | ".join(cells) + " |" for cells in lines]
        parts.append("\n".join([f"## {title}", said, "", "| " + " | ".join(head) + " |", "|---" * len(head) + "|", *rows]))
    parts += [f"## Rule\n{RULE}", f"## How it was measured\n{measured(results['about'])}"]
    return "\n\n".join(parts) + "\n"


def meaning(results: dict[str, Any]) -> str:
    """What the verdict rests on, in a sentence or two."""
    said = []
    if results["follows"]:
        said.append(f"What it follows: {_list(results['follows'])}.")
    if results["brightness"]:
        said.append(
            f"{_list(results['brightness']).capitalize()}: right more often than by chance, but no more often than with another "
            "picture that is as bright, so brightness explains it."
        )
    if results["brightness_alone"]:
        said.append("No difference was found between pictures that are equally bright: it listens to brightness alone.")
    return " ".join(said)


def measured(about: dict[str, Any]) -> str:
    """Size, seed, failures and networks, in sentences."""
    what = (
        f"the {about['split']} split of {about['data']}" if about["data"] else "drawn scenes that no shipped model was trained on"
    )
    networks = ", ".join(f"{name} {digest}" for name, digest in about["networks"].items())
    failed = "; ".join(f"{count} times: {reason}" for reason, count in about["reasons"].items())
    rows = ", ".join(f"{count} of {ROWS[row]!r}" for row, count in about["failed_by_row"].items())
    lost = f"{about['failed']} calls gave no sound that can be scored ({rows}): {failed}." if failed else "No call failed."
    return (
        f"{about['items']} items of {what} (seed {about['seed']}), {about['calls']} calls in {about['seconds_making']:g} s. {lost} "
        f"A sound is brought to one channel, {about['sample_rate_hz']} Hz, its first {about['seconds_of_a_sound']:g} s and one "
        "level before it is scored. ± and brackets are intervals of 99 % over items (Wilson's for shares), on real tuples over "
        f"pieces of music. Listeners: {networks or 'none'}. Made by `melfusion picture-test`, version {about['version']}."
    )


def page(results: dict[str, Any], items: list[Item], calls: list[Call], sounds: Path, out: Path, audio: AudioConfig) -> Path:
    """Write the page, and the sounds of some items into out/examples."""
    (out / "examples").mkdir(parents=True, exist_ok=True)
    found = {(call.item, call.row): call for call in calls}
    lines = []
    for i in order.spread(range(len(items)), SHOWN):
        item = items[i]
        clips = {row: _clip(found.get((i, row)), item, sounds, out, audio) for row in ROWS}
        labels = " · ".join(f"{name}: {value}" for name, value in item.labels.items())
        lines.append({"key": item.key, "prompt": item.prompt, "labels": labels, "clips": clips})
    return html.write(
        out / PAGE,
        title=f"Picture test: {results['about']['system']}",
        verdict=results["verdict"],
        meaning=meaning(results),
        sections=sections(results),
        rule=RULE,
        measured=measured(results["about"]),
        rows=ROWS,
        lines=lines,
    )


def _clip(call: Call | None, item: Item, sounds: Path, out: Path, audio: AudioConfig) -> dict[str, str]:
    """What the page shows of a call."""
    if call is None:
        return {"wav": "", "picture": "", "prompt": "", "why_not": "no picture is as bright"}
    shown = {"picture": html.link(out / "pictures" / call.picture if call.picture else None, out), "wav": "", "why_not": ""}
    shown["prompt"] = call.prompt if call.prompt != item.prompt else ""
    try:
        waveform = read_sound(sound_file(sounds, call), audio)
    except BadSample as error:
        return shown | {"why_not": str(error)}
    copy = out / "examples" / f"{call.name}.wav"
    write_wav(copy, waveform, audio.sample_rate_hz)
    return shown | {"wav": html.link(copy, out)}


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
