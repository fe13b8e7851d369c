"""Scores as words: Markdown tables of rows, and what they say in one sentence."""

from __future__ import annotations

from typing import Any

DISTANCES = {"fad": "FAD", "fad_inf": "FAD∞", "fad_conditional": "FAD by class", "kad": "KAD"}


def table(scores: dict[str, Any]) -> str:
    """Accuracy by row, then distances by embedder, IMSM, reasons for what is missing, and what the numbers were taken with."""
    parts = [attributes(scores)] if scores["chance"] else []
    embedders = list(dict.fromkeys(e for row in scores["rows"].values() for e in row.get("distances", {})))
    parts += [distances(scores, name) for name in embedders]
    if any("imsm" in row for row in scores["rows"].values()):
        parts.append(imsm(scores))
    about = ", ".join(f"{k} {v}" for k, v in scores["about"].items() if v not in (None, {}))
    return "\n\n".join([*parts, f"({about})"])


def attributes(scores: dict[str, Any]) -> str:
    """Accuracy with its Wilson interval; the last row is the paired gain over a shuffled picture."""
    names = list(scores["chance"])
    lines = ["| heard right | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for row, entry in scores["rows"].items():
        cells = [_share(entry["attributes"].get(name)) for name in names]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    lines.append("| chance | " + " | ".join(f"{scores['chance'][name]:.2f}" for name in names) + " |")
    if "gain" in scores:
        found = (scores["gain"].get(name) for name in names)
        gains = (f"{g['mean']:+.2f} ± {g['interval']:.2f}" if g else "-" for g in found)
        lines.append("| right - shuffled | " + " | ".join(gains) + " |")
    return "\n".join(lines)


def distances(scores: dict[str, Any], embedder: str) -> str:
    """Distances to real clips by one embedder; lower is nearer. `real` is the floor."""
    lines = [f"| distance by {embedder} | " + " | ".join(DISTANCES.values()) + " |", "|---" * (len(DISTANCES) + 1) + "|"]
    why: dict[str, str] = {}
    for row, entry in scores["rows"].items():
        found = entry.get("distances", {}).get(embedder, {})
        why |= {DISTANCES[name]: found[name]["why_not"] for name in DISTANCES if "why_not" in found.get(name, {})}
        lines.append(f"| {row} | " + " | ".join(_distance(found.get(name)) for name in DISTANCES) + " |")
    return "\n".join(lines + ["", *(f"{name} is not computed: {reason}" for name, reason in why.items())]).rstrip()


def imsm(scores: dict[str, Any]) -> str:
    """IMSM of the scenes' own towers."""
    lines = ["| scenes' own towers | imsm_scenes | released reduction |", "|---|---|---|"]
    for row, entry in scores["rows"].items():
        if found := entry.get("imsm"):
            lines.append(f"| {row} | {found['imsm_scenes']:.3f} | {found['imsm_scenes_released']:.3g} |")
    return "\n".join(lines)


def learned(scores: dict[str, Any]) -> str:
    """What the scores say of the picture, in one sentence."""
    if "gain" not in scores:
        return "No row with the right and one with a shuffled picture: nothing is said of the picture."
    heard = [name for name, g in scores["gain"].items() if g["mean"] > g["interval"]]
    if not heard:
        return "No attribute of the picture is heard more often than with a shuffled picture: train longer."
    return f"The picture is heard: its {', '.join(heard)} more often than with a shuffled picture, beyond the 95 % interval."


def _share(score: dict[str, float] | None) -> str:
    return "-" if score is None else f"{score['accuracy']:.2f} ({score['low']:.2f}-{score['high']:.2f})"


def _distance(score: dict[str, Any] | None) -> str:
    if not score or "why_not" in score:
        return "-"
    return f"{score['mean']:.3g}" + (f" ± {score['interval']:.2g}" if "interval" in score else "")


def suite_table(result: dict[str, Any]) -> str:
    """A suite's rows: accuracy, class-conditional and plain distances, gain over the baseline, and what it was run on."""
    names = list(next((row["attributes"] for row in result["rows"]), {}))
    embedders = list(next((row["distances"] for row in result["rows"]), {}))
    shown = [(e, k) for e in embedders for k in ("fad_conditional", "fad", "kad")]
    heads = [*names, *(f"{DISTANCES[k]}, {e}" for e, k in shown), *(f"gain, {e}" for e in embedders), "IMSM (scenes)"]
    lines = ["| row | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for row in result["rows"]:
        cells = [_share(row["attributes"].get(name)) for name in names]
        cells += [_distance(row["distances"][e].get(k)) for e, k in shown]
        gains = row.get("gain", {})
        cells += [f"{gains[e]['mean']:.1%} ± {gains[e]['interval']:.1%}" if e in gains else "-" for e in embedders]
        cells.append(f"{row['imsm']['imsm_scenes']:.3f}" if row.get("imsm") else "-")
        lines.append(f"| {row['name']} | " + " | ".join(cells) + " |")
    told = [f"{row['name']}: {row['why']}" for row in result["rows"] if row.get("why")]
    for row in result["rows"]:
        if found := row.get("never_trained_on"):
            told.append(f"{row['name']}, combinations never trained on: " + ", ".join(f"{a} {_share(s)}" for a, s in found.items()))
    missing = [f"{row}: not run yet" for row in result["not_run"]]
    r = result
    about = (f"{r['device']}; {r['steps']} training steps, seeds {r['seeds']}; {r['n']} clips a row, of scenes drawn with seed "
             f"{r['test_seed']}, against {r['reference']} other real clips; {r['sampling_steps']} sampling steps; networks "
             f"{r['networks']}; brackets and ± are 95 % intervals over clips (Wilson, jackknife).")  # fmt: skip
    return "\n".join([f"# {result['suite']}", "", *lines, "", *(f"- {t}" for t in told + missing), "", about,
                      f"Made by `{result['command']}`."])  # fmt: skip
