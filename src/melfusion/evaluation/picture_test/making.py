"""The folder of sounds: what is missing is made, what failed is counted with its reason, and every sound is read alike."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from melfusion.errors import BadSample, ConfigError
from melfusion.evaluation.pace import Pace
from melfusion.evaluation.picture_test.items import Call
from melfusion.evaluation.picture_test.systems import Request, System
from melfusion.media.mel import AudioGeometry
from melfusion.media.options import AudioConfig
from melfusion.media.sound import normalise_level, pad_clip, read_audio

HOPELESS = 8  # calls that fail before any has succeeded


def sound_file(sounds: Path, call: Call) -> Path:
    return sounds / f"{call.name}.wav"


def request_of(call: Call, folder: Path, sounds: Path) -> Request:
    """The call as a system gets it: with whole paths."""
    return Request(folder / "pictures" / call.picture if call.picture else None, call.prompt, call.seed, sound_file(sounds, call))


def make(system: System, calls: list[Call], folder: Path, audio: AudioConfig) -> dict[str, str]:
    """Make the sounds of folder/sounds that are missing; returns call name → why it could not be made.

    A sound is made elsewhere and moved once it is whole, so what a killed run leaves is never half a file. ConfigError where the
    first calls all fail.
    """
    folder = folder.resolve()
    sounds, making = folder / "sounds", folder / "making"
    for one in (sounds, making):
        one.mkdir(parents=True, exist_ok=True)
    _rescue(making, sounds, audio)
    missing = [call for call in calls if not sound_file(sounds, call).is_file()]
    requests = {sound_file(making, call): call for call in missing}
    pace = Pace(len(missing), 2 * AudioGeometry(audio).num_samples, folder)
    failed: dict[str, str] = {}
    done, reason = 0, ""
    for batch in system([request_of(call, folder, making) for call in missing]):
        for request, said in batch:
            if reason := said or unusable(request.out, audio):
                failed[requests[request.out].name] = reason
                request.out.unlink(missing_ok=True)
            else:
                request.out.replace(sound_file(sounds, requests[request.out]))
        done += len(batch)
        if len(failed) == done >= HOPELESS and len(missing) == len(calls):
            raise ConfigError(f"The first {done} calls all failed, the last one so: {reason}. Try one call of the system by hand.")
        pace.tell(done)
    return failed


def _rescue(making: Path, sounds: Path, audio: AudioConfig) -> None:
    """Sounds of a run that was killed; the last one may be half written, and is made again."""
    left = sorted(making.glob("*.wav"), key=lambda file: file.stat().st_mtime)
    for file in left[:-1]:
        if not unusable(file, audio):
            file.replace(sounds / file.name)
    for file in making.iterdir():
        file.unlink()


def unusable(file: Path, audio: AudioConfig) -> str:
    """Why a sound cannot be scored; empty where it can."""
    try:
        read_sound(file, audio)
    except BadSample as error:
        return str(error)
    return ""


def read_sound(file: Path, audio: AudioConfig) -> np.ndarray:
    """A sound of any rate, length and number of channels → (S,), one clip in one channel at the level of the data.

    It is resampled, cut to the first `audio.clip_duration_s` seconds, levelled, and padded with silence. BadSample for a file that
    is missing, unreadable or silent.
    """
    if not file.is_file():
        raise BadSample("no such file was written")
    waveform = read_audio(file.read_bytes(), audio)[..., : AudioGeometry(audio).num_samples]
    if not waveform.size:
        raise BadSample("a sound of no length")
    return pad_clip(normalise_level(waveform, audio), audio)


def reasons(failed: dict[str, str]) -> dict[str, int]:
    """Reason → number of calls, the most frequent first."""
    counts = {reason: len(list(some)) for reason, some in itertools.groupby(sorted(failed.values()))}
    return dict(sorted(counts.items(), key=lambda pair: -pair[1]))
