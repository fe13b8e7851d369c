"""Tempo estimation: exact on clicks, none where nothing recurs."""

import numpy as np
import pytest

from melfusion.data.tempo import estimate_tempo

RATE_HZ = 16000


@pytest.mark.parametrize("bpm", [70, 90, 120, 145, 160])
def test_tempo_of_a_click_track(bpm):
    audio = np.random.default_rng(0).normal(0, 1e-3, 20 * RATE_HZ).astype(np.float32)
    for beat in np.arange(0, 19.9, 60 / bpm):
        at = int(beat * RATE_HZ)
        audio[at : at + 400] += np.sin(np.arange(400) * 0.4) * np.exp(-np.arange(400) / 80)
    assert estimate_tempo(audio, RATE_HZ) == bpm


def test_tempo_of_what_has_none():
    assert estimate_tempo(np.zeros(10 * RATE_HZ, np.float32), RATE_HZ) is None
    assert estimate_tempo(np.ones(RATE_HZ, np.float32), RATE_HZ) is None
