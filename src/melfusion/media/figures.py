"""Figures: log-mel spectrograms and scores, as PNG files and as arrays for TensorBoard. They need no display."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from melfusion.files import write_whole
from melfusion.media.options import AudioConfig


def spectrogram_figure(log_mels: dict[str, Tensor], audio: AudioConfig, title: str = "", picture: Any = None) -> Figure:
    """Title → log_mel (T, F), one panel each, all on one colour scale (natural log of mel magnitude).

    picture: (H, W, 3), the one that the clips were generated for; it is drawn at the left.
    """
    figure = Figure(figsize=(5 * len(log_mels) + (2.6 if picture is not None else 0), 3.2), layout="constrained")
    first = [] if picture is None else [0.5]
    panels = figure.subplots(1, len(first) + len(log_mels), squeeze=False, width_ratios=[*first, *[1] * len(log_mels)])[0]
    if picture is not None:
        panels[0].imshow(picture)
        panels[0].axis("off")
        panels = panels[1:]
    top = max(float(mel.max()) for mel in log_mels.values())
    for panel, (name, mel) in zip(panels, log_mels.items(), strict=True):
        seconds = len(mel) * audio.hop_length_samples / audio.sample_rate_hz
        mappable = panel.imshow(
            mel.float().cpu().numpy().T,
            origin="lower",
            aspect="auto",
            cmap="magma",
            vmin=top - 9,
            vmax=top,
            extent=(0, seconds, 0, audio.n_mels),
        )
        panel.set(xlabel="seconds", ylabel="mel bin")
        panel.set_title(_plain(name))
    figure.colorbar(mappable, ax=panels, label="ln magnitude")
    if title:
        figure.suptitle(_plain(title), fontsize=9, wrap=True)
    return figure


def heat_figure(picture: np.ndarray, heat: np.ndarray, label: str) -> Figure:
    """A picture (H, W, 3) with a map (h, w) ≥ 0 of any resolution over it: what has most is red."""
    height, width = picture.shape[:2]
    figure = Figure(figsize=(5, 5 * height / width + 0.3), layout="constrained")
    panel = figure.subplots()
    panel.imshow(picture.mean(2), cmap="gray", vmin=0, vmax=255, extent=(0, width, height, 0))
    top = max(float(heat.max()), 1e-12)
    shown = panel.imshow(
        heat / top, cmap="turbo", alpha=0.5, vmin=0, vmax=1, extent=(0, width, height, 0), interpolation="bilinear"
    )
    panel.set(xlim=(0, width), ylim=(height, 0))
    panel.axis("off")
    figure.colorbar(shown, ax=panel, label=label, shrink=0.8)
    return figure


def layers_figure(curves: dict[str, dict[int, float]], label: str) -> Figure:
    """Layer or group → step → value: a row each, the first at the top; a column for each logged step."""
    steps = sorted(set().union(*curves.values()))
    values = np.array([[curve.get(step, np.nan) for step in steps] for curve in curves.values()])
    figure = Figure(figsize=(7, 1.2 + 0.22 * len(curves)), layout="constrained")
    panel = figure.subplots()
    mappable = panel.imshow(values, aspect="auto", interpolation="nearest", cmap="viridis")
    ticks = np.unique(np.linspace(0, len(steps) - 1, 6).round().astype(int))
    panel.set(xlabel="step", xticks=ticks, xticklabels=[steps[i] for i in ticks])
    panel.set(yticks=range(len(curves)), yticklabels=[_plain(name) for name in curves])
    figure.colorbar(mappable, ax=panel, label=_plain(label))
    return figure


def influence_figure(picture: np.ndarray, heat: np.ndarray, title: str = "") -> Figure:
    """A picture (H, W, 3) in [0, 1], beside it the same in grey under the heat (patches, patches) ≥ 0 of each patch."""
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.imshow(picture)
    right.imshow(picture.mean(-1), cmap="gray", vmin=0, vmax=1)
    height, width = picture.shape[:2]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    mappable = right.imshow(heat, cmap="inferno", alpha=0.6, vmin=0, extent=extent, interpolation="nearest")
    figure.colorbar(mappable, ax=right, label="change of the prediction")
    for panel in (left, right):
        panel.axis("off")
    if title:
        figure.suptitle(_plain(title), fontsize=9, wrap=True)
    return figure


def suite_figure(result: dict[str, Any]) -> Figure:
    """A suite at a glance: accuracy of each attribute, and a distance by embedder (by class, or KAD), one bar a row."""
    rows = result["rows"]
    names, embedders = list(rows[0]["attributes"]), list(rows[0]["distances"])
    wide = len(embedders) + bool(names)
    figure = Figure(figsize=(4.2 * wide + 1, 1.2 + 0.42 * len(rows)), layout="constrained")
    panels = figure.subplots(1, wide, squeeze=False, sharey=True)[0]
    where = np.arange(len(rows))[::-1]
    panels[0].set(yticks=where, yticklabels=[row["name"] for row in rows])
    if names:
        _accuracies(panels[0], rows, names, where)
        figure.legend(fontsize=8, loc="outside upper left", ncols=len(names))
    for panel, embedder in zip(panels[bool(names) :], embedders, strict=True):
        by_class = any("mean" in row["distances"][embedder]["fad_conditional"] for row in rows)
        scores = [row["distances"][embedder]["fad_conditional" if by_class else "kad"] for row in rows]
        known = [i for i, score in enumerate(scores) if "mean" in score]
        panel.barh(where[known], [scores[i]["mean"] for i in known], xerr=[scores[i]["interval"] for i in known], height=0.6)
        panel.set_xlabel(f"{'FAD by class' if by_class else 'KAD'}, {_plain(embedder)}")
    for panel in panels:
        panel.grid(axis="x", alpha=0.3)
    return figure


def gains_figure(rows: list[str], measures: dict[str, dict[str, list[tuple[float, float, int] | None]]]) -> Figure:
    """One panel a measure, one point a row: heading → name of a series → (mean, half width, number) of each row."""
    figure = Figure(figsize=(3.6 * len(measures) + 1, 1.4 + 0.5 * len(rows)), layout="constrained")
    panels = figure.subplots(1, len(measures), squeeze=False, sharey=True)[0]
    where = np.arange(len(rows))[::-1]
    panels[0].set(yticks=where, yticklabels=[_plain(row) for row in rows])
    for panel, (heading, series) in zip(panels, measures.items(), strict=True):
        for k, (name, values) in enumerate(series.items()):
            known = [i for i, value in enumerate(values) if value is not None]
            mean, half, _ = np.asarray([value for value in values if value is not None], float).reshape(-1, 3).T
            height = where[known] + 0.3 * (0.5 - k)
            panel.errorbar(mean, height, xerr=half, fmt="o", markersize=4, label=name)
        panel.axvline(0, color="0.5", linewidth=1)
        panel.set_xlabel(heading)
        panel.grid(axis="x", alpha=0.3)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="outside upper left", ncols=len(labels))
    return figure


def _accuracies(panel: Any, rows: list[dict[str, Any]], names: list[str], where: np.ndarray) -> None:
    """Accuracies with their intervals, the attributes of a row one above another."""
    for k, name in enumerate(names):
        scores = [row["attributes"][name] for row in rows]
        spread = np.abs([[s["accuracy"] - s["low"] for s in scores], [s["high"] - s["accuracy"] for s in scores]])
        height = where + 0.7 * (0.5 - (k + 0.5) / len(names))
        panel.errorbar([s["accuracy"] for s in scores], height, xerr=spread, fmt="o", markersize=3, label=name)
    panel.set(xlabel="accuracy (95 % Wilson interval)", xlim=(0, 1.02))


def _plain(text: str) -> str:
    """Text whose dollar signs are dollars, not mathematics."""
    return text.replace("$", r"\$")


def save(figure: Figure, path: str | Path) -> None:
    """Write a PNG, whole or not at all."""
    FigureCanvasAgg(figure)
    write_whole(Path(path), lambda file: figure.savefig(file, dpi=110, format="png"))


def save_array(pixels: np.ndarray, path: str | Path) -> None:
    """Write pixels (H, W, 3) uint8 as a PNG, whole or not at all: a figure that TensorBoard shows is not drawn a second time."""
    write_whole(Path(path), lambda file: Image.fromarray(pixels).save(file, "PNG"))


def as_array(figure: Figure) -> np.ndarray:
    """(H, W, 3) uint8."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]
