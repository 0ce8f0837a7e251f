"""What the gradient tests check against: central differences, in float64 where onnx.reference has the operator."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from onnxviz.grad.model import gradient_model
from tests import networks
from tests.graph.running import session


def differentiated(model: onnx.ModelProto, **options: Any) -> onnx.ModelProto:
    """Its gradient model, as the standard's own checker accepts it; the options are those of `gradient_model`."""
    proto = ir.to_proto(gradient_model(ir.from_proto(model), **options))
    onnx.checker.check_model(proto, full_check=True)
    return proto


def run(model: onnx.ModelProto, output: str, feeds: dict[str, Any]) -> np.ndarray:
    """One output of a model; of the feeds those that it has an input for."""
    known = {value.name for value in model.graph.input}
    return session(model).run([output], {k: v for k, v in feeds.items() if k in known})[0]


def agree(found: np.ndarray, expected: np.ndarray) -> None:
    """To 1e-4, or in direction where single units flip at rounding level."""
    assert found.shape == expected.shape
    size = np.linalg.norm(expected)
    assert size > 0
    relative = float(np.linalg.norm(found - expected) / size)
    cosine = float((found * expected).sum() / (np.linalg.norm(found) * size))
    assert relative <= 1e-4 or cosine >= 0.9999, (relative, cosine)


@dataclass
class Case:
    """One operator with its inputs; a name in `constant` is an initialiser, the float rest graph inputs."""

    op: str
    inputs: dict[str, np.ndarray | None]
    attributes: dict[str, Any] = field(default_factory=dict)
    constant: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ("y",)
    of: str = "y"
    opset: int = 18
    domain: str = ""
    oracle: str = "reference"
    step: float = 1e-4
    tolerance: float = 2e-4
    dynamic: bool = True
    label: str = ""
    _rank: list[int] = field(default_factory=list)  # of the output, once it is known: a file always tells it

    @property
    def id(self) -> str:
        shown = ",".join(f"{k}={v}".replace(" ", "") for k, v in self.attributes.items())
        return f"{self.op}-{self.opset}{'-' + self.label if self.label else ''}{'-' + shown if shown else ''}"

    @property
    def wanted(self) -> list[str]:
        return [k for k, v in self.feeds().items() if v.dtype in (np.float32, np.float64)]

    def model(self, *, double: bool = False, dynamic: bool = False) -> onnx.ModelProto:
        value, feeds = helper.make_tensor_value_info, self.feeds(double=double)
        weights = {k: _as(v, double) for k, v in self.inputs.items() if v is not None and k not in feeds}
        names = [k if v is not None else "" for k, v in self.inputs.items()]
        while names and not names[-1]:
            names.pop()
        node = networks.node(
            self.op, names, list(self.outputs), domain=self.domain, name="node", **self.attributes
        )
        shape = self._rank and [f"o{i}" for i in range(self._rank[0])]
        imports = {self.domain: 1} if self.domain else {}
        model = networks.from_nodes(
            [node], {}, {self.of: shape}, weights, opset=self.opset, ir=10, imports=imports
        )
        if double:
            model.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE
        for name, array in feeds.items():
            lengths = [f"{name}{i}" for i in range(array.ndim)] if dynamic else array.shape
            model.graph.input.append(value(name, helper.np_dtype_to_tensor_dtype(array.dtype), lengths))
        return model

    def feeds(self, *, double: bool = False) -> dict[str, np.ndarray]:
        given = {k: v for k, v in self.inputs.items() if v is not None and k not in self.constant}
        return {k: _as(v, double) for k, v in given.items()}


def _as(array: np.ndarray, double: bool) -> np.ndarray:
    return array.astype(np.float64) if double and array.dtype == np.float32 else array


# Linear operators are differenced with a large step in ONNX Runtime: exact up to rounding at any step.
LINEAR = {"oracle": "ort", "step": 1.0}
PIECEWISE = {"oracle": "ort", "step": 0.05, "tolerance": 5e-4}
ORT = {"oracle": "ort", "step": 2e-2, "tolerance": 2e-3}
_FIELDS = {field.name for field in fields(Case)}


def case(op: str, *, constant: str | None = None, outputs: str = "y", **given: Any) -> Case:
    """`Case` in short: arrays (None: left out) are inputs in this order, fields of `Case` are set, the rest attributes.

    constant   names of inputs; None: those of whole numbers
    """
    inputs = {
        k: v if v is None else np.asarray(v)
        for k, v in given.items()
        if k not in _FIELDS and (v is None or isinstance(v, np.ndarray | np.generic))
    }
    fixed = [k for k, v in inputs.items() if v is not None and v.dtype == np.int64]
    return Case(
        op,
        inputs,
        {k: v for k, v in given.items() if k not in _FIELDS | set(inputs)},
        tuple(fixed if constant is None else constant.split()),
        tuple(outputs.split()),
        **{k: v for k, v in given.items() if k in _FIELDS},
    )


def each_form(test: Any) -> Any:
    """A test of one `dynamic`: with lengths that the file tells, and with open ones."""
    return pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])(test)


def rule_test(cases: Iterable[Case]) -> Any:
    """A test that holds each of these, as `check` does, with known and with open lengths."""

    @pytest.mark.parametrize("case", list(cases), ids=lambda case: case.id)
    @each_form
    def test_rule(case: Case, dynamic: bool) -> None:
        check(case, dynamic=dynamic and case.dynamic)

    return test_rule


def check(case: Case, *, dynamic: bool = False) -> None:
    """Forward equal, gradient by every float input equal to central differences along random directions."""
    expected = session(case.model(dynamic=dynamic)).run([case.of], case.feeds())[0]
    case._rank[:] = [expected.ndim]
    model = case.model(dynamic=dynamic)
    rng = np.random.default_rng(7)
    cotangent = rng.standard_normal(expected.shape).astype(np.float32)
    forward = _forward(case)
    for name in case.wanted:
        proto = differentiated(model, of=case.of, wrt=name)
        assert {n.domain for n in proto.graph.node} <= {"", case.domain}
        feeds = case.feeds() | {f"{case.of}.cotangent": cotangent}
        again, gradient = session(proto).run([case.of, f"{name}.gradient"], feeds)
        np.testing.assert_allclose(again, expected, rtol=1e-5, atol=1e-6)
        assert gradient.shape == case.inputs[name].shape
        assert gradient.dtype == np.float32
        assert np.isfinite(gradient).all()
        for _ in range(3):
            direction = rng.standard_normal(gradient.shape)
            numeric = _slope(forward, case, name, direction, cotangent)
            analytic = float((gradient.astype(np.float64) * direction).sum())
            scale = np.linalg.norm(gradient) + abs(numeric) + 1e-3
            assert abs(numeric - analytic) <= case.tolerance * scale, (name, numeric, analytic)


def _forward(case: Case) -> Any:
    if case.oracle == "reference":
        from onnx.reference import ReferenceEvaluator

        evaluator = ReferenceEvaluator(case.model(double=True))
        return lambda feeds: evaluator.run([case.of], feeds)[0]
    engine = session(case.model())
    return lambda feeds: engine.run(
        [case.of], {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in feeds.items()}
    )[0].astype(np.float64)


def _slope(forward: Any, case: Case, name: str, direction: np.ndarray, cotangent: np.ndarray) -> float:
    """⟨cotangent, J direction⟩ by central differences, extrapolated to fourth order."""
    feeds = case.feeds(double=True)

    def difference(h: float) -> float:
        up, down = (forward({**feeds, name: np.asarray(feeds[name] + s * direction)}) for s in (h, -h))
        return float((cotangent * (up - down)).sum() / (2 * h))

    return (4 * difference(case.step / 2) - difference(case.step)) / 3


# --- inputs -----------------------------------------------------------------------------------


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def positive(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, 1, *shape]).uniform(0.5, 2.0, shape).astype(np.float32)


def apart(*shape: int, seed: int = 0, gap: float = 0.5) -> np.ndarray:
    """Distinct values at least `gap` apart and away from 0: no kink lies within a step."""
    size = int(np.prod(shape))
    order = np.random.default_rng([seed, 2, *shape]).permutation(size)
    return ((order - size // 2 + 0.5) * gap).reshape(shape).astype(np.float32)


def ints(*values: Any) -> np.ndarray:
    return np.asarray(
        values if len(values) != 1 or not isinstance(values[0], (list, tuple)) else values[0], np.int64
    )
