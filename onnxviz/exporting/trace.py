"""From a torch module to an ONNX graph, with batch, height and width left open where the network allows it."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxviz.errors import ModelUnsuitable, RuntimeFailed, UsageError, ways
from onnxviz.exporting.source import torch
from onnxviz.graph.operators import CONTROL, computes, computing

# With these in it, a graph of dynamic size is worse than one of fixed size: they stand for adaptive pooling spelt
# out in index arithmetic, or for control flow that depends on the size.
_ILL_SIGNS = CONTROL | computing("arange") | {"GatherND", "NonZero", "SequenceConstruct", "SequenceAt"}
INNER = "inner"


@dataclass
class Traced:
    """An exported graph, still with torch's names.

    model     the graph
    dynamic   which of 'N', 'H', 'W' are open
    sizes     (height, width) that torch itself takes, to check the graph at; the first is the one it was made at
    notes     what could not be left open and why
    """

    model: ir.Model
    dynamic: str
    sizes: list[tuple[int, int]]
    notes: list[str] = field(default_factory=list)


@contextlib.contextmanager
def evaluating(module: Any) -> Iterator[None]:
    """The module in evaluation mode; afterwards each of its parts is in the mode that it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def run_torch(module: Any, x: Any) -> Any:
    """The module's one output tensor for `x`.

    raises   UsageError when it fails, ModelUnsuitable when it gives no tensor
    """
    try:
        with torch().no_grad():
            return pick_output(module(x))
    except ModelUnsuitable:
        raise
    except Exception as error:
        shape = "×".join(map(str, x.shape))
        raise UsageError(
            f"the network does not take an input of {shape}: {type(error).__name__}: {_brief(error)}"
            + ways("give --size WIDTHxHEIGHT as it needs", "give --channels as it needs")
        ) from error


def pick_output(output: Any) -> Any:
    """The tensor that matters in what a module returns: itself, `.logits`, 'out', the first of a tuple.

    raises   ModelUnsuitable
    """
    library = torch()
    if isinstance(output, library.Tensor):
        return output
    for key in ("logits", "out", "last_hidden_state"):
        found = output.get(key) if isinstance(output, dict) else getattr(output, key, None)
        if isinstance(found, library.Tensor):
            return found
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], library.Tensor):
        return output[0]
    raise ModelUnsuitable(
        f"the network returns {type(output).__name__}, not a tensor; wrap it in a module that returns one"
    )


def trace(
    module: Any, size: tuple[int, int], channels: int, *, opset: int, batch: bool, free: bool
) -> Traced:
    """Export `module`, which is in evaluation mode, for images of `channels` × `size`.

    batch, free   whether to leave batch, and height and width, open where that is possible
    raises        UsageError, ModelUnsuitable
    """
    library = torch()
    device = next((p.device for p in module.parameters()), library.device("cpu"))
    example = library.zeros(2 if batch else 1, channels, *size, device=device)
    output = run_torch(module, example)
    with library.no_grad():
        wrapped = module if isinstance(module(example), library.Tensor) else _one_output(module)
    names = (["image"], ["logits" if output.ndim == 2 else "output"])
    notes: list[str] = []
    if free:
        fixing = _fixing_pool(module)
        other = None if fixing else _another_size(module, example)
        if other is None:
            reason = fixing or "torch itself takes no other size"
            notes.append(f"height and width stay {size[0]}×{size[1]}: {reason}")
        else:
            model = _export(wrapped, example, names, opset, "NHW" if batch else "HW", notes)
            if model is not None:
                return Traced(model, "NHW" if batch else "HW", [size, other], notes)
    for dynamic in ("N", "") if batch else ("",):
        part = example if dynamic else example[:1]
        with _plain_pools(module, part):
            model = _export(wrapped, part, names, opset, dynamic, notes)
        if model is not None:
            if batch and not dynamic:
                notes.append("the batch stays 1")
            return Traced(model, dynamic, [size], notes)
    raise ModelUnsuitable(f"torch cannot export this network: {notes[-1]}")


def _export(
    module: Any, example: Any, names: tuple[list[str], list[str]], opset: int, dynamic: str, notes: list[str]
) -> ir.Model | None:
    axes = {{"N": 0, "H": 2, "W": 3}[letter]: letter for letter in dynamic}
    try:
        with _quiet():
            program = torch().onnx.export(
                module,
                (example,),
                dynamo=True,
                verbose=False,
                opset_version=opset,
                input_names=names[0],
                output_names=names[1],
                dynamic_shapes=(axes,) if axes else None,
            )
    except Exception as error:
        cause = error.__cause__ or error
        what = "height and width" if "H" in dynamic else "the batch" if dynamic else "the network"
        notes.append(f"{what} could not be left open: {type(cause).__name__}: {_brief(cause)}")
        return None
    model: ir.Model = program.model
    ill = sorted({_ill_sign(node) for node in model.graph.all_nodes()} - {""})
    if "H" in dynamic and ill:
        notes.append(f"height and width stay as they are: leaving them open takes {', '.join(ill)}")
        return None
    sizes = [n if isinstance(n, int) else str(n.value) for n in model.graph.inputs[0].shape or ()]
    if sizes != [name if name in dynamic else int(n) for name, n in zip("NCHW", example.shape, strict=True)]:
        notes.append(f"torch fixed {'height and width' if 'H' in dynamic else 'the batch'} while exporting")
        return None
    return model


def _ill_sign(node: ir.Node) -> str:
    """What makes this node one that a graph of dynamic size is worse for, or ''."""
    if computes(node.op_type) == "pad" and (node.inputs[1] is None or node.inputs[1].const_value is None):
        return "Pad by amounts that are computed from the size"
    return node.op_type if node.op_type in _ILL_SIGNS else ""


def _another_size(module: Any, example: Any) -> tuple[int, int] | None:
    """A size besides the example's that torch takes: an odd one, to catch padding that depends on it."""
    height, width = example.shape[2:]
    for other in ((height + 17, width + 5), (height + 32, width + 64)):
        try:
            run_torch(module, torch().zeros(1, example.shape[1], *other, device=example.device))
        except (UsageError, ModelUnsuitable):
            continue
        return other
    return None


def _fixing_pool(module: Any) -> str | None:
    """What to say of a pooling layer that gives the same height and width for every input, where there is one."""
    library = torch()
    for name, pool in module.named_modules():
        if isinstance(pool, (library.nn.AdaptiveAvgPool2d, library.nn.AdaptiveMaxPool2d)):
            size = pool.output_size if isinstance(pool.output_size, tuple) else (pool.output_size,) * 2
            if any(part not in (1, None) for part in size):
                return f"{name!r} pools to {size[0]}×{size[1]}, which no ONNX operator does for every size"
    return None


def _one_output(module: Any) -> Any:
    library = torch()

    class OneOutput(library.nn.Module):  # type: ignore[name-defined, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, image: Any) -> Any:
            return pick_output(self.inner(image))

    return OneOutput().eval()


@contextlib.contextmanager
def _plain_pools(module: Any, example: Any) -> Iterator[None]:
    """While it lasts, adaptive average pooling to a divisor of its input's size is ordinary pooling.

    torch spells adaptive pooling out in index arithmetic; at a fixed size (VGG: 7×7 to 7×7, AlexNet: 6×6 to 6×6)
    it is an average over equal windows, or nothing at all.
    """
    library = torch()
    seen: dict[Any, set[tuple[int, int]]] = {}
    hooks = [
        pool.register_forward_pre_hook(
            lambda pool, args: seen.setdefault(pool, set()).add(tuple(args[0].shape[-2:]))
        )
        for pool in module.modules()
        if isinstance(pool, library.nn.AdaptiveAvgPool2d)
    ]
    try:
        run_torch(module, example)
    finally:
        for hook in hooks:
            hook.remove()
    replaced = []
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            plain = _plain(child, seen[child]) if child in seen else None
            if plain is not None:
                setattr(parent, name, plain)
                replaced.append((parent, name, child))
    try:
        yield
    finally:
        for parent, name, child in replaced:
            setattr(parent, name, child)


def _plain(pool: Any, sizes: set[tuple[int, int]]) -> Any:
    """The ordinary pooling that does the same on inputs of the one size seen, or None."""
    library = torch()
    wanted = pool.output_size if isinstance(pool.output_size, tuple) else (pool.output_size, pool.output_size)
    if len(sizes) != 1 or wanted == (1, 1):
        return None
    (size,) = sizes
    target = [whole if part is None else part for part, whole in zip(wanted, size, strict=True)]
    if any(whole % part for part, whole in zip(target, size, strict=True)):
        return None
    kernel = tuple(whole // part for part, whole in zip(target, size, strict=True))
    return library.nn.Identity() if kernel == (1, 1) else library.nn.AvgPool2d(kernel)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter talks on every channel; what matters of it is in exceptions and notes."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _brief(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:300] if lines else "no reason given"


# --- does the graph compute what torch computes? -------------------------------------------------


# Of the largest output: float32 in another order of summation, through a hundred layers, stays well below this.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Difference:
    """The largest differences found between the graph and torch.

    absolute   of any output value
    relative   to the largest output value of that input
    at         the input shape where it was largest
    """

    absolute: float
    relative: float
    at: tuple[int, ...]


def compare(model: ir.Model, module: Any, shapes: list[tuple[int, int, int, int]], seed: int) -> Difference:
    """Run both on normal random input of each shape; gives the largest difference found.

    raises   RuntimeFailed when ONNX Runtime cannot run the graph, MissingDependency where it is not installed
    """
    from onnxviz.programs import compile

    program = compile(model, provider="cpu", own=())
    output = str(model.graph.outputs[0].name)
    random = np.random.default_rng(seed)
    device = next((p.device for p in module.parameters()), torch().device("cpu"))
    worst = Difference(0.0, 0.0, shapes[0])
    for shape in shapes:
        x = random.standard_normal(shape, dtype=np.float32)
        expected = run_torch(module, torch().from_numpy(x).to(device)).cpu().numpy()
        got = program({str(model.graph.inputs[0].name): x})[output]
        if got.shape != expected.shape:
            raise RuntimeFailed(
                f"for an input of {shape} the graph gives {got.shape}, torch {expected.shape}"
            )
        absolute = float(np.abs(got - expected).max(initial=0.0))
        if not np.isfinite(absolute):
            absolute = float("inf") if np.isfinite(expected).all() else 0.0
        largest = float(np.abs(expected).max(initial=0.0))
        relative = absolute / largest if largest else absolute
        if relative >= worst.relative:
            worst = Difference(absolute, relative, shape)
    return worst
