"""Nearest pictures: crops of one photo find each other, the query never itself."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

import onnxviz
from onnxviz.errors import InputRefused, UsageError
from onnxviz.features.embed import embed
from onnxviz.features.neighbours import nearest, neighbours, number, spread
from tests.features import crops
from tests.features.crops import noise
from tests.stopped import stopped


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_crops_of_one_photo_find_each_other(net, embedding, metric):
    found = neighbours(net, embedding, queries=8, k=5, metric=metric)
    assert (found.values.shape, found.values.dtype) == ((8, 5), np.float32)
    assert np.all(np.diff(found.values, axis=1) >= 0)
    pairs = [(row["query"], one["file"]) for row in found.rows for one in row["neighbours"]]
    assert np.mean([crops.photo_of(query) == crops.photo_of(file) for query, file in pairs]) > 0.9
    assert all(query != file for query, file in pairs)
    # All four photos are among the eight queries: they are drawn to differ.
    assert {crops.photo_of(row["query"]) for row in found.rows} == set(crops.NAMES)
    assert found.manifest["rows"] == found.rows
    parameters = {"k": 5, "metric": metric, "layer": embedding.layer, "seed": 0}
    assert (found.manifest["parameters"], found.manifest["figures"]["queries"]) == (parameters, 8)


def test_distances_are_those_of_the_features(net, embedding, files):
    found = neighbours(net, embedding, queries=[files[3]], k=4)
    gaps = np.linalg.norm(embedding.values - embedding.values[3], axis=1)
    order = np.argsort(gaps)[1:5]
    np.testing.assert_array_equal(found.index[0], order)
    np.testing.assert_allclose(found.values[0], gaps[order], rtol=1e-4)


def test_a_query_from_outside_may_find_anything(net, embedding, files, tmp_path, cat):
    shutil.copy(files[3], tmp_path / "copy.png")
    row, other = neighbours(net, embedding, queries=[tmp_path / "copy.png", cat], k=2).rows
    # The copy's original cannot be told from it: left out, and counted.
    assert str(files[3]) not in [one["file"] for one in row["neighbours"]]
    assert (row["copies"], other["copies"], other["query"]) == (1, 0, "image 1")
    assert crops.photo_of(other["neighbours"][0]["file"]) == "chelsea"


def test_embedding_afresh_or_from_a_file_is_the_same(net, embedding, files, tmp_path):
    again = type(embedding).load(embedding.save(tmp_path / "features.npz"))
    ways = [neighbours(net, given, queries=3, k=2, seed=5) for given in (files, embedding, again)]
    for way in ways[1:]:
        np.testing.assert_array_equal(way.index, ways[0].index)
        np.testing.assert_allclose(way.values, ways[0].values, rtol=1e-4)
        assert way.picture().tobytes() == ways[1].picture().tobytes()


def test_few_pictures(tiny):
    two = neighbours(tiny, noise(2), k=5)
    assert two.index.tolist() == [[1, -1, -1, -1, -1], [0, -1, -1, -1, -1]]
    assert [len(row["neighbours"]) for row in two.rows] == [1, 1]
    assert two.picture().mode == "RGB"
    with pytest.raises(UsageError, match="at least two"):
        neighbours(tiny, noise(1))
    assert neighbours(tiny, noise(1), queries=noise(3)[1:], k=1).index.tolist() == [[0], [0]]


def test_a_set_of_copies_has_no_neighbours_and_says_so(tiny):
    found = neighbours(tiny, noise(1) * 5, queries=2)
    assert np.isnan(found.values).all()
    assert found.copies.tolist() == [4, 4]
    assert all(row["neighbours"] == [] for row in found.rows)
    assert found.picture().mode == "RGB"


def test_features_that_are_not_finite_are_left_out(tiny):
    given = embed(tiny, noise())
    given.values[2] = np.nan
    found = neighbours(tiny, given, queries=10, k=10)
    assert 2 not in found.index
    assert len(found.rows) == 5
    assert any("left out" in warning for warning in found.manifest["warnings"])
    given.values[:] = np.inf
    with pytest.raises(onnxviz.errors.ModelUnsuitable, match="NaN or infinite"):
        neighbours(tiny, given)


def test_a_replaced_file_is_never_shown(tiny, tmp_path):
    paths = [tmp_path / f"{place}.png" for place in range(3)]
    for path, image in zip(paths, noise(3), strict=True):
        Image.fromarray(image).save(path)
    given = embed(tiny, paths)
    Image.fromarray(np.full((32, 32, 3), 255, np.uint8)).save(paths[1])
    paths[2].unlink()
    found = neighbours(tiny, given, queries=3, k=2)
    assert found.manifest["figures"]["not_redrawn"] == 4  # each as a query and as a neighbour
    assert {place for place, tile in found.tiles.items() if tile is not None} == {("set", 0), ("query", 0)}
    assert found.picture().mode == "RGB"


def test_the_seed_draws_the_queries(tiny):
    given = embed(tiny, noise(30))
    drawn = [neighbours(tiny, given, queries=4, seed=seed).queries.files for seed in (1, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2] or drawn[0] != drawn[3]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"metric": "cosin"}, "did you mean 'cosine'"),
        ({"k": 0}, "k must be"),
        ({"queries": 0}, "number of queries"),
    ],
)
def test_wrong_choices_are_told_before_any_work(tiny, monkeypatch, options, words):
    monkeypatch.setattr("onnxviz.features.neighbours.embed", None)
    with pytest.raises(UsageError, match=words):
        neighbours(tiny, noise(), **options)


def test_an_embedding_of_something_else_is_refused(tiny, net, embedding):
    with pytest.raises(InputRefused, match="another model"):
        neighbours(tiny, embedding)
    with pytest.raises(UsageError, match="features are of layer"):
        neighbours(net, embedding, layer="stem")


def test_an_interruption_brings_the_features_so_far(tiny):
    assert len(stopped(neighbours, tiny, noise(), batch=2, when=lambda done, *_: done == 2)) == 2


def test_the_picture_has_a_row_a_query_and_a_column_a_neighbour(net, embedding):
    small, wide, high = (
        neighbours(net, embedding, queries=q, k=k).picture() for q, k in ((2, 4), (2, 6), (4, 4))
    )
    assert wide.width > small.width
    assert wide.height == small.height
    assert high.height > small.height + 250


def test_distances_are_written_with_three_digits():
    assert [number(value) for value in (5.8, 17.25, 0.0224489, 123.4, 0.0, 12345.0)] == [
        "5.80", "17.2", "0.0224", "123.", "0", "1.23e+04"
    ]  # fmt: skip


# --- nearest -----------------------------------------------------------------------------


def by_hand(features, query, metric):
    a, b = features.astype(np.float64), query.astype(np.float64)
    if metric == "l2":
        return np.sqrt(((a - b) ** 2).sum(axis=1))
    return 1 - a @ b / (np.linalg.norm(a, axis=1) * np.linalg.norm(b))


@pytest.fixture
def features():
    return np.random.default_rng(0).normal(size=(200, 24)).astype(np.float32)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("scale", [1, 1e-25, 1e25])
def test_it_is_what_sorting_gives(features, metric, scale):
    values = features * np.float32(scale)
    queries = np.random.default_rng(1).normal(size=(6, 24)).astype(np.float32) * np.float32(scale)
    found = nearest(values, queries, 7, metric)
    assert found.distance.dtype == np.float32
    for q, query in enumerate(queries):
        expected = by_hand(values, query, metric)
        np.testing.assert_array_equal(found.index[q], np.argsort(expected, kind="stable")[:7])
        np.testing.assert_allclose(found.distance[q], np.sort(expected)[:7], rtol=1e-5)
    assert not found.copies.any()


def test_the_query_is_not_its_own_neighbour(features):
    own = np.array([4, 90])
    found = nearest(features, features[own], 200, own=own)
    assert not np.any(found.index == own[:, None])
    np.testing.assert_array_equal(np.sort(found.index[0])[1:], np.delete(np.arange(200), 4))
    assert found.index[0, -1] == -1  # 199 others
    assert np.isnan(found.distance[0, -1])
    assert not found.copies.any()


def test_copies_are_left_out_and_counted_however_many(features):
    features[50:150] = features[3] * (1 + 1e-7)
    found = nearest(features, features[[3]], 5, own=np.array([3]))
    assert found.copies[0] == 100
    expected = by_hand(features, features[3], "l2")
    expected[[3, *range(50, 150)]] = np.inf
    np.testing.assert_array_equal(found.index[0], np.argsort(expected)[:5])


@pytest.mark.parametrize(("factor", "metric"), [(np.float32(1.001), "l2"), (2, "cosine")])
def test_a_picture_that_differs_a_little_or_in_length_is_no_copy(features, factor, metric):
    features[7] = features[3] * factor
    found = nearest(features, features[[3]], 1, metric, own=np.array([3]))
    assert (found.index[0, 0], found.copies[0]) == (7, 0)
    assert metric == "l2" or found.distance[0, 0] == pytest.approx(0, abs=1e-6)


def test_zeros_are_like_nothing_and_break_nothing():
    features = np.zeros((5, 3), np.float32)
    features[4] = 1
    found = nearest(features, features[[0]], 4, "cosine", own=np.array([0]))
    np.testing.assert_array_equal(found.distance[0], np.ones(4))
    assert nearest(features, features[[0]], 1, "l2", own=np.array([0])).index[0, 0] == 1


def test_ties_come_in_the_order_of_the_set():
    features = np.eye(40, dtype=np.float32)
    np.testing.assert_array_equal(
        nearest(features, features[[9]], 4, own=np.array([9])).index[0], [0, 1, 2, 3]
    )


def test_drawn_rows_differ_and_the_seed_decides():
    groups = np.repeat(np.eye(5, dtype=np.float32) * 100, 30, axis=0)
    groups += np.random.default_rng(0).normal(size=groups.shape).astype(np.float32)
    rows = spread(groups, 5, seed=2)
    assert sorted(rows // 30) == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(rows, spread(groups, 5, seed=2))
    assert any(not np.array_equal(rows, spread(groups, 5, seed=seed)) for seed in (3, 4))


def test_drawing_from_copies_and_from_few():
    np.testing.assert_array_equal(spread(np.ones((3, 2), np.float32), 8), [0, 1, 2])
    for value in (1, 1e30):
        assert len(set(spread(np.full((9, 2), value, np.float32), 4).tolist())) == 4
