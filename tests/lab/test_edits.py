"""What editing is measured by: planted seams are found, changes are found in time, stored results become tables again."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from melfusion.errors import ConfigError
from melfusion.lab.edits import MEASURES, WORDS, Setting, at_edges, change, chords, recognised, words
from melfusion.verbs import measure
from melfusion.verbs.measure import numbers

RATE = 8000
STORED = Path(__file__).parents[2] / "experiments" / "results" / "editing"


def test_a_seam_is_louder_than_elsewhere_only_where_there_is_one():
    mel = torch.randn(96, 8, generator=torch.Generator().manual_seed(0))
    assert max(at_edges(mel, {4, 8}, 12)) < 1.2
    mel[32:] += 10
    assert at_edges(mel, {4, 8}, 12)[0] > 3 and at_edges(mel, {4, 8}, 12)[1] < 1


def test_the_time_of_a_change_is_where_the_old_place_ends():
    piece = torch.cat([torch.zeros(1000), torch.ones(1300)])  # the old place until 1000

    def predict(clips):
        return [{"place": "sea" if clip.mean() < 0.5 else "city"} for clip in clips]

    lab = SimpleNamespace(predict=predict, rate=100)
    assert change(lab, piece, 1000, 512, "sea", "city") == pytest.approx(0, abs=0.33)
    assert change(lab, piece, 1150, 512, "sea", "city") == pytest.approx(-1.5, abs=0.33)
    assert np.isnan(change(lab, piece, 1000, 512, "desert", "city"))


@pytest.mark.parametrize("file", sorted(STORED.glob("*.json")), ids=lambda f: f.stem)
def test_stored_results_become_a_table_again(file):
    result = json.loads(file.read_text())
    assert file.stem in MEASURES and words(file.stem, result) == file.with_suffix(".md").read_text()


def test_a_piece_is_recognised_by_its_chords_in_any_key():
    rng, tones = np.random.default_rng(0), 2 ** (np.arange(24) / 12) * 220
    time = np.arange(RATE // 2) / RATE
    pieces = rng.integers(0, 12, (6, 8))
    played = {up: np.sin(2 * np.pi * tones[pieces + up][..., None] * time).reshape(6, -1) for up in (0, 5)}
    low, high = (torch.from_numpy(played[up]) for up in (0, 5))
    here, moved = chords(low, [9] * 6, RATE), chords(high, [2] * 6, RATE)
    assert recognised(here, moved) == [True] * 6 and recognised(here, chords(high, [3] * 6, RATE)) != [True] * 6
    assert recognised(here, moved[::-1]) == [False] * 6


def test_strengths_are_numbers():
    assert numbers("0.2,1") == (0.2, 1.0)
    with pytest.raises(ConfigError, match="strengths=2 must be numbers between 0 and 1"):
        numbers("2")


def test_conditions_of_restyle_have_one_name_and_others_are_refused():
    assert tuple(WORDS) == Setting().conditions == tuple(measure.Options("restyle").condition.replace("-", " ").split(","))
    with pytest.raises(ConfigError, match="condition names 'key told': give some of key given, picture alone, no key"):
        measure.run(measure.Options("restyle", condition="key-told"), [])
