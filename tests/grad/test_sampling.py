"""Resize, Upsample, GridSample, RoiAlign: adjoint identity against ONNX Runtime; torch for the grid's gradient."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.grad.oracle import LINEAR, Case, case, differentiated, each_form, ints, normal, rule_test, session


def resize(x, scales=None, sizes=None, roi=None, **options) -> Case:
    given = {"scales": scales and np.float32(scales), "sizes": sizes and ints(sizes)}
    fixed = {"constant": "roi scales sizes", "label": str(scales or sizes)}
    known_ratio = "keep_aspect_ratio_policy" not in options  # refused with open lengths
    return case("Resize", x=normal(*x), roi=roi, **given, **fixed, dynamic=known_ratio, **options, **LINEAR)


def old(op: str, opset: int, **given) -> Case:
    return case(op, x=normal(*X), constant=" ".join({"r", "s"} & set(given)), opset=opset, **given, **LINEAR)


X = (1, 2, 4, 5)
MODES = ("half_pixel", "half_pixel_symmetric", "align_corners", "asymmetric", "pytorch_half_pixel")
RESIZE = [
    *(
        resize(X, scales=[1, 1, *s], mode=m, coordinate_transformation_mode=c)
        for m, c, s in itertools.product(("nearest", "linear", "cubic"), MODES, ([2.0, 2.0], [1.5, 0.7]))
    ),
    *(resize(X, sizes=[1, 2, 7, 3], mode=m) for m in ("nearest", "linear", "cubic")),
    *(
        resize(X, scales=[1, 1, 2, 3], nearest_mode=n, coordinate_transformation_mode=c)
        for n in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
        for c in ("half_pixel", "asymmetric")
    ),
    resize(X, scales=[1, 1, 1.6, 2.2], mode="cubic", cubic_coeff_a=-0.5),
    resize(X, scales=[1, 1, 1.6, 2.2], mode="cubic", exclude_outside=1),
    resize(X, scales=[1, 1, 0.6, 0.5], mode="linear", antialias=1),
    resize(X, scales=[1, 1, 0.6, 0.5], mode="cubic", antialias=1),
    resize(X, sizes=[2, 3], axes=[2, 3], mode="linear"),
    resize(X, sizes=[3, 2], axes=[3, 2], mode="nearest"),
    *(
        resize((1, 2, 4, 6), sizes=[8, 9], axes=[2, 3], keep_aspect_ratio_policy=p, mode=m)
        for p in ("not_larger", "not_smaller")
        for m in ("nearest", "linear")
    ),
    resize((1, 2, 5), scales=[1, 1, 2.0]),
    resize((1, 1, 3, 4, 2), scales=[1, 1, 2.0, 1.0, 1.5], mode="linear"),
    resize((1, 1, 3, 4, 2), scales=[1, 1, 2, 2, 2]),
    resize((3, 4), scales=[1.5, 2.0], mode="linear"),
    resize(
        X,
        sizes=[1, 2, 6, 6],
        mode="linear",
        coordinate_transformation_mode="tf_crop_and_resize",
        roi=np.float32([0, 0, 0.2, 0.1, 1, 1, 0.9, 1.2]),
        extrapolation_value=3.0,
    ),
    old("Resize", 10, s=np.float32([1, 1, 2, 2])),
    old("Resize", 10, s=np.float32([1, 1, 1.7, 2]), mode="linear"),
    old("Resize", 11, r=np.zeros(0, np.float32), s=np.float32([1, 1, 1.7, 2]), mode="linear"),
    old("Upsample", 7, scales=[1.0, 1.0, 2.0, 2.0]),
    old("Upsample", 9, s=np.float32([1, 1, 2, 3])),
    old("Upsample", 9, s=np.float32([1, 1, 2, 2]), mode="linear"),
]
test_resize = rule_test(RESIZE)


MODES_2D = list(itertools.product(("linear", "nearest", "cubic"), ("zeros", "border", "reflection"), (0, 1)))


@pytest.mark.parametrize(("mode", "padding", "corners"), MODES_2D)
@each_form
def test_grid_sample(mode: str, padding: str, corners: int, dynamic: bool) -> None:
    import torch

    torch.set_num_threads(1)
    grid = (np.random.default_rng(3).uniform(-1.7, 1.7, (2, 3, 4, 2))).astype(np.float32)
    options = {"mode": mode, "padding_mode": padding, "align_corners": corners}
    one = case("GridSample", x=normal(2, 3, 5, 6), grid=grid, opset=20, **options)
    one._rank[:] = [4]
    cotangent = normal(2, 3, 3, 4)
    tx, tg = (torch.tensor(one.inputs[k], requires_grad=True) for k in ("x", "grid"))
    how = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    ty = torch.nn.functional.grid_sample(tx, tg, how, padding, bool(corners))
    ty.backward(torch.tensor(cotangent))
    for name, expected in (("x", tx.grad), ("grid", tg.grad)):
        found = session(differentiated(one.model(dynamic=dynamic), wrt=name))
        y, gradient = found.run(["y", f"{name}.gradient"], one.feeds() | {"y.cotangent": cotangent})
        np.testing.assert_allclose(y, ty.detach().numpy(), atol=1e-5)
        np.testing.assert_allclose(gradient, expected.numpy(), atol=2e-4)


VOLUME = (np.random.default_rng(3).uniform(-1.3, 1.3, (1, 2, 3, 2, 3))).astype(np.float32)
BOXES = np.float32([[0.3, 0.4, 5.2, 6.1], [1.0, 2.0, 3.5, 3.7], [2.2, 0.1, 7.7, 4.4], [-2.0, -1.5, 2.0, 9.5]])


def volume(mode: str, padding: str) -> Case:
    options = {"mode": mode, "padding_mode": padding, "dynamic": False, **LINEAR}
    return case("GridSample", x=normal(1, 2, 3, 4, 5), grid=VOLUME, constant="grid", opset=20, **options)


def roi_align(height: int, width: int, **options) -> Case:
    given = {"x": normal(2, 3, 7, 8), "rois": BOXES, "batch": ints(0, 1, 1, 0), "constant": "rois batch"}
    return case("RoiAlign", **given, output_height=height, output_width=width, **options, **LINEAR)


test_rule = rule_test([
    *itertools.starmap(volume, itertools.product(("linear", "nearest"), ("zeros", "border"))),
    roi_align(2, 3, sampling_ratio=2),
    roi_align(2, 3, sampling_ratio=0),
    roi_align(3, 2, sampling_ratio=0, spatial_scale=0.5),
    roi_align(2, 2, sampling_ratio=3, coordinate_transformation_mode="output_half_pixel"),
    roi_align(1, 1),
    roi_align(2, 3, sampling_ratio=2, opset=10),
])  # fmt: skip
