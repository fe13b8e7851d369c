"""The sections of a benchmark, by name. No heavy imports, and no section imports this file."""

from __future__ import annotations

SECTIONS = {  # name → module with `measure`
    "machine": "melfusion.bench.machine",
    "training": "melfusion.bench.training",
    "generation": "melfusion.bench.generation",
    "precompute": "melfusion.bench.precompute",
    "loader": "melfusion.bench.loader",
}

KEYED = ("training", "generation", "precompute")  # sections whose `measure` also takes keys of the configuration
