"""`melfusion precompute`: shards with music latents, text embeddings and what the image encoder reads from the pictures.

They carry their provenance: digests of the parts, reading, crop, dtype, geometry, source shards, code version. Training refuses
shards whose provenance differs from what it would compute itself.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from rich.progress import track
from safetensors.torch import save as save_safetensors
from torch import Tensor

from melfusion.assembly.devices import device_type, devices_of, world_size
from melfusion.assembly.memory import keep_freed_memory, telling_memory
from melfusion.assembly.schema import Config
from melfusion.batch import MusicBatch, Prompt, present
from melfusion.cluster.slurm import environment_plugin
from melfusion.data.collate import collate, collate_cached
from melfusion.data.datamodule import MusicDataModule
from melfusion.data.dataset import MusicDataset
from melfusion.data.ranks import Ranks
from melfusion.data.reading import digest_of
from melfusion.data.replacing import settle
from melfusion.data.shards import CACHE_EXT, Sample, ShardSet, write_shards
from melfusion.data.storage import local_name
from melfusion.errors import BadSample, DataError
from melfusion.models.conditioner import Conditioner
from melfusion.models.system import MeLFusion
from melfusion.training.precision import attention_in_float32_on_cpu, autocast, keep_frozen, resolve_precision
from melfusion.training.preemption import leaving_on_signal

log = logging.getLogger(__name__)

CODE_VERSION = 1  # raise when what is stored, or how it is computed, changes


def precomputed_path(config: Config, wanted: dict[str, Any]) -> Path:
    """Where shards of this provenance lie: runs that need the same tensors share them."""
    return Path(config.data.precompute.path or f"{local_name(config.data)}-precomputed/{digest_of(wanted, source=True)}")


def provenance(config: Config, system: MeLFusion) -> dict[str, Any]:
    """Everything that stored tensors depend on, as a plain tree."""
    digests = system.frozen_digests()
    stored = {
        "code_version": CODE_VERSION,
        "source": ShardSet(config.data.path, config.data).digest(),
        "crop": "start",
        "dtype": config.data.precompute.dtype,
        "precision": resolve_precision(config.trainer),
        "audio": config.audio.stated(),
        "image_size_px": config.data.image_size_px,
        "music_vae": digests["codec"],
        "text_encoder": digests["conditioner"],
        "max_length": system.conditioner.length,
    }
    if config.conditioner.kind != "text":
        stored["conditioner"] = {name: value for name, value in dataclasses.asdict(config.conditioner).items() if name != "weights"}
    if config.text_encoder.max_words is not None:
        stored["max_words"] = config.text_encoder.max_words
    if (encoder := system.image_encoder) is not None:
        stored |= {"extractor": digests["image_encoder"]} | encoder.provenance()
        if encoder.reads_once:
            stored |= system.denoiser.provenance(system.conditioner.length)
    return stored


@torch.no_grad()
def compute(system: MeLFusion, batch: MusicBatch) -> dict[str, Tensor]:
    """One batch → the tensors to store, each (B, …)."""
    batch = batch.to(system.device)
    out = {"latent_moments": system.codec.encode_moments(present(batch.waveform))}
    conditioning = system.read_once(system.condition(batch))
    out |= conditioning.said() | {"text_mask": conditioning.text_mask.to(torch.uint8)}
    out["has_image"] = batch.has_image
    if conditioning.image_latents is not None:
        return out | {"image_latents": conditioning.image_latents}
    if conditioning.visual_features is None:
        return out
    matched = system.denoiser.prepare(conditioning.visual_features, conditioning.text_embeds.shape[1])
    for layer, (key, value) in matched.items():
        out |= {f"key.{layer}": key, f"value.{layer}": value}
    return out


def with_stored(batch: MusicBatch, tensors: dict[str, Tensor]) -> MusicBatch:
    """The batch as precomputed shards give it: the tensors of `compute` in place of waveforms and pictures."""
    rows = [{name: t[i].cpu() for name, t in tensors.items()} for i in range(len(batch))]
    return collate_cached(dataclasses.replace(batch, waveform=None, image=None), rows)


@leaving_on_signal(lambda: "during precompute, which begins anew")
def precompute(config: Config, system: MeLFusion, fabric: Fabric | None = None) -> Path:
    """Write precomputed shards of all splits, unless their folder holds just these; returns the folder.

    The numbers are those that live training would compute. DataError where too many samples cannot be read.

    Args:
        fabric: of several processes, all of which call this; each computes every so many batches, on its own device.
    """
    ranks = Ranks(fabric.global_rank, fabric.world_size, meeting) if fabric else Ranks()
    device = fabric.device if fabric else torch.device("cuda" if torch.cuda.is_available() else "cpu")
    attention_in_float32_on_cpu()
    keep_freed_memory()
    system = keep_frozen(system.to(device).eval(), resolve_precision(config.trainer))
    wanted = provenance(config, system)
    out = precomputed_path(config, wanted)
    if out.resolve() == Path(local_name(config.data)).resolve():
        raise DataError(f"data.precompute.path={out} is the data set itself, which would be overwritten: give another folder.")
    with telling_memory(config, "precompute", lambda: system):
        write_shards(
            computed_samples(config, system, digest_of(wanted), ranks),
            out,
            config.data.samples_per_shard,
            {"provenance": wanted},
            lambda: held(out, config) == wanted,
            "data.precompute.path",
            ranks,
        )
    return out


def launched(config: Config) -> Fabric | None:
    """Start the processes that trainer.devices and trainer.num_nodes ask for, as training does; None: this one is enough.

    torchrun or srun may have started them. Each of the others runs the same command from its beginning.
    """
    t = config.trainer
    if world_size(t) == 1:
        return None
    slurm = environment_plugin(os.environ)
    fabric = Fabric(
        accelerator=device_type(t),
        devices=devices_of(t),
        num_nodes=t.num_nodes,
        strategy="ddp",  # nothing is learned here, so all others are the same
        plugins=[slurm] if slurm else None,
    )
    fabric.launch()
    return fabric


def meeting(value: Any) -> list[Any]:
    """A plain value of each rank → those of all."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def computed_samples(config: Config, system: MeLFusion, made_with: str, ranks: Ranks | None = None) -> Iterator[Sample]:
    """The stored form of every sample that can be read, split by split.

    Args:
        made_with: digest of the provenance, which each stored member carries.
        ranks: share the batches.
    """
    data = MusicDataModule(dataclasses.replace(config.data, crop="start"), config.audio, config.seed)
    data.setup()
    dtype = getattr(torch, config.data.precompute.dtype)
    encoded: dict[str, dict[str, Tensor]] = {}  # many clips share a caption: each is encoded once
    for split in sorted(ShardSet(config.data.path, config.data).counts()):
        for batch in readable_batches(config, data.dataset(split), split, ranks or Ranks()):
            with autocast(resolve_precision(config.trainer), system.device.type):
                batch = with_prompts(system.conditioner, batch, encoded)
                tensors = {k: t.cpu() for k, t in compute(system, batch).items()}
            for i, key in enumerate(batch.keys):
                yield _sample(key, split, batch, i, tensors, dtype, made_with)


def with_prompts(conditioner: Conditioner, batch: MusicBatch, encoded: dict[str, dict[str, Tensor]]) -> MusicBatch:
    """The batch with its requests encoded; `encoded` gets those that are new."""
    fields = conditioner.fields_of(batch.labels)
    keys = [repr((caption, sorted(said.items()))) for caption, said in zip(batch.captions, fields, strict=True)]
    if new := {key: i for i, key in enumerate(keys) if key not in encoded}:
        said = conditioner([batch.captions[i] for i in new.values()], [fields[i] for i in new.values()]).said()
        encoded.update({key: {name: t[row] for name, t in said.items()} for row, key in enumerate(new)})
    prompt = Prompt.of({name: torch.stack([encoded[key][name] for key in keys]) for name in encoded[keys[0]]})
    return dataclasses.replace(batch, text_embeds=prompt.text_embeds, text_mask=prompt.text_mask, extra=prompt.extra)


def readable_batches(config: Config, dataset: MusicDataset, split: str, ranks: Ranks) -> Iterator[MusicBatch]:
    """A rank's batches of the samples that can be read; DataError above data.max_bad_ratio of others."""
    size, left = config.data.precompute.batch_size, 0
    starts = range(ranks.number * size, len(dataset), ranks.world * size)
    for start in track(starts, description=f"precompute {split}", disable=not ranks.first):
        some = range(start, min(start + size, len(dataset)))
        items = readable(dataset, some)
        left += len(some) - len(items)
        if left > config.data.max_bad_ratio * len(dataset):
            raise DataError(
                f"{config.data.path}: {left} of {len(dataset)} samples for {split} cannot be read, above "
                "data.max_bad_ratio: see the reasons above and repair the set."
            )
        if items:
            yield collate(items)


def held(path: Path, config: Config) -> dict[str, Any] | None:
    """The provenance of the whole precomputed set in a folder; None where there is none."""
    try:
        return ShardSet(path, config.data).info.get("provenance")
    except DataError:
        return None


def readable(dataset: MusicDataset, indices: range) -> list[dict[str, Any]]:
    """The items that can be read. Each other one is left out of the stored set, and its reason is logged."""
    items = []
    for index in indices:
        entry = dataset.entries[index]
        try:
            items.append(dataset.reader(entry, 0.0) | {"position": index, "draws": {}, "replaced": []})
        except BadSample as error:
            log.warning("%s:%s is left out: %s", entry.shard, entry.key, error)
    return items


def _sample(
    key: str, split: str, batch: MusicBatch, i: int, tensors: dict[str, Tensor], dtype: torch.dtype, made_with: str
) -> Sample:
    row = {k: (t[i].to(dtype) if t.is_floating_point() else t[i]).contiguous() for k, t in tensors.items()}
    meta = {"caption": batch.captions[i], "full_caption": batch.full_captions[i], "split": split, "labels": batch.labels[i]}
    return Sample(key, b"", "", None, "", meta, {CACHE_EXT: save_safetensors(row, {"made_with": made_with})})


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
