"""`melfusion generate`: a picture and a sentence → wav and the png of its spectrogram."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from melfusion.assembly.load import load_system
from melfusion.assembly.memory import telling_memory
from melfusion.assembly.schema import Config
from melfusion.errors import ConfigError
from melfusion.evaluation.pace import Pace
from melfusion.media.figures import save, spectrogram_figure
from melfusion.media.file_kinds import read_picture
from melfusion.media.pictures import open_image, to_rgb
from melfusion.media.sound import write_wav
from melfusion.models.system import MeLFusion
from melfusion.verbs.options import check_generate, clip_files

CLIPS_AT_ONCE = 8  # of one batch, which decides about memory

PNG_BYTES = 60_000  # of a spectrogram, for the estimate


def generate(options: dict[str, Any]) -> list[Path]:
    """Write `n` clips with seeds seed, seed+1, …; returns the wav files. Either `image` or `prompt` may be missing."""
    check_generate(options)
    image_path, prompt = options.get("image"), options.get("prompt") or ""
    started = time.perf_counter()
    with telling_memory(Config(), "generation"):
        system, config = load_system(options.get("ckpt") or None)
    loaded = time.perf_counter()
    if not options.get("ckpt"):
        print("No CKPT= given: this is the shipped model, which knows the six places of the corpus `scenes`.")
    check_steps(options, config)
    n, seed = options.get("n") or 1, options.get("seed") or 0
    pixels = _pixels(image_path, config)
    shown = None if pixels is None else open_picture(image_path)
    files = clip_files(options.get("out"), prompt or Path(image_path).stem, seed, n)
    title = " + ".join(filter(None, [Path(image_path).name if image_path else "", prompt]))
    with telling_memory(config, "generation", lambda: system):
        system = system.to("cuda" if torch.cuda.is_available() else "cpu")
    seconds = system.codec.duration_s(system.latent_shape(options.get("duration_s")))
    pace = Pace(n, round(2 * seconds * config.audio.sample_rate_hz) + PNG_BYTES, files[0].parent)
    at_once = min(CLIPS_AT_ONCE, config.evaluation.batch_size)
    for start in range(0, n, at_once):
        some = files[start : start + at_once]
        with telling_memory(config, "generation", lambda: system):
            log_mel = render(system, config, options, pixels, prompt, [seed + start + i for i in range(len(some))])
            waveforms = system.vocode(log_mel).cpu()
        for i, (file, mel, waveform) in enumerate(zip(some, log_mel.cpu(), waveforms, strict=True), start):
            write_wav(file, waveform, config.audio.sample_rate_hz)
            png = picture_file(file, image_path)
            save(spectrogram_figure({f"seed {seed + i}": mel[0]}, config.audio, title, shown), png)
            print(f"{file} and {png.name}")
        pace.tell(start + len(some))
    print(f"model loaded in {loaded - started:.1f} s, {n} clip(s) of {seconds:.2f} s made in {time.perf_counter() - loaded:.1f} s")
    return files


def check_steps(options: dict[str, Any], config: Config) -> None:
    """ConfigError where more sampling steps are asked for than the model's schedule has."""
    steps, most = options.get("num_inference_steps") or 0, config.diffusion.num_train_timesteps
    if steps > most:
        raise ConfigError(f"num_inference_steps={steps} must be at most {most}, the timesteps that this model was trained with.")


def picture_file(wav: Path, image_path: str | None) -> Path:
    """Where a clip's spectrogram goes: cat.png beside cat.wav may be the user's picture."""
    png = wav.with_suffix(".png")
    if image_path and png.resolve() == Path(image_path).resolve():
        png = wav.with_name(f"{wav.stem}-spectrogram.png")
    return png


def render(
    system: MeLFusion, config: Config, options: dict[str, Any], image: torch.Tensor | None, prompt: str, seeds: list[int]
) -> torch.Tensor:
    """One prompt and picture, several seeds → log_mel (n, 1, T, F); options not given come from `config.sampling`."""
    s, n = config.sampling, len(seeds)

    def pick(name: str) -> Any:
        return getattr(s, name) if options.get(name) is None else options[name]

    return system.generate(
        [prompt] * n,
        None if image is None else image.to(system.device),
        seeds,
        num_inference_steps=pick("num_inference_steps"),
        guidance_scale=pick("guidance_scale"),
        image_guidance_scale=pick("image_guidance_scale"),
        negative_prompt=pick("negative_prompt"),
        duration_s=options.get("duration_s"),
        progress=lambda steps: track(list(steps), description="sampling", transient=True),
    )


def _pixels(path: str | None, config: Config) -> torch.Tensor | None:
    if not path:
        return None
    if config.synapse.kind == "none":
        raise ConfigError(f"image={path}: this model was trained from text alone (synapse.kind=none); leave the image out.")
    d = config.data
    return torch.from_numpy(read_picture("image", path, d.image_size_px, d.max_image_pixels, d.max_image_work))[None]


def open_picture(path: str) -> Any:
    """The picture upright in its own size and colours, for the figure."""
    return np.asarray(to_rgb(open_image(Path(path).read_bytes())))
