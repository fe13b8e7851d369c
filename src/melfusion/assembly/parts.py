"""The registry of parts: all that train under a task of their own. No heavy imports.

A line says everything that the rest of the project has to know of a part: where its options and weights stand in the
configuration, how it is built, which noise its training needs, how it is exported, and what its training depends on. The
sizes of its random twin stand beside its options (TINY).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from melfusion.assembly.schema import Config

CODEC, IMAGE, LISTENERS = "melfusion.assembly.codec", "melfusion.assembly.image", "melfusion.assembly.listeners"

SYSTEM = "melfusion.assembly.system"


def late(module: str, name: str) -> Callable[..., Any]:
    """A function of a module that is imported at the first call, since it imports torch."""
    return lambda *args: getattr(importlib.import_module(module), name)(*args)


@dataclass(frozen=True)
class Part:
    """One part.

    Attributes:
        section: of the configuration, with its options and `weights`.
        build: configuration → module, from its weights or at random.
        noise_shapes: configuration, module → stream → shape of one sample's normal draws, for training and validation.
        export: module, configuration, folder → the files that `weights: run:NAME` reads.
        depends_on: sections of the configuration that its training depends on; None: all.
        free: keys in them that it does not depend on.
        averaged: an average of its weights is kept while it trains, where optim.ema_decay is above 0.
        saves_memory: keys by which its training can take less memory, at a price; all parts share some others (memory.py).
        modes: values of a key that say what of it trains.
    """

    section: str
    build: Callable[[Config], Any]
    noise_shapes: Callable[[Config, Any], dict[str, tuple[int, ...]]]
    export: Callable[[Any, Config, Path], None]
    depends_on: tuple[str, ...] | None = None
    free: tuple[str, ...] = ()
    averaged: bool = False
    saves_memory: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """Is it the system itself, which trains while its other parts are frozen?"""
        return self.depends_on is None


PARTS = {
    "melfusion": Part(
        "denoiser",
        late(SYSTEM, "system"),
        late(SYSTEM, "noise_shapes"),
        late(SYSTEM, "export"),
        averaged=True,
        saves_memory=(
            "denoiser.gradient_checkpointing",
            "trainer.precision",
            "data.precompute.enabled",
            "denoiser.trainable",
            "optim.ema_decay",
        ),
        modes=tuple(f"denoiser.trainable={what}" for what in ("all", "decoder", "cross_attn", "synapse")),
    ),
    "music_vae": Part(
        "music_vae",
        late(CODEC, "music_vae"),
        late(CODEC, "music_vae_noise"),
        late(CODEC, "export_music_vae"),
        depends_on=("audio", "data", "music_vae"),
    ),
    "vocoder": Part(
        "vocoder",
        late(CODEC, "vocoder"),
        late(CODEC, "vocoder_noise"),
        late(CODEC, "export_vocoder"),
        depends_on=("audio", "data", "vocoder"),
    ),
    "image_diffusion": Part(
        "image",
        late(IMAGE, "image_features"),
        late(IMAGE, "image_noise"),
        late(IMAGE, "export_image_diffusion"),
        depends_on=("audio", "data", "image", "diffusion"),  # pictures are diffused on the music's schedule
        free=(
            "image.reading",
            "image.grid_steps",
            "image.fixed_timestep",
            "diffusion.prediction_type",
            "diffusion.min_snr",
            "diffusion.loss_space",
            "diffusion.text_drop",
            "diffusion.image_drop",
            "diffusion.both_drop",
        ),
    ),
    "judge": Part(
        "judge",
        late(LISTENERS, "judge"),
        late(LISTENERS, "augment_noise"),
        late(LISTENERS, "export_listener"),
        depends_on=("audio", "data", "judge"),
    ),
    "towers": Part(
        "towers",
        late(LISTENERS, "towers"),
        late(LISTENERS, "augment_noise"),
        late(LISTENERS, "export_listener"),
        depends_on=("audio", "data", "towers", "text_encoder"),
    ),
}

STAGES = tuple(name for name, part in PARTS.items() if not part.whole)  # what a system may have trained first


def part(config: Config) -> Any:
    """The module of `config.task`, random parts drawn from config.seed."""
    from melfusion.assembly.weights import seeded

    with seeded(config.seed):
        return PARTS[config.task].build(config)


def noise_shapes(config: Config, module: Any) -> dict[str, tuple[int, ...]]:
    """Stream → shape of the per-sample normal draws that the training of this task needs."""
    return PARTS[config.task].noise_shapes(config, module)


def export_part(module: Any, config: Config, folder: Path) -> None:
    """Write the module of `config.task` in the layout of its kind."""
    folder.mkdir(parents=True, exist_ok=True)
    PARTS[config.task].export(module, config, folder)
