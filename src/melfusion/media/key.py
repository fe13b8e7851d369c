"""The key of a sound: how well its pitch classes match those of music in each of the 24 keys."""

from __future__ import annotations

import numpy as np

TONICS = ("C", "C sharp", "D", "E flat", "E", "F", "F sharp", "G", "A flat", "A", "B flat", "B")
# How often music in a major and a minor key has each degree: Albrecht and Shanahan, "The use of large corpora to train a new
# type of key-finding algorithm: an improved treatment of the minor mode", Music Perception 31 (2013)
PROFILES = {
    "major": (0.238, 0.006, 0.111, 0.006, 0.137, 0.094, 0.016, 0.214, 0.009, 0.080, 0.008, 0.081),
    "minor": (0.220, 0.006, 0.104, 0.123, 0.019, 0.103, 0.012, 0.214, 0.062, 0.022, 0.061, 0.052),
}
LOWEST_HZ, HIGHEST_HZ = 55.0, 1760.0  # five octaves from A1, where most fundamental tones are
WINDOW_S = 0.4  # a compromise: longer ones tell low tones apart, shorter ones tell chords apart
LONGEST_S = 120.0  # of a sound that is looked at
BEGINNING, ITS_WEIGHT = 1 / 6, 3.0  # most music begins at home: its first part tells the tonic from the fifth


def pitch_classes(waveform: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """waveform (S,) → (N, 12) the share of C, C sharp, … in each of N windows: the peaks of its amplitude spectrum, summed."""
    size = round(WINDOW_S * sample_rate_hz)
    waveform = np.pad(waveform[: round(LONGEST_S * sample_rate_hz)], (0, max(0, size - len(waveform))))
    frames = np.lib.stride_tricks.sliding_window_view(waveform, size)[:: size // 4]
    hz = np.arange(2 * size + 1) * sample_rate_hz / (4 * size)
    tones = np.round(12 * np.log2(np.maximum(hz, 1.0) / 440) + 9).astype(int) % 12
    inside = (hz[1:-1] >= LOWEST_HZ) & (hz[1:-1] <= HIGHEST_HZ)
    of_tone = np.eye(12)[tones[1:-1]] * inside[:, None]
    found, window = np.zeros((len(frames), 12)), np.hanning(size)
    for row, frame in enumerate(frames):
        spectrum = np.abs(np.fft.rfft(frame * window, 4 * size))
        peak = (spectrum[1:-1] > spectrum[:-2]) & (spectrum[1:-1] >= spectrum[2:])
        found[row] = np.where(peak, spectrum[1:-1], 0) @ of_tone
    return found / np.maximum(found.sum(1, keepdims=True), 1e-6)


def estimate_key(waveform: np.ndarray, sample_rate_hz: int) -> str | None:
    """waveform (S,) or (C, S) → such as "E flat minor", the key whose profile correlates best; None where nothing sounds."""
    found = pitch_classes(np.atleast_2d(waveform).mean(0), sample_rate_hz)
    weight = np.where(np.arange(len(found)) < BEGINNING * len(found), ITS_WEIGHT, 1.0)
    if (shares := weight @ found).std() < 1e-3:
        return None
    fit = {
        f"{TONICS[tonic]} {mode}": np.corrcoef(np.roll(profile, tonic), shares)[0, 1]
        for tonic in range(12)
        for mode, profile in PROFILES.items()
    }
    return max(fit, key=fit.__getitem__)
