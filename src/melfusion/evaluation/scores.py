"""Scores of a run, of the shipped model or of any folder of clips: is the picture used, and how good is the music?

Rows differ in the condition only; items, captions and noise are the same. Two rows are floors: `real`, what real clips of the
same items score, and `reconstruction`, the same clips after VAE and vocoder, which limit every generated clip.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

from melfusion.assembly import listeners as build
from melfusion.assembly.load import load_system
from melfusion.assembly.schema import Config
from melfusion.config.check import flatten
from melfusion.data.dataset import MusicDataset
from melfusion.evaluation.cache import predict_real, predict_reconstructions
from melfusion.evaluation.clips import claim, clip_file, make_clips, read_clips, sound_files
from melfusion.evaluation.conditions import CONDITIONS
from melfusion.evaluation.paired import Partners
from melfusion.evaluation.reference import Reference
from melfusion.evaluation.scoring import Listeners, Predictions, accuracy, gains
from melfusion.evaluation.sets import EvaluationSet, fresh, metas_of, own, tracks_of
from melfusion.evaluation.tables import learned, table
from melfusion.files import write_json, write_whole
from melfusion.listeners.embedders import Embedder, JudgeEmbedding, clip, embedder
from melfusion.media.options import AudioConfig
from melfusion.media.sound import stated_level
from melfusion.models.device import best_device, device_name
from melfusion.models.frozen import freeze
from melfusion.models.system import MeLFusion
from melfusion.state.run_directory import RunDirectory

DEFAULT_ROWS = ("right picture", "shuffled picture", "no picture")

MOST_FRESH = 6000  # scenes that are drawn where n= does not say how many


def evaluate_run(config: Config, run: RunDirectory, results: dict[str, Any]) -> None:
    """Score the EMA weights of a run on the test split, and write the scores beside what validation found (`results`)."""
    system, items = load_system(run.path)[0].to(best_device()), evaluation_set(config).items
    names = default_rows(system)
    generate_rows(system, config, items, run.samples / "test", names, replace=True)  # the clips of a shorter run are stale
    folders = {name: run.samples / "test" / folder_name(name) for name in names}
    scores = evaluate(config, load_listeners(config, embedders=False), items, None, folders, system)
    write(scores | {"validation": {name: value for name, value in results.items() if name.startswith("val/")}}, run.path)


def evaluation_set(config: Config, seed: int | None = None) -> EvaluationSet:
    """With a seed freshly drawn scenes; without, the test split of the corpus, measured against its val split."""
    if seed is not None:
        return fresh(config, seed, config.evaluation.items or MOST_FRESH)
    return own(config, config.evaluation.items or 10**9)


def default_rows(system: MeLFusion | None) -> list[str]:
    """Names of CONDITIONS: a model without an image encoder has one row, without pictures."""
    return ["no picture"] if system is not None and system.image_encoder is None else list(DEFAULT_ROWS)


def folder_name(row: str) -> str:
    """The name of a row's folder of clips."""
    return row.replace(" ", "-")


def generate_rows(
    system: MeLFusion,
    config: Config,
    items: MusicDataset,
    out: Path,
    names: list[str],
    share: tuple[int, int] = (0, 1),
    replace: bool = False,
) -> None:
    """Generate the missing clips of every row. ConfigError where a folder holds other clips; with `replace` they are removed."""
    for name in names:
        folder = out / folder_name(name)
        claim(folder, system, config, items, CONDITIONS[name], replace)
        make_clips(system, config, items, CONDITIONS[name], folder, share=share)
        print(f"{name}: {len(list(folder.glob('*.wav')))} of {len(items)} clips", flush=True)


def load_listeners(config: Config, embedders: bool = True) -> Listeners:
    """The judges that the configuration names and, unless not wanted, its embedders and towers, on the device that computes."""
    device = best_device()
    judge = build.frozen_judge(config, config.judge.weights)
    if not embedders:
        return Listeners(config.audio, judge, text_judge=build.frozen_judge(config, config.evaluation.text_judge))
    towers = freeze(build.towers(config)).to(device) if config.towers.weights else None
    made, of_mel = [], config.audio if config.codec.READS_MEL else AudioConfig()  # AudioLDM's, whatever rate the codec has
    for name, weights in config.evaluation.embedders.items():
        if name != "judge":
            made.append(embedder(name, weights, of_mel).to(device))
        elif judge is not None:
            made.append(Embedder("judge", JudgeEmbedding(judge, config.audio.sample_rate_hz)).to(device))
    text_judge = build.frozen_judge(config, config.evaluation.text_judge)
    images = clip(config.evaluation.clip).to(device) if config.evaluation.clip else None
    return Listeners(config.audio, judge, made, towers, text_judge, images)


def evaluate(
    config: Config,
    listeners: Listeners,
    items: MusicDataset,
    compared: EvaluationSet | None,
    folders: dict[str, Path],
    system: MeLFusion | None = None,
) -> dict[str, Any]:
    """Scores of every row: accuracy of each attribute, distances by embedder, and scores with the item's picture and caption.

    Without `compared` there are no distances; without `system` there is no row `reconstruction`.
    """
    size = config.evaluation.batch_size
    rows = {"real": predict_real(listeners, items, size)}
    if system is not None:
        rows["reconstruction"] = predict_reconstructions(listeners, system, items, size)
    for name, folder in folders.items():
        rows[name] = listeners.predict(read_clips(row_files(folder, items), config.audio, size))
    metas = metas_of(items)
    labels = {entry.key: meta["labels"] for entry, meta in zip(items.entries, metas, strict=True)}
    tracks = dict(zip(labels, tracks_of(items), strict=True))
    classes = [listeners.known_labels(labels[key]) for key in rows["real"].keys]
    reference = fit_reference(listeners, compared, classes, config) if compared and listeners.embedders else None
    partners = partners_of(listeners, rows["real"], items, metas)
    scores: dict[str, Any] = {"rows": {}, "about": about(config, listeners, items, compared)}
    for name, row in rows.items():
        wanted = [labels.get(key, {}) for key in row.keys]
        entry: dict[str, Any] = {"n": len(row), "attributes": accuracy(row, wanted), "paired": partners.score(row)}
        if reference is not None:
            known = [listeners.known_labels(label) for label in wanted]
            entry["distances"] = reference.score(row, known, [tracks.get(key, key) for key in row.keys])
        scores["rows"][name] = entry
    if {"right picture", "shuffled picture"} <= rows.keys():
        right = rows["right picture"]
        known = [listeners.known_labels(labels[key]) for key in right.keys]
        scores["gain"] = gains(right, rows["shuffled picture"], known)
    return scores | {"chance": {name: 1 / len(c) for name, c in listeners.attributes.items()}}


def fit_reference(listeners: Listeners, compared: EvaluationSet, classes: list[dict[str, str]], config: Config) -> Reference:
    """Reference statistics: real clips to measure against, and a PCA fitted on those of `train`.

    `classes`: the labels of the items that will be scored.
    """
    truth = [listeners.known_labels(meta["labels"]) for meta in metas_of(compared.reference)]
    only, size = Listeners(listeners.audio, None, listeners.embedders), config.evaluation.batch_size
    train, real = (predict_real(only, dataset, size) for dataset in (compared.train, compared.reference))
    return Reference.fit(train, real, truth, classes, config.evaluation.pca_dimensions, tracks_of(compared.reference))


def partners_of(listeners: Listeners, real: Predictions, items: MusicDataset, metas: list[dict[str, Any]]) -> Partners:
    """Pictures, captions (`full_caption` where there is one) and real clips of a split."""
    captions = [meta.get("full_caption") or meta.get("caption") or "" for meta in metas]
    pictured = [items.reader.has_picture(entry) for entry in items.entries]
    return Partners(listeners, real, captions, lambda i: torch.as_tensor(items[i]["image"]), pictured)


def row_files(folder: Path, items: MusicDataset) -> list[Path]:
    """The clips of the items by key, where the folder has all of them; else every sound file in it, of no item."""
    paired = [clip_file(folder, items, i) for i in range(len(items))]
    return paired if all(file.is_file() for file in paired) else sound_files(folder)


def about(config: Config, listeners: Listeners, items: MusicDataset, compared: EvaluationSet | None) -> dict[str, Any]:
    """Everything that a reader of the scores has to know."""
    s, a = config.sampling, config.audio
    return {
        "n": len(items),
        "reference": len(compared.reference) if compared else None,
        "against": compared.against if compared else None,
        "corpus_seed": items.reader.shards.info.get("seed"),
        "networks": listeners.digests(),
        "embedders": listeners.about(),
        "sample_rate_hz": a.sample_rate_hz,
        **stated_level(a),
        "num_inference_steps": s.num_inference_steps,
        "guidance_scale": s.guidance_scale,
        "image_guidance_scale": s.image_guidance_scale,
        "seed": config.seed,
        "device": device_name(),
    }


def write(scores: dict[str, Any], folder: Path) -> None:
    """scores.json, scores.md (the tables and what they say), and the scalars and text of TensorBoard."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "scores.json", scores)
    write_whole(folder / "scores.md", f"{table(scores)}\n\n{learned(scores)}\n")
    with SummaryWriter(str(folder / "tensorboard")) as board:
        board.add_text("scores", table(scores))
        for row, entry in scores["rows"].items():
            for name, value in flatten(entry).items():
                if isinstance(value, float):
                    board.add_scalar(f"{row}/{name}".replace(" ", "_"), value)
