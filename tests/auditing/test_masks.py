"""shortcut.mask: where a network looks, against masks of what the pictures show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import onnxviz
from onnxviz.auditing.truth import find_masks, read_mask, seen_mask
from onnxviz.errors import UsageError
from onnxviz.image.preprocessing import preset
from tests.auditing.checking import SIZE, checked, ending, opened
from tests.networks import Maker


def reds():
    """A network that answers 0 for red, 1 for blue, by the mean over all places of each colour."""
    m = Maker()
    pick = np.zeros((2, 3, 1, 1), np.float32)
    pick[0, 0], pick[0, 2], pick[1, 2], pick[1, 0] = 1, -1, 1, -1
    x = m("Flatten", m("GlobalAveragePool", m("Relu", m("Conv", "image", pick))))
    return ending(m, m("Gemm", x, np.eye(2) * 20), 2)


@pytest.fixture
def photos(tmp_path):
    """Six grey pictures with a red square on the left, and masks of their left and right halves."""
    for at in range(6):
        picture = np.full((SIZE, SIZE, 3), 100, np.uint8)
        picture[4 + at : 20 + at, 2:14] = (250, 10, 10)
        for name in ("photos", "left", "right"):
            (tmp_path / name).mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "photos" / f"{at}.png")
        half = np.zeros((SIZE, SIZE), np.uint8)
        half[:, :16] = 1
        Image.fromarray(half).save(tmp_path / "left" / f"{at}.png")
        Image.fromarray((1 - half) * 255).save(tmp_path / "right" / f"{at}.bmp")
    return tmp_path


def masked(folder, masks):
    return checked(reds(), "shortcut.mask", folder / "photos", masks=folder / masks)


def test_what_lies_inside_the_masks_is_clean(photos):
    one = masked(photos, "left")
    assert one.state == "clean", one
    assert one.figures["classes"]["share outside"] == [pytest.approx(0, abs=0.02)]
    assert one.figures["classes"]["area outside"] == [0.5]


def test_a_network_that_looks_elsewhere_is_told(photos):
    one = masked(photos, "right")
    (finding,) = one.findings
    assert (finding.severity, finding.where) == ("medium", "class 0")
    assert "on 50% of the area" in finding.sentence
    assert [part.picture is not None for part in finding.evidence] == [True] * 3


def test_missing_masks_are_counted_and_few_are_not_judged(photos):
    for name in ("0.bmp", "1.bmp"):
        (photos / "right" / name).unlink()
    one = masked(photos, "right")
    assert (one.state, one.figures["without_mask"]) == ("clean", 2)
    assert one.figures["classes"]["pictures"] == [4]
    assert one.figures["classes"]["low"] == [None]


def test_an_empty_mask_is_none(photos):
    Image.new("L", (SIZE, SIZE)).save(photos / "left" / "0.png")
    assert masked(photos, "left").figures["without_mask"] == 1


def test_a_mask_of_another_size_is_refused_before_any_work(photos, monkeypatch):
    Image.new("L", (SIZE, 8), 255).save(photos / "left" / "3.png")
    monkeypatch.setattr("onnxviz.auditing.run._audit", lambda *_: pytest.fail("work"))
    with pytest.raises(UsageError, match=r"3\.png' is 32×8, its picture .* 32×32"):
        masked(photos, "left")


@pytest.mark.parametrize("what", ["gone", "empty", "broken"])
def test_folders_without_masks_are_refused(photos, what):
    if what != "gone":
        (photos / what).mkdir()
    if what == "broken":
        (photos / what / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(UsageError, match="masks"):
        masked(photos, what)


def test_masks_are_found_by_folder_and_by_a_name_that_is_there_once(tmp_path):
    for name in ("cats/1.jpg", "dogs/1.jpg", "dogs/2.jpg", "m/cats/1.png", "m/dogs/1.png", "m/2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    pictures = [tmp_path / "cats/1.jpg", tmp_path / "dogs/1.jpg", tmp_path / "dogs/2.jpg"]
    found = find_masks(tmp_path / "m", pictures, preset("unit"))
    assert [str(found[at].relative_to(tmp_path / "m")) for at in range(3)] == [
        "cats/1.png",
        "dogs/1.png",
        "2.png",
    ]
    (tmp_path / "m/cats/1.png").unlink()
    (tmp_path / "m/dogs/1.png").rename(tmp_path / "m/1.png")
    # Which of the two pictures that is a mask of, nobody knows.
    assert list(find_masks(tmp_path / "m", pictures, preset("unit"))) == [2]


def test_masks_go_the_way_of_their_pictures(tmp_path):
    """What is padding is neither inside nor outside."""
    half = np.zeros((40, 20), np.uint8)
    half[:20] = 255
    Image.fromarray(half).save(tmp_path / "half.png")
    recipe = replace(preset("unit"), size=(SIZE, SIZE), resize="pad")
    inside, outside = seen_mask(recipe, read_mask(tmp_path / "half.png"))
    assert (inside.sum(), outside.sum()) == (16 * 16, 16 * 16)
    assert not inside[16:].any()
    assert inside.any(axis=0).sum() == 16


def test_resuming_knows_a_changed_mask(photos):
    net = opened(reds())
    options = {"masks": photos / "left", "only": ["shortcut.mask"]}
    onnxviz.audit(net, photos / "photos", **options).save(photos / "out")
    onnxviz.audit(net, photos / "photos", resume=photos / "out", **options)
    Image.new("L", (SIZE, SIZE), 255).save(photos / "left" / "0.png")
    with pytest.raises(UsageError, match="the masks"):
        onnxviz.audit(net, photos / "photos", resume=photos / "out", **options)
