"""The probe finds what pictures say of music where they say something, and nothing where they do not."""

import json

import numpy as np
from data_fixtures import data_set, encoded, make_sample, noise_picture, sound

from melfusion.__main__ import main
from melfusion.lab import track_features
from melfusion.lab.probe import Question, answer, fold_of, table
from melfusion.lab.track_features import Tracks

N = 120


def tracks(told, seed=0):
    """Tracks of six games. `told`: how much of the sound the picture tells."""
    rng = np.random.default_rng(seed)
    games = [f"game {i % 6}" for i in range(N)]
    pictures = rng.standard_normal((N, 20)) + np.repeat(np.eye(6), N // 6, 0).reshape(6, -1, 6).swapaxes(0, 1).reshape(N, 6) @ (
        rng.standard_normal((6, 20))
    )
    sounds = told * pictures @ rng.standard_normal((20, 12)) + 4 * rng.standard_normal((N, 12))
    names = [f"t{i}" for i in range(N)]
    return Tracks(pictures, sounds, names, games, names, ["train"] * N, ["level" if i % 3 else "game" for i in range(N)])


def test_what_is_planted_is_found_within_games_and_between_them():
    found = answer(tracks(3.0), 60)
    for way in ("between", "within"):
        assert found[way]["mean"] > 0.75 and found[way]["p"] < 0.02 and found[way]["mean"] > found[way]["null"] + 0.05
    assert found["between"]["games"] == 6 and f"{found['between']['mean']:.3f}" in table(
        {"all": found, "pairing": {}, "learned_from": {}, "held_out": {}}
    )


def test_where_pictures_say_nothing_nothing_is_found():
    found = [answer(tracks(0.0, seed), 40, seed) for seed in range(8)]
    for way in ("between", "within"):
        assert abs(np.mean([one[way]["mean"] for one in found]) - 0.5) < 0.05
        assert sum(one[way]["p"] < 0.05 for one in found) <= 2


def test_a_picture_that_tells_the_game_alone_does_not_count_within_it():
    """Style differs by game: the null keeps that, since it permutes within games."""
    made = tracks(0.0)
    numbers = np.asarray([int(game[-1]) for game in made.games])
    made.sounds[:] += 6 * np.random.default_rng(1).standard_normal((6, 12))[numbers]
    made.pictures[:] += 6 * np.random.default_rng(2).standard_normal((6, 20))[numbers]
    found = answer(made, 60)
    assert (
        found["between"]["mean"] > 0.75
        and found["between"]["p"] > 0.05
        and found["unseen"]["mean"] < 0.65
        and abs(found["within"]["mean"] - 0.5) < 0.1
    )


def test_fewer_tracks_to_learn_from_and_one_pairing_strength():
    made = tracks(3.0)
    few = Question(np.arange(N) < 12, np.asarray([p == "level" for p in made.pairings]))
    found = answer(made, 10, question=few)
    assert (found["tracks"], found["trained"]) == (80, 12) and found["between"]["mean"] < answer(made, 10)["between"]["mean"]


def test_components_are_never_divided():
    components = [f"c{i // 7}" for i in range(N)]
    folds = fold_of(components, 0)
    assert all(len({fold for fold, c in zip(folds, components, strict=True) if c == one}) == 1 for one in set(components))
    assert max(map(folds.count, set(folds))) <= 14


def test_the_verb_reads_shards_and_needs_enough_tracks(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(track_features, "LEAST", 9)
    rng = np.random.default_rng(0)
    samples = [
        make_sample(
            f"{split}{i}",
            split,
            sound(0.2 * rng.standard_normal(2 * 8000)),
            image=encoded(noise_picture(i // 2)),
            labels={"track": f"{split}/t{i // 2}", "game": f"g{i % 3}", "image_id": f"p{i // 2}", "pairing": "theme"},
        )
        for split, n in (("train", 16), ("val", 4))
        for i in range(n)
    ]
    folder = data_set(tmp_path / "set", samples)
    words = ["probe", "tiny", f"data.path={folder}", "data.source=manifest", f"out={tmp_path}/out", "permutations=10"]
    assert main(words) == 0
    found = json.loads((tmp_path / "out/probe.json").read_text())
    assert found["about"]["tracks"] == 10 and found["about"]["pairings"] == {"theme": 10} and found["pairing"] == {}
    assert "| all (10) | 10 |" in capsys.readouterr().out
    monkeypatch.setattr(track_features, "LEAST", 11)
    assert main(words) == 2 and "has 10 tracks with a picture; a probe needs 11" in capsys.readouterr().err
    assert main([*words, "splits=,"]) == 2 and "names no split" in capsys.readouterr().err
