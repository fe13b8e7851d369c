"""Options of the audio contract."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass
class AudioConfig:
    """From waveform to log-mel. Defaults are AudioLDM's (MeLFusion's released code, too)."""

    sample_rate_hz: int = 16000  # samples per second of the waveform, Hz
    channels: int = 1  # of the waveform: 1, the mean of what a file has | 2, for a codec that wants stereo; mono files are doubled
    n_fft_samples: int = 1024  # FFT size and window length
    hop_length_samples: int = 160  # samples between two frames of the log-mel
    n_mels: int = 64  # F: mel bins
    f_min_hz: float = 0.0  # lowest frequency of the mel bins, Hz
    f_max_hz: float = 8000.0  # highest frequency of the mel bins, Hz
    clip_duration_s: float = 10.24  # length of a clip, s
    framing: str = "hifigan"  # where frame t of the log-mel is centred: hifigan (t + ½) · hop | centred t · hop, as in Tango
    level: str = "rms"  # what every clip is brought to: rms (loudness_dbfs, up to peak_dbfs) | peak (no mean, then peak_dbfs)
    loudness_dbfs: float = -20.0  # mean level that clips are brought to, dB below full scale
    peak_dbfs: float = -1.0  # highest peak of a clip, dB below full scale
    silence_dbfs: float = -55.0  # a clip whose RMS is below this is silent and is replaced
    min_duration_s: float = 1.0  # shorter audio is replaced; between this and the clip it is padded with silence

    def stated(self) -> dict[str, Any]:
        """Every key with its value, as what is stored states them: older files name no channels, and have one."""
        return {name: value for name, value in dataclasses.asdict(self).items() if (name, value) != ("channels", 1)}


SOUND_FORMATS = {
    "wav": "PCM_16",
    "flac": "PCM_16",
    "mp3": "MPEG_LAYER_III",
    "ogg": "VORBIS",
}  # a name's end → how samples are stored
