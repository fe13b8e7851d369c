"""Latents of any length by overlapping windows, whose outputs are blended at each step (MultiDiffusion, Bar-Tal et al. 2023, arXiv
2302.08113; with regions of a condition each, as in its section 4.2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Window:
    """A stretch of the latents that the network sees at once.

    Attributes:
        start: its first frame.
        scene: which condition it is made under.
        weights: (length,) the share of each frame's output that is this window's; over all windows they add up to 1.
    """

    start: int
    scene: int
    weights: Tensor

    @property
    def frames(self) -> slice:
        return slice(self.start, self.start + len(self.weights))


def lay_windows(
    frames: int, length: int, overlap: int, scenes: Sequence[int] = (0,), fade: int = 1, multiple: int = 1
) -> list[Window]:
    """Windows of `length` frames over `frames`, which overlap by at least `overlap`.

    Each scene has windows of its own, as far within it as they fit, and counts in its own span alone; so a change comes at its
    time whatever the length of a window. A scene that one window would hold but for the fades at its ends gets one that is so much
    longer: two, each with a beat of its own, would not agree on the tempo.

    Args:
        scenes: first frame of each, in order; the first is 0.
        fade: frames around a change in which one scene's output becomes the next one's.
        multiple: the length of each window is a multiple of it, as are `frames` and `length`.
    """
    length = min(length, frames)
    shares, found = _shares(frames, scenes, fade), []
    for scene, share in enumerate(shares):
        if not len(inside := share.nonzero()[:, 0]):
            continue  # shorter than a frame
        first, last = int(inside[0]), int(inside[-1]) + 1
        whole = -(-(last - first) // multiple) * multiple
        size = whole if len(scenes) > 1 and length < whole <= length + -(-fade // multiple) * multiple else length
        starts = _starts(first, last, size, min(overlap, size - 1), frames)
        raw = torch.zeros(len(starts), frames)
        for row, start in zip(raw, starts, strict=True):
            row[start : start + size] = _ramps(size, overlap)
        weights = raw / raw.sum(0).clamp(min=1e-12) * share
        found += [Window(start, scene, row[start : start + size]) for start, row in zip(starts, weights, strict=True)]
    return found


def _starts(first: int, last: int, length: int, overlap: int, frames: int) -> list[int]:
    """Starts of windows that cover [first, last), within [0, frames)."""
    if last - first <= length:
        return [min(max(round((first + last - length) / 2), 0), frames - length)]
    count = math.ceil((last - first - overlap) / (length - overlap))
    return [first + round(i * (last - first - length) / (count - 1)) for i in range(count)]


def _ramps(length: int, overlap: int) -> Tensor:
    """(length,) 1 in the middle, falling to either side over `overlap` frames as a squared sine."""
    near = (torch.minimum(torch.arange(length), torch.arange(length).flip(0)) + 0.5) / max(overlap, 1)
    return (near.clamp(max=1) * math.pi / 2).sin().square()


def _shares(frames: int, scenes: Sequence[int], fade: int) -> list[Tensor]:
    """(frames,) of each scene: by how much it counts; together 1."""
    middles = torch.arange(frames) + 0.5
    begun = [((middles - start) / max(fade, 1) + 0.5).clamp(0, 1) for start in scenes[1:]]
    pairs = zip([torch.ones(frames), *begun], [*begun, torch.zeros(frames)], strict=True)
    return [here - after for here, after in pairs]


def blended(groups: Sequence[tuple[Sequence[Window], Denoise]]) -> Denoise:
    """One denoise callable over all windows; each group of them goes through the network at once, by a callable of its own.

    Rows of a group: the clips under its first window, then those under its second, and so on. Frames of no window get 0.
    """

    def denoise(latents: Tensor, timestep: Tensor) -> Tensor:
        total = torch.zeros_like(latents)
        for windows, run in groups:
            outputs = run(torch.cat([latents[:, :, window.frames] for window in windows]), timestep).chunk(len(windows))
            for window, output in zip(windows, outputs, strict=True):
                weights = window.weights.to(output).reshape(-1, *[1] * (output.ndim - 3))
                total[:, :, window.frames] += weights * output
        return total

    return denoise
