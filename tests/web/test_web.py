"""Explainers in a browser's runtime: ONNX Runtime's WebAssembly build, on Node, with the code of docs/explainer.md."""

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import onnxviz

ROOT = Path(__file__).parents[2]
SET_UP = ROOT / ".venv-node" / "web"
RUN = Path(__file__).parent / "run.mjs"
DOCUMENT = (ROOT / "docs" / "explainer.md").read_text(encoding="utf-8")


@pytest.fixture
def explain(tmp_path):
    """A function that runs an explainer on a picture in WebAssembly: (what the code gives, the heat map)."""
    if not (SET_UP / "node").is_file():
        pytest.fail(
            "Node and onnxruntime-web are not set up: run `python3 tools/node.py` and see what it says "
            "(tools/test.py does that first)",
            pytrace=False,
        )
    (tmp_path / "node_modules").symlink_to(SET_UP / "node_modules")
    code = tmp_path / "explain.mjs"
    first = re.findall(r"```js\n(.*?)```", DOCUMENT, flags=re.S)[0]
    code.write_text(first + "\nexport { ort };\n")

    def run(model, picture: np.ndarray, threads: int = 1):
        (tmp_path / "explainer.onnx").write_bytes(model.SerializeToString())
        opaque = np.full((*picture.shape[:2], 1), 255, np.uint8)
        (tmp_path / "pixels").write_bytes(np.concatenate([picture, opaque], axis=2).tobytes())
        node = (SET_UP / "node").read_text()
        files = (code, tmp_path / "explainer.onnx", tmp_path / "pixels")
        command = [node, RUN, *files, picture.shape[1], threads, tmp_path / "heat"]
        done = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        told = json.loads(done.stdout.splitlines()[-1])
        heat = np.fromfile(tmp_path / "heat", np.float32).reshape(told["rows"], told["columns"])
        return told, heat

    return run


def natively(model, picture: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": picture[None]}), strict=True))


# Between them: both kinds of Resize, whole backward passes, a heat map over the picture, powers of a Gram matrix.
@pytest.mark.parametrize(
    ("technique", "over", "threads"),
    [("saliency", "input", 1), ("guided-grad-cam", "picture", 2), ("eigencam", "input", 1)],
)
def test_webassembly_gives_what_native_onnx_runtime_gives(net, cat, explain, technique, over, threads):
    model = onnxviz.explainer_model(net, technique, over=over)
    told, heat = explain(model, cat, threads)
    here = natively(model, cat)
    assert told["index"] == here["class"][0] == 285
    assert told["probability"] == pytest.approx(float(here["probability"][0]), rel=1e-4)
    assert heat.shape == here["heatmap"].shape[1:]
    assert np.abs(heat - here["heatmap"][0]).max() <= 1e-4 * here["heatmap"].max()
    assert told["painted"] == 4 * heat.size
    assert told["alpha"] == 200
    assert (
        told["version"]
        == json.loads((RUN.parent / "package.json").read_text())["dependencies"]["onnxruntime-web"]
    )


def test_packages_are_pinned_by_digest_whichever_registry_has_them():
    lock = json.loads((RUN.parent / "package-lock.json").read_text())["packages"]
    packages = {name: entry for name, entry in lock.items() if name}
    assert "node_modules/onnxruntime-web" in packages
    for name, entry in packages.items():
        assert "resolved" not in entry, name
        assert entry["integrity"].startswith("sha512-"), name


def test_the_preprocessing_of_other_recipes_runs_there_too(explain, cat):
    import networks

    recipe = onnxviz.Preprocessing(
        (48, 64), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25), channels="BGR", resize="pad", interpolation="bicubic"
    )
    for changed in (
        recipe,
        recipe.override(interpolation="nearest"),
        recipe.override(resize="squash", channels="L"),
    ):
        toy = networks.tiny_cnn(size=(48, 64), channels=len(changed.mean))
        net = onnxviz.load(toy, provider="cpu", preprocess=changed)
        model = onnxviz.explainer_model(net, "gradient", over="picture")
        told, heat = explain(model, cat)
        here = natively(model, cat)
        assert told["index"] == here["class"][0]
        assert np.abs(heat - here["heatmap"][0]).max() <= 1e-4 * np.abs(here["heatmap"]).max()
