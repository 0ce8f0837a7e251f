"""The statistics of a comparison against independent ones: scipy's, ONNX Runtime's, and sums by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from onnxruntime.quantization.qdq_loss_debug import compute_signal_to_quantization_noice_ratio

from onnxviz.auditing.statistics import Calibration, Likeness, Share, mcnemar, overlap, spearman


@pytest.mark.parametrize("count, of", [(0, 1), (1, 1), (0, 36), (35, 36), (36, 36), (61, 68), (1, 10_000)])
def test_limits_are_wilsons(count, of):
    wanted = scipy.stats.binomtest(count, of).proportion_ci(method="wilson")
    np.testing.assert_allclose(Share(count, of).limits, (wanted.low, wanted.high), atol=1e-12)


def test_a_share_of_nothing_says_nothing():
    assert Share(0, 0).share is None
    assert Share(0, 0).limits == (0.0, 1.0)
    assert str(Share(0, 0)) == "none of 0"


@pytest.mark.parametrize("fixed, broken", [(0, 0), (0, 1), (3, 3), (1, 9), (9, 1), (120, 180)])
def test_mcnemar_is_the_exact_binomial_test(fixed, broken):
    total = fixed + broken
    wanted = scipy.stats.binomtest(min(fixed, broken), total, 0.5).pvalue if total else 1.0
    assert mcnemar(fixed, broken) == pytest.approx(wanted, rel=1e-9)


def test_rank_correlation_is_scipys_with_ties():
    rng = np.random.default_rng(0)
    for levels in (2, 5, 1000):
        one = rng.integers(0, levels, (28, 28)).astype(np.float32)
        other = one + rng.integers(0, levels, (28, 28))
        wanted = scipy.stats.spearmanr(one.ravel(), other.ravel()).statistic
        assert spearman(one, other) == pytest.approx(wanted, abs=1e-12)
    assert math.isnan(spearman(np.ones(4), np.arange(4)))


def test_overlap_counts_the_largest_tenth():
    one = np.arange(100.0)
    assert overlap(one, one) == 1.0
    assert overlap(one, -one) == 0.0
    other = one.copy()
    other[[90, 91, 92]] = 0  # seven of the ten largest stay
    assert overlap(one, other) == pytest.approx(0.7)


def test_calibration_error_by_hand():
    found, ends = Calibration(), Calibration()
    assert found.error is None
    for confidence, right in ((0.95, True), (0.99, False), (0.5, True)):
        found.add(confidence, right)
    # Bins of 1/15: the first two fall into the last, right by half at a mean confidence of 0.97; the third is alone.
    assert found.error == pytest.approx((2 * abs(0.5 - 0.97) + abs(1 - 0.5)) / 3)
    ends.add(0.0, False)
    ends.add(1.0, True)
    assert ends.error == 0.0


def test_signal_to_noise_is_onnx_runtimes():
    rng = np.random.default_rng(0)
    pieces = [(rng.standard_normal(size), rng.standard_normal(size)) for size in (7, 1000, 33)]
    pieces = [(x.astype(np.float32), (x + 0.01 * d).astype(np.float32)) for x, d in pieces]
    found = Likeness()
    for x, y in pieces:
        found.add(x, y)
    wanted = compute_signal_to_quantization_noice_ratio(*map(list, zip(*pieces, strict=True)))
    assert found.sqnr == pytest.approx(wanted, abs=1e-4)
    x, y = (np.concatenate(side) for side in zip(*pieces, strict=True))
    assert found.cosine == pytest.approx(float(x @ y) / np.linalg.norm(x) / np.linalg.norm(y), abs=1e-6)
    same = Likeness()
    same.add(x, x)
    assert same.sqnr == pytest.approx(compute_signal_to_quantization_noice_ratio(x, x), abs=1e-3)
    assert Likeness().cosine is None
