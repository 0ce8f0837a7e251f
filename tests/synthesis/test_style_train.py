"""`style-train`: the bridge's gradient is the loss's, training goes down, the file paints as torch does."""

from __future__ import annotations

import hashlib
import json
import sys

import numpy as np
import onnx
import pytest
import torch
from networks import tiny_cnn
from PIL import Image

import onnxviz
from onnxviz.cli.main import run
from onnxviz.errors import ImageRejected, MissingDependency, UsageError
from onnxviz.synthesis.style_train import PerceptualLoss
from tests.stopped import stopped

LAYERS = {"style_layers": ["relu1", "relu2"], "content_layers": ["relu2"]}
OPTIONS = {**LAYERS, "width": 4, "blocks": 1, "batch": 2, "rate": 5e-3, "seed": 1}
MEASURED = {"style_names": LAYERS["style_layers"], "content_names": LAYERS["content_layers"]}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Networks as small as these only wait for a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def small():
    """A network with layers to measure, at 32 pixels."""
    return onnxviz.load(tiny_cnn(size=("H", "W")), preprocess="imagenet", provider="cpu", threads=1, size=32)


@pytest.fixture(scope="module")
def trained(small, wood, photo_files):
    return onnxviz.style_train(small, wood, photo_files, steps=40, **OPTIONS)


@pytest.mark.parametrize("gram", [None, "centred"])
def test_the_loss_is_its_formula_and_the_gradient_its_slope(small, wood, cat, gram):
    """By default with the uncentred Gram matrices of Johnson, Alahi & Fei-Fei 2016."""
    random = np.random.default_rng(0)
    content = np.stack([cat[:32, :32], cat[100:132, 100:132]])
    painted = np.clip(content + random.normal(0, 30, content.shape), 0, 255).astype(np.float32)
    options = {**MEASURED, "style_weight": 2.0, "content_weight": 3.0} | ({"gram": gram} if gram else {})
    of = PerceptualLoss(small, wood / np.float32(255), **options)
    loss = of(content)
    values, gradient = loss(painted)

    def features(pictures):
        return small.run(small.preprocessing.normalise(pictures).astype(np.float32), ["relu1", "relu2"])

    there, style, wanted = features(painted), features(wood[None]), features(content)
    for i in range(2):
        total = 0.0
        for name in ("relu1", "relu2"):
            total += 2.0 * 0.5 * apart(there[name][i], style[name][0], gram == "centred")
        gap = there["relu2"][i].astype(np.float64) - wanted["relu2"][i]
        part = 3.0 * (gap**2).sum() / (wanted["relu2"][i].astype(np.float64) ** 2).sum()
        assert values[i] == pytest.approx(total + part, rel=1e-3)
    assert sum(of.parts) == pytest.approx(values.mean(), rel=1e-5)
    step = random.normal(0, 1, painted.shape).astype(np.float32)
    step *= 0.05 / np.abs(step).max()
    slope = (loss(painted + step)[0].astype(np.float64) - loss(painted - step)[0]) / 2
    np.testing.assert_allclose((gradient * step).sum(axis=(1, 2, 3)), slope, rtol=0.05)


def apart(found: np.ndarray, source: np.ndarray, centred: bool) -> float:
    """The relative squared distance of the Gram matrices of maps (C, ...), measured from the source's means."""
    a, b = (maps.reshape(len(maps), -1).astype(np.float64) for maps in (found, source))
    centre = b.mean(axis=1, keepdims=True) if centred else 0.0
    g, h = ((x - centre) @ (x - centre).T / x.size for x in (a, b))
    return ((g - h) ** 2).sum() / (h**2).sum()


def test_the_colours_count_by_their_covariance(small, wood, cat):
    painted, style = cat[None, 100:132, 100:132].astype(np.float32), wood / np.float32(255)
    losses = [PerceptualLoss(small, style, colour_weight=weight, **MEASURED) for weight in (0.0, 2.0)]
    plain, coloured = (loss(painted)(painted)[0][0] for loss in losses)
    x, y = (small.preprocessing.normalise(p)[0] for p in (painted, wood[None]))
    assert coloured - plain == pytest.approx(2.0 * apart(x, y, centred=True), rel=1e-3)


def test_torch_differentiates_through_the_bridge():
    from onnxviz.synthesis.style_network import perceptual

    weights = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 4, 5, 3) / 100

    def loss(pictures):
        return (weights * pictures**2).sum(axis=(1, 2, 3)), 2 * weights * pictures

    x = torch.rand(2, 3, 4, 5, requires_grad=True)
    (3 * perceptual(x, loss)).backward()
    slope = torch.from_numpy(weights.transpose(0, 3, 1, 2).copy()) * 2 * x.detach()
    torch.testing.assert_close(x.grad, 3 * slope / 2)  # the batch's mean


def test_training_goes_down(trained):
    figures = trained.manifest["figures"]
    assert trained.values.shape == (40, 3)
    assert figures["steps_done"] == 40
    assert figures["loss_end"] < 0.6 * figures["loss_start"]
    assert figures["style_loss_end"] < 0.5 * figures["style_loss_start"]
    assert figures["onnx_difference"] < 0.01


def test_the_file_paints_pictures_of_any_size(trained, cat, tmp_path):
    path = trained.save(tmp_path / "painter.onnx")
    written = {f"painter.{end}" for end in ("onnx", "png", "npy", "json")}
    assert {p.name for p in tmp_path.iterdir()} == written
    onnx.checker.check_model(str(path), full_check=True)
    net = onnxviz.load(path, provider="cpu")
    assert not net.warnings
    made = onnxviz.style_apply(net, cat)
    assert made.values.shape == (*cat.shape[:2], 3)
    assert made.manifest["parameters"]["output_range"] == "0..255"
    assert made.manifest["preprocessing"]["name"] == "raw"
    batch = np.stack([cat[:40, :48], cat[50:90, 50:98]]).transpose(0, 3, 1, 2).astype(np.float32)
    both = net.run(batch, ["styled"])["styled"]
    alone = [net.run(batch[i : i + 1], ["styled"])["styled"][0] for i in range(2)]
    np.testing.assert_allclose(both, alone, atol=0.05)
    with Image.open(tmp_path / "painter.png") as sheet:
        assert sheet.size[0] > 700


def test_the_same_seed_gives_the_same_network(small, wood, photo_files):
    def made(seed, steps=3):
        result = onnxviz.style_train(small, wood, photo_files, steps=steps, **{**OPTIONS, "seed": seed})
        return result.model.SerializeToString(), result.manifest

    first = made(1)
    assert made(1) == first
    assert made(2)[0] != first[0]
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    made(1, steps=1)
    assert torch.rand(1) == expected  # the caller's random state is left alone


def test_the_manifest_has_the_digest_of_what_was_learned_on(trained, photo_files, wood):
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in photo_files]
    whole = hashlib.sha256("".join(f"{one}\n" for one in digests).encode()).hexdigest()
    assert trained.manifest["picture_sets"] == [{"count": 4, "sha256": whole}]
    (style,) = trained.manifest["pictures"]
    assert style["sha256"] == hashlib.sha256(wood.tobytes()).hexdigest()


def test_ctrl_c_keeps_what_was_learned(small, wood, photo_files):
    given, options = (small, wood, photo_files), {"steps": 50, **OPTIONS}
    partial = stopped(onnxviz.style_train, *given, **options, when=lambda done, *_: done == 3)
    assert partial.values.shape == (3, 3)
    onnx.checker.check_model(partial.model)


def test_the_command(photo_files, wood, tmp_path, capsys):
    loss, style, folder, out, painted = (
        tmp_path / name for name in ("loss.onnx", "wood.png", "photos", "out.onnx", "painted.png")
    )
    onnx.save(tiny_cnn(), loss)
    Image.fromarray(wood).save(style)
    folder.mkdir()
    (folder / "cat.png").write_bytes(photo_files[0].read_bytes())
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    line = "--size 32 --steps 4 --width 4 --blocks 0 --batch 2 --preprocess imagenet --threads 1"
    line += " --style-layer relu1 --content-layer relu2 -o"
    arguments = ["style-train", *map(str, (loss, style, folder)), *line.split()]
    assert run([*arguments, str(tmp_path / "out.png")]) == 2
    assert run([*arguments, str(out)]) == 0
    said = capsys.readouterr()
    assert "in 4 steps" in said.out
    assert "broken.png" in said.err
    manifest = json.loads(out.with_suffix(".json").read_text())
    assert manifest["figures"]["skipped"] == 1
    assert manifest["parameters"]["size"] == [32, 32]
    assert run(["style-apply", str(out), str(photo_files[0]), "--size", "64", "-o", str(painted)]) == 0


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"steps": 0}, UsageError, "steps must be at least 1"),
        ({"rate": 0.0}, UsageError, "learning rate is over 0"),
        ({"style": np.zeros((64, 64, 3), np.uint8)}, ImageRejected, "one colour"),
        ({"images": "broken.png"}, ImageRejected, "none of the 1 images"),
        ({"torch": None}, MissingDependency, r"onnxviz\[torch\]"),
    ],
)
def test_wrong_use_is_said(small, wood, photo_files, tmp_path, monkeypatch, options, error, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    monkeypatch.setitem(sys.modules, "torch", options.pop("torch", torch))
    given = {"style": wood, "images": photo_files, "steps": 1, **OPTIONS, **options}
    with pytest.raises(error, match=words):
        onnxviz.style_train(small, **given)
