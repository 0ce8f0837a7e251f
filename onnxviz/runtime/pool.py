"""Threads that end soon after Ctrl-C, also where they wait for an isolated network's process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any, Final, TypeVar

from onnxviz import isolate

# Seconds between two looks at what threads wait for after Ctrl-C.
_LOOK: Final = 0.01
T = TypeVar("T")


class Pool(ThreadPoolExecutor):
    """As ThreadPoolExecutor. Where the block is left early, what has not begun never does.

    Python raises KeyboardInterrupt in the main thread alone. What its threads have isolated networks do then is given a
    moment to end, and is ended with its process.
    """

    def __init__(self, workers: int, name: str) -> None:
        # Ours, not the executor's list of threads: Ctrl-C while it starts one leaves that one running, and unlisted.
        self._at_work: set[int] = set()
        self._left = False
        super().__init__(workers, thread_name_prefix=name)

    def submit(self, work: Callable[..., T], /, *args: Any, **named: Any) -> Future[T]:
        """As ThreadPoolExecutor's."""
        return super().submit(self._do, work, *args, **named)

    def _do(self, work: Callable[..., T], /, *args: Any, **named: Any) -> T:
        thread = threading.get_ident()
        self._at_work.add(thread)
        try:
            if self._left:
                raise CancelledError
            return work(*args, **named)
        finally:
            self._at_work.discard(thread)

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        self._left = True
        self.shutdown(wait=False, cancel_futures=True)
        # A generator that is closed because of Ctrl-C in its caller is told of it so.
        if isinstance(error, KeyboardInterrupt) or isinstance(error and error.__context__, KeyboardInterrupt):
            # Again and again: a thread may be about to ask for something, and none would end what it then waits for.
            while self._at_work:
                isolate.hurry(tuple(self._at_work))
                time.sleep(_LOOK)
        self.shutdown(wait=True)
