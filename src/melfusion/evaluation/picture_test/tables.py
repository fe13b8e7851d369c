"""The tables of card and page: titles, a sentence on how to read them, heads and cells."""

from __future__ import annotations

from typing import Any

from melfusion.evaluation.picture_test.items import ROWS
from melfusion.evaluation.picture_test.measuring import LOG_MEL

Section = tuple[str, str, list[str], list[list[str]]]  # title, how to read it, head, rows of cells

WORDS = {"tonic": "key", "mode": "major or minor", "tempo": "tempo"}


def sections(results: dict[str, Any]) -> list[Section]:
    """All tables of a result."""
    parts = [_dependence(results["dependence"])]
    if "following" in results:
        parts += [_following(results["following"]), _halves(results["following"])]
    if "tracks" in results:
        parts.append(_tracks(results["tracks"]))
    if results["words"]:
        parts.append(_words(results["words"]))
    if results.get("contradiction"):
        parts.append(_contradiction(results["contradiction"]))
    return [part for part in parts if part[3]]


def _dependence(found: dict[str, Any]) -> Section:
    names = list(found["measures"])
    lines = []
    for row in ROWS:
        entries = [found["measures"][name].get(row) for name in names]
        if any(entries):
            lines.append([ROWS[row], *(_distance(name, entry) for name, entry in zip(names, entries, strict=True))])
    said = (
        "Prompt and seed are the same in each line: how far a sound is from that of the right picture. In brackets: by how much "
        "this exceeds the same call again, which tells how much the system varies by itself."
    )
    return "Do the sounds depend on the picture?", said, ["shown", *(_unit(name) for name in names)], lines


def _following(found: dict[str, Any]) -> Section:
    lines = []
    for name, of in found.items():
        for by, entry in of.items():
            if entry:
                cells = [share(entry["right"]), counted(entry["as bright"]), share(entry["none"])]
                other = f"{max(entry['chance'], entry['permuted']):.2f}"
                lines.append([f"{name}, by the {by}", *cells, other, difference(entry["gain"]), _said(entry)])
    said = (
        "How often what the right picture shows is predicted from the sound. The judge knows how this corpus plays place, time and "
        "weather; the probe is fitted on the system's own sounds of other items, so it also finds a way of the system's own. "
        "Another picture that is as bright, and differs in the attribute, was found for n items."
    )
    head = ["attribute", "right picture", ROWS["as bright"], "no picture", "chance", "gain over as bright", "followed"]
    return "Do they follow it?", said, head, lines


def _halves(found: dict[str, Any]) -> Section:
    judged = {name: of["judge"] for name, of in found.items() if of.get("judge")}
    lines = [[name, *(share(entry[row]) for row in ("right", "upper half", "lower half"))] for name, entry in judged.items()]
    said = "The same by the judge, where half of the picture is grey. The lower half shows the place, the upper time and weather."
    return "Which half do they follow?", said, ["attribute", "whole", "upper half alone", "lower half alone"], lines


def _tracks(found: dict[str, Any]) -> Section:
    rows = ("other", "as bright", "none")
    lines = [
        [_unit(name), *(difference(entry["gains"][row]) for row in rows), "yes" if entry["follows"] else "no"]
        for name, entry in found.items()
    ]
    said = (
        "By how much a sound is nearer to the picture's own track with the right picture (positive: nearer). What pictures show "
        "is not labelled here, so place, time and weather cannot be measured."
    )
    return "Do they follow it?", said, ["distance by", "than another picture", "as bright", "no picture", "followed"], lines


def _words(found: dict[str, Any]) -> Section:
    lines = []
    for name, entry in found.items():
        chance = "-" if entry["chance"] is None else f"{entry['chance']:.2f}"
        cells = [share(entry[row]) for row in ("right", "none", "contradicted")]
        lines.append([WORDS[name], *cells, chance, difference(entry["lost to the picture"])])
    said = "How often a sound has what the prompt says. What is lost to the picture: without picture minus with the right one."
    return "What is lost of the words?", said, ["the prompt's", "with picture", "without", "contradicting", "chance", "lost"], lines


def _contradiction(found: dict[str, Any]) -> Section:
    lines = [[name, share(entry["picture"]), share(entry["words"])] for name, entry in found.items()]
    said = "The prompt names another place and weather than the picture shows: which of the two does the judge predict?"
    return "Where words and picture contradict", said, ["attribute", "the picture's", "the words'"], lines


def _unit(measure: str) -> str:
    return "log-mel, dB" if measure == LOG_MEL else f"{measure}, 1 - cosine"


def _distance(measure: str, entry: dict[str, Any] | None) -> str:
    if entry is None:
        return "-"
    digits = 2 if measure == LOG_MEL else 3
    beyond = entry["beyond"]
    return f"{entry['mean']:.{digits}f}" + (f" ({beyond['mean']:+.{digits}f} ± {beyond['interval']:.{digits}f})" if beyond else "")


def _said(entry: dict[str, Any]) -> str:
    return "yes" if entry["follows"] else "no: brightness" if entry["brightness"] else "no"


def share(score: dict[str, float] | None) -> str:
    """An accuracy with its interval."""
    return "-" if score is None else f"{score['accuracy']:.2f} ({score['low']:.2f}-{score['high']:.2f})"


def counted(score: dict[str, float] | None) -> str:
    """The same with the number of items."""
    return share(score) + (f", n {score['n']}" if score else "")


def difference(score: dict[str, float] | None) -> str:
    """A paired difference with its interval."""
    return "-" if score is None else f"{score['mean']:+.2f} ± {score['interval']:.2f}"
