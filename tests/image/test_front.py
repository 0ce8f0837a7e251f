"""Preprocessing as operators, held to `Preprocessing.apply`, that is to Pillow; and its gradient."""

import itertools

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from PIL import Image
from skimage import data

from onnxviz.errors import ModelUnsuitable
from onnxviz.graph.tape import Tape
from onnxviz.image.front import centre, enter, prepare
from onnxviz.image.preprocessing import PRESETS, Preprocessing
from onnxviz.image.recipe import LUMA
from tests.synthesis.pieces import gradient, run

HEIGHTS = (300, 97, 64, 63, 1, 65, 30, 128, 299, 301)
WIDTHS = (451, 53, 96, 200, 7, 96, 31, 192, 299, 200)
RECIPE = Preprocessing(
    (64, 96), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), crop_fraction=0.875, interpolation="bilinear"
)
_TYPES = {"float32": "FLOAT", "float16": "FLOAT16", "float64": "DOUBLE", "uint8": "UINT8", "int8": "INT8"}


def compiled(recipe: Preprocessing, *, fixed: bool = False):
    """A function of one picture that gives the tensor as the operators compute it."""
    rows, columns = recipe.size if fixed else (None, None)
    image = ir.Value(
        name="image",
        type=ir.TensorType(ir.DataType.UINT8),
        shape=ir.Shape(["N", rows or "rows", columns or "columns", 3]),
    )
    graph = ir.Graph([image], [], nodes=[], opset_imports={"": 18}, name="preprocessing")
    dtype = ir.DataType[_TYPES[recipe.dtype]]
    tensor, _ = prepare(Tape(graph), image, recipe, dtype=dtype, size=recipe.size, fixed=fixed)
    graph.outputs.append(tensor)
    proto = ir.serde.serialize_model(ir.Model(graph, ir_version=8))
    proto = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda picture: session.run(None, {"image": picture[None]})[0][0]


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    photos = itertools.cycle([data.chelsea(), data.coffee(), data.astronaut(), data.rocket()])
    return [
        np.asarray(Image.fromarray(photo).resize((width, height)))
        for photo, height, width in zip(photos, HEIGHTS, WIDTHS, strict=False)
    ]


def only_rounded(levels: np.ndarray, share: float = 0.003) -> None:
    assert levels.max() < (1.01 if share < 0.01 else 2.01)
    assert (levels > 0.5).mean() < share


@pytest.mark.parametrize("channels", ["RGB", "BGR", "L", "RGBA"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("resize", ["crop", "pad"])
def test_resized_pictures_differ_from_pillow_by_rounding_only(pictures, resize, interpolation, channels):
    recipe = RECIPE.override(resize=resize, interpolation=interpolation, channels=channels)
    run = compiled(recipe)
    scale = recipe.scale.reshape(-1, 1, 1)
    for picture in pictures:
        here, there = run(picture), recipe.apply(picture)
        assert here.shape == there.shape
        # Enlarging by simple fractions, and shrinking by them, has many exact halves to round.
        at = recipe.geometry(*picture.shape[:2])
        enlarged = at.height > picture.shape[0] or at.width > picture.shape[1]
        only_rounded(np.abs(here - there) / scale, 0.05 if enlarged else 0.003)


@pytest.mark.parametrize("resize", ["crop", "pad", "squash"])
def test_nearest_neighbours_are_pillows_exactly(pictures, resize):
    recipe = RECIPE.override(resize=resize, interpolation="nearest")
    run = compiled(recipe)
    for picture in pictures:
        np.testing.assert_array_equal(run(picture), recipe.apply(picture))


def test_squashing_goes_across_first(pictures):
    recipe = RECIPE.override(resize="squash", crop_fraction=0.8, mean=0.0, std=1 / 255)
    run = compiled(recipe)
    for picture in pictures:
        across = Image.fromarray(picture).resize((120, picture.shape[0]), Image.Resampling.BILINEAR)
        both = np.asarray(across.resize((120, 80), Image.Resampling.BILINEAR))[8:72, 12:108]
        only_rounded(np.abs(run(picture).transpose(1, 2, 0) - both), 0.05)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "uint8", "int8"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("channels", ["RGB", "BGR", "L", "RGBA"])
def test_pictures_of_the_networks_size_come_out_bit_for_bit(cat, channels, layout, dtype):
    recipe = RECIPE.override(channels=channels, layout=layout, dtype=dtype)
    picture = cat[100:164, 200:296]
    here = compiled(recipe, fixed=True)(picture)
    there = recipe.normalise((recipe.override(resize="squash").view(picture))[None])[0]
    assert here.dtype == there.dtype
    np.testing.assert_array_equal(here, there)


def test_pictures_keep_their_own_size(cat):
    recipe = RECIPE.override(size="own")
    np.testing.assert_array_equal(compiled(recipe)(cat), recipe.apply(cat))


@pytest.mark.parametrize("interpolation", ["lanczos", "box", "hamming"])
def test_what_no_operator_resizes_is_refused_with_a_way_out(interpolation):
    recipe = RECIPE.override(interpolation=interpolation)
    with pytest.raises(ModelUnsuitable, match=f"{interpolation}.*fixed=.*preprocess="):
        compiled(recipe)
    compiled(recipe, fixed=True)


# --- pictures of real numbers ----------------------------------------------------------------


RNG = np.random.default_rng(0)
RECIPES = {
    "imagenet": PRESETS["imagenet"],
    "lite": PRESETS["efficientnet-lite"],
    "BGR": Preprocessing(mean=(0.4, 0.45, 0.48), std=(0.2, 0.21, 0.22), channels="BGR"),
    "unit": Preprocessing(),
    "grey": Preprocessing(mean=(0.5,), std=(0.25,), channels="L"),
    "alpha": Preprocessing(mean=(0.5,) * 4, std=(0.25,) * 4, channels="RGBA"),
    "NHWC": Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.3, 0.3, 0.3), layout="NHWC"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_as_the_recipe_does(name: str) -> None:
    recipe = RECIPES[name].override(size="own")
    pictures = RNG.integers(0, 256, (2, 5, 6, 3)).astype(np.uint8)
    colour = centre(recipe)
    x = np.ascontiguousarray(pictures.transpose(0, 3, 1, 2) / 255 - colour[:, None, None], dtype=np.float32)
    wanted = recipe.normalise(pictures)
    if name == "grey":  # one plane is moved, and the network sees it as it is
        x = np.ascontiguousarray(np.tensordot(LUMA, x, axes=(0, 1))[:, None], dtype=np.float32)
    (found,) = run(lambda op, x: [enter(op, x, recipe)], x=x)
    np.testing.assert_allclose(found, wanted, atol=2e-5)
    g = RNG.standard_normal(found.shape).astype(np.float32)
    back = gradient(lambda op, x: enter(op, x, recipe), g, x)
    (zero,) = run(lambda op, x: [enter(op, x, recipe)], x=np.zeros_like(x))
    assert float(((found - zero) * g).sum()) == pytest.approx(float((x * back).sum()), rel=1e-3, abs=1e-3)


def test_the_centre_is_the_networks_zero_or_grey() -> None:
    np.testing.assert_allclose(centre(RECIPES["BGR"]), [0.48, 0.45, 0.4], rtol=1e-6)
    np.testing.assert_allclose(centre(RECIPES["grey"]), [0.5])
    np.testing.assert_allclose(centre(RECIPES["unit"]), [0.5] * 3)
