"""Generate music for a picture, a sentence or both, or edit a sound: sound files, each with a spectrogram.

Each file carries what made it: `melfusion show FILE`. With list= it makes a clip for each item of a list, and a manifest.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from melfusion.errors import ConfigError
from melfusion.verbs import editing, influence
from melfusion.verbs.checks import check_amount, check_checkpoint, check_out
from melfusion.verbs.editing import EditOptions
from melfusion.verbs.imports import heavy_imports
from melfusion.verbs.names import clip_files, picture_file, read_batch
from melfusion.verbs.options import option

if TYPE_CHECKING:
    from torch import Tensor

    from melfusion.assembly.pipeline import Pipeline
    from melfusion.assembly.schema import Config
    from melfusion.media.pictures import OpenedPicture

CLIPS_AT_ONCE = 8  # of one batch; its memory grows with them
PNG_BYTES = 60_000  # of a spectrogram, for the estimate of disk space
MOST_CLIPS = 1000  # of one call that gives no limit=
LONGEST_S = 3600.0  # of one piece: memory grows with it


@dataclass
class ClipOptions:
    image: str | None = option(None, "picture file; null: none, prompt alone", variable="IMAGE")
    prompt: str | None = option(None, "a sentence on the music; null: none, image alone", variable="PROMPT")
    out: str | None = option(None, "NAME.wav, .flac, .mp3 or .ogg, or a folder; null: outputs/", variable="OUT")
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
    timbre: str | None = option(None, "sound file whose timbre the music gets (ACE-Step); null: none", variable="TIMBRE")
    seconds_start: float | None = option(None, "where in a piece the clip starts, s (Stable Audio Open); null: 0", least=0)
    seconds_total: float | None = option(None, "where the piece ends, s (Stable Audio Open); null: duration_s", least=0)
    format: str = option("wav", "of files that out= does not name: wav, flac, mp3 or ogg")
    metadata: bool = option(True, "write into each file what made it, for `melfusion show`")
    batch: str | None = option(
        None, "ROW/CLIPS/PICTURES, as `show` prints it: the clip to the bit as that row of a batch; null: alone"
    )
    items: str | None = option(None, "JSON lines or CSV, one item a row: prompt, image, seed, n, duration_s, out, …", name="list")
    best_of: int = option(1, "of a list: make so many seeds a clip and keep the best by rank_by", least=1)
    rank_by: str | None = option(None, "of a list: the score of a clip: judge, towers, clap, imsm or imsm_scenes")
    share: str | None = option(
        None, "I/N makes the I-th of N shares of a list; null: what SLURM's array, its tasks or torchrun say"
    )
    devices: str = option("auto", "of a list: processes of a machine, one a device; auto: its GPUs", name="trainer.devices")
    num_nodes: int = option(1, "of a list: machines", name="trainer.num_nodes", least=1)
    strategy: str = option("auto", "of a list: as in training; nothing is learned, so all are the same", name="trainer.strategy")
    limit: int = option(MOST_CLIPS, "largest n that is taken for meant", least=1)


@dataclass
class Options(EditOptions, ClipOptions):
    """Those of a clip come first."""

    influence: str | None = option(None, "NAME.png: where the picture acts on the first clip; null: not asked")
    influence_by: str = option(
        "occlusion", "occlusion: parts of the picture are hidden; attention: for synapses that keep its tokens"
    )


MORE = None
SECTIONS = ()
EXAMPLES = (
    'melfusion generate image=cat.png prompt="a calm tune in A minor" out=cat.wav',
    "melfusion generate ckpt=runs/scenes audio=song.wav image=snow.png strength=0.8 n=4 seed=10 out=restyled",
    "melfusion generate list=items.jsonl out=clips format=flac best_of=8 rank_by=towers",
)


def run(options: Options, more: list[str]) -> list[Path]:
    """Write `n` clips with seeds seed, seed + 1, …; returns the wav files."""
    if options.items:
        influence.checked(options)
        from melfusion.verbs.lists import run_list

        return run_list(options, asked(options) | editing.asked(options), LONGEST_S, CLIPS_AT_ONCE)
    check(options)

    with heavy_imports():
        from melfusion.assembly.memory import telling_memory
        from melfusion.assembly.pipeline import Pipeline
        from melfusion.assembly.schema import Config
        from melfusion.media.pictures import OpenedPicture
        from melfusion.models.device import best_device

    started = time.perf_counter()
    with telling_memory(Config(), "generation"):
        pipe = Pipeline.read(options.ckpt or None)
    loaded = time.perf_counter()
    if not options.ckpt:
        print("No CKPT= given: this is the shipped model, which knows the six places of the corpus `scenes`.")
    print(settings(pipe, options))
    picture = OpenedPicture(options.image, pipe.open(options.image)) if options.image else None
    if picture is not None:
        pipe.pixels(picture)  # a model that takes none says so now
    influence.fits(pipe, options)
    files = files_of(options)
    with telling_memory(pipe.config, "generation", lambda: pipe.system):
        pipe.to(best_device(), options.offload)
    seconds = write_clips(pipe, options, picture, files)
    made = time.perf_counter()
    print(f"model loaded in {loaded - started:.1f} s, {len(files)} clip(s) of {seconds:.2f} s made in {made - loaded:.1f} s")
    if options.influence:
        request = {name: value for name, value in asked(options).items() if name in FIELDS}
        influence.write(pipe, options, picture, request)
    return files


def check(options: Options) -> None:
    """All that can be known of a call before the model is loaded; raises ConfigError."""
    from melfusion.media.file_kinds import picture_bytes
    from melfusion.media.sound_files import sound_seconds

    if not any((options.image, options.prompt, options.audio, options.story)):
        raise ConfigError('generate needs IMAGE=picture.png, PROMPT="a sentence", or both.')
    for name in ("duration_s", "extend_s"):
        if (getattr(options, name) or 0) > LONGEST_S:
            raise ConfigError(f"{name}={getattr(options, name):g} must be at most {LONGEST_S:g}: memory grows with the length.")
    editing.checked(options, options.image, options.duration_s)
    if options.timbre:
        sound_seconds("timbre", options.timbre)
    check_amount(options.n, options.limit)
    if options.image:
        picture_bytes("image", options.image)
    influence.checked(options, [picture_file(wav, options.image) for wav in files_of(options)])
    check_checkpoint(options.ckpt)
    if options.best_of > 1 or options.rank_by or options.share or (options.devices, options.num_nodes) != ("auto", 1):
        raise ConfigError(
            "best_of=, rank_by=, share=, trainer.devices= and trainer.num_nodes= are of a list: give list=items.jsonl, of one item "
            "if you want one clip."
        )
    if options.batch and options.n > 1:
        raise ConfigError("batch= makes one clip of a batch again: give n=1.")
    read_batch(options.batch)
    check_out(files_of(options)[0].parent, options.out)


# of a request, by the model
FIELDS = ("lyrics", "bpm", "key", "timesignature", "language", "timbre", "seconds_start", "seconds_total")
SAMPLING = ("num_inference_steps", "guidance_scale", "image_guidance_scale", "negative_prompt")


def asked(options: Options) -> dict[str, Any]:
    """The fields that a call names, and how it samples."""
    return {name: value for name in (*SAMPLING, *FIELDS) if (value := getattr(options, name)) is not None}


def settings(pipe: Pipeline, options: Options) -> str:
    """How the clips are sampled, and what the weights were made for where that differs, as one line.

    ConfigError where the model does not take what is asked for.
    """
    from melfusion.assembly.published import differences, listed

    config = pipe.config
    pipe.system.conditioner.requests([{name: value for name, value in asked(options).items() if name in FIELDS}], None)
    said = {name: value for name, value in pipe.sampling(**asked(options)).items() if value not in (None, "")}
    line = f"sampling: {', '.join(f'{name}={value}' for name, value in {'sampler': config.sampling.sampler, **said}.items())}"
    found = {key: value for key, value in differences(config).items() if said.get(key.partition(".")[2]) != value}
    return f"{line}; {config.denoiser.weights} was made for {listed(found)}" if found else line


def write_clips(pipe: Pipeline, options: Options, picture: OpenedPicture | None, files: list[Path]) -> float:
    """Make the clips in batches; write each with its spectrogram. Returns the seconds of a clip."""
    from rich.progress import track
    from torch import from_numpy

    from melfusion.assembly.memory import telling_memory
    from melfusion.evaluation.pace import Pace

    config, codec = pipe.config, pipe.system.codec
    wanted = editing.checked(options, options.image, options.duration_s)[1]
    seconds = (options.extend_s or 0) + codec.duration_s(pipe.system.latent_shape(wanted))
    pace = Pace(len(files), round(2 * seconds * codec.sample_rate_hz * codec.channels) + PNG_BYTES, files[0].parent)
    at_once = min(CLIPS_AT_ONCE, config.evaluation.batch_size)
    row, clips, pictures = read_batch(options.batch)
    for start in range(0, len(files), at_once):
        some = files[start : start + at_once]
        count = clips if options.batch else len(some)
        seeds: Any = [options.seed] * clips if options.batch else options.seed + start
        with telling_memory(config, "generation", lambda: pipe.system):
            music = pipe(
                options.prompt or "",
                [picture] * pictures if options.batch and pictures > 1 else picture,
                seeds,
                count,
                options.duration_s,
                lambda steps: track(list(steps), description="sampling", transient=True),
                **asked(options),
                **editing.asked(options),
            )
        for i, file in enumerate(some, row):
            music.write(i, file, options.metadata)
            png = draw(file, from_numpy(music.log_mels[i]), music.seeds[i], options, config, picture and picture.image)
            print(f"{file} and {png.name}")
        pace.tell(start + len(some))
    if options.audio and music.made[0]["prompt"] != (options.prompt or ""):
        print(f"the model was asked for {music.made[0]['prompt']!r}, the key of {options.audio}; keep_key=false leaves it out")
    return music.audios.shape[-1] / music.sample_rate_hz


def draw(wav: Path, mel: Tensor, seed: int, options: Options, config: Config, shown: Any) -> Path:
    """The spectrogram of one clip, log_mel (T, F), with the picture beside it; returns the png."""
    from melfusion.media.figures import save, spectrogram_figure

    files = [Path(file).name for file in (options.audio, options.story, options.image) if file]
    title = " + ".join([*files, *([options.prompt] if options.prompt else [])])
    png = picture_file(wav, options.image)
    save(spectrogram_figure({f"seed {seed}": mel}, config.audio, title, shown), png)
    return png


def files_of(options: Options) -> list[Path]:
    """Where the clips of a call go."""
    words = options.prompt or Path(options.image or options.story or options.audio or "").stem
    return clip_files(options.out, words, options.seed, options.n, options.format)
