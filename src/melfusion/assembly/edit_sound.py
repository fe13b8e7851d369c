"""A sound that is edited: into the model's latents, and what the model made of it back into the sound."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
from torch import Tensor

from melfusion.assembly.edit_request import Editing, samples_of
from melfusion.assembly.schema import Config
from melfusion.errors import BadSample, ConfigError
from melfusion.media.fading import crossfade
from melfusion.media.key import estimate_key
from melfusion.media.sound import normalise_level, read_audio
from melfusion.models.diffusion.editing import Edit
from melfusion.models.placement import Placement
from melfusion.models.system import MeLFusion

FADE_S = 0.05  # cross-fade between the sound that was there and the one that was made
FARTHEST = 4.0  # by which a level is corrected


def read_sound(audio: Any, config: Config, system: MeLFusion, option: str = "audio") -> Tensor:
    """A sound as `Editing` takes it → float32 (S,) or (2, S) at the codec's rate and channels; one that has both keeps its bits."""
    codec, d = system.codec, config.data
    wanted = dataclasses.replace(config.audio, sample_rate_hz=codec.sample_rate_hz, channels=codec.channels)
    if isinstance(audio, str | Path):
        try:
            limits = (d.max_audio_s, d.max_audio_rate_hz, d.max_audio_channels, d.max_audio_samples)
            return torch.from_numpy(read_audio(Path(audio).read_bytes(), wanted, *limits))
        except BadSample as error:
            raise ConfigError(f"{option}={audio}: {error}; give another file.") from error
    waveform, rate = samples_of(audio, option)
    sound = np.atleast_2d(np.asarray(waveform, dtype=np.float32))
    if not np.isfinite(sound).all():
        raise ConfigError(f"{option} holds NaN or infinity: give finite samples.")
    mixed = sound if len(sound) == codec.channels else sound.mean(0, keepdims=True).repeat(codec.channels, 0)
    if rate != codec.sample_rate_hz:
        mixed = soxr.resample(mixed.T, rate, codec.sample_rate_hz).T
    return torch.from_numpy(np.ascontiguousarray(mixed if codec.channels > 1 else mixed[0]))


@dataclass(frozen=True)
class Region:
    """Which samples of a sound the model sees, in whole frames of latents, and which of them it makes.

    Attributes:
        start: first sample that it sees.  frames: so many.  frame: samples of one.
        first, last: samples that are made; `last` may be after the end of the sound.
    """

    start: int
    frames: int
    frame: int
    first: int
    last: int

    def kept(self, samples: int) -> Tensor:
        """(T,) by how much each frame is known; a frame that a change falls into is known in part. What is after the end of the
        sound is not."""
        begins = self.start + self.frame * torch.arange(self.frames)
        middles = begins + self.frame / 2
        first = -math.inf if self.first <= 0 else self.first
        last = math.inf if self.last >= samples else self.last
        inside = torch.minimum(middles - first, last - middles) / self.frame
        return (0.5 - inside).clamp(0, 1) * (begins + self.frame <= samples)


def ceil_of(amount: int, of: int) -> int:
    """How many hold the amount."""
    return -(-amount // of)


def region_of(asked: Editing, samples: int, rate: int, frame: int, window: int, multiple: int) -> Region:
    """The region of a sound; all lengths but `samples` and `frame` are in frames of latents.

    Args:
        window: what the model sees at once. A span that is made has half of it beside it, or more where there is room.
        multiple: the frames must be a multiple of it.
    """

    def whole(frames: int) -> int:
        return ceil_of(frames, multiple) * multiple

    if asked.extend_s is not None:
        made = round(asked.extend_s * rate)
        before = min(samples // frame, max(window // 2, window - ceil_of(made, frame)))
        if not before:
            raise ConfigError(f"audio is too short to go on from: it needs at least {frame / rate:.2g} s.")
        return Region(samples - before * frame, whole(before + ceil_of(made, frame)), frame, samples, samples + made)
    every = whole(ceil_of(samples, frame))
    if (span := asked.span) is None:
        return Region(0, every, frame, 0, samples)
    first, last = round(span[0] * rate), min(round(span[1] * rate), samples)
    frames = min(every, whole(max(window, ceil_of(last - first, frame) + window // 2)))
    start = (first + last - frames * frame) // 2
    return Region(min(max(start, 0), max(samples - frames * frame, 0)), frames, frame, first, last)


@dataclass(frozen=True)
class EditedSound:
    """A sound, the region of it that the model works on, and what the model knows of it.

    Attributes:
        sound: (S,) or (2, S).  gain: brings the region to the level that the model was trained at.
        keeps: is all but the span left as it is?
    """

    sound: Tensor
    region: Region
    edit: Edit
    gain: float
    duration_s: float
    rate: int
    keeps: bool

    @property
    def keeps_level(self) -> bool:
        """Is something of the sound in what is made, so that both have one level?"""
        return self.keeps or self.edit.strength < 1

    def finish(self, made: Tensor) -> Tensor:
        """(n, …, S) of the region, as the model made it → (n, …, S) of the whole sound at its own level."""
        return torch.stack([self._spliced(clip) if self.keeps else self._whole(clip) for clip in made])

    def _whole(self, clip: Tensor) -> Tensor:
        if not self.keeps_level:
            return clip[..., : self.sound.shape[-1]]
        scaled = clip[..., : self.sound.shape[-1]] / self.gain
        return scaled / scaled.abs().max().clamp(min=1.0)

    def _spliced(self, clip: Tensor) -> Tensor:
        """The sound to the bit but for the span, which is cross-faded within its ends; what goes on is so before its beginning."""
        r, samples = self.region, self.sound.shape[-1]
        fade = min(round(FADE_S * self.rate), (r.last - r.first) // 2)
        early = min(fade, samples) if r.first >= samples else 0
        first = r.first - early
        new = clip[..., first - r.start : r.last - r.start] * self._level(clip)
        new = new / new.abs().max().clamp(min=1.0)
        whole = torch.cat([self.sound, self.sound.new_zeros(*self.sound.shape[:-1], max(0, r.last - samples))], -1)
        old = whole[..., first : r.last].clone()
        whole[..., first : r.last] = new
        if fade and r.first > 0:
            whole[..., first : first + fade] = crossfade(old[None, ..., :fade], new[None, ..., :fade])[0]
        if fade and r.last < samples:
            whole[..., r.last - fade : r.last] = crossfade(new[None, ..., -fade:], old[None, ..., -fade:])[0]
        return whole

    def _level(self, clip: Tensor) -> float:
        """What brings the clip to the sound's level: measured where the clip only repeats the sound."""
        r = self.region
        known = (self.edit.kept.cpu() == 1).repeat_interleave(r.frame)
        there = self.sound[..., r.start : r.start + len(known)]
        known = known[: there.shape[-1]]
        here, there = clip[..., : len(known)][..., known], there[..., known]
        if not known.any() or not (loud := float(here.square().mean().sqrt())):
            return 1 / self.gain
        ratio = float(there.square().mean().sqrt()) / loud * self.gain
        return min(max(ratio, 1 / FARTHEST), FARTHEST) / self.gain


def edited_sound(asked: Editing, config: Config, system: MeLFusion, placement: Placement | None) -> EditedSound:
    """Read the sound that a call edits, and encode the region that the model works on."""
    codec, sound = system.codec, read_sound(asked.audio, config, system)
    shape = system.latent_shape(asked.window_s)
    frame = round(codec.duration_s((shape[0], 1, *shape[2:])) * codec.sample_rate_hz)
    region = region_of(asked, sound.shape[-1], codec.sample_rate_hz, frame, shape[1], system.denoiser.frames_multiple)
    seen = sound[..., region.start : region.start + region.frames * frame]
    gain = gain_of(seen, sound, config)
    missing = (0 if asked.extend_s is not None else region.frames * frame) - seen.shape[-1]
    padded = torch.nn.functional.pad(seen * gain, (0, max(0, missing)))
    with torch.no_grad(), (placement or Placement()).needed(codec):
        latents = codec.encode(padded[None].to(codec.device))
    missing = region.frames - latents.shape[2]
    latents = torch.nn.functional.pad(latents, [0, 0] * (latents.ndim - 3) + [0, max(0, missing)])
    keeps = asked.extend_s is not None or asked.repaint is not None
    kept = region.kept(sound.shape[-1]) if keeps else torch.zeros(region.frames)
    edit = Edit(latents, kept, 1.0 if asked.strength is None else asked.strength)
    seconds = codec.duration_s(tuple(latents.shape[1:]))
    return EditedSound(sound, region, edit, gain, seconds, codec.sample_rate_hz, keeps)


def in_its_key(edited: EditedSound, prompts: list[str], options: dict[str, Any], takes: tuple[str, ...]) -> tuple[list[str], Any]:
    """Prompts and options that name the key of the sound, where the call says nothing of it: without it the model would choose one.

    Args:
        takes: the fields that the model takes of a request; the prompt names the key where `key` is none of them.
    """
    key = estimate_key(edited.sound.numpy(), edited.rate)
    if key is None:
        return prompts, options
    if "key" in takes:
        short = key.replace(" sharp", "#").replace(" flat", "b")
        return prompts, options | ({} if options.get("key") else {"key": short})
    return [prompt or in_words(key) for prompt in prompts], options


def in_words(key: str) -> str:
    """A prompt that says nothing but the key."""
    return f"music in the key of {key}"


def gain_of(seen: Tensor, sound: Tensor, config: Config, option: str = "audio") -> float:
    """What brings what the model sees to the level of its training; of the whole sound where that part is silent."""
    for part in (seen.numpy(), sound.numpy()):
        try:
            return float(np.ptp(normalise_level(part, config.audio)) / np.ptp(part))
        except BadSample as error:
            reason = error
    raise ConfigError(f"{option} is {reason}: give one that is not silent.")
