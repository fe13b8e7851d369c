"""Does editing do what it says? Measured on newly drawn scenes: a sound restyled by a picture, picture stories, and seams."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from melfusion.assembly.edit_sound import in_words
from melfusion.assembly.pipeline import Pipeline
from melfusion.data.scenes import corpus
from melfusion.data.scenes.scene import Scene
from melfusion.evaluation.scores import load_listeners
from melfusion.evaluation.scoring import Listeners
from melfusion.media.key import TONICS, estimate_key, pitch_classes
from melfusion.media.pictures import to_pixels
from melfusion.media.sound import levelled
from melfusion.metrics.intervals import wilson
from melfusion.models.diffusion.editing import Edit
from melfusion.models.generation import Piece, PieceScene
from melfusion.models.system import MeLFusion

AT_ONCE = 12  # clips
SHOWN = ("place", "time", "weather")  # by the picture
CAPTIONED = ("tonic", "mode")  # by the caption
IMAGE_PX = 128
OFFSETS = 17  # places of a clip around the time of a change, from half a clip before to half a clip after


@dataclass(frozen=True)
class Setting:
    """seed: of the drawn scenes.  n: clips, stories or pieces.  strengths: that are tried.  sampling: laid over the model's own.

    conditions: what the model is given of the music (WORDS).
    """

    seed: int = 90003
    n: int = 48
    strengths: tuple[float, ...] = (0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    sampling: dict[str, Any] = dataclasses.field(default_factory=dict)
    conditions: tuple[str, ...] = ("key given", "picture alone", "no key")


class Lab:
    """A model of drawn scenes and the listeners that judge what it makes."""

    def __init__(self, pipe: Pipeline, setting: Setting, judge: str = "shipped:judge_test"):
        self.pipe, self.setting, self.system = pipe, setting, pipe.system
        config = dataclasses.replace(pipe.config, judge=dataclasses.replace(pipe.config.judge, weights=judge))
        self.listeners: Listeners = load_listeners(config, embedders=False)
        self.rate, self.seconds = pipe.system.codec.sample_rate_hz, pipe.system.clip_duration_s
        self.sampling = pipe.sampling(**setting.sampling)

    def scene(self, index: int) -> Scene:
        return corpus.describe(self.setting.seed, index)

    def picture(self, scene: Scene) -> Tensor:
        """(3, H, W) in [-1, 1]"""
        return torch.from_numpy(to_pixels(corpus.draw(scene, IMAGE_PX), self.pipe.config.data.image_size_px))

    def sound(self, scene: Scene) -> Tensor:
        """(S,) its real music, at the level of the data."""
        return levelled(torch.from_numpy(corpus.render(scene, self.seconds, self.rate))[None], self.pipe.config.audio)[0]

    def make(self, captions: list[str], image: Tensor | None, seeds: list[int], **more: Any) -> Tensor:
        """(n, S)"""
        system: MeLFusion = self.system
        return system.vocode(system.generate(captions, image, seeds, **self.sampling, **more)).float().cpu()

    def predict(self, clips: Tensor) -> list[dict[str, str]]:
        """What the judges predict of each of (n, S), all at once."""
        found = self.listeners.predict([([str(i) for i in range(len(clips))], clips)])
        return [{name: classes[i] for name, classes in found.classes.items()} for i in range(len(clips))]


WORDS: dict[str, Callable[[Lab, Scene, Tensor], str]] = {
    "key given": lambda lab, scene, sound: corpus.caption(scene),
    "picture alone": lambda lab, scene, sound: in_words(estimate_key(sound.numpy(), lab.rate) or "C major"),
    "no key": lambda lab, scene, sound: "",
}


def batches(n: int) -> Iterator[range]:
    yield from (range(start, min(start + AT_ONCE, n)) for start in range(0, n, AT_ONCE))


def share(hits: list[bool]) -> dict[str, Any]:
    """The share of hits with its 95 % interval."""
    return {"share": sum(hits) / len(hits), "interval": list(wilson(sum(hits), len(hits))), "n": len(hits)}


def restyle(lab: Lab) -> dict[str, Any]:
    """Real music of one scene, restyled by the picture of another of another place: is the key still that of the music, and what
    else is now that of the picture? With a sentence on its key, by the picture alone (its key is measured), and without a key.
    'recognised': of 12 pieces, all moved to one tonic, the music itself has the chords in time that are most like those of the
    clip; strength 1 is music from noise, of which only the key is known."""
    rows: dict[str, dict[str, list[bool]]] = {}
    for some in batches(lab.setting.n):
        old, new = [lab.scene(2 * i) for i in some], [lab.scene(2 * i + 1) for i in some]
        sounds, pictures = torch.stack([lab.sound(s) for s in old]), torch.stack([lab.picture(s) for s in new])
        with torch.no_grad():
            latents = lab.system.codec.encode(sounds)
        made = {"the music itself": sounds, "the codec alone": lab.system.vocode(lab.system.codec.decode(latents)).cpu()}
        kept = torch.zeros(latents.shape[2])
        for words in lab.setting.conditions:
            captions = [WORDS[words](lab, scene, sound) for scene, sound in zip(old, sounds, strict=True)]
            for strength in lab.setting.strengths:
                piece = Piece(edit=Edit(latents, kept, strength))
                made[f"strength {strength:g}, {words}"] = lab.make(captions, pictures, list(some), piece=piece)
        tonics = [TONICS.index(scene.tonic) for scene in old]
        originals = chords(sounds, tonics, lab.rate)
        for name, clips in made.items():
            row = rows.setdefault(name, {})
            row.setdefault("recognised", []).extend(recognised(originals, chords(clips, tonics, lab.rate)))
            for before, after, predicted in zip(old, new, lab.predict(clips), strict=True):
                hits = {f"{a} of the music": predicted[a] == getattr(before, a) for a in (*CAPTIONED, "place")}
                hits |= {f"{a} of the picture": predicted[a] == getattr(after, a) for a in SHOWN}
                hits["tonic kept and place changed"] = hits["tonic of the music"] and hits["place of the picture"]
                for what, hit in hits.items():
                    row.setdefault(what, []).append(hit)
    return {"rows": {name: {what: share(hits) for what, hits in row.items()} for name, row in rows.items()}}


def chords(clips: Tensor, tonics: list[int], rate: int) -> np.ndarray:
    """(n, S) → (n, D) of mean 0 and norm 1: the pitch classes of each window, counted from the tonic of the piece."""
    found = [np.roll(pitch_classes(clip, rate), -tonic, 1).ravel() for clip, tonic in zip(clips.numpy(), tonics, strict=True)]
    centred = np.stack(found) - np.mean(found, 1, keepdims=True)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9)


def recognised(originals: np.ndarray, clips: np.ndarray) -> list[bool]:
    """Of each clip (n, D): has its own original the largest correlation with it?"""
    return [bool(best == own) for own, best in enumerate((clips @ originals.T).argmax(1))]


def stories(lab: Lab) -> dict[str, Any]:
    """Pieces of three scenes, a clip's length each: what is predicted of each span, beside single clips of the same pictures; and
    where the place changes, as a clip's length is moved over the time of a change."""
    spans: dict[str, dict[str, list[bool]]] = {"spans of stories": {}, "single clips": {}}
    off: list[float] = []
    length, count = round(lab.seconds * lab.rate), 3
    for i in range(lab.setting.n):
        scenes = [lab.scene(count * i + k) for k in range(count)]
        caption, pictures = corpus.caption(scenes[0]), torch.stack([lab.picture(s) for s in scenes])
        shown = [PieceScene(k * lab.seconds, [caption], picture[None]) for k, picture in enumerate(pictures)]
        piece = lab.make([caption], None, [i], duration_s=count * lab.seconds, piece=Piece(scenes=shown))[0]
        alone = lab.make([caption] * count, pictures, [count * i + k for k in range(count)])
        for name, clips in {"spans of stories": piece[: count * length].reshape(count, length), "single clips": alone}.items():
            for scene, predicted in zip(scenes, lab.predict(clips), strict=True):
                wanted = dataclasses.replace(scene, tonic=scenes[0].tonic, mode=scenes[0].mode)
                for a in (*SHOWN, *CAPTIONED):
                    spans[name].setdefault(a, []).append(predicted[a] == getattr(wanted, a))
        off += [change(lab, piece, k * length, length, scenes[k - 1].place, scenes[k].place) for k in range(1, count)]
    known = np.array([value for value in off if np.isfinite(value)])
    return {
        "rows": {name: {a: share(hits) for a, hits in row.items()} for name, row in spans.items()},
        "changes": {
            "n": len(off),
            "predicted": len(known),
            "within half a window": share([abs(value) <= lab.seconds / 2 for value in off]),
            "median_s": float(np.median(known)),
            "90 % within_s": float(np.quantile(np.abs(known), 0.9)),
        },
    }


def change(lab: Lab, piece: Tensor, at: int, length: int, before: str, after: str) -> float:
    """Seconds between the time of a change and the middle of the clip from which on the old place is not predicted.

    NaN where the clip before the change is not predicted as the one, or the clip after it not as the other.
    """
    starts = np.linspace(at - length, at, OFFSETS).round().astype(int)
    predicted = [p["place"] for p in lab.predict(torch.stack([piece[s : s + length] for s in starts]))]
    if predicted[0] != before or predicted[-1] != after or before == after:
        return float("nan")
    old = sum(place == before for place in predicted)
    return float((starts[min(old, OFFSETS - 1)] + length / 2 - at) / lab.rate)


def seams(lab: Lab) -> dict[str, Any]:
    """Where a window begins or ends: the largest change of the log-mel between two frames there, over the largest elsewhere in the
    same piece, by overlap. Beside it the same of the middle of single clips, where there is no seam, and of clips that are put side
    by side; and the share of seams that are louder than all elsewhere."""
    per_window, seconds = lab.system.latent_shape()[1], 4 * lab.seconds
    frames = lab.system.latent_shape(seconds)[1]
    found: dict[str, list[list[float]]] = {}
    for i in range(lab.setting.n):
        scene = lab.scene(i)
        caption, picture = corpus.caption(scene), lab.picture(scene)[None]
        for name, overlap in {"overlap half a window": None, "overlap a quarter": lab.seconds / 4}.items():
            piece = Piece(overlap_s=overlap)
            mel = lab.system.generate([caption], picture, [i], **lab.sampling, duration_s=seconds, piece=piece)[0, 0]
            windows = lab.system.windows(lab.system.latent_shape(seconds), piece, [PieceScene(0.0, [caption])])
            edges = {e for w in windows for e in (w.start, w.start + len(w.weights))} - {0, frames}
            found.setdefault(name, []).append(at_edges(mel, edges, frames))
        clips = lab.system.generate([caption] * 4, picture, [i + 1000 * k for k in range(4)], **lab.sampling)[:, 0]
        found.setdefault("middle of single clips", []).extend(at_edges(clip, {per_window // 2}, per_window) for clip in clips)
        found.setdefault("clips side by side", []).append(
            at_edges(clips.flatten(0, 1), {k * per_window for k in (1, 2, 3)}, frames)
        )
    rows = {}
    for name, pieces in found.items():
        means, ratios = [float(np.mean(piece)) for piece in pieces], [ratio for piece in pieces for ratio in piece]
        rows[name] = {"mean": float(np.mean(means)), "interval": interval(means), "louder": share([r > 1 for r in ratios])}
    return {"rows": rows}


def at_edges(mel: Tensor, edges: set[int], frames: int) -> list[float]:
    """log_mel (T, F) → of each edge, in latent frames, the largest change within half of one to each side over that elsewhere."""
    changes = mel.float().diff(dim=0).abs().mean(1).cpu().numpy()
    per = mel.shape[0] // frames
    near = {edge: slice(edge * per - per // 2, edge * per + per // 2) for edge in sorted(edges)}
    elsewhere = np.ones(len(changes), bool)
    for place in near.values():
        elsewhere[place] = False
    return [float(changes[place].max() / changes[elsewhere].max()) for place in near.values()]


def interval(values: list[float]) -> list[float]:
    """Low and high end of the mean's 95 % interval."""
    mean = float(np.mean(values))
    half = 1.96 * float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else float("inf")
    return [mean - half, mean + half]


MEASURES: dict[str, Callable[[Lab], dict[str, Any]]] = {"restyle": restyle, "stories": stories, "seams": seams}


def words(what: str, result: dict[str, Any]) -> str:
    """The result as a Markdown table, and what it was measured with."""
    rows = result["rows"]
    if what == "seams":
        lines = ["| | largest change there over elsewhere | louder than all elsewhere | places |", "|---|---|---|---|"]
        for name, row in rows.items():
            low, high = row["interval"]
            louder = row["louder"]
            lines.append(f"| {name} | {row['mean']:.3f} ({low:.3f}-{high:.3f}) | {louder['share']:.3f} | {louder['n']} |")
    else:
        names = list(next(iter(rows.values())))
        lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
        for name, row in rows.items():
            cells = [f"{row[n]['share']:.3f} ({row[n]['interval'][0]:.3f}-{row[n]['interval'][1]:.3f})" for n in names]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    about = [f"- {name}: {value}" for name, value in result.items() if name != "rows"]
    return "\n".join([f"# {what}", "", (MEASURES[what].__doc__ or "").replace("\n    ", " "), "", *lines, "", *about, ""])
