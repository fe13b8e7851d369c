"""Ridge out of fold, ranks and their null."""

import numpy as np
import pytest

from melfusion.metrics.ridge import PENALTIES, Folds, apart, permuted, ranks, standardised, whitened

RNG = np.random.default_rng(0)
FEATURES, TARGETS = standardised(RNG.standard_normal((40, 60))), RNG.standard_normal((40, 5))
FOLD = np.arange(40) % 4


def test_it_is_ridge_regression_on_the_other_folds():
    folds = Folds.of(FEATURES, FOLD)
    for hat, penalty in zip(folds.hats, PENALTIES, strict=True):
        kept, scale = FOLD != 2, np.square(FEATURES).sum(1).mean()
        x, y = FEATURES[kept], TARGETS[kept]
        weights = np.linalg.solve(x.T @ x + penalty * scale * np.eye(60), x.T @ y)
        np.testing.assert_allclose((hat @ TARGETS)[FOLD == 2], FEATURES[FOLD == 2] @ weights, rtol=1e-6, atol=1e-9)


def test_no_fold_sees_its_own_targets_nor_those_that_are_left_out():
    trained = np.arange(40) < 30
    folds = Folds.of(FEATURES, FOLD, trained)
    for one in range(4):
        changed = TARGETS.copy()
        changed[(one == FOLD) | ~trained] += 100
        for hat in folds.hats:
            assert np.array_equal((hat @ changed)[one == FOLD], (hat @ TARGETS)[one == FOLD])


def test_the_penalty_with_the_smallest_error_is_taken():
    targets = FEATURES[:, :3] @ RNG.standard_normal((3, 5))
    folds = Folds.of(FEATURES[:, :3], FOLD)
    assert np.array_equal(folds.predict(targets), folds.hats[0] @ targets)  # nothing to be smoothed
    errors = [np.square(hat @ TARGETS - TARGETS).sum() for hat in folds.hats]
    assert np.square(folds.predict(TARGETS) - TARGETS).sum() == min(errors)


def test_ranks_by_hand():
    targets = np.array([[0.0], [1.0], [3.0], [3.0]])
    predicted = np.array([[0.4], [2.6], [3.0], [0.0]])
    candidates = ~np.eye(4, dtype=bool)
    candidates[3] = False
    found = ranks(apart(predicted, targets), candidates)
    assert found[:3] == pytest.approx([1, 1 / 3, 5 / 6]) and np.isnan(found[3])


def test_whitened_columns_are_uncorrelated_and_of_unit_variance():
    made = whitened(np.hstack([TARGETS, 1000 * TARGETS[:, :2], np.ones((40, 1))]), 4)
    np.testing.assert_allclose(made.T @ made / 40, np.eye(4), atol=1e-9)


def test_a_permutation_stays_within_its_groups():
    groups = ["a"] * 10 + ["b"] * 10
    order = permuted(groups, np.random.default_rng(0))
    assert sorted(order[:10]) == list(range(10)) and sorted(order) == list(range(20)) and (order != np.arange(20)).sum() > 10
