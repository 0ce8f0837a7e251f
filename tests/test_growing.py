"""What docs/contributing.md says is all that a new rule, objective or method takes: run, and found everywhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import onnxviz
from onnxviz.attribution.methods import METHODS
from onnxviz.errors import UsageError
from onnxviz.grad import overrides, table  # noqa: F401 - the first fills the table
from onnxviz.objectives.terms import WRITTEN
from tests import toys

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import methods as methods_page  # noqa: E402
import operators as operators_page  # noqa: E402

PICTURE = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)


def code(section: str) -> str:
    """The Python code of a section of the page."""
    page = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    return re.search(rf"^## {section}\n.*?```python\n(.*?)```", page, flags=re.S | re.M)[1]


@pytest.fixture
def grown():
    """Runs code as a file of its own would; what it has entered is taken out again."""
    before = dict(METHODS), dict(table._RULES), dict(WRITTEN)
    yield lambda section: exec(compile(code(section), f"{section}.py", "exec"), {})
    for now, then in zip((METHODS, table._RULES, WRITTEN), before, strict=True):
        now.clear()
        now.update(then)


def products(*shape: int, pooled: bool = False) -> onnx.ModelProto:
    """The running products along axis 1; `pooled`: a network of pictures, whose scores are their means."""
    inner = "products" if pooled else "y"
    nodes = [helper.make_node("CumProd", ["x", "axis"], [inner])]
    if pooled:
        nodes += [
            helper.make_node("GlobalAveragePool", [inner], ["pool"]),
            helper.make_node("Flatten", ["pool"], ["y"]),
        ]
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *sizes])
        for name, sizes in (("x", shape), ("y", shape[:1]))
    )
    axis = helper.make_tensor("axis", TensorProto.INT64, [], [1])
    graph = helper.make_graph(nodes, "products", [x], [y], [axis])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 26)], ir_version=11)


def test_a_rule_is_one_function(grown):
    with pytest.raises(onnxviz.errors.UnsupportedOperator, match="CumProd"):
        onnxviz.gradient_model(products(5))
    pictured = products(3, 12, 12, pooled=True)
    lacking = "no rule for CumProd"
    assert lacking in str(onnxviz.inspect(onnxviz.load(pictured, preprocess="unit", provider="cpu")).lines())
    grown("Add a gradient rule")
    model = onnxviz.gradient_model(products(5))
    rng = np.random.default_rng(0)
    x, g = rng.uniform(0.5, 1.5, (2, 5)), rng.standard_normal((2, 5))
    feeds = {"x": x.astype(np.float32), "y.cotangent": g.astype(np.float32)}
    found = dict(zip(("y", "x.gradient"), ReferenceEvaluator(model).run(None, feeds), strict=True))
    y = np.cumprod(x, axis=1)
    wanted = np.cumsum((g * y)[:, ::-1], axis=1)[:, ::-1] / x
    np.testing.assert_allclose(found["x.gradient"], wanted, rtol=1e-5, atol=1e-6)
    assert re.search(r"^\| CumProd \|[^|]*\| rule \|", operators_page.page(), flags=re.M)
    net = onnxviz.load(pictured, preprocess="unit", provider="cpu")
    assert lacking not in str(onnxviz.inspect(net).lines())
    light = np.maximum(PICTURE, 1)
    sheet = onnxviz.attributions(net, light, ["gradient", "input-x-gradient"], target=2)
    picture = net.prepare(light)[0]
    rest = np.stack([np.prod(np.delete(picture, i, axis=0), axis=0) for i in range(3)])
    np.testing.assert_allclose(sheet.values[0, 0], rest.sum(axis=0) / 144, rtol=1e-5)
    explainer = onnxviz.explainer_model(net, "gradient", target=2, fixed=True)
    session = onnxruntime.InferenceSession(explainer.SerializeToString(), providers=["CPUExecutionProvider"])
    (heat,) = session.run(["heatmap"], {"image": light[None]})
    np.testing.assert_allclose(heat[0], sheet.values[0, 0], rtol=1e-5)


def test_an_objective_is_one_function(grown):
    from typer.testing import CliRunner

    from onnxviz.cli.main import program

    net = onnxviz.load(toys.detector(), preprocess="raw", provider="cpu")
    text = "2*cubes(features, 0.5)"
    with pytest.raises(UsageError, match="no objective is called 'cubes'"):
        onnxviz.saliency(net, PICTURE, objective=text)
    grown("Add an objective")
    expected = float((net.activations(PICTURE, "features")["features"] ** 3).mean())
    for technique, options in (
        (onnxviz.saliency, {}),
        (onnxviz.cam, {"layer": "features"}),
        (onnxviz.occlusion, {"window": 4, "stride": 4}),
    ):
        found = technique(net, PICTURE, objective=text, **options)
        assert found.score == pytest.approx(expected, rel=1e-5)
        assert found.label == text
    sheet = onnxviz.attributions(net, PICTURE, ["gradient", "grad-cam"], objective=text)
    np.testing.assert_array_equal(
        sheet.values[0, 0], onnxviz.saliency(net, PICTURE, method="gradient", objective=text).values
    )
    explainer = onnxviz.explainer_model(net, "gradient", objective=text, fixed=True)
    session = onnxruntime.InferenceSession(explainer.SerializeToString(), providers=["CPUExecutionProvider"])
    (heat,) = session.run(["heatmap"], {"image": PICTURE[None]})
    wanted = onnxviz.saliency(net, PICTURE, method="gradient", objective=text).values
    np.testing.assert_allclose(heat[0], wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())
    made = onnxviz.ascent(net, objective=text, preset="simonyan", steps=2)
    assert made.manifest["parameters"]["objective"] == text
    assert "| `cubes(layer, [scale])` | The mean cube of a layer, times `scale`. |" in methods_page.page()
    shown = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(
        program("occlusion"), ["occlusion", "--help"]
    )
    assert "l2, cubes" in " ".join(shown.output.replace("│", " ").split())


def test_a_method_is_one_function(grown, tmp_path):
    grown("Add a method")
    net = onnxviz.load(toys.detector(), preprocess="raw", labels=["red", "green"], provider="cpu")
    found = onnxviz.saliency(net, PICTURE, method="gradient-x-sign", target=1)
    x = net.prepare(PICTURE)
    _, gradient = net.value_and_gradient(onnxviz.objectives.logit(1))(x)
    wanted = (gradient * np.sign(x))[0].sum(axis=0)
    np.testing.assert_allclose(found.values, wanted, rtol=1e-5, atol=1e-7)
    assert found.signed
    assert found.caption.title == "gradient × sign"
    sheet = onnxviz.attributions(net, PICTURE, target=1, samples=2, steps=2)
    assert "gradient-x-sign" in sheet.methods
    sheet.save(tmp_path / "sheet.png")
    explainer = onnxviz.explainer_model(net, "gradient-x-sign", target=1, fixed=True)
    session = onnxruntime.InferenceSession(explainer.SerializeToString(), providers=["CPUExecutionProvider"])
    (heat,) = session.run(["heatmap"], {"image": PICTURE[None]})
    np.testing.assert_allclose(heat[0], wanted, rtol=1e-5, atol=1e-7)
    assert "| `gradient-x-sign` | The gradient times the input's sign" in methods_page.page()


@pytest.mark.parametrize("command", ["saliency", "gradient"])
def test_a_method_is_named_by_help(command, tmp_path):
    (tmp_path / "own.py").write_text(code("Add a method"), encoding="utf-8")
    run = f"import own\nfrom onnxviz.cli.main import run\nrun([{command!r}, '--help'])"
    done = subprocess.run(
        [sys.executable, "-c", run],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{ROOT}:{tmp_path}", "COLUMNS": "200", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "gradient-x-sign" in done.stdout, done.stdout + done.stderr


def test_the_page_of_methods_is_that_of_the_rows():
    assert methods_page.PAGE.read_text(encoding="utf-8") == methods_page.page()
