"""Folders of clips, one wav per item: made by a system where they are missing, in as many processes as share the work."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.cbook
import numpy as np
import soundfile
import torch
from torch import Tensor

from melfusion.assembly.memory import telling_memory
from melfusion.assembly.schema import Config
from melfusion.batch import MusicBatch
from melfusion.data import order
from melfusion.data.collate import collate
from melfusion.data.dataset import MusicDataset
from melfusion.errors import BadSample, ConfigError, DamagedFile
from melfusion.evaluation.pace import Pace
from melfusion.evaluation.scoring import levelled
from melfusion.files import read_json, write_json
from melfusion.media.file_kinds import read_picture
from melfusion.media.mel import AudioGeometry
from melfusion.media.options import AudioConfig
from melfusion.media.sound import read_audio, write_wav
from melfusion.models.device import device_name
from melfusion.models.frozen import digest
from melfusion.models.system import MeLFusion

NOTE = "made_with.json"  # beside the clips of a folder


@dataclass(frozen=True)
class Row:
    """What a system is told for each item of a split, beside the noise that all rows share."""

    picture: str = "right"  # right | shuffled (the split's pictures, permuted) | none | outside (no scene at all)
    caption: str = "given"  # given | empty


ROWS = {
    "right picture": Row(),
    "shuffled picture": Row("shuffled"),
    "no picture": Row("none"),
    "outside picture": Row("outside"),
    "picture alone": Row("right", "empty"),
}


@torch.no_grad()
def make_clips(
    system: MeLFusion, config: Config, dataset: MusicDataset, row: Row, folder: Path, share: tuple[int, int] = (0, 1)
) -> None:
    """Write folder/KEY.wav, at the loudness of the data, for items share[0], share[0] + share[1], … that have none yet.

    Each item's noise comes from its own number, so a clip does not depend on batches, processes or interruptions.
    """
    s, size = config.sampling, config.evaluation.batch_size
    folder.mkdir(parents=True, exist_ok=True)
    missing = [i for i in range(share[0], len(dataset), share[1]) if not clip_file(folder, dataset, i).is_file()]
    pace = Pace(len(missing), 2 * AudioGeometry(config.audio).num_samples, folder)
    for start in range(0, len(missing), size):
        items = missing[start : start + size]
        with telling_memory(config, "evaluation", lambda: system):
            batch = collate([dataset[i] for i in items]).to(system.device)
            captions = batch.captions if row.caption == "given" else [""] * len(items)
            image, there = pictures(row, config, dataset, items, batch)
            log_mel = system.generate(
                captions, image, items, s.num_inference_steps, s.guidance_scale, s.image_guidance_scale, s.negative_prompt, there
            )
            clips = system.vocode(log_mel).cpu()
        for i, clip in zip(items, levelled(clips, config.audio), strict=True):
            write_wav(clip_file(folder, dataset, i), clip, config.audio.sample_rate_hz)
        pace.tell(start + len(items))


def pictures(
    row: Row, config: Config, dataset: MusicDataset, items: list[int], batch: MusicBatch
) -> tuple[Tensor | None, Tensor | None]:
    """The pictures (B, 3, H, W) that a row shows for these items, and (B,) 1 where there is one."""
    if row.picture == "none":
        return None, None
    if row.picture == "right":
        return batch.image, batch.has_image
    if row.picture == "shuffled":
        permuted = order.permutation(config.seed, 0, len(dataset))
        others = collate([dataset[int(permuted[i])] for i in items]).to(batch.image.device)
        return others.image, others.has_image
    d = config.data
    one = torch.from_numpy(
        read_picture("evaluation.outside_picture", outside_picture(config), d.image_size_px, d.max_image_pixels, d.max_image_work)
    )
    return one.expand(len(items), -1, -1, -1).to(batch.image.device), None


def outside_picture(config: Config) -> Path:
    """`evaluation.outside_picture`, or the portrait among matplotlib's own sample pictures."""
    given = config.evaluation.outside_picture
    path = Path(given or matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))
    if not path.is_file():
        raise ConfigError(f"evaluation.outside_picture={given!r}: there is no such file.")
    return path


def claim(folder: Path, system: MeLFusion, config: Config, dataset: MusicDataset, row: Row, replace: bool = False) -> None:
    """Note what a folder's clips are made with; where they are another system's, split's or setting's, they are removed
    with `replace`, or ConfigError says what differs.
    """
    made = made_with(identity(system), config, [entry.key for entry in dataset.entries], row)
    if differ := differing(folder, made):
        if not replace:
            raise ConfigError(f"{folder} holds clips made with another {differ}: remove it, or have these made elsewhere.")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if (noted := made | {"device": device_name()}) != note(folder):
        write_json(folder / NOTE, noted)


def identity(system: MeLFusion) -> dict[str, Any]:
    """Hashes of what sings: the trained model, the decoder and vocoder behind it, and the frozen parts that it listens to."""
    unet = digest({n: p.detach() for n, p in system.denoiser.named_parameters()})  # with its synapse: which trained model this is
    return {"system": unet, "voice": voice(system), "frozen": system.frozen_digests()}


def voice(system: MeLFusion) -> list[Any]:
    """What latents are sung by: the hash of VAE and vocoder, how often the mel is corrected, and the steps of the texture."""
    return system.codec.decoder_provenance()


def made_with(identity: dict[str, Any], config: Config, keys: list[str], row: Row) -> dict[str, Any]:
    """All that the clips of these items depend on, as JSON has it."""
    outside = hashlib.sha256(outside_picture(config).read_bytes()).hexdigest() if row.picture == "outside" else None
    return identity | {
        "row": dataclasses.asdict(row),
        "sampling": dataclasses.asdict(config.sampling),
        "reading": [config.image.reading, config.image.grid_steps, config.image.fixed_timestep],
        "outside_picture": outside,
        "items": hashlib.sha256("".join(keys).encode()).hexdigest(),
        "seed": config.seed,
    }


def differing(folder: Path, made: dict[str, Any]) -> str:
    """Names of what a folder's clips were made with otherwise; empty where nothing is, or nothing was noted."""
    try:
        there = note(folder)
    except DamagedFile as error:  # whatever made them is not known any more
        return f"system or setting, since {str(error).partition(': ')[0]}"
    return ", ".join(name for name in made if there.get(name) != made[name]) if there else ""


def note(folder: Path) -> dict[str, Any]:
    """What `claim` noted of a folder's clips; DamagedFile where that cannot be read."""
    file = folder / NOTE
    return read_json(file, f"remove {folder}, and its clips are made again") if file.exists() else {}


def clip_file(folder: Path, dataset: MusicDataset, item: int) -> Path:
    return folder / f"{dataset.entries[item].key}.wav"


def real_clips(dataset: MusicDataset, size: int) -> Iterator[tuple[list[str], Tensor]]:
    """Batches of (keys, waveform (B, S)) of a split."""
    for start in range(0, len(dataset), size):
        batch = collate([dataset[i] for i in range(start, min(start + size, len(dataset)))])
        yield batch.keys, batch.waveform


@torch.no_grad()
def reconstructions(system: MeLFusion, dataset: MusicDataset, size: int) -> Iterator[tuple[list[str], Tensor]]:
    """What VAE and vocoder leave of the real clips: the best that any row can sound."""
    for keys, waveform in real_clips(dataset, size):
        latents = system.codec.encode(waveform.to(system.device))
        yield keys, system.vocode(system.codec.decode(latents)).cpu()


def read_clips(files: list[Path], audio: AudioConfig, size: int) -> Iterator[tuple[list[str], Tensor]]:
    """Batches of (file stems, waveform (B, S)) of sound files, resampled, and cut or padded to one clip."""
    length = AudioGeometry(audio).num_samples
    for start in range(0, len(files), size):
        batch = files[start : start + size]
        clips = [_clip(file, audio)[:length] for file in batch]
        padded = [np.pad(clip, (0, length - len(clip))) for clip in clips]
        yield [file.stem for file in batch], torch.from_numpy(np.stack(padded))


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
        raise ConfigError(f"wavs={folder}: there is no sound file in that folder.")
    return found
