"""Audio files → waveforms at the rate and level of the audio contract, and back."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr
from torch import Tensor

from melfusion.errors import BadSample
from melfusion.files import write_whole
from melfusion.media.mel import AudioGeometry
from melfusion.media.options import AudioConfig

LOWEST_RATE_HZ = 1000  # a lower rate is a damaged header; resampling from it would multiply the samples


def read_audio(
    data: bytes,
    audio: AudioConfig,
    max_audio_s: float = 1200.0,
    max_rate_hz: int = 192_000,
    max_channels: int = 32,
    max_samples: int = 250_000_000,
) -> np.ndarray:
    """Encoded bytes → float32 (S,): mean of the channels, resampled with soxr. Raises BadSample with the reason.

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
            resample = _resampler(rate, audio.sample_rate_hz)
            parts = [resample(block, False) for block in _mono_blocks(file)]
            waveform = np.concatenate([*parts, resample(np.zeros(0, np.float32), True)])
    except (soundfile.SoundFileError, RuntimeError, ValueError) as error:
        if isinstance(error, BadSample):
            raise
        raise BadSample("unreadable audio") from error
    return waveform


def _mono_blocks(file: soundfile.SoundFile) -> Iterator[np.ndarray]:
    """float32 (S,) each: the mean of the channels."""
    # block by block, since a header may promise more than there is; not so MP3, whose decoder stumbles at each block
    size = file.frames if file.format == "MP3" else 1 << 14
    while len(block := file.read(size, dtype="float32", always_2d=True)):
        mono = block.mean(axis=1) if block.shape[1] > 1 else block[:, 0]
        if not np.isfinite(mono).all():
            raise BadSample("audio holds NaN or infinity")
        yield mono


def _resampler(rate: int, wanted: int) -> Callable[[np.ndarray, bool], np.ndarray]:
    """(block (S,), is it the last?) → the resampled samples that are ready by then."""
    if rate == wanted:
        return lambda block, last: block
    return soxr.ResampleStream(rate, wanted, 1, dtype="float32").resample_chunk


def crop_clip(waveform: np.ndarray, audio: AudioConfig, where: float) -> np.ndarray:
    """(S,) → at most one clip, starting at the share `where` in [0, 1) of what can be left out; BadSample if too short."""
    length = AudioGeometry(audio).num_samples
    if len(waveform) < audio.min_duration_s * audio.sample_rate_hz:
        raise BadSample(f"audio shorter than audio.min_duration_s={audio.min_duration_s:g} s")
    start = int(where * (max(len(waveform) - length, 0) + 1))
    return waveform[start : start + length]


def pad_clip(waveform: np.ndarray, audio: AudioConfig) -> np.ndarray:
    """(S,) → one clip, with silence at its end. Call it after normalise_level, which must not measure that silence."""
    return np.pad(waveform, (0, AudioGeometry(audio).num_samples - len(waveform)))


def normalise_level(waveform: np.ndarray, audio: AudioConfig) -> np.ndarray:
    """(S,) → (S,) at the level of `audio.level`; BadSample for silence.

    rms: the RMS becomes `loudness_dbfs`, but no peak rises above `peak_dbfs`.
    peak: the mean is removed and the peak becomes `peak_dbfs`. AudioLDM's data set (haoheliu/AudioLDM-training-finetuning,
    audioldm_train/utilities/data/dataset.py, `normalize_wav`) and Tango's (declare-lab/tango, tools/torch_tools.py) do this
    with a peak of 0.5.
    """
    if audio.level == "peak":
        waveform = waveform - waveform.mean(dtype=np.float64).astype(np.float32)
    rms = float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64))))
    if rms <= 10 ** (audio.silence_dbfs / 20):
        raise BadSample(f"silence (RMS below audio.silence_dbfs={audio.silence_dbfs:g} dBFS)")
    gain = 10 ** (audio.peak_dbfs / 20) / float(np.abs(waveform).max())
    if audio.level == "rms":
        gain = min(10 ** (audio.loudness_dbfs / 20) / rms, gain)
    return (waveform * gain).astype(np.float32)


def stated_level(audio: AudioConfig) -> dict[str, str | float]:
    """The level that all clips were brought to, as scores state it."""
    return {"level": audio.level, "loudness_dbfs": audio.loudness_dbfs if audio.level == "rms" else audio.peak_dbfs}


def write_wav(path: str | Path, waveform: np.ndarray | Tensor, sample_rate_hz: int) -> None:
    """(S,) → 16-bit PCM, whole or not at all; the caller's directory must exist."""
    data, clip = io.BytesIO(), np.clip(np.asarray(waveform, dtype=np.float32), -1, 1)
    soundfile.write(data, clip, sample_rate_hz, subtype="PCM_16", format="WAV")
    write_whole(Path(path), data.getvalue())
