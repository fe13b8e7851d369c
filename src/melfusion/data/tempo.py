"""The tempo of a waveform, for captions."""

from __future__ import annotations

import numpy as np


def estimate_tempo(waveform: np.ndarray, sample_rate_hz: int) -> int | None:
    """Beats per minute of `waveform` [T], 60 to 200 in steps of 5, or None where nothing recurs.

    Autocorrelation of the onset strength (rise of the log spectrum, 100 frames/s) at one to four beats, weighted by a
    bell over log tempo around 120: like people, it prefers moderate tempi where half and double are as good.
    """
    hop, size = sample_rate_hz // 100, sample_rate_hz // 16
    waveform = waveform[: 90 * sample_rate_hz]
    if len(waveform) < 4 * sample_rate_hz:
        return None
    frames = np.lib.stride_tricks.sliding_window_view(waveform, size)[::hop] * np.hanning(size).astype(np.float32)
    spectrum = np.log1p(100 * np.abs(np.fft.rfft(frames)).astype(np.float32))
    onset = np.maximum(np.diff(spectrum, axis=0), 0).mean(axis=1)
    onset = np.maximum(onset - np.convolve(onset, np.ones(100) / 100, mode="same"), 0)
    onset -= onset.mean()
    power = np.abs(np.fft.rfft(onset, 2 * len(onset))) ** 2
    correlation = np.fft.irfft(power)[: len(onset)]
    if correlation[0] < 1e-6:
        return None
    bpm = np.arange(57.5, 202.5, 0.5)
    lags = 6000 / bpm[:, None] * np.arange(1, 5)  # frames
    score = np.interp(lags, np.arange(len(correlation)), correlation / correlation[0]).mean(axis=1)
    score *= np.exp(-0.5 * (np.log2(bpm / 120) / 0.9) ** 2)
    return int(5 * round(bpm[score.argmax()] / 5)) if score.max() > 0.02 else None
