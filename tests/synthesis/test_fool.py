"""`fool`: what is saved fools, within its bounds, by steps that are known exactly on a network of two numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from networks import fp16, nhwc, qdq, static_batch, tiny_cnn
from PIL import Image

import onnxviz
from onnxviz.cli.main import run
from onnxviz.errors import ImageRejected, LimitExceeded, UnknownLabel, UsageError, WorkerCrashed
from onnxviz.progress import Interrupted
from onnxviz.synthesis.fool_result import magnified
from tests.toys import detector, photo

TOASTER = 859


@pytest.fixture(scope="module")
def two():
    """Two classes, red and green, of 12×12 pixels of 0 to 255 (`toys.detector`)."""
    return onnxviz.load(detector(), preprocess="raw", provider="cpu")


@pytest.fixture(scope="module")
def fooled(net, cat):
    return onnxviz.fool(net, cat, target="toaster", confidence=0.5)


def test_a_cat_becomes_a_toaster_invisibly(net, fooled):
    (outcome,) = fooled.outcomes
    assert outcome.fooled
    assert outcome.source == 285
    assert outcome.target == outcome.top == TOASTER
    assert outcome.target_before < 0.001
    assert outcome.target_after >= 0.5
    assert outcome.rms < 1.0
    assert outcome.linf <= 16
    assert np.abs(fooled.values[0] - fooled.originals[0]).max() == outcome.linf
    np.testing.assert_array_equal(fooled.values, np.rint(fooled.values))


def test_what_is_saved_fools(net, fooled, tmp_path):
    fooled.save(tmp_path / "cat.png")
    (best,) = net.predict(tmp_path / "cat.fooled.png", top=1)[0]
    assert best.index == TOASTER
    assert best.probability == pytest.approx(fooled.outcomes[0].target_after, abs=1e-5)
    manifest = json.loads((tmp_path / "cat.json").read_text())
    assert manifest["files"] == ["cat.fooled.png"]
    assert manifest["images"][0]["top"] == TOASTER
    assert manifest["figures"]["success_rate"] == 1.0


def test_the_target_is_the_next_class_where_none_is_named(net, cat):
    result = onnxviz.fool(net, cat)
    expected = net.predict(cat, top=2)[0][1].index
    assert result.outcomes[0].target == result.outcomes[0].top == expected


def test_walking_back_makes_the_change_smaller(net, cat, monkeypatch):
    from onnxviz.synthesis.fool_attack import Attack

    short = onnxviz.fool(net, cat, confidence=0.6).outcomes[0]
    monkeypatch.setattr(Attack, "_back", lambda self, index, there: None)
    long = onnxviz.fool(net, cat, confidence=0.6).outcomes[0]
    assert long.steps == short.steps
    assert long.fooled
    assert short.fooled
    assert short.l2 < long.l2


@pytest.mark.parametrize(
    ("norm", "bound", "measure"), [("linf", 1.0, "linf"), ("linf", 2.7, "linf"), ("l2", 300.0, "l2")]
)
def test_pgd_stays_within_its_bound(net, cat, norm, bound, measure):
    result = onnxviz.fool(net, cat, method="pgd", norm=norm, bound=bound, steps=8, seed=1)
    (outcome,) = result.outcomes
    assert outcome.fooled
    assert 0.5 * bound < getattr(outcome, measure) <= bound
    other = onnxviz.fool(net, cat, method="pgd", norm=norm, bound=bound, steps=8, seed=2)
    assert not np.array_equal(other.values, result.values)


def test_fgsm_is_one_step_of_the_bound(two):
    """By hand: the score reads red and green of 16 pixels, so only those move, each by the bound."""
    image = photo()
    result = onnxviz.fool(two, image, target=1, method="fgsm", bound=9)
    change = result.values[0] - image
    expected = np.zeros((12, 12, 3))
    expected[4:8, 6:10, 0], expected[4:8, 6:10, 1] = -9, 9
    np.testing.assert_array_equal(change, np.clip(image + expected, 0, 255) - image)
    assert result.outcomes[0].steps == 1
    assert result.outcomes[0].target_after > result.outcomes[0].target_before


def test_gradient_steps_find_the_smallest_change_of_a_linear_network(two):
    """Red − green of 16 pixels has to fall by their gap; the shortest way spreads it over all 32 values evenly."""
    image = photo(3)
    place = image[4:8, 6:10].astype(np.float64)
    gap = float((place[..., 0] - place[..., 1]).sum())
    outcome = onnxviz.fool(two, image, target=1).outcomes[0]
    assert outcome.fooled
    least = gap / np.sqrt(32)
    assert least <= outcome.l2 < 1.15 * least + 4  # rounding to whole levels costs less than 4


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_gradient_walk_keeps_a_bound_too(two, norm):
    outcome = onnxviz.fool(two, photo(3), target=1, norm=norm, bound=5, steps=300).outcomes[0]
    assert not outcome.fooled
    assert 0 < getattr(outcome, norm) <= 5


def test_a_folder(net, photo_files, tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in (photo_files[0], photo_files[1]):
        Image.open(path).save(folder / path.name)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    arguments = ["fool", "efficientnet-lite0", str(folder), "-t", "espresso", "-o", str(tmp_path / "all.png")]
    assert run([*arguments, "--provider", "cpu"]) == 0
    said = capsys.readouterr()
    assert "1 of 1 images fooled" in said.out
    assert "broken.png" in said.err
    manifest = json.loads((tmp_path / "all.json").read_text())
    figures = manifest["figures"]
    assert (figures["images"], figures["already"], figures["fooled"], figures["skipped"]) == (2, 1, 1, 1)
    assert figures["success_rate"] == 1.0
    assert [one["already"] for one in manifest["images"]] == [False, True]
    for name, index in zip(manifest["files"], (967, 967), strict=True):
        assert net.predict(tmp_path / name, top=1)[0][0].index == index
    assert np.load(tmp_path / "all.npy").shape == (2, 224, 224, 3)


def test_each_image_may_have_a_target_of_its_own(two, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    photos = [photo(0), tmp_path / "broken.png", photo(1), photo(2)]
    own = [two.predict(one)[0][0].index for one in (photos[0], *photos[2:])]
    targets = [1 - own[0], 0, None, own[2]]
    found = onnxviz.fool(two, photos, target=targets)
    assert [one.target for one in found.outcomes] == [1 - own[0], 1 - own[1], own[2]]
    assert [one.already for one in found.outcomes] == [False, False, True]
    assert found.manifest["parameters"]["target"] == [1 - own[0], None, own[2]]
    with pytest.raises(UsageError, match="2 targets were given for 4"):
        onnxviz.fool(two, photos, target=[0, 1])


def test_progress_ends_at_the_last_step(two):
    seen = []
    onnxviz.fool(two, photo(3), target=1, bound=5, steps=7, progress=lambda *told: seen.append(told))
    assert [told for told in seen if told[2] == "steps"] == [(n, 7, "steps") for n in range(1, 8)]


def test_ctrl_c_keeps_what_was_done(net, cat):
    def stop(done: int, total: int | None, what: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as caught:
        onnxviz.fool(net, cat, target="toaster", confidence=0.99, progress=stop)
    partial = caught.value.partial
    assert partial.manifest["incomplete"] is True
    assert not partial.outcomes[0].fooled
    assert partial.picture().size[0] > 900


def limited(monkeypatch, allowed: int) -> None:
    """So many gradients are computed, and the next takes too long."""
    from onnxviz.gradients import Gradients

    runs, run = [], Gradients.__call__

    def counted(self, *given, **named):
        runs.append(1)
        if len(runs) > allowed:
            raise LimitExceeded("one run took too long")
        return run(self, *given, **named)

    monkeypatch.setattr(Gradients, "__call__", counted)


def test_a_limit_hit_in_the_middle_keeps_the_images_so_far(two, monkeypatch):
    monkeypatch.setattr(type(two), "batch_size", lambda self, batch=None: 1)
    pictures = [photo(seed) for seed in range(3)]
    whole = onnxviz.fool(two, pictures, method="pgd", bound=9, steps=5)
    limited(monkeypatch, 5 + 2)
    with pytest.raises(LimitExceeded, match="one run took too long") as caught:
        onnxviz.fool(two, pictures, method="pgd", bound=9, steps=5)
    partial = caught.value.partial
    assert partial.manifest["incomplete"] is True
    assert len(partial.outcomes) == len(partial.images) == partial.manifest["figures"]["images"] == 2
    assert partial.outcomes[0].to_dict() == whole.outcomes[0].to_dict()  # the second was on its way


@pytest.mark.parametrize("ends", [1, 2])
def test_what_cannot_be_measured_any_more_is_left_out(two, monkeypatch, ends):
    from onnxviz.synthesis.fool import _Batch

    monkeypatch.setattr(type(two), "batch_size", lambda self, batch=None: 1)
    calls, finish = [], _Batch.finish

    def finished(self):
        calls.append(1)
        if len(calls) >= ends:
            raise WorkerCrashed("gone")
        return finish(self)

    monkeypatch.setattr(_Batch, "finish", finished)
    with pytest.raises(WorkerCrashed, match="gone") as caught:
        onnxviz.fool(two, [photo(0), photo(1)], method="fgsm")
    partial = caught.value.partial
    assert (len(partial.outcomes) if partial is not None else 0) == ends - 1


def test_the_command_saves_what_there_was_at_a_limit(tmp_path, monkeypatch, capsys):
    for seed, name in enumerate("ab"):
        Image.fromarray(photo(seed)).save(tmp_path / f"{name}.png")
    (tmp_path / "two.onnx").write_bytes(detector())
    monkeypatch.setattr("onnxviz.network.Network.batch_size", lambda self, batch=None: 1)
    limited(monkeypatch, 1)
    line = ["fool", *(str(tmp_path / name) for name in ("two.onnx", "a.png", "b.png"))]
    assert run([*line, "--preprocess", "raw", "--method", "fgsm", "-o", str(tmp_path / "out.png")]) == 4
    assert "one run took too long" in capsys.readouterr().err
    manifest = json.loads((tmp_path / "out.json").read_text())
    assert manifest["incomplete"] is True
    assert manifest["figures"]["images"] >= 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "fgms"}, UsageError, "did you mean 'fgsm'"),
        ({"norm": "l1"}, UsageError, "l2 or linf"),
        ({"bound": 0.5}, UsageError, "no 8-bit pixel"),
        ({"method": "pgd", "bound": float("nan")}, UsageError, "no 8-bit pixel"),
        ({"method": "fgsm", "steps": 3}, UsageError, "one step"),
        ({"confidence": 1.5}, UsageError, "0 to 1"),
        ({"steps": 0}, UsageError, "at least 1"),
        ({"target": 285}, UsageError, "Egyptian cat' as it is"),
        ({"target": "toastr"}, UnknownLabel, "toaster"),
    ],
)
def test_wrong_use_is_said(net, cat, options, error, message):
    with pytest.raises(error, match=message):
        onnxviz.fool(net, cat, **options)


def test_a_broken_image_is_refused(net, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ImageRejected):
        onnxviz.fool(net, Path(tmp_path / "broken.png"))


def test_the_difference_is_magnified_by_a_round_factor():
    before = np.full((10, 10, 3), 100, np.uint8)
    after = before.copy()
    after[0] += 6
    shown, factor = magnified(before, after)
    assert factor == 20
    assert (shown[0] == 248).all()
    assert (shown[1:] == 128).all()


# --- fool forms --------------------------------------------------------------------------


FORMS = {
    "static batch": lambda: (static_batch(batch=2), {}),
    "nhwc": lambda: (nhwc(), {"preprocess": "tensorflow"}),
    "uint8": lambda: (tiny_cnn(uint8=True), {"preprocess": "uint8"}),
    "fp16": lambda: (fp16(tiny_cnn()), {}),
    "int8": lambda: (qdq(tiny_cnn()), {}),
    "grey": lambda: (tiny_cnn(channels=1), {"preprocess": "unit"}),
    "own size": lambda: (tiny_cnn(size=("H", "W")), {"preprocess": "unit"}),
    "padded": lambda: (tiny_cnn(), {"preprocess": onnxviz.Preprocessing((32, 32), resize="pad")}),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_report_is_true(form, cat, tmp_path):
    model, options = FORMS[form]()
    net = onnxviz.load(model, provider="cpu", **options)
    for method in ("gradient", "pgd"):
        result = onnxviz.fool(net, cat[:60, 40:130], method=method, steps=30 if method == "gradient" else 5)
        (outcome,) = result.outcomes
        assert outcome.l2 > 0
        assert outcome.target_after > outcome.target_before
        path = result.files(result.save(tmp_path / f"{method}.png"))[0]
        (best,) = net.predict(path, top=1)[0]
        assert best.index == outcome.top
        assert best.probability == pytest.approx(outcome.top_after, abs=1e-4)
        seen = net.pictures(path)[0]
        np.testing.assert_array_equal(seen, result.values[0])
        if form == "grey":
            assert (seen == seen[..., :1]).all()
