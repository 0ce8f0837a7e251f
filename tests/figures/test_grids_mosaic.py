"""Pictures in cells: each in its own, whole, with its frame."""

from __future__ import annotations

import numpy as np
from PIL import Image

from onnxviz.figures.grids import framed, measured, mosaic, square

RED, BLUE = (200, 0, 0), (0, 0, 200)


def flat(colour, size=(40, 40)):
    return np.full((*size, 3), colour, np.uint8)


def test_each_picture_is_in_its_cell_and_the_others_stay_white():
    drawn = np.asarray(mosaic({0: flat(RED), 5: flat(BLUE)}, rows=2, columns=3, edge=30))
    assert drawn.shape == (60, 90, 3)
    assert drawn[15, 15].tolist() == list(RED)
    assert drawn[45, 75].tolist() == list(BLUE)
    drawn = drawn.copy()
    drawn[:30, :30] = drawn[30:, 60:] = 255
    assert (drawn == 255).all()


def test_a_frame_surrounds_its_picture_only():
    drawn = np.asarray(mosaic({0: flat(RED), 1: flat(RED)}, 1, 2, 50, {1: BLUE}))
    assert not (drawn[:, :50] == np.array(BLUE)).all(axis=2).any()
    right = (drawn[:, 50:] == np.array(BLUE)).all(axis=2)
    assert right[25].sum() >= 4  # both sides
    assert drawn[25, 75].tolist() == list(RED)


def test_a_picture_that_is_gone_is_crossed_out():
    blank = np.asarray(square(None, 40))
    assert (blank == 255).all(axis=2).any()
    assert (blank != 255).any()
    assert np.asarray(mosaic({0: None}, 1, 1, 40)).min() < 255


def test_the_middle_of_a_wide_picture_is_shown():
    wide = np.concatenate([flat(RED), flat(BLUE), flat(RED)], axis=1)
    for picture in (wide, wide.transpose(1, 0, 2)):
        assert (np.asarray(square(picture, 20)) == np.array(BLUE)).all()


def test_marks_leave_the_picture_alone():
    picture = Image.fromarray(flat(RED))
    before = picture.tobytes()
    bars = [
        (np.asarray(measured(picture, part))[-1] == np.array((0, 114, 178))).all(axis=1).sum()
        for part in (0, 0.5, 1, 7)
    ]
    assert bars == [1, 21, 40, 40]
    assert np.asarray(framed(picture))[0, 20].tolist() != list(RED)
    assert np.asarray(framed(picture))[20, 20].tolist() == list(RED)
    assert picture.tobytes() == before
