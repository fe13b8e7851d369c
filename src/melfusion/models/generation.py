"""Captions and pictures → music: one clip as in training, or a piece of windows, of scenes, or of what is known already."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from melfusion.batch import Conditioning, side_by_side
from melfusion.errors import ConfigError
from melfusion.models.diffusion.editing import Edit
from melfusion.models.diffusion.guidance import guided
from melfusion.models.diffusion.windows import Denoise, Window, blended, lay_windows
from melfusion.models.placement import Placement
from melfusion.models.stages import Stages

ROWS_AT_ONCE = 16  # clips × windows in one pass under each condition; memory grows with them
FADE = 1 / 8  # of a window, around the time at which one scene follows another


@dataclass(frozen=True)
class PieceScene:
    """A part of a piece.

    Attributes:
        start_s: where it begins; the first at 0.
        captions: one per clip.
        image: (1 or B, 3, H, W) in [-1, 1]; None for none.
    """

    start_s: float
    captions: list[str]
    image: Tensor | None = None


@dataclass(frozen=True)
class Piece:
    """How a piece is made of windows, what they are conditioned on, and what is known of it.

    Attributes:
        window_s: what the network sees at once; None: as much as in training.
        overlap_s: of two windows; None: half of one.
        scenes: in order of time; empty: one scene of the captions and the image of the call.
        edit: what is known of its latents.
    """

    window_s: float | None = None
    overlap_s: float | None = None
    scenes: list[PieceScene] = field(default_factory=list)
    edit: Edit | None = None


class Generation(Stages):
    """The stages, run from noise to what the codec decodes."""

    @torch.no_grad()
    def generate(
        self,
        captions: list[str],
        image: Tensor | None = None,
        seeds: list[int] | None = None,
        num_inference_steps: int = 25,
        guidance_scale: float = 3.0,
        image_guidance_scale: float | None = None,
        negative_prompt: str = "",
        has_image: Tensor | None = None,
        progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
        duration_s: float | None = None,
        placement: Placement | None = None,
        fields: list[dict[str, Any]] | None = None,
        piece: Piece | None = None,
    ) -> Tensor:
        """Captions ("" for none) and pictures (B or 1, 3, H, W) in [-1, 1] (None for none) → what the codec decodes.

        One picture for all captions is read once. Each sample's noise comes from its own seed, so a clip does not depend on
        what else is in the batch. `vocode` makes a waveform of the result. `duration_s`: None for that of training.
        `placement`: where the parts are meanwhile; None leaves them where they are.
        `fields`: what each caption's request names of what the conditioner `takes`; ConfigError where it takes another.
        `piece`: None makes all in one window.
        """
        place = placement or Placement()
        seeds = seeds or list(range(len(captions)))
        shape = self.latent_shape(duration_s)
        scenes = (piece.scenes if piece else None) or [PieceScene(0.0, captions, image)]
        windows = self.windows(shape, piece, scenes)
        asked = [self.requests(fields or [{}] * len(captions), window, shape, duration_s) for window in windows]
        given = self.conditionings(scenes, windows, asked, seeds, has_image, negative_prompt, place)
        denoise = self.guided_over(windows, given, shape[1], guidance_scale, image_guidance_scale)
        noise = self.draw("noise", seeds, shape).to(given[0][0].has_image.device)
        looking = None if all(c.image_latents is None for c, _ in given) else self.image_encoder
        with place.needed(self.denoiser, looking):
            latents = self.sampled(denoise, noise, num_inference_steps, progress, seeds, piece.edit if piece else None)
        with place.needed(self.codec):
            return self.codec.cut(self.codec.decode(latents), duration_s or self.clip_duration_s)

    def sampled(
        self,
        denoise: Denoise,
        noise: Tensor,
        num_steps: int,
        progress: Callable[[Iterable[Any]], Iterable[Any]],
        seeds: list[int],
        edit: Edit | None,
    ) -> Tensor:
        """Noise (B, C, T, F) → latents; an edit of strength 0 gives the latents that are known."""
        edit = None if edit is None else edit.to(noise.device)
        if edit is not None and edit.strength == 0:
            return edit.latents.expand(len(noise), *edit.latents.shape[1:])
        return self.objective.sample(denoise, noise, num_steps, progress, seeds, edit)

    def vocode(self, decoded: Tensor, placement: Placement | None = None, keep_level: bool = False) -> Tensor:
        """What `generate` gives → waveform (B, S) or (B, 2, S); `keep_level`: of a sound that is edited (models/codec.py)."""
        with (placement or Placement()).needed(self.codec):
            return self.codec.vocode(decoded, keep_level)

    def windows(self, shape: tuple[int, ...], piece: Piece | None, scenes: list[PieceScene]) -> list[Window]:
        """The windows over latents of this shape; those in which nothing is to be made are left out."""
        frames = shape[1]
        if piece is None:
            return [Window(0, 0, torch.ones(frames))]
        per_s, length = frames / self.codec.duration_s(shape), self.latent_shape(piece.window_s)[1]
        overlap = length // 2 if piece.overlap_s is None else round(piece.overlap_s * per_s)
        if overlap >= length:
            most = self.codec.duration_s((shape[0], length, *shape[2:]))
            raise ConfigError(f"overlap_s={piece.overlap_s:g} must be less than a window, {most:g} s (window_s).")
        starts = [round(scene.start_s * per_s) for scene in scenes]
        found = lay_windows(frames, length, overlap, starts, round(length * FADE), self.denoiser.frames_multiple)
        if piece.edit is None:
            return found
        made = 1 - piece.edit.kept.cpu()
        return [window for window in found if (window.weights * made[window.frames]).any()] or found[:1]

    def requests(
        self, fields: list[dict[str, Any]], window: Window, shape: tuple[int, ...], duration_s: float | None
    ) -> tuple[dict[str, Any], ...]:
        """What the conditioner is given for a window: a model that knows of places in a piece is given its own, any other is asked
        for a piece of the window's length."""
        length = len(window.weights)
        if length == shape[1]:
            return tuple(self.conditioner.requests(fields, duration_s))
        if self.conditioner.start:
            begins = self.codec.duration_s((shape[0], window.start, *shape[2:]))
            return tuple(self.conditioner.requests(fields, duration_s, begins))
        return tuple(self.conditioner.requests(fields, self.codec.duration_s((shape[0], length, *shape[2:]))))

    def conditionings(
        self,
        scenes: list[PieceScene],
        windows: list[Window],
        asked: list[tuple[dict[str, Any], ...]],
        seeds: list[int],
        has_image: Tensor | None,
        negative_prompt: str,
        place: Placement,
    ) -> list[tuple[Conditioning, Conditioning]]:
        """Of each window what its clips are conditioned on, and the same without text; one object for all that are asked alike."""
        known: list[tuple[int, Any, Any, Any]] = []  # scene, requests, text, no text
        which = []
        with place.needed(self.conditioner):
            for window, requests in zip(windows, asked, strict=True):
                found = next((i for i, (scene, said, *_) in enumerate(known) if (scene, said) == (window.scene, requests)), None)
                if found is None:
                    prompt = self.encode_captions(scenes[window.scene].captions, has_image, list(requests))
                    known.append((window.scene, requests, prompt, self.null(prompt, negative_prompt, list(requests)).said()))
                which.append(len(known) - 1 if found is None else found)
        with place.needed(self.image_encoder):
            pictures = {scene: text for scene, _, text, _ in reversed(known)}
            seen = {scene: self.read_once(self.see(text, scenes[scene].image, seeds)) for scene, text in pictures.items()}
        pairs = [(seen[scene].saying(text.said()), seen[scene].saying(null)) for scene, _, text, null in known]
        return [pairs[i] for i in which]

    def guided_over(
        self,
        windows: list[Window],
        given: list[tuple[Conditioning, Conditioning]],
        frames: int,
        s_text: float,
        s_image: float | None,
    ) -> Denoise:
        """The denoise callable under guidance, over all windows; `s_image`: None for `s_text`."""
        s_image = s_text if s_image is None else s_image
        at_once, groups = max(1, ROWS_AT_ONCE // len(given[0][0])), []
        for length in dict.fromkeys(len(window.weights) for window in windows):
            alike = [pair for pair in zip(windows, given, strict=True) if len(pair[0].weights) == length]
            for first in range(0, len(alike), at_once):
                some, pairs = zip(*alike[first : first + at_once], strict=True)
                full, null = pairs[0] if len(pairs) == 1 else (side_by_side([pair[i] for pair in pairs]) for i in (0, 1))
                groups.append((some, guided(self.denoise, full, null, s_text, s_image, self.objective.guidance())))
        if len(windows) == 1 and len(windows[0].weights) == frames:
            return groups[0][1]
        return blended(groups)
