"""The models that the page offers. One at a time is loaded."""

from __future__ import annotations

from pathlib import Path

from melfusion.assembly.load import SYSTEM_FILE
from melfusion.assembly.memory import telling_memory
from melfusion.assembly.pipeline import Pipeline
from melfusion.assembly.schema import Config
from melfusion.errors import ConfigError

SHIPPED = "shipped"  # the name of the shipped model


def offered(paths: list[str], runs_dir: str) -> dict[str, str | None]:
    """Name → path of the given checkpoints and folders, the shipped model, and the runs that have saved a checkpoint."""
    runs = sorted(Path(runs_dir).glob("*/checkpoints")) if Path(runs_dir).is_dir() else []
    found = {str(folder.parent): str(folder.parent) for folder in runs if any(folder.glob("*.ckpt"))}
    return {path: path for path in paths} | {SHIPPED: None} | found


def is_model(path: str) -> bool:
    """May a path that a user of the command line gives be one? Its content is read later."""
    return Path(path).is_file() or (Path(path) / SYSTEM_FILE).is_file() or (Path(path) / "checkpoints").is_dir()


class Models:
    """The offered models; `get` loads one in place of the one before.

    A visitor of the page names one of `names` and no path, so that nobody reads files by it.
    """

    def __init__(self, paths: dict[str, str | None], device: str, offload: bool = False):
        self.paths, self.device, self.offload = paths, device, offload
        self.name = ""
        self.pipe: Pipeline | None = None

    @property
    def names(self) -> list[str]:
        return list(self.paths)

    def get(self, name: str) -> Pipeline:
        """ConfigError where no such model is offered; the loader's own errors. To be called by one thread at a time."""
        if name not in self.paths:
            raise ConfigError(f"There is no model {name!r} here: choose one of {', '.join(self.names)}.")
        if self.pipe is None or name != self.name:
            self.pipe, self.name = None, ""  # its memory is needed
            with telling_memory(Config(), "generation"):
                pipe = Pipeline.read(self.paths[name])
            with telling_memory(pipe.config, "generation", lambda: pipe.system):
                self.pipe, self.name = pipe.to(self.device, self.offload), name
        return self.pipe
