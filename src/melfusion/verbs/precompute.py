"""Store latents, text embeddings and inverted pictures beside the samples, once for all trainings."""

from __future__ import annotations

from dataclasses import dataclass

from melfusion import DEFAULT_CONFIG
from melfusion.verbs.imports import heavy_imports
from melfusion.verbs.options import configuration


@dataclass
class Options:
    config: str = configuration(DEFAULT_CONFIG)


MORE = "It also takes every key of the configuration, such as those of the data set:"
SECTIONS = ("data",)
EXAMPLES = ("melfusion precompute", "melfusion precompute games data.crop=start data.precompute.dtype=float16")


def run(options: Options, more: list[str]) -> None:
    """Build the corpus and the stages where they are missing, then the precomputed shards."""
    from melfusion.assembly.configuration import load_config

    config = load_config(options.config, more)

    with heavy_imports():
        from melfusion.assembly import system as build
        from melfusion.data.sources import describe, ensure_corpus
        from melfusion.training.precompute import precompute
        from melfusion.training.run import ensure_stages

    ensure_corpus(config)
    ensure_stages(config)
    print(describe(str(precompute(config, build.system(config)))))
    if not config.data.precompute.enabled:
        print("Training uses these shards only with data.precompute.enabled=true, which this configuration does not set.")
