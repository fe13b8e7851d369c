"""Folders of clips, one wav per item. A system makes the clips that are missing; several processes may share the work."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

from melfusion.assembly.memory import telling_memory
from melfusion.assembly.schema import Config
from melfusion.data.collate import collate
from melfusion.data.dataset import MusicDataset
from melfusion.errors import BadSample, ConfigError, DamagedFile
from melfusion.evaluation.conditions import PICTURES, Condition, outside_picture
from melfusion.evaluation.pace import Pace
from melfusion.files import read_json, write_json
from melfusion.media.mel import AudioGeometry
from melfusion.media.options import AudioConfig
from melfusion.media.sound import levelled, pad_clip, read_audio, write_wav
from melfusion.models.device import device_name
from melfusion.models.frozen import digest
from melfusion.models.system import MeLFusion

NOTE = "made_with.json"  # beside the clips of a folder

OLD_NAMES = {"row": "condition", "voice": "decoder"}  # of that file's keys in version 0.1


@torch.no_grad()
def make_clips(
    system: MeLFusion, config: Config, dataset: MusicDataset, condition: Condition, folder: Path, share: tuple[int, int] = (0, 1)
) -> None:
    """Write folder/KEY.wav, at the loudness of the data, for items share[0], share[0] + share[1], … that have no clip yet.

    The noise of an item depends on its number only, so a clip is the same for any batches, processes and interruptions.
    """
    s, size = config.sampling, config.evaluation.batch_size
    folder.mkdir(parents=True, exist_ok=True)
    missing = [i for i in range(share[0], len(dataset), share[1]) if not clip_file(folder, dataset, i).is_file()]
    pictures = PICTURES[condition.picture](config, dataset)
    pace = Pace(len(missing), 2 * AudioGeometry(config.audio).num_samples * config.audio.channels, folder)
    for start in range(0, len(missing), size):
        items = missing[start : start + size]
        with telling_memory(config, "evaluation", lambda: system):
            batch = collate([dataset[i] for i in items]).to(system.device)
            captions = batch.captions if condition.caption == "given" else [""] * len(items)
            image, has_image = pictures(items, batch)
            decoded = system.generate(
                captions,
                image,
                items,
                s.num_inference_steps,
                s.guidance_scale,
                s.image_guidance_scale,
                s.negative_prompt,
                has_image,
                fields=system.conditioner.fields_of(batch.labels),
            )
            clips = system.vocode(decoded).cpu()
        for i, clip in zip(items, levelled(clips, config.audio), strict=True):
            write_wav(clip_file(folder, dataset, i), clip, config.audio.sample_rate_hz)
        pace.tell(start + len(items))


def claim(
    folder: Path, system: MeLFusion, config: Config, dataset: MusicDataset, condition: Condition, replace: bool = False
) -> None:
    """Write down what the clips of a folder are made with.

    Clips of another system, split or setting are removed with `replace`; else ConfigError names what differs.
    """
    made = made_with(identity(system), config, [entry.key for entry in dataset.entries], condition)
    if differ := differing(folder, made):
        if not replace:
            raise ConfigError(f"{folder} holds clips made with another {differ}: remove it, or give another folder for these.")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if (noted := made | {"device": device_name()}) != note(folder):
        write_json(folder / NOTE, noted)


def identity(system: MeLFusion) -> dict[str, Any]:
    """Hashes of what generates: the trained model, the decoder and vocoder, and the frozen parts that condition it."""
    trained = digest({n: p.detach() for n, p in system.denoiser.named_parameters()})  # with its synapse
    return {"system": trained, "decoder": decoder_identity(system), "frozen": system.frozen_digests()}


def decoder_identity(system: MeLFusion) -> list[Any]:
    """What turns latents into a waveform: the hash of the codec's decoder, and its settings."""
    return system.codec.decoder_provenance()


def made_with(identity: dict[str, Any], config: Config, keys: list[str], condition: Condition) -> dict[str, Any]:
    """All that the clips of these items depend on, as JSON stores it."""
    outside = hashlib.sha256(outside_picture(config).read_bytes()).hexdigest() if condition.picture == "outside" else None
    d = config.diffusion
    own = {"objective": dataclasses.asdict(d)} if d.kind != "diffusion" else {}  # ways of sampling stand among its options
    return (
        identity
        | own
        | {
            "condition": dataclasses.asdict(condition),
            "sampling": dataclasses.asdict(config.sampling),
            "reading": {name: value for name, value in dataclasses.asdict(config.image).items() if name != "weights"},
            "outside_picture": outside,
            "items": hashlib.sha256("".join(keys).encode()).hexdigest(),
            "seed": config.seed,
        }
    )


def differing(folder: Path, made: dict[str, Any]) -> str:
    """The names of what differs between `made` and the note of a folder; empty where nothing does, or there is no note."""
    try:
        noted = note(folder)
    except DamagedFile as error:  # nobody knows any more what made these clips
        return f"system or setting, since {str(error).partition(': ')[0]}"
    return ", ".join(name for name in made if noted.get(name) != made[name]) if noted else ""


def note(folder: Path) -> dict[str, Any]:
    """What `claim` wrote down of a folder's clips, empty where it wrote nothing; DamagedFile where that cannot be read."""
    file = folder / NOTE
    found = read_json(file, f"remove {folder}, and its clips are made again") if file.exists() else {}
    return {OLD_NAMES.get(name, name): value for name, value in found.items()}


def clip_file(folder: Path, dataset: MusicDataset, item: int) -> Path:
    return folder / f"{dataset.entries[item].key}.wav"


def real_clips(dataset: MusicDataset, size: int) -> Iterator[tuple[list[str], Tensor]]:
    """Batches of (keys, waveform (B, S) or (B, 2, S)) of a split."""
    for start in range(0, len(dataset), size):
        batch = collate([dataset[i] for i in range(start, min(start + size, len(dataset)))])
        assert batch.waveform is not None, "an evaluation set has waveforms"
        yield batch.keys, batch.waveform


@torch.no_grad()
def reconstructions(system: MeLFusion, dataset: MusicDataset, size: int) -> Iterator[tuple[list[str], Tensor]]:
    """The real clips after VAE and vocoder, as `real_clips` gives them: no generated clip can be nearer to the real ones."""
    for keys, waveform in real_clips(dataset, size):
        latents = system.codec.encode(waveform.to(system.device))
        decoded = system.codec.cut(system.codec.decode(latents), waveform.shape[-1] / system.codec.sample_rate_hz)
        yield keys, system.vocode(decoded).cpu()


def read_clips(files: list[Path], audio: AudioConfig, size: int) -> Iterator[tuple[list[str], Tensor]]:
    """Batches of (file stems, waveform (B, S) or (B, 2, S)) of sound files, resampled, and cut or padded to one clip."""
    length = AudioGeometry(audio).num_samples
    for start in range(0, len(files), size):
        batch = files[start : start + size]
        clips = [_clip(file, audio)[..., :length] for file in batch]
        yield [file.stem for file in batch], torch.from_numpy(np.stack([pad_clip(clip, audio) for clip in clips]))


def _clip(file: Path, audio: AudioConfig) -> np.ndarray:
    try:
        return read_audio(file.read_bytes(), audio)
    except BadSample as error:
        raise ConfigError(f"{file} cannot be scored ({error}): repair or remove it.") from error


def sound_files(folder: Path) -> list[Path]:
    """The sound files of a folder by name; ConfigError where there is none."""
    known = {f".{name.lower()}" for name in soundfile.available_formats()}
    found = sorted(f for f in folder.glob("*") if f.suffix.lower() in known and not f.name.startswith("."))
    if not found:
        raise ConfigError(f"wavs={folder}: that folder holds no sound file; give a folder of wav, flac, ogg or mp3 files.")
    return found
