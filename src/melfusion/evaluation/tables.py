"""Scores as text: Markdown tables of rows, and what they say in sentences."""

from __future__ import annotations

from typing import Any

DISTANCES = {"fad": "FAD", "fad_inf": "FAD∞", "fad_conditional": "FAD by class", "kad": "KAD"}

ACCURACY = "Accuracy: the share of clips whose class, predicted by the judge, is the right one; brackets are 95 % Wilson intervals."

PAIRED = {
    "kl": "KL (PANNs)",
    "clap_score": "CLAP score",
    "imsm": "IMSM",
    "imsm_released": "IMSM, released reduction",
    "imsm_scenes": "imsm_scenes",
    "imsm_scenes_released": "imsm_scenes, released reduction",
}


def table(scores: dict[str, Any]) -> str:
    """Accuracy by row, distances by embedder, scores with the own item, why scores are missing, and the settings."""
    parts = [attributes(scores)] if any(row.get("attributes") for row in scores["rows"].values()) else []
    embedders = list(dict.fromkeys(e for row in scores["rows"].values() for e in row.get("distances", {})))
    parts += [distances(scores, name) for name in embedders]
    if any(row.get("paired") for row in scores["rows"].values()):
        parts.append(paired(scores))
    if not parts:
        parts.append("\n".join(["| row | clips |", "|---|---|", *(f"| {row} | {e['n']} |" for row, e in scores["rows"].items())]))
    if "validation" in scores:
        parts.append(", ".join(f"{name} {value:.4g}" for name, value in scores["validation"].items()) + " after training")
    about = ", ".join(f"{k} {v}" for k, v in scores["about"].items() if v not in (None, {}) and k != "embedders")
    return "\n\n".join([*parts, f"({about})"])


def attributes(scores: dict[str, Any]) -> str:
    """Accuracy with its Wilson interval; the last line is the paired gain over a shuffled picture."""
    names = list(scores["chance"])
    lines = ["| accuracy | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for row, entry in scores["rows"].items():
        cells = [share_cell(entry["attributes"].get(name)) for name in names]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    lines.append("| chance | " + " | ".join(f"{scores['chance'][name]:.2f}" for name in names) + " |")
    if "gain" in scores:
        found = (scores["gain"].get(name) for name in names)
        gains = (f"{g['mean']:+.2f} ± {g['interval']:.2f}" if g else "-" for g in found)
        lines.append("| right - shuffled | " + " | ".join(gains) + " |")
    return "\n".join([*lines, "", ACCURACY])


def distances(scores: dict[str, Any], embedder: str) -> str:
    """Distances to real clips by one embedder; lower is nearer. `real` and `reconstruction` are the floors."""
    names = DISTANCES | ({"fad": "FD", "fad_inf": "FD∞", "fad_conditional": "FD by class"} if embedder == "panns" else {})
    lines = [f"| distance by {embedder} | " + " | ".join(names.values()) + " |", "|---" * (len(names) + 1) + "|"]
    why: dict[str, str] = {}
    taken: set[str] = set()
    for row, entry in scores["rows"].items():
        found = entry.get("distances", {}).get(embedder, {})
        why |= {names[name]: found[name]["why_not"] for name in names if "why_not" in found.get(name, {})}
        taken |= {f"{names[name]} in {score['dimensions']} components" for name, score in found.items() if "dimensions" in score}
        lines.append(f"| {row} | " + " | ".join(mean_cell(found.get(name)) for name in names) + " |")
    about = scores.get("about", {}).get("embedders", {}).get(embedder)
    notes = [f"{embedder} ({about['sha256']}, {about['sample_rate_hz']} Hz) measures {measured(about)}."] if about else []
    notes += [f"{', '.join(sorted(taken))}."] if taken else []
    return "\n".join(lines + ["", *notes, *(f"{name} is not computed: {reason}" for name, reason in why.items())]).rstrip()


def paired(scores: dict[str, Any]) -> str:
    """Scores of clips with the picture, the caption and the real clip of their item."""
    found = {row: entry.get("paired", {}) for row, entry in scores["rows"].items()}
    names = [name for name in PAIRED if any(name in entry for entry in found.values())]
    lines = ["| with its own item | " + " | ".join(PAIRED[name] for name in names) + " |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {row} | " + " | ".join(mean_cell(entry.get(name)) for name in names) + " |" for row, entry in found.items()]
    why = {PAIRED[name]: entry[name]["why_not"] for entry in found.values() for name in names if "why_not" in entry.get(name, {})}
    return "\n".join(lines + ["", *(f"{name} is not computed: {reason}" for name, reason in why.items())]).rstrip()


def learned(scores: dict[str, Any]) -> str:
    """What the scores say about the use of the picture, in one sentence or a few."""
    if "gain" not in scores:
        return "Rows with the right and with a shuffled picture are not both here, so nothing is said of the picture."
    if not scores["gain"]:
        return without_labels(scores)
    better = [name for name, g in scores["gain"].items() if g["mean"] > g["interval"]]
    if not better:
        return "No attribute of the picture has a higher accuracy than with a shuffled picture: train longer."
    return (
        f"The picture is used: with it {', '.join(better)} is more often right than with a shuffled one, beyond the 95 % interval."
    )


def without_labels(scores: dict[str, Any]) -> str:
    """The same where no attribute was compared: the gain in validation, and scores of clips with their item's picture."""
    lines = ["No attribute of the picture was compared: that needs a judge (judge.weights) and items with labels that it knows."]
    if words := picture_gain(scores.get("validation", {})):
        lines.append(words)
    right, shuffled = (scores["rows"][row] for row in ("right picture", "shuffled picture"))
    for name, words in PAIRED.items():
        cells = [mean_cell(row.get("paired", {}).get(name)) for row in (right, shuffled)]
        if name not in ("kl", "clap_score") and "-" not in cells:  # these two do not depend on the picture
            lines.append(f"{words} of clips and their item's picture: {cells[0]} where it was shown, {cells[1]} where another was.")
    if right.get("distances"):
        lines.append("The distances say how near the clips are to real ones, not whether they follow the picture.")
    else:
        lines.append("`melfusion evaluate` measures distances to real clips, by the networks that evaluation.embedders names.")
    return "\n".join(lines)


def picture_gain(validation: dict[str, float]) -> str:
    """How much the right picture lowered the validation loss; empty where it was not compared with another."""
    gain, loss = validation.get("val/picture_gain"), validation.get("val/loss")
    if gain is None or not loss:
        return ""
    return (
        f"val/picture_gain {gain:.3g} ({gain / loss:.2%} of val/loss): the validation loss rises by this much when the picture "
        "of another item is shown; near 0 or below, the picture is not used yet."
    )


def measured(about: dict[str, Any]) -> str:
    """What an embedder measures; results of version 0.1 have it under another name."""
    return about.get("measures") or about.get("hears", "")


def share_cell(score: dict[str, float] | None) -> str:
    """An accuracy with its interval."""
    return "-" if score is None else f"{score['accuracy']:.3f} ({score['low']:.3f}-{score['high']:.3f})"


def mean_cell(score: dict[str, Any] | None) -> str:
    """A score with its interval; a dash where there is none."""
    if not score or "why_not" in score:
        return "-"
    if score["mean"] is None:  # not finite, as JSON has it
        return "-"
    wide = score.get("interval", 0)
    return f"{score['mean']:.3g}" + (f" ± {'∞' if wide is None else f'{wide:.2g}'}" if "interval" in score else "")
