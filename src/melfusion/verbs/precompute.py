"""Store latents, text embeddings and inverted pictures beside the samples, once for all trainings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from melfusion import DEFAULT_CONFIG
from melfusion.errors import ConfigError
from melfusion.verbs.imports import heavy_imports
from melfusion.verbs.options import configuration, option


@dataclass
class Options:
    config: str = configuration(DEFAULT_CONFIG)
    prune: str = option("false", "list: name sets that no run and no config refers to, with sizes; true: remove them, too")


MORE = "It also takes every key of the configuration, such as those of the data set:"
SECTIONS = ("data",)
EXAMPLES = ("melfusion precompute games trainer.devices=8 data.precompute.dtype=float16", "melfusion precompute prune=list")


def run(options: Options, more: list[str]) -> None:
    """Build the corpus and the stages where they are missing, then the precomputed shards."""
    from melfusion.assembly.configuration import load_config

    config = load_config(options.config, more)
    if options.prune not in ("false", "list", "true"):
        raise ConfigError(f"prune={options.prune!r} is none of list, true and false: give one of them.")
    if options.prune != "false":
        prune(config, options.prune == "true")
        return

    with heavy_imports():
        from melfusion.assembly import system as build
        from melfusion.assembly.launching import launched
        from melfusion.data.sources import describe, ensure_corpus
        from melfusion.training.precompute import precompute
        from melfusion.training.run import ensure_stages

    ensure_corpus(config)
    ensure_stages(config)
    fabric = launched(config.trainer)  # last: what the others need is there when they start
    folder = precompute(config, build.system(config), fabric)
    if fabric and not fabric.is_global_zero:
        return
    print(describe(str(folder)))
    if not config.data.precompute.enabled:
        print("Training uses these shards only with data.precompute.enabled=true, which this configuration does not set.")


def prune(config: Any, remove: bool) -> None:
    """Print what nothing refers to, with sizes, the largest first; then remove it where that is said."""
    with heavy_imports():
        from melfusion.training import unused

    found = unused.unused(config)
    for one in found:
        print(f"{one.size / 1e6:10.1f} MB  {one.path}")
    print(f"{len(found)} unused, {sum(one.size for one in found) / 1e6:.1f} MB.")
    if not remove:
        print("Nothing was removed: `melfusion precompute prune=true` removes them.")
        return
    gone = unused.remove(found)
    for one in found:
        print(f"{'removed' if one in gone else 'in use, kept'}: {one.path}")
