"""Ending runs that take longer than they may."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from typing import Any


class Watchdog:
    """One thread for all runs: a timer a run would cost more than a small network's forward pass."""

    def __init__(self) -> None:
        self._runs: dict[int, tuple[float, Any]] = {}
        self._keys = itertools.count()
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def watch(self, options: Any, seconds: float) -> Iterator[None]:
        """Set `options.terminate` if the block is still running after `seconds`."""
        key = next(self._keys)
        with self._wake:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._serve, name="onnxviz-watchdog", daemon=True)
                self._thread.start()
            self._runs[key] = (time.monotonic() + seconds, options)
            if len(self._runs) == 1:
                self._wake.notify()
        try:
            yield
        finally:
            with self._wake:
                self._runs.pop(key, None)

    def _serve(self) -> None:
        while True:
            with self._wake:
                now = time.monotonic()
                for key in [key for key, (end, _) in self._runs.items() if end <= now]:
                    self._runs.pop(key)[1].terminate = True
                ends = [end for end, _ in self._runs.values()]
                # A run that comes while others are under way ends later than they do or is caught a second late.
                self._wake.wait(min(1.0, min(ends) - now) if ends else None)


WATCHDOG = Watchdog()
