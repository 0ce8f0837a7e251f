"""What a network's output means: the graph's conclusion, checked by running where the graph leaves doubt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from onnxviz.errors import LabelsRejected, LimitExceeded, OnnxVizError
from onnxviz.graph.head import Head, head
from onnxviz.graph.output import BINARY, CLASSES, SEQUENCE, explained

if TYPE_CHECKING:
    from onnxviz.running import Running

_SUMS_TO_ONE = 2e-3  # half precision over a thousand classes
_ALIKE = 1e-3


def conclude(net: Running, output: str | None, labels: int | None) -> Head:
    """The conclusion about a network's output.

    output   which output; None: the one that looks like class scores
    labels   how many labels there are; None: none
    raises   ModelUnsuitable, UnknownLayer
    """
    found = head(net.model, output, input=net.input.name, labels=labels)
    if found.open and found.scored:
        found = _run_open(net, found)
    if found.kind == SEQUENCE:
        found = _run_sequence(net, found)
    return found


def check_labels(found: Head, labels: list[str]) -> None:
    """raises   LabelsRejected when labels that were given are not as many as the classes."""
    if found.kind in (CLASSES, SEQUENCE):
        from onnxviz.labels import check_count

        check_count(labels, found.classes)
    elif found.kind == BINARY and len(labels) not in (1, 2):
        raise LabelsRejected(
            f"{len(labels)} labels were given, but the network has one score for two classes; give two labels (what it "
            "speaks against, then what it speaks for), or that of class 1 alone"
        )


def fitting(net: Running, found: Head, labels: list[str]) -> list[str] | None:
    """The labels of the classes that were found; None where these are others, which is told."""
    if not found.scored:
        return labels
    if found.kind == BINARY and len(labels) == 1:
        return [f"not {labels[0]}", labels[0]]
    if found.classes in (None, len(labels)):
        return labels
    # Labels that were given are counted when the model is opened; these came with the file.
    net.warn(f"the file carries {len(labels)} labels for {found.classes} classes: they are not used")
    return None


def assumption(found: Head) -> str:
    """What was taken for granted, and what to do where that is wrong."""
    if found.kind == SEQUENCE:
        text = f"output {found.spelled} is taken for a sequence of steps: {found.reason}"
        return text + explained([found.example], "if it is none")
    first = f"part({found.output!r}{', 0' * (len(found.shape) - 1)})"
    if found.kind == BINARY:
        text = (
            f"the file does not say what the one number of output {found.spelled} is: it is taken for the logit of two "
            "classes (class 1 for it, class 0 against it)"
        )
        return text + explained([first], "if it is a quantity")
    text = (
        f"the file does not say what the numbers of output {found.spelled} are: they are taken for the scores of "
        "classes, before softmax"
    )
    return text + explained([first], "if they are quantities", "--labels FILE, if they are classes")


# --- by running ----------------------------------------------------------------------------------


def _once(error: OnnxVizError) -> None:
    """Raise what would take as long once more: a run that the time limit ended."""
    if isinstance(error, LimitExceeded) and "run_seconds" in str(error):
        raise error


def _run_open(net: Running, found: Head) -> Head:
    """Whether values of an output whose end the graph does not tell are probabilities: never negative, sum 1."""
    try:
        rows = net.run(net.samples(), [found.scores])[found.scores]
    except OnnxVizError as error:  # whoever needs its values is told why
        _once(error)
        return found
    if not rows.size:
        return found
    rows = rows.reshape(len(rows), -1).astype(np.float64)
    found = replace(found, classes=rows.shape[1] if found.kind == CLASSES else found.classes)

    def sums_to_one(values: np.ndarray) -> bool:
        return values.shape[1] > 1 and bool((np.abs(values.sum(axis=1) - 1) < _SUMS_TO_ONE).all())

    if (rows >= 0).all() and sums_to_one(rows):
        activation, what = "softmax", "are never negative and sum to 1: probabilities"
    elif (rows <= 0).all() and sums_to_one(np.exp(rows)):
        activation, what = "log_softmax", "are logarithms of what sums to 1"
    elif (rows >= 0).all() and (rows <= 1).all():
        activation, what = "sigmoid", "lie between 0 and 1"
    else:
        return found
    return replace(
        found, activation=activation, told=True, reason=f"tried on two pictures, its values {what}"
    )


def _run_sequence(net: Running, found: Head) -> Head:
    """The axis of the pictures, by two of them together against each alone."""
    if net.batched[1] is not None:
        return found
    pair, program = net.samples(), net.program([found.scores])
    try:
        together, *alone = (
            program({net.input.name: x}, [found.scores])[found.scores] for x in (pair, pair[:1], pair[1:])
        )
    except OnnxVizError as error:  # whoever needs its values is told why
        _once(error)
        return found
    if found.batch is not None and _split(together, alone, found.batch):
        return replace(found, reason=f"{found.reason}; two pictures together give what each gives alone")
    if net.alone is None:
        net.alone = f"output {found.spelled} of two pictures is not what each gives alone"
        net.warn(f"images go through this network one at a time: {net.alone}")
    return found


def _split(together: np.ndarray, alone: list[np.ndarray], axis: int) -> bool:
    if together.shape[axis] != 2 * alone[0].shape[axis]:
        return False
    joined = np.concatenate(alone, axis=axis)
    scale = max(1e-6, float(np.abs(joined).max()))
    return joined.shape == together.shape and float(np.abs(joined - together).max()) <= _ALIKE * scale


# --- predictions ---------------------------------------------------------------------------------


class Prediction(NamedTuple):
    """One class with its probability (0 to 1)."""

    index: int  # type: ignore[assignment]  # a tuple's own method of this name is not missed
    label: str
    probability: float

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return {"index": self.index, "label": self.label, "probability": self.probability}


def best(rows: np.ndarray, top: int, label: Callable[[int], str]) -> list[list[Prediction]]:
    """The `top` most probable classes of each row of probabilities (N, classes), best first."""
    found = np.argsort(-rows, axis=1, kind="stable")[:, :top].tolist()
    return [
        [Prediction(index, label(index), float(row[index])) for index in indices]
        for row, indices in zip(rows, found, strict=True)
    ]


def best_steps(steps: np.ndarray, label: Callable[[int], str]) -> list[list[Prediction]]:
    """The most probable class of each step of (N, steps, classes), in order."""
    return [[best(row[None], 1, label)[0][0] for row in rows] for rows in steps]


# --- values to probabilities ---------------------------------------------------------------------


def softmax(rows: np.ndarray) -> np.ndarray:
    """Softmax over the last axis of float32 rows."""
    shifted = np.exp(rows - rows.max(axis=-1, keepdims=True))
    result: np.ndarray = shifted / shifted.sum(axis=-1, keepdims=True)
    return result


def probabilities(found: Head, rows: np.ndarray) -> np.ndarray:
    """(N, numbers) as the output gives them -> (N, classes) float32; two columns of one score for two classes."""
    rows = rows.astype(np.float32, copy=False)
    if found.activation in ("log_softmax", "log_sigmoid"):
        rows = np.exp(rows)
    elif found.activation is None:
        rows = 0.5 * (1 + np.tanh(0.5 * rows)) if found.kind == BINARY else softmax(rows)
    return np.concatenate([1 - rows, rows], axis=1) if found.kind == BINARY else rows


def step_probabilities(found: Head, array: np.ndarray) -> np.ndarray:
    """The output of a sequence, pictures first, as (N, steps, classes) float32."""
    rows = np.moveaxis(array, found.axis, -1)
    rows = rows.reshape(len(rows), -1, rows.shape[-1]).astype(np.float32, copy=False)
    if found.activation in ("log_softmax", "log_sigmoid"):
        return np.exp(rows)
    return rows if found.activation else softmax(rows)
