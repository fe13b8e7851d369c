"""Waveform ⇄ log-mel: the rates and hops (AudioGeometry), reading of audio bytes, and the mel front end.

Shapes: waveform (B, S) in [-1, 1] at `sample_rate_hz`; log_mel (B, 1, T, F), natural log of mel magnitudes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank

from melfusion.errors import BadSample as BadSample
from melfusion.files import write_whole
from melfusion.schema import AudioConfig

LOG_FLOOR = 1e-5  # AudioLDM's clamp before the logarithm
LOWEST_RATE_HZ = 1000  # a lower rate is a damaged header; resampling from it would multiply the samples


@dataclass(frozen=True)
class AudioGeometry:
    """How seconds become samples, mel frames and latents."""

    audio: AudioConfig

    @property
    def num_samples(self) -> int:
        return round(self.audio.clip_duration_s * self.audio.sample_rate_hz)

    @property
    def num_frames(self) -> int:
        return self.num_samples // self.audio.hop_length_samples

    def latent_shape(self, channels: int, downsampling: int) -> tuple[int, int, int]:
        """(C, T, F) of the music latents of one clip."""
        return channels, self.num_frames // downsampling, self.audio.n_mels // downsampling


def read_audio(data: bytes, audio: AudioConfig, max_audio_s: float = 1200.0, max_rate_hz: int = 192_000,
               max_channels: int = 32, max_samples: int = 250_000_000) -> np.ndarray:  # fmt: skip
    """Encoded bytes → float32 (S,): mean of the channels, resampled with soxr. Raises BadSample with the reason.

    The limits are data.max_audio_*; what the header says is held against them before anything is decoded. Blocks are
    resampled as they come, to the bits that the whole would give, so that memory holds the result and one block.
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
        mono = block.mean(axis=1)
        if not np.isfinite(mono).all():
            raise BadSample("audio holds NaN or infinity")
        yield mono


def _resampler(rate: int, wanted: int) -> Callable[[np.ndarray, bool], np.ndarray]:
    """(block (S,), is it the last?) → what of the resampled sound is ready by then."""
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
    """(S,) → one clip, silence at its end; after loudness, which is measured where there is sound."""
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
    """What a score says of the level that all clips were brought to."""
    return {"level": audio.level, "loudness_dbfs": audio.loudness_dbfs if audio.level == "rms" else audio.peak_dbfs}


def write_wav(path: str | Path, waveform: np.ndarray | Tensor, sample_rate_hz: int) -> None:
    """(S,) → 16-bit PCM, whole or not at all; the caller's directory must exist."""
    data, clip = io.BytesIO(), np.clip(np.asarray(waveform, dtype=np.float32), -1, 1)
    soundfile.write(data, clip, sample_rate_hz, subtype="PCM_16", format="WAV")
    write_whole(Path(path), data.getvalue())


def mel_matrix(audio: AudioConfig) -> np.ndarray:
    """(n_fft/2 + 1, F) filters with Slaney's scale and area normalisation, as in HiFi-GAN and AudioLDM."""
    return mel_filter_bank(
        num_frequency_bins=audio.n_fft_samples // 2 + 1, num_mel_filters=audio.n_mels, min_frequency=audio.f_min_hz,
        max_frequency=audio.f_max_hz, sampling_rate=audio.sample_rate_hz, norm="slaney", mel_scale="slaney",
    )  # fmt: skip


class LogMel(nn.Module):
    """waveform (B, S) → log_mel (B, 1, S // hop, F): magnitudes of a reflected waveform, ln, floor 1e-5.

    `audio.framing` says where frame t is centred: on sample (t + ½) · hop for `hifigan`, with (n_fft - hop) / 2 samples
    reflected at each end. HiFi-GAN and AudioLDM's VAE and vocoder were trained so (haoheliu/AudioLDM-training-finetuning,
    audioldm_train/utilities/data/dataset.py, `mel_spectrogram_train`). On sample t · hop for `centred`, with n_fft / 2 reflected;
    the last of the S // hop + 1 frames is left out. Tango's UNet was trained so (declare-lab/tango, tools/torch_tools.py and
    audioldm/audio/stft.py).
    """

    def __init__(self, audio: AudioConfig):
        super().__init__()
        self.n_fft, self.hop = audio.n_fft_samples, audio.hop_length_samples
        self.reflected = reflected_samples(audio)
        self.register_buffer("window", torch.hann_window(self.n_fft), persistent=False)
        filters = torch.from_numpy(mel_matrix(audio)).float()
        self.register_buffer("filters", filters, persistent=False)

    def shape(self, num_samples: int) -> tuple[int, int]:
        """(T, F) of a clip."""
        return num_samples // self.hop, self.filters.shape[1]

    def forward(self, waveform: Tensor) -> Tensor:
        with torch.autocast(waveform.device.type, enabled=False):  # logs of small magnitudes need float32
            return self._log_mel(waveform)

    def spectrum(self, waveform: Tensor) -> Tensor:
        """waveform (B, S) → complex spectrogram (B, n_fft/2 + 1, S // hop) in the mel's framing."""
        padded = nn.functional.pad(waveform.float()[:, None], self.reflected, mode="reflect")[:, 0]
        frames = torch.stft(padded, self.n_fft, self.hop, window=self.window, center=False, return_complex=True)
        return frames[..., : waveform.shape[-1] // self.hop]

    def mel(self, magnitude: Tensor) -> Tensor:
        """Magnitudes (B, n_fft/2 + 1, T) of a spectrogram → mel magnitudes (B, T, F), not below the floor."""
        return (magnitude.transpose(1, 2) @ self.filters).clamp(min=LOG_FLOOR)

    def _log_mel(self, waveform: Tensor) -> Tensor:
        return self.mel(self.spectrum(waveform).abs()).log()[:, None]


def reflected_samples(audio: AudioConfig) -> tuple[int, int]:
    """Samples that the framing reflects before and after a clip."""
    n_fft, hop = audio.n_fft_samples, audio.hop_length_samples
    before = n_fft // 2 if audio.framing == "centred" else (n_fft - hop) // 2
    return before, n_fft // 2 if audio.framing == "centred" else n_fft - hop - before
