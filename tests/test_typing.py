"""A user's script is checked against the types of what `import onnxviz` gives, by `mypy --strict`."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import onnxviz

ROOT = Path(onnxviz.__file__).parents[1]

SOUND = """
import numpy as np
import onnxviz
from onnxviz import Attribution, Limits, Network, Preprocessing, errors, objectives

net: Network = onnxviz.load("a.onnx", limits=Limits(run_seconds=3), preprocess="imagenet")
photo = np.zeros((224, 224, 3), np.uint8)
one: Attribution = onnxviz.saliency(net, photo, target=285, method="gradient")
many: list[Attribution] = onnxviz.saliency(net, [photo], target=["tabby"])
values: Attribution = onnxviz.occlusion(net, "a.png", window=(32, 16), progress=lambda done, total, what: None)
shape: tuple[int, ...] = values.values.shape
objective = 2 * objectives.logit(3) - objectives.tv()
onnxviz.cam(net, photo, objective=objective, layers=["a", "b"]).save("a.png")
onnxviz.rise(net, image=photo, masks=20, progress=None)
onnxviz.segment(net, photo).save("b.png")
onnxviz.attributions(net, [photo], ["saliency", "grad-cam"], samples=3)
onnxviz.activations(net, photo, "stem").picture().show()
onnxviz.filters(net, "stem")
onnxviz.patches(net, "photos", ["a", "b"], channel=[1], top=3)
features = onnxviz.embed(net, "photos")
onnxviz.neighbours(net, features, k=3)
onnxviz.map(net, features, method="pca")
lines: list[str] = onnxviz.inspect(net).lines()
onnxviz.ascent(net, target=["a", 3], preset="lucid", seed=1, steps=3).save("c.png")
onnxviz.dream(net, photo, {"a": 1.0}, octaves=2)
onnxviz.invert(net, photo, ["a"])
onnxviz.style(net, photo, [photo], content_layers=["a"])
onnxviz.style_apply(net, photo, size=(240, 320))
onnxviz.style_train(net, photo, "photos", steps=3)
onnxviz.texture(None, photo, "quilt", size=200)
onnxviz.fool(net, photo, target="toaster")
model = onnxviz.explainer_model(net, "grad-cam")
model.SerializeToString()
onnxviz.gradient_model(model, of="a")
onnxviz.expose("a.onnx", ["a"])
onnxviz.export("timm:a", "a.onnx", size=(3, 4))
best: str = net.predict([photo], top=3)[0][0].label
try:
    onnxviz.predict(net, photo)
except errors.OnnxVizError as error:
    print(error.exit_code, onnxviz.doctor(), Preprocessing, onnxviz.__version__)
"""

# Each line by itself is wrong, in the name of an argument or in its type.
WRONG = """
onnxviz.occlusion(net, photo, windw=3)
onnxviz.occlusion(net, photo, window="3")
onnxviz.saliency(net, photo, method=3)
onnxviz.saliency(net, [photo]).save("a.png")
onnxviz.ascent(net, preset=1)
onnxviz.load("a.onnx", thread=3)
onnxviz.cam("a.onnx", photo)
objectives.logit(3) + 2
"""


def test_a_script_of_every_technique_is_strictly_typed_and_mistakes_in_it_are_caught(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SOUND + WRONG)
    line = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--no-error-summary"]
    line += ["--cache-dir", str(ROOT / ".mypy_cache" / "scripts"), str(script)]
    there = {"cwd": tmp_path, "env": {"MYPYPATH": str(ROOT)}}
    done = subprocess.run(line, capture_output=True, text=True, check=False, **there)
    first = SOUND.count("\n") + 1
    told = {int(number) for number in re.findall(r"^script\.py:(\d+): error:", done.stdout, flags=re.M)}
    assert told == set(range(first + 1, first + WRONG.count("\n"))), done.stdout + done.stderr


def test_what_a_type_checker_sees_is_what_is_loaded():
    tree = ast.parse(Path(onnxviz.__file__).read_text("utf-8"))
    seen = next(node for node in tree.body if isinstance(node, ast.If))
    names = {
        alias.asname: f"{node.module}.{alias.name}"
        for node in seen.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    table = {name: f"onnxviz.{module}.{name}" for name, module in onnxviz._PUBLIC.items()}
    assert names == table | {name: f"onnxviz.{name}" for name in onnxviz._MODULES}
