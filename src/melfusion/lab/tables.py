"""A suite as text: its rows in one table, and below it the questions, the most frequent errors, and what is missing."""

from __future__ import annotations

from typing import Any

from melfusion.evaluation.tables import ACCURACY, DISTANCES, mean_cell, measured, share_cell


def suite_table(result: dict[str, Any]) -> str:
    """Accuracy, distances, gain over the baseline and scores with the own item of every row; then the notes of NOTES."""
    lines = rows_table(result)
    notes = [f"- {line}" for note in NOTES for line in note(result)]
    return "\n".join(
        [f"# {result['suite']}", "", *lines, "", *notes, "", about(result), ACCURACY, f"Made by `{result['command']}`."]
    )


def rows_table(result: dict[str, Any]) -> list[str]:
    """The lines of the table."""
    rows = result["rows"]
    names = list(dict.fromkeys(a for row in rows for a in row["attributes"]))
    embedders = list(dict.fromkeys(e for row in rows for e in row["distances"]))
    computed = {(e, k) for row in rows for e, found in row["distances"].items() for k, score in found.items() if "mean" in score}
    shown = [(e, k) for e in embedders for k in ("fad_conditional", "fad", "kad") if (e, k) in computed]
    pairs = list(dict.fromkeys(k for row in rows for k in row["paired"] if not k.endswith("released")))
    heads = [*names, *(f"{DISTANCES[k]}, {e}" for e, k in shown), *(f"gain, {e}" for e in embedders), *pairs]
    lines = ["| row | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for row in rows:
        cells = [share_cell(row["attributes"].get(name)) for name in names]
        cells += [mean_cell(row["distances"].get(e, {}).get(k)) for e, k in shown]
        cells += [_gain(row.get("gain", {}).get(e)) for e in embedders]
        cells += [mean_cell(row["paired"].get(k)) for k in pairs]
        fewer = "" if row["n"] == result["n"] else f" ({row['n']} clips)"
        lines.append(f"| {row['name']}{fewer} | " + " | ".join(cells) + " |")
    return lines


def _gain(gain: dict[str, Any] | None) -> str:
    if not gain or "why_not" in gain:
        return "-"
    if gain["of"] == "kad":
        return f"KAD less by {gain['mean']:.3g} ± {gain['interval']:.2g}"
    return f"{gain['mean']:.1%} ± {gain['interval']:.1%}" + (f" (seeds ± {gain['over_seeds']:.1%})" if "over_seeds" in gain else "")


def about(result: dict[str, Any]) -> str:
    r = result
    drawn = "" if r["corpus_seed"] is None else f" (corpus seed {r['corpus_seed']})"
    networks = ", ".join(f"{name} {digest}" for name, digest in r["networks"].items())
    seeds, sampling = (", ".join(map(str, r[name])) for name in ("seeds", "sampling_steps"))
    devices = sorted({device for row in r["rows"] for device in row.get("device", [])}) or [r["device"]]
    return (
        f"{'; '.join(devices)}; {r['steps']} training steps, seeds {seeds}; {r['n']} clips a row, "
        f"tested on {r['tested_on']}{drawn}, "
        f"against {r['reference']} other real clips ({r['against']}); {sampling} sampling steps; "
        f"{r['sample_rate_hz']} Hz at {r['loudness_dbfs']} dBFS{' of the peak' if r.get('level') == 'peak' else ''}; "
        f"networks: {networks}; brackets and ± are 95 % intervals "
        f"over clips (Wilson, jackknife)"
        f"{_over(result)}."
    )


def _over(result: dict[str, Any]) -> str:
    """Where the intervals of KAD are over tracks: over how many."""
    over_all = {s["over"] for row in result["rows"] for found in row["distances"].values() for s in found.values() if "over" in s}
    return "".join(f", those of KAD over {over} (bootstrap, Student's t)" for over in sorted(over_all - {"clips"}))


def questions(result: dict[str, Any]) -> list[str]:
    return [f"{row['name']}: {row['why']}" for row in result["rows"] if row.get("why")]


def never_trained_on(result: dict[str, Any]) -> list[str]:
    return [
        f"{row['name']}, combinations never trained on: " + ", ".join(f"{a} {share_cell(s)}" for a, s in found.items())
        for row in result["rows"]
        if (found := row.get("never_trained_on"))
    ]


def by_seed(result: dict[str, Any]) -> list[str]:
    """How far training seeds are apart, where there are several."""
    lines = []
    for row in result["rows"]:
        if len(seeds := row.get("seeds", [])) > 1 and (found := row["by_seed"]):
            parts = (f"{name} " + ", ".join(f"{share:.3f}" for share in shares["seeds"]) for name, shares in found.items())
            lines.append(f"{row['name']}, accuracy by seeds {', '.join(map(str, seeds))}: {'; '.join(parts)}")
    return lines


def embedders(result: dict[str, Any]) -> list[str]:
    """What each network measures, and in how many components its Fréchet distances are."""
    lines = []
    for name, embedder in result["embedders"].items():
        taken = {DISTANCES[k]: d for k, d in result["components"].get(name, {}).items() if not isinstance(d, str)}
        within = "".join(f"; {k} in {d} components" for k, d in taken.items())
        lines.append(f"{name} measures {measured(embedder)}{within}" + (f" of a PCA of {result['fitted_on']}" if taken else ""))
    return lines


def sampled_at(result: dict[str, Any]) -> list[str]:
    """The guidance scale of each row."""
    scales = [f"{row['name']} {row['guidance_scale']:g}" for row in result["rows"] if "guidance_scale" in row]
    return [f"guidance scales: {', '.join(scales)}"] if scales else []


def mistakes(result: dict[str, Any]) -> list[str]:
    """The most frequent errors of each attribute whose accuracy is at most 0.98."""
    lines = []
    for row in result["rows"]:
        for name, wrong in row.get("confusions", {}).items():
            score = row["attributes"].get(name)
            if row["floor"] or score is None or score["accuracy"] > 0.98:
                continue
            pairs = sorted(((n, a, b) for a, others in wrong.items() for b, n in others.items()), reverse=True)[:3]
            worst = ", ".join(f"{a} as {b} {n / score['n']:.1%}" for n, a, b in pairs)
            lines.append(f"{row['name']}: {name} is predicted wrongly in {1 - score['accuracy']:.1%} of clips, most often {worst}")
    return lines


def alphas(result: dict[str, Any]) -> list[str]:
    return [
        f"{row['name']}, learned α: "
        + "; ".join(
            f"seed {seed}: " + ", ".join(f"{g} {_numbers(v)}" for g, v in found.items()) for seed, found in row["alphas"].items()
        )
        for row in result["rows"]
        if row.get("alphas")
    ]


def _numbers(values: list[float]) -> str:
    return "/".join(f"{v:.2f}" for v in values)


def guidance(result: dict[str, Any]) -> list[str]:
    """Accuracy by guidance scale, on validation clips by the judge that chose. Rows of one model share a line."""
    shared: dict[str, list[str]] = {}
    for row in result["rows"]:
        tried = row.get("guidance_tried", {})
        parts = [
            f"{name} " + ", ".join(f"{scale}: {found[name]['accuracy']:.2f}" for scale, found in tried.items())
            for name in next(iter(tried.values()), {})
        ]
        if parts:
            shared.setdefault("; ".join(parts), []).append(row["name"])
    return [f"{', '.join(names)}, accuracy by guidance scale on validation clips: {parts}" for parts, names in shared.items()]


def leaks(result: dict[str, Any]) -> list[str]:
    """The leakage test: accuracy of linear classifiers on captions and pictures. The intervals hold for all of them together."""
    verdict = {True: "as wanted", False: "NOT AS WANTED"}
    return [
        f"{verdict[row['holds']]}: {row['attribute']} in the {row['source']} ({row['features']}) has accuracy "
        f"{share_cell(row)}, chance {row['chance']:.2f}, wanted {row['wanted']}"
        for row in result.get("leakage", [])
    ]


def memorised(result: dict[str, Any]) -> list[str]:
    lines = []
    for row in result["rows"]:
        for name, found in row.get("memorisation", {}).items():
            nearer = f"{share_cell(found['nearer'])} over {found['nearer']['n']} tracks"
            near = ", ".join(f"{p['clip']} to {p['train']} ({p['distance']:.3g})" for p in found["closest"][:2])
            lines.append(
                f"{row['name']}, nearest training clips by {name}: a share of {nearer} is nearer than "
                f"the median real held-out clip; distance to training over distance to held-out clips "
                f"{found['ratio']:.2f} (real: {found['ratio_real']:.2f}); closest: {near}"
            )
    return lines


def not_computed(result: dict[str, Any]) -> list[str]:
    """Distances and gains that are not computed, and why, each reason once."""
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for row in result["rows"]:
        found = [(e, DISTANCES.get(k, k), score) for e, scores in row["distances"].items() for k, score in scores.items()]
        found += [(e, "gain", score) for e, score in row.get("gain", {}).items()]
        for embedder, name, score in found:
            if "why_not" in score:
                reasons.setdefault((name, embedder, score["why_not"]), []).append(row["name"])
    rows = len(result["rows"])
    return [
        f"{name} by {embedder} is not computed{'' if len(names) == rows else ' for ' + ', '.join(names)}: {why}"
        for (name, embedder, why), names in reasons.items()
    ]


def missing(result: dict[str, Any]) -> list[str]:
    return [f"{row}: {words}" for row, words in result["missing"].items()]


NOTES = (
    questions,
    embedders,
    by_seed,
    never_trained_on,
    mistakes,
    alphas,
    sampled_at,
    guidance,
    leaks,
    memorised,
    not_computed,
    missing,
)
