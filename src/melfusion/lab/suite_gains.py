"""The picture's gain of every row of a suite on real tuples, in one table; what was measured before is found by its digest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from melfusion.assembly.load import load_system
from melfusion.assembly.run import run_directory
from melfusion.evaluation.scores import evaluate_run
from melfusion.files import read_json, write_json, write_whole
from melfusion.lab.picture_gain import MEASURES, cell, picture_gain
from melfusion.lab.stored_scores import FOLDER
from melfusion.lab.suite import Suite
from melfusion.lab.trainings import begun_from, digest, remember, take_over
from melfusion.models.device import best_device, device_name
from melfusion.training.run import ensure_stages, train

CODE_VERSION = 1  # raise when the same model and clips come to have another gain

RESULTS = Path("experiments") / "results"


def suite_gains(suite: Suite, rows: list[str], split: str, n: int, clips: int) -> dict[str, Any]:
    """Train what has no stored gain, and measure it with and without words; returns all rows."""
    found: dict[str, Any] = {}
    FOLDER.mkdir(parents=True, exist_ok=True)
    for row in rows:
        config = suite.first(row)
        ensure_stages(config)
        begun = digest(begun_from(config))
        asked = {"code_version": CODE_VERSION, "training": begun, "split": split, "n": n, "clips": clips}
        file = FOLDER / f"gain-{digest(asked)}.json"
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
    words = {name: picture_gain(loaded, system, split, n, clips, path / "gain", said) for name, said in WORDS.items()}
    return steps | words


WORDS = {"with words": True, "without words": False}


def table(result: dict[str, Any], other: str = "another game's picture") -> str:
    """A row a line: what another picture costs by each measure, over tracks, with and without words."""
    heads = [f"{heading}, {name}" for name in WORDS for heading, _ in MEASURES.values()]
    lines = [f"| {other} costs | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    groups = sorted({name.partition(", ")[2] for row in result["rows"].values() for name in row["with words"]["rows"]})
    for row, measured in result["rows"].items():
        for group in groups or [""]:
            cells = []
            for name in WORDS:
                for measure, (_, factor) in MEASURES.items():
                    one = measured[name]["rows"].get(f"{measure}: {other}" + (f", {group}" if group else ""), {}).get("tracks")
                    cells.append(cell(one, abs(factor)) if one else "-")
            lines.append(f"| {row}{f', {group}' if group else ''} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write(result: dict[str, Any], folder: Path) -> None:
    """SUITE.json and SUITE.md: what pictures of other games, of the same game, and none cost."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("another game's picture", "its game's picture", "none picture")
    write_json(folder / f"{result['suite']}.json", result)
    write_whole(folder / f"{result['suite']}.md", "\n\n".join(table(result, name) for name in names) + "\n")
