"""What the numbers say: dependence, following, words, and one verdict of three. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from melfusion.errors import DataError
from melfusion.evaluation.picture_test import statistics
from melfusion.evaluation.picture_test.items import FEWEST, ROWS, Item
from melfusion.evaluation.picture_test.measuring import LOG_MEL, Measured
from melfusion.evaluation.picture_test.scenes import SEEN, WORDED

NO, DEPENDS, FOLLOWS = ("does not depend on the picture", "depends on the picture but does not follow it", "follows the picture")

TEMPO_TOLERANCE = 0.08  # of a tempo, which is estimated in steps of 5 beats per minute

RULE = (
    "It depends on the picture if the sound of another picture differs from that of the right one by more than a repetition of the "
    f"same call does (signs of paired differences, p < {statistics.LEVEL:g} over all measures). It follows the picture if, "
    "moreover, something that the picture shows is predicted from the sound more often than by chance and with permuted pictures, "
    "and more often than when another picture, as bright, was shown; each by its interval of 99 %. On real tuples: if the sound is "
    "nearer to the picture's own track than with another picture and than with one that is as bright."
)


def judged(measured: Measured, items: Sequence[Item]) -> dict[str, Any]:
    """The whole result, as JSON stores it; DataError where too few items can be compared."""
    groups = [item.group for item in items]
    both = (
        measured.features.get("right", {}).keys()
        & measured.features.get("other", {}).keys()
        & measured.features.get("again", {}).keys()
    )
    if (n := len({groups[i] for i in both})) < FEWEST:
        raise DataError(
            f"Only {n} items (pieces of music, on real tuples) have usable sounds of the right, of another picture and of the same "
            f"call again, and a verdict needs {FEWEST}: see what failed, or give a larger n."
        )
    found: dict[str, Any] = {"dependence": dependence(measured, groups)}
    if any(item.track for item in items):
        found |= {"tracks": tracks(measured, groups)}
    else:
        found |= {"following": following(measured, items), "contradiction": contradiction(measured, items)}
    found |= {"words": words(measured, items)}
    return found | concluded(found)


def concluded(found: dict[str, Any]) -> dict[str, Any]:
    """The verdict, what is followed, what brightness explains, and whether it is all that matters."""
    entries = {
        (name, by): entry for name, of in found.get("following", {}).items() for by, entry in of.items() if entry is not None
    }
    followed = [name for (name, _), entry in entries.items() if entry["follows"]]
    followed += [f"own track by {name}" for name, entry in found.get("tracks", {}).items() if entry["follows"]]
    bright = [name for (name, _), entry in entries.items() if entry["brightness"]]
    verdict = NO if not found["dependence"]["depends"] else FOLLOWS if followed else DEPENDS
    only = [name for name in dict.fromkeys(bright) if name not in followed]
    return {
        "verdict": verdict,
        "follows": list(dict.fromkeys(followed)) if verdict == FOLLOWS else [],
        "brightness": only if verdict != NO else [],
        "brightness_alone": verdict == DEPENDS and found["dependence"]["brightness_alone"],
    }


def dependence(measured: Measured, groups: Sequence[str]) -> dict[str, Any]:
    """Measure → row → how far its sounds are from those of the right picture, beyond a repetition of the same call."""
    measures: dict[str, Any] = {}
    for measure in measured.vectors:
        again = measured.distances(measure, "again")
        rows = {}
        for row in ROWS:
            if row != "right" and (far := statistics.grouped(measured.distances(measure, row), groups)):
                beyond = None if row == "again" else statistics.paired(measured.distances(measure, row), again, groups)
                rows[row] = {"mean": sum(far) / len(far), "beyond": beyond}
        measures[measure] = rows
    level = statistics.LEVEL / len(measures)

    def differs(row: str) -> bool:
        tests = [rows[row]["beyond"] for rows in measures.values() if row in rows]
        return any(test is not None and test["p"] < level for test in tests)

    compared = len({groups[i] for i in measured.distances(LOG_MEL, "as bright")})
    alone = differs("other") and not differs("as bright") and compared >= FEWEST
    return {"measures": measures, "level": level, "depends": differs("other"), "brightness_alone": alone}


def following(measured: Measured, items: Sequence[Item]) -> dict[str, dict[str, Any]]:
    """Attribute → by judge and by probe, what `statistics.followed` says; and the judge's accuracy with a half hidden."""
    groups = [item.group for item in items]
    found: dict[str, dict[str, Any]] = {}
    for name, classes in SEEN.items():
        wanted = {i: item.labels[name] for i, item in enumerate(items)}
        comparable = [i for i, item in enumerate(items) if name in item.differing]
        rest = (wanted, comparable, len(classes), groups)
        found[name] = {}
        if rows := measured.classes.get(name, {}):
            entry = statistics.followed(rows.get("right", {}), rows.get("as bright", {}), rows.get("none", {}), *rest)
            halves = {row: statistics.accuracy(statistics.hits(rows.get(row, {}), wanted)) for row in ("upper half", "lower half")}
            found[name]["judge"] = entry and entry | halves
        right = measured.features.get("right", {})
        own, bright = statistics.probe(right, measured.features.get("as bright", {}), wanted)
        none = statistics.probe(right, measured.features.get("none", {}), wanted)[1]
        found[name]["probe"] = statistics.followed(own, bright, none, *rest)
    return found


def tracks(measured: Measured, groups: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Measure → how much nearer to its own track a sound is with the right picture than with others (positive: nearer)."""
    found = {}
    for measure in measured.vectors:
        right = measured.to_tracks(measure, "right")
        gains = {row: statistics.paired(measured.to_tracks(measure, row), right, groups) for row in ("other", "as bright", "none")}
        asked = [gains["other"], gains["as bright"]]
        enough = all(gain is not None and gain["n"] >= FEWEST and gain["mean"] > gain["interval"] for gain in asked)
        found[measure] = {"gains": gains, "follows": enough}
    return found


def words(measured: Measured, items: Sequence[Item]) -> dict[str, dict[str, Any]]:
    """What the prompt says, by the judge of keys or the estimate of tempo: accuracy by row, and what is lost to the picture."""
    groups = [item.group for item in items]
    found: dict[str, dict[str, Any]] = {}
    for name in (*WORDED, "tempo"):
        wanted = {i: item.labels[name] for i, item in enumerate(items) if name in item.labels}
        rows = {row: said(name, predicted, wanted) for row, predicted in measured.classes.get(name, {}).items()}
        if not wanted or not rows.get("right"):
            continue
        shown = ("right", "none", "other", "contradicted")
        found[name] = {row: statistics.accuracy(rows.get(row, {})) for row in shown}
        found[name] |= {
            "lost to the picture": statistics.paired(rows.get("none", {}), rows["right"], groups),
            "lost to contradicting words": statistics.paired(rows["right"], rows.get("contradicted", {}), groups),
            "chance": 1 / len(WORDED[name]) if name in WORDED else None,
        }
    return found


def said(name: str, predicted: Mapping[int, str], wanted: Mapping[int, str]) -> dict[int, float]:
    """Item → 1.0 where the sound has what the prompt says. A tempo may differ a little."""
    if name != "tempo":
        return statistics.hits(predicted, wanted)
    return {
        i: float(bool(predicted[i]) and abs(float(predicted[i]) / float(wanted[i]) - 1) <= TEMPO_TOLERANCE)
        for i in predicted
        if i in wanted
    }


def contradiction(measured: Measured, items: Sequence[Item]) -> dict[str, dict[str, Any]]:
    """Attribute → how often the judge predicts what the picture shows, and what the words say, where they contradict."""
    found = {}
    for name in ("place", "weather"):
        if predicted := measured.classes.get(name, {}).get("contradicted", {}):
            shown, said = ({i: of(item)[name] for i, item in enumerate(items)} for of in (lambda x: x.labels, lambda x: x.said))
            found[name] = {
                "picture": statistics.accuracy(statistics.hits(predicted, shown)),
                "words": statistics.accuracy(statistics.hits(predicted, said)),
            }
    return found
