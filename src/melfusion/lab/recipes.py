"""`melfusion release-scenes`: train every shipped part that is missing, one after another, and put it into weights/.

Each part has a recipe, which is a configuration. A shipped part is float16 safetensors with a model card.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from melfusion.assembly import codec, listeners
from melfusion.assembly.configuration import load_config, override
from melfusion.assembly.load import export_system, load_system
from melfusion.assembly.run import run_directory
from melfusion.assembly.schema import Config
from melfusion.data.collate import collate
from melfusion.data.datamodule import MusicDataModule
from melfusion.data.scenes.corpus import contract
from melfusion.errors import MelfusionError
from melfusion.evaluation.scores import evaluate_run
from melfusion.files import write_json
from melfusion.listeners.judge import Judge
from melfusion.media.sound import levelled
from melfusion.metrics.intervals import mean_interval, share
from melfusion.models.device import device_name
from melfusion.models.frozen import freeze
from melfusion.models.vocoder import spectral_distance
from melfusion.training.preemption import leaving_on_signal
from melfusion.training.run import train

WEIGHTS = Path(__file__).parents[1] / "weights"
MAX_BYTES = 40_000_000

JUDGES = {"judge": "shipped", "judge_test": "shipped:judge_test"}  # key of floors.json → judge.weights

# part → (configuration, what the part is)
RECIPES = {
    "music_vae": ("release,music_vae", "Music VAE: 256×64 log-mel of 5.12 s ⇄ 8×32×8 latents"),
    "music_vae_decoder": (
        "release,music_vae,music_vae_decoder",
        "Music VAE: 256×64 log-mel of 5.12 s ⇄ 8×32×8 latents, encoder of `release,music_vae` and a decoder trained anew",
    ),
    "music_vae_texture": (
        "release,music_vae,music_vae_texture",
        "Music VAE: 256×64 log-mel of 5.12 s ⇄ 8×32×8 latents, with "
        "a texture on top of `release,music_vae` and `release,music_vae,music_vae_decoder`",
    ),
    "image": ("image_diffusion", "Image diffusion stand-in: 32×32 pixels, its self-attention is the image encoder"),
    "vocoder": ("release,vocoder", "Vocos: log-mel → 16 kHz waveform"),
    "judge": ("release,judge", "Judge: predicts place (6), time (4) and weather (3) of a clip"),
    "judge_test": ("release,judge_test", "Test judge: as the judge, but recurrent and of another seed; no choice was made by it"),
    "judge_key": ("release,judge_key", "Key judge: predicts tonic (12) and mode (2), which captions tell"),
    "towers": ("release,towers", "Towers: picture and caption, clip and caption in shared spaces, on top of all-MiniLM-L6-v2"),
    "unet": ("release,text_to_music", "Text-only music UNet on captions that tell key and mode"),
    "unet_decoder": (
        "text_to_music_decoder",
        "Text-only music UNet on captions that tell key and mode: `release,text_to_music`, its decoder trained further",
    ),
    "melfusion": ("scenes_long", "Synapse and decoder on top of the text-only UNet"),
}

CARD = """# {title}

Trained by this project on `scenes`, its own drawn pictures and rendered music; no other data.

- Make it again: `make release-scenes`, or this part alone: `make train CONFIG={recipe} name={run}`
- Parameters: {millions:.2f} M, stored as float16
- Training: {steps} optimizer steps of {batch}, seed {seed}, {clips} clips of {seconds:g} s
- Device: {device}
- Measured on validation clips, in float32 before rounding: {scores}; see `../README.md` for what all parts lose together
- Data: instrument samples of TimGM6mb.sf2 (GPL-2), rendered by tinysoundfont; SHA-256 of the soundfont:
  `{soundfont}`. We read the licence so: a rendering is a soundfont's output and no copy of it, as a page is no copy of
  its font, and weights hold neither; the soundfont itself is not distributed here.
- What it is for: a small model that shows the whole path on a laptop. It knows six places, four times of day, three
  weathers and their music, and nothing else.
- Licence: MIT, like the code.
"""


class ReleaseError(MelfusionError, RuntimeError):
    """A part cannot be shipped; the message says why."""


@leaving_on_signal(lambda: "between two trainings: parts that are trained are kept")
def release() -> None:
    """Train the missing parts, ship each part as soon as it is trained, and check the size of all."""
    for part, (recipe, _) in RECIPES.items():
        config = recipe_config(part)
        print(f"── {part}: {recipe}, {config.trainer.max_steps} steps", flush=True)
        train(config, evaluate_run)
        ship(part)
    write_floors()
    check_size()


def recipe_config(part: str) -> Config:
    """The configuration of a part's training run."""
    return load_config(RECIPES[part][0], [f"name={run_name(part)}"])


def run_name(part: str) -> str:
    """The run directory of a recipe: release-music_vae, …, release-scenes_long."""
    return "release-" + RECIPES[part][0].split(",")[-1]


def folder(part: str) -> Path:
    """Where a part is shipped. Decoder and texture go into the folder of the VAE or UNet that they were trained on top of."""
    return WEIGHTS / part.removesuffix("_decoder").removesuffix("_texture")


def ship(part: str) -> Path:
    """Copy a finished run's export to weights/<part>: tensors as float16, JSON files, a card. Returns that folder."""
    config = recipe_config(part)
    run, target = run_directory(config), folder(part)
    results = json.loads(run.results_file.read_text())
    source = run.export
    if part == "melfusion":
        system, _ = load_system(run.path)
        export_system(system, config, source)
    shutil.rmtree(target, ignore_errors=True)
    count = 0
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        copy = target / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix != ".safetensors":
            shutil.copyfile(file, copy)
            continue
        tensors = load_file(file)
        count += sum(t.numel() for t in tensors.values())
        save_file({k: t.half() if t.is_floating_point() else t for k, t in tensors.items()}, copy, {"format": "pt"})
    (target / "README.md").write_text(card(part, config, results, count))
    return target


def card(part: str, config: Config, results: dict[str, Any], count: int) -> str:
    """The model card of a part with `count` parameters."""
    scores = ", ".join(f"{k.removeprefix('val/')} {v:.4g}" for k, v in results.items() if k.startswith("val/"))
    return CARD.format(
        title=RECIPES[part][1],
        recipe=RECIPES[part][0],
        run=run_name(part),
        millions=count / 1e6,
        steps=results["step"],
        batch=config.data.global_batch_size,
        seed=config.seed,
        clips=config.data.splits["train"],
        seconds=config.audio.clip_duration_s,
        device=device_name(),
        scores=scores,
        soundfont=contract()["soundfont_sha256"],
    )


@torch.no_grad()
def floors(items: int = 240) -> dict[str, Any]:
    """The errors of the shipped parts on held-out clips: vocoder, Griffin-Lim, VAE, and the accuracy of both judges after them."""
    config = load_config("scenes", [f"data.path={load_config('release', []).data.path}"])
    vae: Any = freeze(codec.music_vae(config))
    vocos = freeze(codec.vocoder(config))
    smooth = freeze(codec.music_vae(override(config, ["music_vae.texture_steps=0"])))
    judges = {name: freeze(listeners.judge(override(config, [f"judge.weights={w}"]))) for name, w in JUDGES.items()}
    griffin_lim = codec.vocoder(dataclasses.replace(config, vocoder=dataclasses.replace(config.vocoder, weights=None))).eval()
    data = MusicDataModule(config.data, config.audio, config.seed).dataset("test").spread(items)
    rows: dict[str, list[Any]] = {name: [] for name in ("vae", "decoder", "vocos", "griffin_lim", "both")}
    right: dict[str, dict[str, list[dict[str, bool]]]] = {key: {} for key in judges}
    for start in range(0, len(data), 32):
        batch = collate([data[i] for i in range(start, min(start + 32, len(data)))])
        assert batch.waveform is not None
        mel = vae.log_mel(batch.waveform)
        latents = vae.encode(mel)
        rebuilt = vae.decode(latents)
        for name, made in (("vae", rebuilt), ("decoder", smooth.decode(latents))):
            rows[name] += (made - mel).abs().mean((1, 2, 3)).tolist()
        clips = {"vocos": vocos(mel), "griffin_lim": griffin_lim(mel), "both": vocos(rebuilt)}
        for name, made in clips.items():
            l1 = (vae.log_mel(made) - mel).abs().mean((1, 2, 3))
            rows[name] += torch.stack([spectral_distance(made, batch.waveform), l1], 1).tolist()
        for name, made in (("real", batch.waveform), ("vocoder alone", clips["vocos"]), ("VAE + vocoder", clips["both"])):
            for key, judge in judges.items():
                right[key].setdefault(name, []).extend(verdicts(judge, levelled(made, config.audio), batch.labels))
    return {
        "n": len(data),
        **{f"{name}_log_mel_l1_nats": mean_interval(rows[name]) for name in ("vae", "decoder")},
        **{
            f"{name}_{what}": mean_interval([row[k] for row in rows[name]])
            for name in ("vocos", "griffin_lim", "both")
            for k, what in enumerate(("spectral_distance", "log_mel_l1_nats"))
        },
        **{
            key: {name: {a: share(sum(v[a] for v in clips), len(clips)) for a in clips[0]} for name, clips in rows.items()}
            for key, rows in right.items()
        },
    }


def verdicts(judge: Judge, waveform: Tensor, labels: list[dict[str, Any]]) -> list[dict[str, bool]]:
    """Per clip: attribute → is the predicted class the right one?"""
    predictions = zip(labels, judge.predict(waveform), strict=True)
    return [{name: label[name] == predicted for name, predicted in found.items()} for label, found in predictions]


def write_floors() -> None:
    """weights/floors.json and weights/README.md: the errors of the shipped parts, float16 tensors run in float32."""
    found = floors()
    write_json(WEIGHTS / "floors.json", found)
    lines = [
        "# Shipped parts",
        "",
        "Each folder has its card.",
        f"Measured on {found['n']} test clips of `scenes` that no part was trained on, on {device_name()}, by",
        "`recipes.write_floors`, the last step of `make release-scenes`; ± and brackets are 95 % intervals.",
        "",
        "| log-mel → waveform | spectral distance | log-mel L1, nats |",
        "|---|---|---|",
    ]
    titles = {"vocos": "our vocoder", "griffin_lim": "Griffin-Lim, 64 iterations", "both": "VAE, then our vocoder"}
    for name, title in titles.items():
        cells = ("{:.3f} ± {:.3f}".format(*found[f"{name}_{what}"]) for what in ("spectral_distance", "log_mel_l1_nats"))
        lines.append(f"| {title} | {' | '.join(cells)} |")
    l1 = "VAE alone: log-mel L1 {:.3f} ± {:.3f} nats; before its texture, {:.3f} ± {:.3f}: a random texture has the larger error."
    lines += [
        "",
        l1.format(*found["vae_log_mel_l1_nats"], *found["decoder_log_mel_l1_nats"]),
        "Spectral distance: `vocoder.spectral_distance`, against the original clip at three resolutions.",
        "",
    ]
    names = list(found["judge"]["real"])
    lines += [f"| accuracy | of clips | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    for key in JUDGES:
        for name, scores in found[key].items():
            cells = (f"{s['accuracy']:.3f} ({s['low']:.3f}-{s['high']:.3f})" for s in scores.values())
            lines.append(f"| {key} | {name} | {' | '.join(cells)} |")
    (WEIGHTS / "README.md").write_text("\n".join(lines) + "\n")


def check_size() -> int:
    """Bytes of weights/; ReleaseError above 40 MB."""
    total = sum(file.stat().st_size for file in WEIGHTS.rglob("*") if file.is_file())
    if total > MAX_BYTES:
        raise ReleaseError(f"{WEIGHTS} holds {total / 1e6:.1f} MB, more than {MAX_BYTES / 1e6:g} MB: make a part smaller.")
    print(f"{WEIGHTS}: {total / 1e6:.1f} MB")
    return total
