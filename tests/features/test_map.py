"""The map: crops of one photo land together, on the scatter and on the grid."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import tiny_cnn

import onnxviz
from onnxviz.errors import InputRefused, MissingDependency, UsageError
from onnxviz.features.embed import embed
from onnxviz.features.embedding import Embedding
from onnxviz.features.map import assign, grid
from onnxviz.features.map import map as make_map
from onnxviz.progress import Interrupted
from tests.features import crops


@pytest.fixture(scope="module")
def embedding(net, tmp_path_factory):
    return embed(net, crops.write(tmp_path_factory.mktemp("crops")))


@pytest.fixture(scope="module")
def tiny():
    return onnxviz.load(tiny_cnn(), preprocess="unit", provider="cpu")


def images(count=6, edge=32):
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (edge, edge, 3), dtype=np.uint8) for _ in range(count)]


def together(places, files):
    """The share of pictures whose nearest place is a crop of the same photo."""
    names = np.array([crops.photo_of(file) for file in files])
    gaps = np.linalg.norm(places[:, None].astype(np.float64) - places[None], axis=2)
    np.fill_diagonal(gaps, np.inf)
    return np.mean(names[gaps.argmin(axis=1)] == names)


@pytest.mark.parametrize("method", ["pca", "tsne", "umap"])
def test_crops_of_one_photo_land_together(net, embedding, method):
    found = make_map(net, embedding, method=method, seed=1)
    assert found.values.shape == (len(embedding), 2)
    assert found.values.dtype == np.float32
    assert together(found.values, found.files) > 0.9
    row, column = np.divmod(found.cells.cell, found.cells.columns)
    # On the grid a group's edge touches the next group; by chance it would be 5 of 23.
    assert together(np.stack([column, row], axis=1), found.files) > 0.7
    np.testing.assert_array_equal(found.values, make_map(net, embedding, method=method, seed=1).values)


def test_the_grid_shows_each_picture_in_its_cell(net, embedding):
    found = make_map(net, embedding, method="pca")
    drawn = np.asarray(found.grid())
    edge = drawn.shape[1] // found.cells.columns
    assert drawn.shape == (found.cells.rows * edge, found.cells.columns * edge, 3)
    used = set(found.cells.cell.tolist())
    for cell in range(found.cells.rows * found.cells.columns):
        row, column = divmod(cell, found.cells.columns)
        inside = drawn[row * edge : (row + 1) * edge, column * edge : (column + 1) * edge]
        assert (inside == 255).all() == (cell not in used)
    for index, cell in zip(found.cells.index.tolist(), found.cells.cell.tolist(), strict=True):
        row, column = divmod(cell, found.cells.columns)
        middle = drawn[row * edge + edge // 2, column * edge + edge // 2].astype(int)
        view = net.pictures(embedding.sources[index])[0]
        near = view[
            view.shape[0] // 2 - 12 : view.shape[0] // 2 + 12,
            view.shape[1] // 2 - 12 : view.shape[1] // 2 + 12,
        ]
        assert np.all(middle >= near.min(axis=(0, 1)).astype(int) - 40)
        assert np.all(middle <= near.max(axis=(0, 1)).astype(int) + 40)


def test_saving_writes_picture_coordinates_and_manifest(net, embedding, tmp_path):
    found = make_map(net, embedding, method="tsne")
    assert found.save(tmp_path / "map.png") == tmp_path / "map.png"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.json", "map.npy", "map.png"]
    np.testing.assert_array_equal(np.load(tmp_path / "map.npy"), found.values)
    manifest = json.loads((tmp_path / "map.json").read_text())
    assert manifest["files"] == embedding.files
    assert manifest["figures"]["pictures"] == manifest["figures"]["on_the_grid"] == len(embedding)
    assert manifest["figures"]["perplexity"] < 30
    assert "perplexity lowered" in manifest["notes"][0]
    assert manifest["parameters"]["method"] == "tsne"


def test_grid_and_scatter_stand_side_by_side(net, embedding):
    found = make_map(net, embedding, method="pca")
    whole, grid = found.picture(), found.grid()
    assert whole.width > grid.width + 900
    assert whole.height > grid.height
    assert found.scatter((500, 400)).size == (500, 400)


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_few_pictures_lie_on_a_plane(tiny, count):
    found = make_map(tiny, images(count))
    assert found.method == "pca"
    assert found.values.shape == (count, 2)
    assert np.isfinite(found.values).all()
    assert found.picture().mode == "RGB"


def test_from_ten_pictures_on_it_is_tsne(tiny):
    assert make_map(tiny, images(10)).method == "tsne"


def test_equal_pictures_lie_on_one_point_but_not_on_one_cell(tiny):
    found = make_map(tiny, images(1) * 12)
    np.testing.assert_array_equal(found.values, np.zeros((12, 2)))
    assert len(np.unique(found.cells.cell)) == 12
    assert found.manifest["notes"] == ["all features are equal"]
    assert found.picture().mode == "RGB"


def test_a_layer_of_one_channel_gives_a_line(tiny):
    given = embed(tiny, images(12))
    given.values = given.values[:, :1].copy()
    for method in ("pca", "tsne"):
        found = make_map(tiny, given, method=method)
        assert np.isfinite(found.values).all()
        assert found.picture().mode == "RGB"


def test_features_that_are_not_finite_are_left_out_and_told(tiny):
    given = embed(tiny, images())
    given.values[[1, 4], 3] = np.nan, np.inf
    found = make_map(tiny, given)
    assert found.rows.tolist() == [0, 2, 3, 5]
    assert found.files == ["image 0", "image 2", "image 3", "image 5"]
    assert found.manifest["figures"]["left_out"] == 2
    assert set(found.tiles) == {0, 1, 2, 3}
    np.testing.assert_array_equal(found.tiles[1], _tile(tiny, given, 2, found))
    given.values[:] = np.nan
    with pytest.raises(onnxviz.errors.ModelUnsuitable):
        make_map(tiny, given)


def _tile(net, given, row, found):
    from onnxviz.features.embedding import thumbnails
    from onnxviz.features.map import _edge

    return thumbnails(net, given, [row], _edge(found.cells))[row]


def test_the_grid_of_many_pictures_is_a_sample_that_is_told(tiny, monkeypatch):
    monkeypatch.setattr("onnxviz.features.map.grid", lambda points, seed: grid(points, most=12, seed=seed))
    found = make_map(tiny, images(40), method="pca", seed=2)
    assert found.values.shape == (40, 2)
    assert len(found.tiles) == found.manifest["figures"]["on_the_grid"] == 12
    assert found.picture().mode == "RGB"


def test_features_from_a_file_give_the_same_map(net, embedding, tmp_path):
    again = Embedding.load(embedding.save(tmp_path / "features.parquet"))
    first, second = (make_map(net, given, method="pca") for given in (embedding, again))
    np.testing.assert_array_equal(first.values, second.values)
    assert first.picture().tobytes() == second.picture().tobytes()
    assert first.manifest == second.manifest


def test_wrong_choices_are_told_before_any_work(tiny, embedding, monkeypatch):
    monkeypatch.setattr("onnxviz.features.neighbours.embed", None)
    with pytest.raises(UsageError, match="method"):
        make_map(tiny, images(), method="mds")
    with pytest.raises(UsageError, match="perplexity"):
        make_map(tiny, images(), method="tsne", perplexity=0)
    with pytest.raises(InputRefused, match="another model"):
        make_map(tiny, embedding)
    monkeypatch.setattr("onnxviz.features.project._installed", lambda name: False)
    with pytest.raises(MissingDependency, match=r"onnxviz\[maps\]"):
        make_map(tiny, images(), method="umap")


def test_three_pictures_have_no_neighbourhoods(tiny):
    with pytest.raises(UsageError, match="at least 4"):
        make_map(tiny, images(3), method="tsne")


def test_an_interruption_does_not_lose_the_features(tiny, monkeypatch):
    def stopped(*given, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("onnxviz.features.map.project", stopped)
    with pytest.raises(Interrupted) as caught:
        make_map(tiny, images())
    assert len(caught.value.partial) == 6
    assert caught.value.partial.manifest["incomplete"] is True


def test_progress_is_told_for_each_part(tiny):
    told = []
    make_map(
        tiny, images(12), method="tsne", progress=lambda done, total, what: told.append((done, total, what))
    )
    assert (12, 12, "images") in told
    assert (0, None, "t-SNE") in told
    assert told[-1] == (12, 12, "pictures")


# --- grid --------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(0, 2**31), st.sampled_from(["cloud", "line", "same", "outlier"]))
def test_each_picture_has_a_cell_of_its_own(count, seed, kind):
    points = np.random.default_rng(seed).normal(size=(count, 2))
    if kind == "line":
        points[:, 1] = 0
    elif kind == "same":
        points[:] = 1
    elif kind == "outlier":
        points[0] = 1e6
    found = grid(points)
    assert len(np.unique(found.cell)) == count
    assert found.cell.min() >= 0
    assert found.cell.max() < found.rows * found.columns
    np.testing.assert_array_equal(found.index, np.arange(count))
    assert abs(found.rows - found.columns) <= 1


@pytest.mark.parametrize("rows, columns", [(3, 4), (1, 7), (6, 2)])
def test_a_shuffled_grid_is_put_in_order(rows, columns):
    cells = np.random.default_rng(0).permutation(rows * columns)
    row, column = np.divmod(cells, columns)
    points = np.stack([column, -row], axis=1).astype(np.float32)  # y upwards, row 0 at the top
    np.testing.assert_array_equal(assign(points, rows, columns), cells)


def test_the_total_distance_is_the_least_there_is():
    points = np.random.default_rng(3).uniform(size=(6, 2))
    found = assign(points, 2, 3)
    from onnxviz.features.map import _spread

    places = _spread(points)
    centres = np.array([((c + 0.5) / 3, 1 - (r + 0.5) / 2) for r in range(2) for c in range(3)])

    def total(cells):
        return ((places - centres[list(cells)]) ** 2).sum()

    assert total(found) == pytest.approx(min(map(total, itertools.permutations(range(6)))))


def test_groups_stay_together_and_empty_cells_part_them():
    random = np.random.default_rng(0)
    centres = np.array([[0, 0], [10, 0], [0, 10], [10, 10]])
    points = np.repeat(centres, 20, axis=0) + random.normal(size=(80, 2))
    found = grid(points)
    row, column = np.divmod(found.cell, found.columns)
    places = np.stack([column, -row], axis=1)
    for group in range(4):
        middle = places[group * 20 : group * 20 + 20].mean(axis=0)
        others = np.delete(np.arange(80), np.s_[group * 20 : group * 20 + 20])
        inside = np.linalg.norm(places[group * 20 : group * 20 + 20] - middle, axis=1)
        assert np.mean(np.linalg.norm(places[others] - middle, axis=1) > inside.max()) > 0.95
    assert found.rows * found.columns - 80 >= 15


def test_of_too_many_a_seeded_sample_is_shown():
    points = np.random.default_rng(0).normal(size=(50, 2))
    found = grid(points, most=20, seed=1)
    assert len(found.index) == len(found.cell) == 20
    assert np.all(np.diff(found.index) > 0)
    np.testing.assert_array_equal(found.index, grid(points, most=20, seed=1).index)
    assert not np.array_equal(found.index, grid(points, most=20, seed=2).index)


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="do not fit"):
        assign(np.zeros((7, 2)), 2, 3)
    with pytest.raises(UsageError):
        grid(np.zeros((0, 2)))
