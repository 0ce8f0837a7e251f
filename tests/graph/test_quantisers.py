"""What is told of a tensor that is held as integers, whatever a file says of its scale."""

import numpy as np
import onnx_ir as ir
import pytest

from onnxviz.graph.quantisers import Quantiser


@pytest.mark.parametrize(("scales", "zeros"), [(0, 0), (0, 1), (3, 2), (1, 3), (3, 1), (3, 3), (1, 1)])
def test_scales_that_do_not_go_with_their_zero_points_tell_no_range(scales, zeros):
    told = Quantiser(ir.DataType.UINT8, np.full(scales, 0.5), np.ones(zeros, np.int64)).to_dict()
    sound = scales > 0 and zeros in (1, scales)
    assert (told["low"], told["high"]) == ((-0.5, 127.0) if sound else (None, None))
