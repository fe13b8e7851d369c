"""`melfusion precompute`: shards with music latents, text embeddings and what the image encoder reads from the pictures.

They carry their provenance: digests of the parts, reading, crop, dtype, geometry, source shards, code version. Training refuses
shards whose provenance differs from what it would compute itself.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric

from melfusion.assembly.launching import meeting
from melfusion.assembly.memory import keep_freed_memory, telling_memory
from melfusion.assembly.schema import Config
from melfusion.data.ranks import Ranks
from melfusion.data.reading import digest_of
from melfusion.data.replacing import settle
from melfusion.data.shards import ShardSet
from melfusion.data.storage import local_name
from melfusion.data.writing import write_shards
from melfusion.errors import DataError
from melfusion.models.device import best_device
from melfusion.models.system import MeLFusion
from melfusion.training.precision import attention_in_float32_on_cpu, keep_frozen, resolve_precision
from melfusion.training.preemption import leaving_on_signal
from melfusion.training.stored_samples import computed_samples

CODE_VERSION = 1  # raise when what is stored, or how it is computed, changes


def precomputed_path(config: Config, wanted: dict[str, Any]) -> Path:
    """Where shards of this provenance lie: runs that need the same tensors share them."""
    return Path(config.data.precompute.path or f"{local_name(config.data)}-precomputed/{digest_of(wanted, source=True)}")


def provenance(config: Config, system: MeLFusion) -> dict[str, Any]:
    """Everything that stored tensors depend on, as a plain tree."""
    digests = system.frozen_digests()
    stored = {name: value for name, value in of_config(config).items() if value is not None} | {
        "code_version": CODE_VERSION,
        "source": ShardSet(config.data.path, config.data).digest(),
        "precision": resolve_precision(config.trainer),
        "music_vae": digests["codec"],
        "text_encoder": digests["conditioner"],
        "max_length": system.conditioner.length,
    }
    if config.codec.kind != "mel" and stored["precision"] != "32-true":
        stored["codec"] = "in float32"  # at first it was not, and the latents had errors
    if (encoder := system.image_encoder) is not None:
        stored |= {"extractor": digests["image_encoder"]} | encoder.provenance()
        if encoder.reads_once:
            stored |= system.denoiser.provenance(system.conditioner.length)
    return stored


def of_config(config: Config) -> dict[str, Any]:
    """The part of the provenance that a configuration says without its networks; None: the provenance lacks that name."""
    text, crops = config.conditioner.kind == "text", config.data.precompute.crops
    conditioner = {name: value for name, value in dataclasses.asdict(config.conditioner).items() if name != "weights"}
    return {
        "crop": "start" if crops == 1 else f"{crops} of each clip",
        "dtype": config.data.precompute.dtype,
        "audio": config.audio.stated(),
        "image_size_px": config.data.image_size_px,
        "conditioner": None if text else conditioner,
        "max_words": config.text_encoder.max_words,
    } | ({"max_length": config.text_encoder.max_length} if text else {})  # other conditioners count more than the caption's tokens


@leaving_on_signal(lambda: "during precompute, which goes on after its last whole shard")
def precompute(config: Config, system: MeLFusion, fabric: Fabric | None = None) -> Path:
    """Write precomputed shards of all splits, unless their folder holds just these; returns the folder.

    The numbers are those that live training would compute. DataError where too many samples cannot be read.

    Args:
        fabric: of several processes, all of which call this; each computes every so many batches, on its own device.
    """
    ranks = Ranks(fabric.global_rank, fabric.world_size, meeting) if fabric else Ranks()
    device = fabric.device if fabric else torch.device(best_device())
    attention_in_float32_on_cpu()
    keep_freed_memory()
    system = keep_frozen(system.to(device).eval(), resolve_precision(config.trainer))
    wanted = provenance(config, system)
    out = precomputed_path(config, wanted)
    if out.resolve() == Path(local_name(config.data)).resolve():
        raise DataError(f"data.precompute.path={out} is the data set itself, which would be overwritten: give another folder.")
    with telling_memory(config, "precompute", lambda: system):
        write_shards(
            lambda stored: computed_samples(config, system, digest_of(wanted), ranks, stored),
            out,
            config.data.samples_per_shard,
            {"provenance": wanted},
            lambda: held(out, config) == wanted,
            "data.precompute.path",
            ranks,
            digest_of(wanted, source=True),
        )
    return out


def held(path: Path, config: Config) -> dict[str, Any] | None:
    """The provenance of the whole precomputed set in a folder; None where there is none."""
    try:
        return ShardSet(path, config.data).info.get("provenance")
    except DataError:
        return None


def ensure_precomputed(config: Config, system: MeLFusion) -> tuple[Path, dict[str, Any]]:
    """Precompute unless that is done; returns the folder and the provenance that training must find in it."""
    wanted = provenance(config, system)
    path = precomputed_path(config, wanted)
    settle(path)
    try:
        ShardSet(path, config.data)  # what lies in a folder that the user named is not overwritten
    except DataError:
        precompute(config, system)
    return path, wanted
