"""Two coordinates from many: against closed forms, and on sets that are too small, equal, or huge."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from onnxviz.errors import MissingDependency, UsageError
from onnxviz.features import project as module
from onnxviz.features.project import principal, project
from tests.features.crops import kept

METHODS = ["pca", "tsne", "umap"]


def groups(count=3, each=15, features=20, seed=0):
    random = np.random.default_rng(seed)
    centres = random.normal(size=(count, features)) * 8
    points = np.repeat(centres, each, axis=0) + random.normal(size=(count * each, features))
    return points.astype(np.float32), np.repeat(np.arange(count), each)


def test_principal_components_are_those_of_the_covariance():
    features, _ = groups()
    scores, shares = principal(features, 3)
    covariance = np.cov(features.astype(np.float64).T)
    variances, axes = np.linalg.eigh(covariance)
    np.testing.assert_allclose(shares, variances[::-1][:3] / variances.sum(), rtol=1e-9)
    expected = (features - features.mean(axis=0)) @ axes[:, ::-1][:, :3]
    np.testing.assert_allclose(np.abs(scores), np.abs(expected), atol=1e-4)


@pytest.mark.parametrize("shape", [(500, 8), (8, 500), (30, 30)])
def test_wide_and_tall_sets_have_one_answer(shape):
    features = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    scores, shares = principal(features, 2)
    singular = np.linalg.svd(features - features.mean(axis=0), compute_uv=False)
    np.testing.assert_allclose(shares, (singular**2 / (singular**2).sum())[:2], rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(scores, axis=0), singular[:2], rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_groups_stay_together_and_the_seed_decides(method):
    features, labels = groups()
    found = project(features, method, seed=3)
    assert found.points.shape == (45, 2)
    assert found.points.dtype == np.float32
    assert kept(found.points, labels) > 0.95
    np.testing.assert_array_equal(found.points, project(features, method, seed=3).points)
    if method != "pca":
        assert not np.array_equal(found.points, project(features, method, seed=4).points)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("features", [1, 2, 7])
def test_few_features_and_few_points(method, features):
    values = np.random.default_rng(0).normal(size=(5, features)).astype(np.float32)
    found = project(values, method)
    assert np.isfinite(found.points).all()
    assert len(np.unique(found.points, axis=0)) == 5
    equal = project(np.ones((12, features), np.float32), method)  # all lie on one point
    np.testing.assert_array_equal(equal.points, np.zeros((12, 2), np.float32))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_plane_needs_no_neighbours_but_neighbourhoods_do(count):
    values = np.eye(4, dtype=np.float32)[:count]
    points = project(values, "pca").points
    assert points.shape == (count, 2)
    if count == 2:
        np.testing.assert_allclose(np.linalg.norm(points[0] - points[1]), np.sqrt(2), rtol=1e-6)
    for method in ("tsne", "umap"):
        with pytest.raises(UsageError, match="at least 4"):
            project(values, method)


@pytest.mark.parametrize("method", ["tsne", "umap"])
def test_copies_among_others_break_nothing(method):
    values = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    values[10:] = values[0]
    found = project(values, method)
    assert np.isfinite(found.points).all()
    if method == "tsne":
        assert found.figures["divergence"] >= 0  # scikit-learn's tree gives less than 0 where it miscounts


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_features_of_any_size(method, scale):
    features, labels = groups()
    before = features * np.float32(scale)
    points = project(before, method).points / np.float32(scale) ** (method == "pca")
    assert kept(points, labels) > 0.95
    np.testing.assert_array_equal(before, features * np.float32(scale))  # left alone


def test_perplexity_is_lowered_with_a_note_and_only_where_it_must_be():
    features, _ = groups(each=5)
    few = project(features, "tsne")
    assert few.figures["perplexity"] == pytest.approx(14 / 3, abs=1e-3)
    assert few.notes == ["perplexity lowered from 30 to 4.67: there are 15 pictures"]
    enough = project(features, "tsne", perplexity=3)
    assert enough.figures["perplexity"] == 3
    assert not enough.notes
    assert project(features, "umap", perplexity=40).figures["n_neighbors"] == 14


def test_large_sets_go_to_open_tsne(monkeypatch):
    monkeypatch.setattr(module, "_LARGE", 40)
    features, labels = groups()
    found = project(features, "tsne")
    assert found.figures["engine"].startswith("openTSNE")
    assert kept(found.points, labels) > 0.95
    np.testing.assert_array_equal(found.points, project(features, "tsne").points)


def test_many_components_are_found_by_the_seeded_solver(monkeypatch):
    monkeypatch.setattr(module, "_EXACT", 10)
    features, _ = groups()
    fast, shares = principal(features, 2, seed=1)
    monkeypatch.undo()
    exact, true_shares = principal(features, 2)
    np.testing.assert_allclose(shares, true_shares, rtol=1e-3)
    np.testing.assert_allclose(np.abs(fast), np.abs(exact), atol=0.05)


@pytest.mark.parametrize(
    ("method", "options", "error", "words"),
    [
        ("t-sne", {}, UsageError, "did you mean 'tsne'"),
        ("tsne", {"perplexity": 0.5}, UsageError, "perplexity"),
        ("tsne", {"perplexity": float("nan")}, UsageError, "perplexity"),
        ("umap", {}, MissingDependency, r"onnxviz\[maps\]"),
    ],
)
def test_wrong_choices_are_told(monkeypatch, method, options, error, words):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "umap" else find(name))
    with pytest.raises(error, match=words):
        project(groups()[0], method, **options)
