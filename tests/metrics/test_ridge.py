"""Ridge out of fold, ranks and their null."""

import numpy as np
import pytest

from melfusion.metrics.ridge import PENALTIES, Folds, directions, exchanged, permuted, ranks, standardised, whitened

RNG = np.random.default_rng(0)
FEATURES, TARGETS = standardised(RNG.standard_normal((40, 60))), RNG.standard_normal((40, 5))
FOLD = np.arange(40) % 4


@pytest.mark.parametrize("grouped", [False, True])
def test_it_is_ridge_regression_on_the_other_folds_with_their_own_means(grouped):
    groups = np.asarray(list("aabbb") * 8)
    folds = Folds.of(FEATURES, FOLD, groups=groups if grouped else None)
    kept, named = FOLD != 2, groups if grouped else np.full(40, "a")
    means = {g: (FEATURES[kept & (named == g)].mean(0), TARGETS[kept & (named == g)].mean(0)) for g in set(named)}
    x = FEATURES - np.stack([means[g][0] for g in named])
    y = TARGETS - np.stack([means[g][1] for g in named])
    scale = np.square(x[kept]).sum() / kept.sum()
    for hat, penalty in zip(folds.hats, PENALTIES, strict=True):
        weights = np.linalg.solve(x[kept].T @ x[kept] + penalty * scale * np.eye(60), x[kept].T @ y[kept])
        np.testing.assert_allclose((hat @ TARGETS)[FOLD == 2], (x @ weights)[FOLD == 2], rtol=1e-6, atol=1e-9)


def test_centring_over_all_items_tells_nothing():
    """Of features and targets that sum up to 0 an interpolation would give each item as the negative of the others."""
    found = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x, y = standardised(rng.standard_normal((30, 200))), standardised(rng.standard_normal((30, 3)))
        found.append(np.mean(ranks(Folds.of(x, range(30)).hats[0] @ y, y, ~np.eye(30, dtype=bool))))
    assert abs(np.mean(found) - 0.5) < 0.04


def test_no_fold_sees_its_own_targets_nor_those_that_are_left_out():
    trained = np.arange(40) < 30
    folds = Folds.of(FEATURES, FOLD, trained)
    for one in range(4):
        changed = TARGETS.copy()
        changed[(one == FOLD) | ~trained] += 100
        for hat in folds.hats:
            assert np.array_equal((hat @ changed)[one == FOLD], (hat @ TARGETS)[one == FOLD])


def test_the_penalty_whose_predictions_correlate_most_is_taken():
    targets = FEATURES[:, :3] @ RNG.standard_normal((3, 5))
    folds = Folds.of(FEATURES[:, :3], FOLD)
    assert np.array_equal(folds.predict(targets), folds.hats[0] @ targets)  # nothing to be smoothed
    fits = [np.corrcoef((hat @ TARGETS).ravel(), (TARGETS - TARGETS.mean(0)).ravel())[0, 1] for hat in folds.hats]
    assert np.array_equal(folds.predict(TARGETS), folds.hats[int(np.argmax(fits))] @ TARGETS)


def test_ranks_by_hand():
    targets = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0], [2.0, 2.0]])
    predicted = np.array([[1.0, -1.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    candidates = ~np.eye(4, dtype=bool)
    candidates[3] = False
    found = ranks(predicted, targets, candidates)
    assert found[:3] == pytest.approx([1, 1 / 3, 5 / 6]) and np.isnan(found[3])


def test_whitened_columns_are_uncorrelated_and_of_unit_variance():
    made = whitened(np.hstack([TARGETS, 1000 * TARGETS[:, :2], np.ones((40, 1))]), 4)
    np.testing.assert_allclose(made.T @ made / 40, np.eye(4), atol=1e-9)


def test_a_permutation_stays_within_its_groups():
    groups = ["a"] * 10 + ["b"] * 10
    order = permuted(groups, np.random.default_rng(0))
    assert sorted(order[:10]) == list(range(10)) and sorted(order) == list(range(20)) and (order != np.arange(20)).sum() > 10


def test_an_exchange_gives_each_group_the_items_of_one_other():
    groups = ["a"] * 3 + ["b"] * 8 + ["c"] * 5
    for seed in range(5):
        order = exchanged(groups, np.random.default_rng(seed))
        given = [{groups[j] for i, j in enumerate(order) if groups[i] == name} for name in "abc"]
        assert all(len(names) == 1 for names in given) and set.union(*given) == {"a", "b", "c"}


def test_what_is_asked_about_does_not_choose_the_penalty():
    generator = np.random.default_rng(0)
    features = directions(generator.standard_normal((60, 20)))
    learned = np.arange(60) < 40
    ridge = Folds.of(features, [place % 4 if known else 4 for place, known in enumerate(learned)], learned)
    targets = features @ generator.standard_normal((20, 3)) + generator.standard_normal((60, 3))
    targets[learned] -= targets[learned].mean(0)
    others = [np.where(learned[:, None], targets, sign * 50 * generator.standard_normal((60, 3))) for sign in range(6)]
    judged = [ridge.predict(one, learned)[~learned] for one in others]
    assert all(np.array_equal(judged[0], one) for one in judged)
    assert any(not np.array_equal(judged[0], ridge.predict(one)[~learned]) for one in others)
