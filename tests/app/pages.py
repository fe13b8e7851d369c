"""A page of the tiny model on a port of its own, for tests."""

import contextlib
from pathlib import Path

import building as build
import torch

from melfusion.app.actions import Actions
from melfusion.app.models import Models
from melfusion.app.requests import Limits
from melfusion.app.server import serve
from melfusion.assembly.configuration import load_config
from melfusion.assembly.pipeline import Pipeline


class Tiny(Models):
    """Two models, `small` and `plain`, of random weights; the second takes no picture."""

    def __init__(self):
        super().__init__({"small": None, "plain": None}, "cpu")
        self.made = {name: tiny(kind) for name, kind in (("small", "concat"), ("plain", "none"))}

    def get(self, name):
        if name in self.made:
            self.name, self.pipe = name, self.made[name]
        return super().get(name)


def tiny(kind):
    config = load_config("tiny", [f"synapse.kind={kind}", "sampling.num_inference_steps=4"])
    system = build.system(config).eval()
    with torch.no_grad():
        for parameter in system.denoiser.parameters():
            parameter += 0.02
    return Pipeline(system, config)


@contextlib.contextmanager
def page(folder: Path, auth=None, queue=4, models=None, limits=None):
    """(address, actions) of a page that is closed at the end."""
    actions = Actions(models or Tiny(), limits or Limits(longest_s=8.0), folder)
    shown = serve(actions, "127.0.0.1", None, queue, 1, auth, wait=False)
    try:
        yield shown.blocks.local_url, actions
    finally:
        shown.blocks.close()
