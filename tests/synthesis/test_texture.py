"""`texture`: which method gets what, the result and its manifest, Ctrl-C, and the command."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from skimage import data

import onnxviz
from onnxviz.cli.main import run
from onnxviz.errors import ImageRejected, UsageError
from onnxviz.synthesis.layers import style_layers
from tests.stopped import stopped
from tests.synthesis.painted import picture

PIECES = ["nearest", "quilt"]


@pytest.fixture(scope="module")
def grain() -> np.ndarray:
    """(48, 60, 3) uint8."""
    return np.ascontiguousarray(data.coffee()[300:348, 20:80])


@pytest.mark.parametrize("method", PIECES)
def test_a_texture_without_a_network(method, grain):
    seen = []

    def watch(shot):
        seen.append((shot.index, shot.value, shot.picture()))

    made = onnxviz.texture(None, grain, method, size=(40, 50), seed=1, watch=watch)
    assert (made.values.shape, made.values.dtype, made.picture().size) == ((40, 50, 3), np.float32, (50, 40))
    assert made.values.max() <= 1
    np.testing.assert_array_equal(made.image, grain[made.origin[..., 0], made.origin[..., 1]])
    assert (made.manifest["schema"], made.manifest["model"]) == ("onnxviz.texture/1", None)
    assert made.manifest["parameters"]["size"] == (40, 50)
    assert {"tolerance", "evenness", "seed"} <= set(made.manifest["parameters"])
    assert "incomplete" not in made.manifest
    again = onnxviz.texture(None, grain, method, size=(40, 50), seed=1)
    np.testing.assert_array_equal(again.values, made.values)
    assert again.manifest == made.manifest
    # Its steps as they were watched.
    assert [index for index, _, _ in seen] == list(range(len(seen)))
    assert len(seen) > 3
    assert seen[0][1] < seen[-1][1] == 1
    assert not np.array_equal(seen[0][2], seen[-1][2])
    np.testing.assert_array_equal(seen[-1][2], made.image)


@pytest.mark.parametrize(
    ("method", "crop", "options", "shape"),
    [
        ("quilt", np.s_[:], {}, (96, 120, 3)),
        ("nearest", np.s_[:20, :24], {"window": 5}, (40, 48, 3)),
        ("quilt", np.s_[np.arange(12 * 48) % 48], {}, (1024, 107, 3)),
        ("nearest", np.s_[:5, :5], {"size": 9}, (9, 9, 3)),
        ("quilt", np.s_[:5, :5], {"size": 9}, (9, 9, 3)),
    ],
)
def test_the_size_is_twice_the_images_up_to_a_limit(grain, method, crop, options, shape):
    assert onnxviz.texture(None, grain[crop], method, **options).values.shape == shape


def test_nearest_takes_the_middle_of_a_large_image(net, cat):
    made = onnxviz.texture(net, cat, "nearest", size=12)
    np.testing.assert_array_equal(made.source, cat[86:214, 161:289])
    assert made.manifest["parameters"]["source"] == {"top": 86, "left": 161, "height": 128, "width": 128}
    assert "451×300" in made.manifest["warnings"][-1]
    assert made.manifest["model"]["sha256"] == net.digest


@pytest.mark.parametrize("method", PIECES)
def test_ctrl_c_keeps_what_was_done(method, grain):
    third = lambda done, total, _: done >= total / 3  # noqa: E731
    partial = stopped(onnxviz.texture, None, grain, method, size=48, when=third)
    figures = partial.manifest["figures"]
    assert figures["total"] / 3 <= figures["done"] < figures["total"]
    known = partial.origin[..., 0] >= 0
    assert 0 < known.mean() < 1
    # What is not known yet has one colour.
    assert len(np.unique(partial.values[~known], axis=0)) == 1


@pytest.mark.parametrize(
    ("method", "options", "error", "words"),
    [
        ("quilts", {}, UsageError, "did you mean 'quilt'"),
        ("nearest", {"block": 9}, UsageError, "block belongs to quilt, not to nearest"),
        ("gram", {}, UsageError, "needs a network"),
        ("quilt", {"size": (2, 90)}, UsageError, "at least 3 pixels"),
        ("nearest", {"image": np.zeros((4, 60, 3), np.uint8)}, ImageRejected, "shows no texture"),
    ],
)
def test_wrong_use_is_said(grain, method, options, error, words):
    with pytest.raises(error, match=words):
        onnxviz.texture(None, **{"image": grain, "method": method, **options})


def test_the_command_needs_no_model_for_pieces(tmp_path, grain, capsys):
    source, out, film = (str(tmp_path / name) for name in ("wood.png", "made.png", "made.webp"))
    Image.fromarray(grain).save(source)
    line = ["texture", "no-such-model", source, "-o", out]
    assert run([*line, "--method", "quilt", "--size", "70x33", "--animate", film, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["manifest"]["parameters"]["size"] == [33, 70]
    with Image.open(out) as picture:
        assert picture.size == (70, 33)
        np.testing.assert_allclose(np.asarray(picture) / 255, np.load(tmp_path / "made.npy"), atol=1e-6)
    with Image.open(film) as frames:
        assert frames.n_frames > 3
    assert run(line) != 0  # gram opens it


def test_gram_is_the_networks(net, grain):
    made = onnxviz.texture(net, grain, size=(40, 32), layers=["stem", "blocks.2.add"], steps=4, seed=1)
    assert made.values.shape == (40, 32, 3)
    assert made.manifest["schema"] == "onnxviz.texture/1"
    assert made.manifest["parameters"]["method"] == "gram"
    layers = [net.layer(name).name for name in ("stem", "blocks.2.add")]
    assert list(made.manifest["parameters"]["layers"]) == layers
    assert made.manifest["figures"]["loss"] < made.manifest["figures"]["loss_start"]


# --- texture gram ------------------------------------------------------------------------


def test_the_loss_falls_a_thousandfold_and_the_picture_is_like_the_source(net):
    gravel = data.gravel()[:96, :96]
    first_four = style_layers(net)[:4]
    made = onnxviz.texture(net, gravel, size=96, layers=first_four, steps=120, seed=1)
    figures = made.manifest["figures"]
    assert figures["fall"] >= 1000
    assert abs(made.values.mean() - gravel.mean() / 255) < 0.05
    assert made.values.std() > 0.5 * gravel.std() / 255
    colour = made.values - made.values.mean(axis=2, keepdims=True)
    assert np.abs(colour).mean() < 0.05  # grey stones stay grey


@pytest.mark.parametrize(
    ("source", "size", "shape", "seen"),
    [((32, 40), (50, 70), (50, 70, 3), [32, 40]), ((320, 400), 32, (32, 32, 3), [205, 256])],
)
def test_sizes_of_source_and_texture(small, source, size, shape, seen):
    made, other = (onnxviz.texture(small, picture(*source), steps=3, size=size, seed=seed) for seed in (0, 1))
    assert made.values.shape == shape
    assert min(made.picture().size) >= min(shape[:2])
    assert made.manifest["parameters"]["source_size"] == seen
    assert not np.array_equal(made.values, other.values)
