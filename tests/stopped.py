"""Ctrl-C at a step of a technique."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from onnxviz.progress import Interrupted


def stopped(
    technique: Callable[..., Any], *given: Any, when: Callable[[int, int, str], bool], **options: Any
):
    """What is left where Ctrl-C comes at the first progress, (done, total, what), of which `when` is true."""

    def progress(*step: Any) -> None:
        if when(*step):
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as caught:
        technique(*given, **options, progress=progress)
    partial = caught.value.partial
    assert partial.manifest["incomplete"] is True
    return partial
