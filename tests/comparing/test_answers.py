"""What both networks answer, against plain ONNX Runtime and NumPy."""

from __future__ import annotations

import gc
import hashlib
import json
import weakref
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import scipy.special
from PIL import Image

import onnxviz.comparing.answers as module
from onnxviz.comparing.answers import answers
from onnxviz.errors import ImageRejected
from onnxviz.files import json_bytes
from onnxviz.provenance import recording
from tests.comparing import small
from tests.networks import Maker

SIDE = 16


def linear(shift: float = 0.0, factor: float = 1.0, limit: float | None = None) -> onnx.ModelProto:
    """logits = factor · W·x + shift · d; NaN for pictures whose mean lies below `limit`."""
    m = Maker()
    x = m("Flatten", "image")
    weights = m.constant(m.rng.standard_normal((10, 3 * SIDE * SIDE)) * factor / 8)
    bias = m.constant(np.random.default_rng(5).standard_normal(10) * shift)
    y = m("Gemm", x, weights, bias, transB=1)
    if limit is not None:
        root = m("Sqrt", m("Sub", m("ReduceMean", "image", axes=[1, 2, 3], keepdims=0), limit))
        y = m("Add", y, m("Mul", m("Unsqueeze", root, [1]), 0.0))
    return m.model({"image": ("N", 3, SIDE, SIDE)}, {y: ("N", 10)})


def opened(model):
    return small.opened(model, preprocess="tensorflow")


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [
        np.clip(rng.normal(light, 40, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
        for light in np.linspace(60, 200, 24)
    ]


def _scores(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": x})[0].astype(np.float64)


def test_figures_are_those_by_hand(pictures):
    files = linear(), linear(shift=1.5)
    a, b = map(opened, files)
    truth: list[int | None] = [0, 1, None] * 8
    found = answers(a, b, pictures, truth=truth)
    za, zb = (_scores(model, a.prepare(pictures)) for model in files)
    pa, pb = (scipy.special.softmax(z, axis=1) for z in (za, zb))
    ca, cb = pa.argmax(1), pb.argmax(1)
    ordered = np.sort(pa, axis=1)
    margin = ordered[:, -1] - ordered[:, -2]
    assert found.pictures == 24
    for least, share in found.agreement.items():
        assert (share.count, share.of) == (
            int((ca == cb)[margin >= least].sum()),
            int((margin >= least).sum()),
        )
    assert 0 < found.agreement[0.0].count < 24
    assert found.shift == pytest.approx(float((pb.max(1) - pa.max(1)).mean()), abs=1e-5)
    centred = [z - z.mean(1, keepdims=True) for z in (za, zb)]
    noise = np.linalg.norm(centred[0] - centred[1])
    assert found.likeness[a.head.logits].sqnr == pytest.approx(
        20 * np.log10(np.linalg.norm(centred[0]) / noise), abs=1e-3
    )
    known = [i for i, one in enumerate(truth) if one is not None]
    right = [np.array([c[i] == truth[i] for i in known]) for c in (ca, cb)]
    told = found.truth
    assert told is not None and told.pictures == 16
    assert (told.right_a.count, told.right_b.count) == (right[0].sum(), right[1].sum())
    assert (told.fixed, told.broken) == ((right[1] & ~right[0]).sum(), (right[0] & ~right[1]).sum())
    errors = [_calibration(p.max(1)[known], one) for p, one in zip((pa, pb), right, strict=True)]
    assert (told.ece_a, told.ece_b) == pytest.approx(errors, abs=1e-5)
    json.loads(json_bytes(found.to_dict()))


def _calibration(confidence: np.ndarray, right: np.ndarray) -> float:
    bins = np.minimum(14, np.maximum(0, np.ceil(confidence * 15) - 1))
    return sum(
        (bins == one).mean() * abs(right[bins == one].mean() - confidence[bins == one].mean())
        for one in set(bins)
    )


def test_every_flip_is_a_row_where_a_was_surest_first(pictures):
    files = linear(), linear(shift=1.5)
    a, b = map(opened, files)
    flips = answers(a, b, pictures).flips
    pa, pb = (scipy.special.softmax(_scores(m, a.prepare(pictures)), axis=1) for m in files)
    wanted = {f"image {i}" for i in np.flatnonzero(pa.argmax(1) != pb.argmax(1))}
    assert set(flips["picture"]) == wanted
    assert len(wanted) > 2
    assert list(flips["margin"]) == sorted(flips["margin"], reverse=True)
    for row, name in enumerate(flips["picture"]):
        i = int(name.split()[1])
        assert flips["a"][row] == pa[i].argmax()
        assert flips["b"][row] == pb[i].argmax()
        assert flips["a_probability"][row] == pytest.approx(pa[i].max(), abs=1e-5)
        assert flips["b_probability_of_a"][row] == pytest.approx(pb[i][pa[i].argmax()], abs=1e-5)


def test_the_noise_equivalent_moves_as_far(pictures):
    """Of a linear network noise moves logits in proportion, so that another seed's noise must move as far."""
    a = opened(linear())
    x = a.prepare(pictures).astype(np.float64)
    for shift in (0.05, 0.3, 1.5):
        found = answers(a, opened(linear(shift=shift)), pictures).noise
        assert found is not None
        assert not found.beyond
        rng = np.random.default_rng(99)
        noisy = np.clip(127.5 * (x + 1) + found.sd * rng.standard_normal(x.shape), 0, 255) / 127.5 - 1
        z, moved = (_scores(linear(), one.astype(np.float32)) for one in (x, noisy))
        z, moved = (one - one.mean(1, keepdims=True) for one in (z, moved))
        reached = (np.linalg.norm(moved - z, axis=1) / np.linalg.norm(z, axis=1)).mean()
        assert reached == pytest.approx(found.moved, rel=0.2)


def test_the_same_file_twice_is_nil(pictures):
    found = answers(opened(linear()), opened(linear()), pictures)
    assert found.agreement[0.0].count == 24
    assert found.shift == 0 and found.flips["picture"] == []
    assert found.noise is not None and found.noise.sd == found.noise.moved == 0


def test_more_than_noise_can_do_is_said(pictures):
    found = answers(opened(linear()), opened(linear(factor=-100.0)), pictures)
    assert found.noise is not None and found.noise.beyond and found.noise.sd == 64
    assert "more than" in " ".join(found.sentences())


def test_pictures_that_give_nan_are_left_out_and_counted(pictures):
    found = answers(opened(linear()), opened(linear(limit=-0.2)), pictures)
    assert 0 < len(found.not_finite) < 24
    assert found.pictures == 24 - len(found.not_finite)
    assert found.not_finite[0] == "image 0"
    other = answers(opened(linear(limit=-0.2)), opened(linear()), pictures)
    assert other.not_finite == found.not_finite


def test_bad_files_are_skipped_and_listed(pictures, tmp_path):
    for number, picture in enumerate(pictures[:4]):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    (tmp_path / "2.png").write_bytes(b"no picture")
    found = answers(opened(linear()), opened(linear(shift=1.5)), tmp_path)
    assert found.pictures == 3
    assert [one.path.name for one in found.skipped] == ["2.png"]
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "a.png").write_bytes(b"no picture")
    with pytest.raises(ImageRejected, match="none of the 1 images"):
        answers(opened(linear()), opened(linear()), tmp_path / "only")


def test_a_set_is_on_record_once_and_flips_have_their_digest(pictures, tmp_path):
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{number:02d}.png")
    with recording() as record:
        found = answers(opened(linear()), opened(linear(shift=1.5)), tmp_path)
    assert record.to_dict()["picture_sets"][0]["count"] == 24
    assert len(record.sets) == 1
    for path, digest in zip(found.flips["picture"], found.flips["sha256"], strict=True):
        assert hashlib.sha256(Path(path).read_bytes()).hexdigest() == digest


def test_without_classes_outputs_are_compared(files):
    from onnxruntime.quantization.qdq_loss_debug import compute_signal_to_quantization_noice_ratio as sqnr

    paths = files.small("detector"), files.small("detector", "QDQ")
    a, b = map(opened, paths)
    pictures = list(np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8))
    found = answers(a, b, pictures)
    assert found.reason and not found.agreement
    assert found.noise is not None and found.noise.moved > 0
    assert found.pictures == 3
    rows = [[], []]
    for path, held in zip(paths, rows, strict=True):
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        held += [session.run(None, {"image": x[None]})[0] for x in a.prepare(pictures)]
    (name,) = found.likeness
    assert found.likeness[name].sqnr == pytest.approx(sqnr(*rows), abs=0.01)
    assert "detections" in found.sentences()[0]


def test_memory_holds_no_scores_of_all_pictures(pictures, monkeypatch):
    """What is kept of a picture is a few numbers: the rows of scores are gone when the next come."""
    alive: list[weakref.ref] = []
    most = 0
    paired = module._paired

    def watched(first, second):
        nonlocal most
        for index, digest, one, other in paired(first, second):
            alive.extend(weakref.ref(array) for array in one.values())
            gc.collect(0)
            most = max(most, sum(ref() is not None for ref in alive))
            yield index, digest, one, other

    monkeypatch.setattr(module, "_paired", watched)
    answers(opened(linear()), opened(linear(shift=0.1)), pictures * 8)
    assert most < 40
