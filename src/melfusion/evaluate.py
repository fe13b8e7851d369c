"""Is the picture heard? Attribute accuracy of music made for held-out pictures, with the right, a shuffled and no picture.

A judge that never saw the generator listens. `real` and `reconstruction` (VAE + vocoder) are what it scores at best.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from melfusion.audio import BadSample, normalise_loudness, write_wav
from melfusion.batch import MusicBatch
from melfusion.data import order
from melfusion.data.datamodule import MusicDataset, collate
from melfusion.judge import Judge
from melfusion.melfusion import MeLFusion
from melfusion.metrics.intervals import mean_interval, wilson
from melfusion.schema import Config

ROWS = ("real", "reconstruction", "right picture", "shuffled picture", "no picture")


@torch.no_grad()
def evaluate(system: MeLFusion, config: Config, judge: Judge, dataset: MusicDataset, out: Path | None = None) -> dict[str, Any]:
    """Scores of every row of ROWS by attribute: accuracy with its Wilson interval, and the paired gain over the shuffled row.

    Each clip keeps its caption and its noise in all rows; only the picture differs. `out` keeps the wavs.
    """
    size = config.evaluation.batch_size
    shuffled = order.permutation(config.seed, 0, len(dataset))
    right: dict[str, list[dict[str, bool]]] = {row: [] for row in ROWS}
    for start in range(0, len(dataset), size):
        items = range(start, min(start + size, len(dataset)))
        batch = collate([dataset[i] for i in items]).to(system.device)
        others = collate([dataset[int(shuffled[i])] for i in items]).to(system.device).image
        for row, waveform in _rows(system, config, batch, others):
            heard = judge.hear(levelled(waveform, config))
            for label, told in zip(batch.labels, heard, strict=True):
                right[row].append({name: label[name] == told[name] for name in told})
            if out is not None and row.endswith("picture"):
                _keep(out / row.replace(" ", "-"), batch.keys, waveform, config)
        print(f"evaluated {len(right['real'])} of {len(dataset)} clips", flush=True)
    return summary(right, {name: len(classes) for name, classes in judge.attributes.items()})


def _rows(system: MeLFusion, config: Config, batch: MusicBatch, others: Tensor) -> Any:
    """(row, waveform) of each row for one batch; `others` are the pictures of the shuffled row."""
    yield "real", batch.waveform
    mel = system.music_vae.decode(system.music_vae.encode(system.log_mel(batch.waveform)))
    yield "reconstruction", system.vocode(mel)
    s, seeds = config.sampling, batch.position.tolist()
    for row, image in zip(ROWS[2:], (batch.image, others, None), strict=True):
        if image is not None and system.extractor is None:
            continue
        log_mel = system.generate(batch.captions, image, seeds, config.evaluation.num_inference_steps, s.guidance_scale,
                                  s.image_guidance_scale, s.negative_prompt)  # fmt: skip
        yield row, system.vocode(log_mel)


def levelled(waveform: Tensor, config: Config) -> Tensor:
    """Every clip at the loudness of the data (audio.loudness_dbfs); silence stays silence."""
    clips = []
    for clip in waveform.float().cpu():
        try:
            clips.append(torch.from_numpy(normalise_loudness(clip.numpy(), config.audio)))
        except BadSample:
            clips.append(clip)
    return torch.stack(clips).to(waveform.device)


def summary(right: dict[str, list[dict[str, bool]]], classes: dict[str, int]) -> dict[str, Any]:
    """Row → per-clip verdicts becomes row → attribute → accuracy, low, high, n; `gain` is right minus shuffled, paired."""
    scores: dict[str, Any] = {}
    for row, verdicts in right.items():
        if verdicts:
            scores[row] = {name: share([v[name] for v in verdicts]) for name in classes}
    if right["right picture"]:
        pairs = list(zip(right["right picture"], right["shuffled picture"], strict=True))
        gains = {name: mean_interval([float(a[name]) - float(b[name]) for a, b in pairs]) for name in classes}
        scores["gain"] = {name: {"mean": mean, "interval": half} for name, (mean, half) in gains.items()}
    return scores | {"chance": {name: 1 / n for name, n in classes.items()}}


def share(verdicts: list[bool]) -> dict[str, float]:
    """Accuracy with its Wilson interval."""
    low, high = wilson(sum(verdicts), len(verdicts))
    return {"accuracy": sum(verdicts) / len(verdicts), "low": low, "high": high, "n": len(verdicts)}


def table(scores: dict[str, Any]) -> str:
    """The scores as a Markdown table."""
    names = list(scores["chance"])
    lines = ["| heard right | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for row in (row for row in ROWS if row in scores):
        cells = (f"{s['accuracy']:.2f} ({s['low']:.2f}-{s['high']:.2f})" for s in (scores[row][name] for name in names))
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    lines.append("| chance | " + " | ".join(f"{scores['chance'][name]:.2f}" for name in names) + " |")
    if "gain" in scores:
        gains = (f"{g['mean']:+.2f} ± {g['interval']:.2f}" for g in (scores["gain"][name] for name in names))
        lines.append("| right - shuffled | " + " | ".join(gains) + " |")
    return "\n".join(lines)


def learned(scores: dict[str, Any]) -> str:
    """What the scores say, in one sentence."""
    if "gain" not in scores:
        return "This model was trained without pictures."
    heard = [name for name, g in scores["gain"].items() if g["mean"] > g["interval"]]
    if not heard:
        return "No attribute of the picture is heard more often than with a shuffled picture: train longer."
    return f"The picture is heard: its {', '.join(heard)} more often than with a shuffled picture, beyond the 95 % interval."


def write(scores: dict[str, Any], folder: Path) -> None:
    """scores.json and scores.md."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
    (folder / "scores.md").write_text(table(scores) + "\n")


def _keep(folder: Path, keys: list[str], waveform: Tensor, config: Config) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for key, clip in zip(keys, waveform.cpu(), strict=True):
        write_wav(str(folder / f"{key}.wav"), clip, config.audio.sample_rate_hz)
