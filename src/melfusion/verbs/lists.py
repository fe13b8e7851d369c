"""`melfusion generate list=FILE`: many clips, their share of the list, and the manifest."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from melfusion.errors import ConfigError
from melfusion.media.options import SOUND_FORMATS
from melfusion.verbs.checks import check_checkpoint, check_out
from melfusion.verbs.evaluate import read_share
from melfusion.verbs.imports import heavy_imports

if TYPE_CHECKING:
    from lightning.fabric import Fabric

    from melfusion.assembly.batches import ListClip, ListManifest
    from melfusion.assembly.pipeline import Pipeline
    from melfusion.assembly.requests import ListItem
    from melfusion.evaluation.ranking import Ranking

FOLDER = "outputs/list"  # where no out= is given


def run_list(options: Any, asked: dict[str, Any], longest_s: float, at_once: int) -> list[Path]:
    """Make this process's share of the clips that are not there yet; returns all files of the share.

    Args:
        options: of `generate`.  asked: how they ask to sample, and the model's fields that they give, for all items.
        longest_s: of a clip.  at_once: clips of a batch.

    ConfigError at the end where some items could not be made.
    """
    folder = check(options)

    with heavy_imports():
        from melfusion.assembly.batches import ListManifest
        from melfusion.assembly.memory import telling_memory
        from melfusion.assembly.pipeline import Pipeline
        from melfusion.assembly.requests import read_items
        from melfusion.assembly.schema import Config
        from melfusion.cluster.shares import place_of
        from melfusion.models.device import best_device

    items = read_items(str(options.items))
    with telling_memory(Config(), "generation"):
        pipe = Pipeline.read(options.ckpt or None)
    fabric, (number, of) = processes(options)
    with telling_memory(pipe.config, "generation", lambda: pipe.system):
        pipe.to(fabric.device if fabric else best_device(index=place_of(os.environ)), options.offload)
    clips, bad = plan(options, pipe, items[number::of], folder, asked, longest_s)
    manifest = ListManifest(folder)
    made = manifest.read()
    missing = [clip for clip in clips if not there(made.get((clip.item, clip.clip)), clip, folder)]
    print(f"share {number} of {of}: {len(clips)} clips of {len(items[number::of])} items; {len(clips) - len(missing)} are there")
    errors = bad + make_all(options, pipe, clips, missing, folder, at_once)
    tidy(manifest, clips, len(items), number, of)
    errors, tried, new = of_all(fabric, errors, len(clips) + len(bad), len(missing))
    if errors and not (fabric and fabric.global_rank):  # one of the processes says it
        raise ConfigError(
            f"{len(errors)} of {tried} clips could not be made, and {manifest.file} says why; the first is {errors[0]}."
        )
    print(f"{new} clips are made; {manifest.file} lists all") if not errors else None
    return [folder / clip.file for clip in clips]


def processes(options: Any) -> tuple[Fabric | None, tuple[int, int]]:
    """Start the processes that trainer.devices and trainer.num_nodes ask for, unless srun, torchrun or share= divided the list
    already; which share of it this process makes."""
    from melfusion.assembly.launching import known_strategy, launched
    from melfusion.assembly.options import TrainerConfig
    from melfusion.cluster.shares import share_of, started_as

    if options.share:
        return None, read_share(options.share)
    known_strategy(options.strategy)
    trainer = TrainerConfig(devices=options.devices, num_nodes=options.num_nodes, strategy=options.strategy)
    fabric = None if started_as(os.environ) else launched(trainer)
    return fabric, share_of(os.environ, (fabric.global_rank, fabric.world_size) if fabric else (0, 1))


def tidy(manifest: ListManifest, clips: list[ListClip], items: int, number: int, of: int) -> None:
    """Take what the list asks for no more out of the manifest: items after its end, and clips of this share that are none now."""
    own = {(clip.item, clip.clip) for clip in clips}

    def belongs(line: dict[str, Any]) -> bool:
        mine = line["item"] % of == number and not line["error"]
        return line["item"] < items and (not mine or (line["item"], line["clip"]) in own)

    manifest.tidy(belongs)


def of_all(fabric: Fabric | None, errors: list[str], tried: int, new: int) -> tuple[list[str], int, int]:
    """The errors and counts of this process, or of all that were started with it; none of them ends before the last."""
    from melfusion.assembly.launching import meeting

    found = meeting((errors, tried, new)) if fabric else [(errors, tried, new)]
    return [error for one in found for error in one[0]], sum(one[1] for one in found), sum(one[2] for one in found)


def check(options: Any) -> Path:
    """The folder; all that can be known before anything slow is imported. Raises ConfigError."""
    folder = Path(options.out or FOLDER)
    if folder.suffix.lower()[1:] in SOUND_FORMATS:
        raise ConfigError(f"out={options.out} is a file: a list needs a folder.")
    if options.format not in SOUND_FORMATS:
        raise ConfigError(f"format={options.format}: sound is written as {', '.join(SOUND_FORMATS)}; give one of these.")
    if not Path(str(options.items)).is_file():
        raise ConfigError(f"list={options.items}: there is no such file; check the path.")
    if options.best_of > 1 and not options.rank_by:
        raise ConfigError("best_of= keeps the best clip by a score: give rank_by=judge, towers, clap, imsm or imsm_scenes.")
    if options.batch:
        raise ConfigError("batch= makes one clip again: leave list= out.")
    check_checkpoint(options.ckpt)
    check_out(folder, options.out)
    read_share(options.share) if options.share else None
    return folder


def plan(
    options: Any, pipe: Pipeline, items: list[ListItem], folder: Path, asked: dict[str, Any], longest_s: float
) -> tuple[list[ListClip], list[str]]:
    """The clips of some items, and a sentence for each item that cannot be made, which the manifest has, too."""
    from melfusion.assembly.batches import ListClip, ListManifest, planned

    named = {"prompt": options.prompt, "image": options.image, "duration_s": options.duration_s, "n": options.n}
    defaults: dict[str, Any] = {"seed": options.seed} | {k: v for k, v in named.items() if v is not None} | asked
    clips, errors, files = [], [], set()
    where = Path(str(options.items)).parent
    for one in planned(pipe, items, where, defaults, options.format, options.best_of, options.rank_by):
        item, why = (one.item, "") if isinstance(one, ListClip) else (one[0].number, one[1])
        long = [n for n in ("duration_s", "extend_s") if isinstance(one, ListClip) and one.options.get(n, 0) > longest_s]
        if long:
            why = f"{long[0]} must be at most {longest_s:g}"
        elif isinstance(one, ListClip) and one.file in files:
            why = f"another item of this list writes {one.file}, too"
        if why:
            line: dict[str, Any] = {"item": item, "clip": 0, "file": None, "seed": None, "request": "", "scores": {}, "error": why}
            ListManifest(folder).add(line)
            errors.append(f"item {item}: {why.rstrip('.')}")
        elif isinstance(one, ListClip):
            files.add(one.file)
            clips.append(one)
    return clips, errors


def there(line: dict[str, Any] | None, clip: ListClip, folder: Path) -> bool:
    """Is the clip made already, from the same request?"""
    return line is not None and line.get("request") == clip.request and not line.get("error") and (folder / clip.file).is_file()


def make_all(options: Any, pipe: Pipeline, clips: list[ListClip], missing: list[ListClip], folder: Path, most: int) -> list[str]:
    """Make what is missing; returns a sentence for each clip that could not be made."""
    from melfusion.assembly.batches import ListManifest, make
    from melfusion.evaluation.pace import Pace

    if not missing:
        return []
    ranking, errors = ranked(options, pipe, clips), []
    for clip in list(missing):
        if ranking and (why := ranking.lacking(clip)):
            ListManifest(folder).add(clip.line(file=None, error=why))
            errors.append(f"item {clip.item}: {why}")
            missing.remove(clip)
    seconds = pipe.system.codec.duration_s(pipe.system.latent_shape(options.duration_s))
    pace = Pace(len(missing), round(2 * seconds * pipe.system.codec.sample_rate_hz * pipe.system.codec.channels), folder)
    at_once = min(most, pipe.config.evaluation.batch_size)
    done = 0
    for batch in make(pipe, missing, folder, at_once, ranking, options.metadata):
        errors += [f"item {clip.item}: {error.rstrip('.')}" for clip, error in batch if error]
        done += len(batch)
        pace.tell(done) if done else None
    return errors


def ranked(options: Any, pipe: Pipeline, clips: list[ListClip]) -> Ranking | None:
    """What scores the candidates; None where nothing was asked for."""
    if not options.rank_by:
        return None
    from melfusion.evaluation.ranking import Ranking
    from melfusion.evaluation.scores import load_listeners

    return Ranking(options.rank_by, pipe, load_listeners(pipe.config, embedders=options.rank_by != "judge"), clips)
