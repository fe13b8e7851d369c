"""One sample's members → plain arrays, within the limits of DataConfig; BadSample says what is wrong with a sample."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_safetensors

from melfusion.data.entries import Entries, Entry
from melfusion.data.options import DataConfig
from melfusion.data.shards import AUDIO_EXTS, CACHE_EXT, IMAGE_EXTS, ShardSet, crop_ext, pictured_ext, pictures_in
from melfusion.errors import BadSample
from melfusion.media.options import AudioConfig
from melfusion.media.pictures import read_image
from melfusion.media.sound import crop_clip, normalise_level, pad_clip, read_audio

CACHED = ("latent_moments", "text_embeds", "text_mask", "has_image")  # tensors that every precomputed member holds

EXPONENTS = {  # type → the integer of its size, and the bits of its exponent
    torch.float16: (torch.int16, np.int16(0x7C00)),
    torch.bfloat16: (torch.int16, np.int16(0x7F80)),
    torch.float32: (torch.int32, np.int32(0x7F800000)),
    torch.float64: (torch.int64, np.int64(0x7FF << 52)),
}

VOTERS = 5  # precomputed samples that decide by majority which layout all must have


def read_meta(data: bytes, limits: DataConfig) -> dict[str, Any]:
    """The sample's JSON; BadSample where it is not an object, or too large."""
    if len(data) > limits.max_json_kib * 2**10:
        raise BadSample(f"json larger than data.max_json_kib={limits.max_json_kib:g}")
    try:
        meta = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadSample("unreadable json") from error
    if not isinstance(meta, dict):
        raise BadSample("json is not an object")
    level: list[Any] = [meta]
    depth = 1
    while level := [v for node in level for v in (node.values() if isinstance(node, dict) else node) if isinstance(v, dict | list)]:
        if (depth := depth + 1) > limits.max_json_depth:
            raise BadSample(f"json nested deeper than data.max_json_depth={limits.max_json_depth}")
    if not isinstance(meta.get("labels") or {}, dict):
        raise BadSample("labels are not an object")
    return meta


def read_cached(data: bytes, limits: DataConfig, names: Collection[str] = CACHED) -> dict[str, torch.Tensor]:
    """Precomputed tensors; BadSample where one of `names` is missing, a value is not finite, or the header is too large."""
    if int.from_bytes(data[:8], "little") > limits.max_json_kib * 2**10:
        raise BadSample(f"header of {CACHE_EXT} larger than data.max_json_kib={limits.max_json_kib:g}")
    try:
        tensors = load_safetensors(data)
    except Exception as error:  # safetensors raises its own and several built-in errors
        raise BadSample(f"unreadable {CACHE_EXT}") from error
    if not tensors.keys() >= set(names):
        raise BadSample(f"{CACHE_EXT} lacks tensors")
    if not all(map(finite, tensors.values())):
        raise BadSample(f"{CACHE_EXT} holds NaN or infinity")
    return tensors


def of_picture(name: str) -> bool:
    """Does a precomputed tensor of this name come from the picture?"""
    return name == "image_latents" or name.startswith(("key.", "value."))


def cached_draw(
    exts: Collection[str], read: Callable[[str], bytes], crop: float, picture: float, data: DataConfig
) -> dict[str, torch.Tensor]:
    """The tensors of a precomputed sample. Where it has several crops or pictures, `crop` and `picture` in [0, 1) choose one."""
    tensors = read_cached(read(CACHE_EXT), data)
    if number := int(crop * (1 + sum(ext.startswith("crop") for ext in exts))):
        tensors |= read_cached(read(crop_ext(number)), data, ("latent_moments",))
    if number := int(picture * (1 + sum(ext.startswith("picture") for ext in exts))):
        tensors |= read_cached(read(pictured_ext(number)), data, [name for name in tensors if of_picture(name)])
    return tensors


def finite(tensor: torch.Tensor) -> bool:
    """Is no element NaN or infinity? Those have all bits of their exponent set. torch.isfinite takes 30 times as long on a CPU."""
    if tensor.dtype not in EXPONENTS:
        return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())
    integer, exponent = EXPONENTS[tensor.dtype]
    return tensor.numel() == 0 or bool((tensor.view(integer).numpy() & exponent).max() != exponent)


def digest_of(provenance: dict[str, Any], source: bool = False) -> str:
    """Twelve hex digits of the parts and settings that made precomputed members; with `source`, of the data set, too."""
    parts = {name: value for name, value in provenance.items() if source or name != "source"}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def digest_in(cached: bytes) -> str | None:
    """The digest that a precomputed member carries; None where it has none."""
    try:
        return json.loads(cached[8 : 8 + int.from_bytes(cached[:8], "little")])["__metadata__"]["made_with"]
    except (ValueError, RecursionError, LookupError, TypeError):
        return None


def decode_sample(
    key: str,
    exts: Collection[str],
    read: Callable[[str], bytes],
    crop: float,
    audio: AudioConfig,
    data: DataConfig,
    picture: float = 0.0,
) -> dict[str, Any]:
    """One sample's members (`read(ext)` gives bytes) → plain arrays; BadSample says why it cannot be used.

    A sample without a caption gets the empty one; without a picture it gets zeros and `has_image` 0. An unreadable picture makes
    the sample bad. A precomputed member takes the place of audio and picture. `crop` and `picture` in [0, 1) choose.
    """
    if len(exts) > data.max_sample_members:
        raise BadSample(f"more members than data.max_sample_members={data.max_sample_members}")
    if "json" not in exts:
        raise BadSample("no json")
    meta = read_meta(read("json"), data)
    caption, full = (
        str(text or "").encode("utf-8", "replace").decode()
        for text in (meta.get("caption"), meta.get("full_caption") or meta.get("caption"))
    )
    item: dict[str, Any] = {"key": key, "caption": caption, "full_caption": full, "labels": meta.get("labels") or {}}
    if CACHE_EXT in exts:
        return item | {"cached": cached_draw(exts, read, crop, picture, data)}
    return item | raw_draw(exts, read, crop, picture, audio, data)


def raw_draw(
    exts: Collection[str], read: Callable[[str], bytes], crop: float, picture: float, audio: AudioConfig, data: DataConfig
) -> dict[str, Any]:
    """The clip and the picture of a sample that is not precomputed. `crop` and `picture` in [0, 1) choose."""
    audio_ext = next((ext for ext in AUDIO_EXTS if ext in exts), None)
    pictures = pictures_in(exts)
    if audio_ext is None:
        raise BadSample("no audio")
    waveform = read_audio(
        read(audio_ext), audio, data.max_audio_s, data.max_audio_rate_hz, data.max_audio_channels, data.max_audio_samples
    )
    clip = pad_clip(normalise_level(crop_clip(waveform, audio, crop), audio), audio)
    if pictures:
        chosen = pictures[int(picture * len(pictures))]
        image = read_image(read(chosen), data.image_size_px, data.max_image_pixels, data.max_image_work)
    else:
        image = np.zeros((3, data.image_size_px, data.image_size_px), np.float32)
    return {"waveform": clip, "has_image": np.float32(bool(pictures)), "image": image}


def layout(item: dict[str, Any]) -> tuple:
    """Names, types and shapes of an item's precomputed tensors; () without any."""
    return tuple(sorted((name, str(t.dtype), tuple(t.shape)) for name, t in item.get("cached", {}).items()))


class SampleReader:
    """Entries of a ShardSet → plain arrays that fit into one batch.

    entries: those that decide which layout precomputed tensors must have; without any, no entry may have such tensors.
    """

    def __init__(self, shards: ShardSet, audio: AudioConfig, data: DataConfig, entries: Entries | None = None):
        self.shards, self.audio, self.data, self.entries = shards, audio, data, entries

    def __call__(self, entry: Entry, crop: float, picture: float = 0.0) -> dict[str, Any]:
        item = self._decode(entry, crop, picture)
        if layout(item) != self.layout:
            raise BadSample(f"{CACHE_EXT} is laid out unlike the others'")
        return item

    @cached_property
    def layout(self) -> tuple:
        """The layout of most of a few samples, taken evenly over all entries: the same in every process."""
        cached = self.entries.having([CACHE_EXT]) if self.entries is not None else []
        if self.entries is None or 2 * len(cached) <= len(self.entries):
            return ()
        votes: Counter[tuple] = Counter()
        for i in range(min(VOTERS, len(cached))):
            with suppress(BadSample):
                votes[layout(self._decode(cached[i * len(cached) // min(VOTERS, len(cached))], 0.0))] += 1
        return votes.most_common(1)[0][0] if votes else ()

    def _decode(self, entry: Entry, crop: float, picture: float = 0.0) -> dict[str, Any]:
        read = partial(self.shards.read, entry)
        return decode_sample(entry.key, entry.members, read, crop, self.audio, self.data, picture)

    def meta(self, entry: Entry) -> dict[str, Any]:
        """The entry's JSON alone."""
        return read_meta(self.shards.read(entry, "json"), self.data)

    def has_picture(self, entry: Entry) -> bool:
        return any(ext in entry.members for ext in IMAGE_EXTS)

    def pixels(self, entry: Entry, number: int) -> np.ndarray | None:
        """(3, H, W) of one of the entry's pictures, from 0 on; None where it has fewer."""
        exts = pictures_in(entry.members)
        if number >= len(exts):
            return None
        d = self.data
        return read_image(self.shards.read(entry, exts[number]), d.image_size_px, d.max_image_pixels, d.max_image_work)

    def picture(self, entry: Entry) -> bytes | None:
        """The entry's first picture as it is stored, or None."""
        ext = next((ext for ext in IMAGE_EXTS if ext in entry.members), None)
        return None if ext is None else self.shards.read(entry, ext)
