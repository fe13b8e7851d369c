"""The music of the `scenes` corpus: a rule-based composer; sound.py renders what it writes.

place -> instrument (`INSTRUMENTS`), time of day -> tempo (`TEMPOS_BPM`), weather -> percussion and density (`GROOVES`),
tonic and mode -> the chords and the scale. Everything else (progression, melody, octave, velocities, 2 % of tempo) is
nuisance from the generator that the caller passes: a piece is a pure function of scene, generator and soundfont.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from melfusion.media.key import TONICS

if TYPE_CHECKING:
    from melfusion.data.scenes.scene import Scene

Random = np.random.Generator

MODES = ("major", "minor")

TEMPOS_BPM = {"dawn": 96.0, "noon": 160.0, "dusk": 126.0, "night": 70.0}

TEMPO_JITTER = 0.02

SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}

# Chord roots as scale degrees from 0. All begin on the tonic and soon reach the dominant or subdominant, so that C
# major is not mistaken for its relative A minor in a clip that holds only three chords.
PROGRESSIONS = {
    "major": ((0, 4, 5, 3), (0, 3, 4, 0), (0, 5, 3, 4), (0, 4, 0, 3)),
    "minor": ((0, 5, 3, 4), (0, 3, 4, 0), (0, 4, 0, 5), (0, 3, 0, 4)),
}

DOMINANT, LEADING_TONE = 4, 6

KICK, SNARE, SHAKER, HIHAT = 36, 38, 70, 42


@dataclass(frozen=True)
class Instrument:
    """A General MIDI program (bank 0) and the lowest MIDI pitches at which it plays bass, chords and melody.

    `held` is the part of its time that a note is held: less where the samples ring on and would blur beat and chord.
    """

    name: str
    program: int
    bass: int
    chords: int
    melody: int
    held: float


INSTRUMENTS = {
    "sea": Instrument("music box", 10, 60, 72, 79, 0.9),
    "forest": Instrument("flute", 73, 60, 67, 72, 0.9),
    "desert": Instrument("sitar", 104, 41, 53, 60, 0.5),
    "city": Instrument("saxophone", 65, 45, 55, 60, 0.9),
    "mountains": Instrument("strings", 48, 36, 55, 62, 0.6),
    "meadow": Instrument("piano", 0, 36, 55, 64, 0.9),
}


@dataclass(frozen=True)
class Groove:
    """What the weather does. Steps are in beats; `drums` holds (pitch, step, offset, velocity), repeated throughout."""

    words: str
    melody_step: float
    melody_chance: float  # that a step which is not the first of a chord carries a note
    bass_step: float
    arpeggio_step: float  # 0: block chords on every beat
    drums: tuple[tuple[int, float, float, float], ...]


KICK_SNARE = ((KICK, 1, 0, 1.0), (SNARE, 2, 1, 0.9))

SHAKER_HIHAT = ((HIHAT, 1, 0, 1.0), (HIHAT, 1, 0.5, 0.7), (SHAKER, 0.5, 0, 1.0))

GROOVES = {
    "clear": Groove("steady, with kick and snare drums", 1.0, 0.85, 2.0, 0.0, KICK_SNARE),
    "rain": Groove("dense, with a pattering shaker and hi-hat", 0.5, 0.9, 1.0, 0.5, SHAKER_HIHAT),
    "snow": Groove("sparse, without percussion", 1.0, 0.5, 4.0, 1.0, ()),
}


@dataclass(frozen=True)
class Note:
    """One note: start and length in seconds, MIDI pitch (or General MIDI drum), velocity 0..1."""

    start_s: float
    length_s: float
    pitch: int
    velocity: float
    drum: bool = False


def tempo_bpm(scene: Scene, rng: Random) -> float:
    """The scene's tempo in beats per minute, jittered by `TEMPO_JITTER`; the first draw from the music's generator."""
    return TEMPOS_BPM[scene.time] * rng.uniform(1 - TEMPO_JITTER, 1 + TEMPO_JITTER)


def compose(scene: Scene, rng: Random, duration_s: float) -> list[Note]:
    """The notes of the scene's piece that start before `duration_s` seconds, in order; the first at 0."""
    beat_s = 60.0 / tempo_bpm(scene, rng)
    instrument, groove = INSTRUMENTS[scene.place], GROOVES[scene.weather]
    # Slow pieces change chords every two beats: a clip of five seconds must hold at least three chords to make its key clear.
    beats_per_chord = 2 if TEMPOS_BPM[scene.time] < 110 else 4
    progressions = PROGRESSIONS[scene.mode]
    progression = progressions[rng.integers(len(progressions))]
    low = instrument.melody + 12 * int(rng.integers(2))
    beats = duration_s / beat_s
    notes: list[Note] = []
    at = 5  # the melody's step on its ladder
    for i in range(int(np.ceil(beats / beats_per_chord))):
        pitches, scale = _chord(scene, progression[i % len(progression)])
        times = range(i * beats_per_chord, (i + 1) * beats_per_chord)
        notes += _accompaniment(pitches, times, instrument, groove, rng)
        ladder = [p for p in range(low, low + 17) if p % 12 in scale]
        steps, length = np.arange(times.start, times.stop, groove.melody_step), groove.melody_step * instrument.held
        melody, at = _melody(ladder, pitches, steps, length, groove.melody_chance, at, rng)
        notes += melody
    for pitch, step, offset, velocity in groove.drums:
        hits = np.arange(offset, beats, step)
        notes += [Note(t, 0.25, pitch, velocity * rng.uniform(0.85, 1.0), drum=True) for t in hits]
    played = [Note(n.start_s * beat_s, n.length_s * beat_s, n.pitch, n.velocity, n.drum) for n in notes]
    return sorted((n for n in played if n.start_s < duration_s), key=lambda n: (n.start_s, n.drum, n.pitch))


def _chord(scene: Scene, degree: int) -> tuple[list[int], set[int]]:
    """Pitch classes of the triad on a degree, root first, and of the scale around it (minor raises its 7th on V)."""
    scale = list(SCALES[scene.mode])
    if scene.mode == "minor" and degree == DOMINANT:
        scale[LEADING_TONE] = 11
    tonic = TONICS.index(scene.tonic)
    classes = [(tonic + step) % 12 for step in scale]
    return [classes[(degree + third) % 7] for third in (0, 2, 4)], set(classes)


def _at_or_above(pitch_class: int, low: int) -> int:
    """The lowest MIDI pitch of a class that is not below `low`."""
    return low + (pitch_class - low) % 12


def _accompaniment(pitches: list[int], times: range, instrument: Instrument, groove: Groove, rng: Random) -> list[Note]:
    """Bass and chords while one chord of the progression lasts; times and lengths in beats."""
    notes = []
    root = _at_or_above(pitches[0], instrument.bass)
    for t in np.arange(times.start, times.stop, groove.bass_step):
        length = min(groove.bass_step, len(times)) * instrument.held
        notes.append(Note(t, length, root, rng.uniform(0.75, 0.9)))
    tones = [_at_or_above(p, instrument.chords) for p in pitches]
    if groove.arpeggio_step:
        length = groove.arpeggio_step * instrument.held  # the third comes first, so that a short chord shows the mode, too
        for j, t in enumerate(np.arange(times.start, times.stop, groove.arpeggio_step)):
            notes.append(Note(t, length, tones[(1, 2, 0, 2)[j % 4]], rng.uniform(0.6, 0.75)))
        return notes
    for t in times:
        velocity = rng.uniform(0.55, 0.7)
        notes += [Note(t, 0.65 * instrument.held, tone, velocity) for tone in tones]
    return notes


def _melody(
    ladder: list[int], chord: list[int], times: np.ndarray, length: float, chance: float, at: int, rng: Random
) -> tuple[list[Note], int]:
    """A random walk on the scale `ladder` from step `at`, on the chord at the first of `times`; and its last step."""
    notes = []
    for t in times:
        at = int(np.clip(at + rng.choice((-2, -1, -1, 1, 1, 2)), 0, len(ladder) - 1))
        if t == times[0]:
            at = min((i for i, p in enumerate(ladder) if p % 12 in chord), key=lambda i: abs(i - at))
        velocity, plays = rng.uniform(0.85, 1.0), rng.random() < chance
        if t == times[0] or plays:
            notes.append(Note(t, length, ladder[at], velocity))
    return notes, at
