"""The pages of an evaluation: some items of every row beside their real clip, and on demand the blind study."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import torch
from PIL import Image

from melfusion.assembly.schema import Config
from melfusion.data import order
from melfusion.data.dataset import MusicDataset
from melfusion.evaluation.clips import clip_file, read_clips
from melfusion.evaluation.scores import row_files
from melfusion.evaluation.study import StudyClip, write_blind, write_page
from melfusion.media.figures import save, spectrogram_figure
from melfusion.media.mel import LogMel
from melfusion.media.sound import levelled, mono, write_wav

SHOWN = 12  # items on a page


def pages(config: Config, items: MusicDataset, folders: dict[str, Path], out: Path, listening: bool) -> None:
    """Write out/index.html, and with `listening` also the blind study out/listening.html."""
    clips = [clip for i in order.spread(range(len(items)), SHOWN) for clip in item_clips(config, items, i, folders, out)]
    for name, folder in folders.items():
        if (files := row_files(folder, items)) != [clip_file(folder, items, i) for i in range(len(items))]:
            shown = order.spread(files, SHOWN)  # of no item
            clips += [StudyClip(f"{name}/{file.name}", "", name, file, None, {}) for file in shown]
    note = "Each column is one condition of the system. The noise of an item is the same in all columns."
    write_page(clips, out, f"melfusion: {config.name}", note)
    if listening:
        print(f"Blind page: {write_blind([alike(clip, out, config) for clip in clips], out, config.seed)}")


def item_clips(config: Config, items: MusicDataset, i: int, folders: dict[str, Path], out: Path) -> list[StudyClip]:
    """The clips of one item in every row. Its real clip and picture are written below `out`."""
    item, entry = items[i], items.entries[i]
    data, picture = items.reader.picture(entry), None
    if item["has_image"] and data is not None:
        picture = out / "pictures" / f"{entry.key}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.open(io.BytesIO(data)).save(picture)
    (out / "real").mkdir(parents=True, exist_ok=True)
    write_wav(clip_file(out / "real", items, i), torch.as_tensor(item["waveform"]), config.audio.sample_rate_hz)
    labels = {name: str(value) for name, value in item["labels"].items()}
    clips = []
    for name, folder in {"real": out / "real", **folders}.items():
        if (wav := clip_file(folder, items, i)).is_file():
            if wav.is_relative_to(out):  # nothing is written into a folder that the user gave
                draw(wav, config)
            clips.append(StudyClip(entry.key, item["caption"], name, wav, picture, labels))
    return clips


def alike(clip: StudyClip, out: Path, config: Config) -> StudyClip:
    """A clip of a given folder as a copy below `out`, so that loudness, length and sample rate tell listeners nothing."""
    if clip.wav.is_relative_to(out):
        return clip
    copy = out / "given" / f"{clip.wav.name}.wav"
    copy.parent.mkdir(parents=True, exist_ok=True)
    _, waveform = next(read_clips([clip.wav], config.audio, 1))
    write_wav(copy, levelled(waveform, config.audio)[0], config.audio.sample_rate_hz)
    return dataclasses.replace(clip, wav=copy)


def draw(wav: Path, config: Config) -> None:
    """Save the spectrogram of a clip beside it."""
    _, waveform = next(read_clips([wav], config.audio, 1))
    save(spectrogram_figure({wav.parent.name: LogMel(config.audio)(mono(waveform))[0, 0]}, config.audio), wav.with_suffix(".png"))
