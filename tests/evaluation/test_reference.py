"""Distances grow where they should, intervals are over tracks, and few clips have a reason in words."""

import numpy as np
import pytest
import torch
from metric_fixtures import labels, predictions

from melfusion.evaluation.reference import Reference
from melfusion.evaluation.tables import distances as distance_table


def test_distances_grow_with_the_shift_and_carry_intervals():
    measure = Reference.fit(predictions(400, 1), predictions(120, 2), labels(120), labels(120))
    near, far = (measure.score(predictions(120, 3, shift), labels(120))["ear"] for shift in (0.0, 1.0))
    for name in ("fad", "kad", "fad_conditional"):
        assert far[name]["mean"] > near[name]["mean"] + near[name]["interval"] > 0
    assert far["fad"]["mean"] == pytest.approx(3.0, rel=0.35)  # three dimensions, each one off
    assert abs(near["kad"]["mean"]) < 4 * near["kad"]["interval"]


def test_swapped_classes_are_seen_within_classes_alone():
    measure = Reference.fit(predictions(400, 1), predictions(120, 2), labels(120), labels(120))
    ours = predictions(120, 3)
    ours.embeddings["ear"][::2] += 2  # the sea is one thing, the city another
    reference = predictions(120, 2)
    reference.embeddings["ear"][::2] += 2
    measure.real = reference
    swapped = [{"place": ("city", "sea")[i % 2]} for i in range(120)]
    right, wrong = (measure.score(ours, classes)["ear"] for classes in (labels(120), swapped))
    assert wrong["fad"]["mean"] == right["fad"]["mean"]
    assert wrong["fad_conditional"]["mean"] > 5 * right["fad_conditional"]["mean"]


def test_few_clips_have_a_reason_in_words_and_kad():
    few = Reference.fit(predictions(400, 1), predictions(8, 2), labels(8), labels(8)).score(predictions(8, 3), labels(8))["ear"]
    assert "why_not" in few["fad"] and "8" in few["fad"]["why_not"] and "mean" not in few["fad"]
    assert "why_not" in few["fad_conditional"] and "mean" in few["kad"]
    shown = distance_table({"rows": {"made": {"distances": {"ear": few}}}}, "ear")
    assert "FAD is not computed: " in shown and "nan" not in shown and "-1" not in shown


def test_clips_that_share_tracks_have_intervals_over_tracks_and_no_frechet_distance():
    tracks = [f"t{i // 20}" for i in range(120)]

    def of_tracks(seed):
        return np.repeat(np.random.default_rng(seed).standard_normal((6, 1, 3)), 20, 0)

    sets = {seed: predictions(120, seed) for seed in (2, 3)}
    for seed, row in sets.items():
        row.embeddings["ear"] = 0.1 * row.embeddings["ear"] + torch.from_numpy(of_tracks(seed))  # six pieces, cut into twenty each
    alone, shared = (
        Reference.fit(predictions(400, 1), sets[2], labels(120), labels(120), tracks=t).score(sets[3], labels(120), t)["ear"]
        for t in (None, tracks)
    )
    assert shared["kad"]["mean"] < alone["kad"]["mean"] and shared["kad"]["over"] == "6 tracks against 6"
    assert shared["kad"]["interval"] > 2 * alone["kad"]["interval"]
    assert shared["kad"]["mean"] - shared["kad"]["interval"] < 0.5  # the same kind of music: six pieces say little
    for name in ("fad", "fad_inf", "fad_conditional"):
        assert "6 tracks" in shared[name]["why_not"] and "mean" in alone[name]


def test_the_paired_gain_is_surer_than_its_two_rows():
    reference, base = predictions(200, 2), predictions(200, 3, 1.0)
    row = predictions(200, 3, 0.8)  # the same clips, a little nearer
    measure = Reference.fit(predictions(400, 1), reference, [{}] * 200, [{}] * 200)
    gain = measure.gains(base, row, [{}] * 200)["ear"]
    scores = [measure.score(r, [{}] * 200)["ear"]["kad"] for r in (base, row)]
    assert gain["of"] == "kad" and gain["mean"] == pytest.approx(scores[0]["mean"] - scores[1]["mean"])
    assert 0 < gain["interval"] < 0.7 * (scores[0]["interval"] ** 2 + scores[1]["interval"] ** 2) ** 0.5
    by_class = Reference.fit(predictions(400, 1), reference, labels(200), labels(200)).gains(base, row, labels(200))["ear"]
    assert by_class["of"] == "fad_conditional" and 0 < by_class["mean"] < 1 and "over_seeds" not in by_class


def test_a_gain_that_differs_between_seeds_is_less_sure_over_seeds_than_over_clips():
    reference, base, row = predictions(300, 2), predictions(300, 3, 1.0), predictions(300, 3, 0.5)
    measure = Reference.fit(predictions(400, 1), reference, labels(300), labels(300))
    seeds = [i // 100 for i in range(300)]
    alike = measure.gains(base, row, labels(300), seeds=seeds)["ear"]
    row.embeddings["ear"][200:] = base.embeddings["ear"][200:]  # the third model is no better than the baseline
    apart = measure.gains(base, row, labels(300), seeds=seeds)["ear"]
    assert apart["over_seeds"] > 2 * apart["interval"] and apart["over_seeds"] > 2 * alike["over_seeds"] > 0


def test_without_a_pca_the_published_distance_needs_its_own_number_of_clips():
    few = Reference.fit(predictions(400, 1), predictions(29, 2), labels(29), labels(29), 0)
    assert few.dimensions["ear"].startswith("29 clips")
    full = Reference.fit(predictions(400, 1), predictions(30, 2), labels(30), labels(30), 0)
    assert full.dimensions["ear"] == 3 and "mean" in full.score(predictions(30, 3), labels(30))["ear"]["fad"]


def test_sets_of_unequal_size_are_made_equal_evenly():
    measure = Reference.fit(predictions(400, 1), predictions(60, 2), labels(60), labels(60))
    assert measure.even(30)[0].tolist() == list(range(0, 60, 2)) and measure.even(30)[1].tolist() == list(range(30))
    found = measure.score(predictions(30, 3), labels(30))["ear"]
    assert found["fad"]["n"] == 30


def test_a_row_with_fewer_clips_than_its_components_need_is_refused_in_words():
    """The components are chosen for all items, but a folder of sounds or a row without some seeds may hold fewer."""
    measure = Reference.fit(predictions(400, 1), predictions(120, 2), labels(120), labels(120))
    found = measure.score(predictions(20, 3), labels(20))["ear"]
    assert "20 clips are fewer than 10 for each of 3" in found["fad"]["why_not"] and "why_not" in found["fad_inf"]
    assert "fewer than 10 for each of" in found["fad_conditional"]["why_not"] and "mean" in found["kad"]
    gain = measure.gains(predictions(20, 4), predictions(20, 3), labels(20))["ear"]
    assert "fewer than 10" in gain["why_not"] and "mean" not in gain
    whole = measure.score(predictions(120, 3), labels(120))["ear"]
    assert {"mean", "interval", "n", "dimensions"} <= whole["fad_inf"].keys()


def test_clips_that_belong_to_no_item_have_no_distance_by_class():
    measure = Reference.fit(predictions(400, 1), predictions(120, 2), labels(120), labels(120))
    found = measure.score(predictions(120, 3), [{}] * 120)["ear"]
    assert found["fad_conditional"] == {"why_not": "No clip has a label."} and "mean" in found["fad"]
