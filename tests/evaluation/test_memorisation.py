"""Copies differ from new music of the same kind, by key, and the interval is over tracks."""

import pytest
import torch
from synapse_fixtures import randn

from melfusion.evaluation.memorisation import memorisation, nearest
from melfusion.evaluation.scoring import Predictions


def predictions(prefix, x):
    return Predictions([f"{prefix}{i}" for i in range(len(x))], {}, {"ear": x[:, None]})


@pytest.fixture
def sets():
    return [predictions(name, randn(60, 6, seed=i)) for i, name in enumerate(("train", "held", "real"))]


def test_the_nearest_is_the_nearest():
    distance, which = nearest(torch.tensor([[0.0, 0.0], [4.0, 4.0]]), torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    assert distance.tolist() == [1.0, 1.0] and which.tolist() == [1, 0]


def test_new_music_is_as_near_to_training_as_real_held_out_clips_are(sets):
    train, held, real = sets
    new = memorisation(predictions("made", randn(60, 6, seed=9)), real, held, train, [f"t{i}" for i in range(60)])["ear"]
    assert new["nearer"]["low"] - 0.1 < 0.5 < new["nearer"]["high"] + 0.1
    itself = memorisation(real, real, held, train, [f"t{i}" for i in range(60)])["ear"]
    assert itself["nearer"]["accuracy"] == pytest.approx(0.5, abs=0.02) and itself["ratio"] == itself["ratio_real"]


def test_copies_are_caught_and_named(sets):
    train, held, real = sets
    copies = predictions("made", train.embeddings["ear"][:, 0] + 0.01 * randn(60, 6, seed=9))
    found = memorisation(copies, real, held, train, [f"t{i}" for i in range(60)])["ear"]
    assert found["nearer"]["accuracy"] == 1.0 and found["ratio"] < 0.1 < found["ratio_real"]
    assert len(found["closest"]) == 5
    assert all(pair["clip"].removeprefix("made") == pair["train"].removeprefix("train") for pair in found["closest"])


def test_few_tracks_make_a_wide_interval(sets):
    train, held, real = sets
    half = predictions("made", torch.cat([train.embeddings["ear"][:30, 0], 5 + randn(30, 6, seed=3)]))
    wide, narrow = (
        memorisation(half, real, held, train, tracks)["ear"]["nearer"]
        for tracks in (["a"] * 30 + ["b"] * 30, [f"t{i}" for i in range(60)])
    )
    assert wide["high"] - wide["low"] > 3 * (narrow["high"] - narrow["low"]) > 0 and (wide["n"], narrow["n"]) == (2, 60)
    none = memorisation(predictions("made", 9 + randn(60, 6, seed=3)), real, held, train, ["a"] * 30 + ["b"] * 30)["ear"]["nearer"]
    assert none["accuracy"] == 0 and none["high"] > 0.6  # of two tracks: hardly anything is known
