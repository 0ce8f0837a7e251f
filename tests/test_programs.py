from types import SimpleNamespace

import pytest

from onnxviz import programs


@pytest.mark.parametrize(
    ("free", "elements", "expected"),
    [(1 << 40, 10, 32), (4 << 20, 1 << 18, 1), (4 << 20, 1 << 16, 4), (0, 1, 1), (7 << 20, 1 << 16, 4)],
)
def test_batch_size_is_a_power_of_two_that_fits_a_quarter_of_the_memory(
    monkeypatch, free, elements, expected
):
    monkeypatch.setattr(programs.psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
    assert programs.batch_size(elements, 32) == expected


def test_dynamic_sizes_count_once():
    assert programs.elements([("N", 3, 4), (2, 2)]) == 16
