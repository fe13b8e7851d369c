"""`melfusion evaluate`: is the picture heard, and how good is the music? Scores of a run, or of any folder of sounds.

Rows differ in what the system is told; their items, captions and noise are the same. `real` and `reconstruction` (VAE +
vocoder) are the floors: what real clips of the same items score, and the best that these parts let any row score.
"""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from melfusion.assembly import listeners as build
from melfusion.assembly.configuration import override
from melfusion.assembly.load import load_system
from melfusion.assembly.schema import Config
from melfusion.config.check import flatten
from melfusion.data import order
from melfusion.data.dataset import MusicDataset
from melfusion.evaluation.cache import hear_real, hear_reconstructions
from melfusion.evaluation.clips import ROWS, claim, clip_file, make_clips, read_clips, sound_files
from melfusion.evaluation.paired import Partners
from melfusion.evaluation.reference import Yardstick
from melfusion.evaluation.scoring import Ears, Heard, accuracy, gains, levelled
from melfusion.evaluation.sets import Bench, fresh, metas_of, own, tracks_of
from melfusion.evaluation.study import Clip, write_blind, write_page
from melfusion.evaluation.tables import learned, table
from melfusion.files import write_json, write_whole
from melfusion.listeners.embedders import Embedder, JudgeEmbedding, clip, embedder
from melfusion.media.figures import save, spectrogram_figure
from melfusion.media.mel import LogMel
from melfusion.media.sound import stated_level, write_wav
from melfusion.models.device import device_name
from melfusion.models.frozen import freeze
from melfusion.models.system import MeLFusion
from melfusion.state.run_directory import RunDirectory


def evaluate_run(config: Config, run: RunDirectory, results: dict[str, Any]) -> None:
    """Score the run's EMA weights on the test split: is the picture heard? Beside what validation found (`results`)."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    system, items = load_system(run.path)[0].to(device), splits(config)[0]
    names = rows_of(system)
    sing(system, config, items, run.samples / "test", names, replace=True)  # a longer run speaks anew
    folders = {name: run.samples / "test" / folder_name(name) for name in names}
    scores = evaluate(config, ears(config, embedders=False), items, None, folders, system)
    write(scores | {"validation": {name: value for name, value in results.items() if name.startswith("val/")}}, run.path)


DEFAULT_ROWS = ("right picture", "shuffled picture", "no picture")

SHOWN = 12  # items on the listening page

MOST_FRESH = 6000  # scenes that are drawn where n= does not say how many


def splits(config: Config, seed: int | None = None) -> Bench:
    """The items that are scored, other real clips to measure against, and real training clips.

    With a seed all are freshly drawn scenes. Without, items are the test split, against the val split.
    """
    if seed is not None:
        return fresh(config, seed, config.evaluation.items or MOST_FRESH)
    return own(config, config.evaluation.items or 10**9)


def rows_of(system: MeLFusion | None) -> list[str]:
    return ["no picture"] if system is not None and system.image_encoder is None else list(DEFAULT_ROWS)


def folder_name(row: str) -> str:
    return row.replace(" ", "-")


def sing(
    system: MeLFusion,
    config: Config,
    items: MusicDataset,
    out: Path,
    names: list[str],
    share: tuple[int, int] = (0, 1),
    replace: bool = False,
) -> None:
    """Make the clips of every row that are not there yet; a folder of other clips is refused, or with `replace` emptied."""
    for name in names:
        folder = out / folder_name(name)
        claim(folder, system, config, items, ROWS[name], replace)
        make_clips(system, config, items, ROWS[name], folder, share=share)
        print(f"{name}: {len(list(folder.glob('*.wav')))} of {len(items)} clips", flush=True)


def ears(config: Config, embedders: bool = True) -> Ears:
    """The judge and, unless they are not wanted, embedders and towers that the configuration names, on this machine's device."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    heads = freeze(build.judge(config)).to(device) if config.judge.weights else None
    towers = freeze(build.towers(config)).to(device) if config.towers.weights else None
    named = config.evaluation.embedders if embedders else {}
    made = [
        Embedder("judge", JudgeEmbedding(heads, config.audio.sample_rate_hz))
        if name == "judge"
        else embedder(name, weights, config.audio)
        for name, weights in named.items()
        if name != "judge" or heads
    ]
    key = config.evaluation.text_judge
    reads = freeze(build.judge(override(config, [f"judge.weights={key}"]))).to(device) if key else None
    sees = clip(config.evaluation.clip).to(device) if embedders and config.evaluation.clip else None
    return Ears(config.audio, heads, [e.to(device) for e in made], towers if embedders else None, reads, sees)


def evaluate(
    config: Config, ears: Ears, items: MusicDataset, bench: Bench | None, folders: dict[str, Path], system: MeLFusion | None = None
) -> dict[str, Any]:
    """Scores of every row: attribute accuracy, distances by embedder, and what clips have of their picture and caption.

    Without `bench`, or without `system`, distances or the floor of VAE and vocoder are left out.
    """
    size = config.evaluation.batch_size
    heard = {"real": hear_real(ears, items, size)}
    if system is not None:
        heard["reconstruction"] = hear_reconstructions(ears, system, items, size)
    for name, folder in folders.items():
        heard[name] = ears.listen(read_clips(row_files(folder, items), config.audio, size))
    metas = metas_of(items)
    by_key = {entry.key: meta["labels"] for entry, meta in zip(items.entries, metas, strict=True)}
    tracks = dict(zip(by_key, tracks_of(items), strict=True))
    known = [told(ears, by_key[key]) for key in heard["real"].keys]
    measure = yardstick(ears, bench, known, config) if bench and ears.embedders else None
    partners = partners_of(ears, heard["real"], items, metas)
    scores: dict[str, Any] = {"rows": {}, "about": about(config, ears, items, bench)}
    for name, row in heard.items():
        wanted = [by_key.get(key, {}) for key in row.keys]
        entry: dict[str, Any] = {"n": len(row), "attributes": accuracy(row, wanted), "paired": partners.score(row)}
        if measure is not None:
            entry["distances"] = measure.score(row, [told(ears, w) for w in wanted], [tracks.get(key, key) for key in row.keys])
        scores["rows"][name] = entry
    if {"right picture", "shuffled picture"} <= heard.keys():
        right = heard["right picture"]
        scores["gain"] = gains(right, heard["shuffled picture"], [told(ears, by_key[key]) for key in right.keys])
    return scores | {"chance": {name: 1 / len(c) for name, c in ears.attributes.items()}}


def yardstick(ears: Ears, bench: Bench, classes: list[dict], config: Config) -> Yardstick:
    """Real clips to measure against, a PCA fitted on those of `train`."""
    truth = [told(ears, meta["labels"]) for meta in metas_of(bench.reference)]
    deaf, size = Ears(ears.audio, None, ears.embedders), config.evaluation.batch_size
    sets = (hear_real(deaf, dataset, size) for dataset in (bench.train, bench.reference))
    return Yardstick.fit(*sets, truth, classes, config.evaluation.pca_dimensions, tracks_of(bench.reference))


def partners_of(ears: Ears, real: Heard, items: MusicDataset, metas: list[dict[str, Any]]) -> Partners:
    """Pictures, captions (`full_caption` where there is one) and real clips of a split."""
    captions = [meta.get("full_caption") or meta.get("caption") or "" for meta in metas]
    pictured = [items.reader.has_picture(entry) for entry in items.entries]
    return Partners(ears, real, captions, lambda i: torch.as_tensor(items[i]["image"]), pictured)


def told(ears: Ears, labels: dict[str, Any]) -> dict[str, str]:
    """The labels that the judge knows."""
    return {name: labels[name] for name in (ears.judge.attributes if ears.judge else {}) if name in labels}


def row_files(folder: Path, items: MusicDataset) -> list[Path]:
    """The clips of the items by key, where the folder has all of them; else every sound file in it, unpaired."""
    paired = [clip_file(folder, items, i) for i in range(len(items))]
    return paired if all(file.is_file() for file in paired) else sound_files(folder)


def about(config: Config, ears: Ears, items: MusicDataset, bench: Bench | None) -> dict[str, Any]:
    """What a score must not be read without."""
    s, a = config.sampling, config.audio
    return {
        "n": len(items),
        "reference": len(bench.reference) if bench else None,
        "against": bench.against if bench else None,
        "corpus_seed": items.reader.shards.info.get("seed"),
        "networks": ears.digests(),
        "embedders": ears.about(),
        "sample_rate_hz": a.sample_rate_hz,
        **stated_level(a),
        "num_inference_steps": s.num_inference_steps,
        "guidance_scale": s.guidance_scale,
        "image_guidance_scale": s.image_guidance_scale,
        "seed": config.seed,
        "device": device_name(),
    }


def write(scores: dict[str, Any], folder: Path) -> None:
    """scores.json, scores.md (the table and what it says) and the curves' tab of TensorBoard."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "scores.json", scores)
    write_whole(folder / "scores.md", f"{table(scores)}\n\n{learned(scores)}\n")
    with SummaryWriter(str(folder / "tensorboard")) as board:
        board.add_text("scores", table(scores))
        for row, entry in scores["rows"].items():
            for name, value in flatten(entry).items():
                if isinstance(value, float):
                    board.add_scalar(f"{row}/{name}".replace(" ", "_"), value)


def pages(config: Config, items: MusicDataset, folders: dict[str, Path], out: Path, listening: bool) -> None:
    """index.html with a few items of every row beside their real clip; `listening` adds the blind page."""
    real, drawn, clips = out / "real", out / "pictures", []
    for folder in (real, drawn):
        folder.mkdir(parents=True, exist_ok=True)
    for i in order.spread(range(len(items)), SHOWN):
        item, key = items[i], items.entries[i].key
        picture = drawn / f"{key}.png" if item["has_image"] else None
        if picture:
            Image.open(io.BytesIO(items.reader.picture(items.entries[i]))).save(picture)
        write_wav(clip_file(real, items, i), torch.as_tensor(item["waveform"]), config.audio.sample_rate_hz)
        for name, folder in {"real": real, **folders}.items():
            if (wav := clip_file(folder, items, i)).is_file():
                if wav.is_relative_to(out):  # a folder that was given stays as it is
                    draw(wav, config)
                clips.append(Clip(key, item["caption"], name, wav, picture, {k: str(v) for k, v in item["labels"].items()}))
    for name, folder in folders.items():
        if (files := row_files(folder, items)) != [clip_file(folder, items, i) for i in range(len(items))]:
            clips += [Clip(f"{name}/{file.name}", "", name, file, None, {}) for file in order.spread(files, SHOWN)]  # of no item
    write_page(clips, out, f"melfusion: {config.name}", "Each column is what the system was told; the noise is the same.")
    if listening:
        print(f"Blind page: {write_blind([alike(clip, out, config) for clip in clips], out, config.seed)}")


def alike(clip: Clip, out: Path, config: Config) -> Clip:
    """A clip as those of `out` are; of a given folder a copy, so that listeners tell no system by loudness, length or rate."""
    if clip.wav.is_relative_to(out):
        return clip
    copy = out / "given" / f"{clip.wav.name}.wav"
    copy.parent.mkdir(parents=True, exist_ok=True)
    _, waveform = next(read_clips([clip.wav], config.audio, 1))
    write_wav(copy, levelled(waveform, config.audio)[0], config.audio.sample_rate_hz)
    return dataclasses.replace(clip, wav=copy)


def draw(wav: Path, config: Config) -> None:
    """The spectrogram of a clip beside it."""
    _, waveform = next(read_clips([wav], config.audio, 1))
    save(spectrogram_figure({wav.parent.name: LogMel(config.audio)(waveform)[0, 0]}, config.audio), wav.with_suffix(".png"))
