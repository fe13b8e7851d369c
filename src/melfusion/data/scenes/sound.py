"""Notes of the `scenes` corpus as sound: real instrument samples of one soundfont, played by a synthesizer."""

from __future__ import annotations

import hashlib
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from melfusion.data.scenes.music import Note
from melfusion.errors import DataError
from melfusion.install import no_deps_command

SOUNDFONT = ("pretty_midi", "TimGM6mb.sf2")

INSTALL = no_deps_command("pretty_midi", "tinysoundfont")

OVERSAMPLING = 2  # the synthesizer interpolates linearly, so at the final rate itself what it transposes would alias

PEAK = 10 ** (-3 / 20)

FADE_S = 0.02

DRUMS_TO_INSTRUMENT = 1.0  # ratio of the two stems' peaks


def soundfont_path() -> Path:
    """The installed soundfont; raises DataError with the command that installs it."""
    package, name = SOUNDFONT
    spec = importlib.util.find_spec(package)  # found, never imported: its own imports are not installed
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / name
        if path.is_file():
            return path
    raise DataError(f"The soundfont {name} is not in the package {package}; install it with `{INSTALL}`.")


@cache
def soundfont_sha256() -> str:
    """The soundfont's digest, read once a process."""
    return hashlib.sha256(soundfont_path().read_bytes()).hexdigest()


@cache
def load_soundfont() -> tuple[Any, Any]:
    """The synthesizer's class and the soundfont, loaded once a process; errors name the command that installs them."""
    try:
        import tinysoundfont
    except ModuleNotFoundError as error:
        raise DataError(f"The package tinysoundfont is missing; install it with `{INSTALL}`.") from error
    synth = tinysoundfont.Synth()
    return tinysoundfont.Synth, synth.soundfonts[synth.sfload(str(soundfont_path()))]


def _stem(notes: list[Note], program: int, drums: bool, rate_hz: int, length: int) -> np.ndarray:
    """The notes rendered to float32 (length,) at `rate_hz`, the mean of both channels."""
    synth_class, soundfont = load_soundfont()
    synth = synth_class(samplerate=rate_hz)
    # A clone shares the samples but no sounding notes, so no piece leaks into the next.
    synth.program_select(0, synth.sfload(soundfont), 0, program, drums)
    events = [(round(n.start_s * rate_hz), 1, n.pitch, round(127 * n.velocity)) for n in notes]
    events += [(round((n.start_s + n.length_s) * rate_hz), 0, n.pitch, 0) for n in notes]
    stereo = np.zeros((length, 2), np.float32)
    done = 0
    for at, on, pitch, velocity in sorted(events):  # at one instant, notes end before notes begin
        if at >= length:
            break
        if at > done:
            synth.generate(at - done, stereo[done:at].data.cast("B"))
            done = at
        if on:
            synth.noteon(0, pitch, velocity)
        else:
            synth.noteoff(0, pitch)
    synth.generate(length - done, stereo[done:].data.cast("B"))
    return (stereo[:, 0] + stereo[:, 1]) * np.float32(0.5)


def render(notes: list[Note], program: int, duration_s: float, sample_rate_hz: int) -> np.ndarray:
    """The notes as float32 (S,), S = round(duration_s * sample_rate_hz), peak -3 dBFS, cut hard with a 20 ms fade."""
    rate_hz = OVERSAMPLING * sample_rate_hz
    length = round(duration_s * rate_hz) + rate_hz // 20  # beyond the cut, so resampling sees no edge there
    mix = _stem([n for n in notes if not n.drum], program, False, rate_hz, length)
    drums = [n for n in notes if n.drum]
    if drums:
        stem = _stem(drums, 0, True, rate_hz, length)
        # The soundfont's presets differ by 15 dB in loudness; the balance of the stems must not.
        mix += stem * (DRUMS_TO_INSTRUMENT * np.abs(mix).max() / np.abs(stem).max())
    waveform = soxr.resample(mix, rate_hz, sample_rate_hz)[: round(duration_s * sample_rate_hz)]
    fade = min(round(FADE_S * sample_rate_hz), len(waveform))
    waveform[len(waveform) - fade :] *= np.linspace(1.0, 0.0, fade)
    return (waveform * (PEAK / np.abs(waveform).max())).astype(np.float32)
