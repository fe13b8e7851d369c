"""`melfusion generate`: a picture and a sentence → wav and the png of its spectrogram."""

from __future__ import annotations

import math
import os
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from melfusion.audio import BadSample, write_wav
from melfusion.checkpoint import load_system
from melfusion.config import ConfigError
from melfusion.image import open_image, read_image, to_rgb
from melfusion.melfusion import MeLFusion
from melfusion.plots import save, spectrogram_figure
from melfusion.schema import Config

# option → how its text is read; None stands for "the checkpoint's own configuration"
OPTIONS = {
    "image": str, "prompt": str, "out": str, "ckpt": str, "seed": int, "n": int, "num_inference_steps": int,
    "guidance_scale": float, "image_guidance_scale": float, "negative_prompt": str, "duration_s": float,
}  # fmt: skip


def generate(options: dict[str, Any]) -> list[Path]:
    """Write `n` clips with seeds seed, seed+1, …; returns the wav files. Either `image` or `prompt` may be missing."""
    image_path, prompt = options.get("image"), options.get("prompt") or ""
    if not image_path and not prompt:
        raise ConfigError('generate needs IMAGE=picture.png, PROMPT="a sentence", or both.')
    for name, least in (("n", 1), ("seed", 0), ("num_inference_steps", 1), ("duration_s", 0.1)):
        if options.get(name) is not None and not least <= options[name] < math.inf:
            raise ConfigError(f"{name}={options[name]} must be at least {least}.")
    started = time.perf_counter()
    system, config = load_system(options.get("ckpt") or None)
    system = system.to("cuda" if torch.cuda.is_available() else "cpu")
    loaded = time.perf_counter()
    if not options.get("ckpt"):
        print("No CKPT= given: this is the shipped model, which knows the six places of the corpus `scenes`.")
    n, seed = options.get("n") or 1, options.get("seed") or 0
    pixels = _pixels(image_path, config)
    log_mel = render(system, config, options, pixels, prompt, [seed + i for i in range(n)])
    shown = None if pixels is None else open_picture(image_path)
    waveforms = system.vocode(log_mel).cpu()
    files = _files(options.get("out"), prompt or Path(image_path).stem, seed, n)
    title = " + ".join(filter(None, [Path(image_path).name if image_path else "", prompt]))
    for file, mel, waveform in zip(files, log_mel.cpu(), waveforms, strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_wav(str(file), waveform, config.audio.sample_rate_hz)
        png = file.with_suffix(".png")
        if image_path and png.resolve() == Path(image_path).resolve():  # cat.png beside cat.wav is the user's picture
            png = file.with_name(f"{file.stem}-spectrogram.png")
        save(spectrogram_figure({f"seed {seed + files.index(file)}": mel[0]}, config.audio, title, shown), png)
        print(f"{file} and {png.name}")
    print(f"model loaded in {loaded - started:.1f} s, {n} clip(s) of {waveforms.shape[-1] / config.audio.sample_rate_hz:.2f} s "
          f"made in {time.perf_counter() - loaded:.1f} s")  # fmt: skip
    return files


def render(system: MeLFusion, config: Config, options: dict[str, Any], image: torch.Tensor | None, prompt: str,
           seeds: list[int]) -> torch.Tensor:  # fmt: skip
    """One prompt and picture, several seeds → log_mel (n, 1, T, F); options not given come from `config.sampling`."""
    s, n = config.sampling, len(seeds)

    def pick(name: str) -> Any:
        return getattr(s, name) if options.get(name) is None else options[name]

    if options.get("duration_s"):
        channels, frames, bins = system.latent_shape
        per_s = frames / config.audio.clip_duration_s
        step = 2 ** (len(config.unet.block_out_channels) - 1)  # the UNet halves the frames this often
        system.latent_shape = (channels, max(step, round(options["duration_s"] * per_s / step) * step), bins)
    return system.generate(
        [prompt] * n, None if image is None else image.expand(n, -1, -1, -1).to(system.device), seeds,
        num_inference_steps=pick("num_inference_steps"), guidance_scale=pick("guidance_scale"),
        image_guidance_scale=pick("image_guidance_scale"), negative_prompt=pick("negative_prompt"),
        progress=lambda steps: track(list(steps), description="sampling", transient=True),
    )  # fmt: skip


def _pixels(path: str | None, config: Config) -> torch.Tensor | None:
    if not path:
        return None
    if config.synapse.kind == "none":
        raise ConfigError(
            f"image={path}: this model was trained from text alone (synapse.kind=none); leave the image out."
        )
    if not Path(path).is_file():
        raise ConfigError(f"image={path}: there is no such file.")
    try:
        pixels = read_image(Path(path).read_bytes(), config.data.image_size_px, config.data.max_image_pixels,
                            config.data.max_image_work)  # fmt: skip
    except BadSample as error:
        raise ConfigError(f"image={path}: {error}; give a PNG, JPEG or WebP picture.") from error
    return torch.from_numpy(pixels)[None]


def open_picture(path: str) -> Any:
    """The picture upright in its own size and colours, for the figure."""
    return np.asarray(to_rgb(open_image(Path(path).read_bytes())))


def _files(out: str | None, words: str, seed: int, n: int) -> list[Path]:
    """OUT=name.wav → that file (name-0.wav … for several); OUT=folder or nothing → a name no file has yet."""
    if out and Path(out).suffix.lower() == ".wav":
        base = Path(out)
        return [base] if n == 1 else [base.with_stem(f"{base.stem}-{i}") for i in range(n)]
    stem = re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")[:40] or "music"
    folder, files = Path(out or "outputs"), []
    for i in range(n):
        file, k = folder / f"{stem}-seed{seed + i}.wav", 1
        while file.exists() or file in files:
            file, k = folder / f"{stem}-seed{seed + i}-{k}.wav", k + 1
        files.append(file)
    return files


def options_from_environment() -> dict[str, str]:
    """IMAGE, PROMPT, OUT and CKPT as make passes them: verbatim text, whatever characters it holds."""
    names = {"IMAGE": "image", "PROMPT": "prompt", "OUT": "out", "CKPT": "ckpt"}
    return {option: os.environ[name] for name, option in names.items() if os.environ.get(name)}
