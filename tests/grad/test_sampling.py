"""Resize, Upsample, GridSample, RoiAlign: adjoint identity against ONNX Runtime; torch for the grid's gradient."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.grad.oracle import Case, check, ints, normal

LINEAR = {"oracle": "ort", "step": 1.0}


def resize(x, scales=None, sizes=None, roi=None, opset=18, **attributes) -> Case:
    inputs = {
        "x": normal(*x),
        "roi": roi,
        "scales": None if scales is None else np.float32(scales),
        "sizes": None if sizes is None else ints(sizes),
    }
    return Case(
        "Resize",
        inputs,
        attributes,
        constant=("roi", "scales", "sizes"),
        opset=opset,
        label=str(scales or sizes),
        **LINEAR,
    )


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
    Case("Resize", {"x": normal(*X), "s": np.float32([1, 1, 2, 2])}, constant=("s",), opset=10, **LINEAR),
    Case(
        "Resize",
        {"x": normal(*X), "s": np.float32([1, 1, 1.7, 2])},
        {"mode": "linear"},
        constant=("s",),
        opset=10,
        **LINEAR,
    ),
    Case(
        "Resize",
        {"x": normal(*X), "r": np.zeros(0, np.float32), "s": np.float32([1, 1, 1.7, 2])},
        {"mode": "linear"},
        constant=("r", "s"),
        opset=11,
        **LINEAR,
    ),
    Case("Upsample", {"x": normal(*X)}, {"scales": [1.0, 1.0, 2.0, 2.0]}, opset=7, **LINEAR),
    Case("Upsample", {"x": normal(*X), "s": np.float32([1, 1, 2, 3])}, constant=("s",), opset=9, **LINEAR),
    Case(
        "Upsample",
        {"x": normal(*X), "s": np.float32([1, 1, 2, 2])},
        {"mode": "linear"},
        constant=("s",),
        opset=9,
        **LINEAR,
    ),
]


@pytest.mark.parametrize("case", RESIZE, ids=lambda case: case.id)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_resize(case: Case, dynamic: bool) -> None:
    check(case, dynamic=dynamic and "keep_aspect_ratio_policy" not in case.attributes)


MODES_2D = list(itertools.product(("linear", "nearest", "cubic"), ("zeros", "border", "reflection"), (0, 1)))


@pytest.mark.parametrize(("mode", "padding", "corners"), MODES_2D)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_grid_sample(mode: str, padding: str, corners: int, dynamic: bool) -> None:
    import onnx_ir as ir
    import torch

    from onnxviz.grad.model import gradient_model
    from tests.grad.oracle import session

    torch.set_num_threads(1)
    grid = (np.random.default_rng(3).uniform(-1.7, 1.7, (2, 3, 4, 2))).astype(np.float32)
    case = Case(
        "GridSample",
        {"x": normal(2, 3, 5, 6), "grid": grid},
        {"mode": mode, "padding_mode": padding, "align_corners": corners},
        opset=20,
    )
    case._rank[:] = [4]
    cotangent = normal(2, 3, 3, 4)
    tx, tg = (torch.tensor(case.inputs[k], requires_grad=True) for k in ("x", "grid"))
    how = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    ty = torch.nn.functional.grid_sample(tx, tg, how, padding, bool(corners))
    ty.backward(torch.tensor(cotangent))
    for name, expected in (("x", tx.grad), ("grid", tg.grad)):
        proto = ir.to_proto(gradient_model(ir.from_proto(case.model(dynamic=dynamic)), wrt=name))
        y, found = session(proto).run(["y", f"{name}.gradient"], case.feeds() | {"y.cotangent": cotangent})
        np.testing.assert_allclose(y, ty.detach().numpy(), atol=1e-5)
        np.testing.assert_allclose(found, expected.numpy(), atol=2e-4)


@pytest.mark.parametrize(
    ("mode", "padding"), list(itertools.product(("linear", "nearest"), ("zeros", "border")))
)
def test_grid_sample_of_a_volume(mode: str, padding: str) -> None:
    grid = (np.random.default_rng(3).uniform(-1.3, 1.3, (1, 2, 3, 2, 3))).astype(np.float32)
    attributes = {"mode": mode, "padding_mode": padding}
    check(
        Case(
            "GridSample",
            {"x": normal(1, 2, 3, 4, 5), "grid": grid},
            attributes,
            constant=("grid",),
            opset=20,
            **LINEAR,
        )
    )


ROIS = np.float32([[0.3, 0.4, 5.2, 6.1], [1.0, 2.0, 3.5, 3.7], [2.2, 0.1, 7.7, 4.4], [-2.0, -1.5, 2.0, 9.5]])
ROI = [
    {"output_height": 2, "output_width": 3, "sampling_ratio": 2},
    {"output_height": 2, "output_width": 3, "sampling_ratio": 0},
    {"output_height": 3, "output_width": 2, "sampling_ratio": 0, "spatial_scale": 0.5},
    {
        "output_height": 2,
        "output_width": 2,
        "sampling_ratio": 3,
        "coordinate_transformation_mode": "output_half_pixel",
    },
    {"output_height": 1, "output_width": 1},
]


@pytest.mark.parametrize("attributes", ROI, ids=str)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_roi_align(attributes, dynamic: bool) -> None:
    inputs = {"x": normal(2, 3, 7, 8), "rois": ROIS, "batch": ints(0, 1, 1, 0)}
    check(Case("RoiAlign", inputs, attributes, constant=("rois", "batch"), **LINEAR), dynamic=dynamic)


def test_roi_align_of_opset_10() -> None:
    inputs = {"x": normal(2, 3, 7, 8), "rois": ROIS, "batch": ints(0, 1, 1, 0)}
    attributes = {"output_height": 2, "output_width": 3, "sampling_ratio": 2}
    check(Case("RoiAlign", inputs, attributes, constant=("rois", "batch"), opset=10, **LINEAR))
