"""Generate music for a picture, a sentence, or both, or edit a sound: wav files, each with a png."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from melfusion.errors import ConfigError
from melfusion.verbs import editing
from melfusion.verbs.checks import check_amount, check_checkpoint, check_out
from melfusion.verbs.editing import EditOptions
from melfusion.verbs.imports import heavy_imports
from melfusion.verbs.options import option

if TYPE_CHECKING:
    from torch import Tensor

    from melfusion.assembly.pipeline import Pipeline
    from melfusion.assembly.schema import Config

CLIPS_AT_ONCE = 8  # of one batch; its memory grows with them
PNG_BYTES = 60_000  # of a spectrogram, for the estimate of disk space
MOST_CLIPS = 1000  # of one call that gives no limit=
LONGEST_S = 3600.0  # of one piece: memory grows with it


@dataclass
class ClipOptions:
    image: str | None = option(None, "picture file; null: none, prompt alone", variable="IMAGE")
    prompt: str | None = option(None, "a sentence on the music; null: none, image alone", variable="PROMPT")
    out: str | None = option(None, "NAME.wav, or a folder; null: outputs/", variable="OUT")
    ckpt: str | None = option(None, "checkpoint file, run directory or exported folder; null: the shipped model", variable="CKPT")
    seed: int = option(0, "seed of the first clip; the next ones have seed + 1, …", least=0)
    n: int = option(1, "clips", least=1)
    num_inference_steps: int | None = option(None, "sampling steps; null: the model's sampling.num_inference_steps", least=1)
    guidance_scale: float | None = option(None, "weight of the prompt; null: the model's sampling.guidance_scale")
    image_guidance_scale: float | None = option(None, "weight of the picture; null: the model's sampling.image_guidance_scale")
    negative_prompt: str | None = option(None, "a sentence on what to avoid; null: the model's sampling.negative_prompt")
    duration_s: float | None = option(None, f"length of a clip, s, at most {LONGEST_S:g}; null: the model's own", least=0.1)
    offload: bool = option(False, "keep each part of the model on the CPU until it is needed: less memory of the GPU, more time")
    lyrics: str | None = option(None, "words that are sung (ACE-Step); null: none", variable="LYRICS")
    bpm: float | None = option(None, "tempo, beats a minute (ACE-Step); null: the model chooses", least=1)
    key: str | None = option(None, "key, such as C major (ACE-Step); null: the model chooses")
    timesignature: str | None = option(None, "beats in a bar, such as 3 (ACE-Step); null: the model chooses")
    language: str | None = option(None, "of the lyrics, such as en (ACE-Step); null: en")
    seconds_start: float | None = option(None, "where in a piece the clip starts, s (Stable Audio Open); null: 0", least=0)
    seconds_total: float | None = option(None, "where the piece ends, s (Stable Audio Open); null: duration_s", least=0)
    limit: int = option(MOST_CLIPS, "largest n that is taken for meant", least=1)


@dataclass
class Options(EditOptions, ClipOptions):
    """Those of a clip come first."""


MORE = None
SECTIONS = ()
EXAMPLES = (
    'melfusion generate image=cat.png prompt="a calm tune in A minor" out=cat.wav',
    "melfusion generate ckpt=runs/scenes audio=song.wav image=snow.png strength=0.8 n=4 seed=10 out=restyled",
)


def run(options: Options, more: list[str]) -> list[Path]:
    """Write `n` clips with seeds seed, seed + 1, …; returns the wav files."""
    check(options)

    with heavy_imports():
        from melfusion.assembly.load import load_system
        from melfusion.assembly.memory import telling_memory
        from melfusion.assembly.pipeline import Pipeline
        from melfusion.assembly.schema import Config

    started = time.perf_counter()
    with telling_memory(Config(), "generation"):
        pipe = Pipeline(*load_system(options.ckpt or None))
    loaded = time.perf_counter()
    if not options.ckpt:
        print("No CKPT= given: this is the shipped model, which knows the six places of the corpus `scenes`.")
    print(settings(pipe, options))
    picture = pipe.open(options.image) if options.image else None
    if picture is not None:
        pipe.pixels(picture)  # a model that takes none says so now
    files = clip_files(options.out, words(options), options.seed, options.n)
    with telling_memory(pipe.config, "generation", lambda: pipe.system):
        pipe.to(device(), options.offload)
    seconds = write_clips(pipe, options, picture, files)
    made = time.perf_counter()
    print(f"model loaded in {loaded - started:.1f} s, {len(files)} clip(s) of {seconds:.2f} s made in {made - loaded:.1f} s")
    return files


def check(options: Options) -> None:
    """All that can be known of a call before the model is loaded; raises ConfigError."""
    from melfusion.media.file_kinds import picture_bytes

    if not any((options.image, options.prompt, options.audio, options.story)):
        raise ConfigError('generate needs IMAGE=picture.png, PROMPT="a sentence", or both.')
    for name in ("duration_s", "extend_s"):
        if (getattr(options, name) or 0) > LONGEST_S:
            raise ConfigError(f"{name}={getattr(options, name):g} must be at most {LONGEST_S:g}: memory grows with the length.")
    editing.checked(options, options.image, options.duration_s)
    check_amount(options.n, options.limit)
    if options.image:
        picture_bytes("image", options.image)
    check_checkpoint(options.ckpt)
    check_out(clip_files(options.out, words(options), options.seed, options.n)[0].parent, options.out)


def words(options: Options) -> str:
    """What names the files of a call that names none."""
    return options.prompt or Path(options.image or options.story or options.audio or "").stem


FIELDS = ("lyrics", "bpm", "key", "timesignature", "language", "seconds_start", "seconds_total")  # of a request, by the model
SAMPLING = ("num_inference_steps", "guidance_scale", "image_guidance_scale", "negative_prompt")


def asked(options: Options) -> dict[str, Any]:
    """The fields that a call names, and how it samples."""
    return {name: value for name in (*SAMPLING, *FIELDS) if (value := getattr(options, name)) is not None}


def settings(pipe: Pipeline, options: Options) -> str:
    """How the clips are sampled, and what the weights were made for where that differs, as one line.

    ConfigError where the model does not take what is asked for.
    """
    from melfusion.assembly.published import differences, told

    config = pipe.config
    pipe.system.conditioner.requests([{name: value for name, value in asked(options).items() if name in FIELDS}], None)
    said = {name: value for name, value in pipe.sampling(**asked(options)).items() if value not in (None, "")}
    line = f"sampling: {', '.join(f'{name}={value}' for name, value in {'sampler': config.sampling.sampler, **said}.items())}"
    found = {key: value for key, value in differences(config).items() if said.get(key.partition(".")[2]) != value}
    return f"{line}; {config.denoiser.weights} was made for {told(found)}" if found else line


def device() -> str:
    """Where the clips are made."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def write_clips(pipe: Pipeline, options: Options, picture: Any, files: list[Path]) -> float:
    """Make the clips in batches; write each with its spectrogram. Returns the seconds of a clip."""
    from rich.progress import track
    from torch import from_numpy

    from melfusion.assembly.memory import telling_memory
    from melfusion.evaluation.pace import Pace
    from melfusion.media.sound import write_wav

    config, codec = pipe.config, pipe.system.codec
    wanted = editing.checked(options, options.image, options.duration_s)[1]
    seconds = (options.extend_s or 0) + codec.duration_s(pipe.system.latent_shape(wanted))
    pace = Pace(len(files), round(2 * seconds * codec.sample_rate_hz * codec.channels) + PNG_BYTES, files[0].parent)
    at_once = min(CLIPS_AT_ONCE, config.evaluation.batch_size)
    for start in range(0, len(files), at_once):
        some = files[start : start + at_once]
        with telling_memory(config, "generation", lambda: pipe.system):
            music = pipe(
                options.prompt or "",
                picture,
                options.seed + start,
                len(some),
                options.duration_s,
                lambda steps: track(list(steps), description="sampling", transient=True),
                **asked(options),
                **editing.asked(options),
            )
        for file, seed, mel, waveform in zip(some, music.seeds, music.log_mels, music.audios, strict=True):
            write_wav(file, waveform, music.sample_rate_hz)
            png = draw(file, from_numpy(mel), seed, options, config, picture)
            print(f"{file} and {png.name}")
        pace.tell(start + len(some))
    return music.audios.shape[-1] / music.sample_rate_hz


def draw(wav: Path, mel: Tensor, seed: int, options: Options, config: Config, shown: Any) -> Path:
    """The spectrogram of one clip, log_mel (T, F), with the picture beside it; returns the png."""
    from melfusion.media.figures import save, spectrogram_figure

    files = [Path(file).name for file in (options.audio, options.story, options.image) if file]
    title = " + ".join([*files, *([options.prompt] if options.prompt else [])])
    png = picture_file(wav, options.image)
    save(spectrogram_figure({f"seed {seed}": mel}, config.audio, title, shown), png)
    return png


def picture_file(wav: Path, image: str | None) -> Path:
    """Where a clip's spectrogram goes: cat.png beside cat.wav may be the user's picture."""
    png = wav.with_suffix(".png")
    if image and png.resolve() == Path(image).resolve():
        png = wav.with_name(f"{wav.stem}-spectrogram.png")
    return png


def clip_files(out: str | None, words: str, seed: int, n: int) -> list[Path]:
    """OUT=name.wav → that file (name-0.wav … for several); OUT=folder or nothing → a name no file has yet."""
    if out and Path(out).suffix.lower() == ".wav":
        if Path(out).is_dir():
            raise ConfigError(f"out={out} is a folder: give a file, or a folder whose name does not end in .wav.")
        base = Path(out)
        return [base] if n == 1 else [base.with_stem(f"{base.stem}-{i}") for i in range(n)]
    stem = re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")[:40] or "music"
    folder = Path(out or "outputs")
    taken = {file.name for file in folder.glob(f"{stem}-seed*.wav")} if folder.is_dir() else set()
    files = []
    for i in range(n):
        name, k = f"{stem}-seed{seed + i}.wav", 1
        while name in taken:
            name, k = f"{stem}-seed{seed + i}-{k}.wav", k + 1
        taken.add(name)
        files.append(folder / name)
    return files
