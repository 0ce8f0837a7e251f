"""What the gradient tests check against: central differences, in float64 where onnx.reference has the operator."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from onnxviz.grad.model import gradient_model

onnxruntime.set_default_logger_severity(4)


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


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
    single: tuple[str, ...] = ()  # inputs that stay float32 in the float64 model
    step: float = 1e-4
    tolerance: float = 2e-4
    dynamic: bool = True
    label: str = ""
    _rank: list[int] = field(default_factory=list)  # of the output, once it is known: a file always tells it

    def __post_init__(self) -> None:
        self.inputs = {k: None if v is None else np.asarray(v) for k, v in self.inputs.items()}

    @property
    def id(self) -> str:
        shown = ",".join(f"{k}={v}".replace(" ", "") for k, v in self.attributes.items())
        return f"{self.op}-{self.opset}{'-' + self.label if self.label else ''}{'-' + shown if shown else ''}"

    @property
    def wanted(self) -> list[str]:
        return [
            k
            for k, v in self.inputs.items()
            if v is not None and k not in self.constant and v.dtype in (np.float32, np.float64)
        ]

    def model(self, *, double: bool = False, dynamic: bool = False) -> onnx.ModelProto:
        inputs, weights = [], []
        for name, value in self.inputs.items():
            if value is None:
                continue
            array = value
            if double and array.dtype == np.float32 and name not in self.single:
                array = array.astype(np.float64)
            if name in self.constant:
                weights.append(numpy_helper.from_array(array, name))
                continue
            shape = [f"{name}{i}" for i in range(array.ndim)] if dynamic else array.shape
            inputs.append(
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), shape)
            )
        names = [k if v is not None else "" for k, v in self.inputs.items()]
        while names and not names[-1]:
            names.pop()
        node = helper.make_node(
            self.op, names, list(self.outputs), domain=self.domain, name="node", **self.attributes
        )
        kind = TensorProto.DOUBLE if double else TensorProto.FLOAT
        outputs = [
            helper.make_tensor_value_info(
                self.of, kind, self._rank and [f"o{i}" for i in range(self._rank[0])]
            )
        ]
        graph = helper.make_graph([node], "case", inputs, outputs, weights)
        imports = [helper.make_opsetid("", self.opset)]
        if self.domain:
            imports.append(helper.make_opsetid(self.domain, 1))
        return helper.make_model(graph, opset_imports=imports, ir_version=10)

    def feeds(self, *, double: bool = False) -> dict[str, np.ndarray]:
        found = {}
        for k, v in self.inputs.items():
            if v is None or k in self.constant:
                continue
            found[k] = (
                v.astype(np.float64) if double and v.dtype == np.float32 and k not in self.single else v
            )
        return found


def check(case: Case, *, dynamic: bool = False) -> None:
    """Forward equal, gradient by every float input equal to central differences along random directions."""
    expected = session(case.model(dynamic=dynamic)).run([case.of], case.feeds())[0]
    case._rank[:] = [expected.ndim]
    model = case.model(dynamic=dynamic)
    rng = np.random.default_rng(7)
    cotangent = rng.standard_normal(expected.shape).astype(np.float32)
    forward = _forward(case)
    for name in case.wanted:
        found = gradient_model(ir.from_proto(model), of=case.of, wrt=name)
        proto = ir.to_proto(found)
        onnx.checker.check_model(proto, full_check=True)
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
        up = forward({**feeds, name: np.asarray(feeds[name] + h * direction)})
        down = forward({**feeds, name: np.asarray(feeds[name] - h * direction)})
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
