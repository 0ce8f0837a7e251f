"""The toy network of `tests.toys`, opened once."""

from __future__ import annotations

import pytest

from tests import toys


@pytest.fixture(scope="session")
def toy():
    return toys.load()
