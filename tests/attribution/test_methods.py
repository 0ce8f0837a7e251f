"""The formulas of class activation maps against the papers' sums, written out place by place."""

from __future__ import annotations

import numpy as np
import pytest

from onnxviz.attribution import methods
from onnxviz.errors import UsageError
from tests.attribution.pieces import evaluated

N, C, H, W = 2, 5, 4, 3


@pytest.fixture(params=["after relu", "signed"])
def layer(request):
    """Activations and gradients, (N, C, H, W); one channel is off, one has no gradient."""
    rng = np.random.default_rng(0)
    activations = rng.standard_normal((N, C, H, W)).astype(np.float32)
    if request.param == "after relu":
        activations = np.maximum(activations, 0)
    gradients = rng.standard_normal((N, C, H, W)).astype(np.float32)
    activations[:, 1] = 0
    gradients[:, 2] = 0
    return activations, gradients


def grad_cam(a, g, y, x):
    return sum(sum(g[k].ravel().tolist()) / (H * W) * a[k, y, x] for k in range(C))


def grad_cam_plus_plus(a, g, y, x):
    total = 0.0
    for k in range(C):
        below = 2 * g[k] ** 2 + a[k].sum() * g[k] ** 3
        shares = np.divide(g[k] ** 2, below, out=np.zeros((H, W)), where=below != 0)
        total += (shares * np.maximum(g[k], 0)).sum() * a[k, y, x]
    return total


def layer_cam(a, g, y, x):
    return sum(max(g[k, y, x], 0) * a[k, y, x] for k in range(C))


def hires_cam(a, g, y, x):
    return sum(g[k, y, x] * a[k, y, x] for k in range(C))


def xgrad_cam(a, g, y, x):
    areas = [float(a[k].sum()) for k in range(C)]
    return sum((a[k] / areas[k] * g[k]).sum() * a[k, y, x] for k in range(C) if areas[k])


@pytest.mark.parametrize("oracle", [grad_cam, grad_cam_plus_plus, layer_cam, hires_cam, xgrad_cam])
def test_a_formula_is_the_papers(oracle, layer):
    activations, gradients = layer
    found = evaluated(getattr(methods, oracle.__name__), activations, gradients)
    assert found.shape == (N, H, W)
    for n in range(N):
        a, g = activations[n].astype(np.float64), gradients[n].astype(np.float64)
        wanted = [[oracle(a, g, y, x) for x in range(W)] for y in range(H)]
        np.testing.assert_allclose(found[n], wanted, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("channels", [3, 40])  # fewer than places, and more
def test_eigen_cam_is_the_first_singular_vector(channels, rectified):
    rng = np.random.default_rng(1)
    activations = rng.standard_normal((N, channels, H, W)).astype(np.float32)
    activations = np.maximum(activations, 0) if rectified else activations
    found = evaluated(methods.eigen_cam, activations)
    assert found.dtype == np.float32
    assert not rectified or (found > -1e-6).all()
    for n in range(N):
        rows = activations[n].reshape(channels, -1).T.astype(np.float64)
        _, _, turned = np.linalg.svd(rows, full_matrices=False)
        wanted = (rows @ turned[0]).reshape(H, W)
        wanted *= np.sign(wanted.sum())
        np.testing.assert_allclose(found[n], wanted, rtol=1e-4, atol=1e-5)


def test_xgrad_cam_conserves_the_sum(layer):
    """The axiom of conservation: the map sums to Σ activation × gradient."""
    activations, gradients = np.abs(layer[0]), layer[1]
    found = evaluated(methods.xgrad_cam, activations, gradients).sum(axis=(1, 2))
    wanted = (activations * gradients).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)


def test_a_layer_without_gradient_gives_zero_and_no_nan():
    activations = np.ones((1, 2, 3, 3), np.float32)
    none = np.zeros_like(activations)
    for method in methods.METHODS.values():
        if method.needs == methods.LAYER:
            assert not evaluated(method.run, activations, none).any()
            assert not evaluated(method.run, none, activations).any()


def test_every_row_says_all_that_is_asked_of_it():
    for name, row in methods.METHODS.items():
        assert row.summary.endswith("."), name
        assert row.paper, name
        assert len(row.caption.meaning) > 10, name
        assert row.layered or row.colours != "none" or name == "full-gradient"
    assert dict(methods.METHODS["expected-gradients"].options) == {"samples": 100, "baselines": None}


@pytest.mark.parametrize(
    ("name", "layered", "function", "words"),
    [
        ("saliency", False, lambda op, gradient: gradient, "already"),
        ("new", False, lambda op, gradients_: gradients_, "neither of gradient"),
        ("new", False, lambda op, activations: activations, "layered=False, and takes activations"),
        ("new", True, lambda op, gradient, guided: gradient, "layered=True"),
    ],
)
def test_a_row_that_cannot_be_is_refused_at_once(name, layered, function, words):
    with pytest.raises(ValueError, match=words):
        methods.method(name, methods.Caption("new", "it is new"), layered=layered)(function)
    assert "new" not in methods.METHODS


@pytest.mark.parametrize(
    ("name", "technique", "told"),
    [
        ("gradcam", "saliency", "'grad-cam' is one of `cam`;"),
        ("SmoothGrad", "cam", "'smoothgrad' is one of `saliency`;"),
        ("smoothgard", "saliency", "did you mean 'smoothgrad'"),
        (["saliency", "guided"], "saliency", "`onnxviz.attributions`"),
    ],
)
def test_a_method_of_the_other_function_is_named(name, technique, told):
    with pytest.raises(UsageError) as caught:
        methods.chosen(name, methods.of(technique))
    assert told in str(caught.value)
