"""Threads that end soon after Ctrl-C, also where they wait for an isolated network's process."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from onnxviz import isolate

# Seconds between two looks at what threads wait for after Ctrl-C.
_LOOK: Final = 0.01


class Pool(ThreadPoolExecutor):
    """As ThreadPoolExecutor. Where the block is left early, what has not begun never does.

    Python raises KeyboardInterrupt in the main thread alone. What its threads have isolated networks do then is given a
    moment to end, and is ended with its process.
    """

    def __init__(self, workers: int, name: str) -> None:
        self._idents: list[int] = []
        super().__init__(
            workers, thread_name_prefix=name, initializer=lambda: self._idents.append(threading.get_ident())
        )

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        self.shutdown(wait=False, cancel_futures=True)
        # A generator that is closed because of Ctrl-C in its caller is told of it so.
        if isinstance(error, KeyboardInterrupt) or isinstance(error and error.__context__, KeyboardInterrupt):
            # Again and again: a thread may be about to ask for something, and none would end what it then waits for.
            while any(thread.is_alive() for thread in self._threads):
                isolate.hurry(self._idents)
                time.sleep(_LOOK)
        self.shutdown(wait=True)
