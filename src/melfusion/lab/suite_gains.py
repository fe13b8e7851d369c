"""The picture's gain of every row of a suite on real tuples, in one table; what was measured before is found by its digest."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from melfusion.assembly.load import load_system
from melfusion.assembly.run import run_directory
from melfusion.evaluation.scores import evaluate_run
from melfusion.files import read_json, write_json, write_whole
from melfusion.lab.picture_clips import Measures
from melfusion.lab.picture_gain import MEASURES, picture_gain
from melfusion.lab.suite import Suite
from melfusion.lab.trainings import begun_from, digest, remember, take_over
from melfusion.media.figures import gains_figure, save
from melfusion.models.device import best_device, device_name
from melfusion.training.run import ensure_stages, train

CODE_VERSION = 3  # raise when the same model and clips come to have another gain

RESULTS = Path("experiments") / "results"
FOLDER = RESULTS / "gains"  # what was measured, by digest


def suite_gains(suite: Suite, rows: list[str], split: str, n: int, clips: int) -> dict[str, Any]:
    """Train what has no stored gain, and measure it with and without words; returns all rows."""
    found: dict[str, Any] = {}
    FOLDER.mkdir(parents=True, exist_ok=True)
    for row in rows:
        config = suite.first(row)
        ensure_stages(config)
        begun = digest(begun_from(config))
        asked = {"code_version": CODE_VERSION, "training": begun, "split": split, "n": n, "clips": clips}
        file = FOLDER / f"{digest(asked)}.json"
        if not file.is_file():
            write_json(file, {"suite": suite.name, "row": row} | asked | _measured(suite, row, begun, split, n, clips))
        found[row] = read_json(file, "remove it, and the row is measured again") | {"why": config.ablation.question}
        print(f"{suite.name}/{row} has its gain: {file}", flush=True)
    return {"suite": suite.name, "split": split, "n": n, "clips": clips, "device": device_name(), "rows": found}


def _measured(suite: Suite, row: str, begun: str, split: str, n: int, clips: int) -> dict[str, Any]:
    config = suite.first(row)
    note = suite.path.parent / "trainings" / f"{begun}.json"
    take_over(config, note)
    results = train(config, evaluate_run)
    remember(config, note)
    path = run_directory(config).path
    system, loaded = load_system(str(path))
    system = system.to(best_device())
    steps = {"steps": config.trainer.max_steps, "seed": config.seed, "picture_gain": results.get("picture_gain")}
    measures = Measures.of(loaded, split) if clips else None
    words = {name: picture_gain(loaded, system, split, n, clips, path / "gain", said, measures) for name, said in WORDS.items()}
    return steps | words


WORDS = {"with words": True, "without words": False}


OTHERS = ("another game's picture", "its game's picture", "none picture")


def table(result: dict[str, Any], other: str = OTHERS[0]) -> str:
    """A row a line: what another picture costs by each measure, over tracks, with and without words."""
    heads = [f"{heading}, {words}" for words in WORDS for heading, _ in MEASURES.values()]
    lines = [f"| {other} costs | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    for line in lines_of(result):
        found = [gain(result, *line, words, measure, other) for words in WORDS for measure in MEASURES]
        cells = [f"{one[0]:.2f} ± {one[1]:.2f} ({one[2]})" if one else "-" for one in found]
        lines.append(f"| {', '.join(filter(None, line))} | {' | '.join(cells)} |")
    return "\n".join(lines)


def tables(result: dict[str, Any]) -> str:
    """One table for each kind of picture in the right one's place."""
    return "\n\n".join(table(result, other) for other in OTHERS)


def lines_of(result: dict[str, Any]) -> list[tuple[str, str]]:
    """Each row with each group of games that its clips are of; "" where they are of one group."""
    groups = sorted({name.partition(", ")[2] for row in result["rows"].values() for name in row["with words"]["rows"]})
    return [(row, group) for row in result["rows"] for group in groups or [""]]


def gain(
    result: dict[str, Any], row: str, group: str, words: str, measure: str, other: str = OTHERS[0]
) -> tuple[float, float, int] | None:
    """(mean, half width, number) of what another picture costs: over tracks, and over games where these are held out."""
    found = result["rows"][row][words]["rows"].get(f"{measure}: {other}" + (f", {group}" if group else ""), {})
    one, factor = found.get("games" if group.startswith("held-out") else "tracks"), abs(MEASURES[measure][1])
    if not one:
        return None
    half = math.inf if one["interval"] is None else one["interval"]  # JSON has no infinity
    return factor * one["mean"], factor * half, one["n"]


def figure(result: dict[str, Any]) -> Figure:
    """What another game's picture costs, as points with their intervals."""
    lines = lines_of(result)
    found = {
        f"another game's picture costs:\n{heading}": {
            words: [gain(result, *line, words, measure) for line in lines] for words in WORDS
        }
        for measure, (heading, _) in MEASURES.items()
    }
    measured = {heading: of for heading, of in found.items() if any(one for values in of.values() for one in values)}
    return gains_figure([", ".join(filter(None, line)) for line in lines], measured)


def write(result: dict[str, Any], folder: Path) -> None:
    """SUITE.{json,md,png}, or SUITE_test: what pictures of other games, of the same game, and none cost."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = result["suite"] + ("" if result["split"] == "val" else f"_{result['split']}")
    write_json(folder / f"{stem}.json", result)
    write_whole(folder / f"{stem}.md", tables(result) + "\n")
    save(figure(result), folder / f"{stem}.png")
