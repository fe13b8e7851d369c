"""Many clips from a list: made in batches, found again after an interruption, and written down in one manifest.

manifest.jsonl holds one line a clip:

    item, clip   the number of its row in the list, and which of the row's n clips it is
    file, seed   relative to the manifest; the seed that was kept, of best_of
    request      a hash of all that the clip depends on: a clip with another one is made again
    scores       by seed, where they were asked for
    error        null, or the sentence why it could not be made; then there is no file

Several processes may share a list; each appends its lines under a lock, and the last line of a clip counts.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from melfusion.assembly.edit_request import EDITING, Editing
from melfusion.assembly.memory import telling_memory
from melfusion.assembly.music import Music
from melfusion.assembly.pipeline import SAMPLING, Pipeline
from melfusion.assembly.provenance import fingerprint, hash_of
from melfusion.assembly.requests import ListItem, checked
from melfusion.assembly.sound_fields import files_of
from melfusion.errors import ConfigError, MelfusionError
from melfusion.files import locked, write_whole

MANIFEST = "manifest.jsonl"

Rank = Callable[["ListClip", Music, int], float]  # (clip, music, row) → score


@dataclass
class ListClip:
    """One file to be made.

    Attributes:
        seeds: of the candidates, of which the best is kept.
        options: what the pipeline is called with beside prompt, picture and seed.
    """

    item: int
    clip: int
    prompt: str
    image: str | None
    seeds: list[int]
    options: dict[str, Any]
    labels: dict[str, str]
    file: str
    request: str = ""
    candidates: list[tuple[Music, int]] = field(default_factory=list)

    def line(self, **more: Any) -> dict[str, Any]:
        """Its line of the manifest."""
        own = {"item": self.item, "clip": self.clip, "file": self.file, "seed": None, "request": self.request}
        return own | {"scores": {}, "error": None} | more

    @property
    def group(self) -> str:
        """Clips of one group may be made at once."""
        return json.dumps([self.image is not None, self.options], sort_keys=True)


class ListManifest:
    """The manifest of a folder."""

    def __init__(self, folder: Path):
        self.file, self.lock = folder / MANIFEST, folder / f".{MANIFEST}.lock"

    def read(self) -> dict[tuple[int, int], dict[str, Any]]:
        """(item, clip) → its last line; a line that was cut short counts as none."""
        found = {}
        for text in self.file.read_text(errors="replace").splitlines() if self.file.is_file() else []:
            try:
                line = json.loads(text)
                found[line["item"], line["clip"]] = line
            except (ValueError, KeyError, TypeError):
                continue
        return found

    def add(self, line: dict[str, Any]) -> None:
        """Write down one clip. A line that was cut short, by a full disk, is ended first."""
        with locked(self.lock), self.file.open("ab+") as file:
            file.seek(max(0, file.tell() - 1))
            cut = file.read() not in (b"", b"\n")
            file.write(("\n" if cut else "").encode() + json.dumps(line).encode() + b"\n")

    def tidy(self, belongs: Callable[[dict[str, Any]], bool]) -> None:
        """One line a clip, in the order of the list; those that do not belong to it any more are left out."""
        with locked(self.lock):
            lines = [line for _, line in sorted(self.read().items()) if belongs(line)]
            write_whole(self.file, "".join(json.dumps(line) + "\n" for line in lines))


def planned(
    pipe: Pipeline, items: Iterable[ListItem], folder: Path, defaults: dict[str, Any], end: str, best_of: int, rank_by: str | None
) -> Iterator[ListClip | tuple[ListItem, str]]:
    """The clips of some items; or an item with the sentence why it cannot be made.

    Args:
        folder: what the paths of pictures are relative to.  defaults: fields that an item does not name.
        end: the format of files that no item names.
    """
    for item in items:
        try:
            yield from _clips(pipe, item, folder, defaults, end, best_of, rank_by)
        except (MelfusionError, OSError) as error:
            yield item, str(error)


def _clips(
    pipe: Pipeline, item: ListItem, folder: Path, defaults: dict[str, Any], end: str, best_of: int, rank_by: str | None
) -> list[ListClip]:
    takes = pipe.system.conditioner.takes
    fields = defaults | checked(item, folder, (*SAMPLING, *EDITING, *takes))
    prompt, image, seed, n = (fields.pop(name, usual) for name, usual in (("prompt", ""), ("image", None), ("seed", 0), ("n", 1)))
    labels, out = fields.pop("labels", {}), fields.pop("out", f"{item.number:05d}.{end}")
    made_of = [prompt, fingerprint(Path(image)) if image else None, *_asked(pipe, prompt, image, fields)]
    ranked = [rank_by, labels] if best_of > 1 else []
    clips = []
    for k in range(n):
        seeds = list(range(seed + k * best_of, seed + (k + 1) * best_of))
        name = out if n == 1 else f"{Path(out).stem}-{k}{Path(out).suffix}"
        request = hash_of([made_of, seeds, ranked, pipe.model["digest"]])
        clips.append(ListClip(item.number, k, prompt, image, seeds, fields, labels, name, request))
    return clips


def _asked(pipe: Pipeline, prompt: str, image: str | None, fields: dict[str, Any]) -> list[Any]:
    """What an item's clips depend on beside prompt, picture and seed; ConfigError for all that can be known to be wrong now."""
    edits = {name: value for name, value in fields.items() if name in EDITING}
    plain = {name: value for name, value in fields.items() if name not in (*EDITING, "duration_s")}
    if not prompt and not image and not {"audio", "story"} & edits.keys():
        raise ConfigError("it has neither prompt nor image")
    asked, seconds = Editing(**edits).checked(image, fields.get("duration_s"))
    sampling, own = pipe.sampling(**plain), pipe.fields(**plain)
    pipe.system.conditioner.requests([own], seconds)
    sounds = [fingerprint(file) for file in files_of(own, pipe.system.conditioner, pipe.config)]
    if image:
        pipe.pixels(image)  # a picture that cannot be read is said now
    shown = [scene.image for scene in asked.story.scenes] if asked.story else []
    files = [fingerprint(Path(one)) if one else None for one in (edits.get("audio"), edits.get("story"), *shown)]
    return [sampling, own, fields.get("duration_s"), edits, files, *sounds]


def make(
    pipe: Pipeline, clips: list[ListClip], folder: Path, at_once: int, rank: Rank | None = None, metadata: bool = True
) -> Iterator[list[tuple[ListClip, str | None]]]:
    """Make the clips; yields those of a batch, each with its error, when their lines are written down. OSError: a disk is full."""
    manifest, groups = ListManifest(folder), defaultdict(list)
    for clip in clips:
        groups[clip.group].append(clip)
    for group in groups.values():
        seeded = [(clip, seed) for clip in group for seed in clip.seeds]
        for start in range(0, len(seeded), at_once):
            tried = _tried(pipe, seeded[start : start + at_once])
            done = [(clip, error) for clip, error in tried if error or len(clip.candidates) == len(clip.seeds)]
            yield [(clip, _written(clip, error, folder, manifest, rank, metadata)) for clip, error in done]


def _tried(pipe: Pipeline, some: list[tuple[ListClip, int]]) -> list[tuple[ListClip, str | None]]:
    """Make one batch; gives each clip of it, once, with its error. A batch that is refused is tried clip by clip."""
    clips = list({(clip.item, clip.clip): clip for clip, _ in some}.values())
    first = clips[0]
    pictures = [clip.image for clip, _ in some]
    image = pictures[0] if len(set(pictures)) == 1 else pictures
    try:
        with telling_memory(pipe.config, "generation", lambda: pipe.system):
            prompts, seeds = [clip.prompt for clip, _ in some], [seed for _, seed in some]
            music = pipe(prompts, image, seeds, **first.options)
    except ConfigError as error:
        if len(clips) == 1:
            return [(first, str(error))]
        return [pair for clip in clips for pair in _tried(pipe, [(c, seed) for c, seed in some if c is clip])]
    for row, (clip, _) in enumerate(some):
        clip.candidates.append((music, row))
    return [(clip, None) for clip in clips]


def _written(
    clip: ListClip, error: str | None, folder: Path, manifest: ListManifest, rank: Rank | None, metadata: bool
) -> str | None:
    """Write the best candidate and its line of the manifest; returns its error."""
    line = clip.line(file=None, error=error)
    if error is None:
        try:
            line = _kept(clip, folder, rank, metadata)
        except ConfigError as refused:
            line |= {"error": str(refused)}
    manifest.add(line)
    clip.candidates.clear()
    return line["error"]


def _kept(clip: ListClip, folder: Path, rank: Rank | None, metadata: bool) -> dict[str, Any]:
    """Write the best candidate; returns its line of the manifest."""
    scores = [rank(clip, music, row) for music, row in clip.candidates] if rank else []
    best = max(range(len(scores)), key=scores.__getitem__) if scores else 0
    music, row = clip.candidates[best]
    music.write(row, folder / clip.file, metadata)
    return clip.line(seed=clip.seeds[best], scores={str(seed): score for seed, score in zip(clip.seeds, scores, strict=False)})
