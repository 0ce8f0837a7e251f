"""`texture`: which method gets what, the result and its manifest, Ctrl-C, and the command."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from skimage import data

import onnxviz
from onnxviz.cli.main import run
from onnxviz.errors import ImageRejected, UnknownLayer, UsageError
from onnxviz.progress import Interrupted
from onnxviz.synthesis.layers import style_layers
from onnxviz.synthesis.texture import gram_texture
from tests.synthesis.painted import network, picture


@pytest.fixture(scope="module")
def wood() -> np.ndarray:
    return np.ascontiguousarray(data.coffee()[300:348, 20:80])


@pytest.mark.parametrize("method", ["nearest", "quilt"])
def test_a_texture_without_a_network(method, wood):
    made = onnxviz.texture(None, wood, method, size=(40, 50), seed=1)
    assert made.values.shape == (40, 50, 3)
    assert made.values.dtype == np.float32
    assert made.values.max() <= 1
    np.testing.assert_array_equal(made.image, wood[made.origin[..., 0], made.origin[..., 1]])
    assert made.picture().size == (50, 40)
    assert made.manifest["schema"] == "onnxviz.texture/1"
    assert made.manifest["model"] is None
    parameters = made.manifest["parameters"]
    assert parameters["size"] == (40, 50)
    assert {"tolerance", "evenness", "seed"} <= set(parameters)
    assert "incomplete" not in made.manifest
    again = onnxviz.texture(None, wood, method, size=(40, 50), seed=1)
    np.testing.assert_array_equal(again.values, made.values)
    assert again.manifest == made.manifest


def test_a_network_stands_in_the_manifest(net, wood):
    made = onnxviz.texture(net, wood, "quilt", size=30)
    assert made.manifest["model"]["sha256"] == net.digest
    assert made.values.shape == (30, 30, 3)


def test_the_size_is_twice_the_images_up_to_a_limit(wood):
    assert onnxviz.texture(None, wood, "quilt").values.shape == (96, 120, 3)
    assert onnxviz.texture(None, wood[:20, :24], "nearest", window=5).values.shape == (40, 48, 3)
    tall = np.tile(wood, (12, 1, 1))
    assert onnxviz.texture(None, tall, "quilt").values.shape == (1024, 107, 3)


def test_nearest_takes_the_middle_of_a_large_image(cat):
    made = onnxviz.texture(None, cat, "nearest", size=12)
    np.testing.assert_array_equal(made.source, cat[86:214, 161:289])
    assert made.manifest["parameters"]["source"] == {"top": 86, "left": 161, "height": 128, "width": 128}
    assert "451×300" in made.manifest["warnings"][-1]


@pytest.mark.parametrize("method", ["nearest", "quilt"])
def test_ctrl_c_keeps_what_was_done(method, wood):
    def stop(done: int, total: int | None, what: str) -> None:
        if done >= total / 3:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as caught:
        onnxviz.texture(None, wood, method, size=48, progress=stop)
    partial = caught.value.partial
    assert partial.manifest["incomplete"] is True
    figures = partial.manifest["figures"]
    assert figures["total"] / 3 <= figures["done"] < figures["total"]
    known = partial.origin[..., 0] >= 0
    assert 0 < known.mean() < 1
    # What is not known yet has one colour.
    assert len(np.unique(partial.values[~known], axis=0)) == 1


def test_wrong_use_is_said(net, wood):
    with pytest.raises(UsageError, match="did you mean 'quilt'"):
        onnxviz.texture(None, wood, "quilts")
    with pytest.raises(UsageError, match="block belongs to quilt, not to nearest"):
        onnxviz.texture(None, wood, "nearest", block=9)
    with pytest.raises(UsageError, match="needs a network"):
        onnxviz.texture(None, wood)
    with pytest.raises(UsageError, match="at least 3 pixels"):
        onnxviz.texture(None, wood, "quilt", size=(2, 90))
    with pytest.raises(ImageRejected, match="shows no texture"):
        onnxviz.texture(None, wood[:4], "nearest")


def test_the_smallest_source_works():
    tiny = np.random.default_rng(0).integers(0, 256, (5, 5, 3), np.uint8)
    for method in ("nearest", "quilt"):
        assert onnxviz.texture(None, tiny, method, size=9).values.shape == (9, 9, 3)


def test_the_command_needs_no_model_for_pieces(tmp_path, wood, capsys):
    source, out = tmp_path / "wood.png", tmp_path / "made.png"
    Image.fromarray(wood).save(source)
    arguments = [
        "texture",
        "no-such-model",
        str(source),
        "--method",
        "quilt",
        "--size",
        "70x33",
        "-o",
        str(out),
    ]
    assert run([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["manifest"]["parameters"]["size"] == [33, 70]
    with Image.open(out) as picture:
        assert picture.size == (70, 33)
        np.testing.assert_allclose(np.asarray(picture) / 255, np.load(out.with_suffix(".npy")), atol=1e-6)
    assert run(["texture", "no-such-model", str(source), "-o", str(out)]) != 0  # gram opens it


def test_gram_is_the_networks(net, wood):
    made = onnxviz.texture(net, wood, size=32, layers=["stem"], steps=4, seed=1)
    assert made.values.shape == (32, 32, 3)
    assert made.manifest["parameters"]["method"] == "gram"
    assert list(made.manifest["parameters"]["layers"]) == [net.layer("stem").name]
    assert made.manifest["figures"]["loss"] < made.manifest["figures"]["loss_start"]


@pytest.mark.parametrize("method", ["nearest", "quilt"])
def test_steps_can_be_watched(method, wood):
    seen = []
    made = onnxviz.texture(
        None, wood, method, size=40, watch=lambda shot: seen.append((shot.index, shot.value, shot.picture()))
    )
    assert [index for index, _, _ in seen] == list(range(len(seen)))
    assert len(seen) > 3
    assert seen[0][1] < seen[-1][1] == 1
    assert not np.array_equal(seen[0][2], seen[-1][2])
    np.testing.assert_array_equal(seen[-1][2], made.image)


def test_the_command_animates(tmp_path, wood):
    source = tmp_path / "wood.png"
    Image.fromarray(wood).save(source)
    out = ["-o", str(tmp_path / "made.png"), "--animate", str(tmp_path / "made.webp")]
    assert run(["texture", "any", str(source), "-m", "quilt", "--size", "64", *out]) == 0
    with Image.open(tmp_path / "made.webp") as film:
        assert film.n_frames > 3


# --- texture gram ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small():
    return onnxviz.load(network(), preprocess="imagenet", provider="cpu")


def test_the_loss_falls_a_thousandfold_and_the_picture_is_like_the_source(net):
    gravel = data.gravel()[:96, :96]
    first_four = style_layers(net)[:4]
    made = gram_texture(net, gravel, size=96, layers=first_four, steps=120, seed=1)
    figures = made.manifest["figures"]
    assert figures["fall"] >= 1000
    assert abs(made.values.mean() - gravel.mean() / 255) < 0.05
    assert made.values.std() > 0.5 * gravel.std() / 255
    colour = made.values - made.values.mean(axis=2, keepdims=True)
    assert np.abs(colour).mean() < 0.05  # grey stones stay grey


def test_larger_than_the_source_and_not_square(small):
    made = gram_texture(small, picture(32, 40), size=(50, 70), steps=5)
    assert made.values.shape == (50, 70, 3)
    assert made.picture().size == (70, 64) or made.picture().size[0] >= 70
    assert made.manifest["parameters"]["source_size"] == [32, 40]


def test_a_large_source_is_made_smaller(small):
    made = gram_texture(small, picture(64, 80), size=32, source=40, steps=2)
    assert made.manifest["parameters"]["source_size"] == [32, 40]


def test_the_same_seed_gives_the_same_bytes(small):
    one, two, other = (gram_texture(small, picture(), size=32, steps=6, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.values, two.values)
    assert not np.array_equal(one.values, other.values)


def test_the_command_takes_it(small):
    made = onnxviz.texture(small, picture(), "gram", size=(40, 32), layers=["relu3", "relu10"], steps=3)
    assert made.values.shape == (40, 32, 3)
    assert set(made.manifest["parameters"]["layers"]) == {"relu3", "relu10"}
    assert made.manifest["schema"] == "onnxviz.texture/1"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"layers": ["relu11"]}, UnknownLayer, "did you mean"),
        ({"steps": 0}, UsageError, "steps"),
        ({"source": 5}, ImageRejected, "too small"),
    ],
)
def test_refusals(small, options, error, message):
    with pytest.raises(error, match=message):
        gram_texture(small, picture(), **options)


def test_a_source_of_one_colour_is_refused(small):
    with pytest.raises(ImageRejected, match="one colour"):
        gram_texture(small, np.full((40, 40, 3), 7, np.uint8))


def test_an_early_end_keeps_what_there_is(small):
    def watch(shot):
        if shot.index == 3:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as stop:
        gram_texture(small, picture(), size=32, steps=30, watch=watch)
    assert stop.value.partial.manifest["incomplete"] is True
    assert stop.value.partial.manifest["figures"]["steps_done"] == 4
