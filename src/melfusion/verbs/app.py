"""A page in the browser: drop a picture, write a sentence, hear music."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from melfusion.errors import ConfigError
from melfusion.verbs.checks import check_checkpoint
from melfusion.verbs.imports import heavy_imports
from melfusion.verbs.options import option


@dataclass
class Options:
    port: int = option(7860, "TCP port of the page", least=1)
    host: str = option("127.0.0.1", "address that it listens at; 0.0.0.0: everybody who reaches this machine (docs/app.md first)")
    ckpt: str | None = option(None, "models to offer beside the shipped one and the runs, comma-separated", variable="CKPT")
    runs_dir: str = option("runs", "folder whose runs are offered")
    auth: str | None = option(None, "file with a line NAME:PASSWORD for each visitor; null: no one is asked")
    queue: int = option(8, "visitors that may wait; more are told to come back", least=1)
    upload_mb: int = option(20, "largest file that a visitor may send, MB", least=1)
    variations: int = option(4, "most clips of one press of the button", least=1)
    longest_s: float = option(120.0, "longest clip, s", least=1)
    offload: bool = option(False, "keep each part of the model on the CPU until it is needed: less memory of the GPU, more time")


MORE = None
SECTIONS = ()
EXAMPLES = ("melfusion app", "melfusion app port=8000 ckpt=runs/scenes,my-synapse auth=visitors.txt")


def run(options: Options, more: list[str]) -> None:
    """Show the page until it is interrupted."""
    if importlib.util.find_spec("gradio") is None:
        raise ConfigError(
            "The page needs gradio, which is not installed: pip install 'melfusion[app]' (here: pip install -e '.[app]')."
        )
    paths = options.ckpt.split(",") if options.ckpt else []
    for path in paths:
        check_checkpoint(path)
    from melfusion.app.server import accounts, serve

    visitors = accounts(options.auth)
    with heavy_imports():
        from melfusion.app.actions import Actions
        from melfusion.app.models import Models, offered
        from melfusion.app.requests import Limits
        from melfusion.models.device import best_device

    models = Models(offered(paths, options.runs_dir), best_device(), options.offload)
    limits = Limits(options.variations, options.longest_s)
    print(f"loading {models.names[0]}; then the page is at http://{options.host}:{options.port} until Ctrl-C", flush=True)
    serve(Actions(models, limits), options.host, options.port, options.queue, options.upload_mb, visitors)
