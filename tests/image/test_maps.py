"""Arrays as pictures."""

from __future__ import annotations

import numpy as np
import pytest

from onnxviz.errors import UsageError
from onnxviz.image.colour import MAPS, NOT_A_NUMBER
from onnxviz.image.maps import draw_kernels, draw_maps


def test_each_map_on_its_own_scale():
    maps = np.stack([np.linspace(0, 1, 12), np.linspace(0, 50, 12)]).reshape(2, 3, 4)
    drawn = draw_maps(maps)
    assert drawn.pictures.shape == (2, 3, 4, 3)
    assert np.array_equal(drawn.pictures[0], drawn.pictures[1])
    assert tuple(drawn.pictures[0, 0, 0]) == tuple(MAPS["viridis"][0])
    assert tuple(drawn.pictures[0, 2, 3]) == tuple(MAPS["viridis"][255])
    assert drawn.low.tolist() == [0, 0]
    assert drawn.high.tolist() == [1, 50]


def test_all_maps_on_one_scale():
    maps = np.stack([np.full((3, 3), 1.0), np.full((3, 3), 4.0), np.zeros((3, 3))])
    drawn = draw_maps(maps, common=True, name="grey")
    assert drawn.pictures[:, 0, 0, 0].tolist() == [64, 255, 0]
    assert drawn.high.tolist() == [4, 4, 4]


def test_negative_values_make_a_signed_map():
    drawn = draw_maps(np.array([[[-2.0, 0, 1]]]))
    assert np.array_equal(drawn.pictures[0, 0, 0], MAPS["diverging"][0])
    assert drawn.pictures[0, 0, 1].min() >= 240
    assert (drawn.low[0], drawn.high[0]) == (-2, 2)
    assert drawn.colours is MAPS["diverging"]
    unsigned = draw_maps(np.array([[[-2.0, 0, 1]]]), signed=False)
    assert np.array_equal(unsigned.pictures[0, 0, 0], MAPS["viridis"][0])
    assert (unsigned.low[0], unsigned.high[0]) == (-2, 1)


def test_maps_with_nothing_in_them():
    assert (draw_maps(np.full((1, 2, 2), 3.0)).pictures == MAPS["viridis"][0]).all()
    broken = draw_maps(np.array([[[np.nan, np.inf, 1.0, 2.0]]]))
    assert tuple(broken.pictures[0, 0, 0]) == NOT_A_NUMBER
    assert np.array_equal(broken.pictures[0, 0, 1], MAPS["viridis"][255])
    assert (draw_maps(np.full((1, 2, 2), np.nan)).pictures == NOT_A_NUMBER).all()


def test_kernels_on_one_scale():
    kernels = np.zeros((3, 3, 2, 2), np.float32)
    kernels[0, 0, 0, 0] = 2  # red in the first
    kernels[1, 2, 1, 1] = -1  # less blue in the second, half as strong
    drawn = draw_kernels(kernels)
    assert drawn.pictures.shape == (3, 2, 2, 3)
    assert drawn.pictures[0, 0, 0].tolist() == [255, 128, 128]
    assert drawn.pictures[1, 1, 1].tolist() == [128, 128, 64]
    assert (drawn.pictures[2] == 128).all()
    assert drawn.high.tolist() == [2, 2, 2]
    alone = draw_kernels(kernels, common=False)
    assert alone.pictures[1, 1, 1].tolist() == [128, 128, 0]
    assert alone.high.tolist() == [2, 1, 0]
    assert draw_kernels(kernels, bgr=True).pictures[0, 0, 0].tolist() == [128, 128, 255]


def test_a_broken_kernel_is_seen():
    kernels = np.ones((1, 3, 2, 2), np.float32)
    kernels[0, 1, 0, 0] = np.nan
    drawn = draw_kernels(kernels)
    assert tuple(drawn.pictures[0, 0, 0]) == NOT_A_NUMBER
    assert drawn.pictures[0, 1, 1].tolist() == [255, 255, 255]


def test_other_shapes():
    with pytest.raises(UsageError, match=r"\(N, h, w\)"):
        draw_maps(np.zeros((2, 2)))
    with pytest.raises(UsageError, match=r"\(N, 3, h, w\)"):
        draw_kernels(np.zeros((2, 4, 3, 3)))
