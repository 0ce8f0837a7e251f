"""Class activation maps of detectors that predict from several scales side by side: three generations of heads."""

from __future__ import annotations

import io

import numpy as np
import pytest

import onnxviz
from tests.attribution.pieces import correlation, load, pictures

torch = pytest.importorskip("torch")
F = torch.nn.functional
(PICTURE,) = pictures(1, 64, seed=5)
CLASSES, BINS = 3, 4


class Detector(torch.nn.Module):
    """A backbone of two scales with a neck, and a head: 'anchors' (v5), 'bins' (v8), 'best' (v10)."""

    def __init__(self, head: str) -> None:
        super().__init__()
        conv = torch.nn.Conv2d
        self.head = head
        self.stem, self.fine, self.coarse = conv(3, 8, 3, 2, 1), conv(8, 12, 3, 2, 1), conv(12, 16, 3, 2, 1)
        self.mix = conv(28, 12, 3, 1, 1)
        wide = 3 * (5 + CLASSES) if head == "anchors" else 4 * BINS
        self.boxes = torch.nn.ModuleList([conv(12, wide, 1), conv(16, wide, 1)])
        self.names = torch.nn.ModuleList([conv(12, CLASSES, 1), conv(16, CLASSES, 1)])
        self.bins = conv(BINS, 1, 1, bias=False)

    def forward(self, x):
        fine = F.silu(self.fine(F.silu(self.stem(x))))
        coarse = F.silu(self.coarse(fine))
        fine = F.silu(self.mix(torch.cat([fine, F.interpolate(coarse, scale_factor=2)], 1)))
        maps = (fine, coarse)
        if self.head == "anchors":  # (N, boxes, 5 + classes), each anchor's box a channel of its own
            rows = []
            for one, box in zip(maps, self.boxes, strict=True):
                y = box(one).view(-1, 3, 5 + CLASSES, *one.shape[2:]).permute(0, 1, 3, 4, 2).contiguous()
                rows.append(torch.sigmoid(y).view(-1, 3 * one.shape[2] * one.shape[3], 5 + CLASSES))
            return torch.cat(rows, 1)
        heads = zip(maps, self.boxes, self.names, strict=True)
        both = [torch.cat([b(one), c(one)], 1).flatten(2) for one, b, c in heads]
        box, names = torch.cat(both, 2).split([4 * BINS, CLASSES], 1)
        count = box.shape[2]
        box = self.bins(box.view(-1, 4, BINS, count).transpose(1, 2).softmax(1)).view(-1, 4, count)
        y = torch.cat([box, torch.sigmoid(names)], 1)  # (N, 4 + classes, boxes)
        if self.head == "bins":
            return y
        y = y.transpose(1, 2)
        best = y[..., 4:].amax(-1).topk(5, dim=1).indices
        return y.gather(1, best[..., None].expand(-1, -1, y.shape[2]))  # (N, 5, 4 + classes)


@pytest.fixture(scope="module", params=["anchors", "bins", "best"])
def detector(request):
    torch.manual_seed(1)
    model, buffer = Detector(request.param).eval(), io.BytesIO()
    torch.onnx.export(
        model, (torch.randn(1, 3, 64, 64),), buffer, dynamo=False, opset_version=14,
        input_names=["images"], output_names=["output0"],
    )  # fmt: skip
    return request.param, model, load(buffer.getvalue())


def box_of_scale(head, net, coarse):
    """A box and class that this scale predicts, as an objective and as an index of the output."""
    if head == "best":
        return "part('output0', 0, 5)", (0, 0, 5)
    place = -1 if coarse else 7
    count = net.layer("output0").shape[1 if head == "anchors" else 2]
    index = (place % count, 6) if head == "anchors" else (5, place % count)
    return f"part('output0', {index[0]}, {index[1]})", (0, *index)


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("method", ["layercam", "grad-cam"])
def test_a_box_is_explained_by_the_maps_that_it_is_read_from(detector, method, coarse):
    head, model, net = detector
    text, index = box_of_scale(head, net, coarse)
    found = onnxviz.cam(net, PICTURE, objective=text, method=method, signed=True)
    names = found.manifest["parameters"]["layers"]
    shapes = {net.layer(name).shape[1:] for name in names}
    assert shapes == {(12, 16, 16), (16, 8, 8)}  # both scales, and not the maps whose channels are boxes
    assert np.abs(found.values).max() > 0
    if head == "best":
        return
    # The scale that the box is read from, by float64 torch: its own map is the one that counts.
    x = torch.tensor(net.prepare(PICTURE), dtype=torch.float64)
    double = Detector(head).double()
    double.load_state_dict({name: value.double() for name, value in model.state_dict().items()})
    kept = []
    hook = (double.coarse if coarse else double.mix).register_forward_hook(lambda *args: kept.append(args[2]))
    score = double(x)[index]
    hook.remove()
    value = F.silu(kept[0])
    (slope,) = torch.autograd.grad(score, kept[0], create_graph=False)
    slope = slope / torch.autograd.functional.jvp(F.silu, kept[0].detach(), torch.ones_like(kept[0]))[1]
    weights = slope.clamp(min=0) if method == "layercam" else slope.mean((2, 3), keepdim=True)
    expected = (weights * value).sum(1)[0].detach().numpy()
    layer = next(name for name in names if net.layer(name).shape[2] == (8 if coarse else 16))
    one = onnxviz.cam(net, PICTURE, objective=text, method=method, layer=layer, signed=True)
    wanted = F.interpolate(torch.tensor(expected)[None, None], size=(64, 64), mode="bilinear")[0, 0].numpy()
    assert correlation(one.values, wanted) > 0.999 or np.abs(wanted).max() == 0
