"""Audio files → waveforms at the rate and level of the audio contract, and back."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from melfusion.errors import BadSample
from melfusion.files import write_whole
from melfusion.media.mel import AudioGeometry
from melfusion.media.options import AudioConfig
from melfusion.media.tagged import encode, format_of

LOWEST_RATE_HZ = 1000  # a lower rate is a damaged header; resampling from it would multiply the samples


def read_audio(
    data: bytes,
    audio: AudioConfig,
    max_audio_s: float = 1200.0,
    max_rate_hz: int = 192_000,
    max_channels: int = 32,
    max_samples: int = 250_000_000,
) -> np.ndarray:
    """Encoded bytes → float32 (S,), or (2, S) where `audio.channels` is 2, resampled with soxr. Raises BadSample with the reason.

    One channel is the mean of all that there are. Two are those of a stereo file; of any other file both are that mean.

    The limits are data.max_audio_*; the header is checked against them before anything is decoded. Blocks are resampled one by one,
    with the same bits as the whole would give, so that memory holds the result and one block.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate = file.samplerate
            if not LOWEST_RATE_HZ <= rate <= max_rate_hz:
                raise BadSample(f"audio's sample rate not within {LOWEST_RATE_HZ} and data.max_audio_rate_hz={max_rate_hz} Hz")
            if file.channels > max_channels:
                raise BadSample(f"audio has more than data.max_audio_channels={max_channels} channels")
            if file.frames > max_audio_s * rate:
                raise BadSample(f"audio longer than data.max_audio_s={max_audio_s:g} s")
            if file.frames * file.channels > max_samples:
                raise BadSample(f"audio of more frames × channels than data.max_audio_samples={max_samples}")
            resample = _resampler(rate, audio.sample_rate_hz, audio.channels)
            parts = [resample(block, False) for block in _blocks(file, audio.channels)]
            waveform = np.concatenate([*parts, resample(np.zeros((0, 2) if audio.channels == 2 else 0, np.float32), True)])
    except (soundfile.SoundFileError, RuntimeError, ValueError) as error:
        if isinstance(error, BadSample):
            raise
        raise BadSample("unreadable audio") from error
    return np.ascontiguousarray(waveform.T)


def _blocks(file: soundfile.SoundFile, channels: int) -> Iterator[np.ndarray]:
    """float32 each: (S,), the mean of the file's channels, or (S, 2)."""
    # block by block, since a header may promise more than there is; not so MP3, whose decoder stumbles at each block
    size = file.frames if file.format == "MP3" else 1 << 14
    while len(block := file.read(size, dtype="float32", always_2d=True)):
        mixed = block if channels == file.channels == 2 else block.mean(axis=1) if block.shape[1] > 1 else block[:, 0]
        if not np.isfinite(mixed).all():
            raise BadSample("audio holds NaN or infinity")
        yield np.repeat(mixed[:, None], 2, axis=1) if channels > mixed.ndim else mixed


def _resampler(rate: int, wanted: int, channels: int) -> Callable[[np.ndarray, bool], np.ndarray]:
    """(block (S,) or (S, 2), is it the last?) → the resampled samples that are ready by then."""
    if rate == wanted:
        return lambda block, last: block
    return soxr.ResampleStream(rate, wanted, channels, dtype="float32").resample_chunk


def crop_clip(waveform: np.ndarray, audio: AudioConfig, where: float) -> np.ndarray:
    """(…, S) → at most one clip, starting at the share `where` in [0, 1) of what can be left out; BadSample if too short."""
    length = AudioGeometry(audio).num_samples
    if waveform.shape[-1] < audio.min_duration_s * audio.sample_rate_hz:
        raise BadSample(f"audio shorter than audio.min_duration_s={audio.min_duration_s:g} s")
    start = int(where * (max(waveform.shape[-1] - length, 0) + 1))
    return waveform[..., start : start + length]


def pad_clip(waveform: np.ndarray, audio: AudioConfig) -> np.ndarray:
    """(…, S) → one clip, with silence at its end. Call it after normalise_level, which must not measure that silence."""
    missing = AudioGeometry(audio).num_samples - waveform.shape[-1]
    return np.pad(waveform, [(0, 0)] * (waveform.ndim - 1) + [(0, missing)])


def normalise_level(waveform: np.ndarray, audio: AudioConfig) -> np.ndarray:
    """(S,) or (2, S) → the same at the level of `audio.level`; BadSample for silence. Channels are measured together.

    rms: the RMS becomes `loudness_dbfs`, but no peak rises above `peak_dbfs`.
    peak: the mean is removed and the peak becomes `peak_dbfs`. AudioLDM's data set (haoheliu/AudioLDM-training-finetuning,
    audioldm_train/utilities/data/dataset.py, `normalize_wav`) and Tango's (declare-lab/tango, tools/torch_tools.py) do this
    with a peak of 0.5.
    """
    if audio.level == "peak":
        waveform = waveform - waveform.mean(axis=-1, keepdims=True, dtype=np.float64).astype(np.float32)
    rms = float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64))))
    if rms <= 10 ** (audio.silence_dbfs / 20):
        raise BadSample(f"silence (RMS below audio.silence_dbfs={audio.silence_dbfs:g} dBFS)")
    gain = 10 ** (audio.peak_dbfs / 20) / float(np.abs(waveform).max())
    if audio.level == "rms":
        gain = min(10 ** (audio.loudness_dbfs / 20) / rms, gain)
    return (waveform * gain).astype(np.float32)


def levelled(waveform: Tensor, audio: AudioConfig) -> Tensor:
    """Every clip of (B, S) or (B, 2, S) at the level of the data (audio.level); a silent clip stays as it is."""
    clips = []
    for clip in waveform.float().cpu():
        try:
            clips.append(torch.from_numpy(normalise_level(clip.numpy(), audio)))
        except BadSample:
            clips.append(clip)
    return torch.stack(clips).to(waveform.device)


def within_one(waveform: np.ndarray) -> np.ndarray:
    """(…, S) of one clip as files hold it: a peak above 1 is scaled down to it, where cutting it off would distort."""
    return waveform / max(1.0, float(np.abs(waveform).max(initial=0.0)))


def stated_level(audio: AudioConfig) -> dict[str, str | float]:
    """The level that all clips were brought to, as scores state it."""
    return {"level": audio.level, "loudness_dbfs": audio.loudness_dbfs if audio.level == "rms" else audio.peak_dbfs}


def mono(waveform: Tensor) -> Tensor:
    """(B, S) or (B, 2, S) → (B, S), the mean of the channels: what all that listens is given."""
    return waveform.mean(1) if waveform.ndim == 3 else waveform


def write_wav(path: str | Path, waveform: np.ndarray | Tensor, sample_rate_hz: int) -> None:
    """(S,) or (2, S) → 16-bit PCM, whole or not at all; the caller's directory must exist."""
    write_whole(Path(path), encode(np.asarray(waveform), sample_rate_hz, "wav"))


def write_sound(path: str | Path, waveform: np.ndarray, sample_rate_hz: int, text: str = "") -> None:
    """The same in the format that the file's name asks for, with a text in its metadata; ConfigError for an unknown one."""
    write_whole(Path(path), encode(waveform, sample_rate_hz, format_of(path), text))
