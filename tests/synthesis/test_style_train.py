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
from onnxviz.progress import Interrupted

OPTIONS = {"width": 4, "blocks": 1, "batch": 2, "rate": 5e-3, "seed": 1}


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
def layers():
    return {"style_layers": ["relu1", "relu2"], "content_layers": ["relu2"]}


@pytest.fixture(scope="module")
def wood():
    from skimage import data

    return np.ascontiguousarray(data.coffee()[300:364, 20:84])


@pytest.fixture(scope="module")
def trained(small, layers, wood, photo_files):
    return onnxviz.style_train(small, wood, photo_files, steps=40, **layers, **OPTIONS)


@pytest.mark.parametrize("gram", [None, "centred"])
def test_the_loss_is_its_formula_and_the_gradient_its_slope(small, layers, wood, cat, gram):
    """By default with the uncentred Gram matrices of Johnson, Alahi & Fei-Fei 2016."""
    from onnxviz.synthesis.style_train import PerceptualLoss

    random = np.random.default_rng(0)
    content = np.stack([cat[:32, :32], cat[100:132, 100:132]])
    painted = np.clip(content + random.normal(0, 30, content.shape), 0, 255).astype(np.float32)
    of = PerceptualLoss(
        small,
        wood / np.float32(255),
        style_names=layers["style_layers"],
        content_names=layers["content_layers"],
        style_weight=2.0,
        content_weight=3.0,
        **({} if gram is None else {"gram": gram}),
    )
    loss = of(content)
    values, gradient = loss(painted)

    def features(pictures):
        return small.run(small.preprocessing.normalise(pictures).astype(np.float32), ["relu1", "relu2"])

    there, style, wanted = features(painted), features(wood[None]), features(content)
    for i in range(2):
        total = 0.0
        for name in ("relu1", "relu2"):
            a, b = (x.reshape(x.shape[0], -1).astype(np.float64) for x in (there[name][i], style[name][0]))
            centre = b.mean(axis=1, keepdims=True) if gram == "centred" else 0.0
            g, h = ((x - centre) @ (x - centre).T / x.size for x in (a, b))
            total += 2.0 * 0.5 * ((g - h) ** 2).sum() / (h**2).sum()
        gap = there["relu2"][i].astype(np.float64) - wanted["relu2"][i]
        part = 3.0 * (gap**2).sum() / (wanted["relu2"][i].astype(np.float64) ** 2).sum()
        assert values[i] == pytest.approx(total + part, rel=1e-3)
    assert sum(of.parts) == pytest.approx(values.mean(), rel=1e-5)
    step = random.normal(0, 1, painted.shape).astype(np.float32)
    step *= 0.05 / np.abs(step).max()
    slope = (loss(painted + step)[0].astype(np.float64) - loss(painted - step)[0]) / 2
    np.testing.assert_allclose((gradient * step).sum(axis=(1, 2, 3)), slope, rtol=0.05)


def test_the_colours_count_by_their_covariance(small, layers, wood, cat):
    from onnxviz.synthesis.style_train import PerceptualLoss

    given = {"style_names": layers["style_layers"], "content_names": layers["content_layers"]}
    painted = cat[None, 100:132, 100:132].astype(np.float32)
    style = wood / np.float32(255)
    plain, coloured = (
        PerceptualLoss(small, style, colour_weight=weight, **given)(painted)(painted)[0][0]
        for weight in (0.0, 2.0)
    )
    x, y = (
        small.preprocessing.normalise(p)[0].reshape(3, -1).astype(np.float64) for p in (painted, wood[None])
    )
    centre = y.mean(axis=1, keepdims=True)
    g, h = ((z - centre) @ (z - centre).T / z.size for z in (x, y))
    assert coloured - plain == pytest.approx(2.0 * ((g - h) ** 2).sum() / (h**2).sum(), rel=1e-3)


def test_torch_differentiates_through_the_bridge():
    from onnxviz.synthesis.style_network import perceptual

    weights = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 4, 5, 3) / 100

    def loss(pictures):
        return (weights * pictures**2).sum(axis=(1, 2, 3)), 2 * weights * pictures

    x = torch.rand(2, 3, 4, 5, requires_grad=True)
    (3 * perceptual(x, loss)).backward()
    expected = (
        3 * torch.from_numpy(weights.transpose(0, 3, 1, 2).copy()) * 2 * x.detach() / 2
    )  # the batch's mean
    torch.testing.assert_close(x.grad, expected)


def test_training_goes_down(trained):
    figures = trained.manifest["figures"]
    assert trained.values.shape == (40, 3)
    assert figures["steps_done"] == 40
    assert figures["loss_end"] < 0.6 * figures["loss_start"]
    assert figures["style_loss_end"] < 0.5 * figures["style_loss_start"]
    assert figures["onnx_difference"] < 0.01


def test_the_file_paints_pictures_of_any_size(trained, cat, tmp_path):
    path = trained.save(tmp_path / "painter.onnx")
    assert {p.name for p in tmp_path.iterdir()} == {
        f"painter.{end}" for end in ("onnx", "png", "npy", "json")
    }
    onnx.checker.check_model(str(path), full_check=True)
    net = onnxviz.load(path, provider="cpu")
    assert not net.warnings
    made = onnxviz.style_apply(net, cat)
    assert made.values.shape == (*cat.shape[:2], 3)
    assert made.manifest["parameters"]["output_range"] == "0..255"
    assert made.manifest["preprocessing"]["name"] == "raw"
    batch = np.stack([cat[:40, :48], cat[50:90, 50:98]]).transpose(0, 3, 1, 2).astype(np.float32)
    both = net.run(batch, ["styled"])["styled"]
    for i in range(2):
        np.testing.assert_allclose(both[i], net.run(batch[i : i + 1], ["styled"])["styled"][0], atol=0.05)
    with Image.open(tmp_path / "painter.png") as sheet:
        assert sheet.size[0] > 700


def test_the_same_seed_gives_the_same_network(small, layers, wood, photo_files):
    first, again, other = (
        onnxviz.style_train(small, wood, photo_files, steps=3, **layers, **{**OPTIONS, "seed": seed})
        for seed in (1, 1, 2)
    )
    assert first.model.SerializeToString() == again.model.SerializeToString()
    assert first.manifest == again.manifest
    assert first.model.SerializeToString() != other.model.SerializeToString()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    onnxviz.style_train(small, wood, photo_files, steps=1, **layers, **OPTIONS)
    assert torch.rand(1) == expected  # the caller's random state is left alone


def test_the_manifest_has_the_digest_of_what_was_learned_on(trained, photo_files, wood):
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in photo_files]
    whole = hashlib.sha256("".join(f"{one}\n" for one in digests).encode()).hexdigest()
    assert trained.manifest["picture_sets"] == [{"count": 4, "sha256": whole}]
    (style,) = trained.manifest["pictures"]
    assert style["sha256"] == hashlib.sha256(wood.tobytes()).hexdigest()


def test_ctrl_c_keeps_what_was_learned(small, layers, wood, photo_files):
    def stop(done: int, total: int | None, what: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as caught:
        onnxviz.style_train(small, wood, photo_files, steps=50, progress=stop, **layers, **OPTIONS)
    partial = caught.value.partial
    assert partial.manifest["incomplete"] is True
    assert partial.values.shape == (3, 3)
    onnx.checker.check_model(partial.model)


def test_the_command(photo_files, wood, tmp_path, capsys):
    onnx.save(tiny_cnn(), tmp_path / "loss.onnx")
    Image.fromarray(wood).save(tmp_path / "wood.png")
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "cat.png").write_bytes(photo_files[0].read_bytes())
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    arguments = ["style-train", str(tmp_path / "loss.onnx"), str(tmp_path / "wood.png"), str(folder)]
    small = ["--size", "32", "--steps", "4", "--width", "4", "--blocks", "0", "--batch", "2"]
    chosen = [
        "--style-layer",
        "relu1",
        "--content-layer",
        "relu2",
        "--preprocess",
        "imagenet",
        "--threads",
        "1",
    ]
    assert run([*arguments, *small, *chosen, "-o", str(tmp_path / "out.png")]) == 2
    assert run([*arguments, *small, *chosen, "-o", str(tmp_path / "out.onnx")]) == 0
    said = capsys.readouterr()
    assert "in 4 steps" in said.out
    assert "broken.png" in said.err
    manifest = json.loads((tmp_path / "out.json").read_text())
    assert manifest["figures"]["skipped"] == 1
    assert manifest["parameters"]["size"] == [32, 32]
    picture = [
        str(tmp_path / "out.onnx"),
        str(photo_files[0]),
        "--size",
        "64",
        "-o",
        str(tmp_path / "painted.png"),
    ]
    assert run(["style-apply", *picture]) == 0


def test_wrong_use_is_said(small, layers, wood, photo_files, tmp_path, monkeypatch):
    def train(**options):
        return onnxviz.style_train(small, wood, photo_files, **{**layers, "steps": 1, **OPTIONS, **options})

    with pytest.raises(UsageError, match="steps must be at least 1"):
        train(steps=0)
    with pytest.raises(UsageError, match="learning rate is over 0"):
        train(rate=0.0)
    with pytest.raises(ImageRejected, match="one colour"):
        onnxviz.style_train(small, np.zeros_like(wood), photo_files, steps=1, **layers, **OPTIONS)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ImageRejected, match="none of the 1 images"):
        onnxviz.style_train(small, wood, tmp_path / "broken.png", steps=1, **layers, **OPTIONS)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependency, match=r"onnxviz\[torch\]"):
        train()
