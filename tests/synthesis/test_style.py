"""Style transfer: against a torch loop, mixtures, colours, starts, resolutions, refusals, an early end."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch

import onnxviz
from onnxviz.backends.torch.executor import Executor
from onnxviz.graph.normalise import normalise
from onnxviz.synthesis.layers import content_layer, style_layers
from onnxviz.synthesis.style import luminance, matched_colours, with_colours_of
from tests.synthesis.painted import network, picture

PHOTO, PAINT = picture(seed=1), picture(seed=2)


def torch_losses(
    net, steps: int, rate: float, content: float, style: float, tv: float, centred: bool = False
) -> list[float]:
    """The same network, losses and optimiser, written out anew: Adam on pixels kept between black and white."""
    mean = torch.tensor(net.preprocessing.mean)[:, None, None]
    std = torch.tensor(net.preprocessing.std)[:, None, None]

    graph = ir.from_proto(network())
    names = {*style_layers(net), content_layer(net)}
    graph.graph.outputs[:] = [v for node in graph.graph for v in node.outputs if v.name in names]
    executor = Executor(normalise(graph))

    def features(x):
        return executor({"image": (x - mean) / std})

    def unit(image):
        return torch.tensor(image.astype(np.float32) / 255).permute(2, 0, 1)[None]

    layers = style_layers(net)
    painted, wanted = features(unit(PAINT)), features(unit(PHOTO))[content_layer(net)]
    means = {name: painted[name].mean((2, 3), keepdim=True) for name in layers}

    def gram(name, maps):
        rows = (maps[name] - means[name] if centred else maps[name]).flatten(2)[0]
        return rows @ rows.T / rows.numel()

    grams = {name: gram(name, painted) for name in layers}
    x = unit(PHOTO).requires_grad_(True)
    adam = torch.optim.Adam([x], lr=rate)
    losses = []
    for _ in range(steps):
        adam.zero_grad()
        maps = features(x)
        loss = content * ((maps[content_layer(net)] - wanted) ** 2).sum() / (wanted**2).sum()
        for name in layers:
            gap = ((gram(name, maps) - grams[name]) ** 2).sum() / (grams[name] ** 2).sum()
            loss = loss + style * gap / len(layers)
        here = x[:, :, :-1, :-1]
        below, right = x[:, :, 1:, :-1] - here, x[:, :, :-1, 1:] - here
        loss = loss + tv * (below**2 + right**2).mean()
        losses.append(float(loss.detach()))
        loss.backward()
        adam.step()
        with torch.no_grad():
            x.clamp_(0, 1)
    return losses


@pytest.mark.parametrize("gram", [None, "centred"])
def test_the_loss_is_that_of_a_torch_loop_at_every_step(small, gram):
    """By default with the uncentred Gram matrices of Gatys, Ecker & Bethge 2016."""
    losses = []
    options = {"content_weight": 2.0, "style_weight": 5.0, "tv": 0.1, "steps": 15, "optimiser": "adam"}
    options |= {} if gram is None else {"gram": gram}
    watch = lambda shot: losses.append(-shot.value)  # noqa: E731
    onnxviz.style(small, PHOTO, PAINT, rate=0.02, spectrum=False, watch=watch, **options)
    wanted = torch_losses(small, 15, 0.02, 2.0, 5.0, 0.1, centred=gram == "centred")
    assert losses[-1] < losses[0] / 2
    np.testing.assert_allclose(losses, wanted, rtol=0.005)


@pytest.mark.parametrize(
    ("options", "told"), [({}, ("uncentred", 100)), ({"gram": "centred"}, ("centred", 10))]
)
def test_the_manifest_says_which_gram_matrices_and_layers(small, options, told):
    made = onnxviz.style(small, PHOTO, PAINT, layers={"relu3": 3, "relu10": 1}, steps=1, tv=0, **options)
    parameters = made.manifest["parameters"]
    assert (parameters["gram"], parameters["style_weight"]) == told
    assert parameters["layers"] == {"relu3": 0.75, "relu10": 0.25}
    terms = {"texture(relu3)", "texture(relu10)", "near(relu14)"}
    assert set(made.manifest["figures"]["loss_by_term"]) == terms


def test_the_style_comes_and_the_content_stays(small):
    made = onnxviz.style(small, PHOTO, PAINT, steps=40)
    figures = made.manifest["figures"]
    assert made.values.shape == (48, 64, 3)
    assert figures["loss"] < figures["loss_start"] / 6
    terms = figures["loss_by_term"]
    assert terms[f"near({content_layer(small)})"] < 0.3
    assert sum(value for name, value in terms.items() if name.startswith("texture")) < 0.3


def test_a_style_of_weight_zero_does_nothing(small):
    other = picture(seed=3)
    one = onnxviz.style(small, PHOTO, PAINT, steps=8)
    two = onnxviz.style(small, PHOTO, [PAINT, other], style_weights=[1, 0], steps=8)
    both = onnxviz.style(small, PHOTO, [PAINT, other], steps=8)
    np.testing.assert_allclose(one.values, two.values, atol=2e-3)
    assert np.abs(one.values - both.values).max() > 0.01


def test_starts(small):
    begun = []
    for start in ("content", PAINT, "noise"):
        watch = lambda shot: begun.append(shot.picture().astype(int))  # noqa: E731
        onnxviz.style(small, PHOTO, PAINT, steps=1, start=start, watch=watch)
    assert np.abs(begun[0] - PHOTO).mean() < 3
    assert np.abs(begun[1] - PAINT).mean() < 3
    assert begun[2].std() < 40


def test_resolutions(small):
    made = onnxviz.style(small, PHOTO, PAINT, size=(256, 300), steps=1, scales=3)
    assert made.manifest["figures"]["resolutions"] == [[128, 150], [256, 300]]  # 64 pixels would be too few
    assert made.values.shape == (256, 300, 3)


def test_luminance_keeps_the_contents_colours(small):
    made = onnxviz.style(small, PHOTO, PAINT, steps=10, colour="luminance")
    warm = lambda p: (p[..., 0] - p[..., 2]).ravel()  # noqa: E731
    photo = PHOTO / 255
    assert np.corrcoef(warm(made.values), warm(photo))[0, 1] > 0.95
    assert np.corrcoef(luminance(made.values)[..., 0].ravel(), luminance(photo)[..., 0].ravel())[0, 1] < 0.99


def test_colours_of_another_picture():
    photo, paint = PHOTO / np.float32(255), 0.25 + PAINT / np.float32(510)
    moved = matched_colours(paint, 0.25 + photo / 2)
    np.testing.assert_allclose(moved.mean((0, 1)), (0.25 + photo / 2).mean((0, 1)), atol=0.01)
    flat = [p.reshape(-1, 3) for p in (moved, 0.25 + photo / 2)]
    np.testing.assert_allclose(np.cov(flat[0].T), np.cov(flat[1].T), atol=0.003)
    np.testing.assert_allclose(with_colours_of(photo, photo), photo, atol=2e-3)


def test_histogram_gives_the_style_the_contents_colours(small):
    made, plain = (onnxviz.style(small, PHOTO, PAINT, steps=8, colour=c) for c in ("histogram", "style"))
    assert made.manifest["parameters"]["colour"] == "histogram"
    assert not np.array_equal(made.values, plain.values)
