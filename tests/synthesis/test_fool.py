"""`fool`: what is saved fools, within its bounds, by steps that are known exactly on a network of two numbers."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from networks import fp16, nhwc, qdq, static_batch, tiny_cnn
from PIL import Image

import onnxviz
from onnxviz.cli.main import run
from onnxviz.errors import ImageRejected, LimitExceeded, UnknownLabel, UsageError, WorkerCrashed
from onnxviz.gradients import Gradients
from onnxviz.synthesis.fool_result import magnified
from tests.stopped import stopped
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
    assert (outcome.source, outcome.target, outcome.top) == (285, TOASTER, TOASTER)
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


def test_walking_back_makes_the_change_smaller(net, cat, monkeypatch):
    """The target is the next class where none is named."""
    from onnxviz.synthesis.fool_attack import Attack

    short = onnxviz.fool(net, cat, confidence=0.6).outcomes[0]
    assert short.target == short.top == net.predict(cat, top=2)[0][1].index
    monkeypatch.setattr(Attack, "_back", lambda self, index, there: None)
    long = onnxviz.fool(net, cat, confidence=0.6).outcomes[0]
    assert (long.fooled, long.steps) == (short.fooled, short.steps) == (True, short.steps)
    assert short.l2 < long.l2


@pytest.mark.parametrize(("norm", "bound"), [("linf", 1.0), ("linf", 2.7), ("l2", 300.0)])
def test_pgd_stays_within_its_bound(net, cat, norm, bound):
    options = {"method": "pgd", "norm": norm, "bound": bound, "steps": 8}
    result = onnxviz.fool(net, cat, **options, seed=1)
    assert result.outcomes[0].fooled
    assert 0.5 * bound < getattr(result.outcomes[0], norm) <= bound


def test_fgsm_is_one_step_of_the_bound(two):
    """By hand: the score reads red and green of 16 pixels, so only those move, each by the bound."""
    image = photo()
    result = onnxviz.fool(two, image, target=1, method="fgsm", bound=9)
    expected = image.astype(int)
    expected[4:8, 6:10, :2] += [-9, 9]
    np.testing.assert_array_equal(result.values[0], np.clip(expected, 0, 255))
    assert result.outcomes[0].steps == 1
    assert result.outcomes[0].target_after > result.outcomes[0].target_before


def test_gradient_steps_find_the_smallest_change_of_a_linear_network(two):
    """Red − green of 16 pixels has to fall by their gap; the shortest way spreads it over all 32 values evenly."""
    place = photo(3)[4:8, 6:10].astype(np.float64)
    least = float((place[..., 0] - place[..., 1]).sum()) / np.sqrt(32)
    outcome = onnxviz.fool(two, photo(3), target=1).outcomes[0]
    assert outcome.fooled
    assert least <= outcome.l2 < 1.15 * least + 4  # rounding to whole levels costs less than 4


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_gradient_walk_keeps_a_bound_too(two, norm):
    seen = []
    more = {"steps": 300, "progress": lambda *told: seen.append(told)}
    outcome = onnxviz.fool(two, photo(3), target=1, norm=norm, bound=5, **more).outcomes[0]
    assert not outcome.fooled
    assert 0 < getattr(outcome, norm) <= 5
    assert [told for told in seen if told[2] == "steps"] == [(n, 300, "steps") for n in range(1, 301)]


def test_a_folder(net, photo_files, tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in photo_files[:2]:
        shutil.copy(path, folder)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    arguments = ["fool", "efficientnet-lite0", str(folder), "-t", "espresso", "-o", str(tmp_path / "all.png")]
    assert run([*arguments, "--provider", "cpu"]) == 0
    said = capsys.readouterr()
    assert "1 of 1 images fooled" in said.out
    assert "broken.png" in said.err
    manifest = json.loads((tmp_path / "all.json").read_text())
    wanted = {"images": 2, "already": 1, "fooled": 1, "skipped": 1, "success_rate": 1.0}
    assert wanted.items() <= manifest["figures"].items()
    assert [one["already"] for one in manifest["images"]] == [False, True]
    assert [net.predict(tmp_path / name, top=1)[0][0].index for name in manifest["files"]] == [967, 967]
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


def test_ctrl_c_keeps_what_was_done(two):
    options = {"target": 1, "confidence": 0.99}
    partial = stopped(onnxviz.fool, two, photo(3), **options, when=lambda done, *_: done == 3)
    assert not partial.outcomes[0].fooled
    assert partial.picture().size[0] > 900


@pytest.fixture
def limited(monkeypatch):
    """Images go one by one; so many gradients are computed, and the next takes too long."""
    runs, run = [], Gradients.__call__
    monkeypatch.setattr("onnxviz.network.Network.batch_size", lambda self, batch=None: 1)

    def start(allowed: int) -> None:
        def counted(self, *given, **named):
            runs.append(1)
            if len(runs) > allowed:
                raise LimitExceeded("one run took too long")
            return run(self, *given, **named)

        monkeypatch.setattr(Gradients, "__call__", counted)

    return start


def test_a_limit_hit_in_the_middle_keeps_the_images_so_far(two, limited):
    pictures, options = [photo(seed) for seed in range(3)], {"method": "pgd", "bound": 9, "steps": 5}
    whole = onnxviz.fool(two, pictures, **options)
    limited(5 + 2)
    with pytest.raises(LimitExceeded, match="one run took too long") as caught:
        onnxviz.fool(two, pictures, **options)
    partial = caught.value.partial
    assert partial.manifest["incomplete"] is True
    assert len(partial.outcomes) == len(partial.images) == partial.manifest["figures"]["images"] == 2
    assert partial.outcomes[0].to_dict() == whole.outcomes[0].to_dict()  # the second was on its way


@pytest.mark.parametrize("ends", [1, 2])
def test_what_cannot_be_measured_any_more_is_left_out(two, limited, monkeypatch, ends):
    from onnxviz.synthesis.fool import _Batch

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


def test_the_command_saves_what_there_was_at_a_limit(tmp_path, limited, capsys):
    for seed, name in enumerate("ab"):
        Image.fromarray(photo(seed)).save(tmp_path / f"{name}.png")
    (tmp_path / "two.onnx").write_bytes(detector())
    limited(1)
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


def test_a_broken_image_is_refused(two, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ImageRejected):
        onnxviz.fool(two, tmp_path / "broken.png")


def test_the_difference_is_magnified_by_a_round_factor():
    before = np.full((10, 10, 3), 100, np.uint8)
    after = before.copy()
    after[0] += 6
    shown, factor = magnified(before, after)
    assert (factor, set(shown[0].flat), set(shown[1:].flat)) == (20, {248}, {128})


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
    for method, steps in (("gradient", 30), ("pgd", 5)):
        result = onnxviz.fool(net, cat[:60, 40:130], method=method, steps=steps)
        (outcome,) = result.outcomes
        assert outcome.l2 > 0
        assert outcome.target_after > outcome.target_before
        path = result.files(result.save(tmp_path / f"{method}.png"))[0]
        (best,) = net.predict(path, top=1)[0]
        assert (best.index, best.probability) == (outcome.top, pytest.approx(outcome.top_after, abs=1e-4))
        seen = net.pictures(path)[0]
        np.testing.assert_array_equal(seen, result.values[0])
        assert form != "grey" or (seen == seen[..., :1]).all()
