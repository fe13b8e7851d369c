"""What TensorBoard shows of a run as a whole: charts that belong together, every α over time, and what the run was made of."""

from __future__ import annotations

import hashlib
import json
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from lightning import Callback

import melfusion
from melfusion.assembly.schema import Config, to_dict
from melfusion.data.shards import ShardSet
from melfusion.media.figures import as_array, layers_figure

LAYOUT = {  # regular expressions of tags, as the plug-in takes them
    "picture": {
        "val/loss with the right and another picture": ["Multiline", [r"val/loss$", r"val/loss_other_picture$"]],
        "gain of the right picture": ["Multiline", [r"val/picture_gain$"]],
        "α": ["Multiline", [r"synapse/alpha/.*"]],
        "share of attention to the picture's tokens": ["Multiline", [r"synapse/attention/.*"]],
        "accuracy with the right picture": ["Multiline", [r"listening/right picture/.*"]],
        "accuracy with another's picture": ["Multiline", [r"listening/shuffled picture/.*"]],
    },
    "data": {
        "replaced samples by reason": ["Multiline", [r"data/replaced/.*"]],
        "share of time that waits for data": ["Multiline", [r"data/wait_share$"]],
    },
    "speed": {
        "samples/s": ["Multiline", [r"train/samples_per_s$"]],
        "share of this machine's matmul peak": ["Multiline", [r"train/share_of_peak$"]],
        "peak memory, GiB": ["Multiline", [r"memory/.*"]],
    },
}
MAPS = {"synapse/alpha": "α", "synapse/attention": "share of attention"}  # tag of the curves → their name


class Dashboard(Callback):
    """Writes the layout and a page about the run at its start, and the map over layers every `every_n_steps` and at the end."""

    def __init__(self, config: Config, metrics: Path, every_n_steps: int):
        self.config, self.metrics, self.every, self.written = config, metrics, every_n_steps, -1

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.is_global_zero:
            page, step = about(self.config, trainer.datamodule.shards), trainer.global_step
            trainer.loggers[0].write(lambda board: board.add_custom_scalars(LAYOUT))
            trainer.loggers[0].write(lambda board: board.add_text("run", page, step))

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step and trainer.global_step % self.every == 0:
            self._show(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._show(trainer)

    def _show(self, trainer: Any) -> None:
        step = trainer.global_step
        if not trainer.is_global_zero or step == self.written:
            return
        self.written = step
        for tag, name in MAPS.items():
            if curves := curves_in(self.metrics, tag):
                trainer.loggers[0].write(partial(self._draw, f"{tag}_map", as_array(layers_figure(curves, name)), step))

    def _draw(self, tag: str, figure: Any, step: int, board: Any) -> None:
        board.add_image(tag, figure, step, dataformats="HWC")


def curves_in(metrics: Path, tag: str) -> dict[str, dict[int, float]]:
    """Name → step → value of each curve `tag`/<name> of a metrics.jsonl; empty where nothing is logged of it."""
    start, curves = f"{tag}/", dict[str, dict[int, float]]()
    for line in metrics.read_text().splitlines() if metrics.is_file() else ():
        if start not in line:
            continue
        try:
            row = json.loads(line)
        except ValueError:  # a full disk cuts lines
            continue
        for name, value in row.items():
            if name.startswith(start) and value is not None:
                curves.setdefault(name.removeprefix(start), {})[row["step"]] = value
    return curves


def about(config: Config, shards: ShardSet | None) -> str:
    """Markdown: version and git revision of the code, data and their digest, and the resolved configuration."""
    rows = {"version": melfusion.__version__, "git revision": revision(Path(melfusion.__file__).parent), "data": config.data.path}
    if shards is not None:
        rows["digest of the shards"] = digest_of_shards(shards)
        rows["data made from"] = json.dumps(shards.info, sort_keys=True)
    head = "\n".join(f"- {name}: `{value}`" for name, value in rows.items() if value)
    tree = yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)
    return f"{head}\n\n#### Configuration\n\n" + "\n".join(f"    {line}" for line in tree.splitlines())


def digest_of_shards(shards: ShardSet) -> str:
    """Twelve hex digits of the index's account of all shards, in which their own digests stand."""
    return hashlib.sha256(json.dumps(shards.shards, sort_keys=True, default=str).encode()).hexdigest()[:12]


def revision(folder: Path) -> str | None:
    """The commit that a folder is of, with + where files have changed since; None outside of a git tree or without git."""
    try:
        said = [
            subprocess.run(
                ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=True
            ).stdout.strip()
            for words in (["ls-files", "."], ["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no", "."])
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return said[1] + ("+" if said[2] else "") if said[0] else None  # a folder within someone else's tree is not of its commit
