"""Samples as precomputed shards hold them: what the frozen parts make of each, computed once."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
from collections.abc import Collection, Iterator
from typing import Any

import torch
from rich.progress import track
from safetensors.torch import save as save_safetensors
from torch import Tensor

from melfusion.assembly.schema import Config
from melfusion.batch import Conditioning, MusicBatch, Prompt, present
from melfusion.data.collate import collate, collate_cached
from melfusion.data.datamodule import MusicDataModule
from melfusion.data.dataset import MusicDataset
from melfusion.data.ranks import Ranks
from melfusion.data.shards import CACHE_EXT, Sample, ShardSet, count_pictures, crop_ext, pictured_ext
from melfusion.errors import BadSample, DataError
from melfusion.models.conditioner import Conditioner
from melfusion.models.image_encoder import ImageEncoder
from melfusion.models.system import MeLFusion
from melfusion.training.precision import autocast, resolve_precision

log = logging.getLogger(__name__)


@torch.no_grad()
def compute(system: MeLFusion, batch: MusicBatch) -> dict[str, Tensor]:
    """One batch → the tensors to store, each (B, …)."""
    batch = batch.to(system.device)
    out = {"latent_moments": system.codec.encode_moments(present(batch.waveform))}
    conditioning = system.read_once(system.condition(batch))
    out |= conditioning.said() | {"text_mask": conditioning.text_mask.to(torch.uint8)}
    out["has_image"] = batch.has_image
    return out | seen(system, conditioning)


def seen(system: MeLFusion, conditioning: Conditioning) -> dict[str, Tensor]:
    """What is stored of the pictures; the names are those of `reading.of_picture`."""
    if conditioning.image_latents is not None:
        return {"image_latents": conditioning.image_latents}
    if conditioning.visual_features is None:
        return {}
    out: dict[str, Tensor] = {}
    matched = system.denoiser.prepare(conditioning.visual_features, conditioning.text_embeds.shape[1])
    for layer, (key, value) in matched.items():
        out |= {f"key.{layer}": key, f"value.{layer}": value}
    return out


def with_stored(batch: MusicBatch, tensors: dict[str, Tensor]) -> MusicBatch:
    """The batch as precomputed shards give it: the tensors of `compute` in place of waveforms and pictures."""
    rows = [{name: t[i].cpu() for name, t in tensors.items()} for i in range(len(batch))]
    return collate_cached(dataclasses.replace(batch, waveform=None, image=None), rows)


def computed_samples(
    config: Config, system: MeLFusion, made_with: str, ranks: Ranks | None = None, stored: Collection[str] = ()
) -> Iterator[Sample]:
    """The stored form of every sample that can be read, split by split.

    Args:
        made_with: digest of the provenance, which each stored member carries.
        ranks: share the batches.
        stored: keys that are left out. Batches stay what they are without them, and so do the bits of the others.
    """
    data = MusicDataModule(dataclasses.replace(config.data, crop="start"), config.audio, config.seed)
    data.setup()
    dtype = getattr(torch, config.data.precompute.dtype)
    encoded: dict[str, dict[str, Tensor]] = {}  # many clips share a caption: each is encoded once
    looked_at: dict[bytes, Tensor] = {}  # the clips of a track share its pictures
    for split in sorted(ShardSet(config.data.path, config.data).counts()):
        dataset = data.dataset(split)
        for batch in readable_batches(config, dataset, split, ranks or Ranks(), stored):
            with autocast(resolve_precision(config.trainer), system.device.type):
                batch = with_prompts(system.conditioner, batch, encoded)
                batch = with_pictures(system.image_encoder, batch, looked_at)
                tensors = {k: t.cpu() for k, t in compute(system, batch).items()}
                crops = further_crops(config, dataset, batch, system)
                pictures = further_pictures(dataset, batch, system)
            for i, key in enumerate(batch.keys):
                if key not in stored:
                    yield _sample(key, split, batch, i, tensors, crops[i], pictures[i], dtype, made_with)


@torch.no_grad()
def further_crops(config: Config, dataset: MusicDataset, batch: MusicBatch, system: MeLFusion) -> list[list[Tensor]]:
    """Of each sample the moments of its crops after the first; a crop that cannot be used, such as a silent one, is left out."""
    found: list[list[Tensor]] = [[] for _ in batch.keys]
    n = config.data.precompute.crops
    for where in (k / n for k in range(1, n)):
        rows, waveforms = [], []
        for row, position in enumerate(batch.position.tolist()):
            with contextlib.suppress(BadSample):
                waveforms.append(torch.from_numpy(dataset.reader(dataset.entries[position], where)["waveform"]))
                rows.append(row)
        if rows:
            moments = system.codec.encode_moments(torch.stack(waveforms).to(system.device)).cpu()
            for row, one in zip(rows, moments, strict=True):
                found[row].append(one)
    return found


@torch.no_grad()
def further_pictures(dataset: MusicDataset, batch: MusicBatch, system: MeLFusion) -> list[list[dict[str, Tensor]]]:
    """Of each sample what is stored of its pictures after the first; one that cannot be used is left out."""
    found: list[list[dict[str, Tensor]]] = [[] for _ in batch.keys]
    entries = [dataset.entries[position] for position in batch.position.tolist()]
    if system.image_encoder is None:
        return found
    for number in range(1, max(count_pictures(entry.members) for entry in entries)):
        images, rows = present(batch.image).clone(), []
        for row, entry in enumerate(entries):
            with contextlib.suppress(BadSample):
                if (pixels := dataset.reader.pixels(entry, number)) is not None:
                    images[row] = torch.as_tensor(pixels)
                    rows.append(row)
        if rows:
            shown = dataclasses.replace(batch, image=images, image_latents=None).to(system.device)
            tensors = {k: t.cpu() for k, t in seen(system, system.read_once(system.condition(shown))).items()}
            for row in rows:
                found[row].append({k: t[row] for k, t in tensors.items()})
    return found


def with_prompts(conditioner: Conditioner, batch: MusicBatch, encoded: dict[str, dict[str, Tensor]]) -> MusicBatch:
    """The batch with its requests encoded; `encoded` gets those that are new."""
    fields = conditioner.fields_of(batch.labels)
    keys = [repr((caption, sorted(said.items()))) for caption, said in zip(batch.captions, fields, strict=True)]
    if new := {key: i for i, key in enumerate(keys) if key not in encoded}:
        said = conditioner([batch.captions[i] for i in new.values()], [fields[i] for i in new.values()]).said()
        encoded.update({key: {name: t[row] for name, t in said.items()} for row, key in enumerate(new)})
    prompt = Prompt.of({name: torch.stack([encoded[key][name] for key in keys]) for name in encoded[keys[0]]})
    return dataclasses.replace(batch, text_embeds=prompt.text_embeds, text_mask=prompt.text_mask, extra=prompt.extra)


LOOKED_AT = 128  # pictures whose latents are kept: clips that share one stand near each other


@torch.no_grad()
def with_pictures(encoder: ImageEncoder | None, batch: MusicBatch, looked_at: dict[bytes, Tensor]) -> MusicBatch:
    """The batch with its pictures encoded; `looked_at` gets those that are new, and loses the oldest."""
    if encoder is None or batch.image is None:
        return batch
    keys = [hashlib.sha256(picture.numpy().tobytes()).digest() for picture in batch.image]
    if new := {key: i for i, key in enumerate(keys) if key not in looked_at}:
        latents = encoder.encode(batch.image[list(new.values())].to(encoder.device))
        looked_at.update(dict(zip(new, latents, strict=True)))
    found = torch.stack([looked_at[key] for key in keys])
    for key in list(looked_at)[:-LOOKED_AT]:
        del looked_at[key]
    return dataclasses.replace(batch, image_latents=found)


def readable_batches(
    config: Config, dataset: MusicDataset, split: str, ranks: Ranks, stored: Collection[str]
) -> Iterator[MusicBatch]:
    """A rank's batches of the samples that can be read, without those that are stored whole.

    DataError where more than data.max_bad_ratio cannot be read.
    """
    size, left = config.data.precompute.batch_size, 0
    starts = range(ranks.number * size, len(dataset), ranks.world * size)
    for start in track(starts, description=f"precompute {split}", disable=not ranks.first):
        some = range(start, min(start + size, len(dataset)))
        if all(dataset.entries[i].key in stored for i in some):
            continue
        items = readable(dataset, some)
        left += len(some) - len(items)
        if left > config.data.max_bad_ratio * len(dataset):
            raise DataError(
                f"{config.data.path}: {left} of {len(dataset)} samples for {split} cannot be read, above "
                "data.max_bad_ratio: see the reasons above and repair the set."
            )
        if items:
            yield collate(items)


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
    key: str,
    split: str,
    batch: MusicBatch,
    i: int,
    tensors: dict[str, Tensor],
    crops: list[Tensor],
    pictures: list[dict[str, Tensor]],
    dtype: torch.dtype,
    made_with: str,
) -> Sample:
    row = {k: (t[i].to(dtype) if t.is_floating_point() else t[i]).contiguous() for k, t in tensors.items()}
    note = {"made_with": made_with}
    members = {CACHE_EXT: save_safetensors(row, note)}
    for number, moments in enumerate(crops, start=1):
        members[crop_ext(number)] = save_safetensors({"latent_moments": moments.to(dtype).contiguous()}, note)
    for number, read in enumerate(pictures, start=1):
        members[pictured_ext(number)] = save_safetensors({k: t.to(dtype).contiguous() for k, t in read.items()}, note)
    meta = {"caption": batch.captions[i], "full_caption": batch.full_captions[i], "split": split, "labels": batch.labels[i]}
    return Sample(key, b"", "", None, "", meta, members)
