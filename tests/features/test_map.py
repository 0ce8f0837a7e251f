"""The map: crops of one photo land together, on the scatter and on the grid."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import onnxviz
from onnxviz.errors import MissingDependency, UsageError
from onnxviz.features.embed import embed
from onnxviz.features.embedding import Embedding, thumbnails
from onnxviz.features.map import assign, grid
from onnxviz.features.map import map as make_map
from tests.features import crops
from tests.features.crops import noise
from tests.stopped import stopped


def together(places, files):
    """The share of pictures whose nearest place is a crop of the same photo."""
    return crops.kept(places, np.array([crops.photo_of(file) for file in files]))


@pytest.mark.parametrize("method", ["pca", "tsne", "umap"])
def test_crops_of_one_photo_land_together(net, embedding, method):
    told = []
    found = make_map(net, embedding, method=method, seed=1, progress=lambda *step: told.append(step))
    assert (found.values.shape, found.values.dtype) == ((len(embedding), 2), np.float32)
    assert together(found.values, found.files) > 0.9
    row, column = np.divmod(found.cells.cell, found.cells.columns)
    # On the grid a group's edge touches the next group; by chance it would be 5 of 23.
    assert together(np.stack([column, row], axis=1), found.files) > 0.7
    np.testing.assert_array_equal(found.values, make_map(net, embedding, method=method, seed=1).values)
    assert told[0][:2] == (0, None)
    assert told[-1] == (24, 24, "pictures")


def test_the_grid_shows_each_picture_in_its_cell(net, embedding):
    found = make_map(net, embedding, method="pca")
    drawn = np.asarray(found.grid())
    rows, columns, edge = found.cells.rows, found.cells.columns, drawn.shape[1] // found.cells.columns
    assert drawn.shape == (rows * edge, columns * edge, 3)
    inside = drawn.reshape(rows, edge, columns, edge, 3).swapaxes(1, 2).reshape(-1, edge, edge, 3)
    used = np.isin(np.arange(rows * columns), found.cells.cell)
    np.testing.assert_array_equal((inside == 255).all(axis=(1, 2, 3)), ~used)
    for index, cell in zip(found.cells.index.tolist(), found.cells.cell.tolist(), strict=True):
        middle = inside[cell, edge // 2, edge // 2].astype(int)
        view = net.pictures(embedding.sources[index])[0].astype(int)
        near = view[view.shape[0] // 2 - 12 :, view.shape[1] // 2 - 12 :][:24, :24]
        assert np.all(middle >= near.min(axis=(0, 1)) - 40)
        assert np.all(middle <= near.max(axis=(0, 1)) + 40)
    whole, grid = found.picture(), found.grid()  # grid and scatter, side by side
    assert whole.width > grid.width + 900
    assert whole.height > grid.height
    assert found.scatter((500, 400)).size == (500, 400)


def test_the_manifest_tells_of_the_pictures(net, embedding):
    manifest = make_map(net, embedding, method="tsne").manifest
    assert manifest["files"] == embedding.files
    assert manifest["figures"]["pictures"] == manifest["figures"]["on_the_grid"] == len(embedding)
    assert manifest["figures"]["perplexity"] < 30
    assert "perplexity lowered" in manifest["notes"][0]
    assert manifest["parameters"]["method"] == "tsne"


@pytest.mark.parametrize("count, method", [(1, "pca"), (2, "pca"), (9, "pca"), (10, "tsne")])
def test_few_pictures_lie_on_a_plane(tiny, count, method):
    found = make_map(tiny, noise(count))
    assert (found.method, found.values.shape) == (method, (count, 2))
    assert np.isfinite(found.values).all()
    assert found.picture().mode == "RGB"


def test_equal_pictures_lie_on_one_point_but_not_on_one_cell(tiny):
    found = make_map(tiny, noise(1) * 12)
    np.testing.assert_array_equal(found.values, np.zeros((12, 2)))
    assert len(np.unique(found.cells.cell)) == 12
    assert found.manifest["notes"] == ["all features are equal"]
    assert found.picture().mode == "RGB"


def test_features_that_are_not_finite_are_left_out_and_told(tiny):
    given = embed(tiny, noise())
    given.values[[1, 4], 3] = np.nan, np.inf
    found = make_map(tiny, given)
    assert found.rows.tolist() == [0, 2, 3, 5]
    assert found.files == [f"image {row}" for row in found.rows]
    assert found.manifest["figures"]["left_out"] == 2
    assert set(found.tiles) == {0, 1, 2, 3}
    edge = found.tiles[1].shape[0]
    np.testing.assert_array_equal(found.tiles[1], thumbnails(tiny, given, [2], edge)[2])
    given.values[:] = np.nan
    with pytest.raises(onnxviz.errors.ModelUnsuitable):
        make_map(tiny, given)


def test_the_grid_of_many_pictures_is_a_sample_that_is_told(tiny, monkeypatch):
    monkeypatch.setattr("onnxviz.features.map.MOST", 12)
    found = make_map(tiny, noise(40), method="pca", seed=2)
    assert found.values.shape == (40, 2)
    assert len(found.tiles) == found.manifest["figures"]["on_the_grid"] == 12
    assert found.picture().mode == "RGB"


def test_features_from_a_file_give_the_same_map(net, embedding, tmp_path):
    again = Embedding.load(embedding.save(tmp_path / "features.parquet"))
    first, second = (make_map(net, given, method="pca") for given in (embedding, again))
    np.testing.assert_array_equal(first.values, second.values)
    assert first.picture().tobytes() == second.picture().tobytes()
    assert first.manifest == second.manifest


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"method": "mds"}, UsageError, "method"),
        ({"method": "tsne", "perplexity": 0}, UsageError, "perplexity"),
        ({"method": "umap"}, MissingDependency, r"onnxviz\[maps\]"),
    ],
)
def test_wrong_choices_are_told_before_any_work(tiny, monkeypatch, options, error, words):
    monkeypatch.setattr("onnxviz.features.neighbours.embed", None)
    monkeypatch.setattr("onnxviz.features.project._installed", lambda name: False)
    with pytest.raises(error, match=words):
        make_map(tiny, noise(), **options)


def test_an_interruption_does_not_lose_the_features(tiny):
    assert len(stopped(make_map, tiny, noise(), when=lambda _, __, what: what == "PCA")) == 6


# --- grid --------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(0, 2**31), st.sampled_from(["cloud", "line", "same", "outlier"]))
def test_each_picture_has_a_cell_of_its_own(count, seed, kind):
    points = np.random.default_rng(seed).normal(size=(count, 2))
    points[:, 1] = 0 if kind == "line" else points[:, 1]
    points[:] = 1 if kind == "same" else points
    points[0] = 1e6 if kind == "outlier" else points[0]
    found = grid(points)
    assert len(np.unique(found.cell)) == count
    assert 0 <= found.cell.min() <= found.cell.max() < found.rows * found.columns
    np.testing.assert_array_equal(found.index, np.arange(count))
    assert abs(found.rows - found.columns) <= 1


@pytest.mark.parametrize("rows, columns", [(3, 4), (1, 7), (6, 2)])
def test_a_shuffled_grid_is_put_in_order(rows, columns):
    cells = np.random.default_rng(0).permutation(rows * columns)
    row, column = np.divmod(cells, columns)
    points = np.stack([column, -row], axis=1).astype(np.float32)  # y upwards, row 0 at the top
    np.testing.assert_array_equal(assign(points, rows, columns), cells)


def test_the_total_distance_is_the_least_there_is():
    from onnxviz.features.map import _spread

    points = np.random.default_rng(3).uniform(size=(6, 2))
    centres = np.array([((c + 0.5) / 3, 1 - (r + 0.5) / 2) for r in range(2) for c in range(3)])

    def total(cells):
        return ((_spread(points) - centres[list(cells)]) ** 2).sum()

    least = min(map(total, itertools.permutations(range(6))))
    assert total(assign(points, 2, 3)) == pytest.approx(least)


def test_groups_stay_together_and_empty_cells_part_them():
    centres = np.array([[0, 0], [10, 0], [0, 10], [10, 10]])
    points = np.repeat(centres, 20, axis=0) + np.random.default_rng(0).normal(size=(80, 2))
    found = grid(points)
    row, column = np.divmod(found.cell, found.columns)
    places = np.stack([column, -row], axis=1)
    for start in range(0, 80, 20):
        own = np.isin(np.arange(80), np.arange(start, start + 20))
        away = np.linalg.norm(places - places[own].mean(axis=0), axis=1)
        assert np.mean(away[~own] > away[own].max()) > 0.95
    assert found.rows * found.columns - 80 >= 15


def test_of_too_many_a_seeded_sample_is_shown(monkeypatch):
    monkeypatch.setattr("onnxviz.features.map.MOST", 20)
    points = np.random.default_rng(0).normal(size=(50, 2))
    found = grid(points, seed=1)
    assert len(found.index) == len(found.cell) == 20
    assert np.all(np.diff(found.index) > 0)
    np.testing.assert_array_equal(found.index, grid(points, seed=1).index)
    assert not np.array_equal(found.index, grid(points, seed=2).index)
