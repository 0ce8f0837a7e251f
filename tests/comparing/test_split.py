"""Weights, clipping or rounding: the part that was made wrong is the one that is named (on networks: test_local.py,
test_compare.py)."""

from __future__ import annotations

import pytest

from onnxviz.comparing.split import Split


def test_shares_add_up():
    found = Split(weights=0.3, activations=0.2, clipping=0.1, pictures=4)
    assert found.shares == pytest.approx(
        {"weights": 0.09 / 0.13, "clipping": 0.01 / 0.13, "rounding": 0.03 / 0.13}
    )
    assert found.cause == "weights"
    nothing = Split(0.0, 0.0, 0.0, 4)
    assert nothing.cause is None
    assert nothing.to_dict()["db"] == {"weights": None, "activations": None, "clipping": None}
